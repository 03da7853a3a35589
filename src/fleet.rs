//! Edge: keeps in etcd, under a lease, what this balancer says of itself: that it lives, which addresses it
//! announces how well, and as of which revision it serves each pool.
//!
//! ```text
//!  run ── spawns ─► session.rs, one connection and one lease ─► etcd
//!   ▲                    │  ▲
//!   │                    │  └── statement.rs: newest snapshot → what is to be written
//!   └── good, or a fault ┘
//!   └─► complaint.rs ─► Event::Trouble
//! ```
//!
//! Nothing here bears on what the balancer serves: while etcd is away there is no session, and what is to be
//! told waits in the newest snapshot. Only etcd's v3 API has leases; with `api = "v2"` nothing is told.
//! What stands in etcd is in [`record`]; who reads it is the command line.

mod complaint;
pub mod record;
mod session;
mod statement;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::debug;

use self::complaint::Complaint;
use self::session::{Fault, Session, State};
use crate::backoff::Backoff;
use crate::config::{Etcd, EtcdApi};
use crate::conftool::is_tag;
use crate::event::Event;
use crate::snapshot::Snapshot;

/// Between two rounds through the endpoints: the first wait and the longest. For so long `ctl --wait` may not
/// know of us when etcd is back.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(3);

/// A session that held for so long after its start has shown that etcd is well: the next fault is a new one.
const PROVEN: Duration = Duration::from_secs(10);

/// Who we are among the balancers, for the whole life of the process.
#[derive(Debug)]
struct Me {
    hostname: String,
    /// RFC 3339 in UTC, to the millisecond: what tells us from another process of our name.
    started: String,
}

/// The kernel's name of this host (gethostname(2)), as it is now.
pub fn hostname() -> String {
    // It fails only on a buffer that is too short, and nix's is as long as the kernel's.
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Keeps this balancer's records in etcd while the configuration has `[etcd]` with the v3 API.
///
/// Sends [`Event::Trouble`] when it could not for longer than `[etcd] timeout`. Ends when nobody publishes
/// snapshots any more; and, unlike other edges, when a snapshot says `stopping` and all BGP sessions are
/// closed: the lease is then revoked, if there is a good connection. Whoever stops waits for that a moment
/// and no longer; without it the lease ends by itself.
pub async fn run(
    hostname: String,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let me = Arc::new(Me {
        hostname,
        started: wall_clock(),
    });
    let mut complaint = Complaint::new(events);
    loop {
        let now = wanted(&snapshots.borrow_and_update());
        match &now {
            (_, true) => return,
            (Some(etcd), false) if is_tag(&me.hostname) => {
                keep(&me, etcd, &mut snapshots, &mut complaint).await;
                // What is said of one cluster is not true of the next.
                complaint.withdraw().await;
                if snapshots.has_changed().is_err() {
                    return;
                }
                // While we said farewell to it the same cluster may have come to be wanted again: that is no
                // difference to wait for.
                continue;
            }
            (Some(_), false) => {
                let fault = format!("the host's name {:?} cannot be part of a key", me.hostname);
                complaint.bad("hostname", fault, Duration::ZERO);
                complaint.tell().await;
            }
            (None, false) => complaint.withdraw().await,
        }
        let other = |snapshot: &Arc<Snapshot>| wanted(snapshot) != now;
        if snapshots.wait_for(other).await.is_err() {
            return;
        }
    }
}

/// Keeps the records in this cluster, until another one is wanted or we stop.
async fn keep(
    me: &Arc<Me>,
    etcd: &Arc<Etcd>,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    complaint: &mut Complaint,
) {
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut failed = 0;
    for endpoint in etcd.endpoints.iter().cycle() {
        let session = Session {
            me: me.clone(),
            etcd: etcd.clone(),
            endpoint: endpoint.clone(),
        };
        let began = Instant::now();
        let Some(fault) = hold(session, snapshots, complaint).await else {
            return;
        };
        debug!(%endpoint, %fault, "the fleet's session ended");
        // Whichever the endpoint, a rival is a rival.
        let rival = fault.is_rival();
        if rival {
            complaint.rival(fault.to_string(), etcd.timeout);
        } else {
            complaint.bad(endpoint.as_str(), fault.to_string(), etcd.timeout);
        }
        // One that never came to be good ends before that.
        if began.elapsed() > PROVEN + 3 * etcd.timeout {
            backoff.reset();
            failed = 0;
        }
        failed += 1;
        if failed < etcd.endpoints.len() && !rival {
            continue;
        }
        failed = 0;
        let pause = sleep(backoff.next());
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                () = complaint.due() => complaint.tell().await,
                () = differs(snapshots, etcd) => return,
            }
        }
    }
}

/// One session from its start to its end: the fault, or `None` if it ended as it should.
async fn hold(
    session: Session,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    complaint: &mut Complaint,
) -> Option<Fault> {
    let (etcd, endpoint) = (session.etcd.clone(), session.endpoint.clone());
    let (state, mut states) = watch::channel(State::Starting);
    // In a task of its own, so that a panic in the library ends no more than the session.
    let mut task = JoinSet::new();
    task.spawn(session.run(snapshots.clone(), state));
    let mut starting = true;
    loop {
        tokio::select! {
            ended = task.join_next() => {
                return match ended? {
                    Ok(ended) => ended.err(),
                    Err(panic) => Some(Fault::Ended(panic.to_string())),
                };
            }
            Ok(()) = states.changed() => match &*states.borrow_and_update() {
                State::Starting => {}
                State::Good => {
                    starting = false;
                    complaint.good();
                }
                State::Refused(fault) => {
                    starting = false;
                    complaint.bad(endpoint.as_str(), fault.clone(), etcd.timeout);
                }
            },
            () = complaint.due() => complaint.tell().await,
            // Later it ends by itself, with a farewell.
            () = differs(snapshots, &etcd), if starting => return None,
        }
    }
}

/// The cluster to tell, if any, and whether we are about to go.
fn wanted(snapshot: &Snapshot) -> (Option<Arc<Etcd>>, bool) {
    let etcd = snapshot.config.etcd.as_ref();
    let etcd = etcd.filter(|etcd| etcd.api == EtcdApi::V3).cloned();
    (etcd, snapshot.stopping)
}

/// Returns as soon as this cluster is not the one to tell any more, or we stop, or nobody publishes snapshots.
async fn differs(snapshots: &mut watch::Receiver<Arc<Snapshot>>, etcd: &Arc<Etcd>) {
    let other = |snapshot: &Arc<Snapshot>| {
        let (now, stopping) = wanted(snapshot);
        stopping || now.as_ref() != Some(etcd)
    };
    // An error: nobody publishes any more.
    let _ = snapshots.wait_for(other).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "when we started is told to people of other hosts; nothing is decided by it"
)]
fn wall_clock() -> String {
    humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()
}
