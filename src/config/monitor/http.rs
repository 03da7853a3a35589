//! `type = "http"`

use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;

use super::answer::{CONNECTION_KEYS, pattern, proxy_protocol, statuses, url};
use super::{load, tls};
use crate::check::tls::TlsClient;
use crate::check::{Http, HttpVersion, Probe};
use crate::config::reader::{Key, Node, Table, key};
use crate::config::spelling::quoted;

pub(super) const KEYS: &[&[Key]] = &[
    load::KEY,
    &[
        key("url"),
        key("method"),
        key("headers"),
        key("http-version"),
        key("status"),
        key("contains"),
        key("matches"),
    ],
    tls::CLIENT_KEYS,
    CONNECTION_KEYS,
];

/// What the check itself says of its connection and its body (RFC 9110 section 7.6.1, RFC 9112 section 6).
const OURS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Together, names and values.
const MOST_HEADERS: usize = 8 * 1024;

pub(super) fn read(table: &Table<'_>) -> Option<Probe> {
    let url = table.required("url", "url = \"https://www.example.com/healthz\", say", url);
    let method = table.or("method", Method::GET, method);
    let headers = table.or("headers", HeaderMap::new(), headers);
    let version = table.or("http-version", HttpVersion::Http1, |node| {
        node.choice(
            "version of HTTP",
            [("1.1", HttpVersion::Http1), ("2", HttpVersion::Http2)],
        )
    });
    let status = statuses(table);
    let body = pattern(table, "contains");
    let tls = match &url {
        Some(url) if url.scheme() == "http" => {
            tls::none(table, "write a URL of https");
            Some(TlsClient::default())
        }
        Some(_) | None => tls::client(table),
    };
    let proxy_protocol = proxy_protocol(table);
    let method = method?;
    if method == Method::HEAD
        && let Some(node) = table.get("contains").or_else(|| table.get("matches"))
    {
        node.mistake("an answer to HEAD has no body; write another method, or leave it out");
    }
    Some(Probe::Http(Box::new(Http {
        url: url?,
        method,
        headers: headers?,
        version: version?,
        status: status?,
        body: body?,
        tls: tls?,
        proxy_protocol: proxy_protocol?,
    })))
}

fn method(node: &Node<'_>) -> Option<Method> {
    let text = node.string("a method", "GET")?;
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if method != Method::CONNECT => Some(method),
        Ok(_) => {
            node.mistake("CONNECT asks a proxy for a connection; write GET, say");
            None
        }
        Err(_) => {
            node.mistake(format_args!(
                "{} is no method of HTTP; write GET, say",
                quoted(text)
            ));
            None
        }
    }
}

fn headers(node: &Node<'_>) -> Option<HeaderMap> {
    let entries = node
        .any_table("headers = { Host = \"www.example.com\" }, say")?
        .entries();
    let mut headers = HeaderMap::new();
    let mut good = true;
    let mut size = 0;
    for (name, node) in &entries {
        let Some((name, value)) = header(name, node) else {
            good = false;
            continue;
        };
        size += name.as_str().len() + value.len();
        if headers.insert(name, value).is_some() {
            node.mistake("stands there twice; leave one of them out");
            good = false;
        }
    }
    if size > MOST_HEADERS {
        node.mistake(format_args!(
            "{size} bytes of headers; write {MOST_HEADERS} at most"
        ));
        good = false;
    }
    good.then_some(headers)
}

fn header(name: &str, node: &Node<'_>) -> Option<(HeaderName, HeaderValue)> {
    let Ok(parsed) = name.parse::<HeaderName>() else {
        node.mistake(format_args!(
            "{} is no name of a header; write one like \"X-Check\"",
            quoted(name)
        ));
        return None;
    };
    if OURS.contains(&parsed) {
        node.mistake("is the check's own to say; leave it out");
        return None;
    }
    let text = node.string("a header's value", "www.example.com")?;
    // A host that is none would make a request that cannot be sent.
    let host = parsed != header::HOST || text.parse::<Authority>().is_ok();
    match HeaderValue::from_str(text) {
        Ok(mut value) if host => {
            // It may be a password: it is not shown, nor kept in a table of HPACK.
            value.set_sensitive(true);
            Some((parsed, value))
        }
        Ok(_) => {
            node.mistake(format_args!(
                "{} is no host; write one like \"www.example.com\"",
                quoted(text)
            ));
            None
        }
        Err(_) => {
            node.mistake("control characters cannot be in a header; leave them out");
            None
        }
    }
}
