//! GoBGP.

use std::collections::BTreeMap;
use std::process::Command;

use plimsoll::routing::{Community, Origin};
use serde_json::Value;

use super::{Driver, FEEDER_AS, Route, Router, Settings};
use super::{list, route_target};
use crate::netns::run;

pub(super) struct GoBgp;

impl Driver for GoBgp {
    fn command(&self, router: &Router) -> Command {
        let mut command = router.namespace.command("gobgpd");
        let text = configuration(&router.settings);
        command.arg("-f").arg(router.write("conf", &text));
        command.args(["--api-hosts", "127.0.0.1:50051", "--pprof-disable"]);
        if !router.settings.quiet {
            command.args(["-l", "debug"]);
        }
        command
    }

    fn client(&self, router: &Router, question: &str) -> Command {
        let mut command = router.namespace.command("gobgp");
        command.args(question.split(' '));
        command
    }

    fn answers(&self, router: &Router) -> bool {
        router.says("global")
    }

    fn routes(&self, router: &Router) -> BTreeMap<String, Route> {
        let of = |family| {
            let answer = router.ask(&format!("global rib -a {family} -j"));
            routes(&serde_json::from_str(&answer).unwrap_or_default())
        };
        ["ipv4", "ipv6"].into_iter().flat_map(of).collect()
    }

    fn knows(&self, router: &Router, prefix: &str) -> bool {
        let answer = router.ask(&format!("global rib -a ipv4 {prefix}"));
        answer.contains(prefix)
    }

    fn established(&self, router: &Router) -> bool {
        neighbor(router)["state"]["session_state"] == 6
    }

    fn changes(&self, router: &Router) -> String {
        let log = router.log();
        let times = |words| log.matches(words).count();
        format!("{} {}", times("\"Peer Up\""), times("\"Peer Down\""))
    }

    fn reload(&self, router: &Router) {
        router.write("conf", &configuration(&router.settings));
        router
            .process
            .as_ref()
            .unwrap()
            .signal(nix::sys::signal::Signal::SIGHUP);
    }

    fn clear(&self, router: &Router) {
        router.ask(&format!("neighbor {} reset", router.settings.neighbor));
    }

    fn refresh(&self, router: &Router) {
        router.ask(&format!(
            "neighbor {} softresetin",
            router.settings.neighbor
        ));
    }

    fn shut(&self, router: &Router, text: &str) -> bool {
        let words = format!("neighbor {} shutdown --reason", router.settings.neighbor);
        run(self.client(router, &words).arg(text));
        true
    }
}

/// Its own prefixes come by its API only.
pub(super) fn announce(router: &Router) {
    for network in &router.settings.networks {
        router.ask(&format!("global rib add -a ipv4 {network}"));
    }
}

fn neighbor(router: &Router) -> Value {
    let all: Vec<Value> = serde_json::from_str(&router.ask("neighbor -j")).unwrap();
    let of_feeder = |neighbor: &Value| neighbor["conf"]["peer_asn"] == FEEDER_AS;
    let ours = all.into_iter().find(|neighbor| !of_feeder(neighbor));
    ours.unwrap_or_default()
}

fn configuration(settings: &Settings) -> String {
    let Settings {
        asn,
        router_id,
        address,
        neighbor,
        neighbor_as,
        passive,
        hold_time,
        ..
    } = settings;
    let keepalive = hold_time / 3;
    let password = match &settings.password {
        Some(password) => format!("auth-password = \"{password}\""),
        None => String::new(),
    };
    let feeder = match &settings.feeder {
        None => String::new(),
        Some(feeder) => format!(
            "[[neighbors]]
  [neighbors.config]
    neighbor-address = \"{feeder}\"
    peer-as = {FEEDER_AS}
  [neighbors.timers.config]
    hold-time = 240
    keepalive-interval = 80
  [neighbors.transport.config]
    passive-mode = true
"
        ),
    };
    format!(
        "[global.config]
  as = {asn}
  router-id = \"{router_id}\"
[[neighbors]]
  [neighbors.config]
    neighbor-address = \"{neighbor}\"
    peer-as = {neighbor_as}
    {password}
  [neighbors.timers.config]
    hold-time = {hold_time}
    keepalive-interval = {keepalive}
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.transport.config]
    passive-mode = {passive}
    local-address = \"{address}\"
  [neighbors.ttl-security.config]
    enabled = {gtsm}
    ttl-min = 255
  [neighbors.graceful-restart.config]
    enabled = {restarts}
    restart-time = 90
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"ipv4-unicast\"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = {restarts}
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"ipv6-unicast\"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = {restarts}
{feeder}",
        gtsm = settings.ttl_security,
        restarts = settings.graceful_restart,
    )
}

/// `"PREFIX": [{"attrs": [{"type": 1, …}, …], …}]`
fn routes(table: &Value) -> BTreeMap<String, Route> {
    let mut routes = BTreeMap::new();
    for (prefix, paths) in table.as_object().into_iter().flatten() {
        let path = &paths[0];
        // Its own.
        if path["neighbor-ip"].as_str().is_none_or(|ip| ip == "<nil>") {
            continue;
        }
        let mut route = Route::default();
        for attribute in path["attrs"].as_array().into_iter().flatten() {
            take(&mut route, attribute);
        }
        routes.insert(prefix.clone(), route);
    }
    routes
}

/// By the attribute's number (IANA, BGP Path Attributes).
fn take(route: &mut Route, attribute: &Value) {
    let number = |value: &Value| value.as_u64().unwrap() as u32;
    match attribute["type"].as_u64().unwrap() {
        1 => {
            route.origin = match number(&attribute["value"]) {
                0 => Origin::Igp,
                1 => Origin::Egp,
                _ => Origin::Incomplete,
            }
        }
        2 => {
            let segments = list(&attribute["as_paths"]);
            let path = segments.iter().flat_map(|segment| list(&segment["asns"]));
            let path: Vec<String> = path.map(|asn| asn.to_string()).collect();
            route.as_path = path.join(" ");
        }
        3 | 14 => attribute["nexthop"]
            .as_str()
            .unwrap()
            .clone_into(&mut route.next_hop),
        4 => route.med = number(&attribute["metric"]),
        5 => route.local_pref = Some(number(&attribute["value"])),
        8 => {
            let all = list(&attribute["communities"]);
            let all = all.iter().map(|value| Community::Standard(number(value)));
            route.communities.extend(all);
        }
        16 => {
            let all = list(&attribute["value"]);
            let all = all
                .iter()
                .map(|one| route_target(one["value"].as_str().unwrap()));
            route.communities.extend(all);
        }
        32 => {
            let part = |one: &Value, key| number(&one[key]);
            let all = list(&attribute["value"]);
            route.communities.extend(all.iter().map(|one| {
                let one = |key| part(one, key);
                Community::Large(one("ASN"), one("LocalData1"), one("LocalData2"))
            }));
        }
        _ => {}
    }
}
