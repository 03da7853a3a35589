//! `/metrics`: a snapshot → OpenMetrics text, a page at a time. What PyBal has is called as there, with `plimsoll_` for
//! `pybal_`, and if asked comes once more by PyBal's own name; nothing is counted here, all figures stand in the snapshot.

mod bgp;
mod families;
mod server;
mod traffic;
mod vip;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use crate::check::figures;
use crate::service::ServiceName;
use crate::snapshot::{Service, Snapshot};

use families::FAMILIES;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Services, or their servers, a page: 20 to 40 KiB of text, a fraction of a millisecond of work.
const PAGE: usize = 128;

const ALL: [&[Family]; 5] = [
    FAMILIES,
    server::FAMILIES,
    traffic::FAMILIES,
    bgp::FAMILIES,
    vip::FAMILIES,
];

/// The families that PyBal has.
const PYBALS: [&str; 15] = [
    "service_servers",
    "service_servers_enabled",
    "service_servers_up",
    "service_servers_pooled",
    "service_can_depool",
    "service_pooled_down_servers",
    "service_depool_threshold",
    "service_could_not_depool",
    "monitor_status",
    "monitor_up_transitions",
    "monitor_down_transitions",
    "monitor_up_results",
    "monitor_down_results",
    "bgp_enabled",
    "bgp_session_established",
];

/// What PyBal calls monitors.
const PYBALS_MONITORS: [(&str, &str); 5] = [
    ("idle-connection", "IdleConnection"),
    ("proxy-fetch", "ProxyFetch"),
    ("run-command", "RunCommand"),
    ("dns-query", "DNSQuery"),
    ("udp", "UDP"),
];

/// A metric family: its name without `plimsoll_` and `_total`, what it says, and how it is read.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Samples,
}

/// Where a family's samples are read from.
enum Samples {
    Whole(fn(&Snapshot, &mut Writer<'_>) -> fmt::Result),
    EachService(fn(&ServiceName, &Service, &mut Writer<'_>) -> fmt::Result),
    /// The same, with some for each server of it.
    EachServer(fn(&ServiceName, &Service, &mut Writer<'_>) -> fmt::Result),
}

/// A family by one of its names.
#[derive(Clone, Copy)]
struct Named {
    family: &'static Family,
    /// It has PyBal's name.
    pybals: bool,
}

/// The text of one snapshot, page by page.
pub(super) struct Pages {
    snapshot: Arc<Snapshot>,
    /// What ages are told by.
    now: Instant,
    families: vec::IntoIter<Named>,
    /// The family that is being written, and the first service that is still to come.
    rest: Option<(Named, ServiceName)>,
    ended: bool,
}

impl Pages {
    pub(super) fn new(snapshot: Arc<Snapshot>, now: Instant) -> Pages {
        let with_pybals = snapshot.config.metrics.pybal_names;
        let families = ALL.into_iter().flatten().flat_map(|family| {
            let pybals = with_pybals && PYBALS.contains(&family.name);
            let named = |pybals| Named { family, pybals };
            [Some(named(false)), pybals.then(|| named(true))]
        });
        let families: Vec<Named> = families.flatten().collect();
        Pages {
            snapshot,
            now,
            families: families.into_iter(),
            rest: None,
            ended: false,
        }
    }

    /// Writes services from `first` on until the page is full and leaves the rest for the next one.
    fn page(&mut self, named: Named, first: Option<ServiceName>) -> String {
        let snapshot = self.snapshot.clone();
        let with_head = first.is_none();
        let first = first.as_ref().or_else(|| snapshot.services.keys().next());
        let mut part = Part {
            named,
            snapshot: snapshot.clone(),
            now: self.now,
            services: Vec::new(),
        };
        let mut room = PAGE;
        let services = first.map(|first| snapshot.services.range::<_, ServiceName>(first..));
        for (name, service) in services.into_iter().flatten() {
            let size = match named.family.samples {
                Samples::Whole(_) => break,
                Samples::EachService(_) => 1,
                Samples::EachServer(_) => service.servers.len().max(1),
            };
            if size > room && !part.services.is_empty() {
                self.rest = Some((named, name.clone()));
                break;
            }
            room = room.saturating_sub(size);
            part.services.push((name.clone(), service.clone()));
        }
        encoded(part, with_head)
    }
}

impl Iterator for Pages {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if let Some((named, first)) = self.rest.take() {
            return Some(self.page(named, Some(first)));
        }
        if let Some(named) = self.families.next() {
            return Some(self.page(named, None));
        }
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let mut end = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode_eof(&mut end);
        Some(end)
    }
}

fn encoded(part: Part, with_head: bool) -> String {
    let prefix = if part.named.pybals {
        "pybal"
    } else {
        "plimsoll"
    };
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(part));
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode_registry(&mut page, &registry);
    if !with_head {
        // A family's HELP and TYPE stand once, before the first of its samples.
        let head: usize = page.split_inclusive('\n').take(2).map(str::len).sum();
        page.drain(..head);
    }
    page
}

/// Some services' samples of one family.
struct Part {
    named: Named,
    snapshot: Arc<Snapshot>,
    now: Instant,
    services: Vec<(ServiceName, Arc<Service>)>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.named.family.name)
    }
}

impl Collector for Part {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Family {
            name,
            help,
            kind,
            samples,
        } = self.named.family;
        let mut writer = Writer {
            encoder: encoder.encode_descriptor(name, help, None, *kind)?,
            now: self.now,
            pybals: self.named.pybals,
        };
        match samples {
            Samples::Whole(write) => write(&self.snapshot, &mut writer),
            Samples::EachService(write) | Samples::EachServer(write) => {
                let mut services = self.services.iter();
                services.try_for_each(|(name, service)| write(name, service, &mut writer))
            }
        }
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Writes one family's samples.
struct Writer<'a> {
    encoder: MetricEncoder<'a>,
    now: Instant,
    /// The family has PyBal's name.
    pybals: bool,
}

impl Writer<'_> {
    fn gauge(&mut self, labels: Labels<'_>, value: impl EncodeGaugeValue) -> fmt::Result {
        if labels.is_empty() {
            return self.encoder.encode_gauge(&value);
        }
        let labels = self.named(labels);
        self.encoder
            .encode_family(&labels.as_slice())?
            .encode_gauge(&value)
    }

    fn counter(&mut self, labels: Labels<'_>, value: u64) -> fmt::Result {
        let labels = self.named(labels);
        ConstCounter::new(value).encode(self.encoder.encode_family(&labels.as_slice())?)
    }

    /// With PyBal's word for a monitor, if the family has PyBal's name.
    fn named<'a>(&self, labels: Labels<'a>) -> Vec<(&'a str, &'a str)> {
        let pybals = |value: &str| {
            let known = PYBALS_MONITORS.iter().find(|(ours, _)| *ours == value);
            known.map(|(_, pybals)| *pybals)
        };
        let named = |(key, value): &(&'a str, &'a str)| match pybals(value) {
            Some(pybals) if self.pybals && *key == "monitor" => (*key, pybals),
            Some(_) | None => (*key, *value),
        };
        labels.iter().map(named).collect()
    }

    /// `counts`: by [`figures::BUCKETS`], not summed up; `sum` in microseconds. Nothing if nothing was counted.
    fn durations(&mut self, labels: Labels<'_>, sum: u64, counts: &[u64]) -> fmt::Result {
        let count = counts.iter().sum();
        if count == 0 {
            return Ok(());
        }
        let bounds = figures::BUCKETS.iter().map(Duration::as_secs_f64);
        let bounds = bounds.chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        let sum = Duration::from_micros(sum).as_secs_f64();
        let mut encoder = self.encoder.encode_family(&labels)?;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::{Duration, SystemTime};

    use crate::routing::session::{Session, SessionState};
    use crate::service::Forwarding;
    use crate::snapshot::alert::Alert;
    use crate::snapshot::traffic::{Counts, Reading, ServerTraffic};
    use crate::snapshot::{Guard, KeptDown, Mode, Refusal, Scaled, Source, sample};

    use super::*;

    fn all(snapshot: Snapshot) -> String {
        Pages::new(Arc::new(snapshot), sample::now()).collect()
    }

    /// Holds the text to the format's rules: heads once and first, names under their head, no sample
    /// twice, the end at the end. Returns the samples.
    fn samples(text: &str) -> Vec<&str> {
        let body = text.strip_suffix("# EOF\n").expect("no end");
        let mut families = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let (mut family, mut suffixes): (_, &[&str]) = ("", &[]);
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split_once(' ').expect("help without text").0;
                assert!(families.insert(family), "{family} comes twice");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, family);
                suffixes = match kind {
                    "counter" => &["_total"],
                    "histogram" => &["_sum", "_count", "_bucket"],
                    _ => &[""],
                };
            } else {
                let (series, value) = line.rsplit_once(' ').expect("no value");
                let name = series.split('{').next().unwrap();
                let rest = name.strip_prefix(family);
                assert!(rest.is_some_and(|rest| suffixes.contains(&rest)), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(seen.insert(series), "{line} comes twice");
            }
        }
        body.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn an_empty_snapshot() {
        let text = all(sample::snapshot([]));
        let version = env!("CARGO_PKG_VERSION");
        let (alerts, others): (Vec<&str>, Vec<&str>) = samples(&text)
            .into_iter()
            .partition(|line| line.starts_with("plimsoll_alerts{"));
        assert_eq!(
            others,
            [
                &format!("plimsoll_build_info{{version=\"{version}\"}} 1"),
                "plimsoll_mode{mode=\"real\"} 1",
                "plimsoll_reload_refused 0",
                "plimsoll_bgp_enabled 0",
            ]
        );
        assert_eq!(alerts.len(), Alert::ALL.len());
        assert!(alerts.iter().all(|line| line.ends_with(" 0")), "{alerts:?}");
    }

    #[test]
    fn what_each_says() {
        let web = [
            "a up pooled",
            "b held",
            "c disabled up",
            "d unknown",
            "e gone up guarded",
        ];
        let web = sample::edit(sample::service("web", 0.5, &web), |service| {
            service.floor = 2;
            service.counters.could_not_depool = 7;
            service.counters.repaired = 3;
            service.guard = Some(Guard { size: 5, line: 3 });
            service.revision = Some(12);
            service.applied_revision = Some(11);
            let fault = ("a/b/c/d".to_owned(), "no JSON".to_owned());
            service.list_faults = Arc::new([fault].into());
            let servers = Arc::make_mut(&mut service.servers);
            // Two monitors of one type: down if one of them is.
            let a = servers.get_mut("a").unwrap();
            a.monitors.extend(sample::server("b held").1.monitors);
            let c = servers.get_mut("c").unwrap();
            c.scaled = vec![Scaled::SlowStart { percent: 40 }];
            let until = sample::now();
            c.kept_down = Some(KeptDown::FlapHold { until });
            c.draining = Some(until + Duration::from_millis(9500));
            c.stuck = Some("10 connections in 1m 2s, 1.0 packets each".into());
            let fault = Some(Arc::from("no load in the answer"));
            c.monitors[0].figures.note_load(None, fault);
            for took in [2, 3000] {
                let took = Some(Duration::from_millis(took));
                let figures = &servers["b"].monitors[0].figures;
                figures.note(SystemTime::UNIX_EPOCH, Err("no answer"), took);
                figures.certificate_expires.store(1_800_000_000, SeqCst);
                figures.late.fetch_add(1, SeqCst);
            }
        });
        let now = sample::now();
        let carried = ServerTraffic {
            active: 12,
            inactive: 30,
            persistent: 5,
            counts: Counts {
                connections: 228,
                packets_in: 1322,
                packets_out: 9,
                byte_rate_in: 1084,
                ..Counts::default()
            },
        };
        let reading = Arc::new(Reading {
            counts: carried.counts,
            servers: [("10.0.0.1:80".parse().unwrap(), carried)].into(),
        });
        web.1.traffic.note(now, Arc::clone(&reading));
        let old = sample::edit(sample::service("old", 0.5, &["a up pooled"]), |service| {
            service.source = Source::Saved {
                age: Duration::from_secs(60),
                read_at: now - Duration::from_secs(5),
                fault: None,
            };
            let config = Arc::make_mut(&mut service.config);
            config.delivery.forwarding = Forwarding::Masquerading;
            service.traffic.note(now, reading);
        });
        let mut snapshot = sample::snapshot([web, old]);
        snapshot.mode = Mode::DryRun;
        snapshot.config = sample::bgp(&["10.0.0.1", "2001:db8::1"]);
        let session = Session {
            state: SessionState::Established,
            ..Session::default()
        };
        snapshot.peers = Arc::new([(sample::ip("2001:db8::1").into(), session)].into());
        let (address, mut vip) = sample::vip("192.0.2.2", false, None);
        Arc::make_mut(&mut vip).announce = Err(Refusal::AddressMissing);
        snapshot
            .vips
            .extend([sample::vip("192.0.2.1", true, None), (address, vip)]);
        let text: String = Pages::new(Arc::new(snapshot), now).collect();
        let samples = samples(&text);
        for expected in [
            r#"plimsoll_mode{mode="dry-run"} 1"#,
            r#"plimsoll_alerts{alert="marked-down-but-pooled",severity="critical"} 1"#,
            r#"plimsoll_alerts{alert="stuck",severity="warning"} 1"#,
            r#"plimsoll_alerts{alert="session-down",severity="critical"} 0"#,
            r#"plimsoll_alerts{alert="dry-run",severity="warning"} 1"#,
            r#"plimsoll_service_servers{service="web"} 4"#,
            r#"plimsoll_service_servers_enabled{service="web"} 3"#,
            r#"plimsoll_service_servers_up{service="web"} 3"#,
            r#"plimsoll_service_servers_pooled{service="web"} 3"#,
            r#"plimsoll_service_servers_held{service="web",reason="depool-threshold"} 1"#,
            r#"plimsoll_service_servers_held{service="web",reason="depool-guard"} 1"#,
            r#"plimsoll_service_servers_held{service="web",reason="stale-catch-up"} 0"#,
            r#"plimsoll_service_servers_held{service="web",reason="names-unresolved"} 0"#,
            r#"plimsoll_service_info{service="web",vip="192.0.2.1"} 1"#,
            r#"plimsoll_service_guard_line{service="web"} 3"#,
            r#"plimsoll_service_servers_draining{service="web"} 1"#,
            r#"plimsoll_server_enabled{service="web",host="a"} 1"#,
            r#"plimsoll_server_enabled{service="web",host="c"} 0"#,
            r#"plimsoll_server_up{service="web",host="a"} 1"#,
            r#"plimsoll_server_up{service="web",host="b"} 0"#,
            r#"plimsoll_server_weight{service="web",host="a"} 10"#,
            r#"plimsoll_server_ipvs_weight{service="web",host="a"} 10"#,
            r#"plimsoll_server_draining_left_seconds{service="web",host="c"} 9"#,
            r#"plimsoll_server_kept_down_left_seconds{service="web",host="c"} 0"#,
            r#"plimsoll_server_kept_down{service="web",host="c",reason="flap-hold"} 1"#,
            r#"plimsoll_monitor_late_checks_total{service="web",host="b",monitor="proxy-fetch"} 2"#,
            r#"plimsoll_server_weight_share{service="web",host="c",by="slow-start"} 0.4"#,
            r#"plimsoll_monitor_load_faults_total{service="web",host="c",monitor="proxy-fetch"} 1"#,
            r#"plimsoll_service_connections_total{service="web"} 228"#,
            r#"plimsoll_service_packets_total{service="web",direction="in"} 1322"#,
            r#"plimsoll_service_packets_total{service="old",direction="out"} 9"#,
            r#"plimsoll_service_bytes_per_second{service="web",direction="in"} 1084"#,
            r#"plimsoll_server_open_connections{service="web",host="a",state="active"} 12"#,
            r#"plimsoll_server_open_connections{service="web",host="a",state="inactive"} 30"#,
            r#"plimsoll_server_connections_total{service="web",host="a"} 228"#,
            r#"plimsoll_server_packets_total{service="old",host="a",direction="out"} 9"#,
            r#"plimsoll_server_bytes_per_second{service="web",host="a",direction="in"} 1084"#,
            r#"plimsoll_server_stuck{service="web",host="c"} 1"#,
            r#"plimsoll_service_can_depool{service="web"} 0"#,
            r#"plimsoll_service_pooled_down_servers{service="web"} 1"#,
            r#"plimsoll_service_depool_threshold{service="web"} 0.5"#,
            r#"plimsoll_service_floor{service="web"} 2"#,
            r#"plimsoll_service_could_not_depool_total{service="web"} 7"#,
            r#"plimsoll_service_list_good{service="web"} 1"#,
            r#"plimsoll_service_list_revision{service="web"} 12"#,
            r#"plimsoll_service_list_applied_revision{service="web"} 11"#,
            r#"plimsoll_service_list_bad_entries{service="web"} 1"#,
            r#"plimsoll_ipvs_applied{service="web"} 1"#,
            r#"plimsoll_service_list_good{service="old"} 0"#,
            r#"plimsoll_service_list_saved_age_seconds{service="old"} 65"#,
            r#"plimsoll_service_list_bad_entries{service="old"} 0"#,
            r#"plimsoll_ipvs_repaired_total{service="web"} 3"#,
            r#"plimsoll_monitor_status{service="web",host="a",monitor="proxy-fetch"} 0"#,
            r#"plimsoll_monitor_status{service="web",host="b",monitor="proxy-fetch"} 0"#,
            r#"plimsoll_monitor_status{service="web",host="c",monitor="proxy-fetch"} 1"#,
            r#"plimsoll_monitor_up_transitions_total{service="web",host="a",monitor="proxy-fetch"} 4"#,
            r#"plimsoll_monitor_down_transitions_total{service="web",host="b",monitor="proxy-fetch"} 1"#,
            r#"plimsoll_monitor_down_results_total{service="web",host="b",monitor="proxy-fetch"} 2"#,
            r#"plimsoll_monitor_check_duration_seconds_sum{service="web",host="b",monitor="proxy-fetch"} 3.002"#,
            r#"plimsoll_monitor_check_duration_seconds_count{service="web",host="b",monitor="proxy-fetch"} 2"#,
            r#"plimsoll_monitor_check_duration_seconds_bucket{le="0.0025",service="web",host="b",monitor="proxy-fetch"} 1"#,
            r#"plimsoll_monitor_check_duration_seconds_bucket{le="1.0",service="web",host="b",monitor="proxy-fetch"} 1"#,
            r#"plimsoll_monitor_check_duration_seconds_bucket{le="+Inf",service="web",host="b",monitor="proxy-fetch"} 2"#,
            r#"plimsoll_monitor_certificate_expiry_timestamp_seconds{service="web",host="b",monitor="proxy-fetch"} 1800000000"#,
            "plimsoll_bgp_enabled 1",
            r#"plimsoll_bgp_session_established{local_asn="64600",peer="10.0.0.1"} 0"#,
            r#"plimsoll_bgp_session_established{local_asn="64600",peer="2001:db8::1"} 1"#,
            r#"plimsoll_vip_present{vip="192.0.2.2"} 0"#,
            r#"plimsoll_vip_announced{vip="192.0.2.1"} 1"#,
            r#"plimsoll_vip_announced{vip="192.0.2.2"} 0"#,
            r#"plimsoll_vip_refused{vip="192.0.2.2",reason="address-missing"} 1"#,
            r#"plimsoll_vip_condition{vip="192.0.2.2",condition="healthy"} 1"#,
            r#"plimsoll_vip_med{vip="192.0.2.1"} 10"#,
            r#"plimsoll_vip_peers_told{vip="192.0.2.1"} 0"#,
        ] {
            assert!(
                samples.contains(&expected),
                "{expected} is missing in\n{text}"
            );
        }
        // What is not counted, or not from disk, has no sample.
        assert!(!text.contains(r#"plimsoll_service_list_revision{service="old""#));
        assert!(!text.contains(r#"plimsoll_service_list_saved_age_seconds{service="web""#));
        assert!(!text.contains(r#"expiry_timestamp_seconds{service="web",host="a""#));
        assert!(!text.contains(r#"plimsoll_server_weight{service="web",host="e""#));
        assert!(!text.contains(r#"plimsoll_server_ipvs_weight{service="web",host="d""#));
        assert!(!text.contains(r#"plimsoll_vip_med{vip="192.0.2.2""#));
        // No result yet, no status.
        assert!(!text.contains(r#"plimsoll_monitor_status{service="web",host="d""#));
    }

    #[test]
    fn what_bgp_says() {
        let mut snapshot = sample::snapshot([]);
        sample::sessions(&mut snapshot);
        let text = all(snapshot);
        let samples = samples(&text);
        for expected in [
            r#"plimsoll_bgp_session_established{local_asn="64600",peer="fe80::1%eth1"} 0"#,
            r#"plimsoll_bgp_peer_disabled{peer="10.0.0.1"} 0"#,
            r#"plimsoll_bgp_peer_disabled{peer="fe80::1%eth1"} 1"#,
            r#"plimsoll_bgp_session_since_timestamp_seconds{peer="10.0.0.1"} 1767323045"#,
            r#"plimsoll_bgp_sessions_established_total{peer="10.0.0.1"} 2"#,
            r#"plimsoll_bgp_sessions_lost_total{peer="10.0.0.1"} 1"#,
            r#"plimsoll_bgp_messages_sent_total{peer="10.0.0.1",type="keepalive"} 4000"#,
            r#"plimsoll_bgp_messages_received_total{peer="10.0.0.1",type="route-refresh"} 1"#,
            r#"plimsoll_bgp_malformed_updates_total{peer="10.0.0.1"} 8"#,
            r#"plimsoll_bgp_prefixes_heard{peer="10.0.0.1",family="ipv4"} 6"#,
            r#"plimsoll_bgp_prefixes_heard{peer="10.0.0.1",family="ipv6"} 1"#,
            r#"plimsoll_bgp_over_maximum{peer="10.0.0.1",family="ipv4"} 1"#,
            r#"plimsoll_bgp_over_maximum{peer="10.0.0.1",family="ipv6"} 0"#,
            r#"plimsoll_bgp_routes_told{peer="10.0.0.1",family="ipv4"} 2"#,
            r#"plimsoll_bgp_routes_told{peer="10.0.0.1",family="ipv6"} 0"#,
            r#"plimsoll_bgp_last_notification_code{peer="10.0.0.1",direction="sent"} 6"#,
            r#"plimsoll_bgp_last_notification_subcode{peer="10.0.0.1",direction="sent"} 4"#,
            r#"plimsoll_bgp_last_notification_code{peer="10.0.0.1",direction="received"} 4"#,
            r#"plimsoll_bgp_hold_time_seconds{peer="10.0.0.1"} 30"#,
            r#"plimsoll_bgp_maximum_prefixes{peer="10.0.0.1"} 5"#,
            r#"plimsoll_bgp_clears_total{peer="10.0.0.1"} 1"#,
            r#"plimsoll_bgp_clears_total{peer="2001:db8::1"} 0"#,
            r#"plimsoll_vip_peers_told{vip="192.0.2.1"} 1"#,
            r#"plimsoll_vip_foreign_announcements{vip="192.0.2.1"} 1"#,
            r#"plimsoll_vip_foreign_announcements{vip="192.0.2.2"} 0"#,
        ] {
            assert!(
                samples.contains(&expected),
                "{expected} is missing in\n{text}"
            );
        }
        // Since when it is not established is nobody's figure, and what was never sent has no code.
        for absent in [
            r#"since_timestamp_seconds{peer="2001:db8::1""#,
            r#"notification_code{peer="2001:db8::1""#,
        ] {
            assert!(!text.contains(absent), "{absent} stands in\n{text}");
        }
    }

    #[test]
    fn pybals_names_for_what_pybal_has() {
        let mut snapshot = sample::snapshot([sample::service("web", 0.5, &["a up pooled"])]);
        let config = Arc::make_mut(&mut snapshot.config);
        config.metrics.pybal_names = true;
        let text = all(snapshot);
        let samples = samples(&text);
        for expected in [
            r#"pybal_service_servers_up{service="web"} 1"#,
            r#"pybal_monitor_status{service="web",host="a",monitor="ProxyFetch"} 1"#,
            r#"pybal_monitor_up_results_total{service="web",host="a",monitor="ProxyFetch"} 0"#,
            "pybal_bgp_enabled 0",
            r#"plimsoll_service_servers_up{service="web"} 1"#,
            r#"plimsoll_monitor_status{service="web",host="a",monitor="proxy-fetch"} 1"#,
            r#"plimsoll_service_servers_held{service="web",reason="depool-guard"} 0"#,
        ] {
            assert!(samples.contains(&expected), "{expected}\n{text}");
        }
        // Each of PyBal's is there by its own name and by ours.
        for name in PYBALS {
            for prefix in ["pybal", "plimsoll"] {
                assert!(text.contains(&format!("# TYPE {prefix}_{name} ")), "{name}");
            }
        }
    }

    #[test]
    fn pages_are_short_and_lose_nothing() {
        let hosts: Vec<String> = (0..20).map(|n| format!("cp{n} up pooled")).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let mut snapshot = sample::snapshot([]);
        let names = (0..1000).map(|n| format!("s{n}"));
        snapshot.services = names
            .map(|name| sample::service(&name, 0.5, &hosts))
            .collect();
        let pages: Vec<String> = Pages::new(Arc::new(snapshot), sample::now()).collect();
        assert!(pages.iter().all(|page| page.len() < 40 << 10));
        let text = pages.concat();
        let samples = samples(&text);
        let count = |name: &str| samples.iter().filter(|line| line.starts_with(name)).count();
        assert_eq!(count("plimsoll_service_servers{"), 1000);
        assert_eq!(count("plimsoll_service_could_not_depool_total{"), 1000);
        assert_eq!(count("plimsoll_monitor_status{"), 20_000);
        assert_eq!(count("plimsoll_monitor_down_transitions_total{"), 20_000);
    }
}
