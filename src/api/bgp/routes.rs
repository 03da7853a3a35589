//! What one peer has been told of each address, or the wider prefix that it is announced as, and why not of the
//! others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::api::accept::Form;
use crate::api::json::json;
use crate::routing::session::{Route, Session, SessionState, Untold};
use crate::routing::{Community, Origin, PeerId};
use crate::snapshot::{Announcement, Refusal, Snapshot};
use crate::table::Table;

use super::{Known, words};

pub(super) fn routes(known: &Known<'_>, snapshot: &Snapshot, form: Form) -> String {
    let routes = Routes::of(known, snapshot);
    match form {
        Form::Json => json(&routes),
        Form::Text => text(&routes),
    }
}

#[derive(Serialize)]
struct Routes<'a> {
    peer: &'a PeerId,
    state: SessionState,
    told: BTreeMap<IpNet, Told<'a>>,
    untold: BTreeMap<IpNet, Why>,
}

#[derive(Serialize)]
struct Told<'a> {
    /// Ours that the prefix is for.
    address: IpAddr,
    next_hop: IpAddr,
    med: u32,
    prepend: u8,
    origin: Origin,
    /// `None`: an external peer is told none.
    local_pref: Option<u32>,
    communities: &'a BTreeSet<Community>,
}

/// Why the peer does not have an address of ours.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::api) enum Why {
    /// It is announced to nobody.
    Refused(Refusal),
    /// `families` of the peer leaves its family out.
    OtherFamilies,
    /// `announce-to` names other groups.
    OtherGroups,
    NoSession,
    Untold(Untold),
    /// Nothing is in the way; it is on its way.
    NotYet,
}

impl<'a> Routes<'a> {
    fn of(known: &Known<'a>, snapshot: &Snapshot) -> Routes<'a> {
        let session = known.session;
        let routes = session.into_iter().flat_map(|session| &session.routes);
        let internal = known.internal();
        let told: BTreeMap<IpNet, Told<'a>> = routes
            .map(|(prefix, route)| (*prefix, Told::of(route, route.address(prefix), internal)))
            .collect();
        let vips = snapshot.vips.iter();
        let untold = vips
            .map(|(address, vip)| (vip.prefix_of(*address), address, vip))
            .filter(|(prefix, ..)| !told.contains_key(prefix))
            .map(|(prefix, address, vip)| {
                let why = Why::of(known, *address, vip.announce.as_ref());
                (prefix, why)
            })
            .collect();
        Routes {
            peer: known.id,
            state: session.map_or(SessionState::Idle, |session| session.state),
            told,
            untold,
        }
    }
}

impl Told<'_> {
    fn of(route: &Route, address: IpAddr, internal: bool) -> Told<'_> {
        let attributes = &*route.attributes;
        Told {
            address,
            next_hop: route.next_hop,
            med: attributes.med,
            prepend: attributes.prepend,
            origin: attributes.origin,
            // RFC 4271 section 5.1.5.
            local_pref: internal.then(|| attributes.local_pref.unwrap_or(100)),
            communities: &attributes.communities,
        }
    }
}

impl Why {
    pub(in crate::api) fn of(
        known: &Known<'_>,
        address: IpAddr,
        announce: Result<&Announcement, &Refusal>,
    ) -> Why {
        let up = |session: &&Session| session.state == SessionState::Established;
        match (announce, known.session.filter(up)) {
            (Err(refusal), _) => Why::Refused(*refusal),
            (Ok(_), _) if !known.peer.has_family_of(address) => Why::OtherFamilies,
            (Ok(announcement), _) if !known.peer.is_of_groups(announcement.to.as_deref()) => {
                Why::OtherGroups
            }
            (Ok(_), None) => Why::NoSession,
            (Ok(_), Some(session)) => match session.untold.get(&address) {
                Some(untold) => Why::Untold(*untold),
                None => Why::NotYet,
            },
        }
    }

    pub(in crate::api) fn words(self) -> String {
        match self {
            Why::Refused(refusal) => refusal.to_string(),
            Why::OtherFamilies => "families of the peer leaves its family out".to_owned(),
            Why::OtherGroups => "announce-to names other groups".to_owned(),
            Why::NoSession => "the session is not established".to_owned(),
            Why::Untold(Untold::Family) => "the peer did not agree on the family".to_owned(),
            Why::Untold(Untold::NextHop) => {
                "no next hop of the family is configured or known".to_owned()
            }
            Why::NotYet => "not yet".to_owned(),
        }
    }
}

fn text(routes: &Routes<'_>) -> String {
    let mut table = Table::new([
        "PREFIX",
        "NEXT HOP",
        "MED",
        "PREPEND",
        "ORIGIN",
        "LOCAL-PREF",
        "COMMUNITIES",
    ]);
    for (prefix, told) in &routes.told {
        let wider = prefix.prefix_len() < prefix.max_prefix_len();
        let inside = wider.then(|| format!(" for {}", told.address));
        table.row([
            &format!("{prefix}{}", inside.unwrap_or_default()),
            &told.next_hop.to_string(),
            &told.med.to_string(),
            &told.prepend.to_string(),
            origin(told.origin),
            &words::or_dash(told.local_pref),
            &words::list(told.communities, " "),
        ]);
    }
    let told = routes.told.len();
    let all = told + routes.untold.len();
    let mut text = format!(
        "{}: {:?}, told {told} of {all} addresses\n",
        routes.peer, routes.state
    );
    if told > 0 {
        text += &format!("\n{}", table.text());
    }
    if !routes.untold.is_empty() {
        let mut table = Table::new(["NOT TOLD", "WHY"]);
        for (prefix, why) in &routes.untold {
            table.row([&prefix.to_string(), &why.words()]);
        }
        text += &format!("\n{}", table.text());
    }
    text
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Igp => "igp",
        Origin::Egp => "egp",
        Origin::Incomplete => "incomplete",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::service::Family;
    use crate::snapshot::sample;

    use super::*;

    #[test]
    fn told_and_not_told() {
        let mut snapshot = sample::snapshot([]);
        sample::sessions(&mut snapshot);
        let of =
            |name: &str, form| routes(&Known::find(&snapshot, name).ok().unwrap(), &snapshot, form);
        assert_eq!(
            of("10.0.0.1", Form::Text),
            "\
10.0.0.1: Established, told 2 of 4 addresses

PREFIX        NEXT HOP   MED   PREPEND  ORIGIN  LOCAL-PREF  COMMUNITIES
192.0.2.1/32  10.0.0.99  10    0        igp     -
192.0.2.2/32  10.0.0.99  1010  2        igp     -           64600:100 graceful-shutdown

NOT TOLD         WHY
192.0.2.3/32     a service has nothing pooled
2001:db8::7/128  the peer did not agree on the family
"
        );
        assert_eq!(
            of("eth2", Form::Text),
            "\
eth2: Idle, told 0 of 4 addresses

NOT TOLD         WHY
192.0.2.1/32     the session is not established
192.0.2.2/32     announce-to names other groups
192.0.2.3/32     a service has nothing pooled
2001:db8::7/128  the session is not established
"
        );
        let answer: Value = serde_json::from_str(&of("10.0.0.1", Form::Json)).unwrap();
        assert_eq!(
            answer["told"]["192.0.2.2/32"],
            json!({
                "address": "192.0.2.2", "next_hop": "10.0.0.99", "med": 1010, "prepend": 2, "origin": "igp",
                "local_pref": null, "communities": ["64600:100", "graceful-shutdown"],
            })
        );
        assert_eq!(
            answer["untold"],
            json!({
                "192.0.2.3/32": {"refused": "nothing-pooled"},
                "2001:db8::7/128": {"untold": "family"},
            })
        );
    }

    /// A session of one family lacks nothing of the other.
    #[test]
    fn what_is_of_no_family_of_the_peers() {
        let mut snapshot = sample::snapshot([]);
        sample::sessions(&mut snapshot);
        let config = std::sync::Arc::make_mut(&mut snapshot.config);
        for peer in config.bgp.as_mut().unwrap().peers.values_mut() {
            std::sync::Arc::make_mut(peer).families = [Family::Ipv4].into();
        }
        let known = Known::find(&snapshot, "eth2").unwrap();
        assert_eq!(known.told(&snapshot), (0, 1));
        let text = routes(&known, &snapshot, Form::Text);
        let line = "2001:db8::7/128  families of the peer leaves its family out\n";
        assert!(text.ends_with(line), "{text}");
    }

    #[test]
    fn a_wider_prefix_names_its_address() {
        let mut snapshot = sample::snapshot([]);
        sample::sessions(&mut snapshot);
        let prefix: IpNet = "192.0.2.0/24".parse().unwrap();
        let address = sample::ip("192.0.2.1");
        let vip = snapshot.vips.get_mut(&address).unwrap();
        std::sync::Arc::make_mut(vip).prefix = Some(prefix);
        let page = |snapshot: &Snapshot, form| {
            let known = Known::find(snapshot, "10.0.0.1").ok().unwrap();
            routes(&known, snapshot, form)
        };
        let before = page(&snapshot, Form::Text);
        assert!(before.contains("\n192.0.2.0/24     not yet\n"), "{before}");

        let peers = std::sync::Arc::make_mut(&mut snapshot.peers);
        let told = &mut peers
            .get_mut(&PeerId::from(sample::ip("10.0.0.1")))
            .unwrap()
            .routes;
        let route = told.remove(&IpNet::from(address)).unwrap();
        let inside = Some(address);
        let route = Route {
            inside,
            ..Route::clone(&route)
        };
        told.insert(prefix, route.into());
        let after = page(&snapshot, Form::Text);
        assert!(after.contains("told 2 of 4 addresses"), "{after}");
        assert!(
            after.contains("\n192.0.2.0/24 for 192.0.2.1  10.0.0.99  10 "),
            "{after}"
        );
        let answer: Value = serde_json::from_str(&page(&snapshot, Form::Json)).unwrap();
        assert_eq!(answer["told"]["192.0.2.0/24"]["address"], "192.0.2.1");
        assert_eq!(answer["told"]["192.0.2.2/32"]["address"], "192.0.2.2");
    }

    #[test]
    fn an_internal_peer_is_told_a_local_preference() {
        let route = Route {
            next_hop: sample::ip("10.0.0.99"),
            attributes: std::sync::Arc::default(),
            inside: None,
        };
        let told = |internal| Told::of(&route, sample::ip("192.0.2.1"), internal);
        assert_eq!(told(true).local_pref, Some(100));
        assert_eq!(told(false).local_pref, None);
    }
}
