//! The whole: a cluster of etcd, a proxy before each member, the daemon that follows through them, who writes and
//! who looks.
//!
//! ```text
//!  store ────► etcd m0 m1 m2 ◄── proxies ◄── daemon ◄── observer
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::client;
use crate::cluster::Cluster;
use crate::observer::{Observer, Serving, as_listed, check_log, serving, told};
use crate::process::{Daemon, SOON};
use crate::proxy::Proxy;
use crate::store::{History, Store};

/// After a fault, or the end of one, the daemon's pools are etcd's within this.
pub(crate) const PROMISE: Duration = Duration::from_secs(5);

/// What a test wants otherwise than usual.
pub(crate) struct Settings {
    pub(crate) services: usize,
    pub(crate) servers: usize,
    /// More lines of each service.
    pub(crate) service: &'static str,
    /// More lines of `[etcd]`.
    pub(crate) etcd: String,
    /// More arguments of each member.
    pub(crate) arguments: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            services: 3,
            servers: 5,
            service: "depool-guard = \"off\"",
            etcd: String::new(),
            arguments: Vec::new(),
        }
    }
}

pub(crate) struct Scene {
    observer: Observer,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) store: Store,
    pub(crate) history: History,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) cluster: Cluster,
    pub(crate) services: Vec<String>,
    settings: Settings,
    pub(crate) api: SocketAddr,
    folder: TempDir,
}

/// The name of the server of that number, in the service of that number.
pub(crate) fn host(service: usize, server: usize) -> String {
    format!("10.{}.0.{}", service + 1, server + 1)
}

impl Scene {
    /// All servers enabled with weight 10; the daemon runs and has them.
    pub(crate) fn new(settings: Settings) -> Scene {
        let mut scene = Scene::prepare(settings);
        scene.start();
        scene.settled();
        scene
    }

    /// The same before the daemon is started for the first time.
    pub(crate) fn prepare(settings: Settings) -> Scene {
        let arguments: Vec<&str> = settings.arguments.iter().map(String::as_str).collect();
        let cluster = Cluster::start_with(3, "http", &arguments);
        let mut store = Store::new(cluster.endpoints());
        let services: Vec<String> = (0..settings.services).map(|n| format!("s{n}")).collect();
        for (number, service) in services.iter().enumerate() {
            for server in 0..settings.servers {
                store.set(service, &host(number, server), "yes", 10);
            }
        }
        let member = |url: &String| url.trim_start_matches("http://").parse().unwrap();
        let endpoints = cluster.endpoints();
        // Nobody else gets it while the daemon is down: the kernel gives it to none who asks for any.
        let api = loop {
            let api = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(10_000..32_000)));
            if TcpListener::bind(api).is_ok() {
                break api;
            }
        };
        Scene {
            observer: Observer::start(api, services.clone()),
            daemon: None,
            history: History::new(&mut store),
            store,
            proxies: endpoints.iter().map(member).map(Proxy::to).collect(),
            cluster,
            services,
            settings,
            api,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> String {
        let endpoints: Vec<String> = self.proxies.iter().map(Proxy::url).collect();
        let mut text = format!(
            "[daemon]\nstate-directory = {:?}\nmanage-addresses = false\n\
             [api]\nlisten = [\"{}\"]\ncontrol = \"\"\n\
             [etcd]\nendpoints = {endpoints:?}\n{}\n",
            self.file("state"),
            self.api,
            self.settings.etcd,
        );
        for (number, service) in self.services.iter().enumerate() {
            text += &format!(
                "[service.{service}]\naddress = \"192.0.2.{}\"\nport = 80\nprotocol = \"tcp\"\ndrain-timeout = \"0s\"\n\
                 scheduler = \"wrr\"\nservers = \"etcd:dc1/text/{service}\"\n{}\n",
                number + 1,
                self.settings.service,
            );
        }
        text
    }

    pub(crate) fn start(&mut self) {
        let (config, log) = (self.file("plimsoll.toml"), self.file("log"));
        fs::write(&config, self.config()).unwrap();
        let file = File::options().create(true).append(true).open(&log);
        // A test that is killed leaves no daemon behind.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_plimsoll")]);
        command.args(["run", "--ipvs", "memory", "-c"]).arg(config);
        self.observer.restarted();
        self.daemon = Some(Daemon::spawn(command.stderr(file.unwrap()), log));
        self.wait(SOON, "the API answers", |scene| {
            scene.get("/healthz").ok_or("nothing".into()).map(drop)
        });
    }

    /// SIGTERM.
    pub(crate) fn stop(&mut self) {
        self.daemon.take().expect("it runs").stop(SOON);
    }

    /// SIGKILL.
    pub(crate) fn crash(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.signal(Signal::SIGKILL);
        daemon.ends(SOON);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    pub(crate) fn get(&self, path: &str) -> Option<String> {
        client::get(self.api, path, "text/plain")
    }

    /// What the daemon says of a pool.
    pub(crate) fn pool(&self, service: &str) -> Serving {
        serving(self.api, service).unwrap_or_default()
    }

    pub(crate) fn pools(&self) -> BTreeMap<String, Serving> {
        let pool = |service: &String| (service.clone(), self.pool(service));
        self.services.iter().map(pool).collect()
    }

    /// How many servers of a pool are pooled.
    pub(crate) fn pooled(&self, service: &str) -> usize {
        self.pool(service)
            .values()
            .filter(|served| served.pooled)
            .count()
    }

    /// Waits until there is no fault any more; the last one is told when the time is up.
    pub(crate) fn wait<T>(
        &mut self,
        limit: Duration,
        expected: &str,
        mut ask: impl FnMut(&mut Scene) -> Result<T, String>,
    ) -> T {
        let begun = Instant::now();
        loop {
            match ask(self) {
                Ok(answer) => return answer,
                Err(seen) if begun.elapsed() >= limit => {
                    panic!("expected within {limit:?}: {expected}; seen: {seen}")
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Waits until the daemon's pools are etcd's, and its table is as wanted; says how long that took. All that
    /// it showed on the way was what etcd had.
    pub(crate) fn settled(&mut self) -> Duration {
        let took = self.equal(PROMISE);
        self.check();
        took
    }

    pub(crate) fn equal(&mut self, limit: Duration) -> Duration {
        let begun = Instant::now();
        self.wait(limit, "the daemon's pools are etcd's", |scene| {
            scene.history.follow(&mut scene.store);
            for service in &scene.services {
                let (etcd, ours) = (as_listed(&scene.history.now(service)), scene.pool(service));
                if etcd != ours {
                    let (etcd, ours) = (told(&etcd), told(&ours));
                    return Err(format!("pool {service} in etcd\n{etcd}and here\n{ours}"));
                }
                scene.table_is(service, &etcd)?;
            }
            Ok(())
        });
        begun.elapsed()
    }

    /// All that the daemon has shown was what etcd had, in its order.
    pub(crate) fn check(&mut self) {
        self.history.follow(&mut self.store);
        self.observer.check(&self.history);
        // A line is written a moment after the fact that it tells.
        self.wait(SOON, "the log tells what etcd told", |scene| {
            check_log(&scene.log(), &scene.history, &scene.pools())
        });
    }

    pub(crate) fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The table was read back and has the servers that are pooled, with their weights.
    fn table_is(&self, service: &str, wanted: &Serving) -> Result<(), String> {
        let detail = self.detail(service);
        let list = &detail["summary"]["list"];
        if list["revision"] != list["applied_revision"] || list["revision"].is_null() {
            return Err(format!("the table of {service} is behind: {list}"));
        }
        let servers = detail["servers"].as_object().ok_or("no servers")?;
        let row = |server: &Value| {
            let weight = server["ipvs_weight"].as_u64()?;
            Some((server["address"].as_str()?.to_owned(), weight))
        };
        let table: BTreeMap<String, u64> = servers.values().filter_map(row).collect();
        let pooled = wanted.iter().filter(|(_, served)| served.pooled);
        let pooled = pooled.map(|(host, served)| (host.clone(), served.listed.weight));
        let pooled: BTreeMap<String, u64> = pooled.collect();
        if table == pooled {
            Ok(())
        } else {
            Err(format!(
                "the table of {service} is {table:?}, not {pooled:?}"
            ))
        }
    }

    /// `/services/NAME`
    pub(crate) fn detail(&self, service: &str) -> Value {
        let text = client::get(
            self.api,
            &format!("/services/{service}"),
            "application/json",
        );
        serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default()
    }

    /// Waits for alerts that have all of this in them; gives their text.
    pub(crate) fn until_alert(&mut self, parts: &[&str]) -> String {
        self.wait(SOON, &format!("alerts with {parts:?}"), |scene| {
            let text = scene.get("/alerts").unwrap_or_default();
            let all = parts.iter().all(|part| text.contains(part));
            if all { Ok(text) } else { Err(text) }
        })
    }

    pub(crate) fn until_no_alert(&mut self, part: &str) {
        self.wait(SOON, &format!("no alert with {part:?}"), |scene| {
            let text = scene.get("/alerts").unwrap_or_default();
            if text.contains(part) {
                Err(text)
            } else {
                Ok(())
            }
        });
    }

    /// Cuts the daemon off from etcd; returns when all its connections are gone.
    pub(crate) fn isolate(&mut self) {
        self.proxies.iter().for_each(Proxy::refuse);
        self.wait(SOON, "the daemon has no connection", |scene| {
            let open: usize = scene.proxies.iter().map(Proxy::open).sum();
            if open == 0 {
                Ok(())
            } else {
                Err(format!("{open} are open"))
            }
        });
    }

    /// The end of [`Scene::isolate`].
    pub(crate) fn reconnect(&mut self) {
        self.proxies.iter().for_each(Proxy::pass);
    }

    /// Makes it this member that the daemon is connected to, and returns when it follows there.
    pub(crate) fn lead_to(&mut self, member: usize) {
        for (index, proxy) in self.proxies.iter().enumerate() {
            if index == member {
                proxy.pass()
            } else {
                proxy.refuse()
            }
        }
        self.wait(SOON, "the daemon is connected to one member", |scene| {
            let open: Vec<usize> = scene.proxies.iter().map(Proxy::open).collect();
            if open[member] > 0 {
                Ok(())
            } else {
                Err(format!("connections: {open:?}"))
            }
        });
        self.turn();
        self.settled();
        self.reconnect();
    }

    /// One server more or less, in a pool chosen by chance.
    pub(crate) fn turn(&mut self) {
        self.turn_of(fastrand::usize(..self.settings.services));
    }

    pub(crate) fn turn_of(&mut self, service: usize) {
        let server = fastrand::usize(..self.settings.servers);
        let (name, host) = (self.services[service].clone(), host(service, server));
        self.history.follow(&mut self.store);
        let now = self.history.now(&name).get(&host).copied();
        let pooled = if now.is_some_and(|listed| listed.enabled) {
            "no"
        } else {
            "yes"
        };
        self.store.set(&name, &host, pooled, fastrand::u64(0..100));
    }
}
