//! `type = "tcp"`

use super::answer::{CONNECTION_KEYS, pattern, proxy_protocol};
use crate::check::{Probe, Tcp};
use crate::config::reader::{Key, Node, Table, key};

pub(super) const KEYS: &[&[Key]] = &[
    &[key("send"), key("expect"), key("matches")],
    CONNECTION_KEYS,
];

pub(super) fn read(table: &Table<'_>) -> Option<Probe> {
    let send = table.optional("send", text);
    let expect = pattern(table, "expect");
    let proxy_protocol = proxy_protocol(table);
    Some(Probe::Tcp(Tcp {
        send: send?,
        expect: expect?,
        proxy_protocol: proxy_protocol?,
    }))
}

fn text(node: &Node<'_>) -> Option<String> {
    /// What any server's kernel takes at once.
    const MOST: usize = 4096;
    let text = node.string("a text", "PING\r\n")?;
    if text.is_empty() {
        node.mistake("empty; write a text, or leave it out");
        return None;
    }
    if text.len() > MOST {
        let size = text.len();
        node.mistake(format_args!("a text of {size} bytes; write {MOST} at most"));
        return None;
    }
    Some(text.to_owned())
}
