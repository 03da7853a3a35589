//! Reads `[etcd]`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::reader::{Key, Node, Table, key};
use super::spelling::quoted;
use super::value::{self, Durations};
use super::{Etcd, EtcdApi};

pub(super) const KEYS: &[Key] = &[
    key("endpoints"),
    key("prefix"),
    key("api"),
    key("ca"),
    key("certificate"),
    key("key"),
    key("user"),
    key("password-file"),
    key("timeout"),
    key("stale-after"),
];

/// conftool's.
const PREFIX: &str = "/conftool/v1/pools";

/// What Plimsoll itself keeps in etcd stands below it.
const OURS: &str = "/plimsoll";

/// As long as an endpoint hangs, whoever waits for it is without etcd.
const TIMEOUT: Durations = Durations {
    least: Duration::from_millis(10),
    most: Duration::from_secs(60),
    whole_seconds: false,
    example: "5s",
};

const STALE_AFTER: Durations = Durations {
    least: Duration::from_secs(1),
    most: Duration::from_secs(30 * 24 * 60 * 60),
    whole_seconds: false,
    example: "60s",
};

pub(super) fn etcd(table: &Table<'_>) -> Option<Arc<Etcd>> {
    let endpoints = table.required(
        "endpoints",
        "endpoints = [\"https://etcd1.example.com:2379\"], say",
        endpoints,
    );
    let prefix = table.or("prefix", PREFIX.to_owned(), prefix);
    let api = table.or("api", EtcdApi::V3, |node| {
        node.choice(
            "version of etcd's API",
            [("v3", EtcdApi::V3), ("v2", EtcdApi::V2)],
        )
    });
    let ca = table.optional("ca", value::path);
    let (certificate, tls_key) = both(table, "certificate", "key", value::path, value::path);
    let (user, password_file) = both(table, "user", "password-file", user, value::path);
    let timeout = table.or("timeout", Duration::from_secs(5), |node| {
        value::duration(node, &TIMEOUT)
    });
    let stale_after = table.or("stale-after", Duration::from_secs(60), |node| {
        value::duration(node, &STALE_AFTER)
    });
    let endpoints: Vec<Url> = endpoints?;
    let (ca, certificate): (Option<PathBuf>, Option<PathBuf>) = (ca?, certificate?);
    let tls = endpoints
        .iter()
        .any(|endpoint| endpoint.scheme() == "https");
    let tls_only = ["ca", "certificate"]
        .iter()
        .find_map(|name| table.get(name));
    if let Some(node) = tls_only
        && !tls
    {
        node.mistake("is for https, and no endpoint is; write https:// or leave it out");
    }
    Some(Arc::new(Etcd {
        endpoints,
        prefix: prefix?,
        api: api?,
        ca,
        certificate,
        key: tls_key?,
        user: user?,
        password_file: password_file?,
        timeout: timeout?,
        stale_after: stale_after?,
    }))
}

/// Two keys of which neither means anything without the other.
fn both<A, B>(
    table: &Table<'_>,
    one: &'static str,
    other: &'static str,
    read_one: impl FnOnce(&Node<'_>) -> Option<A>,
    read_other: impl FnOnce(&Node<'_>) -> Option<B>,
) -> (Option<Option<A>>, Option<Option<B>>) {
    for (there, missing) in [(one, other), (other, one)] {
        if table.get(there).is_some() && table.get(missing).is_none() {
            table.place.missing(
                missing,
                format_args!("missing, but there is {there}; write both or none"),
            );
        }
    }
    (
        table.optional(one, read_one),
        table.optional(other, read_other),
    )
}

fn endpoints(node: &Node<'_>) -> Option<Vec<Url>> {
    if node.is_empty_list() {
        node.mistake("no endpoint; write at least one, like \"https://etcd1.example.com:2379\"");
        return None;
    }
    let mut seen = BTreeSet::new();
    let items = node.items();
    let good = |item: &Node<'_>| {
        let endpoint = endpoint(item)?;
        if !seen.insert(endpoint.clone()) {
            item.mistake(format_args!(
                "{endpoint} stands in the list twice; leave one of them out"
            ));
        }
        Some(endpoint)
    };
    let good: Vec<_> = items.iter().filter_map(good).collect();
    (good.len() == items.len()).then_some(good)
}

fn endpoint(node: &Node<'_>) -> Option<Url> {
    const EXAMPLE: &str = "https://etcd1.example.com:2379";
    let text = node.string("an endpoint's URL", EXAMPLE)?;
    let found = quoted(text);
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        Ok(_) | Err(_) => {
            node.mistake(format_args!(
                "{found} is not an endpoint's URL; write one like {EXAMPLE:?}"
            ));
            return None;
        }
    };
    let wrong = if !url.username().is_empty() || url.password().is_some() {
        "has a user in it; write user and password-file"
    } else if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        "has a path; write scheme, host and port alone"
    } else if !names_port(text) {
        "has no port; etcd's is 2379 as a rule"
    } else if url.port() == Some(0) {
        "has the port 0; etcd's is 2379 as a rule"
    } else {
        return Some(url);
    };
    node.mistake(format_args!("{found} {wrong}"));
    None
}

/// Whether a good URL says its port; [`Url::port`] does not tell of 80 and 443.
fn names_port(url: &str) -> bool {
    let digits = |c: char| c.is_ascii_digit();
    let rest = url.trim_end_matches('/').trim_end_matches(digits);
    // Not the colon of https://, and an IPv6 address ends in a bracket.
    rest.ends_with(':') && rest.len() < url.trim_end_matches('/').len()
}

fn prefix(node: &Node<'_>) -> Option<String> {
    let found = node.string("a directory in etcd", PREFIX)?;
    let text = found.strip_suffix('/').unwrap_or(found);
    let good = |part: &str| {
        !part.is_empty() && !part.contains(|c: char| c.is_control() || c.is_whitespace())
    };
    let parts = text.strip_prefix('/').map(|rest| rest.split('/').all(good));
    if parts != Some(true) {
        node.mistake(format_args!(
            "{} is not a directory in etcd; write one like {PREFIX:?}",
            quoted(found)
        ));
        return None;
    }
    if text == OURS
        || text
            .strip_prefix(OURS)
            .is_some_and(|rest| rest.starts_with('/'))
    {
        node.mistake(format_args!(
            "{} is where Plimsoll keeps its own keys; write one like {PREFIX:?}",
            quoted(found)
        ));
        return None;
    }
    Some(text.to_owned())
}

fn user(node: &Node<'_>) -> Option<String> {
    let text = node.string("a user's name", "plimsoll")?;
    if text.is_empty() || text.contains(|c: char| c == ':' || c.is_control()) {
        let right = if text.is_empty() {
            "leave it out if etcd asks for none"
        } else {
            "write one without colons"
        };
        node.mistake(format_args!("{} is no user's name; {right}", quoted(text)));
        return None;
    }
    Some(text.to_owned())
}
