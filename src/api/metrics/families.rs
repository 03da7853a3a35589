//! The families: what each is called, what it says, and where in the snapshot it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::metrics::MetricType::{Counter, Gauge, Histogram};
use serde::Serialize;

use crate::check::figures::{self, Figures};
use crate::service::ServiceName;
use crate::snapshot::alert::Alert;
use crate::snapshot::{
    Applied, Health, Held, MonitorState, Pooled, Server, Service, Snapshot, Source,
};

use super::Samples::{EachServer, EachService, Whole};
use super::{Family, Writer};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "build_info",
        help: "The version that runs; always 1.",
        kind: Gauge,
        samples: Whole(|_, w| w.gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1_i64)),
    },
    Family {
        name: "mode",
        help: "What of the world is touched: real, memory-table or dry-run; always 1.",
        kind: Gauge,
        samples: Whole(|snapshot, w| w.gauge(&[("mode", &label(&snapshot.mode))], 1_i64)),
    },
    Family {
        name: "reload_refused",
        help: "Whether the newest configuration was refused and an older one is in force.",
        kind: Gauge,
        samples: Whole(|s, w| w.gauge(&[], i64::from(s.reload_refused.is_some()))),
    },
    Family {
        name: "alerts",
        help: "Alerts as in /alerts, by their name and severity.",
        kind: Gauge,
        samples: Whole(alerts),
    },
    Family {
        name: "service_info",
        help: "The service's address; always 1.",
        kind: Gauge,
        samples: EachService(|name, s, w| {
            let vip = s.config.address.to_string();
            w.gauge(&[of(name), ("vip", &vip)], 1_i64)
        }),
    },
    Family {
        name: "service_servers",
        help: "Servers that the list names.",
        kind: Gauge,
        samples: EachService(|name, s, w| w.gauge(&[of(name)], s.size)),
    },
    Family {
        name: "service_servers_enabled",
        help: "Servers that the list names and does not disable.",
        kind: Gauge,
        samples: EachService(|name, s, w| w.gauge(&[of(name)], count(s, Server::enabled))),
    },
    Family {
        name: "service_servers_up",
        help: "Servers whose monitors are all up.",
        kind: Gauge,
        samples: EachService(|name, s, w| w.gauge(&[of(name)], count(s, up))),
    },
    Family {
        name: "service_servers_pooled",
        help: "Servers in IPVS, held ones too.",
        kind: Gauge,
        samples: EachService(|name, s, w| {
            w.gauge(&[of(name)], count(s, |server| server.pooled.in_ipvs()))
        }),
    },
    Family {
        name: "service_servers_held",
        help: "Servers in IPVS that should not be, by what holds them.",
        kind: Gauge,
        samples: EachService(held),
    },
    Family {
        name: "service_can_depool",
        help: "Whether one more server may be depooled for its health.",
        kind: Gauge,
        samples: EachService(|name, s, w| w.gauge(&[of(name)], i64::from(can_depool(s)))),
    },
    Family {
        name: "service_pooled_down_servers",
        help: "Servers that are down and pooled because too many are down.",
        kind: Gauge,
        samples: EachService(|name, s, w| w.gauge(&[of(name)], count(s, pooled_down))),
    },
    Family {
        name: "service_depool_threshold",
        help: "The fraction of the servers that stays pooled.",
        kind: Gauge,
        samples: EachService(|name, s, w| w.gauge(&[of(name)], s.config.depool_threshold.get())),
    },
    Family {
        name: "service_floor",
        help: "The least number of servers that stays pooled.",
        kind: Gauge,
        samples: EachService(|name, s, w| w.gauge(&[of(name)], s.floor)),
    },
    Family {
        name: "service_guard_line",
        help: "How many servers must go on getting new connections while a change of the list is held; absent while none is.",
        kind: Gauge,
        samples: EachService(|name, s, w| match s.guard {
            Some(guard) => w.gauge(&[of(name)], guard.line),
            None => Ok(()),
        }),
    },
    Family {
        name: "service_servers_draining",
        help: "Servers that get no new connections and whose last ones are waited for.",
        kind: Gauge,
        samples: EachService(|name, s, w| {
            w.gauge(&[of(name)], count(s, |server| server.draining.is_some()))
        }),
    },
    Family {
        name: "service_could_not_depool",
        help: "Times a server that should have been depooled was held.",
        kind: Counter,
        samples: EachService(|name, s, w| w.counter(&[of(name)], s.counters.could_not_depool)),
    },
    Family {
        name: "service_list_good",
        help: "Whether the newest server list is in force; 0: none came, or it could not be used.",
        kind: Gauge,
        samples: EachService(|name, s, w| {
            w.gauge(&[of(name)], i64::from(s.source == Source::Good))
        }),
    },
    Family {
        name: "service_list_revision",
        help: "The revision of its store that the server list in force is of; absent if the source counts none.",
        kind: Gauge,
        samples: EachService(|name, s, w| match s.revision {
            Some(revision) => w.gauge(&[of(name)], revision),
            None => Ok(()),
        }),
    },
    Family {
        name: "service_list_applied_revision",
        help: "The last revision whose effect was read back from the kernel; absent if there was none.",
        kind: Gauge,
        samples: EachService(|name, s, w| match s.applied_revision {
            Some(revision) => w.gauge(&[of(name)], revision),
            None => Ok(()),
        }),
    },
    Family {
        name: "service_list_bad_entries",
        help: "Entries of the server list that cannot be used.",
        kind: Gauge,
        samples: EachService(|name, s, w| w.gauge(&[of(name)], s.list_faults.len())),
    },
    Family {
        name: "service_list_saved_age_seconds",
        help: "How old the server list in force is that was read from disk; absent if it is from its source.",
        kind: Gauge,
        samples: EachService(|name, s, w| match s.source.saved_age(w.now) {
            Some(age) => w.gauge(&[of(name)], age.as_secs()),
            None => Ok(()),
        }),
    },
    Family {
        name: "ipvs_applied",
        help: "Whether the kernel holds the service as wanted.",
        kind: Gauge,
        samples: EachService(|name, s, w| {
            w.gauge(&[of(name)], i64::from(s.applied == Applied::Yes))
        }),
    },
    Family {
        name: "ipvs_repaired",
        help: "Times the kernel's table was mended after someone else changed it.",
        kind: Counter,
        samples: EachService(|name, s, w| w.counter(&[of(name)], s.counters.repaired)),
    },
    Family {
        name: "host_repaired",
        help: "Times a part of this host was put right after someone else changed it, services aside.",
        kind: Counter,
        samples: Whole(|snapshot, w| {
            let mut parts = snapshot.repairs.host.iter();
            parts.try_for_each(|(part, count)| w.counter(&[("part", part)], *count))
        }),
    },
    Family {
        name: "monitor_status",
        help: "Whether the monitor is up; absent before its first result.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| match monitor.up {
                Some(up) => w.gauge(labels, i64::from(up)),
                None => Ok(()),
            })
        }),
    },
    Family {
        name: "monitor_up_transitions",
        help: "Times the monitor went up.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| {
                w.counter(labels, monitor.up_transitions)
            })
        }),
    },
    Family {
        name: "monitor_down_transitions",
        help: "Times the monitor went down.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| {
                w.counter(labels, monitor.down_transitions)
            })
        }),
    },
    Family {
        name: "monitor_up_results",
        help: "Checks that passed.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| {
                w.counter(labels, monitor.up_results)
            })
        }),
    },
    Family {
        name: "monitor_down_results",
        help: "Checks that did not.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| {
                w.counter(labels, monitor.down_results)
            })
        }),
    },
    Family {
        name: "monitor_late_checks",
        help: "Checks that began more than 250 ms after they were due: this host is too slow. Of monitors that make single ones.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| {
                w.counter(labels, monitor.late_checks)
            })
        }),
    },
    Family {
        name: "monitor_load_faults",
        help: "Answers that passed and had no load in them, of monitors that look at it.",
        kind: Counter,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| match monitor.load_faults {
                0 => Ok(()),
                faults => w.counter(labels, faults),
            })
        }),
    },
    Family {
        name: "monitor_check_duration_seconds",
        help: "How long checks took; of monitors that make single ones.",
        kind: Histogram,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| {
                w.durations(labels, monitor.duration_sum, &monitor.durations)
            })
        }),
    },
    Family {
        name: "monitor_certificate_expiry_timestamp_seconds",
        help: "When the server's certificate expires; absent until it has shown one.",
        kind: Gauge,
        samples: EachServer(|name, s, w| {
            each_monitor(name, s, |labels, monitor| {
                match monitor.certificate_expires {
                    Some(time) => w.gauge(labels, time),
                    None => Ok(()),
                }
            })
        }),
    },
];

pub(super) fn of(name: &ServiceName) -> (&'static str, &str) {
    ("service", name.as_str())
}

fn count(service: &Service, which: impl Fn(&Server) -> bool) -> usize {
    service
        .servers
        .values()
        .filter(|server| which(server))
        .count()
}

fn up(server: &Server) -> bool {
    server.health == Health::Up
}

fn pooled_down(server: &Server) -> bool {
    server.pooled == Pooled::Held(Held::DepoolThreshold)
}

/// PyBal's rule: the servers that are enabled and up are still as many as the threshold asks for.
#[expect(
    clippy::cast_precision_loss,
    reason = "PyBal compares as floats; pools are small"
)]
fn can_depool(service: &Service) -> bool {
    let good = count(service, |server| server.enabled() && up(server));
    good as f64 >= service.size as f64 * service.config.depool_threshold.get()
}

fn alerts(snapshot: &Snapshot, w: &mut Writer<'_>) -> fmt::Result {
    let mut counts = BTreeMap::from(Alert::ALL.map(|kind| (kind, 0_usize)));
    for alert in snapshot.alerts(w.now) {
        *counts.entry((alert.name(), alert.severity())).or_default() += 1;
    }
    counts.iter().try_for_each(|((name, severity), count)| {
        let labels = [("alert", *name), ("severity", &*severity.to_string())];
        w.gauge(&labels, *count)
    })
}

fn held(name: &ServiceName, service: &Service, w: &mut Writer<'_>) -> fmt::Result {
    [
        Held::DepoolThreshold,
        Held::DepoolGuard,
        Held::StaleCatchUp,
        Held::NamesUnresolved,
    ]
    .iter()
    .try_for_each(|&reason| {
        let held = count(service, |server| server.pooled == Pooled::Held(reason));
        w.gauge(&[of(name), ("reason", &reason.to_string())], held)
    })
}

/// All monitors of one type at one server: two of a type share their labels.
#[derive(Default)]
struct Monitors {
    up: Option<bool>,
    up_transitions: u64,
    down_transitions: u64,
    up_results: u64,
    down_results: u64,
    load_faults: u64,
    late_checks: u64,
    /// By their length, as [`figures::Figures`] has them, and in microseconds together.
    durations: [u64; figures::BUCKETS.len() + 1],
    duration_sum: u64,
    /// The first that does.
    certificate_expires: Option<i64>,
}

impl Monitors {
    fn add(&mut self, monitor: &MonitorState) {
        if let Some(result) = &monitor.result {
            self.up = Some(result.is_ok() && self.up != Some(false));
        }
        self.up_transitions += monitor.up_transitions;
        self.down_transitions += monitor.down_transitions;
        let Figures {
            up_results,
            down_results,
            durations,
            duration_sum,
            load_faults,
            late,
            certificate_expires,
            ..
        } = &*monitor.figures;
        self.up_results += up_results.load(Relaxed);
        self.down_results += down_results.load(Relaxed);
        self.load_faults += load_faults.load(Relaxed);
        self.late_checks += late.load(Relaxed);
        self.duration_sum += duration_sum.load(Relaxed);
        let expires = Some(certificate_expires.load(Relaxed)).filter(|time| *time != 0);
        let times = [self.certificate_expires, expires];
        self.certificate_expires = times.into_iter().flatten().min();
        for (sum, count) in self.durations.iter_mut().zip(durations) {
            *sum += count.load(Relaxed);
        }
    }
}

fn each_monitor(
    name: &ServiceName,
    service: &Service,
    mut write: impl FnMut(super::Labels<'_>, &Monitors) -> fmt::Result,
) -> fmt::Result {
    for (host, server) in &*service.servers {
        let mut kinds: BTreeMap<&str, Monitors> = BTreeMap::new();
        for monitor in &server.monitors {
            kinds.entry(monitor.kind).or_default().add(monitor);
        }
        for (kind, monitors) in &kinds {
            write(
                &[of(name), ("host", host.as_str()), ("monitor", kind)],
                monitors,
            )?;
        }
    }
    Ok(())
}

/// The name that an enum variant has wherever it is written.
pub(super) fn label(variant: &impl Serialize) -> String {
    let value = serde_json::to_value(variant).ok();
    value
        .as_ref()
        .and_then(|value| value.as_str())
        .unwrap_or_default()
        .to_owned()
}
