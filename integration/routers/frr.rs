//! FRR's bgpd, with zebra where it must know interfaces.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Driver, FEEDER_AS, OWN_LOCAL_PREF, Route, Router, Settings};
use super::{large, origin, route_target, standard};
use crate::netns::{Process, run, until};

pub(super) struct Frr;

impl Driver for Frr {
    fn command(&self, router: &Router) -> Command {
        let text = configuration(&router.settings, &router.path("log"));
        let mut command = router.namespace.command("/usr/lib/frr/bgpd");
        // No change of user, and nothing for the kernel.
        command.args(["-n", "-S"]);
        if !router.settings.needs_interfaces() {
            command.arg("-Z");
        }
        command.arg("-f").arg(router.write("conf", &text));
        command.arg("-i").arg(router.file("pid"));
        command.arg("-z").arg(router.file("zserv"));
        command.arg("--vty_socket").arg(router.folder.path());
        command
    }

    fn client(&self, router: &Router, question: &str) -> Command {
        let mut command = router.namespace.command("vtysh");
        command.arg("--vty_socket").arg(router.folder.path());
        command.args(["-d", "bgpd", "-c", question]);
        command
    }

    fn answers(&self, router: &Router) -> bool {
        router.says("show version")
    }

    fn routes(&self, router: &Router) -> BTreeMap<String, Route> {
        let of = |family| router.ask(&format!("show bgp {family} unicast json detail"));
        let families = ["ipv4", "ipv6"];
        families.iter().flat_map(|f| routes(&of(f))).collect()
    }

    fn knows(&self, router: &Router, prefix: &str) -> bool {
        let question = format!("show bgp ipv4 unicast {prefix} json");
        router.ask(&question).contains(prefix)
    }

    fn established(&self, router: &Router) -> bool {
        neighbor(router)["bgpState"] == "Established"
    }

    fn changes(&self, router: &Router) -> String {
        let neighbor = neighbor(router);
        let (ups, downs) = ("connectionsEstablished", "connectionsDropped");
        format!("{} {}", neighbor[ups], neighbor[downs])
    }

    fn reload(&self, router: &Router) {
        let text = configuration(&router.settings, &router.path("log"));
        router.write("conf", &text);
        let mut command = self.client(router, "configure terminal");
        for line in text.lines().map(str::trim).filter(|line| *line != "!") {
            command.args(["-c", line]);
        }
        run(&mut command);
    }

    fn clear(&self, router: &Router) {
        router.ask("clear bgp *");
    }

    fn refresh(&self, router: &Router) {
        router.ask(&format!(
            "clear bgp ipv4 unicast {} in",
            peer(&router.settings)
        ));
    }

    fn shut(&self, router: &Router, text: &str) -> bool {
        let mut command = self.client(router, "configure terminal");
        command.args(["-c", &format!("router bgp {}", router.settings.asn)]);
        let peer = peer(&router.settings);
        let order = format!("neighbor {peer} shutdown message {text}");
        run(command.args(["-c", &order]));
        true
    }
}

/// It tells bgpd of interfaces and of the routers at their other end. It refuses to stay root.
pub(super) fn zebra(router: &Router) -> Process {
    let folder = router.folder.path();
    run(Command::new("chown").args(["frr:frr"]).arg(folder));
    let log = fs::File::create(router.file("zebra.log")).unwrap();
    let mut command = router.namespace.command("/usr/lib/frr/zebra");
    let conf = router.write("zebra.conf", "hostname zebra\n");
    command.arg("-f").arg(conf);
    command.arg("-i").arg(router.file("zebra.pid"));
    command.arg("-z").arg(router.file("zserv"));
    command.arg("--vty_socket").arg(folder);
    let zebra = Process::start(command.stdout(log.try_clone().unwrap()).stderr(log));
    until(Duration::from_secs(10), "zebra answers", || {
        let mut question = router.namespace.command("vtysh");
        question.arg("--vty_socket").arg(folder);
        question.args(["-d", "zebra", "-c", "show version"]);
        let answer = question.stderr(Stdio::null()).output().unwrap();
        answer.status.success().then_some(())
    });
    zebra
}

/// As its commands name it.
fn peer(settings: &Settings) -> &str {
    settings.unnumbered.unwrap_or(settings.link_local().0)
}

fn neighbor(router: &Router) -> Value {
    let peer = peer(&router.settings);
    let answer = router.ask(&format!("show bgp neighbors {peer} json"));
    let mut answer: Value = serde_json::from_str(&answer).unwrap();
    answer[peer].take()
}

fn configuration(settings: &Settings, log: &str) -> String {
    let Settings {
        asn,
        router_id,
        neighbor_as,
        hold_time,
        ..
    } = settings;
    let keepalive = hold_time / 3;
    let peer = peer(settings);
    let mut more = match settings.unnumbered {
        Some(interface) => format!(" neighbor {interface} interface remote-as {neighbor_as}\n"),
        None => format!(" neighbor {peer} remote-as {neighbor_as}\n"),
    };
    if let (_, Some(interface)) = settings.link_local() {
        more += &format!(" neighbor {peer} interface {interface}\n");
    }
    let mut say = |wanted: bool, words: &str| {
        if wanted {
            more += &format!(" neighbor {peer} {words}\n");
        }
    };
    say(settings.passive, "passive");
    say(settings.ttl_security, "ttl-security hops 1");
    // The two exclude each other.
    let connected = settings.ttl_security || settings.needs_interfaces();
    say(!connected, "disable-connected-check");
    say(settings.graceful_restart, "graceful-restart");
    say(settings.extended_next_hop, "capability extended-nexthop");
    if let Some(password) = &settings.password {
        say(true, &format!("password {password}"));
    }
    if let Some(role) = settings.role {
        say(true, &format!("local-role {role}"));
    }
    more += &format!(" {}\n", settings.lines.replace("US", peer));
    let networks = settings.networks(|prefix| format!("  network {prefix}\n"));
    let (feeder, feeds) = match &settings.feeder {
        None => (String::new(), String::new()),
        Some(feeder) => (
            format!(
                " neighbor {feeder} remote-as {FEEDER_AS}\n neighbor {feeder} timers 80 240\n \
                 neighbor {feeder} passive\n neighbor {feeder} disable-connected-check\n"
            ),
            format!("  neighbor {feeder} activate\n"),
        ),
    };
    let debug = if settings.quiet {
        ""
    } else {
        "debug bgp updates\n"
    };
    format!(
        "log file {log}
debug bgp neighbor-events
{debug}router bgp {asn}
 bgp router-id {router_id}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp default local-preference {OWN_LOCAL_PREF}
 no bgp default ipv4-unicast
{more} neighbor {peer} timers {keepalive} {hold_time}
 neighbor {peer} timers connect 1
{feeder} address-family ipv4 unicast
  network 203.0.113.0/24
{networks}  neighbor {peer} activate
{feeds} exit-address-family
 address-family ipv6 unicast
  neighbor {peer} activate
 exit-address-family
!\n"
    )
}

/// `"PREFIX": [{"prefix": …}, PATH, …]`
fn routes(text: &str) -> BTreeMap<String, Route> {
    let answer: Value = serde_json::from_str(text).unwrap();
    let table = answer["routes"].as_object().cloned().unwrap_or_default();
    let mut routes = BTreeMap::new();
    for (prefix, paths) in table {
        let path = &paths[1];
        // Its own network.
        if path["weight"] == 32768 {
            continue;
        }
        let number = |key: &str| path[key].as_u64().map(|number| number as u32);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let words = |key: &str| text(&path[key]["string"]);
        let mut route = Route {
            next_hop: text(&path["nexthops"][0]["ip"]),
            med: number("metric").unwrap_or(0),
            as_path: words("aspath"),
            local_pref: number("locPrf").filter(|number| *number != OWN_LOCAL_PREF),
            origin: origin(&text(&path["origin"])),
            ..Route::default()
        };
        if route.as_path == "Local" {
            route.as_path.clear();
        }
        let all = &mut route.communities;
        all.extend(words("community").split_whitespace().map(standard));
        all.extend(words("largeCommunity").split_whitespace().map(large));
        let targets = words("extendedCommunity");
        all.extend(targets.split_whitespace().map(route_target));
        routes.insert(prefix, route);
    }
    routes
}
