//! Where server lists come from.

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::{Etcd, EtcdApi, Servers};
use crate::snapshot::Service;

use super::View;
use super::services::{BadEntry, List, bad_entries};

pub(super) fn all(view: &View<'_>) -> String {
    let snapshot = view.snapshot;
    let services = snapshot.services.values();
    super::body(&Sources {
        etcd: snapshot.config.etcd.as_deref().map(Store::of),
        sources: services.map(|service| Source::of(view, service)).collect(),
    })
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Sources<'a> {
    /// Null: none is configured.
    etcd: Option<Store<'a>>,
    sources: Vec<Source<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Store<'a> {
    api: EtcdApi,
    /// The directory above the pools.
    prefix: &'a str,
    /// After how long without etcd what has changed meanwhile is taken with care.
    stale_after_seconds: f64,
}

/// Of one service.
#[derive(Serialize, JsonSchema)]
struct Source<'a> {
    service: &'a str,
    kind: Kind,
    /// The file, or the pool's directory below the prefix. Null: the list stands in the configuration itself.
    from: Option<String>,
    list: List<'a>,
    bad_entries: Vec<BadEntry<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SourceKind")]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Inline,
    File,
    Etcd,
}

impl Store<'_> {
    fn of(etcd: &Etcd) -> Store<'_> {
        Store {
            api: etcd.api,
            prefix: &etcd.prefix,
            stale_after_seconds: etcd.stale_after.as_secs_f64(),
        }
    }
}

impl Source<'_> {
    fn of<'a>(view: &View<'_>, service: &'a Service) -> Source<'a> {
        let (kind, from) = match &service.config.servers {
            Servers::Inline(_) => (Kind::Inline, None),
            Servers::File(path) => (Kind::File, Some(path.display().to_string())),
            Servers::Etcd(pool) => (Kind::Etcd, Some(pool.to_string())),
        };
        Source {
            service: service.config.name.as_str(),
            kind,
            from,
            list: List::of(view, service),
            bad_entries: bad_entries(service),
        }
    }
}
