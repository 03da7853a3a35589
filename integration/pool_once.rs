//! `conf/pool-once`: the script with the real program and a real etcd, in dash and in busybox; and the systemd
//! unit, as far as it can be tried without booting.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "in a test a panic is the message, and what runs beside it has the system's clock"
)]

#[expect(dead_code, unreachable_pub, reason = "other tests use the rest of it")]
mod cluster;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, until};

const HOST: &str = "cp1.example.com";
const YES: &str = r#"{"weight": 10, "pooled": "yes"}"#;
const NO: &str = r#"{"weight": 5, "pooled": "no"}"#;
const INACTIVE: &str = r#"{"weight": 0, "pooled": "inactive"}"#;

const SHELLS: [&[&str]; 2] = [&["dash"], &["busybox", "sh"]];

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/pool-once")
}

fn script() -> PathBuf {
    conf().join("plimsoll-pool-once")
}

/// A real server and its etcd.
struct Server {
    cluster: Cluster,
    shell: &'static [&'static str],
}

impl Server {
    /// nginx and varnish-fe are pooled, ats is not, new is inactive; another host is pooled whose name is
    /// this one's if a dot is any character.
    fn new(shell: &'static [&'static str]) -> Server {
        let server = Server {
            cluster: Cluster::start(1),
            shell,
        };
        let section = server.cluster.section() + "timeout = \"500ms\"\n";
        fs::write(server.file("plimsoll.toml"), section).unwrap();
        for (object, value) in [
            ("eqiad/text/ats/cp1.example.com", NO),
            ("eqiad/text/new/cp1.example.com", INACTIVE),
            ("eqiad/text/nginx/cp1.example.com", YES),
            ("eqiad/text/varnish-fe/cp1.example.com", YES),
            ("eqiad/text/nginx/cp1xexample.com", YES),
        ] {
            let key = format!("/conftool/v1/pools/{object}");
            server.cluster.etcdctl(&["put", &key, value]);
        }
        server
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cluster.folder().join(name)
    }

    fn ask(&self) -> PathBuf {
        let path = self.file("pool-once");
        fs::write(&path, "").unwrap();
        path
    }

    fn path() -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_plimsoll"));
        let folder = program.parent().unwrap().display();
        format!("{folder}:{}", std::env::var("PATH").unwrap())
    }

    fn command(&self, verb: &str, settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new(self.shell[0]);
        command.args(&self.shell[1..]).arg(script()).arg(verb);
        command.env("PATH", Server::path()).env("NAME", HOST);
        command.env("CONFIG", self.file("plimsoll.toml"));
        command.env("ASK", self.file("pool-once"));
        command.env("PAUSE", "0").envs(settings.iter().copied());
        command
    }

    fn run(&self, verb: &str, settings: &[(&str, &str)]) -> Output {
        self.command(verb, settings).output().unwrap()
    }

    #[track_caller]
    fn good(&self, verb: &str) {
        let output = self.run(verb, &[]);
        assert!(output.status.success(), "{output:?}");
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
            .args(["ctl", "--quiet", "--config"])
            .arg(self.file("plimsoll.toml"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is in force of this host: ats, new, nginx, varnish-fe; `lease` after what a lease says.
    fn pooled(&self) -> [String; 4] {
        let text = self.ctl(&["select", r"name=cp1\.example\.com", "get"]);
        let mut lines = text.lines();
        let pooled = std::array::from_fn(|_| {
            let line: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
            let node = &line[HOST];
            let lease = node.get("until").map_or("", |_| " lease");
            format!("{}{lease}", node["pooled"].as_str().unwrap())
        });
        assert_eq!(lines.next(), None);
        pooled
    }

    /// A balancer says of itself that it serves nginx.
    fn balancer(&self, revision: u64, guard: &str, pooled: &str) {
        let service = format!(
            r#"{{"depool-threshold": 0.5, "depool-guard": "{guard}", "size": 2, "pooled": [{pooled}], "held": {{}}}}"#
        );
        let record = format!(r#"{{"revision": {revision}, "services": {{"web": {service}}}}}"#);
        let put = |key: &str, value: &str| self.cluster.etcdctl(&["put", key, value]);
        put("/plimsoll/v1/balancers/lb1", "{}");
        put("/plimsoll/v1/applied/lb1/eqiad/text/nginx", &record);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn down_and_back_as_asked() {
    for shell in SHELLS {
        let server = Server::new(shell);
        let ask = server.ask();
        server.good("stop");
        let down = ["no", "inactive", "no lease", "no lease"];
        assert_eq!(server.pooled(), down);
        server.good("start");
        assert_eq!(server.pooled(), ["no", "inactive", "yes", "yes"]);
        assert!(!ask.exists(), "once");
        // The other host was left alone all the while.
        let other = server.ctl(&["select", "name=cp1xexample.com", "get"]);
        assert!(other.contains(r#"{"cp1xexample.com": {"weight": 10, "pooled": "yes"},"#));
        let keys = server.cluster.etcdctl(&["get", "/plimsoll", "--prefix"]);
        assert_eq!(keys, "", "a lease is left");
    }
}

#[test]
fn down_and_out_if_nobody_asks() {
    for shell in SHELLS {
        let server = Server::new(shell);
        // Installed on a server that serves: nothing happens.
        server.good("start");
        assert_eq!(server.pooled(), ["no", "inactive", "yes", "yes"]);
        server.good("stop");
        server.good("start");
        assert_eq!(server.pooled(), ["no", "inactive", "no", "no"]);
        // The next boot changes nothing either, and the one after that is asked to.
        server.good("stop");
        server.good("start");
        assert_eq!(server.pooled(), ["no", "inactive", "no", "no"]);
        server.ask();
        server.good("stop");
        server.good("start");
        assert_eq!(server.pooled(), ["yes", "inactive", "yes", "yes"]);
    }
}

/// A host that is not heard of again.
#[test]
fn the_lease_ends_by_itself() {
    let server = Server::new(SHELLS[0]);
    let output = server.run("stop", &[("LEASE", "5s")]);
    assert!(output.status.success(), "{output:?}");
    let down = ["no", "inactive", "no lease", "no lease"];
    assert_eq!(server.pooled(), down);
    let before = ["no", "inactive", "yes", "yes"];
    until("the lease's end", || server.pooled() == before);
    // Too late to be told to stay out.
    server.good("start");
    assert_eq!(server.pooled(), before);
}

#[test]
fn what_an_operator_says_meanwhile_stays() {
    let server = Server::new(SHELLS[0]);
    server.good("stop");
    server.ctl(&["decommission", "--hostname", HOST, "--service", "nginx"]);
    server.ctl(&["pool", "--hostname", HOST, "--service", "varnish-fe"]);
    let said = ["no", "inactive", "inactive", "yes"];
    assert_eq!(server.pooled(), said);
    server.good("start");
    assert_eq!(server.pooled(), said);
    // Depooled for another reason: asked to come back, it does so with what was depooled here alone.
    server.ask();
    server.good("stop");
    server.good("start");
    assert_eq!(server.pooled(), said);
}

#[test]
fn a_host_in_no_pool() {
    let server = Server::new(SHELLS[0]);
    for verb in ["stop", "start"] {
        let output = server.run(verb, &[("NAME", "cp2.example.com"), ("PAUSE", "600")]);
        assert!(output.status.success(), "{output:?}");
    }
    for arguments in [vec![], vec!["restart"]] {
        let output = Command::new(script()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
}

#[test]
fn without_etcd_a_shutdown_goes_on() {
    for shell in SHELLS {
        let mut server = Server::new(shell);
        // Longer than a host that goes down may wait.
        let patient = server.cluster.section() + "timeout = \"1m\"\n";
        let config = server.file("plimsoll.toml");
        let quick = fs::read_to_string(&config).unwrap();
        fs::write(&config, patient).unwrap();
        server.cluster.freeze(0);
        let began = Instant::now();
        let settings = [("DEPOOL_WITHIN", "4"), ("PAUSE", "600")];
        let output = server.run("stop", &settings);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output).contains("going down without a depool"));
        assert!(began.elapsed() < Duration::from_secs(30));
        server.cluster.thaw(0);
        server.cluster.wait_for_all();
        fs::write(&config, quick).unwrap();

        // After the boot it is tried until etcd is there.
        server.good("stop");
        let ask = server.ask();
        server.cluster.kill(0);
        let output = server.run("start", &[("RETURN_WITHIN", "3")]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(ask.exists(), "not done, and not forgotten");
        let mut start = server.command("start", &[]);
        let mut start = start.stdout(Stdio::null()).spawn().unwrap();
        server.cluster.spawn(0);
        let mut ended = None;
        until("the return", || {
            ended = start.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success());
        assert_eq!(server.pooled(), ["no", "inactive", "yes", "yes"]);
        assert!(!ask.exists());
    }
}

/// One that never says that it has it: depooled all the same, with the pause for those who have.
#[test]
fn a_balancer_that_does_not_answer() {
    let server = Server::new(SHELLS[0]);
    server.balancer(1, "floor", r#""cp1.example.com", "cp1xexample.com""#);
    let began = Instant::now();
    let output = server.run("stop", &[("WAIT", "1s"), ("PAUSE", "1")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output);
    assert!(said.contains("service=nginx: exit code 75"), "{said}");
    assert!(said.contains("waiting 1 s"), "{said}");
    assert!(began.elapsed() >= Duration::from_secs(2));
    let down = ["no", "inactive", "no lease", "no lease"];
    assert_eq!(server.pooled(), down);
}

/// The guard stands against it: the server stays in that pool, and is out of the other.
#[test]
fn the_depool_guard_is_obeyed() {
    let server = Server::new(SHELLS[0]);
    server.balancer(1, "floor", r#""cp1.example.com""#);
    let output = server.run("stop", &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output);
    assert!(said.contains("service=nginx: exit code 77"), "{said}");
    assert_eq!(server.pooled(), ["no", "inactive", "yes", "no lease"]);
}

#[test]
fn the_script_is_clean() {
    let output = Command::new("shellcheck")
        .arg("--severity=style")
        .arg(script())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn setting(text: &str, name: &str) -> u32 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    let digits = line.rsplit([':', '=', '-', '}']).find(|s| !s.is_empty());
    digits.unwrap().parse().unwrap()
}

#[test]
fn the_unit_waits_as_long_as_the_script_takes() {
    let unit = fs::read_to_string(conf().join("plimsoll-pool-once.service")).unwrap();
    let script = fs::read_to_string(script()).unwrap();
    let stop = setting(&script, "DEPOOL_WITHIN=") + setting(&script, "PAUSE=");
    assert!(setting(&unit, "TimeoutStopSec=") >= stop + 5);
    let start = setting(&script, "RETURN_WITHIN=");
    assert!(setting(&unit, "TimeoutStartSec=") >= start + 15);
}

/// systemd reads it, finds nothing wrong, and stops it before the services and the network.
#[test]
fn systemd_takes_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(conf().join("plimsoll-pool-once.service")).unwrap();
    // Where it is installed there is nothing here.
    let text = text.replace(
        "/usr/local/sbin/plimsoll-pool-once ",
        &format!("{} ", script().display()),
    );
    let unit = folder.path().join("plimsoll-pool-once.service");
    fs::write(&unit, text).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text_without_other_units(&output), "");
}

/// What is said of this unit: others that a machine has may have faults of their own.
fn text_without_other_units(output: &Output) -> String {
    let said = text(output);
    let ours = said.lines().filter(|line| line.contains("pool-once"));
    ours.collect::<Vec<_>>().join("\n")
}
