//! The arithmetic behind a verdict: why a server is in its pool, why an address is announced. Each verdict is the
//! snapshot's own; here is only told what it follows from, condition by condition, in the order in which they are
//! decided by, and what happened of late to the same server or address, as its events tell it.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::bgp::{Known, Why};
use crate::config::{Needs, WithdrawWhen};
use crate::history::Record;
use crate::routing::Policy;
use crate::service::ServiceName;
use crate::snapshot::alert::Line;
use crate::snapshot::{Condition, Health, Held, Pooled, Refusal, Server, Service, Vip};

use super::View;
use super::bgp::NotAnnounced;
use super::services::{Counts, ServerDetail};
use super::vips::{VipState, told};

pub(super) fn server(view: &View<'_>, service: &str, host: &str) -> Result<String, String> {
    let (host, server) = view.server(service, host)?;
    let service = view.service(service)?;
    let conditions = server_conditions(server);
    Ok(super::body(&WhyServer {
        because: because(service, server, &conditions),
        conditions,
        counts: Counts::of(service),
        arithmetic: arithmetic(service),
        server: ServerDetail::of(view, service, host, server),
        // What is said of a server wherever it is listed names no service.
        history: view.lately(|event| {
            let of_service = event.service.as_deref();
            event.host.as_deref() == Some(host.as_str())
                && of_service.is_none_or(|name| name == service.config.name.as_str())
        }),
    }))
}

pub(super) fn vip(view: &View<'_>, name: &str) -> Result<String, String> {
    let vips = &view.snapshot.vips;
    let address = name.parse::<IpAddr>().ok();
    let found = address.and_then(|address| Some((address, vips.get(&address)?)));
    let Some((address, vip)) = found else {
        let none = super::none_such("address", name, vips.keys(), "/vips");
        return Err(format!("{none}; a server's is /why/SERVICE/HOST"));
    };
    Ok(super::body(&WhyVip::of(view, address, vip)))
}

#[derive(Serialize, JsonSchema)]
pub(super) struct WhyServer<'a> {
    /// In one line.
    because: String,
    /// What it takes to be wanted in the pool.
    conditions: Vec<Step>,
    counts: Counts,
    /// The same in one line.
    arithmetic: String,
    /// With the last result of each of its checks.
    server: ServerDetail<'a>,
    /// Its last events, the newest last; of more than these `/events` tells.
    history: Vec<Arc<Record>>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct WhyVip<'a> {
    /// In one line.
    because: String,
    /// What it takes to be announced, in the order in which it is decided.
    conditions: Vec<Step>,
    vip: VipState<'a>,
    /// Whether all of its services count, or the best one. Null: it has none that is configured.
    needs: Option<Needs>,
    withdraw_when: Option<WithdrawWhen>,
    up_delay_seconds: Option<f64>,
    services: Vec<Bearing<'a>>,
    peers: Vec<Towards>,
    /// Its last events, the newest last; of more than these `/events` tells.
    history: Vec<Arc<Record>>,
}

/// One condition.
#[derive(Serialize, JsonSchema)]
struct Step {
    name: &'static str,
    /// Null: it was not come to, since one before it does not hold.
    holds: Option<bool>,
    text: String,
}

/// What one service means to its address.
#[derive(Serialize, JsonSchema)]
struct Bearing<'a> {
    service: &'a str,
    condition: Condition,
    /// Null: it does not stand in the way.
    refusal: Option<Refusal>,
    refusal_text: Option<String>,
    /// Its address was announced before it came, and it has not been ready for that yet: till then it has no say.
    newcomer: bool,
    counts: Counts,
}

/// How one peer stands to the address.
#[derive(Serialize, JsonSchema)]
struct Towards {
    peer: String,
    told: bool,
    /// Null: it has been told.
    not_announced: Option<NotAnnounced>,
}

fn server_conditions(server: &Server) -> Vec<Step> {
    let step = |name, holds, yes: &str, no: String| Step {
        name,
        holds: Some(holds),
        text: if holds { yes.to_owned() } else { no },
    };
    let address = server
        .unresolved
        .as_deref()
        .unwrap_or("its name has not resolved yet");
    let up = checks_pass(server);
    let kept = server
        .kept_down
        .map(|why| format!("it is kept down: {why}"));
    vec![
        step(
            "listed",
            server.listed.is_some(),
            "the list names it",
            "the list does not name it".to_owned(),
        ),
        step(
            "enabled",
            server.enabled(),
            "its list enables it",
            "its list does not enable it".to_owned(),
        ),
        step(
            "address",
            server.address.is_some(),
            "it has an address",
            format!("it has no address: {}", Line(address)),
        ),
        step("checks", up, "its checks pass", failing(server)),
        step(
            "not-kept-down",
            kept.is_none(),
            "nothing keeps it down",
            kept.unwrap_or_default(),
        ),
    ]
}

/// One that is kept down is down whatever they say.
fn checks_pass(server: &Server) -> bool {
    let passes = |up: Option<bool>| up == Some(true);
    let mut counting = server.monitors.iter().filter(|monitor| monitor.depool);
    match server.kept_down {
        Some(_) => counting.all(|monitor| passes(monitor.result.as_ref().map(Result::is_ok))),
        None => server.health == Health::Up,
    }
}

fn failing(server: &Server) -> String {
    let counting = server.monitors.iter().filter(|monitor| monitor.depool);
    let said = counting.filter_map(|monitor| match &monitor.result {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(format!("{}: {}", monitor.kind, Line(why))),
        None => Some(format!("{}: no result yet", monitor.kind)),
    });
    said.collect::<Vec<_>>().join(", ")
}

/// `floor = 4 listed × 0.5 = 2; 1 wanted (enabled, with an address, up), 2 pooled, of them 1 held`
fn arithmetic(service: &Service) -> String {
    let Counts {
        depool_threshold,
        listed,
        floor,
        wanted,
        pooled,
        held,
        guard,
        ..
    } = Counts::of(service);
    let mut text = format!(
        "floor = {listed} listed × {depool_threshold} = {floor}; \
         {wanted} wanted (enabled, with an address, up), {pooled} pooled, of them {held} held"
    );
    if let Some(guard) = guard {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "; depool-guard: {} of {} must stay",
            guard.line, guard.size
        );
    }
    text
}

fn because(service: &Service, server: &Server, conditions: &[Step]) -> String {
    let against = || {
        let steps = conditions.iter().filter(|step| step.holds == Some(false));
        let texts: Vec<&str> = steps.map(|step| step.text.as_str()).collect();
        texts.join("; ")
    };
    match server.pooled {
        Pooled::Yes => "pooled: it is enabled, has an address and passes its checks".to_owned(),
        Pooled::No if server.draining.is_some() => {
            format!("not pooled, its open connections may end: {}", against())
        }
        Pooled::No => format!("not pooled: {}", against()),
        Pooled::Held(why) => {
            let line = match (why, service.guard) {
                (Held::DepoolThreshold, _) => {
                    format!("the pool would sink below its floor of {}", service.floor)
                }
                (Held::DepoolGuard | Held::StaleCatchUp, Some(guard)) => format!(
                    "the change would leave fewer than {} of {} servers",
                    guard.line, guard.size
                ),
                (Held::DepoolGuard | Held::StaleCatchUp, None) => {
                    "the change would leave too few servers".to_owned()
                }
                (Held::NamesUnresolved, _) => {
                    "IPVS had it, and a listed server without an address may be this one".to_owned()
                }
            };
            match against() {
                against if against.is_empty() => format!("held by {why}: {line}"),
                against => format!("held by {why}: {line}, though {against}"),
            }
        }
    }
}

impl<'a> WhyVip<'a> {
    fn of(view: &View<'a>, address: IpAddr, vip: &'a Vip) -> WhyVip<'a> {
        let services = vip.services.iter();
        let services: Vec<&Service> = services
            .filter_map(|name| view.snapshot.services.get(name).map(|service| &**service))
            .collect();
        let announce = services.first().map(|service| &service.config.announce);
        WhyVip {
            because: match &vip.announce {
                Ok(told) if *told.condition != Policy::default() => {
                    "announced, but made worse by the attributes of its condition".to_owned()
                }
                Ok(_) => "announced: nothing stands in the way".to_owned(),
                Err(refusal) => format!("not announced: {refusal}"),
            },
            conditions: vip_conditions(vip),
            vip: VipState::of(address, vip, told(view.snapshot).get(&address)),
            needs: announce.map(|announce| announce.services),
            withdraw_when: announce.map(|announce| announce.withdraw_when),
            up_delay_seconds: announce.map(|announce| announce.up_delay.as_secs_f64()),
            services: services.into_iter().map(Bearing::of).collect(),
            history: view.lately(|event| event.vip.as_deref() == Some(&*address.to_string())),
            peers: Known::all(view.snapshot)
                .map(|known| Towards::of(&known, address, vip))
                .collect(),
        }
    }
}

/// The conditions of an announcement, in the order in which they are decided, and the refusals that each stands for.
const STEPS: &[(&str, &str, &[Refusal])] = &[
    (
        "bgp",
        "BGP is configured, and this is no dry run",
        &[Refusal::NoBgp],
    ),
    (
        "service",
        "a service of it is configured",
        &[Refusal::Retiring],
    ),
    (
        "announce",
        "the configuration wants it announced",
        &[Refusal::NotConfigured],
    ),
    (
        "running",
        "the daemon is not told to end",
        &[Refusal::Stopping],
    ),
    (
        "services",
        "its services have lists, first checks, somebody pooled, and are in the kernel",
        &[
            Refusal::NoServerList,
            Refusal::NotChecked,
            Refusal::NothingPooled,
            Refusal::NotApplied,
        ],
    ),
    (
        "present",
        "the address is on this host",
        &[Refusal::AddressMissing],
    ),
    (
        "withdraw-when",
        "its condition is good enough for withdraw-when",
        &[Refusal::Degraded, Refusal::Failed],
    ),
    (
        "up-delay",
        "it has been well for up-delay",
        &[Refusal::UpDelay],
    ),
];

fn vip_conditions(vip: &Vip) -> Vec<Step> {
    let refusal = vip.announce.as_ref().err();
    let stands = |refusals: &[Refusal]| refusal.is_some_and(|refusal| refusals.contains(refusal));
    let first = STEPS.iter().position(|(.., refusals)| stands(refusals));
    let steps = STEPS.iter().enumerate();
    steps
        .map(|(at, (name, text, _))| Step {
            name,
            holds: match first {
                Some(first) if at > first => None,
                Some(first) => Some(at < first),
                None => Some(true),
            },
            text: match refusal.filter(|_| first == Some(at)) {
                Some(refusal) => refusal.to_string(),
                None => (*text).to_owned(),
            },
        })
        .collect()
}

impl Bearing<'_> {
    fn of(service: &Service) -> Bearing<'_> {
        Bearing {
            service: ServiceName::as_str(&service.config.name),
            condition: service.condition,
            refusal: service.refusal,
            refusal_text: service.refusal.map(|why| why.to_string()),
            newcomer: service.newcomer,
            counts: Counts::of(service),
        }
    }
}

impl Towards {
    fn of(known: &Known<'_>, address: IpAddr, vip: &Vip) -> Towards {
        let mut routes = known
            .session
            .into_iter()
            .flat_map(|session| &session.routes);
        let told = routes.any(|(prefix, route)| route.address(prefix) == address);
        let why = || Why::of(known, address, vip.announce.as_ref());
        Towards {
            peer: known.id.to_string(),
            told,
            not_announced: (!told)
                .then(|| NotAnnounced::of(address, vip.prefix_of(address), why())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use std::sync::Arc;

    use serde_json::{Value, json};

    use crate::api::Now;
    use crate::history::History;
    use crate::snapshot::{Guard, Snapshot, sample};

    use super::*;

    fn view(snapshot: &Snapshot) -> View<'_> {
        let now = Now {
            monotonic: sample::now(),
            calendar: sample::at(0),
        };
        static NOTHING: LazyLock<History> = LazyLock::new(|| History::new(sample::at(0)));
        let history = &*NOTHING;
        View {
            snapshot,
            now,
            history,
        }
    }

    fn parse(body: Result<String, String>) -> Value {
        serde_json::from_str(&body.unwrap()).unwrap()
    }

    #[test]
    fn each_verdict_of_a_server_is_told_from_what_it_follows() {
        let servers = [
            "a up pooled",
            "b held",
            "c disabled up guarded",
            "d",
            "e unknown held",
            "f gone up late",
        ];
        let web = sample::edit(sample::service("web", 0.5, &servers), |web| {
            web.floor = 3;
            web.guard = Some(Guard { size: 6, line: 3 });
            let servers = Arc::make_mut(&mut web.servers);
            let d = servers.get_mut("d").unwrap();
            (d.address, d.unresolved) = (None, Some("no such\nname".into()));
        });
        let snapshot = sample::snapshot([web]);
        let view = view(&snapshot);
        for (host, because) in [
            (
                "a",
                "pooled: it is enabled, has an address and passes its checks",
            ),
            (
                "b",
                "held by depool-threshold: the pool would sink below its floor of 3, \
                 though proxy-fetch: connection refused",
            ),
            (
                "c",
                "held by depool-guard: the change would leave fewer than 3 of 6 servers, \
                 though its list does not enable it",
            ),
            (
                "d",
                "not pooled: it has no address: no such, name; proxy-fetch: connection refused",
            ),
            (
                "e",
                "held by depool-threshold: the pool would sink below its floor of 3, \
                 though proxy-fetch: no result yet",
            ),
            (
                "f",
                "held by stale-catch-up: the change would leave fewer than 3 of 6 servers, \
                 though the list does not name it; its list does not enable it",
            ),
        ] {
            let why = parse(server(&view, "web", host));
            assert_eq!(why["because"], because, "{host}");
            assert_eq!(why["server"]["host"], host);
        }
        let why = parse(server(&view, "web", "d"));
        let arithmetic = "floor = 5 listed × 0.5 = 3; 1 wanted (enabled, with an address, up), \
                          5 pooled, of them 4 held; depool-guard: 3 of 6 must stay";
        assert_eq!(why["arithmetic"], arithmetic);
        let holds: Vec<(&str, &Value)> = (why["conditions"].as_array().unwrap().iter())
            .map(|step| (step["name"].as_str().unwrap(), &step["holds"]))
            .collect();
        let (yes, no) = (json!(true), json!(false));
        assert_eq!(
            holds,
            [
                ("listed", &yes),
                ("enabled", &yes),
                ("address", &no),
                ("checks", &no),
                ("not-kept-down", &yes),
            ]
        );
        for (service, host, error) in [
            ("none", "a", "No service is called \"none\"; there are web"),
            (
                "web",
                "x",
                "No server of web is called \"x\"; there are a, b, c, d, e, f",
            ),
        ] {
            assert_eq!(server(&view, service, host), Err(error.to_owned()));
        }
    }

    #[test]
    fn an_address_is_announced_if_all_conditions_hold() {
        let mut snapshot = sample::snapshot([sample::service("web", 0.5, &["a up pooled"])]);
        sample::sessions(&mut snapshot);
        let why = parse(vip(&view(&snapshot), "192.0.2.1"));
        assert_eq!(why["because"], "announced: nothing stands in the way");
        assert!(
            why["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .all(|step| step["holds"] == true)
        );
        assert_eq!(why["vip"]["told"], json!(["10.0.0.1"]));
        assert_eq!(why["services"][0]["service"], "web");
        let told = |peer: usize| {
            (
                &why["peers"][peer]["told"],
                &why["peers"][peer]["not_announced"]["why"],
            )
        };
        assert_eq!(told(0), (&json!(true), &Value::Null));
        assert_eq!(told(1), (&json!(false), &json!("no-session")));

        // Each refusal has its place, and what is decided after it is not spoken of.
        let refusals = STEPS.iter().flat_map(|(.., refusals)| *refusals);
        for refusal in refusals {
            let refused = Arc::make_mut(snapshot.vips.get_mut(&sample::ip("192.0.2.1")).unwrap());
            refused.announce = Err(*refusal);
            let why = parse(vip(&view(&snapshot), "192.0.2.1"));
            assert_eq!(why["because"], format!("not announced: {refusal}"));
            let steps = why["conditions"].as_array().unwrap();
            let first = steps.iter().position(|step| step["holds"] != true).unwrap();
            assert_eq!(steps[first]["holds"], false);
            assert_eq!(steps[first]["text"], refusal.to_string());
            assert!(
                steps[first + 1..]
                    .iter()
                    .all(|step| step["holds"].is_null())
            );
        }
        let error = vip(&view(&snapshot), "web").unwrap_err();
        assert!(
            error.ends_with("; a server's is /why/SERVICE/HOST"),
            "{error}"
        );
        assert!(error.contains("there are 192.0.2.1, 192.0.2.2"), "{error}");
    }
}
