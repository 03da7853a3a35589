//! On a real server: its VIPs on `lo`, no ARP for them, and what it takes to receive them in tunnels.
//!
//! ```text
//!  what is wanted ─┐
//!  alarm ──────────┼─► look, list what differs, mend it, look again
//!  every 5 s ──────┘
//! ```
//!
//! What it makes bears a mark of its own, a name of its own or is written down, so that it can be undone: to want
//! nothing is to remove all of it. It answers nobody and balances nothing; a stop leaves everything in place.

mod address;
mod clamp;
mod host;
mod program;
mod saved;
mod setting;
mod step;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use self::host::Host;
pub use self::step::Difference;
use crate::backoff::Backoff;
use crate::rtnl::{Alarm, Lost, MulticastGroup};
use crate::service::{self, Family};

const POLL: Duration = Duration::from_secs(5);
/// The least between two looks, and the first wait before what failed is tried again; both grow up to [`POLL`].
const SHORTEST: Duration = Duration::from_millis(100);
/// What is made in one round is seen in the next: a VIP waits for the ARP settings, an old place for the new one.
const ROUNDS: usize = 4;
/// A change of one of these may be one of what we keep. Only rp_filter is told of, other settings are found by
/// looking.
const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Netconf,
];

/// What this host should be a real server for. Nothing: for nothing, all of ours is removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub vips: BTreeSet<IpAddr>,
    /// How the packets of some VIPs come; those of the others come directly.
    pub tunnels: BTreeMap<IpAddr, BTreeSet<Tunnel>>,
    /// The largest packet, in bytes, that gets from the balancers to here. `None`: the smallest MTU of this host's
    /// Ethernet interfaces, 1500 at most.
    pub mtu: Option<u16>,
}

/// How a balancer sends packets on (`ipvsadm -i`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    pub encapsulation: Encapsulation,
    /// Of the balancer's and this server's own addresses.
    pub outer: Family,
}

/// What a server must know of a [`service::Tunnel`]: it takes UDP with and without a checksum alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encapsulation {
    Ipip,
    /// In UDP to this port.
    Gue {
        port: u16,
    },
    Gre {
        checksum: bool,
    },
}

impl From<service::Tunnel> for Encapsulation {
    fn from(tunnel: service::Tunnel) -> Encapsulation {
        match tunnel {
            service::Tunnel::Ipip => Encapsulation::Ipip,
            service::Tunnel::Gue { port, checksum: _ } => Encapsulation::Gue { port },
            service::Tunnel::Gre { checksum } => Encapsulation::Gre { checksum },
        }
    }
}

/// What differs from what is wanted.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    pub differences: Vec<Difference>,
    /// What could not be looked at, and why.
    pub faults: Vec<String>,
}

impl Report {
    /// All is as it should be.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty() && self.faults.is_empty()
    }

    /// A line for each, without the line's end.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let differences = self.differences.iter().map(ToString::to_string);
        differences.chain(self.faults.iter().cloned())
    }
}

/// Why nothing could be done at all.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("cannot make the directory {}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("another plimsoll realserver works here: it holds {}", .path.display())]
    Busy { path: PathBuf },
    #[error("cannot talk to the kernel")]
    Kernel(#[from] Lost),
}

/// Looks, and touches nothing.
pub async fn check(wanted: &Wanted, directory: &Path) -> Result<Report, Fault> {
    let mut host = Host::look_only(directory)?;
    let found = host.look(wanted).await?;
    Ok(found.report(&BTreeMap::new()))
}

/// Makes it so, once, and says what is still not so.
pub async fn settle(wanted: &Wanted, directory: &Path) -> Result<Report, Fault> {
    let mut host = Host::take(directory)?;
    let worked = work(&mut host, wanted, None, false).await?;
    Ok(worked.left)
}

/// Makes it so and keeps it so, until the sender is gone; then all stays as it is.
pub async fn keep(wanted: watch::Receiver<Arc<Wanted>>, directory: &Path) -> Result<(), Fault> {
    let mut host = Host::take(directory)?;
    let mut keeper = Keeper {
        wanted,
        settled: None,
        told: BTreeSet::new(),
    };
    let mut backoff = Backoff::new(SHORTEST, POLL);
    while let Err(lost) = keeper.serve(&mut host).await {
        warn!(fault = %lost, "lost touch with the kernel");
        sleep(backoff.next()).await;
        if keeper.wanted.has_changed().is_err() {
            break;
        }
        // Where that fails the next request does, too.
        if let Err(lost) = host.reconnect() {
            warn!(fault = %lost, "cannot talk to the kernel");
        }
    }
    Ok(())
}

/// Whether it is known what settings were before us.
pub fn remembers(directory: &Path) -> bool {
    saved::Saved::exists(directory)
}

struct Keeper {
    wanted: watch::Receiver<Arc<Wanted>>,
    /// What this host has been made before: whatever differs from it now was somebody else.
    settled: Option<Arc<Wanted>>,
    /// What was wrong at the last look.
    told: BTreeSet<String>,
}

impl Keeper {
    /// Until the sender is gone, or the kernel can't be talked to any more.
    async fn serve(&mut self, host: &mut Host) -> Result<(), Lost> {
        let mut alarm = Alarm::open(&GROUPS)?;
        let mut repair = Backoff::new(SHORTEST, POLL);
        let mut retry = Backoff::new(SHORTEST, POLL);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let known = self.settled.as_ref() == Some(&wanted);
            let worked = work(host, &wanted, Some(&mut alarm), known).await?;
            let well = worked.left.is_empty();
            self.tell(&worked.left);
            if well && !known {
                info!(vips = wanted.vips.len(), "this host is as it should be");
                self.settled = Some(wanted);
            }
            // Whoever undoes it again and again is not followed at every turn.
            let pause = if worked.mended {
                repair.next()
            } else {
                repair.reset();
                SHORTEST
            };
            let latest = if well {
                retry.reset();
                POLL
            } else {
                retry.next()
            };
            let looked = Instant::now();
            let rung = async {
                alarm.rung().await?;
                sleep_until(looked + pause).await;
                Ok::<(), Lost>(())
            };
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                rung = rung => rung?,
                () = sleep_until(looked + latest) => {}
            }
        }
    }

    /// Each line once, and again if it was gone in between.
    fn tell(&mut self, left: &Report) {
        let lines: BTreeSet<String> = left.lines().collect();
        for line in lines.difference(&self.told) {
            warn!("{line}");
        }
        self.told = lines;
    }
}

struct Worked {
    mended: bool,
    left: Report,
}

async fn work(
    host: &mut Host,
    wanted: &Wanted,
    mut alarm: Option<&mut Alarm>,
    known: bool,
) -> Result<Worked, Lost> {
    let mut failed = BTreeMap::new();
    let mut mended = false;
    let mut round = 0;
    loop {
        // Before the look: what happens after it rings again.
        if let Some(alarm) = &mut alarm {
            alarm.silence();
        }
        let found = host.look(wanted).await?;
        let mut acted = false;
        for step in &found.steps {
            let what = &step.difference.what;
            let Some(action) = &step.action else { continue };
            // Somebody who undoes it as fast is not worth a round more.
            if round == ROUNDS || failed.contains_key(what) {
                continue;
            }
            match host.perform(action).await? {
                Ok(()) => {
                    acted = true;
                    step.log(known);
                }
                Err(why) => {
                    failed.insert(what.clone(), why);
                }
            }
        }
        if !acted {
            let left = found.report(&failed);
            return Ok(Worked { mended, left });
        }
        mended = true;
        round += 1;
    }
}
