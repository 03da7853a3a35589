//! Who looks at the daemon all the time, and whether all that he saw is what etcd asked for.
//!
//! Two views: the API's pools, asked again and again, and the log's lines, of which each server's coming and
//! going has one. The first sees whole pools, the second misses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client;
use crate::store::{History, Listed, Pool};

/// How long the observer rests after each round.
const REST: Duration = Duration::from_millis(3);

/// What the daemon says of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) listed: Listed,
    pub(crate) pooled: bool,
}

pub(crate) type Serving = BTreeMap<String, Served>;

/// The daemon's word on a pool; `None`: no answer.
pub(crate) fn serving(api: SocketAddr, service: &str) -> Option<Serving> {
    let text = client::get(api, &format!("/pools/{service}"), "application/json")?;
    let servers: BTreeMap<String, Value> = serde_json::from_str(&text).ok()?;
    let served = |server: &Value| {
        Some(Served {
            listed: Listed {
                enabled: server["enabled"].as_bool()?,
                weight: server["weight"].as_u64()?,
            },
            pooled: server["pooled"].as_bool()?,
        })
    };
    let servers = servers.iter();
    servers
        .map(|(host, server)| Some((host.clone(), served(server)?)))
        .collect()
}

/// A pool whose guard is off and whose servers have no monitors is served like this.
pub(crate) fn as_listed(pool: &Pool) -> Serving {
    let served = |(host, &listed): (&String, &Listed)| {
        let pooled = listed.enabled;
        (host.clone(), Served { listed, pooled })
    };
    pool.iter().map(served).collect()
}

pub(crate) struct Observer {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// By service; each differs from the one before.
    seen: BTreeMap<String, Vec<Sight>>,
    /// How often the daemon was started.
    life: u32,
    ended: bool,
}

#[derive(Clone, Debug)]
struct Sight {
    life: u32,
    at: Duration,
    serving: Serving,
}

impl Observer {
    pub(crate) fn start(api: SocketAddr, services: Vec<String>) -> Observer {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let begun = Instant::now();
        let theirs = shared.clone();
        let thread = thread::spawn(move || {
            loop {
                for service in &services {
                    let life = theirs.lock().unwrap().life;
                    let serving = serving(api, service);
                    let mut shared = theirs.lock().unwrap();
                    if shared.ended {
                        return;
                    }
                    // An answer from before a restart belongs to neither life.
                    if let Some(serving) = serving.filter(|_| shared.life == life) {
                        shared.saw(service, begun.elapsed(), serving);
                    }
                }
                thread::sleep(REST);
            }
        });
        Observer {
            shared,
            thread: Some(thread),
        }
    }

    /// A new daemon begins where its predecessor's saved lists end, or with nothing.
    pub(crate) fn restarted(&self) {
        self.shared.lock().unwrap().life += 1;
    }

    /// Every state that was seen of a pool is one that etcd had, in the order in which it had them.
    pub(crate) fn check(&self, history: &History) {
        let seen = self.shared.lock().unwrap().seen.clone();
        for (service, sights) in &seen {
            let had = history.pools.get(service).map_or(&[][..], Vec::as_slice);
            let had: Vec<_> = had
                .iter()
                .map(|m| (m.revision, as_listed(&m.pool)))
                .collect();
            let (mut life, mut from) = (0, 0);
            for (number, sight) in sights.iter().enumerate() {
                if sight.life != life {
                    (life, from) = (sight.life, 0);
                    // Nothing is known yet.
                    if sight.serving.is_empty() {
                        continue;
                    }
                }
                let found = had[from..]
                    .iter()
                    .position(|(_, pool)| *pool == sight.serving);
                let Some(ahead) = found else {
                    let rest = had.get(from).map(|(revision, _)| revision);
                    let (seen, at) = (&sight.serving, sight.at);
                    let all = had.iter().filter(|(_, pool)| pool == seen);
                    let then: Vec<i64> = all.map(|(revision, _)| *revision).collect();
                    let nearest = had
                        .iter()
                        .min_by_key(|(_, pool)| difference(pool, seen).len());
                    let (nearest, pool) = nearest.expect("etcd had something");
                    panic!(
                        "pool {service} at {at:?}: seen was what it never was in etcd from revision {rest:?} on \
                         (but at {then:?}), nearest to it is {nearest}. There and here:\n{}\nAll that was seen:\n{}\n\
                         and before:\n{}",
                        difference(pool, seen).join("\n"),
                        told(seen),
                        told(&sights[number.saturating_sub(1)].serving),
                    );
                };
                from += ahead;
            }
        }
    }

    /// How many states of this pool were seen.
    pub(crate) fn count(&self, service: &str) -> usize {
        let shared = self.shared.lock().unwrap();
        shared.seen.get(service).map_or(0, Vec::len)
    }

    /// All the states of this pool that were seen.
    pub(crate) fn all(&self, service: &str) -> Vec<Serving> {
        let shared = self.shared.lock().unwrap();
        let sights = shared.seen.get(service).into_iter().flatten();
        sights.map(|sight| sight.serving.clone()).collect()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.shared.lock().unwrap_or_else(|e| e.into_inner()).ended = true;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn saw(&mut self, service: &str, at: Duration, serving: Serving) {
        let life = self.life;
        let sights = self.seen.entry(service.to_owned()).or_default();
        let same = |last: &Sight| last.life == life && last.serving == serving;
        if !sights.last().is_some_and(same) {
            sights.push(Sight { life, at, serving });
        }
    }
}

/// The servers of which two pools say other things, and what.
fn difference(one: &Serving, other: &Serving) -> Vec<String> {
    let hosts: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ = |host: &&&String| one.get(**host) != other.get(**host);
    let differ = hosts.iter().filter(differ);
    differ
        .map(|host| format!("  {host}: {:?}, {:?}", one.get(*host), other.get(*host)))
        .collect()
}

/// One server a line.
pub(crate) fn told(serving: &Serving) -> String {
    let line = |(host, served): (&String, &Served)| {
        let Served { listed, pooled } = served;
        let (enabled, weight) = (listed.enabled, listed.weight);
        format!("  {host}: enabled {enabled}, pooled {pooled}, weight {weight}\n")
    };
    serving.iter().map(line).collect()
}

/// No server came or left, by the daemon's log, without etcd having said so, one after the other; and those
/// that are there by the log are there by the API.
pub(crate) fn check_log(
    log: &str,
    history: &History,
    api: &BTreeMap<String, Serving>,
) -> Result<(), String> {
    /// Where in its history a server is, and whether it is pooled.
    #[derive(Clone, Copy, Default)]
    struct Place {
        index: usize,
        pooled: bool,
    }
    let mut places: BTreeMap<(&str, &str), Place> = BTreeMap::new();
    for (number, line) in log.lines().enumerate() {
        // After the priority.
        let Some(line) = line.get(3..) else { continue };
        if line.starts_with("IPVS in memory") {
            places.clear();
        }
        let Some((service, host, pooled)) = transition(line) else {
            continue;
        };
        let place = places.entry((service, host)).or_default();
        let number = number + 1;
        if place.pooled == pooled {
            return Err(format!("line {number} of the log changes nothing: {line}"));
        }
        let moments = history.pools.get(service).map_or(&[][..], Vec::as_slice);
        let said = moments[place.index..].iter().position(|moment| {
            moment.pool.get(host).is_some_and(|listed| listed.enabled) == pooled
        });
        let Some(ahead) = said else {
            let last = moments.get(place.index).map(|moment| moment.revision);
            return Err(format!(
                "line {number} of the log, {line:?}: etcd never said so from revision {last:?} on"
            ));
        };
        place.index += ahead;
        place.pooled = pooled;
    }
    for (service, servers) in api {
        let pooled = servers.iter().filter(|(_, served)| served.pooled);
        let by_api: Vec<&str> = pooled.map(|(host, _)| host.as_str()).collect();
        let here = places
            .iter()
            .filter(|((of, _), place)| of == service && place.pooled);
        let by_log: Vec<&str> = here.map(|((_, host), _)| *host).collect();
        if by_log != by_api {
            return Err(format!(
                "{service}: pooled by the log {by_log:?}, by the API {by_api:?}"
            ));
        }
    }
    Ok(())
}

/// Service, host, and whether it came, if that is what the line tells.
fn transition(line: &str) -> Option<(&str, &str, bool)> {
    let (message, rest) = line.split_once(" service=")?;
    let pooled = match message {
        "pooled" | "pooled before its first checks" | "pooled though it is not up" => true,
        "depooled" => false,
        _ => return None,
    };
    let (service, rest) = rest.split_once(" host=")?;
    Some((service, rest.split(' ').next()?, pooled))
}
