//! OpenBGPD, as it is ported to Linux.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use super::{Driver, FEEDER_AS, Route, Router, Settings};
use super::{large, list, origin, route_target, standard};
use crate::netns::run;

pub(super) struct OpenBgpd;

impl Driver for OpenBgpd {
    fn command(&self, router: &Router) -> Command {
        // It goes there when it gives up its rights.
        fs::create_dir_all("/run/openbgpd").unwrap();
        write(router);
        let mut command = router.namespace.command("/usr/sbin/bgpd");
        command.arg("-d").arg("-f").arg(router.file("conf"));
        command
    }

    fn client(&self, router: &Router, question: &str) -> Command {
        let mut command = router.namespace.command("/usr/sbin/bgpctl");
        command.arg("-j").arg("-s").arg(router.file("control"));
        command.args(question.split(' '));
        command
    }

    fn answers(&self, router: &Router) -> bool {
        router.says("show summary")
    }

    fn routes(&self, router: &Router) -> BTreeMap<String, Route> {
        let answer = router.ask("show rib detail");
        routes(&serde_json::from_str(&answer).unwrap_or_default())
    }

    fn knows(&self, router: &Router, prefix: &str) -> bool {
        router.ask(&format!("show rib {prefix}")).contains(prefix)
    }

    fn established(&self, router: &Router) -> bool {
        neighbor(router)["state"] == "Established"
    }

    fn changes(&self, router: &Router) -> String {
        let log = router.log();
        let times = |words| log.matches(words).count();
        let (ups, downs) = ("-> Established", "change Established ->");
        format!("{} {}", times(ups), times(downs))
    }

    fn reload(&self, router: &Router) {
        write(router);
        router.ask("reload");
    }

    fn clear(&self, router: &Router) {
        router.ask("neighbor lb clear");
    }

    fn refresh(&self, router: &Router) {
        router.ask("neighbor lb refresh");
    }

    fn shut(&self, router: &Router, text: &str) -> bool {
        run(self.client(router, "neighbor lb down").arg(text));
        true
    }
}

fn neighbor(router: &Router) -> Value {
    let mut answer: Value = serde_json::from_str(&router.ask("show neighbor lb")).unwrap();
    answer["neighbors"][0].take()
}

/// It reads no file that others may write or read.
fn write(router: &Router) {
    let text = configuration(&router.settings, &router.path("control"));
    let path = router.write("conf", &text);
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn configuration(settings: &Settings, control: &str) -> String {
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
        more += "passive\n";
    }
    if settings.ttl_security {
        more += "ttl-security yes\n";
    }
    if let Some(password) = &settings.password {
        more += &format!("tcp md5sig password \"{password}\"\n");
    }
    if let Some(role) = settings.role {
        more += &format!("announce policy {role}\n");
    }
    let networks = settings.networks(|prefix| format!("network {prefix}\n"));
    let feeder = match &settings.feeder {
        None => String::new(),
        Some(feeder) => format!(
            "neighbor {feeder} {{
               descr \"feeder\"
               remote-as {FEEDER_AS}
               passive
               holdtime 240
               announce IPv4 unicast
               export none
             }}"
        ),
    };
    format!(
        "AS {asn}
router-id {router_id}
socket \"{control}\"
fib-update no
connect-retry 1
{networks}{feeder}
neighbor {neighbor} {{
  descr \"lb\"
  remote-as {neighbor_as}
  local-address {address}
  holdtime {hold_time}
  announce IPv4 unicast
  announce IPv6 unicast
  announce enhanced refresh yes
  {more}}}
allow from any
allow to any
"
    )
}

fn routes(answer: &Value) -> BTreeMap<String, Route> {
    let mut routes = BTreeMap::new();
    for path in answer["rib"].as_array().into_iter().flatten() {
        if path["neighbor"]["description"] != "lb" {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let words = |key: &str| list(&path[key]).iter().map(text).collect::<Vec<String>>();
        let number = |key: &str| path[key].as_u64().unwrap_or(0) as u32;
        let mut route = Route {
            next_hop: text(&path["exit_nexthop"]),
            med: number("metric"),
            as_path: text(&path["aspath"]),
            // Its own idea of a route that comes without.
            local_pref: Some(number("localpref")).filter(|number| *number != 100),
            origin: origin(&text(&path["origin"])),
            ..Route::default()
        };
        let all = &mut route.communities;
        all.extend(words("communities").iter().map(|word| standard(word)));
        all.extend(words("large_communities").iter().map(|word| large(word)));
        let targets = words("extended_communities");
        all.extend(targets.iter().map(|word| route_target(word)));
        routes.insert(text(&path["prefix"]), route);
    }
    routes
}
