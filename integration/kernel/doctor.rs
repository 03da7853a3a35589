//! `plimsoll doctor` on a balancer with IPVS. What needs none is in `doctor.rs`, in network namespaces.

use std::process::Command;

use serde_json::Value;

use super::lab::{in_namespace, sh};

/// Severities and checks; the guest's clock is nobody's business.
fn found(arguments: &str) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command
        .args(["doctor", "--json"])
        .args(arguments.split_whitespace());
    let output = command.output().unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(report["role"], "balancer");
    let findings = report["findings"].as_array().unwrap().iter();
    let text = |one: &Value| {
        format!(
            "{} {}",
            one["severity"].as_str().unwrap(),
            one["check"].as_str().unwrap()
        )
    };
    let mut names: Vec<_> = findings
        .map(text)
        .filter(|name| name != "note clock")
        .collect();
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
