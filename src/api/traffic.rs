//! What goes through a service and its servers, under `/services`: the kernel's figures, as they were read last.

use std::fmt;
use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use crate::service::{Forwarding, Host};
use crate::snapshot::traffic::{Counts, Reading, ServerTraffic};
use crate::snapshot::{Server, Service};

/// The kernel's counts. What goes out is null where the answers do not pass here.
#[derive(Serialize, JsonSchema)]
pub(super) struct Traffic {
    pub(super) active: u64,
    pub(super) inactive: u64,
    persistent: u64,
    connections: u64,
    packets_in: u64,
    packets_out: Option<u64>,
    bytes_in: u64,
    bytes_out: Option<u64>,
    connections_per_second: u64,
    packets_in_per_second: u64,
    packets_out_per_second: Option<u64>,
    bytes_in_per_second: u64,
    bytes_out_per_second: Option<u64>,
}

impl Traffic {
    /// `None`: there are no figures, or they are old.
    pub(super) fn of_service(service: &Service, now: Instant) -> Option<Traffic> {
        let reading = service.traffic.reading(now)?;
        let sum = |of: fn(&ServerTraffic) -> u32| {
            let servers = reading.servers.values();
            servers.map(|server| u64::from(of(server))).sum()
        };
        Some(Traffic {
            active: sum(|server| server.active),
            inactive: sum(|server| server.inactive),
            persistent: sum(|server| server.persistent),
            ..Traffic::from_counts(&reading.counts, answers_pass(service))
        })
    }

    /// `None`: the same, or IPVS does not have the server.
    pub(super) fn of_server(
        service: &Service,
        host: &Host,
        server: &Server,
        now: Instant,
    ) -> Option<Traffic> {
        let reading = service.traffic.reading(now)?;
        let traffic = of_server(&reading, service, host, server)?;
        Some(Traffic {
            active: traffic.active.into(),
            inactive: traffic.inactive.into(),
            persistent: traffic.persistent.into(),
            ..Traffic::from_counts(&traffic.counts, answer_passes(service, host))
        })
    }

    fn from_counts(counts: &Counts, with_answers: bool) -> Traffic {
        let out = |count| with_answers.then_some(count);
        Traffic {
            active: 0,
            inactive: 0,
            persistent: 0,
            connections: counts.connections,
            packets_in: counts.packets_in,
            packets_out: out(counts.packets_out),
            bytes_in: counts.bytes_in,
            bytes_out: out(counts.bytes_out),
            connections_per_second: counts.connection_rate,
            packets_in_per_second: counts.packet_rate_in,
            packets_out_per_second: out(counts.packet_rate_out),
            bytes_in_per_second: counts.byte_rate_in,
            bytes_out_per_second: out(counts.byte_rate_out),
        }
    }
}

/// `active 12, inactive 30, persistent 0; in all 228 connections, in 1322 packets of 79916 bytes; a second
/// 3 connections, in 18 packets of 1084 bytes`, each with what goes out if that is seen.
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic {
            active,
            inactive,
            persistent,
            ..
        } = self;
        write!(
            f,
            "active {active}, inactive {inactive}, persistent {persistent}"
        )?;
        let all = (
            "in all",
            self.connections,
            (self.packets_in, self.bytes_in),
            self.packets_out.zip(self.bytes_out),
        );
        let rates = (
            "a second",
            self.connections_per_second,
            (self.packets_in_per_second, self.bytes_in_per_second),
            self.packets_out_per_second.zip(self.bytes_out_per_second),
        );
        for (of, connections, (packets, bytes), out) in [all, rates] {
            write!(f, "; {of} {connections} connections")?;
            write!(f, ", in {packets} packets of {bytes} bytes")?;
            if let Some((packets, bytes)) = out {
                write!(f, ", out {packets} packets of {bytes} bytes")?;
            }
        }
        Ok(())
    }
}

pub(super) fn of_server<'a>(
    reading: &'a Reading,
    service: &Service,
    host: &Host,
    server: &Server,
) -> Option<&'a ServerTraffic> {
    let backend = service.config.backend(host, server.address?);
    reading.servers.get(&backend)
}

/// Whether the kernel sees what the server says.
pub(super) fn answer_passes(service: &Service, host: &Host) -> bool {
    service.config.delivery(host).forwarding == Forwarding::Masquerading
}

/// Whether it sees what some server says.
pub(super) fn answers_pass(service: &Service) -> bool {
    let config = &service.config;
    let mut deliveries = config.deliveries.values().chain([&config.delivery]);
    deliveries.any(|delivery| delivery.forwarding == Forwarding::Masquerading)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use crate::snapshot::sample;

    use super::*;

    #[test]
    fn in_text_and_json() {
        let now = sample::now();
        let counts = |times| Counts {
            connections: times,
            packets_in: 6 * times,
            packets_out: 5 * times,
            bytes_in: 361 * times,
            bytes_out: 1000 * times,
            connection_rate: 2,
            packet_rate_in: 12,
            packet_rate_out: 10,
            byte_rate_in: 722,
            byte_rate_out: 2000,
        };
        let server = |times: u32| ServerTraffic {
            active: times,
            inactive: 10 * times,
            persistent: 2,
            counts: counts(times.into()),
        };
        let (_, web) = sample::edit(
            sample::service("web", 0.5, &["a up pooled", "b up pooled", "c"]),
            |web| {
                let at = |n: u8| ([10, 0, 0, n], 80).into();
                let reading = Reading {
                    counts: counts(9),
                    servers: [(at(1), server(3)), (at(2), server(4))].into(),
                };
                web.traffic.note(now, Arc::new(reading));
            },
        );
        let of =
            |host: &str| Traffic::of_server(&web, &host.parse().unwrap(), &web.servers[host], now);
        let text = |traffic: Option<Traffic>| traffic.map(|traffic| traffic.to_string());
        let a = "active 3, inactive 30, persistent 2; in all 3 connections, in 18 packets of 1083 bytes; \
                 a second 2 connections, in 12 packets of 722 bytes";
        assert_eq!(text(of("a")).as_deref(), Some(a));
        assert!(of("c").is_none());
        let all = "active 7, inactive 70, persistent 4; in all 9 connections, in 54 packets of 3249 bytes; \
                   a second 2 connections, in 12 packets of 722 bytes";
        assert_eq!(text(Traffic::of_service(&web, now)).as_deref(), Some(all));
        let late = now + Duration::from_secs(11);
        assert!(Traffic::of_service(&web, late).is_none());

        let mut masqueraded = Service::clone(&web);
        let config = Arc::make_mut(&mut masqueraded.config);
        config.delivery.forwarding = Forwarding::Masquerading;
        let traffic = Traffic::of_service(&masqueraded, now).unwrap();
        let text = traffic.to_string();
        assert!(
            text.ends_with("722 bytes, out 10 packets of 2000 bytes"),
            "{text}"
        );
        let json: Value = serde_json::to_value(traffic).unwrap();
        let expected = json!({
            "active": 7, "inactive": 70, "persistent": 4, "connections": 9,
            "packets_in": 54, "packets_out": 45, "bytes_in": 3249, "bytes_out": 9000,
            "connections_per_second": 2, "packets_in_per_second": 12, "packets_out_per_second": 10,
            "bytes_in_per_second": 722, "bytes_out_per_second": 2000,
        });
        assert_eq!(json, expected);
    }
}
