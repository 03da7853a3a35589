//! Reads what a section says of path attributes. Not here: how several sections are laid over each other,
//! which is [`Attributes::of`](crate::routing::Attributes).

use std::collections::BTreeSet;

use super::super::reader::{Key, Node, Table, key, was};
use super::super::spelling::{self, quoted};
use super::super::value;
use crate::routing::{BLACKHOLE, Community, MAX_COMMUNITIES, Med, Origin, Policy, WELL_KNOWN};

pub(super) const MED: Key = was("med", "bgp-med");
pub(super) const LOCAL_PREF: Key = key("local-pref");
pub(super) const ORIGIN: Key = key("origin");
pub(super) const PREPEND: Key = was("prepend", "bgp-as-path");
pub(super) const COMMUNITIES: Key = key("communities");

pub(in crate::config) const KEYS: &[Key] = &[MED, LOCAL_PREF, ORIGIN, PREPEND, COMMUNITIES];

/// Further than this no path is made worse, and some routers refuse long ones.
const MOST_PREPENDED: u32 = 20;

/// Four layers may name communities: `[bgp]`, peer, service, condition.
const MOST_COMMUNITIES: usize = MAX_COMMUNITIES / 4;

/// Lays over `to` what the table says. `blackhole`: whether that community is allowed. `false`: something
/// was wrong, and has been noted.
pub(super) fn lay(table: &Table<'_>, blackhole: bool, to: &mut Policy) -> bool {
    let all = [
        table.put_some("med", &mut to.med, med),
        table.put_some("local-pref", &mut to.local_pref, |node| {
            node.integer(0, u32::MAX)
        }),
        table.put_some("origin", &mut to.origin, origin),
        table.put_some("prepend", &mut to.prepend, prepend),
        table.put("communities", &mut to.communities, |node| {
            communities(node, blackhole)
        }),
    ];
    all.into_iter().all(|good| good)
}

/// A table of nothing else.
pub(super) fn alone(node: &Node<'_>, blackhole: bool) -> Option<Policy> {
    let mut policy = Policy::default();
    lay(&node.table(KEYS)?, blackhole, &mut policy).then_some(policy)
}

fn med(node: &Node<'_>) -> Option<Med> {
    let more = node.as_str().and_then(|text| text.strip_prefix('+'));
    let Some(more) = more else {
        return node.integer(0, u32::MAX).map(Med::Set);
    };
    // Rust itself would take a second sign.
    let digits = more.bytes().all(|byte| byte.is_ascii_digit());
    let Some(more) = more.parse().ok().filter(|_| digits) else {
        node.mistake(format_args!(
            "{} is no MED; write 0 to 4294967295, or one like \"+1000\" for so much more than otherwise",
            quoted(node.as_str().unwrap_or_default())
        ));
        return None;
    };
    Some(Med::Add(more))
}

fn origin(node: &Node<'_>) -> Option<Origin> {
    node.choice(
        "origin",
        [
            ("igp", Origin::Igp),
            ("egp", Origin::Egp),
            ("incomplete", Origin::Incomplete),
        ],
    )
}

fn prepend(node: &Node<'_>) -> Option<u8> {
    node.integer(0, MOST_PREPENDED)
        .and_then(|times| u8::try_from(times).ok())
}

fn communities(node: &Node<'_>, blackhole: bool) -> Option<BTreeSet<Community>> {
    let all = value::each_once(node, |item| community(item, blackhole))?;
    if all.len() > MOST_COMMUNITIES {
        node.mistake(format_args!(
            "{} communities are too many for a message; write {MOST_COMMUNITIES} at most",
            all.len()
        ));
        return None;
    }
    Some(all.into_iter().collect())
}

fn community(node: &Node<'_>, blackhole: bool) -> Option<Community> {
    let text = node.string("a community", "64600:100")?;
    let Ok(community) = text.parse() else {
        unknown(node, text);
        return None;
    };
    if community == BLACKHOLE && !blackhole {
        node.mistake("blackhole lets routers drop all traffic to the address (RFC 7999); leave it out, or write allow-blackhole = true in [bgp] if that is meant");
        return None;
    }
    Some(community)
}

fn unknown(node: &Node<'_>, text: &str) {
    let names = WELL_KNOWN.iter().map(|(name, _)| *name);
    let found = quoted(text);
    match spelling::nearest(text, names.clone()) {
        Some(near) => node.mistake(format_args!(
            "unknown community {found}; did you mean {near:?}?"
        )),
        None => node.mistake(format_args!(
            "{found} is not a community; write one like \"64600:100\" (two numbers up to 65535), \"4200000001:1:2\" (large), \"rt:64600:100\", \"soo:64600:100\" or \"ext:0x0002fc5800000064\" (extended), or one of {}",
            names.collect::<Vec<_>>().join(", ")
        )),
    }
}
