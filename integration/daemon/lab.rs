//! The real program in a network namespace of its own: configured, started, asked over its API, stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::netns::{Namespace, run, until};
use crate::router::{Kind, Route, Router, Settings};

/// Longer than anything here takes on a machine that is busy with other things.
pub(crate) const SOON: Duration = Duration::from_secs(15);

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
        // By rename, as configuration management does it.
        let new = self.file("plimsoll.toml.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.config()).unwrap();
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
        self.inside(|| get(path, "text/plain"))
    }

    /// Waits until the answer in JSON has this in it.
    pub(crate) fn until_json(&self, path: &str, part: &str) {
        until(SOON, &format!("{path} has {part}"), || {
            let answer = self.inside(|| get(path, "application/json"))?;
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
        };
        Router::start(Kind::Bird, self.cable(n), settings)
    }
}

fn get(path: &str, accept: &str) -> Option<String> {
    let limit = Duration::from_secs(5);
    let api = SocketAddr::from(([127, 0, 0, 1], 9090));
    let mut stream = TcpStream::connect_timeout(&api, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: lb\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return Some(body.to_owned());
    }
    let (mut whole, mut rest) = (String::new(), body);
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        whole += after.get(..size)?;
        if size == 0 {
            return Some(whole);
        }
        rest = after.get(size + 2..)?;
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
        local_pref: None,
    };
    (prefix.to_owned(), route)
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

/// The running program; killed when this is dropped, unless it has ended.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn spawn(command: &mut Command, log: PathBuf) -> Daemon {
        let child = command.stdin(Stdio::null()).spawn();
        Daemon {
            child: child.unwrap(),
            log,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Waits for its end and gives how long that took.
    pub(crate) fn ends(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let status = until(limit, "the daemon ends", || self.child.try_wait().unwrap());
        (status, begun.elapsed())
    }

    /// It ends with this exit code within the limit.
    pub(crate) fn expect_end(&mut self, code: i32, limit: Duration) -> Duration {
        let (status, took) = self.ends(limit);
        assert_eq!(status.code(), Some(code), "{status}\n{}", self.log());
        took
    }

    pub(crate) fn stop(&mut self, limit: Duration) -> Duration {
        self.signal(Signal::SIGTERM);
        self.expect_end(0, limit)
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log contains this.
    pub(crate) fn until_log(&self, part: &str) {
        until(SOON, &format!("{part:?} in the log"), || {
            self.log().contains(part).then_some(())
        });
    }

    /// A line of `/proc/PID/status`, in its unit.
    pub(crate) fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(self.proc("status")).unwrap();
        let value = |line: &str| line.strip_prefix(key)?.strip_prefix(':').map(str::to_owned);
        let value = text.lines().find_map(value).unwrap();
        value.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Processor time used so far.
    pub(crate) fn busy(&self) -> Duration {
        let text = fs::read_to_string(self.proc("stat")).unwrap();
        // After the program's name: the state is the third field, utime the 14th, stime the 15th (proc(5)).
        let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{log}");
        } else {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}
