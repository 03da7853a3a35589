//! What monitors that speak over a connection share: the page, good statuses, what is looked for, and the PROXY
//! protocol.

use std::ops::RangeInclusive;

use url::Url;

use super::some;
use crate::check::ProxyProtocol;
use crate::check::expect::{Pattern, Statuses};
use crate::config::reader::{Key, Node, Table, key};
use crate::config::spelling::quoted;

/// Of monitors that make a connection of their own for each check.
pub(super) const CONNECTION_KEYS: &[Key] = &[key("proxy-protocol"), key("path")];

const LEAST: u16 = 100;
const MOST: u16 = 599;

/// `status`
pub(super) fn statuses(table: &Table<'_>) -> Option<Statuses> {
    table.or("status", Statuses::from([200].as_slice()), |node| {
        some(node, "status", "[200], say", status).map(Statuses::new)
    })
}

/// `200` or `"200-299"`
fn status(node: &Node<'_>) -> Option<RangeInclusive<u16>> {
    let Some(text) = node.as_str().filter(|text| text.contains('-')) else {
        let status = node.integer(LEAST.into(), MOST.into())?;
        let status = u16::try_from(status).ok()?;
        return Some(status..=status);
    };
    let range = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (LEAST <= first && first <= last && last <= MOST).then_some(first..=last)
    });
    if range.is_none() {
        node.mistake(format_args!(
            "{} is no range of statuses; write one like \"200-299\", within {LEAST} to {MOST}",
            quoted(text)
        ));
    }
    range
}

/// `substring`: the key of a text, of which `matches` is the alternative.
pub(super) fn pattern(table: &Table<'_>, substring: &'static str) -> Option<Option<Pattern>> {
    let text = table.optional(substring, |node| {
        read_pattern(node, "a text", "ok", Pattern::substring)
    });
    let regex = table.optional("matches", |node| {
        read_pattern(node, "a regular expression", "^ok$", Pattern::regex)
    });
    if let (Some(_), Some(node)) = (table.get(substring), table.get("matches")) {
        node.mistake(format_args!(
            "there is {substring} too; leave out one of the two"
        ));
    }
    Some(text?.or(regex?))
}

fn read_pattern(
    node: &Node<'_>,
    what: &str,
    example: &str,
    read: fn(&str) -> Result<Pattern, regex::Error>,
) -> Option<Pattern> {
    let text = node.string(what, example)?;
    if text.is_empty() {
        node.mistake(format_args!(
            "empty, which is in everything; write {what}, or leave it out"
        ));
        return None;
    }
    match read(text) {
        Ok(pattern) => Some(pattern),
        Err(regex::Error::CompiledTooBig(most)) => {
            node.mistake(format_args!(
                "{} is too large when compiled; write one that takes less than {most} bytes",
                quoted(text)
            ));
            None
        }
        Err(error) => {
            let error = error.to_string();
            // Its last line says what is wrong, those before show where.
            let why = error.lines().last().unwrap_or(&error);
            let why = why.strip_prefix("error: ").unwrap_or(why);
            node.mistake(format_args!(
                "{} is no regular expression: {why}; write one in the syntax of Rust's regex",
                quoted(text)
            ));
            None
        }
    }
}

/// `proxy-protocol`
pub(super) fn proxy_protocol(table: &Table<'_>) -> Option<Option<ProxyProtocol>> {
    table.optional("proxy-protocol", |node| match node.integer(1, 2)? {
        1 => Some(ProxyProtocol::V1),
        _ => Some(ProxyProtocol::V2),
    })
}

pub(super) fn url(node: &Node<'_>) -> Option<Url> {
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
