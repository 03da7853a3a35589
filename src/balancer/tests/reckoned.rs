//! What peers are told of each address, reckoned a second time and in another way: from all that was seen of it
//! since it was first announced, where the balancer remembers as little as it can.

use std::net::IpAddr;
use std::time::Instant;

use super::Story;
use crate::config::{Announce, Needs, WithdrawWhen};
use crate::service::ServiceName;
use crate::snapshot::{Announcement, Condition, Refusal, Vip};

/// 0 healthy, 1 degraded, 2 failed, 3 withdrawn.
type Level = usize;

#[derive(Default)]
pub(super) struct Seen {
    /// How the address was from each of these moments on.
    levels: Vec<(Instant, Level)>,
    told: Level,
}

/// After every step: worse at once, better after `up-delay` without a break, and nothing else.
pub(super) fn hold(story: &mut Story) {
    let snapshot = story.snapshot.clone();
    story
        .seen
        .retain(|address, _| snapshot.vips.contains_key(address));
    for (address, vip) in &snapshot.vips {
        let Some(announce) = wanted(story, vip) else {
            story.seen.remove(address);
            let taken_out = [
                Refusal::NoBgp,
                Refusal::Retiring,
                Refusal::NotConfigured,
                Refusal::Stopping,
            ];
            let refusal = vip.announce.clone().expect_err("its operator took it out");
            assert!(taken_out.contains(&refusal), "{refusal:?}");
            continue;
        };
        let level = level(story, vip, &announce);
        let told = told(story, *address, level, &announce);
        check(story, *address, vip, level, told);
    }
}

fn wanted(story: &Story, vip: &Vip) -> Option<Announce> {
    let first = vip.services.first()?;
    let announce = &story.snapshot.services[first].config.announce;
    let out = story.snapshot.stopping || story.snapshot.config.bgp.is_none();
    (announce.announce && !out).then(|| Announce::clone(announce))
}

fn level(story: &Story, vip: &Vip, announce: &Announce) -> Level {
    let new = |name: &&ServiceName| story.balancer.bearings[*name].newcomer;
    let counted: Vec<&ServiceName> = if vip.services.iter().all(|name| new(&name)) {
        vip.services.iter().collect()
    } else {
        vip.services.iter().filter(|name| !new(name)).collect()
    };
    let able = |name: &&ServiceName| able(story, name, announce);
    let condition = |name: &ServiceName| story.snapshot.services[name].condition;
    let condition = match announce.services {
        Needs::All if !counted.iter().all(&able) => None,
        Needs::All => counted.into_iter().map(condition).max(),
        // Of all of them: one that is new and able is not new any more.
        Needs::Any => vip.services.iter().filter(able).map(condition).min(),
    };
    match condition.filter(|_| vip.present) {
        Some(Condition::Healthy) => 0,
        Some(Condition::Degraded) if announce.withdraw_when != WithdrawWhen::Degraded => 1,
        Some(Condition::Failed)
            if [WithdrawWhen::NotPooled, WithdrawWhen::Never].contains(&announce.withdraw_when) =>
        {
            2
        }
        Some(Condition::Degraded | Condition::Failed) | None => 3,
    }
}

/// Whether clients of the service reach somebody; if it is never withdrawn for its servers: whether the kernel
/// has the service.
fn able(story: &Story, name: &ServiceName, announce: &Announce) -> bool {
    let service = &story.snapshot.services[name];
    let checked = story.balancer.bearings[name].refusal != Some(Refusal::NotChecked);
    let Some(wanted) = service.destinations.as_ref().filter(|_| checked) else {
        return false;
    };
    let serves = story.kernel.contains(&service.key());
    if announce.withdraw_when == WithdrawWhen::Never {
        serves || story.in_kernel.contains_key(&service.key())
    } else {
        serves && wanted.values().any(|to| to.weight.get() > 0)
    }
}

fn told(story: &mut Story, address: IpAddr, level: Level, announce: &Announce) -> Level {
    let now = story.now;
    let known = story.seen.contains_key(&address);
    if !known && level == 3 {
        return 3;
    }
    let seen = story.seen.entry(address).or_default();
    seen.levels.push((now, level));
    let within = |at: Instant| now - at < announce.up_delay;
    let first = seen.levels.iter().rposition(|(at, _)| !within(*at));
    let recent = &seen.levels[first.unwrap_or(0)..];
    let worst = recent.iter().map(|(_, level)| *level).max();
    // What has been told is not taken back for what was before: `up-delay` may be another one by now.
    let held = worst.unwrap_or(level).min(seen.told);
    seen.told = level.max(held);
    seen.told
}

fn check(story: &Story, address: IpAddr, vip: &Vip, level: Level, told: Level) {
    let announce = wanted(story, vip).expect("it is wanted");
    let policy = match told {
        0 => Default::default(),
        1 => announce.degraded,
        2 => announce.failed,
        _ => {
            let refusal = vip.announce.clone().expect_err("withdrawn");
            let waits = refusal == Refusal::UpDelay;
            assert_eq!(waits, level < 3, "{address}: {refusal:?}");
            return;
        }
    };
    let bgp = story.snapshot.config.bgp.as_ref().expect("it is wanted");
    let expected = Announcement {
        to: announce.to,
        base: bgp.policy.clone(),
        own: announce.policy,
        condition: policy,
    };
    assert_eq!(vip.announce, Ok(expected), "{address}, {level}");
}
