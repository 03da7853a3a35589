//! The services of one pool → its record.

use crate::config::DepoolGuard;
use crate::fleet::record::{Pool, PoolService};
use crate::snapshot::{Applied, Pooled, Service, Source};

/// The record. Services that have applied nothing yet count as revision 0, even if no other has, so that
/// nobody takes the pool for applied, nor this balancer for one that does not serve it.
pub(super) fn record<'a>(services: impl Iterator<Item = &'a Service>) -> Pool {
    let mut pool = Pool {
        revision: u64::MAX,
        services: Default::default(),
    };
    for service in services {
        pool.revision = pool.revision.min(applied(service).unwrap_or(0));
        if applied(service).is_some() || refused(service) {
            let name = service.config.name.to_string();
            pool.services.insert(name, of_service(service));
        }
    }
    pool
}

/// Whether a newer list is in force than the kernel has, and the kernel has not refused.
pub(super) fn on_its_way(service: &Service) -> bool {
    !refused(service) && service.revision > service.applied_revision
}

/// A revision of the list before, from another source, says nothing.
fn applied(service: &Service) -> Option<u64> {
    match service.source {
        Source::Waiting => None,
        Source::Good | Source::Saved { .. } | Source::Failed(_) => service.applied_revision,
    }
}

fn refused(service: &Service) -> bool {
    match service.applied {
        Applied::NotYet | Applied::Yes => false,
        Applied::Failed { .. } => true,
    }
}

fn of_service(service: &Service) -> PoolService {
    let in_ipvs = service.servers.iter().filter(|(_, s)| s.pooled.in_ipvs());
    let held = service
        .servers
        .iter()
        .filter_map(|(host, server)| match server.pooled {
            Pooled::Held(why) => Some((host.to_string(), why.to_string())),
            Pooled::Yes | Pooled::No => None,
        });
    PoolService {
        depool_threshold: service.config.depool_threshold.get(),
        depool_guard: match service.config.depool_guard {
            DepoolGuard::Off => "off",
            DepoolGuard::Last => "last",
            DepoolGuard::Floor => "floor",
        }
        .to_owned(),
        size: service.size,
        pooled: in_ipvs.map(|(host, _)| host.to_string()).collect(),
        held: held.collect(),
    }
}
