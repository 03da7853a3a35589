//! One peer, in full.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::Serialize;

use crate::api::Now;
use crate::api::accept::Form;
use crate::api::json::json;
use crate::routing::session::{Figures, Hint, Negotiated, Session, SessionState, Told};
use crate::routing::{PeerId, Role};
use crate::service::Family;
use crate::snapshot::alert::Line;

use super::{Known, MESSAGES, words};

pub(super) fn peer(known: &Known<'_>, form: Form, now: Now) -> String {
    let none = Session::default();
    let detail = Detail::of(known, known.session.unwrap_or(&none), now.calendar);
    match form {
        Form::Json => json(&detail),
        Form::Text => detail.to_string(),
    }
}

#[derive(Serialize)]
struct Detail<'a> {
    peer: &'a PeerId,
    description: Option<&'a str>,
    local_as: u32,
    peer_as: u32,
    state: SessionState,
    since: Option<String>,
    seconds: Option<u64>,
    disabled: bool,
    orders: Orders<'a>,
    fault: Option<&'a str>,
    hint: Option<Hint>,
    hint_text: Option<String>,
    last_notification: LastNotification<'a>,
    negotiated: Option<Agreed<'a>>,
    /// Seconds until they expire; `None`: not running.
    timers: Timers,
    messages: Messages,
    malformed_updates: u64,
    prefixes_heard: BTreeMap<&'static str, u64>,
    maximum_prefixes: u32,
    over_maximum: &'a BTreeSet<Family>,
    times_established: u64,
    times_lost: u64,
    told: usize,
}

/// Of operators.
#[derive(Serialize)]
struct Orders<'a> {
    /// `None`: as configured.
    enabled: Option<bool>,
    text: Option<&'a str>,
    clears: u64,
}

#[derive(Serialize)]
struct LastNotification<'a> {
    sent: Option<Notification<'a>>,
    received: Option<Notification<'a>>,
}

#[derive(Serialize)]
struct Notification<'a> {
    at: String,
    seconds: u64,
    code: u8,
    subcode: u8,
    text: &'a str,
}

/// [`Negotiated`] with times in seconds.
#[derive(Serialize)]
struct Agreed<'a> {
    local: SocketAddr,
    remote: SocketAddr,
    identifier: Ipv4Addr,
    families: &'a BTreeSet<Family>,
    hold_time: u64,
    four_octet_as: bool,
    route_refresh: bool,
    enhanced_route_refresh: bool,
    extended_messages: bool,
    extended_next_hop: bool,
    role: Option<Role>,
}

#[derive(Serialize)]
struct Timers {
    hold: Option<u64>,
    keepalive: Option<u64>,
    connect_retry: Option<u64>,
}

#[derive(Serialize)]
struct Messages {
    sent: BTreeMap<&'static str, u64>,
    received: BTreeMap<&'static str, u64>,
}

fn read(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

impl<'a> Detail<'a> {
    fn of(known: &Known<'a>, session: &'a Session, now: SystemTime) -> Detail<'a> {
        let figures = &*session.figures;
        let notification =
            |told: &'a Option<_>| told.as_deref().map(|told| Notification::of(told, now));
        let [ipv4, ipv6] = &figures.prefixes;
        Detail {
            peer: known.id,
            description: known.peer.description.as_deref(),
            local_as: known.local_as,
            peer_as: known.peer.peer_as,
            state: session.state,
            since: session.since.map(words::time),
            seconds: session.since.map(|at| words::since(at, now).as_secs()),
            disabled: known.disabled(),
            orders: Orders {
                enabled: known.orders.and_then(|orders| orders.enabled),
                text: known.orders.and_then(|orders| orders.text.as_deref()),
                clears: known.orders.map_or(0, |orders| orders.clears),
            },
            fault: session.fault.as_deref(),
            hint: session.hint,
            hint_text: session.hint.map(|hint| hint.to_string()),
            last_notification: LastNotification {
                sent: notification(&session.told_last),
                received: notification(&session.heard_last),
            },
            negotiated: session.negotiated.as_deref().map(Agreed::of),
            timers: Timers::of(figures, now),
            messages: Messages {
                sent: MESSAGES
                    .into_iter()
                    .zip(figures.sent.iter().map(read))
                    .collect(),
                received: MESSAGES
                    .into_iter()
                    .zip(figures.received.iter().map(read))
                    .collect(),
            },
            malformed_updates: read(&figures.malformed),
            prefixes_heard: [("ipv4", read(ipv4)), ("ipv6", read(ipv6))].into(),
            maximum_prefixes: known.peer.maximum_prefixes,
            over_maximum: &session.over_maximum,
            times_established: read(&figures.times_established),
            times_lost: read(&figures.times_lost),
            told: session.routes.len(),
        }
    }
}

impl Notification<'_> {
    fn of(told: &Told, now: SystemTime) -> Notification<'_> {
        Notification {
            at: words::time(told.at),
            seconds: words::since(told.at, now).as_secs(),
            code: told.code,
            subcode: told.subcode,
            text: &told.text,
        }
    }
}

impl Agreed<'_> {
    fn of(negotiated: &Negotiated) -> Agreed<'_> {
        let Negotiated {
            local,
            remote,
            identifier,
            families,
            hold_time,
            four_octet_as,
            route_refresh,
            enhanced_route_refresh,
            extended_messages,
            extended_next_hop,
            role,
        } = negotiated;
        Agreed {
            local: *local,
            remote: *remote,
            identifier: *identifier,
            families,
            hold_time: hold_time.as_secs(),
            four_octet_as: *four_octet_as,
            route_refresh: *route_refresh,
            enhanced_route_refresh: *enhanced_route_refresh,
            extended_messages: *extended_messages,
            extended_next_hop: *extended_next_hop,
            role: *role,
        }
    }

    /// What both ends can, by name.
    fn capabilities(&self) -> String {
        let all = [
            (self.four_octet_as, "4-octet AS"),
            (self.route_refresh, "route refresh"),
            (self.enhanced_route_refresh, "enhanced route refresh"),
            (self.extended_messages, "extended messages"),
            (self.extended_next_hop, "IPv6 next hops for IPv4"),
        ];
        let agreed = all.into_iter().filter(|(agreed, _)| *agreed);
        let names = words::list(agreed.map(|(_, name)| name), ", ");
        let role = self.role.map(role);
        let role = role.map(|role| format!("the peer is our {role}"));
        let parts = [names, role.unwrap_or_default()];
        words::list(parts.into_iter().filter(|part| !part.is_empty()), ", ")
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Provider => "provider",
        Role::RouteServer => "route server",
        Role::RouteServerClient => "route server's client",
        Role::Customer => "customer",
        Role::Peer => "peer",
    }
}

impl Timers {
    fn of(figures: &Figures, now: SystemTime) -> Timers {
        Timers {
            hold: words::left(&figures.hold_timer, now),
            keepalive: words::left(&figures.keepalive_timer, now),
            connect_retry: words::left(&figures.retry_timer, now),
        }
    }
}

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.local_as == self.peer_as {
            "internal"
        } else {
            "external"
        };
        writeln!(f, "{}: AS {}, {kind}", self.peer, self.peer_as)?;
        if let Some(description) = self.description {
            writeln!(f, "  description       {}", Line(description))?;
        }
        write!(f, "  state             {:?}", self.state)?;
        f.write_str(if self.disabled { " (disabled)" } else { "" })?;
        if let (Some(since), Some(seconds)) = (&self.since, self.seconds) {
            write!(f, " since {since}, {}", words::ago(seconds))?;
        }
        f.write_char('\n')?;
        self.what_is_wrong(f)?;
        self.last_notification(f)?;
        if let Some(agreed) = &self.negotiated {
            agreed.fmt(f)?;
        }
        self.timers.fmt(f)?;
        self.figures(f)
    }
}

impl Detail<'_> {
    fn what_is_wrong(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match (self.orders.enabled, self.disabled) {
            (Some(true), _) => "enabled",
            (Some(false), _) => "disabled",
            (None, true) => "none; enabled = false in the configuration",
            (None, false) => "",
        };
        let cleared = match self.orders.clears {
            0 => String::new(),
            1 => "cleared once".to_owned(),
            times => format!("cleared {times} times"),
        };
        let text = self
            .orders
            .text
            .map(|text| format!("the last text: {}", Line(text)));
        let parts = [said.to_owned(), cleared, text.unwrap_or_default()];
        let orders = words::list(parts.into_iter().filter(|part| !part.is_empty()), ", ");
        if !orders.is_empty() {
            writeln!(f, "  operators' orders {orders}")?;
        }
        if let Some(fault) = self.fault {
            writeln!(f, "  last error        {}", Line(fault))?;
        }
        if let Some(hint) = &self.hint_text {
            writeln!(f, "  hint              {hint}")?;
        }
        if !self.over_maximum.is_empty() {
            let families = words::list(self.over_maximum, ", ");
            let most = self.maximum_prefixes;
            writeln!(
                f,
                "  over the maximum  {families}: more than {most} prefixes"
            )?;
        }
        Ok(())
    }

    fn last_notification(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LastNotification { sent, received } = &self.last_notification;
        for (what, notification) in [("sent", sent), ("received", received)] {
            if let Some(Notification {
                at,
                seconds,
                code,
                subcode,
                text,
            }) = notification
            {
                let (text, ago) = (Line(text), words::ago(*seconds));
                let what = format!("last {what}");
                writeln!(
                    f,
                    "  {what:<18}NOTIFICATION {code}/{subcode}, {text}, {at}, {ago}"
                )?;
            }
        }
        Ok(())
    }

    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |messages: &BTreeMap<&str, u64>| {
            let counts = MESSAGES
                .iter()
                .map(|kind| (kind, messages.get(kind).unwrap_or(&0)));
            words::list(counts.map(|(kind, count)| format!("{kind} {count}")), ", ")
        };
        writeln!(f, "  sent              {}", count(&self.messages.sent))?;
        writeln!(f, "  received          {}", count(&self.messages.received))?;
        let heard = self.prefixes_heard.iter();
        let heard = words::list(
            heard.map(|(family, count)| format!("{family} {count}")),
            ", ",
        );
        writeln!(
            f,
            "  prefixes heard    {heard}, at most {}",
            self.maximum_prefixes
        )?;
        writeln!(f, "  malformed updates {}", self.malformed_updates)?;
        let (up, lost) = (self.times_established, self.times_lost);
        writeln!(f, "  sessions          {up} established, {lost} lost")?;
        let plural = if self.told == 1 { "" } else { "es" };
        writeln!(f, "  told              {} address{plural}", self.told)
    }
}

impl fmt::Display for Agreed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (local, remote, id) = (self.local, self.remote, self.identifier);
        writeln!(f, "  connection        {local} to {remote}, router ID {id}")?;
        let families = words::list(self.families, ", ");
        writeln!(f, "  families          {families}")?;
        writeln!(f, "  hold time         {}s", self.hold_time)?;
        writeln!(f, "  capabilities      {}", self.capabilities())
    }
}

impl fmt::Display for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("hold", self.hold),
            ("keepalive", self.keepalive),
            ("connect again", self.connect_retry),
        ];
        let running = all
            .into_iter()
            .filter_map(|(name, left)| Some((name, left?)));
        let left = words::list(
            running.map(|(name, left)| format!("{name} in {left}s")),
            ", ",
        );
        if left.is_empty() {
            return Ok(());
        }
        writeln!(f, "  timers            {left}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::snapshot::sample;

    use super::*;

    fn of(name: &str, form: Form) -> String {
        let mut snapshot = sample::snapshot([]);
        sample::sessions(&mut snapshot);
        let now = Now {
            monotonic: sample::now(),
            calendar: sample::at(11_520),
        };
        peer(&Known::find(&snapshot, name).ok().unwrap(), form, now)
    }

    #[test]
    fn in_text() {
        assert_eq!(
            of("10.0.0.1", Form::Text),
            "\
10.0.0.1: AS 14907, external
  description       the first router
  state             Established since 2026-01-02T03:04:05Z, 3h 12m ago
  operators' orders cleared once, the last text: new filters
  over the maximum  IPv4: more than 5 prefixes
  last sent         NOTIFICATION 6/4, Cease / Administrative Reset: new filters, 2026-01-02T03:04:05Z, 3h 12m ago
  last received     NOTIFICATION 4/0, Hold Timer Expired, 2026-01-02T03:03:05Z, 3h 13m ago
  connection        10.0.0.99:40000 to 10.0.0.1:179, router ID 10.0.0.1
  families          IPv4
  hold time         30s
  capabilities      4-octet AS, route refresh, the peer is our provider
  timers            hold in 21s, keepalive in 4s
  sent              open 2, update 3, notification 1, keepalive 4000, route-refresh 0
  received          open 2, update 9, notification 1, keepalive 4001, route-refresh 1
  prefixes heard    ipv4 6, ipv6 1, at most 5
  malformed updates 8
  sessions          2 established, 1 lost
  told              2 addresses
"
        );
        let refused = of("2001:db8::1", Form::Text);
        assert!(
            refused.contains(
                "  state             Active since 2026-01-02T03:04:05Z, 3h 12m ago\n  \
                   last error        connect: connection refused\n  \
                   hint              does the router listen and know us?"
            ),
            "{refused}"
        );
        let disabled = of("fe80::1%eth1", Form::Text);
        assert!(
            disabled.starts_with(
                "fe80::1%eth1: AS 64600, internal\n  state             Idle (disabled)\n  \
                 operators' orders disabled, the last text: new line card\n  sent   "
            ),
            "{disabled}"
        );
    }

    #[test]
    fn in_json() {
        let answer: Value = serde_json::from_str(&of("10.0.0.1", Form::Json)).unwrap();
        assert_eq!(answer["state"], "Established");
        assert_eq!(answer["seconds"], 11_520);
        let timers = json!({"hold": 21, "keepalive": 4, "connect_retry": null});
        assert_eq!(answer["timers"], timers);
        assert_eq!(answer["messages"]["received"]["keepalive"], 4001);
        assert_eq!(answer["over_maximum"], json!(["ipv4"]));
        assert_eq!(answer["negotiated"]["hold_time"], 30);
        assert_eq!(answer["negotiated"]["role"], "provider");
        assert_eq!(
            answer["last_notification"]["received"],
            json!({
                "at": "2026-01-02T03:03:05Z", "seconds": 11_580, "code": 4, "subcode": 0,
                "text": "Hold Timer Expired",
            })
        );
        assert_eq!(
            answer["orders"],
            json!({"enabled": null, "text": "new filters", "clears": 1})
        );
        let answer: Value = serde_json::from_str(&of("2001:db8::1", Form::Json)).unwrap();
        assert_eq!(answer["hint"], "refused");
        // The configuration's secrets are nowhere near.
        assert!(!of("10.0.0.1", Form::Json).contains("authentication"));
    }
}
