//! `plimsoll doctor` in network namespaces: each thing is broken there as it breaks in life, must be found by its name,
//! and must be gone when the doctor's own command has been run. What needs IPVS is in `kernel/doctor.rs`.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]
#![expect(clippy::disallowed_methods, reason = "what it waits for is no task's")]

#[path = "netns.rs"]
#[expect(dead_code, reason = "the tests of BGP use the rest of it")]
mod netns;

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use netns::{Namespace, Process, run, until};

const VIPS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The machine's own: whether it has IPVS and its modules, or NTP, is not what is tested here.
const OF_THE_MACHINE: &[&str] = &["ipvs", "scheduler", "clock"];

/// A host with the wires `eth1` and `eth2` to another one.
struct Lab {
    host: Namespace,
    other: Namespace,
    files: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let (host, other) = (Namespace::new("doctor"), Namespace::new("other"));
        for namespace in [&host, &other] {
            sh(
                namespace,
                "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0",
            );
        }
        host.cable(
            "eth1",
            &["10.9.1.1/24", "fd00:1::1/64"],
            &other,
            &["10.9.1.2/24", "fd00:1::2/64"],
        );
        host.cable(
            "eth2",
            &["10.9.2.1/24", "fd00:2::1/64"],
            &other,
            &["10.9.2.2/24", "fd00:2::2/64"],
        );
        host.ip("route add default via 10.9.1.2");
        sh(&other, "sysctl -qw net.ipv4.conf.all.arp_ignore=1");
        let link_local = "the wires' own addresses can be used";
        until(Duration::from_secs(10), link_local, || {
            let addresses = sh(&host, "ip -6 address show scope link");
            (addresses.matches("fe80::").count() == 2 && !addresses.contains("tentative"))
                .then_some(())
        });
        Lab {
            host,
            other,
            files: tempfile::tempdir().unwrap(),
        }
    }

    /// With the VIPs where they belong.
    fn real_server() -> Lab {
        let lab = Lab::new();
        sh(
            &lab.host,
            "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2",
        );
        sh(&lab.host, "ip address add 192.0.2.1/32 dev lo label lo:LVS");
        sh(&lab.host, "ip address add 2001:db8::1/128 dev lo nodad");
        lab
    }

    fn config(&self, text: &str) -> String {
        let path = self.files.path().join("plimsoll.toml");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn doctor(&self, arguments: &str) -> Report {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_plimsoll"));
        command
            .args(["doctor", "--json"])
            .args(arguments.split_whitespace());
        Report::of(command.output().unwrap())
    }

    fn as_real_server(&self) -> Report {
        self.doctor(&format!("--role realserver {} {}", VIPS[0], VIPS[1]))
    }
}

#[derive(Debug)]
struct Report {
    code: i32,
    findings: Vec<Value>,
}

impl Report {
    fn of(output: Output) -> Report {
        let errors = String::from_utf8_lossy(&output.stderr);
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {errors}"));
        let findings = report["findings"].as_array().unwrap().clone();
        assert!(report["checks"].as_u64().unwrap() > 10);
        Report {
            code: output.status.code().unwrap(),
            findings,
        }
    }

    /// Their checks and severities, without those of the machine.
    fn names(&self) -> Vec<String> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let those = self
            .findings
            .iter()
            .filter(|one| !OF_THE_MACHINE.contains(&&*text(one, "check")));
        let mut names: Vec<_> = those
            .map(|one| format!("{} {}", text(one, "severity"), text(one, "check")))
            .collect();
        names.dedup();
        names
    }

    fn commands(&self) -> Vec<&str> {
        let each = self
            .findings
            .iter()
            .filter(|one| !OF_THE_MACHINE.contains(&one["check"].as_str().unwrap()));
        each.filter_map(|one| one["mend"]["command"].as_str())
            .collect()
    }
}

fn sh(namespace: &Namespace, command: &str) -> String {
    run(namespace.command("sh").args(["-c", command]))
}

/// Breaks it, expects what is found, runs what mends it until nothing is left to run, and expects that nothing is found.
fn check(lab: &Lab, examine: impl Fn() -> Report, breaking: &str, expected: &[&str]) {
    assert_eq!(examine().names(), Vec::<String>::new(), "before {breaking}");
    sh(&lab.host, breaking);
    let report = examine();
    assert_eq!(report.names(), expected, "{breaking}: {report:#?}");
    let code = if expected.iter().any(|name| name.starts_with("fault")) {
        2
    } else {
        1
    };
    assert_eq!(report.code, code, "{breaking}");
    let mut report = report;
    for _ in 0..3 {
        for command in report.commands() {
            sh(&lab.host, command);
        }
        report = examine();
        if report.commands().is_empty() {
            break;
        }
    }
    assert_eq!(
        report.names(),
        Vec::<String>::new(),
        "mended after {breaking}: {report:#?}"
    );
}

#[test]
fn a_real_server_that_is_well_is_told_so() {
    let lab = Lab::real_server();
    assert_eq!(lab.as_real_server().code, 0);
    let mut command = lab.host.command(env!("CARGO_BIN_EXE_plimsoll"));
    // Without a word, it finds out what the host is for, and the addresses on lo.
    let text = run(command.arg("doctor"));
    let last = text.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("nothing wrong") && last.ends_with("checks made, as of a real server"),
        "{text}"
    );
}

#[test]
fn what_breaks_a_real_server_is_found_and_mended() {
    let lab = Lab::real_server();
    for (breaking, expected) in [
        (
            "sysctl -qw net.ipv4.conf.all.arp_ignore=0",
            &["fault arp"][..],
        ),
        (
            "sysctl -qw net.ipv4.conf.all.arp_announce=0",
            &["fault arp"],
        ),
        ("ip address del 192.0.2.1/32 dev lo", &["fault vip-missing"]),
        (
            "ip address del 2001:db8::1/128 dev lo",
            &["fault vip-missing"],
        ),
        (
            "ip address add 192.0.2.1/32 dev eth2",
            &["fault vip-interface"],
        ),
        (
            "ip address del 192.0.2.1/32 dev lo; ip address add 192.0.2.1/24 dev eth2",
            &["fault vip-interface"],
        ),
        (
            "ip address del 2001:db8::1/128 dev lo; ip address add 2001:db8::1/64 dev eth2 nodad",
            &["fault vip-interface"],
        ),
        (
            "ip address del 192.0.2.1/32 dev lo; ip address add 192.0.2.1/24 dev lo",
            &["fault vip-prefix"],
        ),
        (
            "ip address del 2001:db8::1/128 dev lo; ip address add 2001:db8::1/64 dev lo",
            &["fault vip-prefix"],
        ),
        (
            "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1",
            &["fault ipv6", "fault vip-missing"],
        ),
        (
            "ip -4 address show dev lo; ip link set lo down",
            &["fault lo", "fault vip-missing"],
        ),
        (
            "sysctl -qw net.ipv4.conf.eth2.rp_filter=1",
            &["warning rp-filter"],
        ),
        ("ip link set eth2 mtu 1200", &["fault mtu"]),
    ] {
        check(&lab, || lab.as_real_server(), breaking, expected);
    }
}

#[test]
fn an_address_that_others_answer_for_is_found() {
    let lab = Lab::real_server();
    assert_eq!(lab.as_real_server().names(), Vec::<String>::new());
    for (vip, length) in [(VIPS[0], 32), (VIPS[1], 128)] {
        let nodad = if vip.contains(':') { " nodad" } else { "" };
        lab.other
            .ip(&format!("address add {vip}/{length} dev eth1{nodad}"));
        let report = lab.as_real_server();
        assert_eq!(report.names(), ["fault duplicate-address"], "{report:#?}");
        let found = report.findings[0]["found"].as_str().unwrap();
        assert!(
            found.starts_with(&format!("{vip} is answered for on eth1 by ")),
            "{found}"
        );
        lab.other
            .ip(&format!("address del {vip}/{length} dev eth1"));
    }
    // On lo it is answered for, too, unless ARP is told to ignore it.
    lab.other.ip("address add 192.0.2.1/32 dev lo");
    assert_eq!(lab.as_real_server().names(), Vec::<String>::new());
    sh(&lab.other, "sysctl -qw net.ipv4.conf.all.arp_ignore=0");
    let report = lab.as_real_server();
    assert_eq!(report.names(), ["fault duplicate-address"], "{report:#?}");
    assert_eq!(
        report
            .findings
            .iter()
            .filter(|one| one["check"] == "duplicate-address")
            .count(),
        2,
        "on both wires"
    );
}

/// A service at the VIP, with a monitor.
const SERVICE: &str = r#"
[service.web]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "rr"
server = [{ host = "10.9.1.2" }]
[[service.web.monitor]]
type = "idle-connection"
"#;

#[test]
fn a_service_that_nobody_serves_is_found() {
    let lab = Lab::real_server();
    let config = lab.config(SERVICE);
    let examine = || lab.doctor(&format!("--role realserver -c {config}"));
    let report = examine();
    assert_eq!(report.names(), ["fault listener"], "{report:#?}");
    assert_eq!(
        report.findings[0]["found"],
        "nothing listens at tcp 192.0.2.1:80"
    );
    let script = "import socket, time; s = socket.create_server(('', 80)); time.sleep(600)";
    let _server = Process::start(lab.host.command("/usr/bin/python3").args(["-c", script]));
    until(Duration::from_secs(20), "it listens", || {
        examine().names().is_empty().then_some(())
    });
}

#[test]
fn etcd_and_routers_that_are_away_are_found() {
    let lab = Lab::new();
    let others = r#"
[etcd]
endpoints = ["http://10.9.1.2:2379", "http://[fd00:1::2]:2379"]
[bgp]
local-as = 64600
router-id = "10.9.1.1"
peer = [{ address = "10.9.1.2", peer-as = 64601 }, { address = "10.9.2.2", peer-as = 64601, passive = true }]
"#;
    let config = lab.config(&format!("{others}{SERVICE}"));
    let examine = || lab.doctor(&format!("-c {config}"));
    let report = examine();
    assert_eq!(
        report.names(),
        ["fault etcd", "fault router"],
        "{report:#?}"
    );
    assert_eq!(
        report
            .findings
            .iter()
            .filter(|one| one["check"] == "etcd")
            .count(),
        2
    );
    let router = report
        .findings
        .iter()
        .find(|one| one["check"] == "router")
        .unwrap();
    assert_eq!(router["found"], "router 10.9.1.2:179: connection refused");

    let script = "import socket, sys, time
all = [socket.create_server(('', int(port)), family=family, dualstack_ipv6=family == socket.AF_INET6)
       for port in sys.argv[1:] for family in [socket.AF_INET6]]
time.sleep(600)";
    let _servers = Process::start(
        lab.other
            .command("/usr/bin/python3")
            .args(["-c", script, "2379", "179"]),
    );
    until(Duration::from_secs(20), "they listen", || {
        examine().names().is_empty().then_some(())
    });

    // One that drops what it gets says nothing.
    sh(&lab.host, "ip route add blackhole 10.9.1.2/32");
    let report = examine();
    assert_eq!(
        report.names(),
        ["fault router", "warning etcd"],
        "{report:#?}"
    );
}

#[test]
fn a_daemon_with_few_files_and_anothers_address_is_found() {
    let lab = Lab::new();
    let folder = lab.files.path().display();
    let own = format!(
        "[daemon]\nstate-directory = \"{folder}/state\"\n[api]\nlisten = []\ncontrol = \"{folder}/socket\"\n"
    );
    std::fs::create_dir(lab.files.path().join("state")).unwrap();
    let config = lab.config(&format!("{own}{SERVICE}"));
    let examine = || lab.doctor(&format!("-c {config}"));
    // Before it runs, the address is not missed: it will put it there.
    assert_eq!(examine().names(), Vec::<String>::new());
    let start = |files: &str| {
        let mut command = lab.host.command("prlimit");
        command.args([&format!("--nofile={files}"), env!("CARGO_BIN_EXE_plimsoll")]);
        command.args(["run", "--ipvs", "memory", "-c", &config]);
        Process::start(command.stderr(std::process::Stdio::null()))
    };
    let daemon = start("200:200");
    until(Duration::from_secs(20), "it runs with few files", || {
        (examine().names() == ["warning file-limit"]).then_some(())
    });
    // To raise a hard limit takes CAP_SYS_RESOURCE, which not every root has.
    let mend = examine().commands()[0].to_owned();
    assert_eq!(
        mend,
        format!("prlimit --pid {} --nofile=2048:2048", daemon.id())
    );
    drop(daemon);

    // While it is away somebody else puts the address there, which it adopts as it is.
    sh(
        &lab.host,
        "ip address del 192.0.2.1/32 dev lo; ip address add 192.0.2.1/32 dev lo",
    );
    let _daemon = start("2048:2048");
    until(
        Duration::from_secs(20),
        "it runs with enough, and another's address",
        || (examine().names() == ["warning vip-owner"]).then_some(()),
    );
    for command in examine().commands() {
        sh(&lab.host, command);
    }
    until(Duration::from_secs(10), "it is put back", || {
        examine().names().is_empty().then_some(())
    });
}

#[test]
fn keepalived_beside_it_is_found() {
    let lab = Lab::real_server();
    let program = lab.files.path().join("keepalived");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let _keepalived = Process::start(lab.host.command(program.to_str().unwrap()).arg("600"));
    until(Duration::from_secs(10), "it is found", || {
        (lab.as_real_server().names() == ["warning vrrp"]).then_some(())
    });
    // In another network namespace it is none of ours.
    let other = Lab::real_server();
    assert_eq!(other.as_real_server().names(), Vec::<String>::new());
}

#[test]
fn another_program_that_writes_ipvs_is_found() {
    let lab = Lab::new();
    let config = lab.config(SERVICE);
    let examine = || lab.doctor(&format!("-c {config}"));
    assert_eq!(examine().names(), Vec::<String>::new());
    let program = lab.files.path().join("ldirectord");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let rival = Process::start(lab.host.command(program.to_str().unwrap()).arg("600"));
    until(Duration::from_secs(10), "it is found", || {
        (examine().names() == ["warning rival"]).then_some(())
    });
    drop(rival);
    assert_eq!(examine().names(), Vec::<String>::new());
}

#[test]
fn what_masquerading_needs_is_missed_before_the_daemon_runs() {
    let lab = Lab::new();
    let service = |name: &str, vip: &str, server: &str| {
        format!(
            "[service.{name}]\naddress = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"rr\"\n\
             server = [{{ host = \"{server}\", forwarding = \"masquerading\" }}]\n"
        )
    };
    let both = service("four", VIPS[0], "10.9.1.2") + &service("six", VIPS[1], "fd00:1::2");
    let config = lab.config(&both);
    sh(
        &lab.host,
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    );
    for setting in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        let examine = || lab.doctor(&format!("-c {config}"));
        let breaking = format!("sysctl -qw {setting}=0");
        check(&lab, examine, &breaking, &["fault ip-forward"]);
    }
}

#[test]
fn it_says_what_it_could_not_look_at() {
    let lab = Lab::real_server();
    let mut command = lab.host.command("setpriv");
    let program = lab.files.path().join("plimsoll");
    std::fs::copy(env!("CARGO_BIN_EXE_plimsoll"), &program).unwrap();
    run(Command::new("chmod").args(["-R", "a+rX", &lab.files.path().display().to_string()]));
    command.args([
        "--reuid=65534",
        "--clear-groups",
        program.to_str().unwrap(),
        "doctor",
        "--json",
    ]);
    let report = Report::of(command.output().unwrap());
    assert_eq!(report.names(), ["note duplicate-address"], "{report:#?}");
    assert_eq!(report.code, 0);
}

#[test]
fn mistakes_have_exit_codes_of_their_own() {
    let code = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
            .arg("doctor")
            .args(arguments)
            .output();
        output.unwrap().status.code()
    };
    assert_eq!(code(&["--role", "router"]), Some(64));
    assert_eq!(code(&["web1"]), Some(64));
    assert_eq!(code(&["-c", "/nonexistent"]), Some(78));
}
