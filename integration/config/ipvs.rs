//! `[ipvs]`: what is read, what is set where nothing is written, and each rule with its message.

use plimsoll::config::Config;

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
