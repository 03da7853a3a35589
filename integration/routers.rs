//! Routers from Debian, with one face: started in a network namespace, asked by their own commands,
//! frozen, killed. How each one is configured and asked stands in its file under `routers/`.

#[path = "routers/bird.rs"]
mod bird;
#[path = "routers/exabgp.rs"]
mod exabgp;
#[path = "routers/frr.rs"]
mod frr;
#[path = "routers/gobgp.rs"]
mod gobgp;
#[path = "routers/openbgpd.rs"]
mod openbgpd;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll::routing::{Community, Origin, WELL_KNOWN};
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::{Namespace, Process, run, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bird,
    Frr,
    GoBgp,
    OpenBgpd,
    ExaBgp,
}

/// What BIRD and FRR make of a route that comes without.
const OWN_LOCAL_PREF: u32 = 55;

/// What a router is and how it shall see us.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) address: String,
    /// A link-local address comes with its interface: `fe80::1%wire`.
    pub(crate) neighbor: String,
    pub(crate) neighbor_as: u32,
    /// It does not connect by itself.
    pub(crate) passive: bool,
    /// Seconds.
    pub(crate) hold_time: u16,
    /// TCP MD5 (RFC 2385).
    pub(crate) password: Option<String>,
    /// GTSM (RFC 5082), one hop.
    pub(crate) ttl_security: bool,
    /// RFC 8950.
    pub(crate) extended_next_hop: bool,
    /// RFC 8654, where it is not offered anyway.
    pub(crate) extended_messages: bool,
    /// It keeps routes of who restarts, and restarts so itself (RFC 4724).
    pub(crate) graceful_restart: bool,
    /// Its own (RFC 9234): `customer`, `provider`, `peer`.
    pub(crate) role: Option<&'static str>,
    /// The neighbor is whoever is at the other end of this interface.
    pub(crate) unnumbered: Option<&'static str>,
    /// What it announces to us beside 203.0.113.0/24; IPv4.
    pub(crate) networks: Vec<String>,
    /// More lines of the neighbor's part, of BIRD or FRR; in FRR's, `US` is our name.
    pub(crate) lines: String,
    /// Somebody else, in AS 65100, whose routes it passes on to us.
    pub(crate) feeder: Option<String>,
    /// BIRD alone: what it learns goes into its kernel's table, too.
    pub(crate) kernel: bool,
    /// It does not log every route and message.
    pub(crate) quiet: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            asn: 65001,
            router_id: Ipv4Addr::new(10, 9, 0, 2),
            address: "10.9.0.2".into(),
            neighbor: "10.9.0.1".into(),
            neighbor_as: 4_200_000_001,
            passive: false,
            hold_time: 3,
            password: None,
            ttl_security: false,
            extended_next_hop: false,
            extended_messages: false,
            graceful_restart: false,
            role: None,
            unnumbered: None,
            networks: Vec::new(),
            lines: String::new(),
            feeder: None,
            kernel: false,
            quiet: false,
        }
    }
}

pub(crate) const FEEDER_AS: u32 = 65100;

/// The n-th prefix that a router or a feeder announces; all are of length 24, and there are a few million.
pub(crate) fn prefix(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0b00_0000 + (n << 8))
}

/// What a router knows of one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) next_hop: String,
    pub(crate) med: u32,
    pub(crate) as_path: String,
    pub(crate) local_pref: Option<u32>,
    pub(crate) origin: Origin,
    pub(crate) communities: BTreeSet<Community>,
}

/// What differs from router to router.
trait Driver {
    /// Writes what the router reads, and says how it is run in the foreground. Its output becomes its log.
    fn command(&self, router: &Router) -> Command;

    /// A command of the router's own client.
    fn client(&self, router: &Router, question: &str) -> Command;

    /// Whether it is there.
    fn answers(&self, router: &Router) -> bool;

    /// All it has learnt from us, by prefix.
    fn routes(&self, router: &Router) -> BTreeMap<String, Route>;

    /// Whether it has this prefix, asked for that alone.
    fn knows(&self, router: &Router, prefix: &str) -> bool;

    fn established(&self, router: &Router) -> bool;

    /// Changes whenever the session comes up or goes down.
    fn changes(&self, router: &Router) -> String;

    /// Makes the settings that have changed count, as an operator would.
    fn reload(&self, router: &Router);

    /// Resets the session by its own command.
    fn clear(&self, router: &Router);

    /// Asks us for our routes of IPv4 again.
    fn refresh(&self, router: &Router);

    /// Administrative Shutdown with a text (RFC 9003); `false`: it cannot.
    fn shut(&self, router: &Router, text: &str) -> bool;
}

impl Kind {
    fn driver(self) -> &'static dyn Driver {
        match self {
            Kind::Bird => &bird::Bird,
            Kind::Frr => &frr::Frr,
            Kind::GoBgp => &gobgp::GoBgp,
            Kind::OpenBgpd => &openbgpd::OpenBgpd,
            Kind::ExaBgp => &exabgp::ExaBgp,
        }
    }
}

pub(crate) struct Router {
    kind: Kind,
    pub(crate) settings: Settings,
    folder: TempDir,
    namespace: Namespace,
    process: Option<Process>,
    /// FRR's, where interfaces matter.
    zebra: Option<Process>,
}

impl Router {
    pub(crate) fn start(kind: Kind, namespace: Namespace, settings: Settings) -> Router {
        let folder = tempfile::tempdir().unwrap();
        let mut router = Router {
            kind,
            settings,
            folder,
            namespace,
            process: None,
            zebra: None,
        };
        router.run();
        router
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Starts it (again) and waits until it answers.
    pub(crate) fn run(&mut self) {
        self.kill();
        if self.kind == Kind::Frr && self.settings.needs_interfaces() {
            self.zebra = Some(frr::zebra(self));
        }
        let mut command = self.kind.driver().command(self);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.file("log"))
            .unwrap();
        let err = log.try_clone().unwrap();
        self.process = Some(Process::start(command.stdout(log).stderr(err)));
        let begun = Instant::now();
        while !self.kind.driver().answers(self) {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{:?} does not answer: {}",
                self.kind,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.kind == Kind::GoBgp {
            gobgp::announce(self);
        }
    }

    /// All of its processes, at once.
    pub(crate) fn kill(&mut self) {
        if self.process.is_some() {
            self.signal(Signal::SIGKILL);
        }
        self.process = None;
        self.zebra = None;
    }

    /// As its operator stops it, and waits for its end.
    pub(crate) fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.signal(Signal::SIGTERM);
        until(Duration::from_secs(20), "the router ends", || {
            process.ended().then_some(())
        });
        self.zebra = None;
    }

    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// To each of its processes: one of several may be the one that speaks BGP.
    fn signal(&self, signal: Signal) {
        let mut family = vec![self.process.as_ref().unwrap().id()];
        let mut next = 0;
        while let Some(parent) = family.get(next) {
            let children = format!("/proc/{parent}/task/{parent}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            family.extend(
                children
                    .split_whitespace()
                    .map(|id| id.parse::<u32>().unwrap()),
            );
            next += 1;
        }
        for id in family {
            // A child may have ended since.
            let _ = kill(Pid::from_raw(id as i32), signal);
        }
    }

    /// What it says to a command of its own.
    pub(crate) fn ask(&self, question: &str) -> String {
        run(&mut self.kind.driver().client(self, question))
    }

    fn says(&self, question: &str) -> bool {
        let mut command = self.kind.driver().client(self, question);
        let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
        silent.status().unwrap().success()
    }

    /// All it has learnt from us, by prefix.
    pub(crate) fn routes(&self) -> BTreeMap<String, Route> {
        self.kind.driver().routes(self)
    }

    /// Whether it has this prefix, also among a million.
    pub(crate) fn knows(&self, prefix: &str) -> bool {
        self.kind.driver().knows(self, prefix)
    }

    /// Waits until it has exactly this.
    #[track_caller]
    pub(crate) fn expect(&self, wanted: &[(String, Route)]) {
        let wanted: BTreeMap<String, Route> = wanted.iter().cloned().collect();
        let mut last = BTreeMap::new();
        let begun = Instant::now();
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

    pub(crate) fn established(&self) -> bool {
        self.kind.driver().established(self)
    }

    /// Changes whenever the session comes up or goes down.
    pub(crate) fn session(&self) -> String {
        self.kind.driver().changes(self)
    }

    /// Whether it is trying to connect to us right now.
    pub(crate) fn connects(&self) -> bool {
        let mut command = self.namespace.command("ss");
        run(command.args(["-Htn", "state", "syn-sent"])).contains(":179")
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

    /// Changes its settings and makes them count, without stopping it.
    pub(crate) fn reconfigure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.kind.driver().reload(self);
    }

    pub(crate) fn clear(&self) {
        self.kind.driver().clear(self);
    }

    pub(crate) fn refresh(&self) {
        self.kind.driver().refresh(self);
    }

    pub(crate) fn shut(&self, text: &str) -> bool {
        self.kind.driver().shut(self, text)
    }

    /// BIRD's control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.file("control")
    }

    /// A command of ExaBGP's API.
    pub(crate) fn tell(&self, command: &str) {
        assert_eq!(self.kind, Kind::ExaBgp);
        exabgp::tell(self, command);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As the router's configuration is to name it.
    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Settings {
    /// Whether the router must know its interfaces, for which FRR has a daemon of its own.
    fn needs_interfaces(&self) -> bool {
        self.unnumbered.is_some() || self.neighbor.contains('%')
    }

    /// What it announces, in lines of its configuration.
    fn networks(&self, line: impl Fn(&str) -> String) -> String {
        self.networks.iter().map(|prefix| line(prefix)).collect()
    }

    /// The neighbor's address and interface.
    fn link_local(&self) -> (&str, Option<&str>) {
        match self.neighbor.split_once('%') {
            Some((address, interface)) => (address, Some(interface)),
            None => (&self.neighbor, None),
        }
    }
}

/// `64512:100`, or a well-known one's name as routers write it: `NO_EXPORT`, `no-export`, `gshut`.
fn standard(text: &str) -> Community {
    let name = text.to_lowercase().replace('_', "-");
    let name = if name == "gshut" {
        "graceful-shutdown"
    } else {
        name.as_str()
    };
    if let Some((_, value)) = WELL_KNOWN.iter().find(|(known, _)| *known == name) {
        return Community::Standard(*value);
    }
    let numbers = numbers(text);
    Community::Standard(numbers[0] << 16 | numbers[1])
}

/// `4200000001:1:2`
fn large(text: &str) -> Community {
    let numbers = numbers(text);
    Community::Large(numbers[0], numbers[1], numbers[2])
}

/// A route target of an AS with a 2-byte number (RFC 4360 section 4), `64512:100`.
fn route_target(text: &str) -> Community {
    let numbers = numbers(text);
    let value = 0x0002 << 48 | u64::from(numbers[0]) << 32 | u64::from(numbers[1]);
    Community::Extended(value.to_be_bytes())
}

/// A list of JSON; of anything else none.
fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// All numbers of a text, whatever is between them.
fn numbers(text: &str) -> Vec<u32> {
    let words = text.split(|c: char| !c.is_ascii_digit());
    words
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().unwrap())
        .collect()
}

fn origin(text: &str) -> Origin {
    match text.to_lowercase().as_str() {
        "igp" => Origin::Igp,
        "egp" => Origin::Egp,
        "incomplete" => Origin::Incomplete,
        other => panic!("origin {other}?"),
    }
}
