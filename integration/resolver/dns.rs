//! A DNS server that answers as it is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::edge::PATIENCE;
use super::ips;

#[derive(Clone)]
pub(crate) enum Reply {
    /// Records of the type that was asked for, with this TTL.
    Addresses(Vec<IpAddr>, u32),
    Alias(&'static str, u32),
    Code(ResponseCode),
    Silence,
}

#[derive(Default)]
pub(crate) struct Zone {
    pub(crate) replies: BTreeMap<String, Reply>,
    /// How often each name was asked for.
    pub(crate) asked: BTreeMap<String, usize>,
    pub(crate) delay: Duration,
    open: usize,
    pub(crate) most_open: usize,
}

/// Answers until dropped. A name it doesn't know is NXDOMAIN.
pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    pub(crate) zone: Arc<Mutex<Zone>>,
    _tasks: JoinSet<()>,
}

impl Dns {
    pub(crate) async fn start(at: &str) -> Dns {
        let socket = Arc::new(UdpSocket::bind(at).await.unwrap());
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone::default()));
        let mut tasks = JoinSet::new();
        let shared = zone.clone();
        tasks.spawn(async move {
            let mut buffer = [0; 1500];
            let mut answers = JoinSet::new();
            loop {
                let (size, client) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..size]).unwrap();
                let (socket, zone) = (socket.clone(), shared.clone());
                answers.spawn(async move {
                    let delay = {
                        let mut zone = zone.lock().unwrap();
                        zone.open += 1;
                        zone.most_open = zone.most_open.max(zone.open);
                        zone.delay
                    };
                    sleep(delay).await;
                    let answer = answer(&mut zone.lock().unwrap(), &question);
                    if let Some(answer) = answer {
                        socket
                            .send_to(&answer.to_vec().unwrap(), client)
                            .await
                            .unwrap();
                    }
                });
                while answers.try_join_next().is_some() {}
            }
        });
        Dns {
            address,
            zone,
            _tasks: tasks,
        }
    }

    pub(crate) fn set(&self, name: &str, reply: Reply) {
        self.zone.lock().unwrap().replies.insert(name.into(), reply);
    }

    pub(crate) fn set_addresses(&self, name: &str, addresses: &[&str], ttl: u32) {
        self.set(name, Reply::Addresses(ips(addresses), ttl));
    }

    pub(crate) fn asked(&self, name: &str) -> usize {
        self.zone
            .lock()
            .unwrap()
            .asked
            .get(name)
            .copied()
            .unwrap_or(0)
    }

    pub(crate) async fn until_asked(&self, name: &str, times: usize) {
        let enough = async {
            while self.asked(name) < times {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, enough).await.expect("questions in time");
    }
}

pub(crate) fn answer(zone: &mut Zone, question: &Message) -> Option<Message> {
    zone.open -= 1;
    let query = &question.queries[0];
    let name = query.name().to_lowercase().to_string();
    *zone.asked.entry(name.clone()).or_default() += 1;
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.add_query(query.clone());
    match zone
        .replies
        .get(&name)
        .cloned()
        .unwrap_or(Reply::Code(ResponseCode::NXDomain))
    {
        Reply::Silence => return None,
        Reply::Code(code) => answer.metadata.response_code = code,
        Reply::Alias(target, ttl) => {
            let target = Name::from_ascii(target).unwrap();
            answer.add_answer(Record::from_rdata(
                query.name().clone(),
                ttl,
                RData::CNAME(CNAME(target)),
            ));
        }
        Reply::Addresses(addresses, ttl) => {
            for data in addresses.into_iter().map(RData::from) {
                if data.record_type() == query.query_type() {
                    answer.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
                }
            }
        }
    }
    Some(answer)
}
