//! The answers in JSON: PyBal's keys and values.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::service::{Host, Weight};
use crate::snapshot::{Health, Server, Service, Snapshot};

pub(super) fn pools(snapshot: &Snapshot) -> String {
    json(&snapshot.services.keys().collect::<Vec<_>>())
}

pub(super) fn pool(service: &Service) -> String {
    let servers = service.servers.iter();
    let states: BTreeMap<&Host, State> = servers
        .map(|(host, server)| (host, State::of(service, host, server)))
        .collect();
    json(&states)
}

pub(super) fn server(service: &Service, host: &Host, server: &Server) -> String {
    json(&State::of(service, host, server))
}

pub(super) fn alerts(status: &str, message: &str) -> String {
    json(&Alerts {
        status,
        msg: message,
    })
}

pub(super) fn healthy() -> String {
    json(&Healthy { status: "ok" })
}

pub(super) fn error(text: &str) -> String {
    json(&Error { error: text })
}

#[derive(Serialize)]
struct State {
    pooled: bool,
    weight: u32,
    up: bool,
    enabled: bool,
}

impl State {
    fn of(service: &Service, host: &Host, server: &Server) -> State {
        // One that is held though no longer listed has the weight that IPVS has.
        let held = || service.destination(host, server).map(|to| to.weight);
        let weight = server.listed.map(|listed| listed.weight).or_else(held);
        State {
            pooled: server.pooled.in_ipvs(),
            weight: weight.map_or(0, Weight::get),
            up: server.health == Health::Up,
            enabled: server.enabled(),
        }
    }
}

#[derive(Serialize)]
struct Alerts<'a> {
    status: &'a str,
    msg: &'a str,
}

#[derive(Serialize)]
struct Healthy {
    status: &'static str,
}

#[derive(Serialize)]
struct Error<'a> {
    error: &'a str,
}

pub(super) fn json(value: &impl Serialize) -> String {
    // Cannot fail: all keys are strings, and nothing here serializes by code of its own.
    serde_json::to_string(value).expect("plain data is JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::snapshot::sample;

    use super::*;

    #[test]
    fn pybals_meaning() {
        let parse = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
        let web = sample::service(
            "web",
            0.5,
            &["a up pooled", "b disabled", "c gone up guarded"],
        );
        let a = json!({"pooled": true, "weight": 10, "up": true, "enabled": true});
        assert_eq!(
            parse(server(&web.1, &"a".parse().unwrap(), &web.1.servers["a"])),
            a
        );
        let expected = json!({
            "a": a,
            "b": {"pooled": false, "weight": 10, "up": false, "enabled": false},
            "c": {"pooled": true, "weight": 10, "up": true, "enabled": false},
        });
        assert_eq!(parse(pool(&web.1)), expected);
        let api = sample::service("api", 0.5, &[]);
        assert_eq!(
            parse(pools(&sample::snapshot([web, api]))),
            json!(["api", "web"])
        );
        assert_eq!(
            parse(alerts("ok", "\"")),
            json!({"status": "ok", "msg": "\""})
        );
    }
}
