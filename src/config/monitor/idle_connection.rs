//! `type = "idle-connection"`

use std::time::Duration;

use super::timeout;
use crate::check::{IdleConnection, Keepalive, Monitor, Probe};
use crate::config::reader::{Key, Node, Table, key};
use crate::config::value::{self, Durations};

pub(super) const KEYS: &[&[Key]] = &[&[
    key("connect-timeout"),
    key("timeout-clean-reconnect"),
    key("max-delay"),
    key("keepalive"),
    key("keepalive-idle"),
    key("keepalive-interval"),
    key("keepalive-retries"),
]];

/// tcp(7): TCP_KEEPIDLE and TCP_KEEPINTVL, which the kernel bounds by MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL.
const KEEPALIVE: Durations = Durations {
    least: Duration::from_secs(1),
    most: Duration::from_secs(32767),
    whole_seconds: true,
    example: "10s",
};

/// tcp(7): TCP_KEEPCNT, bounded by MAX_TCP_KEEPCNT.
const KEEPALIVE_RETRIES: (u32, u32) = (1, 127);

pub(super) fn read(table: &Table<'_>) -> Option<Monitor> {
    let connect_timeout = timeout(table, "connect-timeout", 5);
    let timeout_clean_reconnect = timeout(table, "timeout-clean-reconnect", 3);
    let max_delay = timeout(table, "max-delay", 300);
    let keepalive = keepalive(table);
    let probe = Probe::IdleConnection(IdleConnection {
        timeout_clean_reconnect: timeout_clean_reconnect?,
        max_delay: max_delay?,
        keepalive: keepalive?,
    });
    Some(Monitor::new(
        probe,
        Duration::from_secs(1),
        connect_timeout?,
    ))
}

fn keepalive(table: &Table<'_>) -> Option<Option<Keepalive>> {
    let seconds = |key, default| {
        table.or(key, Duration::from_secs(default), |node| {
            value::duration(node, &KEEPALIVE)
        })
    };
    let on = table.or("keepalive", true, Node::boolean);
    let idle = seconds("keepalive-idle", 10);
    let interval = seconds("keepalive-interval", 30);
    let (least, most) = KEEPALIVE_RETRIES;
    let retries = table.or("keepalive-retries", 3, |node| node.integer(least, most));
    if on == Some(false) {
        for key in ["keepalive-idle", "keepalive-interval", "keepalive-retries"] {
            if let Some(node) = table.get(key) {
                node.mistake(format_args!(
                    "no use with keepalive = false; leave out {key}, or write keepalive = true"
                ));
            }
        }
    }
    let keepalive = Keepalive {
        idle: idle?,
        interval: interval?,
        retries: retries?,
    };
    Some(on?.then_some(keepalive))
}
