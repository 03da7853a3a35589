//! Reads `[[service.NAME.monitor]]`: what all kinds of monitors have, then each kind's own keys.

mod answer;
mod dns_query;
mod grpc;
mod http;
mod idle_connection;
pub(super) mod load;
mod ping;
mod proxy_fetch;
mod run_command;
mod tcp;
mod tls;
mod udp;
mod vip_reachability;

use std::sync::Arc;
use std::time::Duration;

use super::reader::{Key, Node, Table, key};
use super::spelling::quoted;
use super::value::{self, TIMEOUT};
use crate::check::{Damping, Monitor, Path, Probe};
use crate::service::Protocol;

/// Of all kinds.
pub(super) const KEYS: &[Key] = &[key("type"), key("port"), key("depool")];

/// Of those that ask once an interval.
pub(super) const PERIODIC_KEYS: &[Key] = &[
    key("interval"),
    key("fast-interval"),
    key("timeout"),
    key("rise"),
    key("fall"),
    key("window"),
];

/// One `type`.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    name: &'static str,
    /// Its own keys, besides [`KEYS`], in groups: some are others' too.
    pub(super) keys: &'static [&'static [Key]],
    read: Read,
}

#[derive(Clone, Copy)]
enum Read {
    /// It asks once an interval: it has [`PERIODIC_KEYS`], too, with defaults for interval and timeout in seconds.
    Periodic(fn(&Table<'_>) -> Option<Probe>, u64, u64),
    /// It holds a TCP connection all the time.
    Connection(fn(&Table<'_>) -> Option<Monitor>),
    /// It sends datagrams all the time.
    Datagrams(fn(&Table<'_>) -> Option<Monitor>),
}

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "idle-connection",
        keys: idle_connection::KEYS,
        read: Read::Connection(idle_connection::read),
    },
    Kind {
        name: "proxy-fetch",
        keys: proxy_fetch::KEYS,
        read: Read::Periodic(proxy_fetch::read, 10, 5),
    },
    Kind {
        name: "tcp",
        keys: tcp::KEYS,
        read: Read::Periodic(tcp::read, 10, 5),
    },
    Kind {
        name: "tls",
        keys: tls::KEYS,
        read: Read::Periodic(tls::read, 10, 5),
    },
    Kind {
        name: "http",
        keys: http::KEYS,
        read: Read::Periodic(http::read, 10, 5),
    },
    Kind {
        name: "grpc",
        keys: grpc::KEYS,
        read: Read::Periodic(grpc::read, 10, 5),
    },
    Kind {
        name: "run-command",
        keys: run_command::KEYS,
        read: Read::Periodic(run_command::read, 60, 20),
    },
    Kind {
        name: "dns-query",
        keys: dns_query::KEYS,
        read: Read::Periodic(dns_query::read, 10, 5),
    },
    Kind {
        name: "udp",
        keys: udp::KEYS,
        read: Read::Datagrams(udp::read),
    },
    Kind {
        name: "ping",
        keys: ping::KEYS,
        read: Read::Periodic(ping::read, 10, 2),
    },
    Kind {
        name: "vip-reachability",
        keys: vip_reachability::KEYS,
        read: Read::Periodic(vip_reachability::read, 10, 5),
    },
];

/// The longest row of results that damping looks at.
const LONGEST_WINDOW: u32 = 64;

/// `protocol`: the service's, if it is known and has one. `has_port`: where servers listen is known without a monitor's
/// `port`.
pub(super) fn monitors(
    node: &Node<'_>,
    protocol: Option<Protocol>,
    has_port: bool,
) -> Option<Vec<Arc<Monitor>>> {
    if node.is_empty_list() {
        return Some(Vec::new());
    }
    let tables = node.tables();
    let good: Vec<_> = tables
        .iter()
        .filter_map(|table| monitor(table, protocol, has_port))
        .map(Arc::new)
        .collect();
    (!good.is_empty() && good.len() == tables.len()).then_some(good)
}

fn monitor(table: &Table<'_>, protocol: Option<Protocol>, has_port: bool) -> Option<Monitor> {
    let kind = table.required("type", "type = \"proxy-fetch\", say", |node| {
        let kind = node.choice("monitor type", KINDS.iter().map(|kind| (kind.name, kind)))?;
        if matches!(
            (kind.read, protocol),
            (Read::Connection(_), Some(Protocol::Udp))
        ) {
            let kind = kind.name;
            node.mistake(format_args!(
                "{kind} needs a TCP service, this one is UDP; write proxy-fetch or no monitor"
            ));
        }
        // A datagram to a port where nobody listens would take every server down.
        if matches!(
            (kind.read, protocol),
            (Read::Datagrams(_), Some(Protocol::Tcp))
        ) && table.get("port").is_none()
        {
            let kind = kind.name;
            node.mistake(format_args!(
                "{kind} needs a UDP port, this service is TCP; write port = 53, say, or another monitor"
            ));
        }
        Some(kind)
    })?;
    let answer = load::answer(kind.name);
    let monitor = match kind.read {
        Read::Periodic(read, interval, timeout) => {
            table.note_keys_not_in(&[&[KEYS, PERIODIC_KEYS], kind.keys].concat());
            periodic(table, read(table), interval, timeout)
        }
        Read::Connection(read) | Read::Datagrams(read) => {
            table.note_keys_not_in(&[&[KEYS], kind.keys].concat());
            read(table)
        }
    };
    let port = table.optional("port", value::port);
    let depool = table.or("depool", true, Node::boolean);
    // Of those kinds that name it among their keys.
    let path = table.or("path", Path::Server, |node| {
        node.choice("path", [("server", Path::Server), ("vip", Path::Vip)])
    });
    let load = match answer {
        Some(answer) => table.optional("load", |node| load::load(node, answer)),
        None => Some(None),
    };
    let (monitor, port) = (monitor?, port?);
    let usual = matches!(monitor.probe, Probe::DnsQuery(_)).then_some(dns_query::PORT);
    let port = port.or(usual);
    if port.is_none() && !has_port && !matches!(monitor.probe, Probe::Ping | Probe::RunCommand(_)) {
        let place = &table.place;
        place.missing(
            "port",
            "missing, the service has none of its own; write port = 80, say",
        );
        return None;
    }
    Some(Monitor {
        port,
        path: path?,
        depool: depool?,
        load: load?,
        ..monitor
    })
}

/// What all probes have that ask once an interval.
fn periodic(
    table: &Table<'_>,
    probe: Option<Probe>,
    default_interval: u64,
    default_timeout: u64,
) -> Option<Monitor> {
    let interval = timeout(table, "interval", default_interval);
    let fast_interval = table.optional("fast-interval", |node| {
        let fast = value::duration(node, &TIMEOUT)?;
        if interval.is_some_and(|interval| fast > interval) {
            node.mistake("longer than interval; write a shorter one, or leave it out");
            return None;
        }
        Some(fast)
    });
    let timeout = timeout(table, "timeout", default_timeout);
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
    each(node, read)
}

/// A list, or what may stand alone for a list of one.
fn each<'a, T>(node: &Node<'a>, read: impl Fn(&Node<'a>) -> Option<T>) -> Option<Vec<T>> {
    let items = node.items();
    let good: Vec<T> = items.iter().filter_map(read).collect();
    (good.len() == items.len()).then_some(good)
}
