//! Smaller segments for clients whose packets come in tunnels: rules of nftables that make the MSS in what this host
//! sends smaller by the tunnel's headers. Otherwise a client's full packets do not fit the way from the balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use super::host::Seen;
use super::step::{Action, Step};
use super::{Wanted, program, tunnel};
use crate::rtnl::Link;

const TABLE: &str = "table inet plimsoll";
/// What clients elsewhere send at most, whatever our own interfaces can.
const INTERNET: u32 = 1500;
/// Every IPv4 host takes a segment of this size (RFC 9293 section 3.7.1); the same serves as the least for IPv6.
const LEAST: u16 = 536;

pub(super) fn steps(wanted: &Wanted, seen: &Seen<'_>) -> Vec<Step> {
    let Ok(shown) = &seen.rules else {
        return vec![];
    };
    let script = script(wanted, &seen.links);
    let (is, should_be) = match (&script, shown, &seen.saved.clamp) {
        (None, None, _) => return vec![],
        (None, Some(_), _) => ("there", "gone".to_owned()),
        (Some(_), None, _) => ("not there", sizes(wanted, &seen.links)),
        (Some(script), Some(shown), Some(saved))
            if saved.script == *script && saved.shown == *shown =>
        {
            return vec![];
        }
        (Some(_), Some(_), _) => ("another one than ours", sizes(wanted, &seen.links)),
    };
    vec![Step::new(TABLE, is, should_be, Action::Clamp(script))]
}

/// Our table as nft shows it. `None`: there is none.
pub(super) async fn show() -> Result<Option<String>, String> {
    // Asking for one table that is missing would be an error like any other.
    let tables = program::run(&["nft", "list", "tables", "inet"], "").await?;
    if !tables.lines().any(|line| line == TABLE) {
        return Ok(None);
    }
    program::run(&["nft", "list", "table", "inet", "plimsoll"], "")
        .await
        .map(Some)
}

/// In one transaction: there is no moment without rules.
pub(super) async fn load(script: Option<&str>) -> Result<(), String> {
    let rules = script.unwrap_or_default();
    let input = format!("{TABLE} {{}}\ndelete {TABLE}\n{rules}");
    program::run(&["nft", "-f", "-"], &input).await.map(|_| ())
}

fn script(wanted: &Wanted, links: &[Link]) -> Option<String> {
    let groups = groups(wanted, links);
    if groups.is_empty() {
        return None;
    }
    let mut text = format!(
        "{TABLE} {{\n\tchain output {{\n\t\ttype filter hook output priority mangle; policy accept;\n"
    );
    for (mss, vips) in groups {
        for (keyword, is_ours) in [
            ("ip", IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            ("ip6", IpAddr::is_ipv6),
        ] {
            let vips: Vec<String> = vips
                .iter()
                .filter(|vip| is_ours(vip))
                .map(ToString::to_string)
                .collect();
            if !vips.is_empty() {
                // The kernel never makes it larger. Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "\t\ttcp flags syn {keyword} saddr {{ {} }} tcp option maxseg size set {mss}",
                    vips.join(", ")
                );
            }
        }
    }
    text += "\t}\n}\n";
    Some(text)
}

fn sizes(wanted: &Wanted, links: &[Link]) -> String {
    let groups = groups(wanted, links);
    let shown = groups.iter().map(|(mss, vips)| {
        let vips: Vec<_> = vips.iter().map(ToString::to_string).collect();
        format!("MSS {mss} from {}", vips.join(", "))
    });
    shown.collect::<Vec<_>>().join("; ")
}

/// By MSS.
fn groups(wanted: &Wanted, links: &[Link]) -> BTreeMap<u16, BTreeSet<IpAddr>> {
    let mtu = wanted.mtu.unwrap_or_else(|| smallest_mtu(links));
    let mut groups: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    for vip in wanted.tunnels.keys() {
        let Some(overhead) = tunnel::overhead(wanted, *vip) else {
            continue;
        };
        // The headers of IP and of TCP.
        let headers = if vip.is_ipv4() { 20 + 20 } else { 40 + 20 };
        let mss = mtu.saturating_sub(overhead + headers).max(LEAST);
        groups.entry(mss).or_default().insert(*vip);
    }
    groups
}

fn smallest_mtu(links: &[Link]) -> u16 {
    let ethernet = links.iter().filter(|link| link.up && link.ethernet);
    let smallest = ethernet.map(|link| link.mtu).fold(INTERNET, u32::min);
    // At most 1500.
    u16::try_from(smallest).unwrap_or(u16::MAX)
}
