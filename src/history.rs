//! What happened lately: every line of our log at level INFO and above, kept as a record with the line's own fields.
//! The log and `/api/v1/events` therefore tell the same story in the same words. Nothing is decided by it, and what
//! is true now is the snapshot's business, not this one's.
//!
//! ```text
//!  info!(service, host, why, "depooled") ─┬─► log line
//!                                         └─► Layer ─► History ─► the API, whoever waits for the next one too
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value};
use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// How many records are kept.
pub const KEPT: usize = 10_000;
/// Bytes of one text; a server can make a reason as long as it likes.
const LONGEST: usize = 1000;

/// The last [`KEPT`] records. Clones share one.
#[derive(Clone, Debug)]
pub struct History(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// When this process began, in milliseconds: an id of another run is never taken for one of this.
    run: u64,
    records: Mutex<VecDeque<Arc<Record>>>,
    /// How many there have been.
    count: watch::Sender<u64>,
}

/// One thing that happened. The JSON shape is a promise: members are added, never taken away.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct Record {
    /// The daemon's run, and the event's number in it: `19a90c5e3d4-57`.
    #[schemars(with = "String")]
    pub id: Id,
    #[schemars(with = "String")]
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    pub level: Severity,
    /// What happened, always in these words.
    pub event: String,
    pub service: Option<String>,
    /// The real server.
    pub host: Option<String>,
    pub vip: Option<String>,
    /// The BGP peer.
    pub peer: Option<String>,
    /// Whatever else the line says: `why`, `fault`, ….
    pub fields: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Level")]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// Names a record: the run of the daemon, and the record's number in it, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    run: u64,
    pub number: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.run, self.number)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// After which record to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Beginning,
    Record(Id),
    Time(SystemTime),
}

impl std::str::FromStr for Since {
    type Err = &'static str;

    /// An id as [`Record::id`] shows it, or a time of RFC 3339 in UTC.
    fn from_str(text: &str) -> Result<Since, &'static str> {
        if let Some((run, number)) = text.split_once('-')
            && let (Ok(run), Ok(number)) = (u64::from_str_radix(run, 16), number.parse())
        {
            return Ok(Since::Record(Id { run, number }));
        }
        humantime::parse_rfc3339(text)
            .map(Since::Time)
            .map_err(|_| "an event's id, or a time as 2026-11-22T03:04:05Z")
    }
}

/// What is asked for; `None` is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub service: Option<String>,
    pub host: Option<String>,
    pub vip: Option<String>,
    pub peer: Option<String>,
}

impl Filter {
    pub fn matches(&self, record: &Record) -> bool {
        let fits =
            |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        fits(&self.service, &record.service)
            && fits(&self.host, &record.host)
            && fits(&self.vip, &record.vip)
            && fits(&self.peer, &record.peer)
    }
}

/// Some records, the oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub records: Vec<Arc<Record>>,
    /// Some of those asked for are not kept any more.
    pub missed: bool,
}

impl History {
    /// `begun`: when the process did.
    pub fn new(begun: SystemTime) -> History {
        let begun = begun.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        History(Arc::new(Shared {
            run: u64::try_from(begun.as_millis()).unwrap_or(u64::MAX),
            records: Mutex::default(),
            count: watch::Sender::new(0),
        }))
    }

    /// Remembers what our own code logs from now on, whatever the log itself shows.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let ours = Targets::new().with_target("plimsoll", Level::INFO);
        Remember(self.clone()).with_filter(ours)
    }

    /// The last record before those that `since` asks for, or where it would be.
    pub fn place(&self, since: Since) -> Id {
        let records = self.lock();
        let before = || records.front().map_or(0, |record| record.id.number - 1);
        let number = match since {
            Since::Beginning => before(),
            Since::Record(id) if id.run == self.0.run => id.number,
            // Of an earlier run, of which nothing is kept: all of this one is new.
            Since::Record(_) => 0,
            Since::Time(time) => {
                let older = records.partition_point(|record| record.time <= time);
                before() + older as u64
            }
        };
        Id {
            run: self.0.run,
            number,
        }
    }

    /// At most `limit` of those after this one.
    pub fn after(&self, at: Id, limit: usize) -> Part {
        let records = self.lock();
        let oldest = records.front().map_or(0, |record| record.id.number);
        let first = at.number.saturating_add(1);
        let skip = usize::try_from(first.saturating_sub(oldest)).unwrap_or(usize::MAX);
        Part {
            records: records.iter().skip(skip).take(limit).cloned().collect(),
            missed: first < oldest,
        }
    }

    /// The newest `limit` that fit, the oldest of them first.
    pub fn last(&self, limit: usize, fits: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        let records = self.lock();
        let newest = records.iter().rev().filter(|record| fits(record));
        let mut last: Vec<_> = newest.take(limit).cloned().collect();
        last.reverse();
        last
    }

    /// The last record there was; number 0 if there was none yet.
    pub fn newest(&self) -> Id {
        Id {
            run: self.0.run,
            number: *self.0.count.borrow(),
        }
    }

    /// How many there have been; changes with each new one.
    pub fn count(&self) -> watch::Receiver<u64> {
        self.0.count.subscribe()
    }

    fn remember(&self, mut record: Record) {
        let mut records = self.lock();
        let number = *self.0.count.borrow() + 1;
        record.id.number = number;
        if records.len() == KEPT {
            records.pop_front();
        }
        records.push_back(Arc::new(record));
        // Before the lock is gone, so that whoever is woken finds it, and numbers stay in order.
        self.0.count.send_replace(number);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Record>>> {
        self.0
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Remember(History);

impl<S: Subscriber> Layer<S> for Remember {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is what the log line's time is, too; nothing is decided by it"
    )]
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Record {
            // The number is given with its place in the row.
            id: self.0.newest(),
            time: SystemTime::now(),
            level: match *event.metadata().level() {
                Level::ERROR => Severity::Error,
                Level::WARN => Severity::Warning,
                Level::INFO | Level::DEBUG | Level::TRACE => Severity::Info,
            },
            event: String::new(),
            service: None,
            host: None,
            vip: None,
            peer: None,
            fields: Map::new(),
        };
        event.record(&mut record);
        self.0.remember(record);
    }
}

impl Record {
    fn text(&mut self, field: &Field, mut text: String) {
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
        }
        let known = match field.name() {
            "message" => {
                self.event = text;
                return;
            }
            "service" => &mut self.service,
            "host" => &mut self.host,
            "vip" => &mut self.vip,
            "peer" => &mut self.peer,
            other => {
                self.fields.insert(other.to_owned(), Value::String(text));
                return;
            }
        };
        *known = Some(text);
    }

    fn value(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(
            field,
            Number::from_f64(value).map_or(Value::Null, Value::Number),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tracing::{debug, error, info, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn told(tell: impl FnOnce()) -> History {
        let history = History::new(UNIX_EPOCH + Duration::from_millis(0xabc));
        let subscriber = tracing_subscriber::registry().with(history.layer());
        tracing::subscriber::with_default(subscriber, tell);
        history
    }

    fn since(history: &History, since: Since, limit: usize) -> Part {
        history.after(history.place(since), limit)
    }

    fn numbers(part: &Part) -> Vec<u64> {
        part.records.iter().map(|record| record.id.number).collect()
    }

    #[test]
    fn a_line_is_a_record() {
        let history = told(|| {
            let (service, host) = ("web", "cp1");
            info!(%service, host, why = "list", left = 3_usize, share = 0.5, last = true, "depooled");
            warn!(vip = "192.0.2.1", peer = ?1, "held");
            debug!("not for us");
            error!(target: "hyper", "nor that");
        });
        let part = since(&history, Since::Beginning, 10);
        let mut shown = serde_json::to_value(&part.records).unwrap();
        let time = shown[0]["time"].take();
        humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
        let expected = json!({
            "id": "abc-1", "time": null, "level": "info", "event": "depooled",
            "service": "web", "host": "cp1", "vip": null, "peer": null,
            "fields": {"why": "list", "left": 3, "share": 0.5, "last": true},
        });
        assert_eq!(shown[0], expected);
        assert_eq!(shown[1]["level"], "warning");
        assert_eq!(shown[1]["vip"], "192.0.2.1");
        assert_eq!(shown[1]["peer"], "1");
        assert_eq!(shown.as_array().unwrap().len(), 2);
        assert!(!part.missed);
    }

    #[test]
    fn one_goes_on_where_one_was() {
        let history = told(|| (0..5).for_each(|n| info!(n, "happened")));
        let all = since(&history, Since::Beginning, 3);
        assert_eq!(numbers(&all), [1, 2, 3]);
        let id: Since = all.records[2].id.to_string().parse().unwrap();
        assert_eq!(numbers(&since(&history, id, 10)), [4, 5]);
        let newest = history.last(2, |record| record.fields["n"] != 3);
        let newest: Vec<u64> = newest.iter().map(|record| record.id.number).collect();
        assert_eq!(newest, [3, 5]);
        let future = Since::Time(UNIX_EPOCH + Duration::from_secs(1 << 40));
        assert_eq!(since(&history, future, 10), Part::default());
        assert_eq!(history.place(future), history.newest());
        let past = "2020-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(numbers(&since(&history, past, 10)), [1, 2, 3, 4, 5]);
        // What another run had is not known here.
        let other = since(&history, "abd-4".parse().unwrap(), 10);
        assert_eq!(numbers(&other), [1, 2, 3, 4, 5]);
        for wrong in ["", "x", "12", "2020", "abc-", "-1", "abc-x"] {
            assert!(wrong.parse::<Since>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_that_is_said() {
        let long = "é".repeat(LONGEST);
        let history = told(|| (0..KEPT + 5).for_each(|_| info!(long, "happened")));
        let part = since(&history, "abd-4".parse().unwrap(), 2);
        assert_eq!(numbers(&part), [6, 7]);
        assert!(part.missed);
        assert_eq!(
            since(&history, Since::Beginning, usize::MAX).records.len(),
            KEPT
        );
        assert!(!since(&history, "abc-5".parse().unwrap(), 1).missed);
        let text = part.records[0].fields["long"].as_str().unwrap();
        assert_eq!(text.len(), LONGEST + '…'.len_utf8());
        assert_eq!(*history.count().borrow(), KEPT as u64 + 5);
    }

    #[test]
    fn only_what_is_asked_for() {
        let history = told(|| {
            info!(service = "web", host = "a", "one");
            info!(service = "web", host = "b", "two");
            info!(peer = "192.0.2.9", "three");
        });
        let check = |filter: &Filter, expected: &[&str]| {
            let found = history.last(10, |record| filter.matches(record));
            let found: Vec<_> = found.iter().map(|record| record.event.as_str()).collect();
            assert_eq!(found, expected);
        };
        let of = |text: &str| Some(text.to_owned());
        let mut filter = Filter::default();
        check(&filter, &["one", "two", "three"]);
        filter.service = of("web");
        check(&filter, &["one", "two"]);
        filter.host = of("b");
        check(&filter, &["two"]);
        filter.vip = of("192.0.2.1");
        check(&filter, &[]);
        let peer = of("192.0.2.9");
        check(
            &Filter {
                peer,
                ..Filter::default()
            },
            &["three"],
        );
    }
}
