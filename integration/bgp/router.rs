//! BIRD and FRR's bgpd as routers: started, asked by their own commands, killed.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::{Namespace, Process, run, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bird,
    Frr,
}

/// What a router makes of a route that comes without.
const OWN_LOCAL_PREF: u32 = 55;

/// How a router shall see us.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) address: String,
    pub(crate) neighbor: String,
    pub(crate) neighbor_as: u32,
    /// It does not connect by itself.
    pub(crate) passive: bool,
    /// What else it announces to us, beside 203.0.113.0/24; IPv4.
    pub(crate) networks: Vec<String>,
}

/// What else a router's configuration says of us.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    /// Lines of the neighbor's part; in FRR's, `US` is our name.
    pub(crate) lines: String,
    /// The neighbor is whoever is at the other end of this interface, as Router Advertisements tell.
    pub(crate) unnumbered: Option<&'static str>,
}

/// What a router knows of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) next_hop: String,
    pub(crate) med: u32,
    pub(crate) as_path: String,
    pub(crate) local_pref: Option<u32>,
}

pub(crate) struct Router {
    kind: Kind,
    settings: Settings,
    extra: Extra,
    folder: TempDir,
    namespace: Namespace,
    /// FRR's zebra, where interfaces matter.
    zebra: Option<Process>,
    process: Option<Process>,
}

impl Router {
    pub(crate) fn start(kind: Kind, namespace: Namespace, settings: Settings) -> Router {
        Router::start_with(kind, namespace, settings, Extra::default())
    }

    pub(crate) fn start_with(
        kind: Kind,
        namespace: Namespace,
        settings: Settings,
        extra: Extra,
    ) -> Router {
        let folder = tempfile::tempdir().unwrap();
        let mut router = Router {
            kind,
            settings,
            extra,
            folder,
            namespace,
            zebra: None,
            process: None,
        };
        router.run();
        router
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Reads a configuration with other lines for us, without a restart. BIRD's way.
    pub(crate) fn reconfigure(&mut self, lines: &str) {
        assert_eq!(self.kind, Kind::Bird);
        lines.clone_into(&mut self.extra.lines);
        let text = bird(&self.settings, &self.extra, &self.file("log"));
        fs::write(self.file("conf"), text).unwrap();
        let answer = self.ask("configure");
        assert!(answer.contains("Reconfigur"), "{answer}");
    }

    /// Starts it (again) and waits until it answers.
    pub(crate) fn run(&mut self) {
        self.process = None;
        if self.kind == Kind::Frr && self.extra.unnumbered.is_some() {
            self.zebra = None;
            self.zebra = Some(self.zebra());
        }
        let file = |name: &str| self.file(name);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(file("log"))
            .unwrap();
        let mut command = match self.kind {
            Kind::Bird => {
                let text = bird(&self.settings, &self.extra, &file("log"));
                fs::write(file("conf"), text).unwrap();
                let mut command = self.namespace.command("bird");
                command
                    .arg("-f")
                    .arg("-c")
                    .arg(file("conf"))
                    .arg("-s")
                    .arg(file("control"));
                command.arg("-P").arg(file("pid"));
                command
            }
            Kind::Frr => {
                let text = frr(&self.settings, &self.extra, &file("log"));
                fs::write(file("conf"), text).unwrap();
                let mut command = self.namespace.command("/usr/lib/frr/bgpd");
                // No change of user.
                command.args(["-n", "-S"]);
                if self.zebra.is_none() {
                    command.arg("-Z");
                }
                command
                    .arg("-f")
                    .arg(file("conf"))
                    .arg("-i")
                    .arg(file("pid"));
                command
                    .arg("-z")
                    .arg(file("zserv"))
                    .arg("--vty_socket")
                    .arg(self.folder.path());
                command
            }
        };
        let err = log.try_clone().unwrap();
        self.process = Some(Process::start(command.stdout(log).stderr(err)));
        until(Duration::from_secs(10), "the router answers", || {
            let question = match self.kind {
                Kind::Bird => "show status",
                Kind::Frr => "show version",
            };
            let answer = self
                .command(question)
                .stderr(Stdio::null())
                .output()
                .unwrap();
            answer.status.success().then_some(())
        });
    }

    /// It tells bgpd of interfaces and of the routers at their other end. It refuses to stay root.
    fn zebra(&self) -> Process {
        let folder = self.folder.path();
        run(Command::new("chown").args(["frr:frr"]).arg(folder));
        fs::write(self.file("zebra.conf"), "hostname zebra\n").unwrap();
        let log = fs::File::create(self.file("zebra.log")).unwrap();
        let mut command = self.namespace.command("/usr/lib/frr/zebra");
        command.arg("-f").arg(self.file("zebra.conf"));
        command.arg("-i").arg(self.file("zebra.pid"));
        command.arg("-z").arg(self.file("zserv"));
        command.arg("--vty_socket").arg(folder);
        let zebra = Process::start(command.stdout(log.try_clone().unwrap()).stderr(log));
        until(Duration::from_secs(10), "zebra answers", || {
            let mut question = self.namespace.command("vtysh");
            question.arg("--vty_socket").arg(folder);
            question.args(["-d", "zebra", "-c", "show version"]);
            let answer = question.stderr(Stdio::null()).output().unwrap();
            answer.status.success().then_some(())
        });
        zebra
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn freeze(&self) {
        self.process.as_ref().unwrap().signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.process.as_ref().unwrap().signal(Signal::SIGCONT);
    }

    /// What it says to a command of its own.
    pub(crate) fn ask(&self, question: &str) -> String {
        run(&mut self.command(question))
    }

    /// All it has learnt from us, by prefix.
    pub(crate) fn routes(&self) -> BTreeMap<String, Route> {
        match self.kind {
            Kind::Bird => bird_routes(&self.ask("show route all where proto ~ \"lb*\"")),
            Kind::Frr => ["ipv4", "ipv6"]
                .iter()
                .flat_map(|family| {
                    frr_routes(&self.ask(&format!("show bgp {family} unicast json")))
                })
                .collect(),
        }
    }

    /// Waits until it has exactly this.
    pub(crate) fn expect(&self, wanted: &[(String, Route)]) {
        let wanted: BTreeMap<String, Route> = wanted.iter().cloned().collect();
        let mut last = BTreeMap::new();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            last = self.routes();
            if last == wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "{:?} has {last:#?}, not {wanted:#?}\n{}",
            self.kind,
            self.log()
        );
    }

    /// Changes whenever the session has been down.
    pub(crate) fn session(&self) -> String {
        match self.kind {
            // BIRD's own "since" is computed anew each time and may differ by a millisecond.
            Kind::Bird => {
                let times = |words| self.log().matches(words).count();
                let answer = self.ask("show protocols lb");
                let state = answer.split_whitespace().last().unwrap().to_owned();
                let (ups, downs) = (
                    times("BGP session established"),
                    times("BGP session closed"),
                );
                assert_eq!(state == "Established", ups > downs, "{}", self.log());
                format!("{state}, {ups} times up, {downs} times down")
            }
            Kind::Frr => {
                let question = format!("show bgp neighbors {} json", self.settings.neighbor);
                let answer: Value = serde_json::from_str(&self.ask(&question)).unwrap();
                let neighbor = &answer[&self.settings.neighbor];
                format!(
                    "{} {}",
                    neighbor["connectionsEstablished"], neighbor["connectionsDropped"]
                )
            }
        }
    }

    /// How often it has tried to connect to us.
    pub(crate) fn tries(&self) -> usize {
        let words = match self.kind {
            Kind::Bird => "Connecting to",
            // Not its first one, which it gives up while it reads its configuration.
            Kind::Frr => "Timer (start timer expire)",
        };
        self.log().matches(words).count()
    }

    /// BGP connections between us and it as its kernel sees them: ours, and its own.
    pub(crate) fn connections(&self) -> (usize, usize) {
        let mut command = self.namespace.command("ss");
        let lines = run(command.args(["-Htn", "state", "established"]));
        // Receive and send queue, local address, peer address.
        let at_179 = |column: usize| {
            let is = |line: &&str| {
                line.split_whitespace()
                    .nth(column)
                    .is_some_and(|a| a.ends_with(":179"))
            };
            lines.lines().filter(is).count()
        };
        (at_179(2), at_179(3))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    fn command(&self, question: &str) -> Command {
        match self.kind {
            Kind::Bird => {
                let mut command = self.namespace.command("birdc");
                command
                    .arg("-s")
                    .arg(self.file("control"))
                    .args(question.split(' '));
                command
            }
            Kind::Frr => {
                let mut command = self.namespace.command("vtysh");
                command
                    .arg("--vty_socket")
                    .arg(self.folder.path())
                    .args(["-c", question]);
                command
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn bird(settings: &Settings, extra: &Extra, log: &std::path::Path) -> String {
    let Settings {
        asn,
        router_id,
        address,
        neighbor,
        neighbor_as,
        passive,
        networks,
    } = settings;
    let passive = if *passive { "on" } else { "off" };
    let network = |network: &String| format!("route {network} blackhole;");
    let networks: String = networks.iter().map(network).collect();
    let other = if address.contains(':') {
        ""
    } else {
        "next hop address fd00:9::fe;"
    };
    let (radv, ends) = match extra.unnumbered {
        Some(wire) => (
            format!(
                "protocol radv {{ interface \"{wire}\" {{ min ra interval 3; max ra interval 4; }}; }}"
            ),
            format!(
                "local as {asn}; neighbor range fe80::/10 as {neighbor_as}; interface \"{wire}\";
                 dynamic name \"lb\";"
            ),
        ),
        None => (
            String::new(),
            format!("local {address} as {asn}; neighbor {neighbor} as {neighbor_as};"),
        ),
    };
    let lines = &extra.lines;
    format!(
        "log \"{}\" all;
         router id {router_id};
         protocol device {{ }}
         protocol static {{ ipv4; route 203.0.113.0/24 blackhole; route 0.0.0.0/0 blackhole; {networks} }}
         {radv}
         protocol bgp lb {{
           debug {{ states, routes, events, packets }};
           {ends}
           hold time 3; connect delay time 1; connect retry time 1; error wait time 1, 2;
           passive {passive}; direct; default bgp_local_pref {OWN_LOCAL_PREF};
           {lines}
           ipv4 {{ import all; export all; }};
           ipv6 {{ import all; export none; {other} }};
         }}\n",
        log.display()
    )
}

fn frr(settings: &Settings, extra: &Extra, log: &std::path::Path) -> String {
    let Settings {
        asn,
        router_id,
        neighbor,
        neighbor_as,
        passive,
        networks,
        ..
    } = settings;
    let network = |network: &String| format!("  network {network}\n");
    let networks: String = networks.iter().map(network).collect();
    let passive = if *passive {
        format!("neighbor {neighbor} passive")
    } else {
        String::new()
    };
    let remote = match extra.unnumbered {
        Some(wire) => format!("neighbor {wire} interface remote-as {neighbor_as}"),
        None => format!(
            "neighbor {neighbor} remote-as {neighbor_as}\n neighbor {neighbor} disable-connected-check"
        ),
    };
    let neighbor = extra.unnumbered.unwrap_or(neighbor);
    let lines = extra.lines.replace("US", neighbor);
    format!(
        "log file {}
debug bgp neighbor-events
debug bgp updates
router bgp {asn}
 bgp router-id {router_id}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp default local-preference {OWN_LOCAL_PREF}
 no bgp default ipv4-unicast
 {remote}
 neighbor {neighbor} timers 1 3
 neighbor {neighbor} timers connect 1
 {passive}
 {lines}
 address-family ipv4 unicast
  network 203.0.113.0/24
{networks}  neighbor {neighbor} activate
 exit-address-family
 address-family ipv6 unicast
  neighbor {neighbor} activate
 exit-address-family
!\n",
        log.display()
    )
}

/// `show route all`: a line with the prefix, then indented lines.
fn bird_routes(text: &str) -> BTreeMap<String, Route> {
    let mut routes: BTreeMap<String, Route> = BTreeMap::new();
    let mut prefix = String::new();
    for line in text.lines() {
        if line.contains(" unicast [") {
            line.split(' ').next().unwrap().clone_into(&mut prefix);
            let empty = Route {
                next_hop: String::new(),
                med: 0,
                as_path: String::new(),
                local_pref: None,
            };
            routes.insert(prefix.clone(), empty);
        }
        let Some((name, value)) = line.trim().split_once(':') else {
            continue;
        };
        let (Some(route), value) = (routes.get_mut(&prefix), value.trim()) else {
            continue;
        };
        match name {
            "BGP.next_hop" => value.clone_into(&mut route.next_hop),
            "BGP.med" => route.med = value.parse().unwrap(),
            "BGP.as_path" => value.clone_into(&mut route.as_path),
            "BGP.local_pref" => route.local_pref = local_pref(value.parse().unwrap()),
            _ => {}
        }
    }
    routes
}

/// `None` if it is the router's own idea.
fn local_pref(number: u32) -> Option<u32> {
    Some(number).filter(|number| *number != OWN_LOCAL_PREF)
}

fn frr_routes(text: &str) -> BTreeMap<String, Route> {
    let answer: Value = serde_json::from_str(text).unwrap();
    let table = answer["routes"].as_object().cloned().unwrap_or_default();
    let mut routes = BTreeMap::new();
    for (prefix, paths) in table {
        let path = &paths[0];
        // Its own network.
        if path["weight"] == 32768 {
            continue;
        }
        let number = |key: &str| path[key].as_u64().map(|number| number as u32);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let route = Route {
            next_hop: text(&path["nexthops"][0]["ip"]),
            med: number("metric").unwrap_or(0),
            as_path: text(&path["path"]),
            local_pref: number("locPrf").and_then(local_pref),
        };
        routes.insert(prefix, route);
    }
    routes
}
