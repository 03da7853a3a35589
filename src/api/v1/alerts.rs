//! What an operator must know.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::routing::session::{Hint, Untold};
use crate::service::{Family, Host, ServiceName};
use crate::snapshot::Guard;
use crate::snapshot::alert::{Alert, Severity};

use super::View;

pub(super) fn all(view: &View<'_>) -> String {
    let alerts = view.snapshot.alerts(view.now.monotonic);
    super::body(&Alerts {
        status: match alerts.iter().map(Alert::severity).max() {
            None => Status::Ok,
            Some(Severity::Warning) => Status::Warning,
            Some(Severity::Critical) => Status::Critical,
        },
        alerts: alerts.iter().map(Told::of).collect(),
    })
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Alerts {
    /// That of the worst.
    status: Status,
    alerts: Vec<Told>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Ok,
    Warning,
    Critical,
}

/// One condition.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Alert")]
struct Told {
    /// What the condition is called; a name never changes its meaning.
    name: &'static str,
    severity: Severity,
    /// One line, as an operator would say it.
    text: String,
    #[serde(flatten)]
    of: Subject,
}

/// What it is about; what an alert has nothing to do with is null, or empty.
#[derive(Default, Serialize, JsonSchema)]
struct Subject {
    service: Option<String>,
    hosts: Vec<String>,
    addresses: Vec<IpAddr>,
    peer: Option<String>,
    /// Of the program.
    part: Option<String>,
    /// A monitor's type.
    monitor: Option<String>,
    /// The key of a list's entry.
    key: Option<String>,
    family: Option<Family>,
    /// What was said by whoever could not do it, or ordered it; of several hosts, that of the first.
    fault: Option<String>,
    /// What the way a session fails looks like.
    hint: Option<Hint>,
    /// Why a peer is not told of an address.
    untold: Option<Untold>,
    /// How many there are of what it is about, where not all of them are named.
    count: Option<usize>,
    /// The line that holds servers.
    guard: Option<Guard>,
    /// How many would be left that get new connections.
    left: Option<usize>,
    maximum_prefixes: Option<u32>,
}

impl Told {
    fn of(alert: &Alert) -> Told {
        Told {
            name: alert.name(),
            severity: alert.severity(),
            text: alert.to_string(),
            of: Subject::of(alert),
        }
    }
}

impl Subject {
    fn of(alert: &Alert) -> Subject {
        match alert {
            Alert::MarkedDownButPooled { service, hosts }
            | Alert::HeldByGuard { service, hosts }
            | Alert::DrainHeld { service, hosts }
            | Alert::Unidentified { service, hosts } => Subject::hosts(service, hosts),
            Alert::TooSmall { service }
            | Alert::NothingPooled { service }
            | Alert::NothingWeighted { service } => Subject::service(service),
            Alert::StaleCatchUp {
                service,
                hosts,
                left,
                guard,
                pool: _,
            } => Subject {
                guard: Some(*guard),
                left: Some(*left),
                ..Subject::hosts(service, hosts)
            },
            Alert::ListFailed {
                service,
                fault,
                kept: _,
            }
            | Alert::NotApplied {
                service,
                fault,
                holds: _,
            } => Subject {
                fault: Some(fault.to_string()),
                ..Subject::service(service)
            },
            Alert::SavedLists {
                services,
                oldest: _,
            } => Subject {
                count: Some(*services),
                ..Subject::default()
            },
            Alert::BadEntry {
                service,
                key,
                fault,
            } => Subject {
                key: Some(key.clone()),
                fault: Some(fault.clone()),
                ..Subject::service(service)
            },
            Alert::MoreBadEntries { service, count } => Subject {
                count: Some(*count),
                ..Subject::service(service)
            },
            Alert::Unresolved {
                service,
                hosts,
                fault,
                stale: _,
            }
            | Alert::Stuck {
                service,
                hosts,
                figures: fault,
            } => Subject {
                fault: Some(fault.to_string()),
                ..Subject::hosts(service, hosts)
            },
            Alert::OnlyTold {
                service,
                monitor,
                hosts,
                reason,
            } => Subject {
                monitor: Some((*monitor).to_owned()),
                fault: Some(reason.to_string()),
                ..Subject::hosts(service, hosts)
            },
            Alert::Overridden { overruled, by } => Subject {
                service: overruled.service.as_ref().map(ToString::to_string),
                hosts: vec![overruled.host.to_string()],
                fault: by.note.reason.as_deref().map(str::to_owned),
                ..Subject::default()
            },
            Alert::AddressMissing { .. }
            | Alert::AddressFault { .. }
            | Alert::SessionDown { .. }
            | Alert::SessionDisabled { .. }
            | Alert::NotTold { .. }
            | Alert::OverMaximum { .. }
            | Alert::Trouble { .. }
            | Alert::ReloadRefused { .. }
            | Alert::MemoryTable
            | Alert::DryRun => Subject::of_balancer(alert),
        }
    }

    /// One that is about no service.
    fn of_balancer(alert: &Alert) -> Subject {
        let nothing = Subject::default();
        match alert {
            Alert::AddressMissing { address, fault } => Subject {
                addresses: vec![*address],
                fault: fault.as_deref().map(str::to_owned),
                ..nothing
            },
            Alert::AddressFault { address, fault } => Subject {
                addresses: vec![*address],
                fault: Some(fault.to_string()),
                ..nothing
            },
            Alert::SessionDown {
                peer, fault, hint, ..
            } => Subject {
                peer: Some(peer.to_string()),
                fault: fault.clone(),
                hint: *hint,
                ..nothing
            },
            Alert::SessionDisabled { peer, text, .. } => Subject {
                peer: Some(peer.to_string()),
                fault: text.as_deref().map(str::to_owned),
                ..nothing
            },
            Alert::NotTold {
                peer,
                why,
                addresses,
                count,
            } => Subject {
                peer: Some(peer.to_string()),
                untold: Some(*why),
                addresses: addresses.clone(),
                count: Some(*count),
                ..nothing
            },
            Alert::OverMaximum {
                peer,
                family,
                maximum,
            } => Subject {
                peer: Some(peer.to_string()),
                family: Some(*family),
                maximum_prefixes: Some(*maximum),
                ..nothing
            },
            Alert::Trouble { part, fault } => Subject {
                part: Some((*part).to_owned()),
                fault: Some(fault.clone()),
                ..nothing
            },
            Alert::ReloadRefused { mistakes } => Subject {
                fault: Some(mistakes.to_string()),
                ..nothing
            },
            Alert::MemoryTable | Alert::DryRun => nothing,
            Alert::MarkedDownButPooled { .. }
            | Alert::TooSmall { .. }
            | Alert::NothingPooled { .. }
            | Alert::NothingWeighted { .. }
            | Alert::HeldByGuard { .. }
            | Alert::DrainHeld { .. }
            | Alert::StaleCatchUp { .. }
            | Alert::Unidentified { .. }
            | Alert::ListFailed { .. }
            | Alert::SavedLists { .. }
            | Alert::BadEntry { .. }
            | Alert::MoreBadEntries { .. }
            | Alert::Unresolved { .. }
            | Alert::OnlyTold { .. }
            | Alert::Stuck { .. }
            | Alert::NotApplied { .. }
            | Alert::Overridden { .. } => nothing,
        }
    }

    fn service(service: &ServiceName) -> Subject {
        Subject {
            service: Some(service.to_string()),
            ..Subject::default()
        }
    }

    fn hosts(service: &ServiceName, hosts: &[Host]) -> Subject {
        Subject {
            hosts: hosts.iter().map(ToString::to_string).collect(),
            ..Subject::service(service)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_it_is_about_stands_beside_its_text() {
        let hosts = || vec!["cp1".parse().unwrap(), "cp2".parse().unwrap()];
        let service: ServiceName = "web".parse().unwrap();
        let check = |alert: Alert, name: &str, severity: &str, expected: Value| {
            let told = serde_json::to_value(Told::of(&alert)).unwrap();
            let of = |key: &str| told[key].clone();
            assert_eq!((of("name"), of("severity")), (json!(name), json!(severity)));
            assert_eq!(of("text"), json!(alert.to_string()));
            let all = told.as_object().unwrap().iter();
            let said = all.filter(|(key, value)| {
                let head = ["name", "severity", "text"].contains(&key.as_str());
                !head && !value.is_null() && **value != json!([])
            });
            let said: serde_json::Map<String, Value> = said
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            assert_eq!(Value::Object(said), expected, "{name}");
        };
        check(
            Alert::MarkedDownButPooled {
                service: service.clone(),
                hosts: hosts(),
            },
            "marked-down-but-pooled",
            "critical",
            json!({ "service": "web", "hosts": ["cp1", "cp2"] }),
        );
        check(
            Alert::StaleCatchUp {
                service: service.clone(),
                hosts: hosts(),
                left: 1,
                guard: Guard { size: 4, line: 2 },
                pool: None,
            },
            "stale-catch-up",
            "warning",
            json!({
                "service": "web", "hosts": ["cp1", "cp2"], "left": 1,
                "guard": { "size": 4, "line": 2 },
            }),
        );
        check(
            Alert::NotTold {
                peer: "10.0.0.1".parse::<IpAddr>().unwrap().into(),
                why: Untold::NextHop,
                addresses: vec!["192.0.2.1".parse().unwrap()],
                count: 5,
            },
            "not-told",
            "warning",
            json!({
                "peer": "10.0.0.1", "untold": "next-hop", "addresses": ["192.0.2.1"], "count": 5,
            }),
        );
        check(Alert::DryRun, "dry-run", "warning", json!({}));
    }
}
