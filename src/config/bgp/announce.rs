//! Reads what is announced of an address: `[service.NAME.bgp]`, and what `[bgp]` says for all of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::reader::{Key, Node, Table, key, was};
use super::super::value::{self, Durations};
use super::super::{Announce, Needs, WithdrawWhen};
use super::policy;
use super::single;
use crate::routing::Group;
use crate::service::Family;

pub(super) const WITHDRAW_WHEN: Key = key("withdraw-when");
pub(super) const SERVICES: Key = key("services");
pub(super) const UP_DELAY: Key = key("up-delay");
pub(super) const CONDITION: Key = key("condition");

pub(in crate::config) const CONDITION_KEYS: &[Key] = &[key("degraded"), key("failed")];

pub(in crate::config) const KEYS: &[Key] = &[
    was("announce", "bgp"),
    key("prefix"),
    key("announce-to"),
    policy::MED,
    policy::LOCAL_PREF,
    policy::ORIGIN,
    policy::PREPEND,
    policy::COMMUNITIES,
    WITHDRAW_WHEN,
    SERVICES,
    UP_DELAY,
    CONDITION,
];

const DELAY: Durations = Durations {
    least: Duration::ZERO,
    most: Duration::from_secs(24 * 60 * 60),
    whole_seconds: false,
    example: "10s",
};

/// What holds for addresses whose services say nothing.
#[derive(Default)]
pub(in crate::config) struct Base {
    pub(in crate::config) announce: Announce,
    /// Whether that community is allowed.
    pub(super) blackhole: bool,
}

/// `[service.NAME.bgp]`, over `base`. `address`: the service's, if it could be read.
pub(in crate::config) fn announce(
    table: &Table<'_>,
    base: &Base,
    address: Option<IpAddr>,
) -> Option<Announce> {
    let mut announce = base.announce.clone();
    let own = Arc::make_mut(&mut announce.policy);
    let all = [
        policy::lay(table, base.blackhole, own),
        table.put("announce", &mut announce.announce, Node::boolean),
        table.put("prefix", &mut announce.prefix, |node| prefix(node, address)),
        table.put_some("announce-to", &mut announce.to, groups),
        conditions(table, base.blackhole, &mut announce),
    ];
    if !announce.announce {
        announce.prefix = None;
    }
    let good = all.into_iter().all(|good| good) && told_conditions(table, &announce);
    good.then_some(announce)
}

impl Base {
    /// What `[bgp]` says. `false`: something was wrong, and has been noted.
    pub(super) fn read(table: &Table<'_>) -> (Base, bool) {
        let mut base = Base::default();
        let allowed = table.put("allow-blackhole", &mut base.blackhole, Node::boolean);
        let good = conditions(table, base.blackhole, &mut base.announce);
        (base, allowed & good)
    }
}

fn conditions(table: &Table<'_>, blackhole: bool, to: &mut Announce) -> bool {
    let delay = |node: &Node<'_>| value::duration(node, &DELAY);
    let policy = |node: &Node<'_>| policy::alone(node, blackhole).map(Arc::new);
    let condition = match table.get("condition") {
        None => true,
        Some(node) => node.table(CONDITION_KEYS).is_some_and(|table| {
            table.put("degraded", &mut to.degraded, policy)
                & table.put("failed", &mut to.failed, policy)
        }),
    };
    let all = [
        condition,
        table.put("withdraw-when", &mut to.withdraw_when, withdraw_when),
        table.put("services", &mut to.services, needs),
        table.put("up-delay", &mut to.up_delay, delay),
    ];
    all.into_iter().all(|good| good)
}

/// Refuses the attributes of a condition in which there is no announcement. In `[bgp]` they are of use: to
/// services that say another `withdraw-when`.
fn told_conditions(table: &Table<'_>, announce: &Announce) -> bool {
    let Some(written) = table.get("condition").and_then(|node| node.as_table()) else {
        return true;
    };
    let withdrawn = [
        ("degraded", WithdrawWhen::Degraded),
        ("failed", WithdrawWhen::Failed),
    ];
    let useless = withdrawn
        .into_iter()
        .find(|(name, when)| announce.withdraw_when <= *when && written.get(name).is_some());
    if let Some((name, _)) = useless {
        written.place_of(name).mistake(format_args!(
            "withdraw-when withdraws the address before it is told of as {name}; leave this out, or write withdraw-when = \"not-pooled\""
        ));
    }
    useless.is_none()
}

fn withdraw_when(node: &Node<'_>) -> Option<WithdrawWhen> {
    node.choice(
        "withdraw-when",
        [
            ("never", WithdrawWhen::Never),
            ("not-pooled", WithdrawWhen::NotPooled),
            ("failed", WithdrawWhen::Failed),
            ("degraded", WithdrawWhen::Degraded),
        ],
    )
}

fn needs(node: &Node<'_>) -> Option<Needs> {
    node.choice("need", [("all", Needs::All), ("any", Needs::Any)])
}

/// `None` for the address's own /32 or /128. The widest that is taken is the largest block that IANA and the
/// registries have given one holder: whoever writes a wider one has lost a digit, or takes everybody's traffic.
fn prefix(node: &Node<'_>, address: Option<IpAddr>) -> Option<Option<IpNet>> {
    let prefix = single::prefix(node)?;
    let family = Family::of_prefix(&prefix);
    let widest = match family {
        Family::Ipv4 => 8,
        Family::Ipv6 => 16,
    };
    let wrong = if prefix.prefix_len() < widest {
        format!("{prefix} is wider than any that one network holds, an {family} /{widest} at most")
    } else if let Some(address) = address.filter(|address| !prefix.contains(address)) {
        format!("{prefix} does not contain the address, {address}")
    } else {
        return Some(Some(prefix).filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len()));
    };
    let right = address.map_or("a longer one".to_owned(), |address| {
        format!("\"{}\", say", usual(address))
    });
    node.mistake(format_args!("{wrong}; write {right}"));
    None
}

/// The longest prefix around the address that networks commonly hear of others.
fn usual(address: IpAddr) -> IpNet {
    let net = match address {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, 24).into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, 48).into(),
    };
    IpNet::trunc(&net)
}

fn groups(node: &Node<'_>) -> Option<Arc<BTreeSet<Group>>> {
    let right = "name a group of peers, leave it out for all peers, or write announce = false";
    let groups = value::at_least_one(node, right, single::group)?;
    Some(Arc::new(groups.into_iter().collect()))
}
