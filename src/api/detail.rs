//! What PyBal has no words for, under `/services`: where a list comes from and as of when it is, what holds
//! a server, and what its operator said. PyBal's own answers, under `/pools`, stay as they are.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Instant;

use serde::{Serialize, Serializer};

use crate::service::{Host, ServiceName, Weight};
use crate::snapshot::alert::{Age, Line};
use crate::snapshot::{
    Condition, Guard, Health, Held, KeptDown, Pooled, Scaled, Server, Service, Snapshot, Source,
};

use super::accept::Form;
use super::checks::CheckState;
use super::json::json;
use super::traffic::Traffic;

pub(super) fn services(snapshot: &Snapshot, form: Form, now: Instant) -> String {
    let services = snapshot.services.iter();
    let summaries = services.map(|(name, service)| (name, Summary::of(service, now)));
    match form {
        Form::Json => json(&summaries.collect::<BTreeMap<&ServiceName, Summary<'_>>>()),
        Form::Text => summaries
            .map(|(name, summary)| format!("{name}:\t{summary}\n"))
            .collect(),
    }
}

pub(super) fn service(service: &Service, form: Form, now: Instant) -> String {
    let servers = service.servers.iter();
    let detail = Detail {
        summary: Summary::of(service, now),
        floor: service.floor,
        guard: service.guard,
        traffic: Traffic::of_service(service, now),
        bad_entries: &service.list_faults,
        servers: servers
            .map(|(host, server)| (host, State::of(service, host, server, now)))
            .collect(),
    };
    match form {
        Form::Json => json(&detail),
        Form::Text => detail.to_string(),
    }
}

pub(super) fn server(
    service: &Service,
    host: &Host,
    server: &Server,
    form: Form,
    now: Instant,
) -> String {
    let state = State::of(service, host, server, now);
    match form {
        Form::Json => json(&state),
        Form::Text => {
            let traffic = state.traffic.iter();
            let traffic = traffic.map(|traffic| format!("traffic:\t{traffic}\n"));
            let checks = state.checks.iter().map(|check| format!("{check}\n"));
            let lines = traffic.chain(checks);
            format!("{state}\n{}", lines.collect::<String>())
        }
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    condition: Condition,
    /// Servers that the list names, and those in IPVS.
    listed: usize,
    pooled: usize,
    list: List<'a>,
}

impl Summary<'_> {
    fn of(service: &Service, now: Instant) -> Summary<'_> {
        let servers = service.servers.values();
        Summary {
            condition: service.condition,
            listed: service.size,
            pooled: servers.filter(|s| s.pooled.in_ipvs()).count(),
            list: List {
                state: match service.source {
                    Source::Waiting => "waiting",
                    Source::Good => "good",
                    Source::Saved { .. } => "saved",
                    Source::Failed(_) => "failed",
                },
                age_seconds: service.source.saved_age(now).map(|age| age.as_secs()),
                fault: service.source.fault().map(|fault| &**fault),
                revision: service.revision,
                applied_revision: service.applied_revision,
                bad_entries: service.list_faults.len(),
            },
        }
    }
}

#[derive(Serialize)]
struct List<'a> {
    state: &'static str,
    /// Of one that was saved.
    age_seconds: Option<u64>,
    fault: Option<&'a str>,
    revision: Option<u64>,
    applied_revision: Option<u64>,
    bad_entries: usize,
}

#[derive(Serialize)]
struct Detail<'a> {
    summary: Summary<'a>,
    floor: usize,
    /// `None`: nobody is held by it.
    guard: Option<Guard>,
    /// `None`: IPVS has not been read of late.
    traffic: Option<Traffic>,
    bad_entries: &'a BTreeMap<String, String>,
    servers: BTreeMap<&'a Host, State<'a>>,
}

#[derive(Serialize)]
struct State<'a> {
    #[serde(skip)]
    server: &'a Server,
    enabled: bool,
    health: Health,
    /// Why it is down whatever its checks say.
    kept_down: Option<Kept>,
    pooled: bool,
    /// Not pooled, but for so many seconds more in IPVS with weight 0, if its connections do not end before.
    draining: Option<u64>,
    held: Option<Held>,
    /// What an operator says in place of its list.
    overridden: Option<String>,
    /// The list's; `None`: it is off the list.
    weight: Option<Weight>,
    /// What IPVS shall have; `None`: it shall not have the server.
    ipvs_weight: Option<Weight>,
    /// Why that is not the list's.
    scaled: Vec<By>,
    address: Option<IpAddr>,
    unresolved: Option<&'a str>,
    reason: Option<&'a str>,
    until: Option<&'a str>,
    confirmed: bool,
    /// That it takes no connection up, in figures.
    stuck: Option<&'a str>,
    traffic: Option<Traffic>,
    checks: Vec<CheckState<'a>>,
}

#[derive(Serialize)]
struct Kept {
    #[serde(serialize_with = "as_text")]
    why: KeptDown,
    /// How much longer.
    seconds: u64,
}

#[derive(Serialize)]
struct By {
    #[serde(serialize_with = "as_text")]
    by: Scaled,
    percent: u32,
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl State<'_> {
    fn of<'a>(service: &Service, host: &Host, server: &'a Server, now: Instant) -> State<'a> {
        let note = server.note.as_deref();
        let in_ipvs = service.destination(host, server);
        let in_ipvs = in_ipvs.filter(|_| server.pooled.in_ipvs() || server.draining.is_some());
        State {
            server,
            enabled: server.enabled(),
            health: server.health,
            kept_down: server.kept_down.map(|why| Kept {
                why,
                seconds: why.rest(now).as_secs(),
            }),
            pooled: server.pooled.in_ipvs(),
            draining: server
                .draining
                .map(|until| until.saturating_duration_since(now).as_secs()),
            held: match server.pooled {
                Pooled::Held(why) => Some(why),
                Pooled::No | Pooled::Yes => None,
            },
            overridden: server.overridden.map(|(action, _)| action.to_string()),
            weight: server.listed.map(|listed| listed.weight),
            ipvs_weight: in_ipvs.map(|to| to.weight),
            scaled: server.scaled.iter().map(By::of).collect(),
            address: server.address,
            unresolved: server.unresolved.as_deref(),
            reason: note.and_then(|note| note.reason.as_deref()),
            until: note.and_then(|note| note.until.as_deref()),
            confirmed: note.is_some_and(|note| note.confirmed),
            stuck: server.stuck.as_deref(),
            traffic: Traffic::of_server(service, host, server, now),
            checks: server.monitors.iter().map(CheckState::of).collect(),
        }
    }
}

impl By {
    fn of(by: &Scaled) -> By {
        By {
            by: *by,
            percent: by.percent(),
        }
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let condition = match self.condition {
            Condition::Healthy => "healthy",
            Condition::Degraded => "degraded",
            Condition::Failed => "failed",
        };
        let (listed, pooled, list) = (self.listed, self.pooled, &self.list);
        write!(f, "{condition}, {pooled} pooled of {listed}, list {list}")
    }
}

/// `good, revision 12, applied 11, 2 bad entries`
impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.state)?;
        if let Some(seconds) = self.age_seconds {
            write!(f, " {} ago", Age(std::time::Duration::from_secs(seconds)))?;
        }
        if let Some(revision) = self.revision {
            write!(f, ", revision {revision}")?;
            match self.applied_revision {
                Some(applied) => write!(f, ", applied {applied}")?,
                None => f.write_str(", none applied")?,
            }
        }
        if self.bad_entries > 0 {
            write!(f, ", bad entries: {}", self.bad_entries)?;
        }
        self.fault
            .map_or(Ok(()), |fault| write!(f, ", fault: {}", Line(fault)))
    }
}

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary)?;
        write!(f, "floor {}", self.floor)?;
        if let Some(Guard { size, line }) = self.guard {
            write!(f, ", guard {line} of {size}")?;
        }
        f.write_char('\n')?;
        if let Some(traffic) = &self.traffic {
            writeln!(f, "traffic: {traffic}")?;
        }
        for (key, fault) in self.bad_entries {
            writeln!(f, "bad entry {}: {}", Line(key), Line(fault))?;
        }
        f.write_char('\n')?;
        for (host, state) in &self.servers {
            writeln!(f, "{host}:\t{state}")?;
        }
        Ok(())
    }
}

/// `enabled/up/pooled, weight 10, in IPVS 4, slow-start 40 %`, `enabled/down/not pooled, flap-hold for 1m, weight 10`,
/// `disabled/up/not pooled, draining for 4m, weight 10, in IPVS 0`,
/// `disabled/down/pooled, weight 10, held: depool-guard, reason: disk T1, proxy-fetch: connection refused`
impl fmt::Display for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.server)?;
        if let Some(Kept { why, seconds }) = &self.kept_down {
            let rest = Age(std::time::Duration::from_secs(*seconds));
            write!(f, ", {why} for {rest}")?;
        }
        if let Some(seconds) = self.draining {
            let rest = Age(std::time::Duration::from_secs(seconds));
            write!(f, ", draining for {rest}")?;
        }
        if let Some(weight) = self.weight {
            write!(f, ", weight {weight}")?;
        }
        if self.ipvs_weight != self.weight
            && let Some(weight) = self.ipvs_weight
        {
            write!(f, ", in IPVS {weight}")?;
        }
        for By { by, percent } in &self.scaled {
            write!(f, ", {by} {percent} %")?;
        }
        if let Some(held) = self.held {
            write!(f, ", held: {held}")?;
        }
        for (what, said) in [
            ("overridden", self.overridden.as_deref()),
            ("reason", self.reason),
            ("until", self.until),
            ("unresolved", self.unresolved),
        ] {
            if let Some(said) = said {
                write!(f, ", {what}: {}", Line(said))?;
            }
        }
        if self.confirmed {
            f.write_str(", confirmed")?;
        }
        if let Some(Traffic {
            active, inactive, ..
        }) = &self.traffic
        {
            write!(f, ", active {active}, inactive {inactive}")?;
        }
        if let Some(why) = self.stuck {
            write!(f, ", takes no connection up: {why}")?;
        }
        self.checks
            .iter()
            .filter_map(CheckState::failing)
            .try_for_each(|(monitor, reason)| write!(f, ", {monitor}: {}", Line(reason)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use crate::service::{Listed, Note};
    use crate::snapshot::sample;
    use crate::snapshot::traffic::{Reading, ServerTraffic};

    use super::*;

    fn held() -> (ServiceName, Arc<Service>) {
        let servers = [
            "a up pooled",
            "b disabled up guarded",
            "c gone up late",
            "d",
        ];
        sample::edit(sample::service("web", 0.5, &servers), |s| {
            s.floor = 2;
            s.guard = Some(Guard { size: 4, line: 3 });
            s.revision = Some(12);
            s.applied_revision = Some(11);
            let fault = "weight is\n-1".to_owned();
            s.list_faults = Arc::new([("x/y/z/e".to_owned(), fault)].into());
            let servers = Arc::make_mut(&mut s.servers);
            let b = servers.get_mut("b").unwrap();
            b.listed = Some(Listed {
                enabled: false,
                weight: Weight::new(0).unwrap(),
            });
            b.note = Some(Arc::new(Note {
                reason: Some("disk\r\nT1".into()),
                until: Some("2026-01-01T00:00:00Z".into()),
                confirmed: false,
            }));
            let d = servers.get_mut("d").unwrap();
            d.note = Some(Arc::new(Note {
                confirmed: true,
                ..Note::default()
            }));
            (d.address, d.unresolved) = (None, Some("no such name".into()));
        })
    }

    #[test]
    fn in_text() {
        let (name, web) = held();
        let now = sample::now();
        assert_eq!(
            service(&web, Form::Text, now),
            "healthy, 3 pooled of 3, list good, revision 12, applied 11, bad entries: 1\n\
             floor 2, guard 3 of 4\n\
             bad entry x/y/z/e: weight is, -1\n\
             \n\
             a:\tenabled/up/pooled, weight 10\n\
             b:\tdisabled/up/pooled, weight 0, in IPVS 10, held: depool-guard, \
             reason: disk , T1, until: 2026-01-01T00:00:00Z\n\
             c:\tdisabled/up/pooled, in IPVS 10, held: stale-catch-up\n\
             d:\tenabled/down/not pooled, weight 10, unresolved: no such name, confirmed, \
             proxy-fetch: connection refused\n"
        );
        let b = server(
            &web,
            &"b".parse().unwrap(),
            &web.servers["b"],
            Form::Text,
            now,
        );
        let end = "until: 2026-01-01T00:00:00Z\nproxy-fetch:\tup\n";
        assert!(b.ends_with(end), "{b}");

        let saved = sample::edit(sample::service("api", 0.5, &["a up pooled"]), |s| {
            s.source = Source::Saved {
                age: Duration::from_secs(60),
                read_at: now,
                fault: Some("timed out".into()),
            };
            s.revision = Some(9);
        });
        let later = now + Duration::from_secs(30);
        let all = sample::snapshot([(name, web), saved]);
        assert_eq!(
            services(&all, Form::Text, later),
            "api:\thealthy, 1 pooled of 1, list saved 1m 30s ago, revision 9, none applied, \
             fault: timed out\n\
             web:\thealthy, 3 pooled of 3, list good, revision 12, applied 11, bad entries: 1\n"
        );
    }

    #[test]
    fn whose_weight_is_scaled_and_who_is_kept_down() {
        let now = sample::now();
        let servers = ["a up pooled", "b"];
        let (_, web) = sample::edit(sample::service("web", 0.5, &servers), |s| {
            let servers = Arc::make_mut(&mut s.servers);
            servers.get_mut("a").unwrap().scaled = vec![
                Scaled::Load { percent: 70 },
                Scaled::SlowStart { percent: 40 },
            ];
            let destinations = Arc::make_mut(s.destinations.as_mut().unwrap());
            let to = Weight::new(3).unwrap().into();
            destinations.insert("10.0.0.1:80".parse().unwrap(), to);
            let until = now + Duration::from_secs(90);
            servers.get_mut("b").unwrap().kept_down = Some(KeptDown::FlapHold { until });
        });
        let text = |host: &str| {
            server(
                &web,
                &host.parse().unwrap(),
                &web.servers[host],
                Form::Text,
                now,
            )
        };
        let a = "enabled/up/pooled, weight 10, in IPVS 3, load 70 %, slow-start 40 %\n";
        assert!(text("a").starts_with(a), "{}", text("a"));
        let b = "enabled/down/not pooled, flap-hold for 1m 30s, weight 10, proxy-fetch: ";
        assert!(text("b").starts_with(b), "{}", text("b"));
        let whole: Value = serde_json::from_str(&service(&web, Form::Json, now)).unwrap();
        let scaled = json!([
            { "by": "load", "percent": 70 },
            { "by": "slow-start", "percent": 40 },
        ]);
        assert_eq!(whole["servers"]["a"]["scaled"], scaled);
        assert_eq!(whole["servers"]["a"]["kept_down"], Value::Null);
        let kept_down = json!({ "why": "flap-hold", "seconds": 90 });
        assert_eq!(whole["servers"]["b"]["kept_down"], kept_down);
    }

    #[test]
    fn what_is_counted_and_who_is_stuck() {
        let now = sample::now();
        let servers = ["a up pooled", "b up pooled"];
        let (_, web) = sample::edit(sample::service("web", 0.5, &servers), |s| {
            let b = Arc::make_mut(&mut s.servers).get_mut("b").unwrap();
            b.stuck = Some("46 connections in 1m 22s, 1.0 packets each".into());
            let traffic = |active, inactive| ServerTraffic {
                active,
                inactive,
                ..ServerTraffic::default()
            };
            let servers = [
                ("10.0.0.1:80", traffic(12, 30)),
                ("10.0.0.2:80", traffic(34, 0)),
            ];
            let servers = servers.map(|(at, traffic)| (at.parse().unwrap(), traffic));
            let reading = Reading {
                servers: servers.into(),
                ..Reading::default()
            };
            s.traffic.note(now, Arc::new(reading));
        });
        let nothing = "persistent 0; in all 0 connections, in 0 packets of 0 bytes; \
                       a second 0 connections, in 0 packets of 0 bytes";
        assert_eq!(
            service(&web, Form::Text, now),
            format!(
                "healthy, 2 pooled of 2, list good\n\
                 floor 0\n\
                 traffic: active 46, inactive 30, {nothing}\n\
                 \n\
                 a:\tenabled/up/pooled, weight 10, active 12, inactive 30\n\
                 b:\tenabled/up/pooled, weight 10, active 34, inactive 0, \
                 takes no connection up: 46 connections in 1m 22s, 1.0 packets each\n"
            )
        );
        let of = |host: &str, form| {
            let server = &web.servers[host];
            super::server(&web, &host.parse().unwrap(), server, form, now)
        };
        let a = format!(
            "enabled/up/pooled, weight 10, active 12, inactive 30\n\
             traffic:\tactive 12, inactive 30, {nothing}\n\
             proxy-fetch:\tup\n"
        );
        assert_eq!(of("a", Form::Text), a);
        let b: Value = serde_json::from_str(&of("b", Form::Json)).unwrap();
        assert_eq!(b["stuck"], "46 connections in 1m 22s, 1.0 packets each");
        assert_eq!(b["traffic"]["active"], 34);
    }

    #[test]
    fn in_json() {
        let (name, web) = held();
        let now = sample::now();
        let parse = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
        let b = json!({
            "enabled": false, "health": "up", "kept_down": null, "pooled": true,
            "held": "depool-guard", "weight": 0, "ipvs_weight": 10, "scaled": [], "address": "10.0.0.2", "unresolved": null,
            "reason": "disk\r\nT1", "until": "2026-01-01T00:00:00Z", "confirmed": false,
            "draining": null,
            "overridden": null,
            "stuck": null, "traffic": null,
            "checks": [{
                "monitor": "proxy-fetch", "up": true, "reason": null, "depool": true, "load": null,
                "last": null,
            }],
        });
        assert_eq!(
            parse(server(
                &web,
                &"b".parse().unwrap(),
                &web.servers["b"],
                Form::Json,
                now
            )),
            b
        );
        let summary = json!({
            "condition": "healthy", "listed": 3, "pooled": 3,
            "list": {
                "state": "good", "age_seconds": null, "fault": null,
                "revision": 12, "applied_revision": 11, "bad_entries": 1,
            },
        });
        let whole = parse(service(&web, Form::Json, now));
        assert_eq!(whole["servers"]["b"], b);
        assert_eq!(whole["servers"]["c"]["held"], "stale-catch-up");
        assert_eq!(whole["servers"]["c"]["weight"], Value::Null);
        assert_eq!(whole["servers"]["d"]["confirmed"], true);
        assert_eq!(whole["summary"], summary);
        assert_eq!(whole["guard"], json!({"size": 4, "line": 3}));
        assert_eq!(whole["floor"], 2);
        assert_eq!(whole["bad_entries"], json!({"x/y/z/e": "weight is\n-1"}));
        let all = sample::snapshot([(name, web)]);
        assert_eq!(
            parse(services(&all, Form::Json, now)),
            json!({"web": summary})
        );
    }
}
