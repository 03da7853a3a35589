//! Reads `[[service.NAME.monitor]]`.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::reader::{Key, Node, Table, key, was};
use super::spelling::quoted;
use super::value::{self, Durations, TIMEOUT};
use super::{IdleConnection, Keepalive, Monitor, ProxyFetch};
use crate::service::Protocol;

pub(super) const IDLE_CONNECTION_KEYS: &[Key] = &[
    key("type"),
    key("connect-timeout"),
    key("timeout-clean-reconnect"),
    key("max-delay"),
    key("keepalive"),
    key("keepalive-idle"),
    key("keepalive-interval"),
    key("keepalive-retries"),
];

pub(super) const PROXY_FETCH_KEYS: &[Key] = &[
    key("type"),
    key("url"),
    key("interval"),
    key("timeout"),
    was("status", "http_status"),
    key("verify-certificate"),
];

/// tcp(7): TCP_KEEPIDLE and TCP_KEEPINTVL, which the kernel bounds by MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL.
const KEEPALIVE: Durations = Durations {
    least: Duration::from_secs(1),
    most: Duration::from_secs(32767),
    whole_seconds: true,
    example: "10s",
};

/// tcp(7): TCP_KEEPCNT, bounded by MAX_TCP_KEEPCNT.
const KEEPALIVE_RETRIES: (u32, u32) = (1, 127);

#[derive(Clone, Copy)]
enum Kind {
    IdleConnection,
    ProxyFetch,
}

const KINDS: [(&str, Kind); 2] = [
    ("idle-connection", Kind::IdleConnection),
    ("proxy-fetch", Kind::ProxyFetch),
];

/// `protocol`: the service's, if it is known.
pub(super) fn monitors(node: &Node<'_>, protocol: Option<Protocol>) -> Option<Vec<Arc<Monitor>>> {
    if node.is_empty_list() {
        return Some(Vec::new());
    }
    let tables = node.tables();
    let good: Vec<_> = tables
        .iter()
        .filter_map(|table| monitor(table, protocol))
        .map(Arc::new)
        .collect();
    (!good.is_empty() && good.len() == tables.len()).then_some(good)
}

fn monitor(table: &Table<'_>, protocol: Option<Protocol>) -> Option<Monitor> {
    let kind = table.required("type", "type = \"proxy-fetch\", say", |node| {
        let kind = node.choice("monitor type", KINDS)?;
        if matches!((kind, protocol), (Kind::IdleConnection, Some(Protocol::Udp))) {
            node.mistake("idle-connection needs a TCP service, this one is UDP; write proxy-fetch or no monitor");
        }
        Some(kind)
    })?;
    match kind {
        Kind::IdleConnection => {
            table.note_unknown_keys(IDLE_CONNECTION_KEYS);
            idle_connection(table).map(Monitor::IdleConnection)
        }
        Kind::ProxyFetch => {
            table.note_unknown_keys(PROXY_FETCH_KEYS);
            proxy_fetch(table).map(Monitor::ProxyFetch)
        }
    }
}

fn idle_connection(table: &Table<'_>) -> Option<IdleConnection> {
    let connect_timeout = timeout(table, "connect-timeout", 5);
    let timeout_clean_reconnect = timeout(table, "timeout-clean-reconnect", 3);
    let max_delay = timeout(table, "max-delay", 300);
    let keepalive = keepalive(table);
    Some(IdleConnection {
        connect_timeout: connect_timeout?,
        timeout_clean_reconnect: timeout_clean_reconnect?,
        max_delay: max_delay?,
        keepalive: keepalive?,
    })
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

fn proxy_fetch(table: &Table<'_>) -> Option<ProxyFetch> {
    let url = table.required(
        "url",
        "url = [\"http://www.example.com/healthz\"], say",
        |node| {
            some(
                node,
                "URL",
                "[\"http://www.example.com/healthz\"], say",
                url,
            )
        },
    );
    let interval = timeout(table, "interval", 10);
    let timeout = timeout(table, "timeout", 5);
    let status = table.or("status", vec![200], |node| {
        some(node, "status", "[200], say", status)
    });
    let verify_certificate = table.or("verify-certificate", false, Node::boolean);
    Some(ProxyFetch {
        url: url?,
        interval: interval?,
        timeout: timeout?,
        status: status?,
        verify_certificate: verify_certificate?,
    })
}

fn timeout(table: &Table<'_>, key: &str, default_seconds: u64) -> Option<Duration> {
    table.or(key, Duration::from_secs(default_seconds), |node| {
        value::duration(node, &TIMEOUT)
    })
}

/// One or a list of them, but not none.
fn some<'a, T>(
    node: &Node<'a>,
    what: &str,
    right: &str,
    read: impl Fn(&Node<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    if node.is_empty_list() {
        node.mistake(format_args!("no {what}; write {right}"));
        return None;
    }
    let items = node.items();
    let good: Vec<T> = items.iter().filter_map(read).collect();
    (good.len() == items.len()).then_some(good)
}

fn url(node: &Node<'_>) -> Option<Url> {
    const EXAMPLE: &str = "http://www.example.com/healthz";
    let text = node.string("a URL", EXAMPLE)?;
    let found = quoted(text);
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            node.mistake(format_args!(
                "{found} is not a URL ({error}); write one like {EXAMPLE:?}"
            ));
            return None;
        }
    };
    if !matches!(url.scheme(), "http" | "https") {
        node.mistake(format_args!(
            "{found} is not http or https; write a URL like {EXAMPLE:?}"
        ));
    } else if url.host().is_none() {
        node.mistake(format_args!(
            "{found} names no host; write a URL like {EXAMPLE:?}"
        ));
    } else if !url.username().is_empty() || url.password().is_some() {
        node.mistake(
            "user and password in a URL are not supported by this version; write it without",
        );
    } else {
        return Some(url);
    }
    None
}

fn status(node: &Node<'_>) -> Option<u16> {
    node.integer(100, 599)
        .and_then(|status| u16::try_from(status).ok())
}
