//! Reads `[[service.NAME.monitor]]`: what all kinds of monitors have, then each kind's own keys.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::reader::{Key, Node, Table, key, was};
use super::spelling::quoted;
use super::value::{self, Durations, TIMEOUT};
use crate::check::{Damping, IdleConnection, Keepalive, Monitor, Probe, ProxyFetch};
use crate::service::Protocol;

pub(super) const IDLE_CONNECTION_KEYS: &[Key] = &[
    key("type"),
    key("port"),
    key("depool"),
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
    key("port"),
    key("depool"),
    key("interval"),
    key("fast-interval"),
    key("timeout"),
    key("rise"),
    key("fall"),
    key("window"),
    key("url"),
    was("status", "http_status"),
    was("check-all", "check_all"),
    was("max-failures", "max_failures"),
    key("verify-certificate"),
];

/// The longest row of results that damping looks at.
const LONGEST_WINDOW: u32 = 64;

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
    let monitor = match kind {
        Kind::IdleConnection => {
            table.note_unknown_keys(IDLE_CONNECTION_KEYS);
            idle_connection(table)
        }
        Kind::ProxyFetch => {
            table.note_unknown_keys(PROXY_FETCH_KEYS);
            periodic(table, proxy_fetch(table))
        }
    };
    let port = table.optional("port", value::port);
    let depool = table.or("depool", true, Node::boolean);
    Some(Monitor {
        port: port?,
        depool: depool?,
        ..monitor?
    })
}

/// What all probes have that ask once an interval.
fn periodic(table: &Table<'_>, probe: Option<Probe>) -> Option<Monitor> {
    let interval = timeout(table, "interval", 10);
    let fast_interval = table.optional("fast-interval", |node| {
        let fast = value::duration(node, &TIMEOUT)?;
        if interval.is_some_and(|interval| fast > interval) {
            node.mistake("longer than interval; write a shorter one, or leave it out");
            return None;
        }
        Some(fast)
    });
    let timeout = timeout(table, "timeout", 5);
    let damping = damping(table);
    Some(Monitor {
        fast_interval: fast_interval?,
        damping: damping?,
        ..Monitor::new(probe?, interval?, timeout?)
    })
}

fn damping(table: &Table<'_>) -> Option<Damping> {
    let row = |key| table.or(key, 1, |node| node.integer(1, LONGEST_WINDOW));
    let (rise, fall) = (row("rise"), row("fall"));
    let window = table.optional("window", window);
    if table.get("window").is_some() {
        for (key, row) in [("rise", rise), ("fall", fall)] {
            if let Some(node) = table.get(key).filter(|_| row != Some(1)) {
                node.mistake(format_args!(
                    "of no use with window; leave out {key}, or window"
                ));
                return None;
            }
        }
    }
    let (rise, fall) = (rise?, fall?);
    Some(window?.unwrap_or(Damping::InARow { rise, fall }))
}

/// `"3/5"`: 3 of the last 5.
fn window(node: &Node<'_>) -> Option<Damping> {
    let text = node.string("a window", "3/5")?;
    let numbers = text.split_once('/').and_then(|(bad, of)| {
        let of = of.trim().parse::<u32>().ok()?;
        let bad = bad.trim().parse::<u32>().ok()?;
        (1 <= bad && bad <= of && of <= LONGEST_WINDOW).then_some(Damping::Window { bad, of })
    });
    if numbers.is_none() {
        node.mistake(format_args!(
            "{} is no window; write one like \"3/5\", which is down while 3 of the last 5 results are bad, of at most {LONGEST_WINDOW}",
            quoted(text)
        ));
    }
    numbers
}

fn idle_connection(table: &Table<'_>) -> Option<Monitor> {
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

fn proxy_fetch(table: &Table<'_>) -> Option<Probe> {
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
    let status = table.or("status", vec![200], |node| {
        some(node, "status", "[200], say", status)
    });
    let check_all = check_all(table, url.as_ref().map(Vec::len));
    let verify_certificate = table.or("verify-certificate", false, Node::boolean);
    Some(Probe::ProxyFetch(ProxyFetch {
        url: url?,
        status: status?,
        check_all: check_all?,
        verify_certificate: verify_certificate?,
    }))
}

/// `urls`: how many there are, if that is known.
fn check_all(table: &Table<'_>, urls: Option<usize>) -> Option<Option<u32>> {
    let all = table.or("check-all", false, Node::boolean);
    let failures = table.or("max-failures", 0, |node| {
        let failures = node.integer(0, u32::MAX)?;
        if all == Some(false) && failures > 0 {
            node.mistake("of no use without check-all = true, which fetches all URLs");
            return None;
        }
        // A monitor that any server passes is none.
        let urls = urls.and_then(|urls| u32::try_from(urls).ok());
        if let Some(urls) = urls.filter(|urls| failures >= *urls) {
            let most = urls.saturating_sub(1);
            node.mistake(format_args!(
                "all URLs may fail; of {urls} write {most} at most"
            ));
            return None;
        }
        Some(failures)
    });
    let failures = failures?;
    Some(all?.then_some(failures))
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
