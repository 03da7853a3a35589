//! Orders about servers in place of their lists: an override, or its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::api::json::json;
use crate::event::Event;
use crate::service::{Action, Host, Note, Override, Overruled, ServiceName, Weight};
use crate::snapshot::{Pooled, Snapshot};

use super::{Core, Given, PATIENCE, Refused};

/// Nobody remembers one of last month; what is to stay belongs into the list.
const LONGEST: u64 = 31 * 24 * 60 * 60;
/// Bytes.
const LONGEST_REASON: usize = 500;

/// What an order's body says, in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    host: String,
    service: Option<String>,
    action: String,
    weight: Option<u32>,
    for_seconds: u64,
    reason: String,
    #[serde(default)]
    confirmed: bool,
}

/// How the servers stand that it is about, once it is obeyed.
#[derive(Serialize)]
struct Outcome<'a> {
    host: &'a Host,
    service: Option<&'a str>,
    /// `None`: it has ended.
    action: Option<String>,
    until: Option<&'a str>,
    done: bool,
    servers: Vec<Stands<'a>>,
}

#[derive(Serialize)]
struct Stands<'a> {
    service: &'a str,
    /// As PyBal says it: `disabled/up/not pooled`.
    state: String,
    /// What holds it in the pool.
    held: Option<String>,
}

pub(super) async fn give(body: Option<&str>, mut core: Core<'_>) -> Result<Given, Refused> {
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let wanted: Wanted = serde_json::from_str(body.unwrap_or_default())
        .map_err(|fault| bad(format!("The order is not what it should be: {fault}")))?;
    let action = wanted.action().map_err(bad)?;
    let note = wanted.note().map_err(bad)?;
    let overruled = overruled(&wanted.host, wanted.service.as_deref())?;
    listed(&core.snapshot(), &overruled)?;
    let by = Override {
        action,
        note: Arc::new(note),
    };
    let event = Event::Override {
        overruled: overruled.clone(),
        by: by.clone(),
        left: Duration::from_secs(wanted.for_seconds),
    };
    let obeyed = |snapshot: &Snapshot| {
        let found = snapshot.overrides.get(&overruled);
        found.is_some_and(|found| **found == by) && snapshot.overrides_kept
    };
    let done = core.carry_out(event, obeyed).await?;
    Ok(told(&core.snapshot(), &overruled, Some(&by), done))
}

/// `query`: `host=cp1&service=web`.
pub(super) async fn end(query: &str, mut core: Core<'_>) -> Result<Given, Refused> {
    let (mut host, mut service) = (None, None);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "host" => host = Some(value),
            "service" => service = Some(value),
            _ => {
                let text = format!("{key}: not host or service");
                return Err((StatusCode::BAD_REQUEST, text));
            }
        }
    }
    let Some(host) = host else {
        let text = "Whose override shall end? ?host=HOST says it".to_owned();
        return Err((StatusCode::BAD_REQUEST, text));
    };
    let overruled = overruled(&host, service.as_deref())?;
    let snapshot = core.snapshot();
    if !snapshot.overrides.contains_key(&overruled) {
        let all: Vec<String> = snapshot.overrides.keys().map(ToString::to_string).collect();
        let there = match all.as_slice() {
            [] => "there is no override".to_owned(),
            all => format!("there are overrides of {}", all.join(", ")),
        };
        let text = format!("{overruled} is not overridden; {there}");
        return Err((StatusCode::NOT_FOUND, text));
    }
    let event = Event::OverrideEnded(overruled.clone());
    let obeyed = |snapshot: &Snapshot| {
        !snapshot.overrides.contains_key(&overruled) && snapshot.overrides_kept
    };
    let done = core.carry_out(event, obeyed).await?;
    Ok(told(&core.snapshot(), &overruled, None, done))
}

impl Wanted {
    fn action(&self) -> Result<Action, String> {
        match (self.action.as_str(), self.weight) {
            ("depool", None) => Ok(Action::Depool),
            ("pool", None) => Ok(Action::Pool),
            ("weight", Some(weight)) => {
                let most = Weight::MAX;
                let weight = Weight::new(weight).ok_or(format!("weight {weight}: 0 to {most}"))?;
                Ok(Action::Weight(weight))
            }
            ("weight", None) => Err("action weight: which weight?".to_owned()),
            ("depool" | "pool", Some(_)) => {
                Err("a weight goes with action weight alone".to_owned())
            }
            (other, _) => Err(format!("action {other:?}: not depool, pool or weight")),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "until when it is in force is told by the calendar"
    )]
    fn note(&self) -> Result<Note, String> {
        if self.reason.is_empty() || self.reason.len() > LONGEST_REASON {
            let length = self.reason.len();
            return Err(format!(
                "the reason has {length} bytes; 1 to {LONGEST_REASON} must be there"
            ));
        }
        if !(1..=LONGEST).contains(&self.for_seconds) {
            let seconds = self.for_seconds;
            return Err(format!(
                "for_seconds {seconds}: 1 to {LONGEST}, 31 days; what is to stay belongs into the list"
            ));
        }
        let until = SystemTime::now().checked_add(Duration::from_secs(self.for_seconds));
        let until = until.ok_or("this host's clock is at the end of time")?;
        Ok(Note {
            reason: Some(self.reason.as_str().into()),
            until: Some(humantime::format_rfc3339_seconds(until).to_string().into()),
            confirmed: self.confirmed,
        })
    }
}

fn overruled(host: &str, service: Option<&str>) -> Result<Overruled, Refused> {
    let not = |what: &str, name: &str| {
        let text = format!("{name:?} is not the name of a {what}");
        (StatusCode::BAD_REQUEST, text)
    };
    Ok(Overruled {
        host: host.parse().map_err(|_| not("server", host))?,
        service: service
            .map(|name| name.parse().map_err(|_| not("service", name)))
            .transpose()?,
    })
}

/// Somewhere its list must have it: a mistyped name would else be obeyed by nobody and noticed by nobody.
fn listed(snapshot: &Snapshot, overruled: &Overruled) -> Result<(), Refused> {
    let none = |text: String| Err((StatusCode::NOT_FOUND, text));
    if let Some(service) = &overruled.service
        && !snapshot.services.contains_key(service)
    {
        return none(format!("No service is called {service}"));
    }
    if servers(snapshot, overruled).next().is_none() {
        let host = &overruled.host;
        return none(match &overruled.service {
            Some(service) => format!("{service} has no server {host}"),
            None => format!("No service has a server {host}"),
        });
    }
    Ok(())
}

/// Those that it is about.
fn servers<'a>(
    snapshot: &'a Snapshot,
    overruled: &'a Overruled,
) -> impl Iterator<Item = Stands<'a>> {
    let services = snapshot.services.iter();
    let meant = services.filter(|(name, _)| {
        let only = overruled.service.as_ref();
        only.is_none_or(|only| only == *name)
    });
    meant.filter_map(|(name, service)| {
        let server = service.servers.get(&overruled.host)?;
        Some(Stands {
            service: name.as_str(),
            state: server.to_string(),
            held: match server.pooled {
                Pooled::Held(why) => Some(why.to_string()),
                Pooled::No | Pooled::Yes => None,
            },
        })
    })
}

fn told(snapshot: &Snapshot, overruled: &Overruled, by: Option<&Override>, done: bool) -> Given {
    let until = by.and_then(|by| by.note.until.as_deref());
    let servers: Vec<Stands<'_>> = servers(snapshot, overruled).collect();
    let mut lines = vec![match by {
        Some(by) => format!(
            "{overruled}: {} until {}",
            by.action,
            until.unwrap_or("now")
        ),
        None => format!("{overruled}: its list's word is in force again"),
    }];
    if !done {
        let seconds = PATIENCE.as_secs();
        lines.push(format!(
            "after {seconds} s it is not on the disk yet, and a restart would forget it: see /alerts"
        ));
    }
    lines.extend(servers.iter().map(|one| match &one.held {
        Some(why) => format!("{}: {} ({why})", one.service, one.state),
        None => format!("{}: {}", one.service, one.state),
    }));
    Given {
        status: if done {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        },
        text: lines.join("\n"),
        json: json(&Outcome {
            host: &overruled.host,
            service: overruled.service.as_ref().map(ServiceName::as_str),
            action: by.map(|by| by.action.to_string()),
            until,
            done,
            servers,
        }),
    }
}
