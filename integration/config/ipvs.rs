//! `[ipvs]`: what is read, what is set where nothing is written, and each rule with its message.

use plimsoll::config::{Config, Sync, SyncRole};

use super::{check, web};

/// Name and value of each setting that is kept.
fn sysctls(lines: &str) -> String {
    let config = Config::parse(&web(lines), "FILE").expect("it is good");
    let settings = config.ipvs.sysctl.iter();
    let words: Vec<_> = settings
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.join(", ")
}

const DEFAULTS: &str = "conn_reuse_mode=2, expire_nodest_conn=1, expire_quiescent_template=1";

#[test]
fn without_a_word_the_safe_ones_are_kept() {
    assert_eq!(sysctls(""), DEFAULTS);
    assert_eq!(sysctls("[ipvs]"), DEFAULTS);
    assert_eq!(sysctls("[ipvs.sysctl]"), DEFAULTS);
    for scheduler in ["mh", "sh"] {
        let scheduler = format!("scheduler = \"{scheduler}\"");
        assert_eq!(sysctls(&scheduler), format!("{DEFAULTS}, sloppy_tcp=1"));
    }
}

#[test]
fn what_is_written_is_kept_or_left_alone() {
    let all = "[ipvs.sysctl]\nexpire_nodest_conn = 0\nexpire_quiescent_template = false\n\
        conn_reuse_mode = false\nsync_threshold = [0, 50]\nconntrack = 1";
    assert_eq!(
        sysctls(all),
        "conntrack=1, expire_nodest_conn=0, sync_threshold=0 50"
    );
    let off = "scheduler = \"mh\"\n[ipvs.sysctl]\nsloppy_tcp = false";
    assert_eq!(sysctls(off), DEFAULTS);
}

#[test]
fn synchronisation() {
    let config = |lines: &str| Config::parse(&web(lines), "FILE").expect("it is good");
    assert_eq!(config("[ipvs.sysctl]").ipvs.sync, None);
    let least = "[ipvs.sync]\nrole = \"master\"\ninterface = \"eth1\"";
    let expected = Sync {
        role: SyncRole::Master,
        interface: "eth1".into(),
        id: 0,
        group: "224.0.0.81".parse().unwrap(),
        port: 8848,
        ttl: 1,
    };
    assert_eq!(config(least).ipvs.sync, Some(expected));
    let all = "[ipvs.sync]\nrole = \"both\"\ninterface = \"eth1.100\"\nsync-id = 255\n\
        group = \"ff02::81\"\nport = 9000\nttl = 2";
    let expected = Sync {
        role: SyncRole::Both,
        interface: "eth1.100".into(),
        id: 255,
        group: "ff02::81".parse().unwrap(),
        port: 9000,
        ttl: 2,
    };
    assert_eq!(config(all).ipvs.sync, Some(expected));
    check(
        &web(
            "[ipvs.sync]\nrole = \"slave\"\ninterface = \"\"\nsync-id = 256\ngroup = \"192.0.2.1\"\nport = 0\nttl = 0",
        ),
        "8: ipvs.sync.role: unknown role \"slave\"; allowed are master, backup, both\n\
         9: ipvs.sync.interface: an interface's name has 1 to 15 characters; write one like \"eth0\"\n\
         10: ipvs.sync.sync-id: the integer 256 is out of range; write 0 to 255\n\
         11: ipvs.sync.group: no multicast address; write one like \"224.0.0.81\" or \"ff02::81\"\n\
         12: ipvs.sync.port: the integer 0 is out of range; write 1 to 65535\n\
         13: ipvs.sync.ttl: the integer 0 is out of range; write 1 to 255",
    );
    check(
        &web("[ipvs.sync]"),
        "7: ipvs.sync.role: missing; write role = \"both\", say\n\
         7: ipvs.sync.interface: missing; write interface = \"eth0\", say",
    );
}

#[test]
fn mistakes() {
    for (line, expected) in [
        (
            "expire_nodest = 1",
            "8: ipvs.sysctl.expire_nodest: unknown key \"expire_nodest\"; did you mean \"expire_nodest_conn\"?",
        ),
        (
            "expire_nodest_conn = 2",
            "8: ipvs.sysctl.expire_nodest_conn: the integer 2 is out of range; write 0 to 1",
        ),
        (
            "expire_nodest_conn = true",
            "8: ipvs.sysctl.expire_nodest_conn: expected a number, found true; write a number, or false to leave the setting alone",
        ),
        (
            "conn_reuse_mode = \"2\"",
            "8: ipvs.sysctl.conn_reuse_mode: expected an integer, found the string \"2\"; write 2 without quotes",
        ),
        (
            "sync_threshold = 3",
            "8: ipvs.sysctl.sync_threshold: it is two numbers; write [3, 50]",
        ),
        (
            "sync_threshold = [50, 3]",
            "8: ipvs.sysctl.sync_threshold: the first number must be less than the second; write [3, 50]",
        ),
    ] {
        check(&web(&format!("[ipvs.sysctl]\n{line}")), expected);
    }
    check(
        &web("[ipvs]\nsysctls = 1"),
        "8: ipvs.sysctls: unknown key \"sysctls\"; did you mean \"sysctl\"?",
    );
}
