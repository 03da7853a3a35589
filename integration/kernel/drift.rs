//! The daemon while someone else changes what is its: by ipvsadm(8), ip(8) and sysctl(8), one thing after another.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::netns::{Namespace, Process, run, until};
use super::vip::get;

const LIMIT: Duration = Duration::from_secs(30);
/// So soon all is as it was.
const REPAIR: Duration = Duration::from_secs(5);

const CONFIG: &str = r#"
[ipvs.sysctl]
drop_packet = 0

[service.web]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
vip-reachability = false
server = [{ host = "10.0.0.1" }, { host = "10.0.0.2" }]

[service.six]
address = "2001:db8::1"
port = 443
protocol = "tcp"
scheduler = "mh"
scheduler-flags = ["mh-port"]
persistence-timeout = "300s"
persistence-prefix-length = 64
vip-reachability = false
server = [{ host = "2001:db8:1::1" }, { host = "2001:db8:1::2", weight = 20 }]

[service.dns]
address = "192.0.2.1"
port = 53
protocol = "udp"
scheduler = "sh"
one-packet = true
server = [{ host = "10.0.0.1" }]

[service.sip]
address = "192.0.2.2"
port = 5060
protocol = "udp"
scheduler = "rr"
persistence-timeout = "300s"
persistence-engine = "sip"
server = [{ host = "10.0.0.1" }]

[service.tunnel]
address = "192.0.2.2"
port = 80
protocol = "tcp"
scheduler = "wlc"
forwarding = "tunnel"
tunnel = { type = "gue", port = 5555 }
server = [{ host = "10.0.0.1" }]

[service.nat]
address = "192.0.2.2"
port = 81
protocol = "tcp"
scheduler = "wlc"
forwarding = "masquerading"
server-port = 8080
upper-threshold = 100
lower-threshold = 50
server = [{ host = "10.0.0.1" }]

[service.mark]
address = "192.0.2.3"
firewall-mark = 9
scheduler = "rr"
server = [{ host = "10.0.0.1" }]
"#;

/// Somebody else's.
const FOREIGN: &str = "ipvsadm -A -t 203.0.113.1:25 -s wlc
    ipvsadm -a -t 203.0.113.1:25 -r 10.0.0.9:25 -i -w 5
    ipvsadm -A -f 7 -s rr -p 60";

/// Each is one change behind the daemon's back; the state is as before within the time, and it is counted.
const CHANGES: &[&str] = &[
    "ipvsadm -D -t 192.0.2.1:80",
    "ipvsadm -E -t 192.0.2.1:80 -s rr",
    "ipvsadm -E -t 192.0.2.1:80 -s wrr -p 60",
    "ipvsadm -E -t [2001:db8::1]:443 -s mh -b mh-port,mh-fallback -p 300 -M 64",
    "ipvsadm -E -t [2001:db8::1]:443 -s mh -p 300 -M 64",
    "ipvsadm -E -t [2001:db8::1]:443 -s mh -b mh-port -p 60 -M 64",
    "ipvsadm -E -t [2001:db8::1]:443 -s mh -b mh-port -p 300 -M 48",
    "ipvsadm -E -t [2001:db8::1]:443 -s mh -b mh-port",
    "ipvsadm -E -u 192.0.2.1:53 -s sh",
    "ipvsadm -E -u 192.0.2.2:5060 -s rr -p 300",
    "ipvsadm -E -f 9 -s wrr",
    "ipvsadm -D -f 9",
    "ipvsadm -d -t 192.0.2.1:80 -r 10.0.0.1:80",
    "ipvsadm -d -t [2001:db8::1]:443 -r [2001:db8:1::2]:443",
    "ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.3:80 -g -w 10",
    "ipvsadm -a -f 9 -r 10.0.0.3 -g",
    "ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1",
    "ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 0",
    "ipvsadm -e -t [2001:db8::1]:443 -r [2001:db8:1::2]:443 -g -w 21",
    "ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -m -w 10",
    "ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -i -w 10",
    "ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 10 -x 100 -y 10",
    "ipvsadm -e -t 192.0.2.2:81 -r 10.0.0.1:8080 -m -w 10 -x 100 -y 10",
    "ipvsadm -e -t 192.0.2.2:81 -r 10.0.0.1:8080 -m -w 10",
    "ipvsadm -e -t 192.0.2.2:80 -r 10.0.0.1:80 -i -w 10 --tun-type gre",
    "ipvsadm -e -t 192.0.2.2:80 -r 10.0.0.1:80 -i -w 10 --tun-type gue --tun-port 5556",
    "ipvsadm -e -t 192.0.2.2:80 -r 10.0.0.1:80 -i -w 10 --tun-type gue --tun-port 5555 --tun-csum",
    // Another port is another server.
    "ipvsadm -d -t 192.0.2.2:81 -r 10.0.0.1:8080
        ipvsadm -a -t 192.0.2.2:81 -r 10.0.0.1:8081 -m -w 10 -x 100 -y 50",
    "ipvsadm -D -u 192.0.2.1:53
        ipvsadm -D -u 192.0.2.2:5060
        ipvsadm -D -t 192.0.2.2:80",
    "ipvsadm -C",
    "ipvsadm -C
        printf '%s\n' '-A -t 192.0.2.1:80 -s lc' '-a -t 192.0.2.1:80 -r 10.0.0.7:80 -m' \
            '-A -u 192.0.2.1:53 -s rr' '-A -f 9 -s lc' | ipvsadm -R",
    "ip address del 192.0.2.1/32 dev lo",
    "ip address del 2001:db8::1/128 dev lo",
    "ip address flush dev lo label lo:plimsoll",
    "ip address change 192.0.2.1/32 dev lo valid_lft 1 preferred_lft 1",
    "ip link set lo down
        ip link set lo up",
    "sysctl -qw net.ipv4.vs.expire_nodest_conn=0",
    "sysctl -qw net.ipv4.vs.expire_quiescent_template=0",
    "sysctl -qw net.ipv4.vs.conn_reuse_mode=1",
    "sysctl -qw net.ipv4.vs.sloppy_tcp=0",
    "sysctl -qw net.ipv4.vs.drop_packet=3",
];

/// These put a VIP on the host in another way, which is as good. What undoes them.
const ADOPTED: &[[&str; 2]] = &[
    [
        "ip address add 192.0.2.1/24 dev dummy0
            ip address del 192.0.2.1/32 dev lo",
        "ip address del 192.0.2.1/24 dev dummy0",
    ],
    [
        "ip address add 192.0.2.1/30 dev lo
            ip address del 192.0.2.1/32 dev lo",
        "ip address del 192.0.2.1/30 dev lo",
    ],
    [
        "ip address add 2001:db8::1/64 dev dummy0 nodad
            ip address del 2001:db8::1/128 dev lo",
        "ip address del 2001:db8::1/64 dev dummy0",
    ],
];

struct Balancer {
    host: Namespace,
}

impl Balancer {
    fn sh(&self, script: &str) -> String {
        run(self.host.command("sh").args(["-ec", script]))
    }

    /// All that is anybody's, in lines of an order that does not depend on what came first.
    fn state(&self) -> Vec<String> {
        let all = self.sh("ipvsadm -Sn
            ipvsadm -Ln --thresholds | sed 's/^ *->/threshold/' | grep -v '^[A-Z]' | sed 's/ [0-9]* *$//'
            ip -o address show | sed 's/^[0-9]*: //'
            for name in conn_reuse_mode drop_entry drop_packet expire_nodest_conn expire_quiescent_template \\
                secure_tcp sloppy_tcp; do sysctl net.ipv4.vs.$name; done");
        let mut lines: Vec<_> = all.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    }

    /// What was put right so far.
    fn repairs(&self) -> u64 {
        let metrics = get(&self.host, "/metrics");
        let counts = metrics.lines().filter(|line| {
            line.starts_with("plimsoll_ipvs_repaired_total")
                || line.starts_with("plimsoll_host_repaired_total")
        });
        let count = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        counts.map(count).sum()
    }

    /// How long it took since then.
    fn until_repaired(&self, what: &str, right: &[String], repairs: u64) -> Duration {
        let since = Instant::now();
        loop {
            let state = self.state();
            // Where lo is down for a moment nobody can be asked.
            if state == right && self.repairs() > repairs {
                return since.elapsed();
            }
            if since.elapsed() > REPAIR {
                let gone = right.iter().filter(|line| !state.contains(line));
                let new = state.iter().filter(|line| !right.contains(line));
                panic!(
                    "{what}: not in {REPAIR:?}: repaired {} times; gone {:#?}; new {:#?}",
                    self.repairs() - repairs,
                    gone.collect::<Vec<_>>(),
                    new.collect::<Vec<_>>()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn whatever_is_changed_behind_its_back_is_put_right() {
    let directory = tempfile::tempdir().unwrap();
    let balancer = Balancer {
        host: Namespace::new("lb"),
    };
    balancer.sh(FOREIGN);
    balancer.sh("ip link add dummy0 type dummy
        ip link set dummy0 up
        ip address add 203.0.113.9/32 dev lo
        sysctl -qw net.ipv4.vs.drop_entry=3");
    let file = directory.path().join("plimsoll.toml");
    let state = directory.path().display();
    let text = format!(
        "[daemon]\nstate-directory = \"{state}\"\n[api]\ncontrol = \"{state}/control.sock\"\n{CONFIG}"
    );
    std::fs::write(&file, text).unwrap();
    let mut daemon = balancer.host.command(env!("CARGO_BIN_EXE_plimsoll"));
    daemon.arg("run").arg("--config").arg(&file);
    let _daemon = Process::start(daemon.stdout(Stdio::null()));

    let servers = |state: &[String]| state.iter().filter(|line| line.starts_with("-a ")).count();
    until(LIMIT, "all of it is there", || {
        let state = balancer.state();
        let addresses = state
            .iter()
            .filter(|line| line.contains("plimsoll"))
            .count();
        let kept = state.contains(&"net.ipv4.vs.sloppy_tcp = 1".to_owned());
        (servers(&state) == 10 && addresses == 3 && kept).then_some(())
    });
    let right = balancer.state();
    for foreign in [
        "-A -t 203.0.113.1:25 -s wlc",
        "-A -f 7 -s rr -p 60",
        "net.ipv4.vs.drop_entry = 3",
    ] {
        assert!(right.contains(&foreign.to_owned()), "{foreign}: {right:#?}");
    }
    // A start that finds nothing of its own is no repair.
    assert_eq!(balancer.repairs(), 0);

    let mut times = Vec::new();
    for change in CHANGES {
        let repairs = balancer.repairs();
        balancer.sh(change);
        if change.contains("ipvsadm -C") {
            balancer.sh(FOREIGN);
        }
        times.push(balancer.until_repaired(change, &right, repairs));
    }
    times.sort();
    println!(
        "{} changes: median {:?}, longest {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    let told = get(&balancer.host, "/repairs");
    assert!(
        told.contains("sysctl: net.ipv4.vs.conn_reuse_mode: 1 -> 2\n"),
        "{told}"
    );

    for [moved, undone] in ADOPTED {
        let repairs = balancer.repairs();
        balancer.sh(moved);
        balancer.sh(undone);
        balancer.until_repaired(moved, &right, repairs);
    }
    // Under another label it is somebody else's, who may take it away again.
    let repairs = balancer.repairs();
    balancer.sh("printf '%s\\n' 'address del 192.0.2.3/32 dev lo' \\
        'address add 192.0.2.3/32 dev lo label lo:other' | ip -force -batch - || true");
    assert!(
        balancer
            .sh("ip -o address show dev lo")
            .contains("192.0.2.3/32")
    );
    balancer.sh("ip address del 192.0.2.3/32 dev lo");
    balancer.until_repaired("the label", &right, repairs);

    // What is not ours may change as it likes.
    let repairs = balancer.repairs();
    balancer.sh("ipvsadm -e -t 203.0.113.1:25 -r 10.0.0.9:25 -i -w 6
        ipvsadm -E -f 7 -s wrr -p 61
        ipvsadm -A -t 203.0.113.2:25 -s rr
        ip address del 203.0.113.9/32 dev lo
        ip address add 203.0.113.8/32 dev lo
        sysctl -qw net.ipv4.vs.drop_entry=0");
    let theirs = balancer.state();
    std::thread::sleep(REPAIR);
    assert_eq!(balancer.state(), theirs);
    assert_eq!(balancer.repairs(), repairs);
}
