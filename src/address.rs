//! Sink: the VIPs on this host's loopback, and the report of which are there.
//!
//! ```text
//!  snapshot ─┐
//!  alarm ────┼─► list, compare, add and remove, list again ──► Event::Addresses
//!  every 5 s ┘
//! ```
//!
//! A VIP that any interface already has is adopted as it is. What we put there bears our mark, so that it can be told
//! from others' after a restart: only what bears the mark is ever removed, and only when it is no longer wanted.
//! When the process stops, the addresses stay. It does not announce them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use nix::errno::Errno;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use crate::event::Event;
pub use crate::rtnl::Lost;
use crate::rtnl::{Alarm, Assigned, Failure, Mark, MulticastGroup, Route, on_lo};
use crate::snapshot::{Snapshot, Vip};

/// By which an address is known to be ours. IFA_PROTO is kept by kernels from 5.18 on; theirs end at 3.
pub const MARK: Mark = Mark {
    protocol: 0x50,
    label: "lo:plimsoll",
};

/// The part's name in [`Event::RepairedHost`].
const ADDRESSES: &str = "addresses";

const POLL: Duration = Duration::from_secs(5);
/// Between two looks that alarms ask for, so that somebody who keeps changing addresses costs no more than this.
const SHORTEST: Duration = Duration::from_millis(100);
/// Between two attempts to reach the kernel: the first wait and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// What [`run`] would do with these VIPs, in its order: each address with what it is and what it would be. Changes
/// nothing.
pub async fn plan(vips: &OrdMap<IpAddr, Arc<Vip>>) -> Result<Vec<(IpAddr, &'static str)>, Lost> {
    let assigned = Route::open()?.addresses().await?;
    let missing = missing(vips, &assigned).map(|vip| (vip, "gone -> on lo"));
    let leftover = |a: &&Assigned| ours(a) && !vips.contains_key(&a.address);
    let leftovers = assigned.iter().filter(leftover);
    let leftovers = leftovers.map(|leftover| (leftover.address, "on lo -> gone"));
    Ok(missing.chain(leftovers).collect())
}

/// Works until the core is gone. Where `manage-addresses` is off they are only looked at.
///
/// The first snapshot must be one of a loaded configuration: what bears our mark and is not in it is removed.
pub async fn run(mut snapshots: watch::Receiver<Arc<Snapshot>>, events: mpsc::Sender<Event>) {
    let mut sink = Sink {
        manage: false,
        vips: OrdMap::new(),
        present: BTreeSet::new(),
        repaired: Vec::new(),
        told: None,
        events,
    };
    sink.take(&mut snapshots);
    let mut delay = FIRST_DELAY;
    loop {
        let began = Instant::now();
        let Err(stopped) = sink.serve(&mut snapshots).await;
        match stopped {
            Stopped::Ended => return,
            Stopped::Lost(why) => warn!(fault = %why, "lost touch with the kernel's addresses"),
        }
        if began.elapsed() > LONGEST_DELAY {
            delay = FIRST_DELAY;
        }
        if snapshots.has_changed().is_err() {
            return;
        }
        sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

enum Stopped {
    /// The core is gone.
    Ended,
    Lost(Lost),
}

impl From<Lost> for Stopped {
    fn from(why: Lost) -> Stopped {
        Stopped::Lost(why)
    }
}

type Report = (BTreeSet<IpAddr>, BTreeMap<IpAddr, String>);

struct Sink {
    /// Whether addresses are put right or only looked at.
    manage: bool,
    vips: OrdMap<IpAddr, Arc<Vip>>,
    present: BTreeSet<IpAddr>,
    /// What was put back and not told yet.
    repaired: Vec<IpAddr>,
    /// What the core was last told.
    told: Option<Report>,
    events: mpsc::Sender<Event>,
}

impl Sink {
    /// Until the kernel can't be talked to any more.
    async fn serve(
        &mut self,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    ) -> Result<Infallible, Stopped> {
        let mut route = Route::open()?;
        let mut alarm = Alarm::open(&[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr])?;
        loop {
            // Before the look: what happens after it rings again.
            alarm.silence();
            let report = self.look(&mut route).await?;
            self.tell(report).await?;
            let looked = Instant::now();
            loop {
                tokio::select! {
                    changed = snapshots.changed() => {
                        changed.map_err(|_| Stopped::Ended)?;
                        if self.take(snapshots) {
                            break;
                        }
                    }
                    rung = alarm.rung() => {
                        rung?;
                        sleep_until(looked + SHORTEST).await;
                        break;
                    }
                    () = sleep_until(looked + POLL) => break,
                }
            }
        }
    }

    /// Whether it makes a difference to us.
    fn take(&mut self, snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> bool {
        let snapshot = snapshots.borrow_and_update();
        let manage = snapshot.config.daemon.manage_addresses;
        let keys = self.vips.diff(&snapshot.vips).any(|item| match item {
            DiffItem::Add(..) | DiffItem::Remove(..) => true,
            DiffItem::Update { .. } => false,
        });
        let different = keys || manage != self.manage;
        self.vips = snapshot.vips.clone();
        self.manage = manage;
        different
    }

    /// Sees what is there and makes it as wanted.
    async fn look(&mut self, route: &mut Route) -> Result<Report, Lost> {
        let mut assigned = route.addresses().await?;
        let mut faults = BTreeMap::new();
        if self.manage {
            let mut changed = false;
            let missing: Vec<_> = missing(&self.vips, &assigned).collect();
            for vip in missing {
                changed = true;
                if let Err(fault) = self.put(route, vip).await? {
                    faults.insert(vip, fault);
                }
            }
            for leftover in assigned
                .iter()
                .filter(|a| ours(a) && !self.vips.contains_key(&a.address))
            {
                changed = true;
                take_away(route, leftover).await?;
            }
            if changed {
                assigned = route.addresses().await?;
            }
        }
        for vip in missing(&self.vips, &assigned) {
            faults.entry(vip).or_insert_with(|| {
                let fault = if self.manage {
                    "someone else removed it again"
                } else {
                    "nobody has put it on this host"
                };
                fault.to_owned()
            });
        }
        let present: BTreeSet<_> = self
            .vips
            .keys()
            .filter(|vip| has(&assigned, vip))
            .copied()
            .collect();
        faults.retain(|vip, _| !present.contains(vip));
        self.present = present.clone();
        Ok((present, faults))
    }

    async fn put(&mut self, route: &mut Route, vip: IpAddr) -> Result<Result<(), String>, Lost> {
        match route.add(on_lo(vip, &MARK)).await {
            Ok(()) if self.present.contains(&vip) => {
                warn!(%vip, "someone removed an address from this host; it was put back on lo");
                self.repaired.push(vip);
                Ok(Ok(()))
            }
            Ok(()) => {
                info!(%vip, "put on lo");
                Ok(Ok(()))
            }
            Err(Failure::Refused(errno)) => Ok(Err(fault(vip, errno))),
            Err(Failure::Lost(why)) => Err(why),
        }
    }

    async fn tell(&mut self, report: Report) -> Result<(), Stopped> {
        for vip in std::mem::take(&mut self.repaired) {
            let change = format!("{vip}: gone -> on lo");
            let part = ADDRESSES;
            self.say(Event::RepairedHost { part, change }).await?;
        }
        if self.told.as_ref() == Some(&report) {
            return Ok(());
        }
        let (present, faults) = report.clone();
        for (vip, fault) in &faults {
            if self
                .told
                .as_ref()
                .is_none_or(|(_, told)| told.get(vip) != Some(fault))
            {
                warn!(%vip, fault, "an address is not on this host");
            }
        }
        self.told = Some(report);
        self.say(Event::Addresses { present, faults }).await
    }

    async fn say(&self, event: Event) -> Result<(), Stopped> {
        self.events.send(event).await.map_err(|_| Stopped::Ended)
    }
}

async fn take_away(route: &mut Route, leftover: &Assigned) -> Result<(), Lost> {
    let vip = leftover.address;
    match route.remove(leftover).await {
        Ok(()) => info!(%vip, "removed from lo"),
        // Somebody was faster.
        Err(Failure::Refused(Errno::EADDRNOTAVAIL)) => {}
        Err(Failure::Refused(errno)) => {
            warn!(%vip, fault = errno.desc(), "cannot remove an address from lo")
        }
        Err(Failure::Lost(why)) => return Err(why),
    }
    Ok(())
}

/// Whether it is on lo and was put there by us, in this run or an earlier one.
fn ours(assigned: &Assigned) -> bool {
    let marked =
        assigned.protocol == Some(MARK.protocol) || assigned.label.as_deref() == Some(MARK.label);
    marked && assigned.on_lo()
}

fn has(assigned: &[Assigned], vip: &IpAddr) -> bool {
    assigned.iter().any(|a| a.address == *vip && a.usable)
}

fn missing<'a>(
    vips: &'a OrdMap<IpAddr, Arc<Vip>>,
    assigned: &[Assigned],
) -> impl Iterator<Item = IpAddr> + use<'a> {
    let there: BTreeSet<_> = assigned
        .iter()
        .filter(|a| a.usable)
        .map(|a| a.address)
        .collect();
    vips.keys().copied().filter(move |vip| !there.contains(vip))
}

/// In an operator's words, with what he can do.
fn fault(vip: IpAddr, errno: Errno) -> String {
    if errno == Errno::EPERM {
        "the kernel does not permit putting it on lo: CAP_NET_ADMIN is missing".to_owned()
    } else if vip.is_ipv6()
        && matches!(
            errno,
            Errno::EACCES | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT
        )
    {
        "IPv6 is off in this kernel or on lo (ipv6.disable, net.ipv6.conf.lo.disable_ipv6)"
            .to_owned()
    } else {
        format!("the kernel refuses to put it on lo: {}", errno.desc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_what_to_do() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(fault(v6, Errno::EACCES).starts_with("IPv6 is off"));
        assert!(fault(v4, Errno::EPERM).contains("CAP_NET_ADMIN"));
        assert_eq!(
            fault(v4, Errno::ENODEV),
            "the kernel refuses to put it on lo: No such device"
        );
    }

    #[test]
    fn an_unusable_address_is_missing() {
        let vip: IpAddr = "2001:db8::1".parse().unwrap();
        let there = |usable| {
            [Assigned {
                address: vip,
                prefix_length: 128,
                index: 1,
                label: None,
                protocol: None,
                usable,
                message: Default::default(),
            }]
        };
        assert!(has(&there(true), &vip));
        assert!(!has(&there(false), &vip));
    }
}
