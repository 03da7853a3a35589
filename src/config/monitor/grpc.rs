//! `type = "grpc"`

use hyper::http::uri::Authority;

use super::answer::{CONNECTION_KEYS, proxy_protocol};
use super::tls;
use crate::check::{Grpc, Probe};
use crate::config::reader::{Key, Node, Table, key};
use crate::config::spelling::quoted;

pub(super) const KEYS: &[&[Key]] = &[
    &[key("service"), key("authority"), key("tls")],
    tls::CLIENT_KEYS,
    CONNECTION_KEYS,
];

pub(super) fn read(table: &Table<'_>) -> Option<Probe> {
    let service = table.or("service", String::new(), service);
    let authority = table.optional("authority", authority);
    let tls = match table.or("tls", false, Node::boolean) {
        Some(true) => tls::client(table).map(Some),
        Some(false) => {
            tls::none(table, "write tls = true");
            Some(None)
        }
        None => None,
    };
    let proxy_protocol = proxy_protocol(table);
    Some(Probe::Grpc(Grpc {
        service: service?,
        authority: authority?,
        tls: tls?,
        proxy_protocol: proxy_protocol?,
    }))
}

fn service(node: &Node<'_>) -> Option<String> {
    const MOST: usize = 1024;
    let text = node.string("a service's name", "example.v1.Shop")?;
    if text.len() > MOST {
        let size = text.len();
        node.mistake(format_args!("a name of {size} bytes; write {MOST} at most"));
        return None;
    }
    Some(text.to_owned())
}

fn authority(node: &Node<'_>) -> Option<String> {
    const EXAMPLE: &str = "shop.example.com";
    let text = node.string("a host", EXAMPLE)?;
    if text.parse::<Authority>().is_err() {
        node.mistake(format_args!(
            "{} is no host; write one like {EXAMPLE:?}",
            quoted(text)
        ));
        return None;
    }
    Some(text.to_owned())
}
