//! ExaBGP, asked and told by its API: a process of ours writes down what it says and passes on what we say.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use plimsoll::routing::Community;
use serde_json::Value;

use super::{Driver, Route, Router, Settings};
use super::{list, origin, route_target};
use crate::netns::run;

pub(super) struct ExaBgp;

impl Driver for ExaBgp {
    fn command(&self, router: &Router) -> Command {
        write(router);
        fs::write(router.file("events"), "").unwrap();
        let mut command = router.namespace.command("exabgp");
        command.arg(router.file("conf"));
        command.env("exabgp.daemon.user", "root");
        command.env("exabgp.api.cli", "false");
        command.env("exabgp.api.ack", "false");
        command.env("exabgp.tcp.bind", &router.settings.address);
        command.env("exabgp.tcp.port", "179");
        command.env("exabgp.log.destination", "stderr");
        if !router.settings.quiet {
            command.env("exabgp.log.level", "DEBUG");
        }
        command
    }

    /// It has no client that answers.
    fn client(&self, router: &Router, question: &str) -> Command {
        let mut command = router.namespace.command("ss");
        command.args(question.split(' '));
        command
    }

    fn answers(&self, router: &Router) -> bool {
        router.ask("-Htln").contains(":179 ")
    }

    fn routes(&self, router: &Router) -> BTreeMap<String, Route> {
        let mut routes = BTreeMap::new();
        for event in events(router) {
            if event["type"] == "state" {
                routes.clear();
            }
            take(&mut routes, &event["neighbor"]["message"]["update"]);
        }
        routes
    }

    fn knows(&self, router: &Router, prefix: &str) -> bool {
        self.routes(router).contains_key(prefix)
    }

    fn established(&self, router: &Router) -> bool {
        states(router).last().map(String::as_str) == Some("up")
    }

    fn changes(&self, router: &Router) -> String {
        let states = states(router);
        let times = |what| states.iter().filter(|state| *state == what).count();
        format!("{} {}", times("up"), times("down"))
    }

    fn reload(&self, router: &Router) {
        write(router);
        let process = router.process.as_ref().unwrap();
        process.signal(nix::sys::signal::Signal::SIGUSR1);
    }

    fn clear(&self, router: &Router) {
        // Administrative Reset (RFC 4486).
        tell(
            router,
            &format!("neighbor {} teardown 4", router.settings.neighbor),
        );
    }

    fn refresh(&self, router: &Router) {
        tell(router, "announce route-refresh ipv4 unicast");
    }

    fn shut(&self, _: &Router, _: &str) -> bool {
        false
    }
}

/// A command of its API.
pub(super) fn tell(router: &Router, command: &str) {
    let mut commands = fs::File::options()
        .read(true)
        .write(true)
        .open(router.file("commands"))
        .unwrap();
    commands
        .write_all(format!("{command}\n").as_bytes())
        .unwrap();
}

fn states(router: &Router) -> Vec<String> {
    let events = events(router).into_iter();
    let states = events.filter(|event| event["type"] == "state");
    states
        .filter_map(|event| event["neighbor"]["state"].as_str().map(str::to_owned))
        .collect()
}

fn events(router: &Router) -> Vec<Value> {
    let text = fs::read_to_string(router.file("events")).unwrap_or_default();
    // The last line may not be whole yet.
    let lines = text.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn write(router: &Router) {
    let (commands, events) = (router.path("commands"), router.path("events"));
    if !router.file("commands").exists() {
        run(Command::new("mkfifo").arg(&commands));
    }
    // Its standard output must stay open, or it is taken for dead.
    let script =
        format!("#!/bin/sh\nexec 4<>{commands}\ncat <&4 &\ncat >>{events} 5>&1\nkill $!\n");
    let script = router.write("process", &script);
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let script = script.display().to_string();
    router.write("conf", &configuration(&router.settings, &script));
}

fn configuration(settings: &Settings, process: &str) -> String {
    let Settings {
        asn,
        router_id,
        address,
        neighbor,
        neighbor_as,
        hold_time,
        ..
    } = settings;
    let mut more = String::new();
    if settings.passive {
        more += "passive; ";
    }
    if let Some(password) = &settings.password {
        more += &format!("md5-password \"{password}\"; ");
    }
    if settings.ttl_security {
        more += "outgoing-ttl 255; incoming-ttl 255; ";
    }
    let mut capabilities = String::new();
    if settings.extended_next_hop {
        capabilities += "nexthop enable; ";
        more += "nexthop { ipv4 unicast ipv6; } ";
    }
    if settings.graceful_restart {
        capabilities += "graceful-restart 90; ";
    }
    let routes = settings.networks(|prefix| format!("route {prefix} next-hop self;\n"));
    format!(
        "process events {{ run {process}; encoder json; }}
neighbor {neighbor} {{
  router-id {router_id};
  local-address {address};
  local-as {asn};
  peer-as {neighbor_as};
  hold-time {hold_time};
  {more}
  capability {{ asn4 enable; route-refresh enable; {capabilities} }}
  family {{ ipv4 unicast; ipv6 unicast; }}
  api {{
    processes [ events ];
    neighbor-changes;
    receive {{ parsed; update; notification; open; refresh; }}
  }}
  static {{ {routes} }}
}}
"
    )
}

/// `{"attribute": {…}, "announce": {FAMILY: {NEXT HOP: [{"nlri": PREFIX}]}}, "withdraw": {FAMILY: […]}}`
fn take(routes: &mut BTreeMap<String, Route>, update: &Value) {
    let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let nlri = |value: &Value| {
        let all = list(value).into_iter();
        all.filter_map(|one| one["nlri"].as_str().map(str::to_owned))
            .collect::<Vec<String>>()
    };
    for prefixes in object(&update["withdraw"]).values() {
        for prefix in nlri(prefixes) {
            routes.remove(&prefix);
        }
    }
    for (_, next_hops) in object(&update["announce"]) {
        for (next_hop, prefixes) in object(&next_hops) {
            for prefix in nlri(&prefixes) {
                let route = attributes(&update["attribute"], &next_hop);
                routes.insert(prefix, route);
            }
        }
    }
}

fn attributes(all: &Value, next_hop: &str) -> Route {
    let number = |value: &Value| value.as_u64().map(|number| number as u32);
    let numbers = |value: &Value| list(value).iter().filter_map(number).collect::<Vec<u32>>();
    let path: Vec<String> = numbers(&all["as-path"])
        .iter()
        .map(u32::to_string)
        .collect();
    let mut route = Route {
        next_hop: next_hop.to_owned(),
        med: number(&all["med"]).unwrap_or(0),
        as_path: path.join(" "),
        local_pref: number(&all["local-preference"]),
        origin: origin(all["origin"].as_str().unwrap_or("incomplete")),
        ..Route::default()
    };
    for pair in list(&all["community"]) {
        let pair = numbers(&pair);
        route
            .communities
            .insert(Community::Standard(pair[0] << 16 | pair[1]));
    }
    for triple in list(&all["large-community"]) {
        let triple = numbers(&triple);
        route
            .communities
            .insert(Community::Large(triple[0], triple[1], triple[2]));
    }
    for target in list(&all["extended-community"]) {
        let text = target["string"].as_str().unwrap_or_default();
        route.communities.insert(route_target(text));
    }
    route
}
