//! Debian's Prometheus, as it scrapes a real daemon and the API on snapshots of a bad day: each query of `grafana/`
//! returns data.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::client;
use crate::exposition::lint;
use crate::files::{folder, named, queries};
use crate::lab::{Daemon, Lab, SOON, Service, bgp};
use crate::netns::{Process, until};
use crate::router::Router;
use crate::server::Server;
use crate::wrong::{self, Wrong};

const PROMETHEUS: SocketAddr = at(9999);
const DAEMON: SocketAddr = at(9090);
const WRONG: SocketAddr = at(9091);
const WITHOUT_SESSIONS: SocketAddr = at(9092);

/// A rate takes two scrapes, an alert of a balancer that is gone a missing one.
const ALL_ASKED: Duration = Duration::from_secs(60);

/// What takes a kernel, a store, a certificate or a session that failed, and so only the snapshots have.
const BEYOND_THE_DAEMON: [&str; 14] = [
    "plimsoll_server_connections_total",
    "plimsoll_server_open_connections",
    "plimsoll_server_stuck",
    "plimsoll_server_kept_down",
    "plimsoll_server_kept_down_left_seconds",
    "plimsoll_server_weight_share",
    "plimsoll_service_list_saved_age_seconds",
    "plimsoll_service_list_revision",
    "plimsoll_ipvs_repaired_total",
    "plimsoll_host_repaired_total",
    "plimsoll_monitor_certificate_expiry_timestamp_seconds",
    "plimsoll_bgp_last_notification_code",
    "plimsoll_bgp_last_notification_subcode",
    "plimsoll_bgp_last_notification_timestamp_seconds",
];

const fn at(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// A question, and whether it has been answered.
struct Query {
    place: String,
    text: String,
}

/// A daemon with two web servers, of which one is dead and held, a router and one that is not there.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    _router: Router,
    _server: Server,
    prometheus: Process,
}

impl Scene {
    fn start() -> Scene {
        let lab = Lab::new();
        lab.wire();
        let router = lab.router(2, false);
        let server = Server::start(&lab, "127.0.1.1");
        let missing = format!("servers = \"file://{}\"", lab.file("missing").display());
        lab.configure(&[
            &bgp(&[2, 3]),
            &Service::new("web", "192.0.2.1")
                .key("depool-threshold = 1.0")
                .servers(&["127.0.1.1", "127.0.1.2"])
                .fetch(),
            &Service::new("old", "192.0.2.2").key(&missing),
        ]);
        let daemon = lab.start();
        let prometheus = prometheus(&lab);
        Scene {
            lab,
            daemon,
            _router: router,
            _server: server,
            prometheus,
        }
    }

    fn ask(&self, path: &str) -> Option<Value> {
        let answer = || client::get(PROMETHEUS, path, "application/json");
        serde_json::from_str(&self.lab.inside(answer)?).ok()
    }

    /// How many series a query has; it must be one that Prometheus understands.
    fn count(&self, query: &str) -> usize {
        let encoded = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let Some(answer) = self.ask(&format!("/api/v1/query?query={encoded}")) else {
            return 0;
        };
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().map_or(0, Vec::len)
    }

    /// Asks until each has been answered with data at least once; `meanwhile`: before each round.
    fn all_have_data(&self, mut queries: Vec<Query>, mut meanwhile: impl FnMut(u64)) {
        let begun = Instant::now();
        for round in 1.. {
            meanwhile(round);
            queries.retain(|query| self.count(&query.text) == 0);
            if queries.is_empty() {
                return;
            }
            if begun.elapsed() > ALL_ASKED {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let empty = queries
            .iter()
            .map(|it| format!("{}: {}\n", it.place, it.text));
        panic!("no data:\n{}", empty.collect::<String>());
    }
}

fn prometheus(lab: &Lab) -> Process {
    let config = format!(
        "global: {{scrape_interval: 500ms, evaluation_interval: 1s}}
rule_files: [{:?}]
scrape_configs:
  - job_name: text
    static_configs: [{{targets: [\"{DAEMON}\", \"{WRONG}\", \"{WITHOUT_SESSIONS}\"]}}]
",
        folder().join("alerts.yaml")
    );
    let file = lab.file("prometheus.yml");
    fs::write(&file, config).unwrap();
    let log = fs::File::create(lab.file("prometheus.log")).unwrap();
    let mut command = lab.namespace.command("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            lab.file("tsdb").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .stderr(log);
    Process::start(&mut command)
}

/// With Grafana's variables as Grafana fills them in; `which`: the balancers.
fn substituted(query: &str, which: &str) -> String {
    query
        .replace("job=~\"$job\"", which)
        .replace("$instance", ".+")
        .replace("$peer", ".+")
        .replace("$service", "web")
        .replace("$__rate_interval", "1m")
}

/// The expressions of the rules, as Prometheus has read them.
fn rules(scene: &Scene) -> Vec<Query> {
    let groups = until(SOON, "Prometheus has read the rules", || {
        let answer = scene.ask("/api/v1/rules")?;
        let groups = answer["data"]["groups"].as_array()?.clone();
        (!groups.is_empty()).then_some(groups)
    });
    let rules = groups[0]["rules"].as_array().unwrap();
    let query = |rule: &Value| Query {
        place: format!("alerts.yaml: {}", rule["name"].as_str().unwrap()),
        text: rule["query"].as_str().unwrap().to_owned(),
    };
    rules.iter().map(query).collect()
}

#[test]
fn each_query_returns_data() {
    let mut scene = Scene::start();
    let wrong = Wrong::start(&scene.lab, WRONG, wrong::all(1));
    let lonely = Wrong::start(&scene.lab, WITHOUT_SESSIONS, wrong::without_sessions());
    let daemon = format!("instance=\"{DAEMON}\"");
    let panels = |which: &str, wanted: &dyn Fn(&str) -> bool| -> Vec<Query> {
        let panels = queries().into_iter().filter(|(_, text)| wanted(text));
        panels
            .map(|(place, text)| Query {
                place,
                text: substituted(&text, which),
            })
            .collect()
    };
    let beyond = BTreeSet::from(BEYOND_THE_DAEMON.map(str::to_owned));
    let of_daemon = |text: &str| named(text).is_disjoint(&beyond);
    until(SOON * 2, "Prometheus answers", || {
        scene.ask("/api/v1/status/runtimeinfo")
    });
    scene.all_have_data(panels(&daemon, &of_daemon), |_| ());

    let (gone, rules): (Vec<Query>, Vec<Query>) = rules(&scene)
        .into_iter()
        .partition(|rule| rule.place.ends_with("PlimsollGone"));
    let mut all = panels("job=~\".+\"", &|_| true);
    all.extend(rules);
    scene.all_have_data(all, |round| wrong.publish(wrong::all(1 + round)));

    drop(lonely);
    assert_eq!(gone.len(), 1);
    scene.all_have_data(gone, |_| ());
    lint(&scene.lab.get("/metrics").unwrap());
    assert!(!scene.prometheus.ended());
    scene.daemon.stop(SOON);
}

/// Nothing that Prometheus finds wrong with the format, or with a rule as it works it out.
#[test]
fn prometheus_understands_it_all() {
    let mut scene = Scene::start();
    let wrong = Wrong::start(&scene.lab, WRONG, wrong::all(1));
    let _lonely = Wrong::start(&scene.lab, WITHOUT_SESSIONS, wrong::without_sessions());
    until(SOON * 2, "all targets are well", || {
        let answer = scene.ask("/api/v1/targets?state=active")?;
        let targets = answer["data"]["activeTargets"].as_array()?;
        wrong.publish(wrong::all(2));
        let well = targets.iter().filter(|target| target["health"] == "up");
        (well.count() == 3).then_some(())
    });
    until(SOON * 2, "all rules are well", || {
        let answer = scene.ask("/api/v1/rules")?;
        let rules = answer["data"]["groups"][0]["rules"].as_array()?;
        let well = rules.iter().all(|rule| rule["health"] == "ok");
        (!rules.is_empty() && well).then_some(())
    });
    scene.daemon.stop(SOON);
}
