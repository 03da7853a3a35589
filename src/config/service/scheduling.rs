//! Reads how the kernel spreads a service's connections: `scheduler` and its flags, one-packet scheduling, persistence.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::reader::{Node, Table};
use super::super::value::{self, Durations};
use super::key::Known;
use crate::service::{
    Family, Persistence, PersistenceEngine, Protocol, Scheduler, SchedulerFlag, Scheduling,
};

/// ipvsadm(8) allows a month; the kernel counts in seconds.
const PERSISTENCE: Durations = Durations {
    least: Duration::from_secs(1),
    most: Duration::from_secs(31 * 24 * 60 * 60),
    whole_seconds: true,
    example: "5m",
};

pub(super) fn scheduling(table: &Table<'_>, known: Known) -> Option<Scheduling> {
    let scheduler = table.required("scheduler", "scheduler = \"wrr\", say", scheduler);
    let flags = table.or("scheduler-flags", BTreeSet::new(), |node| {
        flags(node, scheduler)
    });
    let one_packet = table.or("one-packet", false, |node| one_packet(node, known.protocol));
    let persistence = persistence(table, known);
    Some(Scheduling {
        scheduler: scheduler?,
        flags: flags?,
        one_packet: one_packet?,
        persistence: persistence?,
    })
}

fn scheduler(node: &Node<'_>) -> Option<Scheduler> {
    let all = Scheduler::ALL.iter();
    node.choice(
        "scheduler",
        all.map(|scheduler| (scheduler.name(), *scheduler)),
    )
}

fn flags(node: &Node<'_>, scheduler: Option<Scheduler>) -> Option<BTreeSet<SchedulerFlag>> {
    const NAMES: [(&str, (Scheduler, SchedulerFlag)); 4] = [
        ("sh-fallback", (Scheduler::Sh, SchedulerFlag::Fallback)),
        ("sh-port", (Scheduler::Sh, SchedulerFlag::Port)),
        ("mh-fallback", (Scheduler::Mh, SchedulerFlag::Fallback)),
        ("mh-port", (Scheduler::Mh, SchedulerFlag::Port)),
    ];
    let items = node.items();
    let flag = |node: &Node<'_>| {
        let (of, flag) = node.choice("scheduler flag", NAMES)?;
        if let Some(scheduler) = scheduler.filter(|scheduler| *scheduler != of) {
            node.mistake(format_args!(
                "it is a flag of the scheduler {of}, this one is {scheduler}; leave it out"
            ));
            return None;
        }
        Some(flag)
    };
    let good: Vec<_> = items.iter().filter_map(flag).collect();
    (good.len() == items.len()).then(|| good.into_iter().collect())
}

fn one_packet(node: &Node<'_>, protocol: Option<Protocol>) -> Option<bool> {
    let one_packet = node.boolean()?;
    if let Some(other) = protocol.filter(|protocol| one_packet && *protocol != Protocol::Udp) {
        let other = other.to_string().to_uppercase();
        node.mistake(format_args!("one-packet scheduling is for UDP, this service is {other}; leave it out or write protocol = \"udp\""));
        return None;
    }
    Some(one_packet)
}

fn persistence(table: &Table<'_>, known: Known) -> Option<Option<Persistence>> {
    let timeout = table.optional("persistence-timeout", |node| {
        value::duration(node, &PERSISTENCE)
    });
    let family = known.address.map(Family::of);
    let prefix_length = table.optional("persistence-prefix-length", |node| {
        let most = match family {
            Some(Family::Ipv4) => 32,
            Some(Family::Ipv6) | None => 128,
        };
        u8::try_from(node.integer(1, most)?).ok()
    });
    let engine = table.optional("persistence-engine", |node| engine(node, known.protocol));
    let Some(timeout) = timeout? else {
        for key in ["persistence-prefix-length", "persistence-engine"] {
            if let Some(node) = table.get(key) {
                node.mistake(
                    "of no use without persistence-timeout; write that too, or leave this out",
                );
                return None;
            }
        }
        return Some(None);
    };
    Some(Some(Persistence {
        timeout: u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX),
        prefix_length: prefix_length?,
        engine: engine?,
    }))
}

fn engine(node: &Node<'_>, protocol: Option<Protocol>) -> Option<PersistenceEngine> {
    let sip = PersistenceEngine::Sip;
    let engine = node.choice("persistence engine", [(sip.name(), sip)])?;
    if protocol != Some(Protocol::Udp) {
        node.mistake(
            "the kernel's looks into SIP over UDP alone; leave it out or write protocol = \"udp\"",
        );
        return None;
    }
    Some(engine)
}
