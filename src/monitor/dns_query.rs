//! `dns-query`: one question to a name server, over UDP or TCP.
//!
//! Any answer to that very question is up unless its code says that the server could not answer; what it has in it
//! does not matter. Anything that is no answer to it is passed over. Over UDP the question is sent a second time when
//! a third of the timeout is over.

use std::io;

use hickory_resolver::proto::op::{Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinDecoder};
use socket2::{Protocol, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout_at;

use super::connect::{connect, words};
use super::datagram::{Datagrams, Heard};
use super::outcome::{Deadline, Failure, Outcome, Passed};
use crate::check::{Check, DnsQuery, DnsTransport, DnsType};

/// More than a server may send over UDP to one who does not ask for more (RFC 1035 section 4.2.1: 512 bytes).
const LONGEST_DATAGRAM: usize = 4096;

pub(super) async fn ask(check: &Check, probe: &DnsQuery, deadline: Deadline) -> Outcome {
    let question = Question::pick(probe)?;
    let asked = async {
        match probe.transport {
            DnsTransport::Udp => over_udp(check, &question, deadline).await,
            DnsTransport::Tcp => over_tcp(check, &question, deadline).await,
        }
    };
    let code = timeout_at(deadline.at, asked)
        .await
        .map_err(|_| Failure::NoAnswer(deadline.after))??;
    let is_good =
        code == ResponseCode::NoError || code == ResponseCode::NXDomain && !probe.fail_on_nxdomain;
    if is_good {
        return Ok(Passed::default());
    }
    Err(Failure::Server(format!(
        "{} for {}",
        in_words(code),
        question.what
    )))
}

/// What was asked, and under which number.
struct Question {
    id: u16,
    query: Query,
    message: Vec<u8>,
    /// In words.
    what: String,
}

impl Question {
    /// One of the names and one of the types.
    fn pick(probe: &DnsQuery) -> Result<Question, Failure> {
        let (name, kind) = fastrand::choice(&probe.hostnames)
            .zip(fastrand::choice(&probe.types))
            .ok_or_else(|| Failure::Unable("no name to ask for".into()))?;
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::Unable(format!("cannot ask for {name}: {error}"))
        };
        let mut absolute = Name::from_ascii(name).map_err(|error| cannot(&error))?;
        absolute.set_fqdn(true);
        let kind = match kind {
            DnsType::A => RecordType::A,
            DnsType::Aaaa => RecordType::AAAA,
        };
        let query = Query::query(absolute, kind);
        let id = fastrand::u16(..);
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(query.clone());
        let message = message.to_vec().map_err(|error| cannot(&error))?;
        Ok(Question {
            id,
            query,
            message,
            what: format!("{kind} of {name}"),
        })
    }

    /// The code of an answer; `None`: it is no answer to this question. `whole`: nothing has been cut off.
    fn answered_by(&self, bytes: &[u8], whole: bool) -> Option<Result<ResponseCode, Failure>> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).ok()?;
        let questions = usize::from(header.counts.queries);
        let queries = Message::read_queries(&mut decoder, questions.min(2)).ok()?;
        let head = header.metadata;
        let code = head.response_code;
        // A server that could not read the question may leave it out.
        let repeated = queries == [self.query.clone()] || queries.is_empty() && is_failure(code);
        let is_ours = head.id == self.id
            && head.message_type == MessageType::Response
            && head.op_code == OpCode::Query;
        if !is_ours || !repeated {
            return None;
        }
        // The rest of a truncated one may be anything.
        if whole && !head.truncation && Message::from_vec(bytes).is_err() {
            return Some(Err(Failure::server("malformed answer")));
        }
        Some(Ok(code))
    }
}

async fn over_udp(
    check: &Check,
    question: &Question,
    deadline: Deadline,
) -> Result<ResponseCode, Failure> {
    let socket = Datagrams::open(check.target, Type::DGRAM, Protocol::UDP)?;
    socket.send(&question.message)?;
    let mut again = Some(deadline.third(1));
    let mut answer = vec![0; LONGEST_DATAGRAM];
    loop {
        let heard = match again {
            Some(at) => timeout_at(at, socket.hear(&mut answer)).await,
            None => Ok(socket.hear(&mut answer).await),
        };
        match heard {
            Err(_) => {
                again = None;
                socket.send(&question.message)?;
            }
            Ok(heard) => match heard? {
                Heard::Unreachable(why) => return Err(Failure::Server(why)),
                Heard::Datagram(length) => {
                    let whole = length < LONGEST_DATAGRAM;
                    if let Some(code) = question.answered_by(&answer[..length], whole) {
                        return code;
                    }
                }
            },
        }
    }
}

async fn over_tcp(
    check: &Check,
    question: &Question,
    deadline: Deadline,
) -> Result<ResponseCode, Failure> {
    let mut stream = connect(check.target, deadline, |socket| socket.set_nodelay(true)).await?;
    let failed = |error: io::Error| Failure::Server(words(&error));
    // RFC 1035 section 4.2.2: two bytes of length first. In one segment, as some servers want it.
    let length = u16::try_from(question.message.len()).map_err(Failure::server)?;
    let message = [&length.to_be_bytes(), &question.message[..]].concat();
    stream.write_all(&message).await.map_err(failed)?;
    loop {
        let length = stream.read_u16().await.map_err(failed)?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.map_err(failed)?;
        if let Some(code) = question.answered_by(&answer, true) {
            return code;
        }
    }
}

fn is_failure(code: ResponseCode) -> bool {
    !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// IANA's names, "DNS RCODEs".
fn in_words(code: ResponseCode) -> String {
    match u16::from(code) {
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        3 => "NXDOMAIN".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        9 => "NOTAUTH".into(),
        number => format!("RCODE {number}"),
    }
}
