//! The families of what goes through services and servers: the kernel's figures, as they were read last.

use std::fmt;

use prometheus_client::metrics::MetricType::{Counter, Gauge};

use crate::api::traffic::{answer_passes, answers_pass, of_server};
use crate::service::ServiceName;
use crate::snapshot::Service;
use crate::snapshot::traffic::{Counts, ServerTraffic};

use super::Samples::{EachServer, EachService};
use super::families::of;
use super::{Family, Labels, Writer};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "service_connections",
        help: "Connections that IPVS has scheduled (ipvsadm: Conns).",
        kind: Counter,
        samples: EachService(|name, s, w| {
            of_service(name, s, w, |c| c.connections, Writer::counter)
        }),
    },
    Family {
        name: "service_packets",
        help: "Packets of its clients, in, and with masquerading its answers, out (ipvsadm: InPkts, OutPkts).",
        kind: Counter,
        samples: EachService(|name, s, w| {
            both_of_service(
                name,
                s,
                w,
                |c| [c.packets_in, c.packets_out],
                Writer::counter,
            )
        }),
    },
    Family {
        name: "service_bytes",
        help: "The same in bytes, with IP headers (ipvsadm: InBytes, OutBytes).",
        kind: Counter,
        samples: EachService(|name, s, w| {
            both_of_service(name, s, w, |c| [c.bytes_in, c.bytes_out], Writer::counter)
        }),
    },
    Family {
        name: "service_connections_per_second",
        help: "New connections a second, as the kernel reckons it (ipvsadm: CPS).",
        kind: Gauge,
        samples: EachService(|name, s, w| {
            of_service(name, s, w, |c| c.connection_rate, Writer::gauge)
        }),
    },
    Family {
        name: "service_packets_per_second",
        help: "Packets a second, as the kernel reckons it (ipvsadm: InPPS, OutPPS).",
        kind: Gauge,
        samples: EachService(|name, s, w| {
            both_of_service(
                name,
                s,
                w,
                |c| [c.packet_rate_in, c.packet_rate_out],
                Writer::gauge,
            )
        }),
    },
    Family {
        name: "service_bytes_per_second",
        help: "Bytes a second, as the kernel reckons it (ipvsadm: InBPS, OutBPS).",
        kind: Gauge,
        samples: EachService(|name, s, w| {
            both_of_service(
                name,
                s,
                w,
                |c| [c.byte_rate_in, c.byte_rate_out],
                Writer::gauge,
            )
        }),
    },
    Family {
        name: "server_open_connections",
        help: "Connections that IPVS knows (ipvsadm: ActiveConn, InActConn), and clients that persistence ties to the server.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each_server(name, s, w, |w, labels, traffic, _| {
                let persistent = s.config.scheduling.persistence.is_some();
                let persistent = persistent.then_some(("persistent", traffic.persistent));
                [("active", traffic.active), ("inactive", traffic.inactive)]
                    .into_iter()
                    .chain(persistent)
                    .try_for_each(|(state, count)| {
                        let [service, host] = labels;
                        w.gauge(&[service, host, ("state", state)], u64::from(count))
                    })
            })
        }),
    },
    Family {
        name: "server_connections",
        help: "Connections that IPVS has given to the server; from 0 again when IPVS gets it anew.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            each_server(name, s, w, |w, labels, traffic, _| {
                w.counter(&labels, traffic.counts.connections)
            })
        }),
    },
    Family {
        name: "server_packets",
        help: "Packets of its clients, in, and with masquerading its answers, out; from 0 again when IPVS gets it anew.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            both_of_servers(
                name,
                s,
                w,
                |c| [c.packets_in, c.packets_out],
                Writer::counter,
            )
        }),
    },
    Family {
        name: "server_bytes",
        help: "The same in bytes, with IP headers.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            both_of_servers(name, s, w, |c| [c.bytes_in, c.bytes_out], Writer::counter)
        }),
    },
    Family {
        name: "server_connections_per_second",
        help: "New connections a second, as the kernel reckons it.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each_server(name, s, w, |w, labels, traffic, _| {
                w.gauge(&labels, traffic.counts.connection_rate)
            })
        }),
    },
    Family {
        name: "server_packets_per_second",
        help: "Packets a second, as the kernel reckons it.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            both_of_servers(
                name,
                s,
                w,
                |c| [c.packet_rate_in, c.packet_rate_out],
                Writer::gauge,
            )
        }),
    },
    Family {
        name: "server_bytes_per_second",
        help: "Bytes a second, as the kernel reckons it.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            both_of_servers(
                name,
                s,
                w,
                |c| [c.byte_rate_in, c.byte_rate_out],
                Writer::gauge,
            )
        }),
    },
    Family {
        name: "server_stuck",
        help: "Servers that take up no connection which IPVS gives them; always 1.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            let mut stuck = s
                .servers
                .iter()
                .filter(|(_, server)| server.stuck.is_some());
            stuck.try_for_each(|(host, _)| w.gauge(&[of(name), ("host", host.as_str())], 1_i64))
        }),
    },
];

/// Writes one figure, as a counter or a gauge.
type Write<'a> = fn(&mut Writer<'a>, Labels<'_>, u64) -> fmt::Result;

/// What comes in and what goes out.
type Both = fn(&Counts) -> [u64; 2];

fn of_service<'a>(
    name: &ServiceName,
    service: &Service,
    w: &mut Writer<'a>,
    count: fn(&Counts) -> u64,
    write: Write<'a>,
) -> fmt::Result {
    match service.traffic.reading(w.now) {
        Some(reading) => write(w, &[of(name)], count(&reading.counts)),
        None => Ok(()),
    }
}

fn both_of_service<'a>(
    name: &ServiceName,
    service: &Service,
    w: &mut Writer<'a>,
    both: Both,
    write: Write<'a>,
) -> fmt::Result {
    let Some(reading) = service.traffic.reading(w.now) else {
        return Ok(());
    };
    let mut directions = directions(both(&reading.counts), answers_pass(service));
    directions.try_for_each(|(direction, count)| write(w, &[of(name), direction], count))
}

fn both_of_servers<'a>(
    name: &ServiceName,
    service: &Service,
    w: &mut Writer<'a>,
    both: Both,
    write: Write<'a>,
) -> fmt::Result {
    each_server(name, service, w, |w, [service, host], traffic, answers| {
        let mut directions = directions(both(&traffic.counts), answers);
        directions.try_for_each(|(direction, count)| write(w, &[service, host, direction], count))
    })
}

fn directions(
    [incoming, outgoing]: [u64; 2],
    answers: bool,
) -> impl Iterator<Item = ((&'static str, &'static str), u64)> {
    let out = answers.then_some((("direction", "out"), outgoing));
    [(("direction", "in"), incoming)].into_iter().chain(out)
}

/// The last argument of `write`: whether the server's answers are seen.
fn each_server<'a>(
    name: &ServiceName,
    service: &Service,
    w: &mut Writer<'a>,
    write: impl Fn(&mut Writer<'a>, [(&str, &str); 2], &ServerTraffic, bool) -> fmt::Result,
) -> fmt::Result {
    let Some(reading) = service.traffic.reading(w.now) else {
        return Ok(());
    };
    service.servers.iter().try_for_each(|(host, server)| {
        match of_server(&reading, service, host, server) {
            Some(traffic) => {
                let labels = [of(name), ("host", host.as_str())];
                write(w, labels, traffic, answer_passes(service, host))
            }
            None => Ok(()),
        }
    })
}
