//! `plimsoll doctor` on a balancer with IPVS. What needs none is in `doctor.rs`, in network namespaces.

use std::process::Command;

use serde_json::Value;

use super::lab::{expect_a_guest, in_namespace, sh, unload_ipvs, until};

/// Severities and checks.
fn all_found(arguments: &str) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command
        .args(["doctor", "--json"])
        .args(arguments.split_whitespace());
    let output = command.output().unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let findings = report["findings"].as_array().unwrap().iter();
    let text = |one: &Value| {
        format!(
            "{} {}",
            one["severity"].as_str().unwrap(),
            one["check"].as_str().unwrap()
        )
    };
    let mut names: Vec<_> = findings.map(text).collect();
    names.dedup();
    let code = output.status.code();
    let worst = names
        .first()
        .map_or(0, |name| match name.split_once(' ').unwrap().0 {
            "fault" => 2,
            "warning" => 1,
            _ => 0,
        });
    assert_eq!(code, Some(worst), "{names:?}");
    names
}

/// Without the guest's clock, which nobody keeps.
fn found(arguments: &str) -> Vec<String> {
    let mut names = all_found(arguments);
    names.retain(|name| name != "note clock");
    names
}

/// Breaks it, expects what is found, mends it, and expects that nothing is found.
fn check(breaking: &str, mend: &str, expected: &[&str]) {
    assert_eq!(found(""), Vec::<String>::new(), "before {breaking}");
    sh(breaking);
    assert_eq!(found(""), expected, "{breaking}");
    sh(mend);
}

#[test]
fn what_breaks_a_balancer_is_found() {
    in_namespace(async {
        for (wire, net, mtu) in [("eth0", "10.0.0", 1500), ("eth1", "10.1.0", 1500)] {
            sh(&format!(
                "ip link add {wire} mtu {mtu} type veth peer name {wire}.far && ip link set {wire}.far up && ip link set {wire} up"
            ));
            sh(&format!("ip address add {net}.1/24 dev {wire}"));
        }
        sh("ip route add default via 10.0.0.254");
        sh("ip address add 192.0.2.1/32 dev lo");
        sh("sysctl -qw net.ipv4.vs.conn_reuse_mode=2 net.ipv4.ip_forward=0");
        sh("ipvsadm -A -t 192.0.2.1:80 -s wrr && ipvsadm -a -t 192.0.2.1:80 -r 10.1.0.7 -g");
        assert_eq!(found(""), Vec::<String>::new(), "it is well");

        let delete = "ipvsadm -D -t 192.0.2.1:443";
        for (breaking, mend, expected) in [
            (
                "ipvsadm -e -t 192.0.2.1:80 -r 10.1.0.7 -g -w 0",
                "ipvsadm -e -t 192.0.2.1:80 -r 10.1.0.7 -g -w 1",
                &["fault service"][..],
            ),
            (
                "ipvsadm -A -t 192.0.2.1:443 -s rr -p 60 && ipvsadm -a -t 192.0.2.1:443 -r 10.1.0.7:20001 -m",
                delete,
                &["fault ip-forward", "warning ipvs-sysctl"],
            ),
            (
                "ipvsadm -A -t 192.0.2.1:443 -s rr",
                delete,
                &["warning service"],
            ),
            (
                "ipvsadm -A -t 192.0.2.1:443 -s rr && ipvsadm -a -t 192.0.2.1:443 -r 10.2.0.7 -g",
                delete,
                &["fault server-route"],
            ),
            (
                "ipvsadm -A -t 192.0.2.1:443 -s mh && ipvsadm -a -t 192.0.2.1:443 -r 10.1.0.7 -g",
                delete,
                &["warning ipvs-sysctl"],
            ),
            (
                "ipvsadm -A -u 192.0.2.1:53 -s rr && ipvsadm -a -u 192.0.2.1:53 -r 10.1.0.7 -g",
                "ipvsadm -D -u 192.0.2.1:53",
                &["warning ipvs-sysctl"],
            ),
            (
                "sysctl -qw net.ipv4.vs.conn_reuse_mode=1",
                "sysctl -qw net.ipv4.vs.conn_reuse_mode=2",
                &["warning ipvs-sysctl"],
            ),
            (
                "sysctl -qw net.ipv4.conf.eth1.rp_filter=1",
                "sysctl -qw net.ipv4.conf.eth1.rp_filter=0",
                &["warning rp-filter"],
            ),
            (
                "sysctl -qw net.ipv4.vs.conntrack=1",
                "sysctl -qw net.ipv4.vs.conntrack=0",
                &["warning conntrack"],
            ),
            // A device of many that has LRO of its own.
            (
                "ip link add lag type bond && ip link set lag up",
                "ip link del lag",
                &["fault offload"],
            ),
            (
                "ip link set eth1 mtu 1400",
                "ip link set eth1 mtu 1500",
                &["warning mtu"],
            ),
            (
                "ip address del 192.0.2.1/32 dev lo",
                "ip address add 192.0.2.1/32 dev lo",
                &["fault vip-missing"],
            ),
            (
                "ip address add 10.0.0.9/32 dev lo && ipvsadm -A -t 10.0.0.9:80 -s rr && ipvsadm -a -t 10.0.0.9:80 -r 10.1.0.7 -g",
                "ipvsadm -D -t 10.0.0.9:80; ip address del 10.0.0.9/32 dev lo",
                &["fault arp"],
            ),
        ] {
            check(breaking, mend, expected);
        }
    });
}

#[test]
fn a_scheduler_that_the_kernel_lacks_is_found() {
    in_namespace(async {
        sh("ip address add 192.0.2.1/32 dev lo");
        let config = tempfile::NamedTempFile::new().unwrap();
        let with = |scheduler: &str| {
            let service =
                "address = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nservers = \"file:///x\"\n";
            let text = format!("[service.web]\n{service}scheduler = \"{scheduler}\"\n");
            std::fs::write(&config, text).unwrap();
            found(&format!("-c {}", config.path().display()))
        };
        assert_eq!(with("rr"), Vec::<String>::new());
        // Debian's user-mode-linux has every other one.
        assert_eq!(with("twos"), ["fault scheduler"]);
    });
}

#[test]
fn a_kernel_without_ipvs_and_one_with_a_small_table_are_found() {
    expect_a_guest();
    in_namespace(async {
        let balancer = || found("--role balancer");
        sh("ip address add 192.0.2.1/32 dev lo");
        assert_eq!(balancer(), Vec::<String>::new());
        until("IPVS is unloaded", unload_ipvs).await;
        assert_eq!(balancer(), ["fault ipvs"]);

        // 256 lists, and 1,100 clients.
        sh("busybox modprobe ip_vs conn_tab_bits=8");
        sh("sysctl -qw net.ipv4.vs.conn_reuse_mode=2 net.ipv4.vs.expire_nodest_conn=1");
        sh(
            "ip link add eth0 type dummy && ip link set eth0 up && ip address add 10.0.0.1/24 dev eth0",
        );
        sh("ipvsadm -A -u 192.0.2.1:53 -s rr && ipvsadm -a -u 192.0.2.1:53 -r 10.0.0.7 -g");
        let ask = |from: std::ops::Range<u16>| {
            for port in from {
                let socket = std::net::UdpSocket::bind(("192.0.2.1", port)).unwrap();
                let _ = socket.send_to(b"?", "192.0.2.1:53");
            }
        };
        ask(20000..21000);
        assert_eq!(balancer(), Vec::<String>::new());
        ask(21000..21100);
        assert_eq!(balancer(), ["warning connection-table"]);

        until("IPVS is unloaded", unload_ipvs).await;
        sh("busybox modprobe ip_vs");
        assert_eq!(balancer(), Vec::<String>::new());
    });
}

#[test]
fn what_belongs_to_the_whole_machine_is_found() {
    expect_a_guest();
    in_namespace(async {
        let balancer = || all_found("--role balancer");
        // A guest starts so.
        assert_eq!(balancer(), ["note clock"]);
        // What NTP's daemon does: adjtimex(2) with ADJ_MAXERROR and ADJ_STATUS, and no STA_UNSYNC (sys/timex.h).
        let keep = "import ctypes, struct; now = struct.pack('I4xqqqqi4x', 0x14, 0, 0, 0, 0, 0); \
                    ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(now, 208))";
        sh(&format!("/usr/bin/python3 -c \"{keep}\""));
        assert_eq!(balancer(), Vec::<String>::new());

        sh("echo 'AUTO=\"true\"' >> /etc/default/ipvsadm");
        assert_eq!(balancer(), ["warning ipvsadm-service"]);
        sh("sed -i 's/^AUTO=.*/AUTO=\"false\"/' /etc/default/ipvsadm");
        assert_eq!(balancer(), Vec::<String>::new());
    });
}

#[test]
fn a_tunnel_that_nobody_made_room_for_is_found() {
    in_namespace(async {
        let server = || found("--role realserver 192.0.2.1");
        sh("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2");
        sh("ip address add 192.0.2.1/32 dev lo");
        sh("ip link add eth0 type veth peer name far && ip link set far up && ip link set eth0 up");
        sh("ip address add 10.0.0.1/24 dev eth0 && ip route add default via 10.0.0.254");
        assert_eq!(server(), Vec::<String>::new());
        sh("ip link add in4 type ipip local 10.0.0.1 && ip link set in4 up");
        assert_eq!(server(), ["warning mss"]);
        sh("ip route change default via 10.0.0.254 advmss 1440");
        assert_eq!(server(), Vec::<String>::new());
    });
}
