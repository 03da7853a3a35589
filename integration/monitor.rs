//! Checks against real servers on the loopback, some of them hostile byte by byte.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "monitor/authority.rs"]
mod authority;
#[path = "monitor/damping.rs"]
mod damping;
#[path = "monitor/dns_query.rs"]
mod dns_query;
mod edge;
#[path = "monitor/grpc.rs"]
mod grpc;
#[path = "monitor/http.rs"]
mod http;
#[path = "monitor/idle_connection.rs"]
mod idle_connection;
#[path = "monitor/lab.rs"]
mod lab;
#[path = "monitor/load.rs"]
mod load;
#[path = "monitor/misbehaving.rs"]
mod misbehaving;
#[path = "netns.rs"]
#[expect(dead_code, reason = "the tests of BGP use the rest of it")]
#[expect(clippy::disallowed_methods, reason = "the tests live in real time")]
mod netns;
#[path = "monitor/ping.rs"]
mod ping;
#[path = "monitor/proxy_fetch.rs"]
mod proxy_fetch;
#[path = "monitor/run_command.rs"]
mod run_command;
#[path = "monitor/server.rs"]
mod server;
#[path = "monitor/shared.rs"]
mod shared;
#[path = "monitor/tcp.rs"]
mod tcp;
#[path = "monitor/tls.rs"]
mod tls;
#[path = "monitor/udp.rs"]
mod udp;
#[path = "monitor/vip.rs"]
mod vip;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll::check::{Check, IdleConnection, Keepalive, Monitor, Probe, ProxyFetch};
use plimsoll::event::{CheckId, Event, Verdict};
use plimsoll::monitor;
use plimsoll::service::{Protocol, VirtualService};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use edge::{Edge, PATIENCE, service};
use server::{OK, Server, head, keep_open};

const YOUNG: Duration = Duration::from_millis(300);

/// Where servers listen: everything is tried with both families.
const BOTH: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

fn idle() -> Monitor {
    let probe = IdleConnection {
        timeout_clean_reconnect: YOUNG,
        max_delay: Duration::from_millis(400),
        keepalive: Some(Keepalive {
            idle: Duration::from_secs(10),
            interval: Duration::from_secs(30),
            retries: 3,
        }),
    };
    Monitor::new(
        Probe::IdleConnection(probe),
        Duration::from_secs(1),
        PATIENCE,
    )
}

fn fetch(url: &str) -> Monitor {
    fetch_of(url, &[200])
}

/// With these statuses as good ones.
fn fetch_of(url: &str, status: &[u16]) -> Monitor {
    let probe = ProxyFetch {
        url: url.split(' ').map(|url| url.parse().unwrap()).collect(),
        status: status.into(),
        check_all: None,
        verify_certificate: false,
    };
    Monitor::new(
        Probe::ProxyFetch(probe),
        Duration::from_millis(100),
        PATIENCE,
    )
}

/// A check that may take half a second, and comes but once in a test.
fn impatient(url: &str) -> Monitor {
    once(fetch(url))
}

fn once(monitor: Monitor) -> Monitor {
    Monitor {
        interval: Duration::from_secs(3600),
        timeout: Duration::from_millis(500),
        ..monitor
    }
}

/// Asked once, with time for a busy machine.
fn asked(probe: Probe) -> Monitor {
    Monitor::new(probe, Duration::from_secs(3600), PATIENCE)
}

/// What one check says.
async fn said(target: SocketAddr, monitor: Monitor) -> Verdict {
    verdict(&mut watch(target, monitor)).await
}

fn check(target: SocketAddr, monitor: Monitor) -> Arc<Check> {
    Arc::new(Check {
        service: "web".parse().unwrap(),
        key: VirtualService::Address {
            protocol: Protocol::Tcp,
            address: "192.0.2.1".parse().unwrap(),
            port: 80,
        },
        vip: "192.0.2.1".parse().unwrap(),
        host: "a".parse().unwrap(),
        target,
        monitor: Arc::new(monitor),
        figures: Arc::default(),
    })
}

/// The same of a server of another name, which is another's check.
fn other(check: &Check, id: u64) -> (u64, Arc<Check>) {
    let check = Check {
        host: format!("server-{id}").parse().unwrap(),
        figures: Arc::default(),
        ..check.clone()
    };
    (id, Arc::new(check))
}

/// In the test's own runtime, whose clock it can stop.
fn start() -> Edge {
    Edge::start(|snapshots, events| monitor::run(vec![Handle::current()], snapshots, events))
}

/// One check, running.
fn watch(target: SocketAddr, monitor: Monitor) -> Edge {
    let edge = start();
    list(&edge, [(1, check(target, monitor))]);
    edge
}

fn list(edge: &Edge, checks: impl IntoIterator<Item = (u64, Arc<Check>)>) {
    let checks: BTreeMap<_, _> = checks
        .into_iter()
        .map(|(id, check)| (CheckId(id), check))
        .collect();
    edge.set(
        "web",
        Some(service("web", "192.0.2.1", checks, Default::default())),
    );
}

async fn verdict(edge: &mut Edge) -> Verdict {
    let (id, verdict) = checked(edge).await;
    assert_eq!(id, 1);
    verdict
}

async fn checked(edge: &mut Edge) -> (u64, Verdict) {
    let event = edge.event().await;
    let Event::Checked { check, verdict, .. } = event else {
        panic!("{event:?}");
    };
    (check.0, verdict)
}

/// The check could not be made. As nothing was known of the server, it is down; and there is trouble.
async fn unable(edge: &mut Edge, check: u64, reason: &str) {
    let (mut verdicts, mut faults) = (Vec::new(), Vec::new());
    while verdicts.len() + faults.len() < 2 {
        let event = edge.event().await;
        if let Event::Checked { check, verdict, .. } = event {
            verdicts.push((check.0, verdict));
        } else if let Event::Trouble { fault, .. } = event {
            faults.push(fault);
        }
    }
    assert_eq!(verdicts, [(check, down(reason))]);
    assert_eq!(faults, [Some(reason.to_owned())]);
}

fn down(reason: &str) -> Verdict {
    Verdict::Down(reason.into())
}

#[tokio::test]
async fn a_check_never_overlaps_itself() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let figures = (open.clone(), most.clone());
    let server = Server::start("127.0.0.1:0", move |mut stream| {
        let (open, most) = figures.clone();
        async move {
            most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            head(&mut stream).await?;
            sleep(Duration::from_millis(60)).await;
            open.fetch_sub(1, SeqCst);
            stream.write_all(OK.as_bytes()).await
        }
    })
    .await;
    let options = Monitor {
        interval: Duration::from_millis(10),
        ..fetch("http://www.example.org/")
    };
    let _edge = watch(server.address, options);
    server.until_accepted(10).await;
    assert_eq!(most.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_checks_start_one_after_another() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let note = starts.clone();
    let server = Server::start("127.0.0.1:0", move |stream| {
        note.lock().unwrap().push(Instant::now());
        keep_open(stream)
    })
    .await;
    let mut edge = start();
    let idle = check(server.address, idle());
    list(&edge, (0..1000).map(|id| other(&idle, id)));
    for _ in 0..1000 {
        assert!(matches!(
            edge.event().await,
            Event::Checked {
                verdict: Verdict::Up,
                ..
            }
        ));
    }
    server.until_accepted(1000).await;
    let starts = starts.lock().unwrap();
    let took = starts[999] - starts[0];
    println!("1,000 checks started within {took:?}");
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took <= PATIENCE);
}

#[tokio::test]
async fn checks_come_and_go_by_their_ids_alone() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let server = Server::start("127.0.0.1:0", move |mut stream| {
        let count = count.clone();
        async move {
            let _ = stream.read_u8().await;
            count.fetch_add(1, SeqCst);
            Ok(())
        }
    })
    .await;
    let mut edge = start();
    let up = async |edge: &mut Edge| {
        let (id, verdict) = checked(edge).await;
        assert_eq!(verdict, Verdict::Up);
        id
    };
    let idle = check(server.address, idle());
    let others = |ids: &[u64]| ids.iter().map(|id| other(&idle, *id)).collect::<Vec<_>>();
    list(&edge, others(&[1, 2]));
    assert_eq!((up(&mut edge).await, up(&mut edge).await), (1, 2));
    // Another map with the same ids: nothing happens. A further id: it alone starts.
    list(&edge, others(&[1, 2]));
    list(&edge, others(&[1, 2, 3]));
    assert_eq!(up(&mut edge).await, 3);
    assert_eq!((server.accepted(), closed.load(SeqCst)), (3, 0));
    // Gone: their connections are closed, the others stay.
    let until_closed = async |wanted| {
        let closed = async {
            while closed.load(SeqCst) < wanted {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, closed).await.expect("closed in time");
    };
    list(&edge, others(&[2]));
    until_closed(2).await;
    edge.set("web", None);
    until_closed(3).await;
    assert_eq!(server.accepted(), 3);
    // All end with the edge.
    list(&edge, others(&[4]));
    assert_eq!(up(&mut edge).await, 4);
    drop(edge);
    until_closed(4).await;
}

/// Where the test below, run by itself once more with few descriptors, finds the server.
const SERVER: &str = "PLIMSOLL_TEST_SERVER";

#[tokio::test]
async fn a_lack_of_descriptors_is_our_trouble_and_not_the_servers() {
    if let Ok(server) = std::env::var(SERVER) {
        return with_few_descriptors(server.parse().unwrap()).await;
    }
    let server = Server::start("127.0.0.1:0", |mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(OK.as_bytes()).await
    })
    .await;
    let child = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_lack_of_descriptors_is_our_trouble_and_not_the_servers",
        ])
        .env(SERVER, server.address.to_string())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, child).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

async fn with_few_descriptors(server: SocketAddr) {
    let options = Monitor {
        interval: Duration::from_millis(20),
        ..fetch("http://www.example.org/")
    };
    let fetch = check(server, options);
    let idle = check(server, idle());
    let mut edge = start();
    list(&edge, [(1, fetch.clone())]);
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    list(
        &edge,
        std::iter::once((1, fetch)).chain((2..102).map(|id| other(&idle, id))),
    );
    let (mut up, mut unable, mut troubles) = (0, 0, 0);
    while up + unable < 100 || troubles == 0 {
        let event = edge.event().await;
        if let Event::Trouble { part, fault } = event {
            assert_eq!(
                (part, fault.as_deref()),
                ("monitor", Some("too many open files"))
            );
            troubles += 1;
        } else if let Event::Checked { check, verdict, .. } = event {
            assert_ne!(check, CheckId(1), "{verdict:?}");
            match verdict {
                Verdict::Up => up += 1,
                Verdict::Down(reason) => {
                    assert_eq!(reason, "too many open files");
                    unable += 1;
                }
            }
        }
    }
    assert!(up > 10 && unable > 10, "{up} up, {unable} not checked");
    assert_eq!(troubles, 1);
    // The server that was up is still taken for that, though it can't be checked for a while.
    let end = Instant::now() + Duration::from_millis(500);
    while let Ok(event) = timeout_at(end, edge.event()).await {
        assert!(
            !matches!(
                event,
                Event::Checked {
                    check: CheckId(1),
                    ..
                }
            ),
            "{event:?}"
        );
    }
}
