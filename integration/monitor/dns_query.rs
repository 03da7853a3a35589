//! `dns-query` against NSD, and against servers that answer in every wrong way.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use plimsoll::check::{DnsQuery, DnsTransport, DnsType, Monitor, Probe};
use plimsoll::event::Verdict;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::edge::PATIENCE;
use super::netns::{Process, until};
use super::server::Server;
use super::{BOTH, down, once, verdict, watch};

const TRANSPORTS: [DnsTransport; 2] = [DnsTransport::Udp, DnsTransport::Tcp];

fn query(name: &str, kind: DnsType, transport: DnsTransport) -> Monitor {
    let probe = DnsQuery {
        hostnames: vec![name.into()],
        types: vec![kind],
        transport,
        fail_on_nxdomain: false,
    };
    let interval = Duration::from_millis(100);
    Monitor::new(Probe::DnsQuery(probe), interval, PATIENCE)
}

fn strict(mut monitor: Monitor) -> Monitor {
    if let Probe::DnsQuery(probe) = &mut monitor.probe {
        probe.fail_on_nxdomain = true;
    }
    monitor
}

async fn told(server: SocketAddr, monitor: Monitor) -> Verdict {
    verdict(&mut watch(server, monitor)).await
}

/// NSD with a zone, on both families.
struct Nsd {
    _process: Process,
    _directory: TempDir,
    port: u16,
}

impl Nsd {
    fn start() -> Nsd {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let port = UdpSocket::bind("[::1]:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let file = format!(
            "server:\n  ip-address: 127.0.0.1\n  ip-address: ::1\n  port: {port}\n  username: \"\"\n  zonesdir: {at}\n  pidfile: {at}/pid\n  database: \"\"\n  logfile: {at}/log\n  xfrdfile: {at}/xfrd\n  zonelistfile: {at}/zones\n  server-count: 1\nremote-control:\n  control-enable: no\nzone:\n  name: example.org\n  zonefile: zone\n"
        );
        let many = (0..200).map(|n| format!("many A 192.0.2.{n}\n"));
        let zone = format!(
            "$ORIGIN example.org.\n$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 192.0.2.53\nwww A 192.0.2.80\nwww AAAA 2001:db8::80\n{}",
            many.collect::<String>()
        );
        let conf = directory.path().join("conf");
        fs::write(&conf, file).unwrap();
        fs::write(directory.path().join("zone"), zone).unwrap();
        let process = Process::start(Command::new("/usr/sbin/nsd").arg("-d").arg("-c").arg(&conf));
        let ready = || std::net::TcpStream::connect(("::1", port)).ok();
        until(PATIENCE, "NSD listens", ready);
        Nsd {
            _process: process,
            _directory: directory,
            port,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_name_server() {
    let nsd = Nsd::start();
    for address in ["127.0.0.1", "::1"] {
        let server = SocketAddr::new(address.parse().unwrap(), nsd.port);
        for transport in TRANSPORTS {
            let ask = |name, kind| told(server, query(name, kind, transport));
            for kind in [DnsType::A, DnsType::Aaaa] {
                assert_eq!(ask("www.example.org", kind).await, Verdict::Up);
            }
            // Nothing of that type; too much for a datagram; no such name; none of its zones.
            assert_eq!(ask("ns.example.org", DnsType::Aaaa).await, Verdict::Up);
            assert_eq!(ask("many.example.org", DnsType::A).await, Verdict::Up);
            assert_eq!(ask("no.example.org", DnsType::A).await, Verdict::Up);
            let nobody = strict(query("no.example.org", DnsType::A, transport));
            let expected = down("NXDOMAIN for A of no.example.org");
            assert_eq!(told(server, nobody).await, expected);
            let expected = down("REFUSED for AAAA of www.example.com");
            assert_eq!(ask("www.example.com", DnsType::Aaaa).await, expected);
        }
    }
    // Gone: at once, not at the timeout.
    let port = nsd.port;
    for (transport, reason) in [
        (DnsTransport::Udp, "port unreachable"),
        (DnsTransport::Tcp, "connection refused"),
    ] {
        let server = SocketAddr::new([127, 0, 0, 2].into(), port);
        let ask = query("www.example.org", DnsType::A, transport);
        assert_eq!(told(server, ask).await, down(reason));
    }
}

/// An answer's flags: it is one, recursion is there.
const ANSWER: u16 = 0x8180;

/// An answer with these flags, this count of records, and what comes after the question.
fn answer(question: &[u8], flags: u16, records: u16, rest: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2..4].copy_from_slice(&flags.to_be_bytes());
    answer[6..8].copy_from_slice(&records.to_be_bytes());
    answer.extend(rest);
    answer
}

/// What comes before the question.
const HEAD: usize = 12;

/// What a server makes of a question, message by message.
type Answers = fn(&[u8]) -> Vec<Vec<u8>>;

const CASES: &[(&str, Answers, Option<&str>)] = &[
    ("empty", |q| vec![answer(q, ANSWER, 0, &[])], None),
    ("NXDOMAIN", |q| vec![answer(q, ANSWER | 3, 0, &[])], None),
    (
        "one record",
        |q| {
            vec![answer(
                q,
                ANSWER,
                1,
                b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01",
            )]
        },
        None,
    ),
    (
        "in capitals",
        |q| {
            vec![answer(&q.to_ascii_uppercase(), ANSWER, 0, &[])]
                .into_iter()
                .map(|mut a| {
                    a[..2].copy_from_slice(&q[..2]);
                    a
                })
                .collect()
        },
        None,
    ),
    (
        "truncated",
        |q| vec![answer(q, ANSWER | 0x200, 9, b"\xc0\x0c\0")],
        None,
    ),
    (
        "after others",
        |q| {
            vec![
                vec![],
                vec![1],
                vec![0xff; 300],
                answer(&other_id(q), ANSWER | 2, 0, &[]),
                answer(q, ANSWER, 0, &[]),
            ]
        },
        None,
    ),
    (
        "FORMERR, without the question",
        |q| vec![without_question(q, ANSWER | 1)],
        Some("FORMERR for A of www.example.org"),
    ),
    (
        "SERVFAIL",
        |q| vec![answer(q, ANSWER | 2, 0, &[])],
        Some("SERVFAIL for A of www.example.org"),
    ),
    (
        "NOTIMP",
        |q| vec![answer(q, ANSWER | 4, 0, &[])],
        Some("NOTIMP for A of www.example.org"),
    ),
    (
        "REFUSED",
        |q| vec![answer(q, ANSWER | 5, 0, &[])],
        Some("REFUSED for A of www.example.org"),
    ),
    (
        "RCODE 15",
        |q| vec![answer(q, ANSWER | 15, 0, &[])],
        Some("RCODE 15 for A of www.example.org"),
    ),
    (
        "a record that is none",
        |q| vec![answer(q, ANSWER, 1, &[0xff; 40])],
        Some("malformed answer"),
    ),
    (
        "records that are not there",
        |q| vec![answer(q, ANSWER, 0xffff, &[])],
        Some("malformed answer"),
    ),
    (
        "a name that points at itself",
        |q| {
            vec![answer(
                q,
                ANSWER,
                1,
                &[&[0xc0, q.len() as u8][..], &[0; 10]].concat(),
            )]
        },
        Some("malformed answer"),
    ),
    (
        "names that point at each other",
        |q| {
            let at = q.len() as u8;
            vec![answer(
                q,
                ANSWER,
                1,
                &[&[0xc0, at + 2, 0xc0, at][..], &[0; 10]].concat(),
            )]
        },
        Some("malformed answer"),
    ),
    ("silent", |_| vec![], Some("no answer in 500ms")),
    (
        "another id",
        |q| vec![answer(&other_id(q), ANSWER, 0, &[])],
        Some("no answer in 500ms"),
    ),
    (
        "another name",
        |q| vec![other_at(&answer(q, ANSWER, 0, &[]), HEAD + 1)],
        Some("no answer in 500ms"),
    ),
    (
        "another type",
        |q| vec![other_at(&answer(q, ANSWER, 0, &[]), q.len() - 3)],
        Some("no answer in 500ms"),
    ),
    (
        "good, without the question",
        |q| vec![without_question(q, ANSWER)],
        Some("no answer in 500ms"),
    ),
    (
        "the question, twice",
        |q| vec![twice(q)],
        Some("no answer in 500ms"),
    ),
    (
        "the question itself",
        |q| vec![q.to_vec()],
        Some("no answer in 500ms"),
    ),
    (
        "another operation",
        |q| vec![answer(q, ANSWER | 0x2000, 0, &[])],
        Some("no answer in 500ms"),
    ),
    (
        "a question that points at itself",
        |q| {
            let mut a = answer(&q[..HEAD], ANSWER, 0, &[]);
            a.extend([0xc0, 12, 0, 1, 0, 1]);
            vec![a]
        },
        Some("no answer in 500ms"),
    ),
    (
        "half a head",
        |q| vec![q[..7].to_vec()],
        Some("no answer in 500ms"),
    ),
    ("nothing", |_| vec![vec![]], Some("no answer in 500ms")),
    (
        "garbage",
        |_| {
            (0..200)
                .map(|n| (0..n).map(|_| fastrand::u8(..)).collect())
                .collect()
        },
        Some("no answer in 500ms"),
    ),
];

fn other_id(question: &[u8]) -> Vec<u8> {
    other_at(question, 0)
}

fn other_at(message: &[u8], at: usize) -> Vec<u8> {
    let mut other = message.to_vec();
    other[at] ^= 3;
    other
}

fn without_question(question: &[u8], flags: u16) -> Vec<u8> {
    let mut answer = answer(&question[..HEAD], flags, 0, &[]);
    answer[4..6].copy_from_slice(&[0, 0]);
    answer
}

fn twice(question: &[u8]) -> Vec<u8> {
    let mut answer = answer(question, ANSWER, 0, &question[HEAD..]);
    answer[4..6].copy_from_slice(&[0, 2]);
    answer
}

/// Answers over UDP until dropped; counts the questions.
struct Datagrams {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Datagrams {
    async fn start(
        at: &str,
        answers: impl Fn(&[u8], usize) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Datagrams {
        let socket = tokio::net::UdpSocket::bind(at).await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut question = [0; 512];
            loop {
                // What has gone by then: ICMP about answers that nobody waits for any more.
                let Ok((length, from)) = socket.recv_from(&mut question).await else {
                    continue;
                };
                let before = count.fetch_add(1, SeqCst);
                for answer in answers(&question[..length], before) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Datagrams {
            address,
            asked,
            _task: task,
        }
    }
}

async fn over_tcp(at: &str, answers: Answers) -> Server {
    Server::start(at, move |mut stream| async move {
        let length = stream.read_u16().await?;
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await?;
        for answer in answers(&question) {
            stream.write_u16(answer.len().try_into().unwrap()).await?;
            stream.write_all(&answer).await?;
        }
        // Until the other end closes.
        stream.read_u8().await.map(drop)
    })
    .await
}

fn ask_of_www(transport: DnsTransport) -> Monitor {
    query("www.example.org", DnsType::A, transport)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_answer_wrong() {
    for (n, (name, answers, reason)) in CASES.iter().enumerate() {
        let expected = reason.map_or(Verdict::Up, down);
        let at = BOTH[n % 2];
        let server = Datagrams::start(at, move |question, _| answers(question)).await;
        let found = told(server.address, once(ask_of_www(DnsTransport::Udp))).await;
        assert_eq!(found, expected, "UDP: {name}");
        let server = over_tcp(at, *answers).await;
        let found = told(server.address, once(ask_of_www(DnsTransport::Tcp))).await;
        assert_eq!(found, expected, "TCP: {name}");
    }
}

#[tokio::test]
async fn a_datagram_that_is_lost_is_sent_again() {
    let server = Datagrams::start("127.0.0.1:0", |question, before| match before {
        0 => vec![],
        _ => vec![answer(question, ANSWER, 0, &[])],
    })
    .await;
    let ask = once(ask_of_www(DnsTransport::Udp));
    assert_eq!(told(server.address, ask).await, Verdict::Up);
    assert_eq!(server.asked.load(SeqCst), 2);
}

#[tokio::test]
async fn an_answer_from_elsewhere_is_none() {
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = socket.local_addr().unwrap();
    let serve = tokio::task::spawn_blocking(move || {
        for _ in 0..2 {
            let mut question = [0; 512];
            let (length, from) = socket.recv_from(&mut question).unwrap();
            let answer = answer(&question[..length], ANSWER, 0, &[]);
            elsewhere.send_to(&answer, from).unwrap();
        }
        socket
    });
    let ask = once(ask_of_www(DnsTransport::Udp));
    assert_eq!(told(server, ask).await, down("no answer in 500ms"));
    serve.await.unwrap();
}

#[tokio::test]
async fn what_is_huge() {
    // One datagram of 60,000 bytes, of which we read the beginning.
    let zeros = || vec![0; 60_000];
    let server =
        Datagrams::start("[::1]:0", move |q, _| vec![answer(q, ANSWER, 9, &zeros())]).await;
    let ask = once(ask_of_www(DnsTransport::Udp));
    assert_eq!(told(server.address, ask).await, Verdict::Up);
    // 4,000 records in 64,000 bytes.
    let server = over_tcp("[::1]:0", |q| {
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
        vec![answer(q, ANSWER, 4000, &record.repeat(4000))]
    })
    .await;
    let ask = query("www.example.org", DnsType::A, DnsTransport::Tcp);
    assert_eq!(told(server.address, ask).await, Verdict::Up);
}

#[tokio::test]
async fn connections_that_end() {
    let cases: [(&[u8], bool, &str); 4] = [
        (b"", true, "closed by server"),
        (b"\x01", true, "closed by server"),
        (b"\x01\0abc", true, "closed by server"),
        (b"\x01\0abc", false, "no answer in 500ms"),
    ];
    for (bytes, closes, reason) in cases {
        let server = Server::start("127.0.0.1:0", move |mut stream| async move {
            // The whole question, so that closing is no reset.
            let length = stream.read_u16().await?;
            stream.read_exact(&mut vec![0; length.into()]).await?;
            stream.write_all(bytes).await?;
            if closes {
                return Ok(());
            }
            stream.read_u8().await.map(drop)
        })
        .await;
        let ask = once(ask_of_www(DnsTransport::Tcp));
        assert_eq!(told(server.address, ask).await, down(reason), "{bytes:?}");
    }
}
