//! `type = "proxy-fetch"`

use super::answer::{statuses, url};
use super::some;
use crate::check::{Probe, ProxyFetch};
use crate::config::reader::{Key, Node, Table, key, was};

pub(super) const KEYS: &[&[Key]] = &[&[
    key("url"),
    was("status", "http_status"),
    was("check-all", "check_all"),
    was("max-failures", "max_failures"),
    key("verify-certificate"),
    key("path"),
]];

pub(super) fn read(table: &Table<'_>) -> Option<Probe> {
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
    let status = statuses(table);
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
