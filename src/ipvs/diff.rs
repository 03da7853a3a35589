//! (wanted, held) → ordered changes. Pure: reads nothing, applies nothing.
//!
//! The order keeps traffic alive: a service comes before its destinations, and destinations are added before
//! others are removed, so that a pool is not empty for a moment. What exists is edited in place: deleting and
//! adding again would lose connections, counters and the scheduler's state.

use std::sync::Arc;

use super::table::{Change, Destination, Held, Settings};
use crate::service::Destinations;

/// What a service shall be.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) settings: Settings,
    pub(super) destinations: Arc<Destinations>,
}

pub(super) fn changes(wanted: &Wanted, held: Option<&Held>) -> Vec<Change> {
    let mut changes = Vec::new();
    match held {
        None => changes.push(Change::AddService(wanted.settings.clone())),
        Some(held) if held.settings != wanted.settings => {
            changes.push(Change::EditService(wanted.settings.clone()));
        }
        Some(_) => {}
    }
    let mut edits = Vec::new();
    for (&backend, &to) in wanted.destinations.iter() {
        let to = Destination::from(to);
        match held.and_then(|held| held.destinations.get(&backend)) {
            None => changes.push(Change::AddDestination(backend, to)),
            Some(is) if *is != to => edits.push(Change::EditDestination(backend, to)),
            Some(_) => {}
        }
    }
    changes.append(&mut edits);
    let there = held.into_iter().flat_map(|held| held.destinations.keys());
    changes.extend(
        there
            .filter(|backend| !wanted.destinations.contains_key(backend))
            .map(|backend| Change::RemoveDestination(*backend)),
    );
    changes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::super::memory::Memory;
    use super::super::table::{Backend, Encapsulation, ONE_PACKET};
    use super::*;
    use crate::service::{Protocol, VirtualService, Weight};

    fn key(last: u8) -> VirtualService {
        VirtualService::Address {
            protocol: Protocol::Tcp,
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)),
            port: 80,
        }
    }

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn settings() -> impl Strategy<Value = Settings> {
        (
            prop::sample::select(vec!["wrr", "sh", "mh"]),
            prop::sample::select(vec![0, ONE_PACKET, 8, 0x1d]),
            any::<bool>(),
        )
            .prop_map(|(scheduler, flags, sip)| Settings {
                scheduler: scheduler.into(),
                flags,
                timeout: 0,
                netmask: u32::MAX,
                engine: sip.then(|| "sip".into()),
            })
    }

    fn wanted() -> impl Strategy<Value = Wanted> {
        let destinations = prop::collection::btree_map(0u8..6, 0u32..3, 0..6);
        (
            prop::sample::select(vec!["wrr", "sh"]),
            any::<bool>(),
            destinations,
        )
            .prop_map(|(scheduler, ops, destinations)| Wanted {
                settings: Settings {
                    scheduler: scheduler.into(),
                    flags: if ops { ONE_PACKET } else { 0 },
                    timeout: 0,
                    netmask: u32::MAX,
                    engine: None,
                },
                destinations: Arc::new(
                    destinations
                        .into_iter()
                        .map(|(last, weight)| (server(last), Weight::new(weight).unwrap().into()))
                        .collect(),
                ),
            })
    }

    fn destination() -> impl Strategy<Value = (Backend, Destination)> {
        (
            0u8..6,
            prop::sample::select(vec![80u16, 81]),
            0u32..3,
            prop::sample::select(vec![0u32, 2, 3]),
            0u32..2,
        )
            .prop_map(|(last, port, weight, forward, upper)| {
                (
                    SocketAddr::new(server(last).ip(), port),
                    Destination {
                        weight,
                        forward,
                        upper,
                        lower: 0,
                        tunnel: Encapsulation::default(),
                    },
                )
            })
    }

    fn held() -> impl Strategy<Value = Option<Held>> {
        prop::option::of(
            (settings(), prop::collection::vec(destination(), 0..8)).prop_map(
                |(settings, destinations)| Held {
                    settings,
                    destinations: destinations.into_iter().collect(),
                    traffic: Arc::default(),
                },
            ),
        )
    }

    fn as_held(wanted: &Wanted) -> Held {
        let destinations = wanted
            .destinations
            .iter()
            .map(|(backend, to)| (*backend, (*to).into()))
            .collect();
        Held {
            settings: wanted.settings.clone(),
            destinations,
            traffic: Arc::default(),
        }
    }

    fn put(memory: &Memory, key: VirtualService, held: &Held) {
        let mut all = vec![Change::AddService(held.settings.clone())];
        all.extend(
            held.destinations
                .iter()
                .map(|(backend, to)| Change::AddDestination(*backend, to.clone())),
        );
        let outcome = memory.change(key, &all);
        assert!(outcome.refusals.is_empty());
    }

    proptest! {
        #[test]
        fn makes_the_table_as_wanted(wanted in wanted(), held in held(), foreign in held()) {
            let memory = Memory::default();
            if let Some(held) = &held {
                put(&memory, key(1), held);
            }
            if let Some(foreign) = &foreign {
                put(&memory, key(2), foreign);
            }
            let mut filled = held.as_ref().is_some_and(|held| !held.destinations.is_empty());
            for change in changes(&wanted, held.as_ref()) {
                prop_assert_ne!(&change, &Change::RemoveService);
                let outcome = memory.change(key(1), std::slice::from_ref(&change));
                prop_assert!(outcome.refusals.is_empty(), "{:?}", outcome.refusals);
                let count = outcome.held.map_or(0, |held| held.destinations.len());
                prop_assert!(count > 0 || !filled || wanted.destinations.is_empty(), "empty after {}", change);
                filled |= count > 0;
            }
            let after = memory.change(key(1), &[]).held;
            prop_assert_eq!(after.as_ref(), Some(&as_held(&wanted)));
            prop_assert_eq!(changes(&wanted, after.as_ref()), vec![]);
            prop_assert_eq!(memory.change(key(2), &[]).held, foreign);
        }
    }

    #[test]
    fn edits_in_place() {
        let wanted = Wanted {
            settings: Settings {
                scheduler: "sh".into(),
                flags: 0,
                timeout: 0,
                netmask: u32::MAX,
                engine: None,
            },
            destinations: Arc::new(BTreeMap::from([
                (server(1), Weight::new(5).unwrap().into()),
                (server(2), Weight::DEFAULT.into()),
            ])),
        };
        let held = Held {
            settings: Settings {
                scheduler: "wrr".into(),
                flags: 0,
                timeout: 0,
                netmask: u32::MAX,
                engine: None,
            },
            destinations: BTreeMap::from([
                (server(1), Destination::direct(10)),
                (server(3), Destination::direct(10)),
            ]),
            traffic: Arc::default(),
        };
        assert_eq!(
            changes(&wanted, Some(&held)),
            [
                Change::EditService(wanted.settings.clone()),
                Change::AddDestination(server(2), Destination::direct(10)),
                Change::EditDestination(server(1), Destination::direct(5)),
                Change::RemoveDestination(server(3)),
            ]
        );
    }
}
