//! The one loop: event or timer → balancer → publish. The only clock the core knows.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::balancer::Balancer;
use crate::event::Event;
use crate::snapshot::Snapshot;

/// How many events that are ready together are taken together, and how many may wait.
pub const EVENTS: usize = 4096;

/// Runs until every sender of events is gone.
pub async fn run(
    mut balancer: Balancer,
    mut events: mpsc::Receiver<Event>,
    snapshots: watch::Sender<Arc<Snapshot>>,
) {
    let mut batch = Vec::with_capacity(EVENTS);
    loop {
        let due = balancer.wake_at();
        let timer = async {
            match due {
                Some(at) => sleep_until(Instant::from_std(at)).await,
                None => std::future::pending().await,
            }
        };
        let taken = tokio::select! {
            taken = events.recv_many(&mut batch, EVENTS) => taken,
            () = timer => usize::MAX,
        };
        if taken == 0 {
            return;
        }
        let now = Instant::now().into_std();
        balancer.tick(now);
        for event in batch.drain(..) {
            balancer.handle(event, now);
        }
        snapshots.send_replace(balancer.snapshot(now));
    }
}
