//! `type = "tls"`, and how TLS is spoken in monitors of other types. Reads the files that are named, so that what is
//! wrong with them shows before it matters.

use std::time::Duration;

use rustls::pki_types::ServerName;

use super::answer::{CONNECTION_KEYS, proxy_protocol};
use crate::check::tls::{BadFile, Identity, TlsClient, Trust, authorities};
use crate::check::{Probe, Tls};
use crate::config::reader::{Key, Node, Table, key};
use crate::config::spelling::quoted;
use crate::config::value::{self, Durations};

pub(super) const KEYS: &[&[Key]] = &[CLIENT_KEYS, CONNECTION_KEYS];

/// How TLS is spoken: they mean nothing without it.
pub(super) const CLIENT_KEYS: &[Key] = &[
    key("server-name"),
    key("verify-certificate"),
    key("ca-file"),
    key("certificate"),
    key("key"),
    key("expires-in"),
];

const EXPIRES_IN: Durations = Durations {
    least: Duration::ZERO,
    most: Duration::from_secs(3650 * 24 * 60 * 60),
    whole_seconds: true,
    example: "14d",
};

pub(super) fn read(table: &Table<'_>) -> Option<Probe> {
    let tls = client(table);
    let proxy_protocol = proxy_protocol(table);
    Some(Probe::Tls(Tls {
        tls: tls?,
        proxy_protocol: proxy_protocol?,
    }))
}

/// `right`: what to write so that there is TLS.
pub(super) fn none(table: &Table<'_>, right: &str) {
    for node in CLIENT_KEYS.iter().filter_map(|key| table.get(key.name)) {
        node.mistake(format_args!("is for TLS; {right}, or leave it out"));
    }
}

pub(super) fn client(table: &Table<'_>) -> Option<TlsClient> {
    let server_name = table.optional("server-name", server_name);
    let trust = trust(table);
    let identity = identity(table);
    let expires_in = table.optional("expires-in", |node| value::duration(node, &EXPIRES_IN));
    Some(TlsClient {
        server_name: server_name?,
        trust: trust?,
        identity: identity?,
        expires_in: expires_in?,
    })
}

fn server_name(node: &Node<'_>) -> Option<String> {
    const EXAMPLE: &str = "www.example.com";
    let text = node.string("a name", EXAMPLE)?;
    if ServerName::try_from(text).is_err() {
        node.mistake(format_args!(
            "{} is no name of a server; write one like {EXAMPLE:?}",
            quoted(text)
        ));
        return None;
    }
    Some(text.to_owned())
}

fn trust(table: &Table<'_>) -> Option<Trust> {
    let verify = table.or("verify-certificate", false, Node::boolean);
    let ca_file = table.optional("ca-file", |node| {
        let path = value::path(node)?;
        authorities(&path).map_err(|error| bad(node, &error)).ok()?;
        Some(path)
    });
    if verify == Some(false)
        && let Some(node) = table.get("ca-file")
    {
        node.mistake("of no use without verify-certificate = true, which looks at certificates");
    }
    Some(match (verify?, ca_file?) {
        (true, Some(file)) => Trust::Authorities(file),
        (true, None) => Trust::System,
        (false, _) => Trust::Anyone,
    })
}

fn identity(table: &Table<'_>) -> Option<Option<Identity>> {
    let [certificate, key] = ["certificate", "key"].map(|key| table.get(key));
    let (certificate, key) = match (certificate, key) {
        (None, None) => return Some(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(node), None) => {
            node.mistake("there is no key; write both or none");
            return None;
        }
        (None, Some(node)) => {
            node.mistake("there is no certificate; write both or none");
            return None;
        }
    };
    let paths = (value::path(&certificate), value::path(&key));
    let identity = Identity {
        certificate: paths.0?,
        key: paths.1?,
    };
    let Err(error) = identity.read() else {
        return Some(Some(identity));
    };
    let of_certificate = error.path() == identity.certificate;
    let node = if of_certificate { certificate } else { key };
    bad(&node, &error);
    None
}

fn bad(node: &Node<'_>, error: &BadFile) {
    let right = match error {
        BadFile::Unreadable(..) | BadFile::Empty(..) | BadFile::Bad(..) => {
            "; write the path of a file in PEM"
        }
        BadFile::OfAnother(..) => "; write the two that belong together",
        BadFile::Open(..) => "; chmod 600, or 640 with a group of its own",
    };
    node.mistake(format_args!("{error}{right}"));
}
