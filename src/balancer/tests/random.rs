//! Random sequences of everything that can happen, with the invariants checked after every step; and the
//! same events at the same times give the same snapshot.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use super::*;
use crate::check::{FlapHold, Load, LoadFrom, LoadKind, Start};
use crate::config::{Announce, Needs, WithdrawWhen};
use crate::event::CheckId;

use crate::service::{Action, Family, Freshness, Note, Override, Overruled};
use crate::snapshot::{Refusal, Scaled};

/// An event before it is known what checks and services there are.
#[derive(Clone, Debug)]
enum Step {
    List(RandomList),
    /// Several at once.
    Together(Vec<RandomList>),
    SourceFailed {
        service: u8,
    },
    Resolved {
        host: u8,
        addresses: Vec<u8>,
    },
    Unresolved {
        host: u8,
    },
    /// The `check`th of the service's checks, or one that is not there.
    Checked {
        service: u8,
        check: u64,
        up: bool,
    },
    /// The same check goes down and up so often.
    Flaps {
        service: u8,
        check: u64,
        times: u8,
    },
    Load {
        service: u8,
        check: u64,
        percent: u32,
    },
    Found {
        service: u8,
        addresses: Vec<u8>,
    },
    Applied {
        service: u8,
    },
    NotApplied {
        service: u8,
        holds: bool,
    },
    Addresses {
        present: bool,
    },
    /// All that drain have done so.
    Drained {
        service: u8,
    },
    /// Peers have been told what the snapshot says.
    Announced,
    /// In place of the lists; `None`: no longer.
    Override {
        host: u8,
        service: Option<u8>,
        action: Option<Action>,
        seconds: u8,
    },
    Configured {
        variant: u8,
    },
    Pass {
        seconds: u8,
    },
    Stop,
}

#[derive(Clone, Debug)]
struct RandomList {
    service: u8,
    hosts: Vec<(u8, bool, u32)>,
    /// Whom the operator has confirmed, listed or not.
    confirmed: Vec<u8>,
    revision: Option<u64>,
    freshness: Freshness,
}

fn list() -> impl Strategy<Value = RandomList> {
    let hosts = prop::collection::vec((0..8u8, any::<bool>(), 0..3u32), 1..7);
    let confirmed = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(0..8u8, 1..4),
    ];
    let revision = prop_oneof![1 => Just(None), 9 => (0..9u64).prop_map(Some)];
    let age = Duration::from_secs(100);
    let freshness = prop_oneof![
        4 => Just(Freshness::Current),
        2 => Just(Freshness::CatchUp),
        1 => Just(Freshness::Saved { age }),
    ];
    (0..3u8, hosts, confirmed, revision, freshness).prop_map(
        |(service, hosts, confirmed, revision, freshness)| RandomList {
            service,
            hosts,
            confirmed,
            revision,
            freshness,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Depool),
        Just(Action::Pool),
        (0..3u32).prop_map(|number| Action::Weight(weight(number))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let service = 0..3u8;
    let some = || prop::collection::vec(0..6u8, 0..5);
    prop_oneof![
        4 => list().prop_map(Step::List),
        1 => prop::collection::vec(list(), 1..4).prop_map(Step::Together),
        1 => service.clone().prop_map(|service| Step::SourceFailed { service }),
        4 => (4..8u8, prop::collection::vec(0..6u8, 1..3))
            .prop_map(|(host, addresses)| Step::Resolved { host, addresses }),
        1 => (4..8u8).prop_map(|host| Step::Unresolved { host }),
        20 => (service.clone(), 0..30u64, any::<bool>())
            .prop_map(|(service, check, up)| Step::Checked { service, check, up }),
        2 => (service.clone(), 0..30u64, 1..4u8)
            .prop_map(|(service, check, times)| Step::Flaps { service, check, times }),
        3 => (service.clone(), 0..30u64, 10..=200u32)
            .prop_map(|(service, check, percent)| Step::Load { service, check, percent }),
        1 => (service.clone(), some()).prop_map(|(service, addresses)| Step::Found { service, addresses }),
        6 => service.clone().prop_map(|service| Step::Applied { service }),
        2 => service.clone().prop_map(|service| Step::Drained { service }),
        1 => (service, any::<bool>()).prop_map(|(service, holds)| Step::NotApplied { service, holds }),
        2 => (0..8u8, prop::option::of(0..3u8), prop::option::of(action()), 1..100u8)
            .prop_map(|(host, service, action, seconds)| Step::Override { host, service, action, seconds }),
        2 => any::<bool>().prop_map(|present| Step::Addresses { present }),
        2 => Just(Step::Announced),
        3 => (0..VARIANTS).prop_map(|variant| Step::Configured { variant }),
        1 => (0..20u8).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Stop),
    ]
}

/// Hosts 0 to 3 are IP literals, 4 to 7 names.
fn host_number(i: u8) -> Host {
    match i {
        0..4 => host(&format!("10.0.0.{i}")),
        _ => host(&format!("cp{i}")),
    }
}

fn address_number(i: u8) -> IpAddr {
    [10, 0, 0, i].into()
}

const VARIANTS: u8 = 25;

/// Those of them that have to do with servers that come and come back.
const COMEBACKS: [u8; 4] = [20, 21, 22, 23];

fn comeback(variant: u8) -> Comeback {
    let seconds = Duration::from_secs;
    let flap_hold = FlapHold {
        transitions: 2,
        within: seconds(30),
        hold: seconds(8),
        longest: seconds(20),
    };
    Comeback {
        start: match variant {
            21 => Start::Up,
            22 => Start::Down,
            _ => Start::Last,
        },
        flap_hold: (variant != 22).then_some(flap_hold),
        slow_start: (variant != 21).then_some(seconds(30)),
    }
}

/// Its answers tell the server's load.
fn telling(max_delay: u64, most: u32) -> Arc<Monitor> {
    let load = Load {
        from: LoadFrom::Output,
        what: LoadKind::Weight,
        smoothing: 0,
        step: 1000,
        least: 10,
        most,
    };
    Arc::new(Monitor {
        load: Some(load),
        ..Monitor::clone(&monitor(max_delay))
    })
}

fn variant(variant: u8) -> Config {
    let mut text = service("s0", "192.0.2.1", 80);
    let mut other = service("s1", "192.0.2.1", 443);
    match variant {
        0 => {}
        1 => text.depool_guard = DepoolGuard::Off,
        2 => text.depool_guard = DepoolGuard::Last,
        3 => text.monitors = vec![monitor(1), monitor(2)],
        4 => other = service("s1", "192.0.2.2", 443),
        // Renamed, swapped, one more on an address that may be announced, another one in its place.
        5 => text.name = name("s2"),
        6 => std::mem::swap(&mut text.name, &mut other.name),
        7 => return config([text, other, service("s2", "192.0.2.1", 8080)]),
        8 => other = service("s1", "192.0.2.1", 8080),
        9 => text.servers = Servers::File("/pools/elsewhere.json".into()),
        10 => {
            text.depool_threshold = Threshold::new(0.8).expect("in range");
            return config([text]);
        }
        24 => {
            text.drain_timeout = Duration::from_secs(20);
            other.drain_timeout = Duration::from_secs(3);
        }
        20..24 => {
            text.comeback = comeback(variant);
            other.comeback = comeback(variant);
            text.monitors = match variant {
                20 => vec![telling(1, 100)],
                23 => vec![telling(1, 200), telling(2, 150)],
                _ => vec![telling(1, 200), monitor(2)],
            };
        }
        _ => {
            let announce = Arc::new(announce(variant));
            (text.announce, other.announce) = (announce.clone(), announce);
            text.depool_guard = DepoolGuard::Off;
        }
    }
    config([text, other])
}

fn announce(variant: u8) -> Announce {
    let (withdraw_when, services, up_delay) = match variant {
        11 => (WithdrawWhen::NotPooled, Needs::All, 5),
        12 => (WithdrawWhen::NotPooled, Needs::Any, 5),
        13 => (WithdrawWhen::Never, Needs::All, 2),
        14 => (WithdrawWhen::Never, Needs::Any, 0),
        15 => (WithdrawWhen::Failed, Needs::Any, 20),
        16 => (WithdrawWhen::Failed, Needs::All, 0),
        17 => (WithdrawWhen::Degraded, Needs::All, 5),
        _ => (WithdrawWhen::Degraded, Needs::Any, 2),
    };
    Announce {
        announce: variant < 19,
        degraded: Arc::new(Policy::of_med(55)),
        withdraw_when,
        services,
        up_delay: Duration::from_secs(up_delay),
        ..Announce::default()
    }
}

impl Story {
    /// `None`: there is no such service.
    fn random_list(&self, list: &RandomList) -> Option<Event> {
        let service = name(&format!("s{}", list.service));
        self.snapshot.services.get(&service)?;
        let entry = |(i, enabled, w): &(u8, bool, u32)| {
            let (enabled, weight) = (*enabled, weight(*w));
            (host_number(*i), Listed { enabled, weight })
        };
        let note = Note {
            confirmed: true,
            ..Note::default()
        };
        let list = Listing {
            servers: list.hosts.iter().map(entry).collect(),
            notes: (list.confirmed.iter())
                .map(|i| (host_number(*i), note.clone()))
                .collect(),
            faults: BTreeMap::new(),
            revision: list.revision,
            freshness: list.freshness,
        };
        Some(self.list_event(service.as_str(), list))
    }

    /// All has come in that can, and all is well.
    fn serve(&mut self) {
        let services: Vec<ServiceName> = self.snapshot.services.keys().cloned().collect();
        for service in &services {
            let number = service
                .as_str()
                .strip_prefix('s')
                .and_then(|n| n.parse().ok());
            let service_number = number.expect("s0, s1, …");
            self.step(&Step::Found {
                service: service_number,
                addresses: Vec::new(),
            });
            self.list(service.as_str(), servers(4));
            for i in 1..=4 {
                self.up(service.as_str(), &format!("10.0.0.{i}"));
            }
        }
        self.step(&Step::Addresses { present: true });
        self.apply();
    }

    fn step(&mut self, step: &Step) {
        let known = |service: &u8| {
            let service = name(&format!("s{service}"));
            self.snapshot.services.get(&service).cloned()
        };
        match step {
            Step::List(list) => {
                if let Some(event) = self.random_list(list) {
                    self.event(event);
                }
            }
            Step::Together(lists) => {
                let events = lists.iter().filter_map(|list| self.random_list(list));
                self.event(Event::Together(events.collect()));
            }
            Step::SourceFailed { service } => {
                let Some(view) = known(service) else { return };
                let (service, from) = (view.config.name.clone(), view.config.servers.clone());
                self.event(Event::SourceFailed {
                    service,
                    from,
                    fault: "missing".into(),
                });
            }
            Step::Resolved { host, addresses } => {
                let addresses: BTreeSet<IpAddr> =
                    addresses.iter().copied().map(address_number).collect();
                let addresses = addresses.into_iter().collect();
                self.event(Event::Resolved {
                    host: host_number(*host),
                    family: Family::Ipv4,
                    addresses,
                });
            }
            Step::Unresolved { host } => {
                let host = host_number(*host);
                self.event(Event::Unresolved {
                    host,
                    family: Family::Ipv4,
                    fault: "NXDOMAIN".into(),
                });
            }
            Step::Flaps {
                service,
                check,
                times,
            } => {
                for n in 0..times * 2 {
                    self.step(&Step::Checked {
                        service: *service,
                        check: *check,
                        up: n % 2 == 1,
                    });
                }
            }
            Step::Load {
                service,
                check,
                percent,
            } => {
                let Some(view) = known(service) else { return };
                let check = check_number(&view, *check);
                let of = view.checks.get(&check).map(|check| &check.monitor);
                // Its monitor keeps to its bounds, and one that does not look has nothing to tell.
                let most = of.and_then(|monitor| monitor.load.as_ref());
                let Some(most) = most.map(|load| load.most) else {
                    return;
                };
                self.event(Event::Load {
                    service: view.config.name.clone(),
                    check,
                    percent: (*percent).min(most),
                });
            }
            Step::Checked { service, check, up } => {
                let Some(view) = known(service) else { return };
                let check = check_number(&view, *check);
                let verdict = if *up {
                    Verdict::Up
                } else {
                    Verdict::Down("no".into())
                };
                self.event(Event::Checked {
                    service: view.config.name.clone(),
                    check,
                    verdict,
                });
            }
            Step::Found { service, addresses } => {
                // Once a service, before anything of it is applied: that is the sink's promise.
                let Some(view) = known(service).filter(|view| !self.found.contains(&view.key()))
                else {
                    return;
                };
                self.found.insert(view.key());
                let port = view.key().port().expect("one of these services");
                let at = |i: &u8| SocketAddr::new(address_number(*i), port);
                let found = addresses
                    .iter()
                    .map(|i| (at(i), weight(1).into()))
                    .collect();
                self.event(Event::Found([(view.key(), found)].into()));
            }
            Step::Applied { service } => {
                let Some(view) = known(service) else { return };
                let Some(destinations) = view.destinations.clone() else {
                    return;
                };
                self.event(Event::Applied {
                    service: view.key(),
                    destinations,
                });
            }
            Step::Drained { service } => {
                let Some(view) = known(service) else { return };
                self.event(Event::Drained {
                    service: view.key(),
                    backends: BTreeSet::clone(&view.draining),
                });
            }
            Step::NotApplied { service, holds } => {
                let Some(view) = known(service) else { return };
                let fault = "no such scheduler".into();
                self.event(Event::NotApplied {
                    service: view.key(),
                    fault,
                    holds: *holds,
                });
            }
            Step::Addresses { present } => {
                let present = present
                    .then(|| self.snapshot.vips.keys().copied().collect())
                    .unwrap_or_default();
                self.event(Event::Addresses {
                    present,
                    faults: BTreeMap::new(),
                });
            }
            Step::Announced => {
                let told = self
                    .snapshot
                    .vips
                    .iter()
                    .filter(|(_, vip)| vip.announce.is_ok());
                let told = told.map(|(address, _)| *address).collect();
                self.event(Event::Announced(told));
            }
            Step::Configured { variant: v } => {
                let config = variant(*v);
                // The sink looks again where a service has another name.
                let old = self.snapshot.config.services.clone();
                let same = |name, key| {
                    old.get(name)
                        .is_some_and(|old: &Arc<Service>| old.key == key)
                };
                self.found.retain(|key| {
                    let mut services = config.services.iter();
                    services.any(|(name, new)| new.key == *key && same(name, *key))
                });
                self.event(Event::Configured(Arc::new(config)));
            }
            Step::Override {
                host,
                service,
                action,
                seconds,
            } => {
                let overruled = Overruled {
                    host: host_number(*host),
                    service: service.map(|service| name(&format!("s{service}"))),
                };
                self.event(match action {
                    Some(action) => Event::Override {
                        overruled,
                        by: Override {
                            action: *action,
                            note: Arc::default(),
                        },
                        left: Duration::from_secs((*seconds).into()),
                    },
                    None => Event::OverrideEnded(overruled),
                });
            }
            Step::Pass { seconds } => {
                self.pass(Duration::from_secs((*seconds).into()));
            }
            Step::Stop => {
                self.event(Event::Stop);
            }
        }
    }
}

fn check_number(view: &snapshot::Service, number: u64) -> CheckId {
    let known = view.checks.keys().nth(number as usize);
    known.copied().unwrap_or(CheckId(number))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("seeds"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_invariants_hold_whatever_happens(first in 0..VARIANTS, well in any::<bool>(), steps in prop::collection::vec(step(), 1..120)) {
        let run = |mut story: Story| {
            if well {
                story.serve();
            }
            for step in &steps {
                story.step(step);
            }
            story
        };
        let story = Story::new(variant(first));
        let again = Story::at(story.now, variant(first));
        let (story, again) = (run(story), run(again));
        // The checks' numbers, the pools, the addresses, the reasons: all the same.
        prop_assert_eq!(format!("{:?}", story.snapshot), format!("{:?}", again.snapshot));
    }

    /// When all has come in that can, everything that is up is pooled and announced.
    #[test]
    fn in_the_end_it_serves(first in prop_oneof![Just(0), prop::sample::select(&COMEBACKS[..])], steps in prop::collection::vec(step(), 1..60)) {
        let mut story = Story::new(variant(first));
        for step in steps.iter().filter(|step| !matches!(step, Step::Stop | Step::Configured { .. })) {
            story.step(step);
        }
        story.serve();
        // No operator says otherwise any more.
        story.pass(Duration::from_secs(100));
        // Whoever was kept down is let go, and then nobody is on the way any more.
        story.pass(Duration::from_secs(60));
        story.pass(Duration::from_secs(60));
        for service in story.snapshot.services.values() {
            prop_assert_eq!(service.destinations.as_ref().map(|d| d.len()), Some(4));
            let slow = |by: &Scaled| matches!(by, Scaled::SlowStart { .. });
            prop_assert!(!service.servers.values().any(|s| s.scaled.iter().any(slow)));
        }
        prop_assert!(story.snapshot.vips.values().all(|vip| vip.announce != Err(Refusal::NotApplied)));
        prop_assert!(story.snapshot.vips.values().all(|vip| vip.announce.is_ok()));
    }
}
