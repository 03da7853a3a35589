//! `plimsoll fleet`, and the records of a daemon as it is run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll::config::Threshold;
use plimsoll::routing::Policy;
use plimsoll::routing::session::{Session, SessionState};
use plimsoll::snapshot::{Refusal, Snapshot};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::edge::{Balancer, PATIENCE, Store, pool, section, snapshot};
use crate::sample::{self, edit, ip};

/// More than the second that etcd is given at the end, and less than the farewell to peers.
const LITTLE: Duration = Duration::from_secs(4);

fn plimsoll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.stdin(Stdio::null());
    command
}

fn configure(cluster: &Cluster, text: &str) -> PathBuf {
    let path = cluster.folder().join("plimsoll.toml");
    std::fs::write(&path, format!("{}{text}", cluster.section())).unwrap();
    path
}

fn fleet(config: &PathBuf, arguments: &[&str]) -> Output {
    let mut command = plimsoll();
    command.args(["fleet", "-c"]).arg(config).args(arguments);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A balancer that speaks to one router, announcing with this MED.
fn speaking(mut snapshot: Snapshot, announce: Result<u32, Refusal>) -> Snapshot {
    Arc::make_mut(&mut snapshot.config).bgp = sample::bgp(&["10.0.0.1"]).bgp.clone();
    let session = Session {
        state: SessionState::Established,
        ..Session::default()
    };
    snapshot.peers = Arc::new([(ip("10.0.0.1").into(), session)].into());
    let vip = snapshot.vips.get_mut(&ip("192.0.2.1")).unwrap();
    Arc::make_mut(vip).announce = announce.map(|med| Policy::of_med(med).into());
    snapshot
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_who_serves_what_who_is_behind_and_whose_configuration_differs() {
    let cluster = Cluster::start(3);
    let etcd = section(&cluster.endpoints());
    let mut store = Store::of(&cluster, 0).await;
    let key = |host: &str| format!("/conftool/v1/pools/dc/web/text/{host}");
    let old = store
        .put(&key("a"), r#"{"weight": 1, "pooled": "yes"}"#)
        .await;
    let new = store
        .put(&key("b"), r#"{"weight": 1, "pooled": "no"}"#)
        .await;
    let at = |revision| snapshot(etcd.clone(), [pool("text", revision)]);
    let strict = edit(pool("text", new), |text| {
        Arc::make_mut(&mut text.config).depool_threshold = Threshold::new(0.9).unwrap();
    });
    let _balancers = [
        Balancer::start("lvs1", speaking(at(new), Ok(0))),
        Balancer::start("lvs2", speaking(at(old), Ok(100))),
        Balancer::start(
            "lvs3",
            speaking(
                snapshot(etcd.clone(), [strict]),
                Err(Refusal::NothingPooled),
            ),
        ),
    ];
    store.until("there", |records| records.len() == 6).await;
    let config = configure(&cluster, "");
    let output = fleet(&config, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    // One blank between words, and none at the ends.
    let lines: Vec<String> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let line = |start: &str, end: &str| {
        let found = lines
            .iter()
            .any(|line| line.starts_with(start) && line.ends_with(end));
        assert!(found, "no {start} … {end} in\n{said}");
    };
    line("3 balancers", "");
    line("lvs1 0.", "1/1");
    line("lvs3 0.", "1/1 configuration differs");
    line("192.0.2.1 lvs1 healthy 0", "primary");
    line("lvs2 healthy 100", "100");
    line(
        "lvs3 healthy -",
        "not announced: a service has nothing pooled",
    );
    line(&format!("dc/web/text {new} lvs2 {old}"), "1 server");

    let output = fleet(&config, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["balancers"]["lvs3"]["config-differs"], true);
    assert_eq!(said["balancers"]["lvs2"]["config-differs"], false);
    assert_eq!(
        said["addresses"]["192.0.2.1"]["primary"],
        serde_json::json!(["lvs1"])
    );
    let behind = serde_json::json!({"dc/web/text": {
        "newest": new,
        "balancers": {"lvs2": {"revision": old, "changes": 1}},
    }});
    assert_eq!(said["behind"], behind);
}

/// More keys than etcd is asked for at once.
#[tokio::test(flavor = "multi_thread")]
async fn reads_many_pools_page_by_page() {
    const POOLS: usize = 1500;
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let services = (0..POOLS).map(|n| pool(&format!("s{n:04}"), 1));
    let _balancer = Balancer::start("lvs1", snapshot(section(&cluster.endpoints()), services));
    store
        .until("there", |records| records.len() == POOLS + 1)
        .await;
    for n in [0, POOLS / 2, POOLS - 1] {
        store
            .put(&format!("/conftool/v1/pools/dc/web/s{n:04}/a"), "{}")
            .await;
    }
    let output = fleet(&configure(&cluster, ""), &["--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let behind: Vec<_> = said["behind"].as_object().unwrap().keys().collect();
    assert_eq!(behind, ["dc/web/s0000", "dc/web/s0750", "dc/web/s1499"]);
}

#[test]
fn an_empty_fleet_and_an_etcd_that_is_away() {
    let mut cluster = Cluster::start(1);
    let config = configure(&cluster, "timeout = \"1s\"\n");
    let output = fleet(&config, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).starts_with("no balancer is alive\n"));
    cluster.freeze(0);
    let output = fleet(&config, &[]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(output.stdout.is_empty());
    cluster.thaw(0);
    cluster.kill(0);
    let output = fleet(&config, &["--json"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains(&cluster.endpoints()[0]), "{said}");
}

#[test]
fn a_configuration_without_leases() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plimsoll.toml");
    for (text, expected) in [
        ("", "write [etcd] with endpoints"),
        (
            "[etcd]\nendpoints = [\"http://127.0.0.1:1\"]\napi = \"v2\"\n",
            "only with \"v3\"",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let output = fleet(&path, &[]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = self::text(&output.stderr);
        assert!(said.contains(expected), "{said}");
    }
}

/// The daemon as it is run: its record under the kernel's name for this host, gone when it is told to stop,
/// which takes no longer for an etcd that hangs than the moment that is given to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_tells_of_itself() {
    let mut cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let state = cluster.folder().join("state");
    let rest = format!(
        "[daemon]\nstate-directory = {state:?}\nmanage-addresses = false\n[api]\nlisten = []\ncontrol = \"\"\n\
         [service.text]\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"rr\"\n\
         server = [{{ host = \"127.0.0.1\" }}]\n"
    );
    let config = configure(&cluster, &rest);
    let log = cluster.folder().join("log");
    let start = |mode: &[&str]| {
        let mut command = plimsoll();
        command.args(["run", "-c"]).arg(&config).args(mode);
        command.stdout(Stdio::null());
        command.stderr(std::fs::File::create(&log).unwrap());
        let daemon = command.spawn().unwrap();
        let end = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&log).unwrap().contains("started ") {
            assert!(Instant::now() < end, "it has not started");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    };
    let stop = |mut daemon: std::process::Child| {
        let began = Instant::now();
        let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let status = daemon.wait().unwrap();
        assert!(status.success(), "{status}");
        began.elapsed()
    };
    let hostname = nix::unistd::gethostname().unwrap();
    let key = format!("balancers/{}", hostname.to_str().unwrap());

    // One that tries things out beside the real one leaves the name alone.
    let dry = start(&["--dry-run"]);
    let daemon = start(&["--ipvs", "memory"]);
    let there = |records: &BTreeMap<String, Value>| records.contains_key(&key);
    let records = store.until("there", there).await;
    assert_eq!(records[&key]["mode"], "memory-table");
    stop(dry);
    assert_eq!(store.records().await[&key]["mode"], "memory-table");
    stop(daemon);
    assert!(store.records().await.is_empty());

    // With the connection open and nothing answering.
    let daemon = start(&["--ipvs", "memory"]);
    store.until("there", there).await;
    cluster.freeze(0);
    let took = stop(daemon);
    assert!(took < LITTLE, "{took:?}");
    cluster.thaw(0);

    cluster.kill(0);
    let daemon = start(&["--ipvs", "memory"]);
    let took = stop(daemon);
    assert!(took < LITTLE, "{took:?}");
}
