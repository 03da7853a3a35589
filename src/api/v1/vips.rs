//! Service addresses and what routers are told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::bgp::Known;
use crate::routing::{self, Origin, Policy};
use crate::service::ServiceName;
use crate::snapshot::{Condition, Refusal, Snapshot, Vip};

use super::View;

pub(super) fn all(view: &View<'_>) -> String {
    let told = told(view.snapshot);
    let vips = view.snapshot.vips.iter();
    super::body(&Vips {
        vips: vips
            .map(|(&address, vip)| VipState::of(address, vip, told.get(&address)))
            .collect(),
    })
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Vips<'a> {
    vips: Vec<VipState<'a>>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct VipState<'a> {
    address: IpAddr,
    /// What it is announced as: its own /32 or /128, or a wider one.
    #[schemars(with = "String")]
    prefix: IpNet,
    services: Vec<&'a str>,
    /// Whether it is on this host.
    present: bool,
    /// Why it could not be put there.
    fault: Option<&'a str>,
    condition: Condition,
    /// Whether peers shall be told of it.
    announced: bool,
    /// Why not.
    refusal: Option<Refusal>,
    refusal_text: Option<String>,
    /// Announced with the attributes of its condition, which make it worse than healthy ones.
    demoted: bool,
    /// As a peer without a policy of its own is told. Null: nobody is.
    attributes: Option<Attributes>,
    /// The groups of peers that are told. Null: all peers.
    announce_to: Option<Vec<&'a str>>,
    /// The peers that have been told.
    told: Vec<String>,
}

/// Of a route (RFC 4271 section 5).
#[derive(Serialize, JsonSchema)]
pub(super) struct Attributes {
    med: u32,
    /// How often our own AS stands in AS_PATH beside the once that it must.
    prepend: u8,
    origin: Origin,
    /// Null: none is sent.
    local_pref: Option<u32>,
    communities: Vec<String>,
}

impl<'a> VipState<'a> {
    pub(super) fn of(
        address: IpAddr,
        vip: &'a Vip,
        told: Option<&BTreeSet<String>>,
    ) -> VipState<'a> {
        let announcement = vip.announce.as_ref().ok();
        let refusal = vip.announce.as_ref().err().copied();
        let to = announcement.and_then(|announcement| announcement.to.as_deref());
        VipState {
            address,
            prefix: vip.prefix_of(address),
            services: vip.services.iter().map(ServiceName::as_str).collect(),
            present: vip.present,
            fault: vip.fault.as_deref(),
            condition: vip.condition,
            announced: announcement.is_some(),
            refusal,
            refusal_text: refusal.map(|why| why.to_string()),
            demoted: announcement.is_some_and(|it| *it.condition != Policy::default()),
            attributes: announcement.map(|it| {
                let attributes = it.attributes(None);
                Attributes::of(&attributes, attributes.local_pref)
            }),
            announce_to: to.map(|to| to.iter().map(|group| &**group).collect()),
            told: told.into_iter().flatten().cloned().collect(),
        }
    }
}

impl Attributes {
    pub(super) fn of(attributes: &routing::Attributes, local_pref: Option<u32>) -> Attributes {
        let communities = attributes.communities.iter();
        Attributes {
            med: attributes.med,
            prepend: attributes.prepend,
            origin: attributes.origin,
            local_pref,
            communities: communities.map(ToString::to_string).collect(),
        }
    }
}

/// Who has been told of each address.
pub(super) fn told(snapshot: &Snapshot) -> BTreeMap<IpAddr, BTreeSet<String>> {
    let mut told: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for known in Known::all(snapshot) {
        let name = known.id.to_string();
        for (prefix, route) in known
            .session
            .into_iter()
            .flat_map(|session| &session.routes)
        {
            let peers = told.entry(route.address(prefix)).or_default();
            peers.insert(name.clone());
        }
    }
    told
}
