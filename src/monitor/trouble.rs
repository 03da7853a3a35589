//! What this host lacks for checking at all (file descriptors, memory), told once for all checks.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tracing::warn;

use crate::event::Event;

/// Trouble is over when no check has met any for so long.
const OVER_AFTER: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Trouble {
    met: Notify,
    fault: std::sync::Mutex<Option<String>>,
}

impl Trouble {
    /// A check could not be made, for this reason.
    pub(super) fn met(&self, fault: &str) {
        let mut last = self.lock();
        if last.as_deref() != Some(fault) {
            *last = Some(fault.to_owned());
        }
        self.met.notify_one();
    }

    /// Tells the core when trouble begins and when it is over.
    pub(super) async fn tell(&self, events: &mpsc::Sender<Event>) -> Infallible {
        loop {
            self.met.notified().await;
            let fault = self.lock().clone();
            if let Some(fault) = &fault {
                warn!(fault, "checks are not what they should be");
            }
            let _ = events
                .send(Event::Trouble {
                    part: "monitor",
                    fault,
                })
                .await;
            while timeout(OVER_AFTER, self.met.notified()).await.is_ok() {}
            let _ = events
                .send(Event::Trouble {
                    part: "monitor",
                    fault: None,
                })
                .await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // Whoever panicked inside left a whole Option behind.
        self.fault
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
