//! `/api/v1`: what the newest snapshot says, in JSON whose shapes are a promise: a later release adds to them, and
//! takes nothing away and changes no meaning. One table names each path, its shape and what makes it; requests are
//! answered by it and the OpenAPI document is made from it.
//!
//! Not here: PyBal's paths and those in text, which stay as they are beside it; and what the figures mean.
//! Of all shapes: what is not there is null, durations are seconds, times are RFC 3339 in UTC.

mod alerts;
mod bgp;
mod config;
mod desk;
mod encoding;
mod ipvs;
mod openapi;
mod overrides;
mod services;
mod sources;
mod time;
mod vips;
mod why;

use std::fmt::Display;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::history::{History, Record};
use crate::service::Host;
use crate::snapshot::{Server, Service, Snapshot};

use super::resource::decoded;
use super::{Now, json};

pub(super) use self::desk::Desk;

const ROOT: &str = "/api/v1";

/// So many names are told to whoever asks for one that there is not.
const MOST_NAMES: usize = 10;
/// So many events stand beside a verdict.
const LATELY: usize = 20;

/// One path below [`ROOT`].
struct Endpoint {
    /// What stands in braces is a name that the request brings.
    path: &'static str,
    says: &'static str,
    holds: Holds,
    schema: fn(&mut SchemaGenerator) -> Schema,
    /// `Err`: there is no such thing, and what would be right.
    body: fn(&View<'_>, &[String]) -> Result<String, String>,
}

/// For how long one body is the answer to all who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// As long as the snapshot is the newest: nothing else is in it.
    Snapshot,
    /// A second at most: there are figures or ages in it.
    Second,
    /// It is made for each: there are too many of its kind to keep them.
    Never,
}

/// All paths. Where two of them match, the first one is meant.
const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/services",
        says: "All services, with how each of their servers stands",
        holds: Holds::Snapshot,
        schema: schema::<services::Services<'static>>,
        body: |view, _| Ok(services::all(view)),
    },
    Endpoint {
        path: "/services/{service}",
        says: "One service: its servers with their checks, its settings, its traffic",
        holds: Holds::Never,
        schema: schema::<services::ServiceDetail<'static>>,
        body: |view, names| services::one(view, &names[0]),
    },
    Endpoint {
        path: "/services/{service}/servers/{host}",
        says: "One server of a service",
        holds: Holds::Never,
        schema: schema::<services::ServerDetail<'static>>,
        body: |view, names| services::server(view, &names[0], &names[1]),
    },
    Endpoint {
        path: "/vips",
        says: "All service addresses: whether they are announced and with which attributes, or why not",
        holds: Holds::Snapshot,
        schema: schema::<vips::Vips<'static>>,
        body: |view, _| Ok(vips::all(view)),
    },
    Endpoint {
        path: "/bgp/peers",
        says: "All BGP sessions",
        holds: Holds::Second,
        schema: schema::<bgp::Peers<'static>>,
        body: |view, _| Ok(bgp::all(view)),
    },
    Endpoint {
        path: "/bgp/peers/{peer}",
        says: "One BGP session, with what the peer has been told of each address",
        holds: Holds::Never,
        schema: schema::<bgp::PeerDetail<'static>>,
        body: |view, names| bgp::one(view, &names[0]),
    },
    Endpoint {
        path: "/ipvs",
        says: "The kernel's table: what it shall hold, what it was read to hold, what was put right",
        holds: Holds::Second,
        schema: schema::<ipvs::Ipvs<'static>>,
        body: |view, _| Ok(ipvs::all(view)),
    },
    Endpoint {
        path: "/sources",
        says: "Where each service's server list comes from, and as of when it is",
        holds: Holds::Snapshot,
        schema: schema::<sources::Sources<'static>>,
        body: |view, _| Ok(sources::all(view)),
    },
    Endpoint {
        path: "/overrides",
        says: "What operators say of servers in place of their lists",
        holds: Holds::Snapshot,
        schema: schema::<overrides::Overrides<'static>>,
        body: |view, _| Ok(overrides::all(view)),
    },
    Endpoint {
        path: "/alerts",
        says: "What an operator must know, the worst first",
        holds: Holds::Second,
        schema: schema::<alerts::Alerts>,
        body: |view, _| Ok(alerts::all(view)),
    },
    Endpoint {
        path: "/config",
        says: "Which configuration is in force, and how its file is now",
        holds: Holds::Snapshot,
        schema: schema::<config::Configuration>,
        body: |view, _| Ok(config::in_force(view)),
    },
    Endpoint {
        path: "/why/{vip}",
        says: "Why an address is announced or not",
        holds: Holds::Never,
        schema: schema::<why::WhyVip<'static>>,
        body: |view, names| why::vip(view, &names[0]),
    },
    Endpoint {
        path: "/why/{service}/{host}",
        says: "Why a server is in its pool or not",
        holds: Holds::Never,
        schema: schema::<why::WhyServer<'static>>,
        body: |view, names| why::server(view, &names[0], &names[1]),
    },
    Endpoint {
        path: "/openapi.json",
        says: "This document",
        holds: Holds::Snapshot,
        schema: |_| schemars::json_schema!({ "type": "object" }),
        body: |_, _| Ok(openapi::document().to_owned()),
    },
];

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Endpoint {
    /// The names that it brings, if this is its path.
    fn matched(&self, path: &[String]) -> Option<Vec<String>> {
        let parts: Vec<&str> = self.path.split('/').skip(1).collect();
        let named = |part: &str| part.starts_with('{');
        let same = |(part, name): (&&str, &String)| named(part) || part == name;
        let all = parts.len() == path.len() && parts.iter().zip(path).all(same);
        let names = || parts.iter().zip(path).filter(|(part, _)| named(part));
        all.then(|| names().map(|(_, name)| name.clone()).collect())
    }
}

/// Where a path leads.
enum Route {
    /// To this one of [`ENDPOINTS`], with these names.
    To(usize, Vec<String>),
    /// Nowhere, and what would be right.
    Nowhere(String),
}

impl Route {
    /// Slashes are read as everywhere else: several are one, one at the end is none.
    fn of(path: &str) -> Route {
        let below = below(path).into_iter();
        let names = below.flat_map(|below| below.split('/'));
        let names = names.filter(|name| !name.is_empty());
        let names: Vec<String> = names.map(decoded).collect();
        let mut all = ENDPOINTS.iter().enumerate();
        let found = all.find_map(|(at, endpoint)| Some((at, endpoint.matched(&names)?)));
        match found {
            Some((at, names)) => Route::To(at, names),
            None => {
                let paths = ENDPOINTS.iter().map(|endpoint| endpoint.path);
                let paths: Vec<String> = paths.map(|path| format!("{ROOT}{path}")).collect();
                Route::Nowhere(format!("No such path; there are {}", paths.join(", ")))
            }
        }
    }
}

/// What of the path stands below [`ROOT`]; `None`: it is none of ours.
fn below(path: &str) -> Option<&str> {
    let below = path.strip_prefix(ROOT)?;
    (below.is_empty() || below.starts_with('/')).then_some(below)
}

/// What an answer is made from, and nothing else.
struct View<'a> {
    snapshot: &'a Snapshot,
    now: Now,
    history: &'a History,
}

impl<'a> View<'a> {
    /// The last events that fit.
    fn lately(&self, fits: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        self.history.last(LATELY, fits)
    }

    fn service(&self, name: &str) -> Result<&'a Service, String> {
        let services = &self.snapshot.services;
        let found = services.get(name).map(|service| &**service);
        found.ok_or_else(|| none_such("service", name, services.keys(), "/services"))
    }

    fn server(&self, service: &str, host: &str) -> Result<(&'a Host, &'a Server), String> {
        let servers = &self.service(service)?.servers;
        servers.get_key_value(host).ok_or_else(|| {
            let there = format!("/services/{service}");
            none_such(
                &format!("server of {service}"),
                host,
                servers.keys(),
                &there,
            )
        })
    }
}

/// `all`: those that there are, which `path` shows.
fn none_such<T: Display>(
    what: &str,
    name: &str,
    all: impl ExactSizeIterator<Item = T>,
    path: &str,
) -> String {
    let count = all.len();
    let names: Vec<String> = all.take(MOST_NAMES).map(|name| name.to_string()).collect();
    match count {
        0 => format!("No {what} is called {name:?}; there is none"),
        1..=MOST_NAMES => format!(
            "No {what} is called {name:?}; there are {}",
            names.join(", ")
        ),
        _ => format!(
            "No {what} is called {name:?}; the {count} that there are stand at {ROOT}{path}"
        ),
    }
}

fn body(shape: &impl Serialize) -> String {
    json::json(shape)
}
