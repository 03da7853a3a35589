//! Reads `[[bgp.peer]]` and what stands in its place where it says nothing: `[bgp.defaults]`, then `[bgp]`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::super::reader::{Key, Node, Table, key, was};
use super::super::report::Place;
use super::super::value::{self, Durations};
use super::super::{MaximumAction, Peer, Ttl};
use super::{PORT, authentication, policy, single};
use crate::routing::PeerId;
use crate::service::Family;

pub(super) const HOLD_TIME: Key = key("hold-time");
pub(super) const NEXT_HOP_IPV4: Key = was("next-hop-ipv4", "bgp-nexthop-ipv4");
pub(super) const NEXT_HOP_IPV6: Key = was("next-hop-ipv6", "bgp-nexthop-ipv6");

/// Who the peer is comes first; the rest may stand in `[bgp.defaults]`, too.
pub(in crate::config) const KEYS: &[Key] = &[
    was("address", "bgp-peer-address"),
    key("interface"),
    key("peer-as"),
    key("description"),
    key("enabled"),
    key("port"),
    key("passive"),
    key("local-address"),
    key("local-port"),
    HOLD_TIME,
    key("send-hold-time"),
    key("connect-retry-time"),
    key("delay-open-time"),
    key("ttl-security"),
    key("multihop"),
    key("password-file"),
    key("tcp-ao"),
    key("families"),
    NEXT_HOP_IPV4,
    NEXT_HOP_IPV6,
    key("extended-next-hop"),
    key("extended-messages"),
    key("role"),
    key("role-strict"),
    key("advertisement-interval"),
    key("maximum-prefixes"),
    key("maximum-prefixes-action"),
    key("groups"),
    key("allow"),
    key("maximum-announced"),
    policy::MED,
    policy::LOCAL_PREF,
    policy::ORIGIN,
    policy::PREPEND,
    policy::COMMUNITIES,
];

pub(in crate::config) const DEFAULTS_KEYS: &[Key] = KEYS.split_at(2).1;

/// RFC 4271 section 4.2: 0, or at least three seconds in 16 bits. We refuse 0: without keepalives a
/// dead router keeps its session for ever.
const HOLD_TIMES: Durations = Durations {
    least: Duration::from_secs(3),
    most: Duration::from_secs(u16::MAX as u64),
    whole_seconds: true,
    example: "30s",
};

const SEND_HOLD_TIMES: Durations = Durations {
    least: Duration::from_secs(6),
    most: Duration::from_secs(24 * 60 * 60),
    whole_seconds: false,
    example: "8m",
};

const RETRY_TIMES: Durations = Durations {
    least: Duration::from_secs(1),
    most: Duration::from_secs(60 * 60),
    whole_seconds: false,
    example: "30s",
};

/// A router's own wait for our OPEN is 4 minutes as a rule (RFC 4271 section 8.2.2).
const DELAY_OPEN_TIMES: Durations = Durations {
    least: Duration::from_millis(100),
    most: Duration::from_secs(4 * 60),
    whole_seconds: false,
    example: "5s",
};

const INTERVALS: Durations = Durations {
    least: Duration::ZERO,
    most: Duration::from_secs(10 * 60),
    whole_seconds: false,
    example: "1s",
};

/// What of `[bgp]` peers must fit.
pub(super) struct Around<'b> {
    pub(super) local_as: Option<u32>,
    pub(super) listen: Option<&'b [SocketAddr]>,
    pub(super) blackhole: bool,
}

/// A peer, and where its keys stand.
pub(in crate::config) struct Draft<'a> {
    pub(in crate::config) peer: Arc<Peer>,
    own: Table<'a>,
    template: Option<Table<'a>>,
}

impl Draft<'_> {
    /// As messages name it.
    pub(in crate::config) fn named(&self) -> String {
        format!("peer {} (line {})", self.peer.id, self.own.place.line())
    }

    /// Where a key stands that is in force here.
    pub(super) fn place_of(&self, key: &str) -> Place<'_> {
        match &self.template {
            Some(template) if self.own.get(key).is_none() => template.place_of(key),
            Some(_) | None => self.own.place_of(key),
        }
    }
}

/// `None` if anything was wrong, in `[bgp.defaults]`, too.
pub(super) fn peers<'a>(
    section: &Table<'a>,
    node: &Node<'a>,
    around: &Around<'_>,
) -> Option<Vec<Draft<'a>>> {
    let mut common = Said::new();
    let mut good = common.shared(section);
    let template = section
        .get("defaults")
        .map(|node| node.table(DEFAULTS_KEYS));
    good &= !matches!(template, Some(None));
    let template = template.flatten();
    if let Some(template) = &template {
        good &= common.lay(template, around);
    }
    let mut ids = Ids::default();
    let told = RefCell::default();
    let mut peers = Vec::new();
    let tables = node.tables();
    for own in &tables {
        own.note_unknown_keys(KEYS);
        let id = single::id(own).filter(|id| ids.is_new(own, id));
        let mut said = common.clone();
        let laid = said.lay(own, around);
        let said_somewhere = [Some(own), template.as_ref()]
            .into_iter()
            .flatten()
            .any(|table| table.get("peer-as").is_some());
        if !said_somewhere {
            own.place
                .missing("peer-as", "missing; write the number of the router's AS");
        }
        let whole = |id| {
            let fit = Fit {
                peer: said.finish(id)?,
                own,
                template: template.as_ref(),
                told: &told,
            };
            fit.check(around).then_some(fit.peer)
        };
        // What keys must be together is not worth telling before each is right by itself.
        match id.filter(|_| laid && good).and_then(whole) {
            Some(peer) => peers.push(Draft {
                peer: Arc::new(peer),
                own: own.clone(),
                template: template.clone(),
            }),
            None => good = false,
        }
    }
    good &= one_key_an_address(&peers, around.listen);
    if node.is_empty_list() {
        node.mistake("no peer; write [[bgp.peer]] for each router, or leave out [bgp]");
    }
    (good && !tables.is_empty()).then_some(peers)
}

/// A listening socket's keys go by the other end's address, whatever the interface: notes each peer that has the
/// same link-local address as one before it, and another key.
fn one_key_an_address(peers: &[Draft<'_>], listen: Option<&[SocketAddr]>) -> bool {
    if !listen.into_iter().flatten().any(SocketAddr::is_ipv6) {
        return true;
    }
    let mut good = true;
    let mut firsts = BTreeMap::new();
    for draft in peers {
        let PeerId::LinkLocal(address, _) = &draft.peer.id else {
            continue;
        };
        let first = *firsts.entry(address).or_insert(draft);
        if first.peer.authentication != draft.peer.authentication {
            good = false;
            draft.own.place_of("address").mistake(format_args!(
                "{} has the same address and another key, and the kernel knows keys by address, not by interface; give both the same key, or one of the routers another address",
                first.named()
            ));
        }
    }
    good
}

/// Who is a peer already, and on which line.
#[derive(Default)]
struct Ids(BTreeMap<PeerId, usize>);

impl Ids {
    /// Notes it if not. An interface by itself means any router there, so no other peer can be there.
    fn is_new(&mut self, table: &Table<'_>, id: &PeerId) -> bool {
        let key = match id {
            PeerId::Interface(_) => "interface",
            PeerId::Address(_) | PeerId::LinkLocal(..) => "address",
        };
        let place = table.place_of(key);
        let interface = |id: &PeerId| match id {
            PeerId::Address(_) => None,
            PeerId::LinkLocal(_, interface) => Some((interface.clone(), false)),
            PeerId::Interface(interface) => Some((interface.clone(), true)),
        };
        let same = |other: &PeerId| match (interface(id), interface(other)) {
            (Some((one, anyone)), Some((other, too))) if anyone || too => one == other,
            (_, _) => id == other,
        };
        if let Some((other, line)) = self.0.iter().find(|(other, _)| same(other)) {
            place.mistake(format_args!(
                "{other} is a peer already, on line {line}; leave one of them out"
            ));
            return false;
        }
        self.0.insert(id.clone(), place.line());
        true
    }
}

/// What has been said of a peer so far, table over table.
#[derive(Clone)]
struct Said {
    /// Its id and AS mean nothing yet.
    peer: Peer,
    peer_as: Option<u32>,
    // Their defaults hang on others.
    send_hold_time: Option<Duration>,
    extended_next_hop: Option<bool>,
}

impl Said {
    fn new() -> Said {
        Said {
            peer: Peer::new(IpAddr::from(Ipv4Addr::UNSPECIFIED).into(), 0),
            peer_as: None,
            send_hold_time: None,
            extended_next_hop: None,
        }
    }

    /// The keys that `[bgp]` may have, too. `false`: something was wrong, and has been noted; so below.
    fn shared(&mut self, table: &Table<'_>) -> bool {
        let peer = &mut self.peer;
        let all = [
            table.put("hold-time", &mut peer.hold_time, |node| {
                value::duration(node, &HOLD_TIMES)
            }),
            table.put_some("next-hop-ipv4", &mut peer.next_hop_ipv4, value::global_ipv4),
            table.put_some("next-hop-ipv6", &mut peer.next_hop_ipv6, value::global_ipv6),
        ];
        all.into_iter().all(|good| good)
    }

    /// The keys of a peer or a template.
    fn lay(&mut self, table: &Table<'_>, around: &Around<'_>) -> bool {
        let all = [
            self.shared(table),
            self.session(table),
            self.timers(table),
            self.announcing(table),
            policy::lay(
                table,
                around.blackhole,
                Arc::make_mut(&mut self.peer.policy),
            ),
            self.is_of_use(table),
        ];
        all.into_iter().all(|good| good)
    }

    fn session(&mut self, table: &Table<'_>) -> bool {
        let peer = &mut self.peer;
        let all = [
            table.put_some("peer-as", &mut self.peer_as, value::as_number),
            table.put_some("description", &mut peer.description, |node| {
                value::words(node, "the router of rack 1")
            }),
            table.put("enabled", &mut peer.enabled, Node::boolean),
            table.put("port", &mut peer.port, value::port),
            table.put("passive", &mut peer.passive, Node::boolean),
            table.put_some("local-address", &mut peer.local_address, value::address),
            table.put_some("local-port", &mut peer.local_port, value::port),
            single::ttl(table, &mut peer.ttl),
            authentication::lay(table, &mut peer.authentication),
            table.put(
                "extended-messages",
                &mut peer.extended_messages,
                Node::boolean,
            ),
            table.put_some("role", &mut peer.role, single::role),
            table.put("role-strict", &mut peer.role_strict, Node::boolean),
        ];
        all.into_iter().all(|good| good)
    }

    fn timers(&mut self, table: &Table<'_>) -> bool {
        let peer = &mut self.peer;
        let all = [
            table.put_some("send-hold-time", &mut self.send_hold_time, |node| {
                value::duration(node, &SEND_HOLD_TIMES)
            }),
            table.put("connect-retry-time", &mut peer.connect_retry_time, |node| {
                value::duration(node, &RETRY_TIMES)
            }),
            table.put_some("delay-open-time", &mut peer.delay_open_time, |node| {
                value::duration(node, &DELAY_OPEN_TIMES)
            }),
            table.put(
                "advertisement-interval",
                &mut peer.advertisement_interval,
                |node| value::duration(node, &INTERVALS),
            ),
        ];
        all.into_iter().all(|good| good)
    }

    fn announcing(&mut self, table: &Table<'_>) -> bool {
        let peer = &mut self.peer;
        let all = [
            table.put("families", &mut peer.families, single::families),
            table.put_some(
                "extended-next-hop",
                &mut self.extended_next_hop,
                Node::boolean,
            ),
            table.put("maximum-prefixes", &mut peer.maximum_prefixes, |node| {
                node.integer(0, u32::MAX)
            }),
            table.put(
                "maximum-prefixes-action",
                &mut peer.maximum_prefixes_action,
                single::maximum_action,
            ),
            table.put("groups", &mut peer.groups, single::groups),
            table.put_some("allow", &mut peer.allow, single::prefixes),
            table.put_some("maximum-announced", &mut peer.maximum_announced, |node| {
                node.integer(1, u32::MAX)
            }),
        ];
        all.into_iter().all(|good| good)
    }

    /// Refuses keys that another one of the same table makes useless. A template's are only overruled.
    fn is_of_use(&self, table: &Table<'_>) -> bool {
        let mut useless = Vec::new();
        if table.get("passive").and_then(|node| node.as_bool()) == Some(true) {
            let why = "is for connections of our own, and with passive = true there are none; leave one of the two out";
            useless.extend(["port", "local-port", "connect-retry-time"].map(|key| (key, why)));
        }
        if !self.peer.families.contains(&Family::Ipv4) {
            let why =
                "is for IPv4, which is not among families; add \"ipv4\" there or leave this out";
            useless.extend(["next-hop-ipv4", "extended-next-hop"].map(|key| (key, why)));
        }
        if !self.peer.families.contains(&Family::Ipv6) {
            let why =
                "is for IPv6, which is not among families; add \"ipv6\" there or leave this out";
            useless.push(("next-hop-ipv6", why));
        }
        let mut good = true;
        for (key, why) in useless {
            if let Some(node) = table.get(key) {
                node.mistake(why);
                good = false;
            }
        }
        good
    }

    /// `None`: nobody said the peer's AS.
    fn finish(self, id: PeerId) -> Option<Peer> {
        let by_interface = !matches!(id, PeerId::Address(_));
        let default = (2 * self.peer.hold_time).max(SEND_HOLD_TIME);
        Some(Peer {
            peer_as: self.peer_as?,
            send_hold_time: self.send_hold_time.unwrap_or(default),
            extended_next_hop: self.extended_next_hop.unwrap_or(by_interface),
            id,
            ..self.peer
        })
    }
}

/// RFC 9687: 8 minutes, or twice the hold time if that is more.
const SEND_HOLD_TIME: Duration = Duration::from_secs(8 * 60);

/// A peer whose keys, wherever they stand, must fit each other.
struct Fit<'p, 'a> {
    peer: Peer,
    own: &'p Table<'a>,
    template: Option<&'p Table<'a>>,
    /// The template's keys of which it has been told that they do not fit a peer: more peers add nothing.
    told: &'p RefCell<BTreeSet<&'static str>>,
}

impl Fit<'_, '_> {
    /// Notes each key that does not fit.
    fn check(&self, around: &Around<'_>) -> bool {
        let internal = around
            .local_as
            .map(|local_as| local_as == self.peer.peer_as);
        let all = [
            self.accepts(around.listen),
            self.local_port(around.listen),
            self.hops(),
            self.local_address(),
            self.send_hold_time(),
            internal.is_none_or(|internal| self.role(internal) & self.local_pref(internal)),
        ];
        all.into_iter().all(|good| good)
    }

    fn accepts(&self, listen: Option<&[SocketAddr]>) -> bool {
        let family = self.peer.id.family();
        let heard = |listen: &[SocketAddr]| {
            listen
                .iter()
                .any(|address| Family::of(address.ip()) == family)
        };
        if !self.peer.passive || listen.is_none_or(heard) {
            return true;
        }
        self.refuse("passive", format_args!(
            "no connection can come: no {family} address is in listen of [bgp]; write one there, or leave passive out"
        ))
    }

    /// The kernel binds no second socket to a port where one listens.
    fn local_port(&self, listen: Option<&[SocketAddr]>) -> bool {
        let Some(port) = self.peer.local_port.filter(|_| !self.peer.passive) else {
            return true;
        };
        let family = self.peer.id.family();
        let meets = |address: &&SocketAddr| {
            let ours = self
                .peer
                .local_address
                .filter(|_| !address.ip().is_unspecified());
            address.port() == port
                && Family::of(address.ip()) == family
                && ours.is_none_or(|ours| ours == address.ip())
        };
        let Some(taken) = listen.unwrap_or_default().iter().find(meets) else {
            return true;
        };
        self.refuse(
            "local-port",
            format_args!("we listen on {taken}, so no connection can leave from there; write another port, or leave it out"),
        )
    }

    fn hops(&self) -> bool {
        if matches!(self.peer.id, PeerId::Address(_)) {
            return true;
        }
        match self.peer.ttl {
            Ttl::Default | Ttl::Security(1) => true,
            Ttl::Security(_) => self.refuse(
                "ttl-security",
                "a link-local address is one hop away; write true",
            ),
            Ttl::Multihop(_) => self.refuse(
                "multihop",
                "a link-local address is one hop away; leave it out, or write ttl-security = true",
            ),
        }
    }

    fn local_address(&self) -> bool {
        let Some(local) = self.peer.local_address else {
            return true;
        };
        match self.peer.id {
            PeerId::Address(address) if address == local => self.refuse(
                "local-address",
                format_args!("{local} is the peer's own address; write one of this host"),
            ),
            PeerId::Address(address) if Family::of(address) == Family::of(local) => true,
            PeerId::Address(address) => {
                let (one, other) = (Family::of(local), Family::of(address));
                self.refuse(
                    "local-address",
                    format_args!(
                        "{local} is an {one} address, but {address} is {other}; write an {other} address of this host"
                    ),
                )
            }
            PeerId::LinkLocal(..) | PeerId::Interface(_) => self.refuse(
                "local-address",
                "the session is between link-local addresses, ours is the interface's; leave it out",
            ),
        }
    }

    fn send_hold_time(&self) -> bool {
        let least = 2 * self.peer.hold_time;
        if self.peer.send_hold_time >= least {
            return true;
        }
        let [found, hold, least] =
            [self.peer.send_hold_time, self.peer.hold_time, least].map(humantime::format_duration);
        self.refuse(
            "send-hold-time",
            format_args!(
                "{found} is less than twice the hold time of {hold}; write {least} or more"
            ),
        )
    }

    fn role(&self, internal: bool) -> bool {
        if internal && self.peer.role.is_some() {
            return self.refuse("role", format_args!(
                "roles are for external peers (RFC 9234 section 4), and AS {} is our own; leave it out",
                self.peer.peer_as
            ));
        }
        if self.peer.role_strict && self.peer.role.is_none() {
            return self.refuse(
                "role-strict",
                "there is no role to be strict about; write role = \"customer\", say, or role-strict = false",
            );
        }
        true
    }

    /// In a template it may be meant for other peers.
    fn local_pref(&self, internal: bool) -> bool {
        if internal || self.own.get("local-pref").is_none() {
            return true;
        }
        self.refuse("local-pref", format_args!(
            "LOCAL_PREF is for internal peers alone (RFC 4271 section 5.1.5), and AS {} is external; leave it out",
            self.peer.peer_as
        ))
    }

    /// Notes it at the key. One of the template is told once, with the first peer that it does not fit.
    fn refuse(&self, key: &'static str, text: impl Display) -> bool {
        let in_template = self.template.and_then(|template| template.get(key));
        match (self.own.get(key), in_template) {
            (None, Some(node)) => {
                if self.told.borrow_mut().insert(key) {
                    let line = self.own.place.line();
                    node.mistake(format_args!(
                        "does not fit peer {} (line {line}): {text}",
                        self.peer.id
                    ));
                }
            }
            (Some(_), _) | (None, None) => self.own.place_of(key).mistake(text),
        }
        false
    }
}

impl Peer {
    /// With every key but these left out, and nothing in `[bgp.defaults]`.
    pub fn new(id: PeerId, peer_as: u32) -> Peer {
        let hold_time = Duration::from_secs(30);
        Peer {
            extended_next_hop: !matches!(id, PeerId::Address(_)),
            id,
            description: None,
            enabled: true,
            peer_as,
            port: PORT,
            passive: false,
            local_address: None,
            local_port: None,
            hold_time,
            send_hold_time: SEND_HOLD_TIME,
            connect_retry_time: Duration::from_secs(30),
            delay_open_time: None,
            ttl: Ttl::Default,
            authentication: None,
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            next_hop_ipv4: None,
            next_hop_ipv6: None,
            extended_messages: true,
            role: None,
            role_strict: false,
            advertisement_interval: Duration::from_secs(1),
            maximum_prefixes: 10_000,
            maximum_prefixes_action: MaximumAction::Warn,
            groups: BTreeSet::new(),
            allow: None,
            maximum_announced: None,
            policy: Arc::default(),
        }
    }
}
