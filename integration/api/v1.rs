//! `/api/v1` over TCP: every path answers as its schema says, and HTTP is spoken as its standards have it.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::GzDecoder;
use plimsoll::api::Limits;
use plimsoll::service;
use plimsoll::snapshot::{self, ConfigFile, OnDisk, Repair, Repairs, Snapshot};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::{Api, SOON, allow_many_files, busy, large, sample};

/// Something of all that there may be.
fn full() -> Snapshot {
    let servers = [
        "cp1 up pooled",
        "cp2 disabled up guarded",
        "cp3 gone up late",
        "cp4 held",
        "cp5 unknown",
    ];
    let web = sample::edit(sample::service("web", 0.5, &servers), |web| {
        web.floor = 2;
        web.guard = Some(snapshot::Guard { size: 4, line: 3 });
        web.revision = Some(12);
        web.refusal = Some(snapshot::Refusal::NotChecked);
        web.list_faults = Arc::new([("x/y/z/cp9".to_owned(), "weight is -1".to_owned())].into());
        web.applied = snapshot::Applied::Failed {
            fault: "No such file or directory".into(),
            holds: true,
        };
        let monitor = plimsoll::check::Monitor::vip_reachability();
        Arc::make_mut(&mut web.config).monitors = vec![Arc::new(monitor)];
        let servers = Arc::make_mut(&mut web.servers);
        let figures = &servers["cp1"].monitors[0].figures;
        figures.note(sample::at(7), Ok(()), Some(Duration::from_millis(20)));
        figures.note_load(Some(70), Some("no load in it".into()));
        let cp2 = servers.get_mut("cp2").unwrap();
        cp2.note = Some(Arc::new(service::Note {
            reason: Some("disk\nT1".into()),
            until: Some("2026-01-01T00:00:00Z".into()),
            confirmed: false,
        }));
        let later = sample::now() + Duration::from_secs(60);
        cp2.draining = Some(later);
        cp2.kept_down = Some(snapshot::KeptDown::FlapHold { until: later });
        cp2.scaled = vec![snapshot::Scaled::SlowStart { percent: 40 }];
        cp2.stuck = Some("10 connections".into());
        cp2.unresolved = Some("no such name".into());
    });
    let dns = sample::edit(
        sample::service("dns", 0.0, &["2001:db8::1 up pooled"]),
        |dns| {
            dns.source = snapshot::Source::Saved {
                age: Duration::from_secs(7200),
                read_at: sample::now(),
                fault: Some("timed out".into()),
            };
        },
    );
    let mut snapshot = busy(sample::snapshot([web, dns]));
    sample::sessions(&mut snapshot);
    let config = Arc::make_mut(&mut snapshot.config);
    config.etcd = Some(sample::etcd(plimsoll::config::EtcdApi::V3));
    let mut repairs = Repairs::default();
    repairs.host.insert("sysctl", 3);
    repairs.remember(Repair {
        at: sample::now(),
        object: "web".into(),
        change: "server 10.0.0.1:80: -w 1 -> -w 10".into(),
    });
    snapshot.repairs = Arc::new(repairs);
    snapshot.troubles = Arc::new([("etcd", "away".to_owned())].into());
    snapshot.reload_refused = Some("line 3: no\nline 4: no".into());
    snapshot.config_file = Some(Arc::new(ConfigFile {
        path: "/etc/plimsoll/plimsoll.toml".into(),
        loaded: sample::at(0),
        on_disk: OnDisk::Bad("line 3: no\nline 4: no".into()),
    }));
    snapshot
}

struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines();
        lines
            .filter_map(|line| line.split_once(": "))
            .find(|(header, _)| *header == name)
            .map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Api {
    async fn raw(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = self.connect().await;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
        read.expect("no answer").unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let body = answer.split_off(end.expect("no head") + 4);
        let head = String::from_utf8(answer).unwrap().to_lowercase();
        Answer {
            status: head["http/1.1 ".len()..][..3].parse().unwrap(),
            head,
            body,
        }
    }
}

/// The document's template with each of the names that there are in its braces.
fn paths(template: &str) -> Vec<String> {
    let names: &[(&str, &[&str])] = &[
        (
            "{service}/servers/{host}",
            &[
                "web/servers/cp1",
                "web/servers/cp2",
                "dns/servers/2001:db8::1",
            ],
        ),
        (
            "{service}/{host}",
            &["web/cp1", "web/cp2", "web/cp3", "web/cp4", "web/cp5"],
        ),
        ("{service}", &["web", "dns"]),
        (
            "{peer}",
            &["10.0.0.1", "2001:db8::1", "fe80::1%25eth1", "eth2"],
        ),
        (
            "{vip}",
            &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001%3Adb8%3A%3A7"],
        ),
    ];
    match names.iter().find(|(what, _)| template.contains(what)) {
        Some((what, names)) => names
            .iter()
            .map(|name| template.replace(what, name))
            .collect(),
        None => vec![template.to_owned()],
    }
}

#[tokio::test]
async fn every_path_of_the_document_answers_as_its_schema_says() {
    for snapshot in [full(), sample::snapshot([])] {
        let empty = snapshot.services.is_empty();
        let api = Api::start(Limits::default(), snapshot).await;
        let document = api.raw("GET", "/api/v1/openapi.json", "").await.json();
        assert_eq!(document["openapi"], "3.1.1");
        let mut asked = BTreeSet::new();
        for (template, item) in document["paths"].as_object().unwrap() {
            if empty && template.contains('{') {
                continue;
            }
            let good = &item["get"]["responses"]["200"]["content"]["application/json"]["schema"];
            let mut schema = good.clone();
            schema["components"] = document["components"].clone();
            let options = jsonschema::options().should_validate_formats(true);
            let validator = options.build(&schema).unwrap();
            for path in paths(template) {
                let answer = api.raw("GET", &path, "").await;
                assert_eq!(answer.status, 200, "{path}");
                assert_eq!(answer.header("content-type"), Some("application/json"));
                let body = answer.json();
                let errors = validator.iter_errors(&body);
                let errors: Vec<String> = errors
                    .map(|error| format!("{}: {error}", error.instance_path()))
                    .collect();
                assert!(errors.is_empty(), "{path}: {errors:#?}\n{body:#}");
                // It is held to something: no shape goes without any of its members.
                let members = body.as_object().unwrap();
                for member in members
                    .keys()
                    .filter(|_| template != "/api/v1/openapi.json")
                {
                    let mut less = members.clone();
                    less.remove(member);
                    assert!(
                        !validator.is_valid(&Value::Object(less)),
                        "{path}: {member}"
                    );
                }
                asked.insert(template.clone());
            }
        }
        assert_eq!(asked.len(), if empty { 9 } else { 14 }, "{asked:?}");
    }
}

#[tokio::test]
async fn the_same_words_and_units_as_everywhere() {
    let api = Api::start(Limits::default(), full()).await;
    let get = async |path: &str| api.raw("GET", &format!("/api/v1{path}"), "").await.json();
    let services = get("/services").await;
    let [dns, web] = &services["services"].as_array().unwrap()[..] else {
        panic!("{services}");
    };
    let named = [dns, web].map(|service| service["name"].as_str().unwrap());
    assert_eq!(named, ["dns", "web"]);
    assert_eq!(web["condition"], "healthy");
    assert_eq!(web["refusal"], "not-checked");
    assert_eq!(web["firewall_mark"], Value::Null);
    assert_eq!(dns["list"]["state"], "saved");
    assert_eq!(
        web["servers"][1],
        json!({
            "host": "cp2", "enabled": false, "health": "up", "pooled": true, "held": "depool-guard",
            "draining": true, "weight": 10, "ipvs_weight": 10, "stuck": "10 connections", "reason": null,
        })
    );
    let detail = get("/services/web").await;
    assert_eq!(detail["settings"]["monitors"][0]["interval_seconds"], 10.0);
    assert_eq!(
        detail["servers"][0]["checks"][0]["last"]["took_seconds"],
        0.02
    );
    let server = get("/services/web/servers/cp2").await;
    assert_eq!(server["state"], "disabled/up/pooled");
    assert_eq!(server["kept_down"]["why"], "flap-hold");
    assert_eq!(detail["servers"][1], server);
    let peer = get("/bgp/peers/10.0.0.1").await;
    assert_eq!(peer["state"], "established");
    assert_eq!(peer["since"], "2026-01-02T03:04:05.000Z");
    assert_eq!(peer["agreed"]["hold_time_seconds"], 30.0);
    assert_eq!(peer["announced"][0]["attributes"]["med"], 10);
    assert_eq!(peer["not_announced"][0]["refusal"], "nothing-pooled");
    let alerts = get("/alerts").await;
    assert_eq!(alerts["status"], "critical");
    let names = alerts["alerts"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|alert| alert["name"].as_str().unwrap()).collect();
    for name in [
        "held-by-guard",
        "stale-catch-up",
        "session-down",
        "reload-refused",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let config = get("/config").await;
    assert_eq!(config["file"]["on_disk"], "bad");
    assert_eq!(
        config["file"]["mistakes"],
        json!(["line 3: no", "line 4: no"])
    );
    assert_eq!(config["hash"].as_str().unwrap().len(), 12);
    let ipvs = get("/ipvs").await;
    let first = &ipvs["services"][1]["destinations"][0];
    assert_eq!(
        *first,
        json!({
            "destination": "10.0.0.1:80", "host": "cp1", "wanted_weight": 10, "in_kernel": true,
            "active": 0, "inactive": 0,
        })
    );
    let other = &ipvs["services"][1]["destinations"][10];
    assert_eq!(
        (&other["wanted_weight"], &other["in_kernel"]),
        (&Value::Null, &json!(true))
    );
}

#[tokio::test]
async fn who_has_it_already_is_not_sent_it_again() {
    let api = Api::start(Limits::default(), full()).await;
    for path in [
        "/api/v1/services",
        "/api/v1/services/web",
        "/api/v1/config",
        "/api/v1/vips",
    ] {
        let first = api.raw("GET", path, "").await;
        let tag = first.header("etag").unwrap().to_owned();
        // The head was read in lower case.
        let known = format!("If-None-Match: \"other\", {}\r\n", tag.replace("w/", "W/"));
        api.snapshots
            .send_modify(|snapshot| *snapshot = Arc::new((**snapshot).clone()));
        for method in ["GET", "HEAD"] {
            let again = api.raw(method, path, &known).await;
            assert_eq!(
                (again.status, again.body.len()),
                (304, 0),
                "{method} {path}"
            );
            assert_eq!(again.header("etag"), Some(&*tag));
            assert_eq!(again.header("vary"), Some("accept-encoding"));
        }
        let other = api.raw("GET", path, "If-None-Match: \"other\"\r\n").await;
        assert_eq!((other.status, &other.body), (200, &first.body));
    }
    let before = api.raw("GET", "/api/v1/services", "").await;
    let fewer = sample::snapshot([sample::service("web", 0.5, &["cp1 up pooled"])]);
    api.snapshots.send_replace(Arc::new(fewer));
    let after = api.raw("GET", "/api/v1/services", "").await;
    assert_ne!(before.header("etag"), after.header("etag"));
    assert_eq!(after.json()["services"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn it_is_packed_for_those_who_take_that() {
    let api = Api::start(Limits::default(), full()).await;
    let plain = api.raw("GET", "/api/v1/services", "").await;
    assert_eq!(plain.header("content-encoding"), None);
    let packed = api
        .raw("GET", "/api/v1/services", "Accept-Encoding: br, gzip\r\n")
        .await;
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(packed.header("etag"), plain.header("etag"));
    let mut unpacked = Vec::new();
    GzDecoder::new(&*packed.body)
        .read_to_end(&mut unpacked)
        .unwrap();
    assert_eq!(unpacked, plain.body);
    let head = api
        .raw("HEAD", "/api/v1/services", "Accept-Encoding: gzip\r\n")
        .await;
    assert_eq!(
        head.header("content-length"),
        packed.header("content-length")
    );
    assert_eq!(head.body.len(), 0);
    // Not worth it.
    api.snapshots.send_replace(Arc::new(sample::snapshot([])));
    let small = api
        .raw("GET", "/api/v1/services", "Accept-Encoding: gzip\r\n")
        .await;
    assert_eq!(small.header("content-encoding"), None);
    assert_eq!(small.json(), json!({ "services": [] }));
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_with_what_would_be_right() {
    let api = Api::start(Limits::default(), full()).await;
    for (path, part) in [
        ("/api/v1", "there are /api/v1/services, "),
        ("/api/v1/", "there are /api/v1/services, "),
        ("/api/v1/pools", "there are /api/v1/services, "),
        (
            "/api/v1/services/none",
            "No service is called \"none\"; there are dns, web",
        ),
        (
            "/api/v1/services/web/servers/cp9",
            "No server of web is called \"cp9\"; there are cp1, ",
        ),
        ("/api/v1/services/web/cp1", "there are /api/v1/services, "),
        (
            "/api/v1/bgp/peers/10.0.0.9",
            "No such peer; there are 10.0.0.1, ",
        ),
        (
            "/api/v1/why/192.0.2.99",
            "No address is called \"192.0.2.99\"; there are 192.0.2.1, ",
        ),
        ("/api/v1/why/web/cp9", "No server of web is called \"cp9\""),
    ] {
        let answer = api.raw("GET", path, "").await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(part), "{path}: {error}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let answer = api.raw(method, "/api/v1/services", "").await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("get, head"))
        );
        assert!(answer.json()["error"].is_string());
    }
    let answer = api
        .raw("GET", "/api/v1/services", "Accept: text/html\r\n")
        .await;
    assert_eq!(answer.status, 406);
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .contains("application/json")
    );
    for accept in ["*/*", "text/html, application/*;q=0.1", "application/json"] {
        let answer = api
            .raw("GET", "/api/v1/services/", &format!("Accept: {accept}\r\n"))
            .await;
        assert_eq!(answer.status, 200, "{accept}");
    }
    // Another site's page shall not read it.
    let answer = api
        .raw("GET", "/api/v1/services", "Origin: http://elsewhere\r\n")
        .await;
    assert!(!answer.head.contains("access-control"), "{}", answer.head);
    // A path that only looks like it.
    assert_eq!(
        api.raw("GET", "/api/v10", "").await.header("content-type"),
        Some("text/plain")
    );
}

/// One body is made for all of them; whoever asks for something else meanwhile does not wait for it.
#[tokio::test]
async fn two_hundred_who_poll_share_one_answer() {
    allow_many_files();
    let limits = Limits {
        connections: 1000,
        ..Limits::default()
    };
    let api = Api::start(limits, large()).await;
    let start = Instant::now();
    let first = async {
        let answer = api.raw("GET", "/api/v1/services", "").await;
        (answer, start.elapsed())
    };
    let meanwhile = async {
        tokio::task::yield_now().await;
        let answer = api.raw("GET", "/healthz", "").await;
        (answer.status, start.elapsed())
    };
    let ((first, made), (healthy, at_once)) = tokio::join!(first, meanwhile);
    assert_eq!(healthy, 200);
    assert!(at_once < made, "{at_once:?} and {made:?}");
    assert_eq!(first.json()["services"].as_array().unwrap().len(), 1000);

    let start = Instant::now();
    let polls = (0..200).map(|_| api.raw("GET", "/api/v1/services", "Accept-Encoding: gzip\r\n"));
    let answers = futures_util::future::join_all(polls).await;
    let took = start.elapsed();
    let one = answers.first().unwrap();
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 && answer.body == one.body)
    );
    println!(
        "{} bytes, {} packed: made in {made:?}, 200 packed ones in {took:?}",
        first.body.len(),
        one.body.len()
    );
}
