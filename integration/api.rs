//! The status API over real sockets: its bytes, and what slow and greedy clients cost.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

#[path = "api/bgp.rs"]
mod bgp;
#[path = "api/control.rs"]
mod control;
#[path = "api/events.rs"]
mod events;
#[path = "../src/snapshot/sample.rs"]
mod sample;
#[path = "api/v1.rs"]
mod v1;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use plimsoll::api::{self, Limits};
use plimsoll::history::History;
use plimsoll::snapshot::Snapshot;
use plimsoll::snapshot::traffic::{Counts, Reading, ServerTraffic};
use plimsoll::{config, routing, service, snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(10);

struct Api {
    address: SocketAddr,
    snapshots: watch::Sender<Arc<Snapshot>>,
    _task: JoinSet<()>,
}

impl Api {
    async fn start(limits: Limits, snapshot: Snapshot) -> Api {
        let history = History::new(SystemTime::UNIX_EPOCH);
        Api::with_history(limits, snapshot, history).await
    }

    async fn with_history(limits: Limits, snapshot: Snapshot, history: History) -> Api {
        let listeners = api::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let address = listeners[0].local_addr().unwrap();
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let mut task = JoinSet::new();
        task.spawn(api::run_within(limits, listeners, history, receiver));
        Api {
            address,
            snapshots,
            _task: task,
        }
    }

    async fn pools() -> Api {
        let web = sample::service("web", 0.5, &["cp1 up pooled", "cp2 held", "cp3"]);
        let dns = sample::service("dns", 0.5, &["2001:db8::1 up pooled", "b disabled up"]);
        Api::start(Limits::default(), sample::snapshot([web, dns])).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request on a connection of its own: status, head (in lower case) and body of the answer.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String, String) {
        let mut stream = self.connect().await;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answer))
            .await
            .expect("no answer")
            .unwrap();
        split(&String::from_utf8(answer).unwrap())
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let (status, head, body) = self.ask("GET", path, "").await;
        assert!(head.contains("\r\ncontent-type: text/plain\r\n"), "{head}");
        assert!(
            head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())),
            "{head}"
        );
        (status, body)
    }

    async fn json(&self, path: &str) -> (u16, serde_json::Value) {
        let (status, head, body) = self.ask("GET", path, "Accept: application/json\r\n").await;
        assert!(
            head.contains("\r\ncontent-type: application/json\r\n"),
            "{head}"
        );
        (status, serde_json::from_str(&body).unwrap())
    }
}

fn split(answer: &str) -> (u16, String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("no head");
    let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3]
        .parse()
        .unwrap();
    (status, head.to_lowercase() + "\r\n", body.to_owned())
}

/// Reads until the server closes or resets: what came, and how long it took.
async fn until_closed(stream: &mut TcpStream) -> (String, Duration) {
    let start = Instant::now();
    let mut all = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut all))
        .await
        .expect("the server does not close");
    (String::from_utf8(all).unwrap(), start.elapsed())
}

/// 1,000 services of 20 servers: some 11 MB of metrics.
fn large() -> Snapshot {
    let hosts: Vec<String> = (0..20)
        .map(|n| format!("cp{n}.example up pooled"))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut snapshot = sample::snapshot([]);
    let names = (0..1000).map(|n| format!("service-{n}"));
    snapshot.services = names
        .map(|name| sample::service(&name, 0.5, &hosts))
        .collect();
    snapshot
}

/// With figures of each server's traffic: some 26 MB of metrics.
fn busy(snapshot: Snapshot) -> Snapshot {
    let server = |n: u8| {
        (
            SocketAddr::from(([10, 0, 0, n], 80)),
            ServerTraffic::default(),
        )
    };
    for service in snapshot.services.values() {
        let reading = Reading {
            counts: Counts::default(),
            servers: (1..=20).map(server).collect(),
        };
        service.traffic.note(sample::now(), Arc::new(reading));
    }
    snapshot
}

fn allow_many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).unwrap();
}

#[tokio::test]
async fn pybals_paths_in_text() {
    let api = Api::pools().await;
    let gone = (404, "The desired url was not found".to_owned());
    let web = "cp1:\tenabled/up/pooled\ncp2:\tenabled/down/pooled\ncp3:\tenabled/down/not pooled\n";
    for (path, expected) in [
        ("/pools", "dns\nweb\n"),
        ("/pools/", "dns\nweb\n"),
        ("/pools?x=y", "dns\nweb\n"),
        ("http://elsewhere/pools", "dns\nweb\n"),
        ("/pools/web", web),
        ("/pools/web/", web),
        ("/pools/%77eb", web),
        ("/pools/web/cp2", "enabled/down/pooled\n"),
        ("/pools/web/cp2/", "enabled/down/pooled\n"),
        ("/pools/dns/b", "disabled/up/not pooled\n"),
        ("/pools/dns/2001:db8::1", "enabled/up/pooled\n"),
        ("/pools/dns/2001%3Adb8%3a%3A1", "enabled/up/pooled\n"),
        (
            "/alerts",
            "CRITICAL - web: Servers cp2 are marked down but pooled",
        ),
        ("/healthz", "ok\n"),
    ] {
        assert_eq!(api.text(path).await, (200, expected.to_owned()), "{path}");
    }
    for path in [
        "/",
        "/pool",
        "/pools/none",
        "/pools/web/none",
        "/pools/none/cp1",
        "/x/pools",
    ] {
        assert_eq!(api.text(path).await, gone, "{path}");
    }

    // Always the newest snapshot.
    api.snapshots.send_replace(Arc::new(sample::snapshot([])));
    assert_eq!(api.text("/pools").await, (200, "\n".to_owned()));
    assert_eq!(
        api.text("/alerts").await,
        (200, "OK - All pools are healthy".to_owned())
    );
    assert_eq!(api.text("/pools/web").await, gone);
}

#[tokio::test]
async fn and_in_json() {
    let api = Api::pools().await;
    let state = |pooled, up, enabled| serde_json::json!({"pooled": pooled, "weight": 10, "up": up, "enabled": enabled});
    let dns =
        serde_json::json!({"2001:db8::1": state(true, true, true), "b": state(false, true, false)});
    let alerts = serde_json::json!({
        "status": "critical",
        "msg": "web: Servers cp2 are marked down but pooled",
    });
    assert_eq!(
        api.json("/pools").await,
        (200, serde_json::json!(["dns", "web"]))
    );
    assert_eq!(api.json("/pools/dns").await, (200, dns));
    assert_eq!(
        api.json("/pools/web/cp2").await,
        (200, state(true, false, true))
    );
    assert_eq!(api.json("/alerts").await, (200, alerts));
    assert_eq!(
        api.json("/healthz").await,
        (200, serde_json::json!({"status": "ok"}))
    );
    let gone = serde_json::json!({"error": "The desired url was not found"});
    assert_eq!(api.json("/pools/none").await, (404, gone));
    let (_, head, _) = api
        .ask("GET", "/pools", "Accept: */*, application/json;q=0.5\r\n")
        .await;
    assert!(head.contains("text/plain"), "{head}");
}

/// A service from etcd of which much is to be told, and one from disk.
fn telling() -> Snapshot {
    let servers = [
        "cp1 up pooled",
        "cp2 disabled up guarded",
        "cp3 gone up late",
    ];
    let web = sample::edit(sample::service("web", 0.5, &servers), |web| {
        web.guard = Some(snapshot::Guard { size: 4, line: 3 });
        web.revision = Some(12);
        web.applied_revision = Some(11);
        let fault = "pooled is \"maybe\"".to_owned();
        web.list_faults = Arc::new([("eqiad/text/nginx/cp4".to_owned(), fault)].into());
        let servers = Arc::make_mut(&mut web.servers);
        servers.get_mut("cp2").unwrap().note = Some(Arc::new(service::Note {
            reason: Some("disk\nT1".into()),
            until: Some("2026-01-01T00:00:00Z".into()),
            confirmed: false,
        }));
    });
    let dns = sample::edit(sample::service("dns", 0.0, &["b up pooled"]), |dns| {
        dns.source = snapshot::Source::Saved {
            age: Duration::from_secs(7200),
            read_at: sample::now(),
            fault: None,
        };
    });
    sample::snapshot([web, dns])
}

#[tokio::test]
async fn our_own_words_stand_beside_pybals() {
    let api = Api::start(Limits::default(), telling()).await;
    // PyBal's shapes know nothing of it.
    let pybals = "cp1:\tenabled/up/pooled\ncp2:\tdisabled/up/pooled\ncp3:\tdisabled/up/pooled\n";
    assert_eq!(api.text("/pools/web").await, (200, pybals.to_owned()));
    let cp2 = serde_json::json!({"pooled": true, "weight": 10, "up": true, "enabled": false});
    assert_eq!(api.json("/pools/web/cp2").await, (200, cp2));

    let (status, all) = api.text("/services").await;
    assert_eq!(status, 200);
    let (dns, web) = all.trim_end().split_once('\n').unwrap();
    assert!(
        dns.starts_with("dns:\thealthy, 1 pooled of 1, list saved 2h"),
        "{dns}"
    );
    let summary = "healthy, 3 pooled of 2, list good, revision 12, applied 11, bad entries: 1";
    assert_eq!(web, format!("web:\t{summary}"));
    let cp2 = "disabled/up/pooled, weight 10, held: depool-guard, \
               reason: disk, T1, until: 2026-01-01T00:00:00Z";
    let whole = format!(
        "{summary}\n\
         floor 0, guard 3 of 4\n\
         bad entry eqiad/text/nginx/cp4: pooled is \"maybe\"\n\
         \n\
         cp1:\tenabled/up/pooled, weight 10\n\
         cp2:\t{cp2}\n\
         cp3:\tdisabled/up/pooled, in IPVS 10, held: stale-catch-up\n"
    );
    assert_eq!(api.text("/services/web").await, (200, whole));
    assert_eq!(
        api.text("/services/web/cp2").await,
        (200, format!("{cp2}\nproxy-fetch:\tup\n"))
    );

    let (_, web) = api.json("/services/web").await;
    let list = &web["summary"]["list"];
    assert_eq!(
        (&list["revision"], &list["applied_revision"]),
        (&12.into(), &11.into())
    );
    assert_eq!(web["guard"], serde_json::json!({"size": 4, "line": 3}));
    assert_eq!(
        web["bad_entries"]["eqiad/text/nginx/cp4"],
        "pooled is \"maybe\""
    );
    let (_, cp2) = api.json("/services/web/cp2").await;
    assert_eq!(cp2, web["servers"]["cp2"]);
    assert_eq!(
        (&cp2["held"], &cp2["reason"]),
        (&"depool-guard".into(), &"disk\nT1".into())
    );
    assert_eq!(web["servers"]["cp3"]["held"], "stale-catch-up");
    let (_, all) = api.json("/services").await;
    assert_eq!(all["dns"]["list"]["state"], "saved");
    assert!(all["dns"]["list"]["age_seconds"].as_u64().unwrap() >= 7200);
    assert_eq!(all["web"], web["summary"]);

    let gone = (404, "The desired url was not found".to_owned());
    for path in ["/services/none", "/services/web/none", "/services/none/cp1"] {
        assert_eq!(api.text(path).await, gone, "{path}");
    }
}

#[tokio::test]
async fn alerts_and_metrics_of_lists() {
    let api = Api::start(Limits::default(), telling()).await;
    let (_, alerts) = api.text("/alerts").await;
    for expected in [
        "WARNING - ",
        "web: Against the server list, depool-guard keeps cp2 pooled. ",
        "web: Taken out while the source was away, but kept: cp3, \
         2 of 4 would be left and the line is 3, reverse it",
        "web: The entry eqiad/text/nginx/cp4 cannot be used: pooled is \"maybe\". ",
        "lists: Saved ones are in force for 1 services, the oldest is 2h",
    ] {
        assert!(
            alerts.contains(expected),
            "{expected} is missing in\n{alerts}"
        );
    }
    let (_, _, metrics) = api.ask("GET", "/metrics", "").await;
    for expected in [
        r#"plimsoll_service_list_revision{service="web"} 12"#,
        r#"plimsoll_service_list_applied_revision{service="web"} 11"#,
        r#"plimsoll_service_list_bad_entries{service="web"} 1"#,
        r#"plimsoll_service_list_saved_age_seconds{service="dns"} 72"#,
        r#"plimsoll_service_list_good{service="dns"} 0"#,
        r#"plimsoll_service_servers_held{service="web",reason="stale-catch-up"} 1"#,
    ] {
        let found = metrics.lines().any(|line| line.starts_with(expected));
        assert!(found, "{expected} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn methods() {
    let api = Api::pools().await;
    for (path, status) in [
        ("/pools/web", 200),
        ("/healthz", 200),
        ("/none", 404),
        ("/metrics", 200),
    ] {
        let (got, get_head, body) = api.ask("GET", path, "").await;
        let (head_got, head, nothing) = api.ask("HEAD", path, "").await;
        assert_eq!(
            (got, head_got, nothing.as_str()),
            (status, status, ""),
            "{path}"
        );
        assert!(!body.is_empty());
        let length = |head: &str| {
            head.lines()
                .find(|line| line.starts_with("content-length"))
                .map(str::to_owned)
        };
        assert_eq!(length(&head), length(&get_head), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let (status, head, body) = api.ask(method, "/pools", "").await;
        assert_eq!(
            (status, body.as_str()),
            (405, "Only GET and HEAD are allowed")
        );
        assert!(head.contains("\r\nallow: get, head\r\n"), "{head}");
    }
}

#[tokio::test]
async fn metrics_come_whole() {
    for (snapshot, family) in [
        (large(), "plimsoll_monitor_status{"),
        (busy(large()), "plimsoll_server_connections_total{"),
    ] {
        println!("{}", comes_whole(snapshot, family).await);
    }
}

/// `family`: of 20,000 samples. How long it took.
async fn comes_whole(snapshot: Snapshot, family: &str) -> String {
    let api = Api::start(Limits::default(), snapshot).await;
    let start = Instant::now();
    // The rest of the runtime (one thread, here) goes on meanwhile.
    let mut longest = Duration::ZERO;
    let scrape = api.ask("GET", "/metrics", "Accept-Encoding: gzip\r\n");
    tokio::pin!(scrape);
    let (status, head, body) = loop {
        let before = Instant::now();
        tokio::select! {
            biased;
            () = sleep(Duration::from_millis(1)) => longest = longest.max(before.elapsed()),
            answer = &mut scrape => break answer,
        }
    };
    let took = start.elapsed();
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let samples = body.lines().filter(|line| line.starts_with(family)).count();
    assert_eq!(samples, 20_000);
    assert!(longest < took / 4, "{longest:?} of {took:?}");
    let bytes = body.len();
    format!("{bytes} bytes in {took:?}, others waited {longest:?} at most")
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let api = Api::pools().await;
    let mut stream = api.connect().await;
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            let read = timeout(SOON, stream.read_buf(&mut answer))
                .await
                .unwrap()
                .unwrap();
            assert_ne!(read, 0);
        }
    }
}

#[tokio::test]
async fn slow_heads_and_idle_connections_end() {
    let limits = Limits {
        head: Duration::from_millis(500),
        ..Limits::default()
    };
    let api = Api::start(limits, sample::snapshot([])).await;

    let mut silent = api.connect().await;
    let (_, took) = until_closed(&mut silent).await;
    assert!(took > Duration::from_millis(400), "{took:?}");

    // One byte at a time is no way out.
    let (mut read, mut write) = api.connect().await.into_split();
    let start = Instant::now();
    let drip = async {
        for byte in "GET /pools HTTP/1.1\r\nX: "
            .bytes()
            .chain(std::iter::repeat(b'x'))
        {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let mut all = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = read.read_to_end(&mut all) => {}
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );

    // Kept alive, but not for ever.
    let mut idle = api.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let (answer, took) = until_closed(&mut idle).await;
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    assert!(
        took > Duration::from_millis(400) && took < Duration::from_secs(5),
        "{took:?}"
    );
}

#[tokio::test]
async fn greedy_requests_are_refused() {
    let api = Api::pools().await;
    let mut stream = api.connect().await;
    stream
        .write_all(b"GET /pools HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    // It may close before all is written.
    let _ = stream.write_all(&vec![b'x'; 60_000]).await;
    let (answer, _) = until_closed(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );

    // A body without end: answered, and not read.
    let (mut read, mut write) = api.connect().await.into_split();
    let head = b"POST /pools HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n";
    write.write_all(head).await.unwrap();
    let mut sent = 0_usize;
    let pour = async {
        while let Ok(n) = write.write(&[0; 65536]).await {
            sent += n;
        }
    };
    let mut answer = [0; 12];
    let (_, got) = tokio::join!(timeout(SOON, pour), read.read_exact(&mut answer));
    assert_eq!(&answer[..got.unwrap_or(0)], b"HTTP/1.1 405");
    assert!(sent < 50_000_000, "{sent} bytes were taken");

    let mut stream = api.connect().await;
    stream
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP at all\r\n\r\n")
        .await
        .unwrap();
    let (answer, _) = until_closed(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
        "{answer}"
    );
    assert_eq!(api.text("/healthz").await.0, 200);
}

#[tokio::test]
async fn who_does_not_read_costs_little_and_is_let_go() {
    let resident = || -> usize {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let limits = Limits {
        stalled: Duration::from_secs(2),
        ..Limits::default()
    };
    let api = Api::start(limits, large()).await;
    let before = resident();
    let mut deaf = Vec::new();
    for _ in 0..100 {
        let mut stream = api.connect().await;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        deaf.push(stream);
    }
    // All have been answered as far as they take it once one more is answered whole.
    assert_eq!(api.ask("GET", "/metrics", "").await.0, 200);
    let grown = resident().saturating_sub(before);
    println!("100 clients that do not read: {} KiB", grown >> 10);
    // Each would be 6 MB.
    assert!(grown < 200 << 20, "{grown}");

    sleep(Duration::from_secs(3)).await;
    for stream in &mut deaf {
        let (answer, _) = until_closed(stream).await;
        assert!(!answer.contains("# EOF"), "it was waited for");
    }
}

#[tokio::test]
async fn a_thousand_connections_do_not_keep_one_out() {
    allow_many_files();
    let api = Api::pools().await;
    let mut crowd = Vec::new();
    for n in 0..1000 {
        let mut stream = api.connect().await;
        if n % 2 == 0 {
            // It may have been closed for a newer one already.
            let _ = stream.write_all(b"GET /pools HTTP/1.1\r\nX-").await;
        }
        crowd.push(stream);
    }
    let start = Instant::now();
    assert_eq!(api.text("/healthz").await, (200, "ok\n".to_owned()));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );

    // The oldest were let go for the newest.
    let (answer, _) = until_closed(&mut crowd[0]).await;
    assert_eq!(answer, "");
    let newest = crowd.last_mut().unwrap();
    newest
        .write_all(b"GET /healthz HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    assert!(until_closed(newest).await.0.ends_with("ok\n"));
}

/// Out of file descriptors, it waits for some and goes on. The limit is a process's, so this test runs
/// itself again in one of its own.
#[test]
fn without_file_descriptors_it_waits() {
    const INSIDE: &str = "PLIMSOLL_TEST_WITHOUT_FILES";
    if std::env::var_os(INSIDE).is_none() {
        let output = Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "without_file_descriptors_it_waits"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "{output:?}"
        );
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let api = Api::pools().await;
        let mut streams = Vec::new();
        while let Ok(stream) = TcpStream::connect(api.address).await {
            streams.push(stream);
        }
        assert!(streams.len() > 10, "{}", streams.len());
        // The kernel has taken connections that the process has no descriptors for.
        sleep(Duration::from_millis(300)).await;
        streams.truncate(3);
        assert_eq!(api.text("/healthz").await, (200, "ok\n".to_owned()));
    });
}

#[tokio::test]
async fn listening() {
    let both = api::bind(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()])
        .await
        .unwrap();
    let addresses: Vec<_> = both
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect();
    let error = api::bind(&addresses[..1]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the API cannot listen on {}", addresses[0])
    );
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);

    // An IPv6 listener leaves the IPv4 port alone. Others on this machine may have some of these.
    let mut free = None;
    for _ in 0..20 {
        let all = api::bind(&["[::]:0".parse().unwrap()]).await.unwrap();
        let port = all[0].local_addr().unwrap().port();
        if let Ok(four) = api::bind(&[SocketAddr::from(([0, 0, 0, 0], port))]).await {
            free = Some((all, four, port));
            break;
        }
    }
    let (all, four, port) = free.expect("one of twenty ports");

    // All of them are answered on.
    let (_snapshots, receiver) = watch::channel(Arc::new(sample::snapshot([])));
    let mut task = JoinSet::new();
    task.spawn(api::run(
        both.into_iter().chain(all).chain(four).collect(),
        History::new(SystemTime::UNIX_EPOCH),
        receiver,
    ));
    for address in addresses.into_iter().chain([
        SocketAddr::from(([127, 0, 0, 1], port)),
        SocketAddr::new("::1".parse().unwrap(), port),
    ]) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        assert!(
            until_closed(&mut stream).await.0.ends_with("ok\n"),
            "{address}"
        );
    }
}
