//! The real program in a network namespace of its own: configured, started, asked over its API, stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use plimsoll::routing::GRACEFUL_SHUTDOWN;
use tempfile::TempDir;

use crate::client;
use crate::netns::{Namespace, run, until};
use crate::router::{Kind, Route, Router, Settings};

pub(crate) use crate::process::{Daemon, SOON};

/// Where the API listens if nothing is said of it.
const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

pub(crate) const LOCAL_AS: u32 = 64600;
pub(crate) const ROUTER_AS: u32 = 65001;

/// The balancer's host: where the daemon, its servers and the routers' wire are.
pub(crate) struct Lab {
    pub(crate) namespace: Namespace,
    folder: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        Lab {
            namespace: Namespace::new("lb"),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A place for a file of the test's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.file("plimsoll.toml")
    }

    pub(crate) fn configure(&self, sections: &[&dyn fmt::Display]) {
        let mut text = format!(
            "[daemon]\nstate-directory = \"{}\"\n",
            self.file("state").display()
        );
        for section in sections {
            text += &format!("\n{section}");
        }
        // Daemons of other tests run at the same time, and /run is everybody's.
        if !sections
            .iter()
            .any(|section| section.to_string().starts_with("[api]"))
        {
            text += &format!("\n{}", self.api(""));
        }
        // By rename, as configuration management does it.
        let new = self.file("plimsoll.toml.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.config()).unwrap();
    }

    /// `[api]` with these keys beside the control socket of this test's own.
    pub(crate) fn api(&self, keys: &str) -> String {
        format!("[api]\ncontrol = {:?}\n{keys}", self.file("control"))
    }

    /// One more section.
    pub(crate) fn add(&self, section: &dyn fmt::Display) {
        let mut file = File::options().append(true).open(self.config()).unwrap();
        file.write_all(section.to_string().as_bytes()).unwrap();
    }

    /// `plimsoll WORDS -c CONFIG` in the namespace.
    pub(crate) fn plimsoll(&self, words: &str) -> Command {
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(words.split(' ')).arg("-c").arg(self.config());
        command
    }

    /// The daemon with a table in memory, running.
    pub(crate) fn start(&self) -> Daemon {
        let daemon = self.daemon("run --ipvs memory");
        self.until_it_answers();
        daemon
    }

    /// A daemon that was just told to start; what it logs goes to a file.
    pub(crate) fn daemon(&self, words: &str) -> Daemon {
        let log = self.file("log");
        let file = File::options().create(true).append(true).open(&log);
        let mut command = self.plimsoll(words);
        Daemon::spawn(command.stderr(file.unwrap()), log)
    }

    pub(crate) fn until_it_answers(&self) {
        until(SOON, "the API answers", || self.get("/healthz"));
    }

    /// The answer's body, of whatever status; `None` if there is no answer.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        self.inside(|| client::get(API, path, "text/plain"))
    }

    /// Waits until the answer in JSON has this in it.
    pub(crate) fn until_json(&self, path: &str, part: &str) {
        until(SOON, &format!("{path} has {part}"), || {
            let answer = self.inside(|| client::get(API, path, "application/json"))?;
            answer.contains(part).then_some(())
        });
    }

    /// `/pools/NAME` by server.
    pub(crate) fn pool(&self, name: &str) -> BTreeMap<String, String> {
        let text = self.get(&format!("/pools/{name}")).unwrap_or_default();
        let row = |line: &str| {
            let (host, state) = line.split_once(":\t")?;
            Some((host.to_owned(), state.to_owned()))
        };
        text.lines().filter_map(row).collect()
    }

    /// Waits until the pool is exactly this.
    pub(crate) fn expect_pool(&self, name: &str, servers: &[(&str, &str)]) {
        let wanted = servers
            .iter()
            .map(|(host, state)| (host.to_string(), state.to_string()));
        let wanted: BTreeMap<_, _> = wanted.collect();
        let what = format!("pool {name} is {wanted:?}");
        until(SOON, &what, || (self.pool(name) == wanted).then_some(()));
    }

    /// Waits for an alert that contains this; gives all of the alerts' text.
    pub(crate) fn until_alert(&self, part: &str) -> String {
        until(SOON, &format!("the alert {part:?}"), || {
            self.get("/alerts").filter(|text| text.contains(part))
        })
    }

    pub(crate) fn until_no_alert(&self, part: &str) {
        until(SOON, &format!("no alert {part:?}"), || {
            let text = self.get("/alerts")?;
            (!text.contains(part)).then_some(())
        });
    }

    /// One figure of `/metrics`, by its name and labels.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics")?;
        let value = |line: &str| line.strip_prefix(series)?.trim().parse().ok();
        text.lines().find_map(value)
    }

    /// The addresses on lo that the machine has not by itself, as ip(8) shows them.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let mut ip = self.namespace.command("ip");
        let text = run(ip.args(["-o", "address", "show", "dev", "lo"]));
        let own = |line: &&str| !line.contains(" 127.") && !line.contains(" ::1/128");
        text.lines().filter(own).map(str::to_owned).collect()
    }

    pub(crate) fn has_address(&self, address: &str) -> bool {
        let address = format!(" {address}/");
        self.addresses().iter().any(|line| line.contains(&address))
    }

    /// Does something with sockets there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace.handle();
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                namespace.enter();
                work()
            });
            there.join().unwrap()
        })
    }

    /// The wire that routers are on; the balancer has 10.9.0.1 and fd00:9::1 there.
    pub(crate) fn wire(&self) {
        self.namespace.ip("link add wire type bridge");
        self.namespace.ip("address add 10.9.0.1/24 dev wire");
        self.namespace.ip("address add fd00:9::1/64 dev wire nodad");
        self.namespace.ip("link set wire up");
    }

    /// A host on the wire, with 10.9.0.N and fd00:9::N.
    pub(crate) fn cable(&self, n: u8) -> Namespace {
        let (namespace, device) = (Namespace::new("rt"), format!("veth{n}"));
        let (v4, v6) = (format!("10.9.0.{n}/24"), format!("fd00:9::{n}/64"));
        self.namespace.cable(&device, &[], &namespace, &[&v4, &v6]);
        self.namespace.ip(&format!("link set {device} master wire"));
        namespace
    }

    /// BIRD on such a host; it may wait to be connected to.
    pub(crate) fn router(&self, n: u8, passive: bool) -> Router {
        let settings = Settings {
            asn: ROUTER_AS,
            router_id: Ipv4Addr::new(10, 9, 0, n),
            address: format!("10.9.0.{n}"),
            neighbor: "10.9.0.1".into(),
            neighbor_as: LOCAL_AS,
            passive,
            ..Settings::default()
        };
        Router::start(Kind::Bird, self.cable(n), settings)
    }
}

/// `[bgp]` with these peers; hold time 3 s.
pub(crate) fn bgp(peers: &[u8]) -> String {
    let mut text = format!(
        "[bgp]
local-as = {LOCAL_AS}
router-id = \"10.9.0.1\"
next-hop-ipv4 = \"10.9.0.1\"
next-hop-ipv6 = \"fd00:9::1\"
hold-time = \"3s\"\n"
    );
    for n in peers {
        text += &format!("[[bgp.peer]]\naddress = \"10.9.0.{n}\"\npeer-as = {ROUTER_AS}\n");
    }
    text
}

/// What the router has of an address of ours.
pub(crate) fn route(prefix: &str, med: u32) -> (String, Route) {
    let next_hop = if prefix.contains(':') {
        "fd00:9::1"
    } else {
        "10.9.0.1"
    };
    let route = Route {
        next_hop: next_hop.into(),
        med,
        as_path: LOCAL_AS.to_string(),
        ..Route::default()
    };
    (prefix.to_owned(), route)
}

/// The same while the address has failed; healthy it has this MED.
pub(crate) fn failed(prefix: &str, med: u32) -> (String, Route) {
    let (prefix, mut route) = route(prefix, med + 1000);
    route.communities.insert(GRACEFUL_SHUTDOWN);
    (prefix, route)
}

/// `[service.NAME]` at port 80.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    name: String,
    keys: String,
    tables: String,
}

impl Service {
    pub(crate) fn new(name: &str, address: &str) -> Service {
        Service {
            name: name.into(),
            keys: format!(
                "address = \"{address}\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"wrr\"\n"
            ),
            tables: String::new(),
        }
    }

    pub(crate) fn port(mut self, port: u16) -> Service {
        self.keys = self.keys.replace("port = 80", &format!("port = {port}"));
        self
    }

    /// One more line of the service's own table.
    pub(crate) fn key(mut self, line: &str) -> Service {
        self.keys += &format!("{line}\n");
        self
    }

    pub(crate) fn med(mut self, med: u32) -> Service {
        self.tables += &format!("[service.{}.bgp]\nmed = {med}\n", self.name);
        self
    }

    pub(crate) fn servers(mut self, hosts: &[&str]) -> Service {
        for host in hosts {
            self.tables += &format!("[[service.{}.server]]\nhost = \"{host}\"\n", self.name);
        }
        self
    }

    /// Watched by idle connections; quick to come back.
    pub(crate) fn idle(self) -> Service {
        self.monitor("type = \"idle-connection\"\nmax-delay = \"200ms\"\ntimeout-clean-reconnect = \"200ms\"")
    }

    /// Watched by a fetch each 200 ms.
    pub(crate) fn fetch(self) -> Service {
        self.monitor("type = \"proxy-fetch\"\nurl = \"http://www.example.com/up\"\ninterval = \"200ms\"\ntimeout = \"4s\"")
    }

    pub(crate) fn monitor(mut self, keys: &str) -> Service {
        self.tables += &format!("[[service.{}.monitor]]\n{keys}\n", self.name);
        self
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Service { name, keys, tables } = self;
        write!(f, "[service.{name}]\n{keys}{tables}")
    }
}
