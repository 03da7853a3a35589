//! The sessions with the routers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::bgp::{Known, Why, heard, last_error};
use crate::routing::Role;
use crate::routing::session::{Figures, Foreign, Hint, Negotiated, SessionState, Told, Untold};
use crate::service::Family;
use crate::snapshot::Refusal;

use super::View;
use super::time::Time;
use super::vips::Attributes;

pub(super) fn all(view: &View<'_>) -> String {
    let bgp = view.snapshot.config.bgp.as_ref();
    super::body(&Peers {
        local_as: bgp.map(|bgp| bgp.local_as),
        router_id: bgp.map(|bgp| bgp.router_id),
        peers: Known::all(view.snapshot)
            .map(|known| Peer::of(view, &known))
            .collect(),
    })
}

pub(super) fn one(view: &View<'_>, name: &str) -> Result<String, String> {
    let known = Known::find(view.snapshot, name)?;
    Ok(super::body(&PeerDetail::of(view, &known)))
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Peers<'a> {
    /// Null: no BGP is configured.
    local_as: Option<u32>,
    router_id: Option<Ipv4Addr>,
    peers: Vec<Peer<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Peer<'a> {
    peer: String,
    description: Option<&'a str>,
    peer_as: u32,
    state: PeerState,
    /// Since when it is established, or not.
    since: Option<Time>,
    /// False: it is kept down, by an operator or by the configuration.
    enabled: bool,
    /// Addresses that it has been told, of those that it shall be told.
    told: usize,
    wanted: usize,
    /// Prefixes that it announces.
    heard: u64,
    last_error: Option<String>,
}

/// RFC 4271 section 8.2.2.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum PeerState {
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct PeerDetail<'a> {
    #[serde(flatten)]
    peer: Peer<'a>,
    local_as: u32,
    orders: Orders<'a>,
    /// What the way it fails looks like.
    hint: Option<Hint>,
    hint_text: Option<String>,
    /// What our OPEN says.
    offered: Offered,
    /// What both ends agreed on, while it is established.
    agreed: Option<Agreed>,
    timers: Timers,
    last_notification: Notifications<'a>,
    messages_sent: Messages,
    messages_received: Messages,
    /// UPDATEs that were treated as withdrawals or of which attributes were dropped (RFC 7606).
    malformed_updates: u64,
    prefixes_heard: PerFamily,
    maximum_prefixes: u32,
    /// Families of which the peer announces more.
    over_maximum: Vec<Family>,
    times_established: u64,
    times_lost: u64,
    announced: Vec<Announced>,
    not_announced: Vec<NotAnnounced>,
    /// Our own prefixes, as the peer announces them to us.
    heard_of_ours: Vec<Heard<'a>>,
}

/// Of operators.
#[derive(Serialize, JsonSchema)]
struct Orders<'a> {
    /// Null: as configured.
    enabled: Option<bool>,
    text: Option<&'a str>,
    clears: u64,
}

#[derive(Serialize, JsonSchema)]
struct Offered {
    hold_time_seconds: f64,
    families: Vec<Family>,
    /// IPv4 prefixes with an IPv6 next hop (RFC 8950).
    extended_next_hop: bool,
    /// RFC 8654.
    extended_messages: bool,
    /// Our own (RFC 9234).
    role: Option<Role>,
}

#[derive(Serialize, JsonSchema)]
struct Agreed {
    /// Both ends of the connection.
    local: SocketAddr,
    remote: SocketAddr,
    /// The peer's BGP Identifier.
    identifier: Ipv4Addr,
    hold_time_seconds: f64,
    families: Vec<Family>,
    four_octet_as: bool,
    route_refresh: bool,
    enhanced_route_refresh: bool,
    extended_messages: bool,
    extended_next_hop: bool,
    /// The peer's (RFC 9234).
    role: Option<Role>,
}

/// When they expire. Null: not running.
#[derive(Serialize, JsonSchema)]
struct Timers {
    hold: Option<Time>,
    keepalive: Option<Time>,
    connect_retry: Option<Time>,
}

/// The last NOTIFICATION each way, ever.
#[derive(Serialize, JsonSchema)]
struct Notifications<'a> {
    sent: Option<Notification<'a>>,
    received: Option<Notification<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Notification<'a> {
    at: Time,
    code: u8,
    subcode: u8,
    text: &'a str,
}

#[derive(Serialize, JsonSchema)]
struct Messages {
    open: u64,
    update: u64,
    notification: u64,
    keepalive: u64,
    route_refresh: u64,
}

#[derive(Serialize, JsonSchema)]
struct PerFamily {
    ipv4: u64,
    ipv6: u64,
}

#[derive(Serialize, JsonSchema)]
struct Announced {
    address: IpAddr,
    #[schemars(with = "String")]
    prefix: IpNet,
    next_hop: IpAddr,
    attributes: Attributes,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct NotAnnounced {
    address: IpAddr,
    #[schemars(with = "String")]
    prefix: IpNet,
    why: WhyNot,
    /// With `refused`.
    refusal: Option<Refusal>,
    /// With `untold`.
    untold: Option<Untold>,
    text: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum WhyNot {
    /// It is announced to nobody.
    Refused,
    /// `families` of the peer leaves its family out.
    OtherFamilies,
    /// `announce-to` names other groups.
    OtherGroups,
    NoSession,
    /// The session does not allow it.
    Untold,
    /// Nothing is in the way; it is on its way.
    NotYet,
}

#[derive(Serialize, JsonSchema)]
struct Heard<'a> {
    #[schemars(with = "String")]
    prefix: IpNet,
    /// Its next hop is ours: our own announcement, returned.
    ours: bool,
    next_hop: Option<IpAddr>,
    as_path: &'a str,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: Vec<String>,
}

impl<'a> Peer<'a> {
    fn of(view: &View<'_>, known: &Known<'a>) -> Peer<'a> {
        let session = known.session;
        let (told, wanted) = known.told(view.snapshot);
        Peer {
            peer: known.id.to_string(),
            description: known.peer.description.as_deref(),
            peer_as: known.peer.peer_as,
            state: session
                .map_or(SessionState::Idle, |session| session.state)
                .into(),
            since: session.and_then(|session| session.since).map(Time::from),
            enabled: !known.disabled(),
            told,
            wanted,
            heard: session.map_or(0, heard),
            last_error: last_error(known),
        }
    }
}

impl From<SessionState> for PeerState {
    fn from(state: SessionState) -> PeerState {
        match state {
            SessionState::Idle => PeerState::Idle,
            SessionState::Connect => PeerState::Connect,
            SessionState::Active => PeerState::Active,
            SessionState::OpenSent => PeerState::OpenSent,
            SessionState::OpenConfirm => PeerState::OpenConfirm,
            SessionState::Established => PeerState::Established,
        }
    }
}

impl<'a> PeerDetail<'a> {
    fn of(view: &View<'_>, known: &Known<'a>) -> PeerDetail<'a> {
        let session = known.session;
        let none = Figures::default();
        let figures = session.map_or(&none, |session| &*session.figures);
        let hint = session.and_then(|session| session.hint);
        let [ipv4, ipv6] = &figures.prefixes;
        let last = |told: Option<&'a std::sync::Arc<Told>>| told.map(|told| Notification::of(told));
        PeerDetail {
            peer: Peer::of(view, known),
            local_as: known.local_as,
            orders: Orders {
                enabled: known.orders.and_then(|orders| orders.enabled),
                text: known.orders.and_then(|orders| orders.text.as_deref()),
                clears: known.orders.map_or(0, |orders| orders.clears),
            },
            hint,
            hint_text: hint.map(|hint| hint.to_string()),
            offered: Offered::of(known),
            agreed: session.and_then(|session| session.negotiated.as_deref().map(Agreed::of)),
            timers: Timers::of(figures),
            last_notification: Notifications {
                sent: last(session.and_then(|session| session.told_last.as_ref())),
                received: last(session.and_then(|session| session.heard_last.as_ref())),
            },
            messages_sent: Messages::of(&figures.sent),
            messages_received: Messages::of(&figures.received),
            malformed_updates: read(&figures.malformed),
            prefixes_heard: PerFamily {
                ipv4: read(ipv4),
                ipv6: read(ipv6),
            },
            maximum_prefixes: known.peer.maximum_prefixes,
            over_maximum: session
                .into_iter()
                .flat_map(|session| session.over_maximum.iter().copied())
                .collect(),
            times_established: read(&figures.times_established),
            times_lost: read(&figures.times_lost),
            announced: announced(known),
            not_announced: not_announced(view, known),
            heard_of_ours: session
                .into_iter()
                .flat_map(|session| &session.foreign)
                .map(|(prefix, foreign)| Heard::of(*prefix, foreign))
                .collect(),
        }
    }
}

fn read(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

fn announced(known: &Known<'_>) -> Vec<Announced> {
    let routes = known
        .session
        .into_iter()
        .flat_map(|session| &session.routes);
    routes
        .map(|(prefix, route)| Announced {
            address: route.address(prefix),
            prefix: *prefix,
            next_hop: route.next_hop,
            attributes: {
                // RFC 4271 section 5.1.5.
                let preferred = route.attributes.local_pref.unwrap_or(100);
                Attributes::of(&route.attributes, known.internal().then_some(preferred))
            },
        })
        .collect()
}

fn not_announced(view: &View<'_>, known: &Known<'_>) -> Vec<NotAnnounced> {
    let told = |prefix| {
        known
            .session
            .is_some_and(|session| session.routes.contains_key(&prefix))
    };
    let vips = view.snapshot.vips.iter();
    vips.filter(|(address, vip)| !told(vip.prefix_of(**address)))
        .map(|(address, vip)| {
            let why = Why::of(known, *address, vip.announce.as_ref());
            NotAnnounced::of(*address, vip.prefix_of(*address), why)
        })
        .collect()
}

impl NotAnnounced {
    pub(super) fn of(address: IpAddr, prefix: IpNet, why: Why) -> NotAnnounced {
        let (word, refusal, untold) = match why {
            Why::Refused(refusal) => (WhyNot::Refused, Some(refusal), None),
            Why::OtherFamilies => (WhyNot::OtherFamilies, None, None),
            Why::OtherGroups => (WhyNot::OtherGroups, None, None),
            Why::NoSession => (WhyNot::NoSession, None, None),
            Why::Untold(untold) => (WhyNot::Untold, None, Some(untold)),
            Why::NotYet => (WhyNot::NotYet, None, None),
        };
        NotAnnounced {
            address,
            prefix,
            why: word,
            refusal,
            untold,
            text: why.words(),
        }
    }
}

impl Offered {
    fn of(known: &Known<'_>) -> Offered {
        let peer = known.peer;
        Offered {
            hold_time_seconds: peer.hold_time.as_secs_f64(),
            families: peer.families.iter().copied().collect(),
            extended_next_hop: peer.extended_next_hop,
            extended_messages: peer.extended_messages,
            role: peer.role,
        }
    }
}

impl Agreed {
    fn of(negotiated: &Negotiated) -> Agreed {
        Agreed {
            local: negotiated.local,
            remote: negotiated.remote,
            identifier: negotiated.identifier,
            hold_time_seconds: Duration::as_secs_f64(&negotiated.hold_time),
            families: negotiated.families.iter().copied().collect(),
            four_octet_as: negotiated.four_octet_as,
            route_refresh: negotiated.route_refresh,
            enhanced_route_refresh: negotiated.enhanced_route_refresh,
            extended_messages: negotiated.extended_messages,
            extended_next_hop: negotiated.extended_next_hop,
            role: negotiated.role,
        }
    }
}

impl Timers {
    fn of(figures: &Figures) -> Timers {
        let at = |timer| Time::of_millis(read(timer));
        Timers {
            hold: at(&figures.hold_timer),
            keepalive: at(&figures.keepalive_timer),
            connect_retry: at(&figures.retry_timer),
        }
    }
}

impl Notification<'_> {
    fn of(told: &Told) -> Notification<'_> {
        Notification {
            at: told.at.into(),
            code: told.code,
            subcode: told.subcode,
            text: &told.text,
        }
    }
}

impl Messages {
    fn of(figures: &[AtomicU64; 5]) -> Messages {
        let [open, update, notification, keepalive, route_refresh] = figures.each_ref().map(read);
        Messages {
            open,
            update,
            notification,
            keepalive,
            route_refresh,
        }
    }
}

impl Heard<'_> {
    fn of(prefix: IpNet, foreign: &Foreign) -> Heard<'_> {
        Heard {
            prefix,
            ours: foreign.ours,
            next_hop: foreign.next_hop,
            as_path: &foreign.as_path,
            med: foreign.med,
            local_pref: foreign.local_pref,
            communities: foreign
                .communities
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}
