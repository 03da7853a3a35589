//! Reads where a service's servers come from: `servers = "…"` or `[[service.NAME.server]]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::Servers;
use super::reader::{Key, Node, Table, key};
use super::service::delivery;
use super::spelling::quoted;
use super::value;
use crate::conftool::PoolPath;
use crate::service::{Delivery, Family, Forwarding, Host, Listed, ServerList, Weight};

pub(super) const KEYS: &[Key] = &[key("host"), key("weight"), key("enabled")];

/// A list in the configuration may say of a server how packets get to it.
type Deliveries = BTreeMap<Host, Delivery>;

/// `family`: the servers', if it is known. `delivery`: the service's.
pub(super) fn servers(
    table: &Table<'_>,
    family: Option<Family>,
    delivery: Delivery,
) -> Option<(Servers, Deliveries)> {
    let file = table.get("servers");
    let inline = table.get("server");
    let inline_right = format!("[[{}.server]]", table.place.path());
    if let (Some(file), Some(inline)) = (&file, &inline) {
        let line = inline.place().line();
        file.mistake(format_args!(
            "there is {inline_right} too, on line {line}; leave out one of the two"
        ));
    }
    let file = file.map(|node| Some((elsewhere(&node, &inline_right)?, Deliveries::new())));
    let inline = inline.map(|node| {
        let (list, deliveries) = inline_list(&node, family, delivery)?;
        Some((Servers::Inline(Arc::new(list)), deliveries))
    });
    match (file, inline) {
        (Some(servers), None) | (None, Some(servers)) => servers,
        (Some(_), Some(_)) => None,
        (None, None) => {
            let right = format!(
                "servers = \"file:///PATH\" or \"etcd:DC/CLUSTER/SERVICE\", or {inline_right} for each"
            );
            table
                .place
                .missing("servers", format_args!("missing; write {right}"));
            None
        }
    }
}

fn elsewhere(node: &Node<'_>, inline_right: &str) -> Option<Servers> {
    const EXAMPLE: &str = "file:///etc/plimsoll/pools/text.json";
    const IN_ETCD: &str = "etcd:eqiad/cache_text/nginx";
    let text = node.string("a server list's URL", EXAMPLE)?;
    if let Some(path) = text.strip_prefix("file://") {
        return value::absolute(path, node).map(|path| Servers::File(PathBuf::from(path)));
    }
    let found = quoted(text);
    if text.starts_with("etcd://") {
        node.mistake(format_args!(
            "{found}: the servers of etcd stand in [etcd] endpoints; write one like {IN_ETCD:?}"
        ));
        return None;
    }
    if let Some(path) = text.strip_prefix("etcd:") {
        return match path.parse::<PoolPath>() {
            Ok(path) => Some(Servers::Etcd(path)),
            Err(_) => {
                node.mistake(format_args!(
                    "{found} is not etcd:DC/CLUSTER/SERVICE; write one like {IN_ETCD:?}"
                ));
                None
            }
        };
    }
    match text.split_once("://") {
        Some((scheme, _)) => node.mistake(format_args!(
            "{found}: {} is not supported by this version; write {EXAMPLE:?}, {IN_ETCD:?} or {inline_right}",
            quoted(scheme)
        )),
        None => node.mistake(format_args!(
            "{found} is not a server list's URL; write one like {EXAMPLE:?} or {IN_ETCD:?}"
        )),
    }
    None
}

fn inline_list(
    node: &Node<'_>,
    family: Option<Family>,
    base: Delivery,
) -> Option<(ServerList, Deliveries)> {
    if node.is_empty_list() {
        node.mistake("no server; write at least one, an empty list never empties a pool");
        return None;
    }
    let tables = node.tables();
    let mut lines = BTreeMap::new();
    let mut deliveries = Deliveries::new();
    let list: ServerList = tables
        .iter()
        .filter_map(|table| {
            table.note_keys_not_in(&[KEYS, delivery::KEYS]);
            let own = delivery::delivery(table, base);
            let host = table.required("host", "the server's name or address, in quotes", |node| {
                let host = host(node, family, own)?;
                once(node, &host, &mut lines).then_some(host)
            });
            if let (Some(host), Some(own)) = (&host, own.filter(|own| *own != base)) {
                deliveries.insert(host.clone(), own);
            }
            let weight = table.or("weight", Weight::DEFAULT, weight);
            let enabled = table.or("enabled", true, Node::boolean);
            own?;
            Some((
                host?,
                Listed {
                    weight: weight?,
                    enabled: enabled?,
                },
            ))
        })
        .collect();
    (!list.is_empty() && list.len() == tables.len()).then_some((list, deliveries))
}

fn weight(node: &Node<'_>) -> Option<Weight> {
    node.integer(0, Weight::MAX).and_then(Weight::new)
}

/// Whether this is the first of its name; two spellings of one name or address are the same server.
fn once(node: &Node<'_>, host: &Host, lines: &mut BTreeMap<Host, usize>) -> bool {
    let plain = host.as_str().to_ascii_lowercase();
    let same = match (host.literal(), host.port()) {
        (Some(address), None) => Host::from(address),
        (Some(address), Some(port)) => Host::from(SocketAddr::new(address, port)),
        (None, _) => plain
            .trim_end_matches('.')
            .parse()
            .unwrap_or_else(|_| host.clone()),
    };
    if let Some(line) = lines.get(&same) {
        node.mistake(format_args!(
            "{host} is a server already, on line {line}; leave one of them out"
        ));
        return false;
    }
    lines.insert(same, node.place().line());
    true
}

fn host(node: &Node<'_>, family: Option<Family>, own: Option<Delivery>) -> Option<Host> {
    let text = node.string("a server's name or address", "cp1065.example.com")?;
    let host: Host = match text.parse() {
        Ok(host) => host,
        Err(error) => {
            node.mistake(format_args!("{error}; write a DNS name or an IP address"));
            return None;
        }
    };
    let rewrites = |own: Delivery| own.forwarding == Forwarding::Masquerading;
    if host.port().is_some() && !own.is_none_or(rewrites) {
        node.mistake("only masquerading rewrites ports: the servers listen on the service's; write forwarding = \"masquerading\", or the name without a port");
        return None;
    }
    let Some(address) = host.literal() else {
        return name(node, host.bare().as_str()).then_some(host);
    };
    usable(node, address, family, " or a name").then_some(host)
}

/// What can only be a mistyped address is not left to the resolver.
fn name(node: &Node<'_>, text: &str) -> bool {
    let last_label = text
        .trim_end_matches('.')
        .rsplit('.')
        .next()
        .unwrap_or_default();
    let found = quoted(text);
    if text.contains(':') {
        node.mistake(format_args!(
            "{found} is no IPv6 address, and no name has a colon; write a name or an address"
        ));
    } else if last_label.chars().all(|c| c.is_ascii_digit()) {
        // RFC 1123 section 2.1: the highest label is alphabetic, so that names and addresses stay apart.
        node.mistake(format_args!(
            "{found} is neither an IPv4 address nor a name; write one like \"192.0.2.11\""
        ));
    } else {
        return true;
    }
    false
}

/// `or`: what else may stand there, for the message.
pub(super) fn usable(node: &Node<'_>, address: IpAddr, family: Option<Family>, or: &str) -> bool {
    if let Some((what, right)) = value::no_unicast(address) {
        node.mistake(format_args!("{address} is {what}; write {right}"));
        return false;
    }
    let own = Family::of(address);
    if let Some(family) = family.filter(|family| *family != own) {
        node.mistake(format_args!(
            "{address} is an {own} address, but the service's servers are of {family}; write an {family} address{or}"
        ));
        return false;
    }
    true
}
