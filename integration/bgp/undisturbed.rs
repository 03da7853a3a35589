//! The speaker's thread: nothing that the rest of the process does keeps it from its work, and it goes when the
//! speaker does.

use std::fs::read_link;
use std::path::PathBuf;
use std::time::Duration;

use plimsoll::routing::session::SessionState;

use crate::fake::within;
use crate::netns::{Namespace, until};
use crate::router::Kind;
use crate::{FIRST, Lab, v4, v6};

/// How many threads of this process have the speaker's name, in this namespace: other tests have theirs.
fn threads(namespace: &Namespace) -> usize {
    let ours = within(namespace, || read_link("/proc/thread-self/ns/net").unwrap());
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let is_speaker = |task: &PathBuf| {
        let name = std::fs::read_to_string(task.join("comm"));
        name.is_ok_and(|name| name.trim() == "bgp")
            && read_link(task.join("ns/net")).is_ok_and(|net| net == ours)
    };
    let tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
    tasks.filter(is_speaker).count()
}

/// The runtime that everything else runs on hangs for longer than three hold times; a withdrawal and an
/// announcement go out meanwhile.
#[test]
fn a_busy_runtime_costs_nothing() {
    let (lab, mut speaker) = Lab::up(Kind::Bird);
    let router = &lab.routers[0];
    let session = router.session();
    let busy = Duration::from_secs(10);
    let begun = std::time::Instant::now();
    speaker.keep_busy(busy);
    speaker.withdraw("192.0.2.1");
    speaker.announce("192.0.2.2", 30);
    router.expect(&[v4("192.0.2.2", 30), v6("2001:db8::1", 20)]);
    assert!(begun.elapsed() < busy / 2, "it was not held up");
    // Events are what the busy runtime owes us.
    let limit = Duration::from_secs(20);
    speaker.until(limit, "the events come", |speaker| {
        speaker.announced == ["192.0.2.2".parse().unwrap(), "2001:db8::1".parse().unwrap()].into()
    });
    assert!(begun.elapsed() > busy, "it was busy");
    assert_eq!(router.session(), session, "the session held");
    assert_eq!(speaker.state(FIRST), Some(SessionState::Established));
}

#[test]
fn a_dropped_speaker_leaves_nothing_behind() {
    let (lab, speaker) = Lab::up(Kind::Bird);
    assert_eq!(threads(&lab.balancer), 1);
    drop(speaker);
    lab.routers[0].expect(&[]);
    until(Duration::from_secs(5), "the thread ends", || {
        (threads(&lab.balancer) == 0).then_some(())
    });
    let (sockets, _) = lab.routers[0].connections();
    assert_eq!(sockets, 0, "the router sees no connection of ours");
}
