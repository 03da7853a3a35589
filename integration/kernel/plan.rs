//! `plimsoll plan`, against a kernel that is empty, as wanted, changed by hand, and wanted otherwise.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::netns::{Namespace, Process, run, until};

const LIMIT: Duration = Duration::from_secs(30);

/// One service of an inline list, one of a file, one of which a check has something to say: nobody answers.
const CONFIG: &str = r#"
[bgp]
local-as = 64600
router-id = "10.0.0.100"
listen = []
next-hop-ipv4 = "10.0.0.100"
next-hop-ipv6 = "2001:db8:1::100"
peer = [{ address = "10.9.9.9", peer-as = 14907 }]

[service.web]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
vip-reachability = false
server = [{ host = "10.0.0.1" }, { host = "10.0.0.2" }]

[service.six]
address = "2001:db8::1"
port = 53
protocol = "udp"
scheduler = "rr"
servers = "file://DIRECTORY/six.json"

[service.checked]
address = "192.0.2.1"
port = 81
protocol = "tcp"
scheduler = "wrr"
vip-reachability = false
server = [{ host = "10.0.0.1" }, { host = "10.0.0.2" }]
monitor = [{ type = "idle-connection" }]
"#;

struct Planner {
    host: Namespace,
    directory: tempfile::TempDir,
}

impl Planner {
    /// Writes a configuration and gives its name.
    fn write(&self, name: &str, config: &str) -> PathBuf {
        let directory = self.directory.path().display().to_string();
        let text = format!(
            "[daemon]\nstate-directory = \"{directory}\"\n[api]\ncontrol = \"{directory}/control.sock\"\n{config}"
        );
        let path = self.directory.path().join(name);
        std::fs::write(&path, text.replace("DIRECTORY", &directory)).unwrap();
        path
    }

    /// Exit code and both outputs.
    fn plan(&self, file: &Path, options: &[&str]) -> (i32, String, String) {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_plimsoll"));
        let output = command
            .args(["plan", "-c"])
            .arg(file)
            .args(options)
            .output();
        let output = output.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let code = output.status.code().unwrap();
        (code, text(&output.stdout), text(&output.stderr))
    }

    fn expect(&self, file: &Path, code: i32, lines: &[&str]) {
        let (is, out, err) = self.plan(file, &[]);
        let told: Vec<_> = out.lines().collect();
        assert_eq!((is, told, err.as_str()), (code, lines.to_vec(), ""));
    }

    fn sh(&self, script: &str) -> String {
        run(self.host.command("sh").args(["-ec", script]))
    }
}

#[test]
fn says_what_would_change_and_changes_nothing() {
    let planner = Planner {
        host: Namespace::new("lb"),
        directory: tempfile::tempdir().unwrap(),
    };
    let list = planner.directory.path().join("six.json");
    std::fs::write(
        &list,
        r#"{"2001:db8:1::1": {"enabled": true, "weight": 7}}"#,
    )
    .unwrap();
    let file = planner.write("plimsoll.toml", CONFIG);
    planner.sh("ipvsadm -A -t 203.0.113.1:25 -s rr");

    let all = [
        "net.ipv4.vs.conn_reuse_mode: 1 -> 2",
        "net.ipv4.vs.expire_nodest_conn: 0 -> 1",
        "net.ipv4.vs.expire_quiescent_template: 0 -> 1",
        "checked (tcp 192.0.2.1:81): service: gone -> -s wrr",
        "checked (tcp 192.0.2.1:81): server 10.0.0.1:81: gone -> -g -w 10",
        "six (udp [2001:db8::1]:53): service: gone -> -s rr",
        "six (udp [2001:db8::1]:53): server [2001:db8:1::1]:53: gone -> -g -w 7",
        "web (tcp 192.0.2.1:80): service: gone -> -s wrr",
        "web (tcp 192.0.2.1:80): server 10.0.0.1:80: gone -> -g -w 10",
        "web (tcp 192.0.2.1:80): server 10.0.0.2:80: gone -> -g -w 10",
        "address 192.0.2.1: gone -> on lo",
        "address 2001:db8::1: gone -> on lo",
        "route 192.0.2.1: withdrawn -> announced",
        "route 2001:db8::1: withdrawn -> announced",
        "checked (tcp 192.0.2.1:81): server 10.0.0.2: gone -> there, once its checks have passed",
        "15 changes",
    ];
    planner.expect(&file, 2, &all);
    // And again: nothing was done.
    planner.expect(&file, 2, &all);
    assert_eq!(planner.sh("ipvsadm -Sn"), "-A -t 203.0.113.1:25 -s rr\n");

    let mut daemon = planner.host.command(env!("CARGO_BIN_EXE_plimsoll"));
    daemon.arg("run").arg("--config").arg(&file);
    let daemon = Process::start(daemon.stdout(Stdio::null()));
    until(LIMIT, "the daemon has done all of it", || {
        (planner.plan(&file, &[]) == (0, "nothing would change\n".into(), String::new()))
            .then_some(())
    });
    let (code, out, _) = planner.plan(&file, &["--all"]);
    let foreign = "tcp 203.0.113.1:25: not ours, left alone\nnothing would change\n";
    assert_eq!((code, out.as_str()), (0, foreign));

    // Another configuration, and exactly what is different in it.
    let changed = CONFIG
        .replace("scheduler = \"rr\"", "scheduler = \"mh\"")
        .replace("192.0.2.1\"\nport = 81", "192.0.2.9\"\nport = 81")
        .replace(
            "{ host = \"10.0.0.2\" }]\n\n",
            "{ host = \"10.0.0.2\", weight = 11 }]\n\n",
        );
    let changed = planner.write("changed.toml", &changed);
    let different = [
        "net.ipv4.vs.sloppy_tcp: 0 -> 1",
        "checked (tcp 192.0.2.9:81): service: gone -> -s wrr",
        "checked (tcp 192.0.2.9:81): server 10.0.0.1:81: gone -> -g -w 10",
        "six (udp [2001:db8::1]:53): service: -s rr -> -s mh",
        "web (tcp 192.0.2.1:80): server 10.0.0.2:80: -w 10 -> -w 11",
        "tcp 192.0.2.1:81: service: -s wrr -> gone",
        "address 192.0.2.9: gone -> on lo",
        "route 192.0.2.9: withdrawn -> announced",
        "8 changes",
    ];
    planner.expect(&changed, 2, &different);
    let (code, out, _) = planner.plan(&changed, &["--json", "--all"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    let changes = json["changes"].as_array().unwrap();
    assert_eq!((code, changes.len()), (2, different.len() - 1));
    let expected = serde_json::json!({
        "kind": "ipvs",
        "object": "web (tcp 192.0.2.1:80)",
        "change": "server 10.0.0.2:80: -w 10 -> -w 11",
    });
    assert_eq!(changes[4], expected);
    assert_eq!(json["foreign"], serde_json::json!(["tcp 203.0.113.1:25"]));
    assert_eq!(json["unknown"], serde_json::json!([]));

    // By hand, while the daemon that would put it right is away: what it left is as wanted until then.
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    drop(daemon);
    planner.sh("ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -m -w 3
        ip address del 2001:db8::1/128 dev lo");
    planner.expect(
        &file,
        2,
        &[
            "web (tcp 192.0.2.1:80): server 10.0.0.1:80: -m -> -g, -w 3 -> -w 10",
            "address 2001:db8::1: gone -> on lo",
            "route 192.0.2.1: withdrawn -> announced",
            "route 2001:db8::1: withdrawn -> announced",
            "checked (tcp 192.0.2.1:81): server 10.0.0.2: gone -> there, once its checks have passed",
            "5 changes",
        ],
    );

    // What cannot be known is said, and the rest all the same.
    std::fs::remove_file(&list).unwrap();
    let (code, out, err) = planner.plan(&file, &[]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("not known: six: its server list: "), "{err}");
    assert!(out.contains("\n4 changes\n"), "{out}");
    let (code, out, err) = planner.plan(&planner.directory.path().join("none.toml"), &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("cannot be read"), "{err}");
}

#[test]
fn connection_synchronisation_is_part_of_it() {
    let planner = Planner {
        host: Namespace::new("lb"),
        directory: tempfile::tempdir().unwrap(),
    };
    // All else is as wanted.
    planner.sh("ip link add wire type dummy && ip link set wire up && ip address add 10.0.0.9/24 dev wire
        sysctl -qw net.ipv4.vs.conn_reuse_mode=2 net.ipv4.vs.expire_nodest_conn=1 net.ipv4.vs.expire_quiescent_template=1
        ip address add 192.0.2.1/32 dev lo
        ipvsadm -A -t 192.0.2.1:80 -s rr && ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.1 -g -w 10");
    let with = |role: &str, id: u8| {
        let text = format!(
            "[ipvs.sync]\nrole = \"{role}\"\ninterface = \"wire\"\nsync-id = {id}\n\
             [service.web]\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"rr\"\n\
             vip-reachability = false\nserver = [{{ host = \"10.0.0.1\" }}]\n"
        );
        planner.write("plimsoll.toml", &text)
    };
    let thread = |role: &str, id: u8| {
        format!("{role} on wire, sync-id {id}, group 224.0.0.81, port 8848, ttl 1")
    };
    let line = |was: &str, is: &str| format!("connection synchronisation: {was} -> {is}");
    let both = with("both", 7);
    let (master, backup) = (thread("master", 7), thread("backup", 7));
    planner.expect(
        &both,
        2,
        &[&line("gone", &master), &line("gone", &backup), "2 changes"],
    );
    let (code, out, _) = planner.plan(&both, &["--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    let steps = json["changes"].as_array().unwrap();
    assert_eq!((code, steps.len()), (2, 2));
    for step in steps {
        assert_eq!(step["kind"], "sync");
        assert_eq!(step["object"], "connection synchronisation");
    }

    planner.sh("ipvsadm --start-daemon backup --mcast-interface wire --syncid 7");
    planner.expect(&both, 2, &[&line("gone", &master), "1 change"]);
    let other = with("backup", 8);
    let change = line(&backup, &thread("backup", 8));
    planner.expect(&other, 2, &[&change, "1 change"]);
    planner.expect(&with("backup", 7), 0, &["nothing would change"]);
    planner.sh("ipvsadm --stop-daemon backup");
}
