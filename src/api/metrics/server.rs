//! The families of what is decided for each server; what its monitors found and what goes through it is elsewhere.

use std::fmt;
use std::time::Instant;

use prometheus_client::metrics::MetricType::Gauge;

use crate::service::{Host, ServiceName};
use crate::snapshot::{Health, Server, Service};

use super::Samples::EachServer;
use super::families::of;
use super::{Family, Writer};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "server_enabled",
        help: "Whether the list names the server and does not disable it.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each(name, s, w, |_, _, server, _| Some(server.enabled().into()))
        }),
    },
    Family {
        name: "server_up",
        help: "Whether all its monitors are up.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each(name, s, w, |_, _, server, _| {
                Some((server.health == Health::Up).into())
            })
        }),
    },
    Family {
        name: "server_weight",
        help: "The weight that the list gives it; absent if it is off the list.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each(name, s, w, |_, _, server, _| {
                Some(server.listed?.weight.get().into())
            })
        }),
    },
    Family {
        name: "server_ipvs_weight",
        help: "The weight that it shall have in IPVS, 0 while it drains; absent if IPVS shall not have it.",
        kind: Gauge,
        samples: EachServer(|name, s, w| each(name, s, w, in_ipvs)),
    },
    Family {
        name: "server_draining_left_seconds",
        help: "How long its last connections are waited for yet; absent if they are not.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each(name, s, w, |_, _, server, now| {
                Some(server.draining?.saturating_duration_since(now).as_secs())
            })
        }),
    },
    Family {
        name: "server_kept_down_left_seconds",
        help: "How long it is kept down yet whatever its checks say; absent if it is not.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each(name, s, w, |_, _, server, now| {
                Some(server.kept_down?.rest(now).as_secs())
            })
        }),
    },
    Family {
        name: "server_kept_down",
        help: "Servers that are down whatever their checks say, by what keeps them down; always 1.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            s.servers.iter().try_for_each(|(host, server)| {
                let Some(why) = server.kept_down else {
                    return Ok(());
                };
                let host = ("host", host.as_str());
                w.gauge(&[of(name), host, ("reason", &why.to_string())], 1_i64)
            })
        }),
    },
    Family {
        name: "server_weight_share",
        help: "What of its list's weight a server has in IPVS, of 1, by what makes it less or more; absent if nothing does.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            s.servers.iter().try_for_each(|(host, server)| {
                server.scaled.iter().try_for_each(|by| {
                    let labels = [of(name), ("host", host.as_str()), ("by", &by.to_string())];
                    w.gauge(&labels, f64::from(by.percent()) / 100.0)
                })
            })
        }),
    },
];

/// The value of each server that has one.
fn each(
    name: &ServiceName,
    service: &Service,
    w: &mut Writer<'_>,
    value: fn(&Service, &Host, &Server, Instant) -> Option<u64>,
) -> fmt::Result {
    let mut servers = service.servers.iter();
    servers.try_for_each(|(host, server)| match value(service, host, server, w.now) {
        Some(value) => w.gauge(&[of(name), ("host", host.as_str())], value),
        None => Ok(()),
    })
}

fn in_ipvs(service: &Service, host: &Host, server: &Server, _: Instant) -> Option<u64> {
    let there = server.pooled.in_ipvs() || server.draining.is_some();
    let destination = service.destination(host, server).filter(|_| there)?;
    Some(destination.weight.get().into())
}
