//! What the kernel counts of a service's traffic. It changes all the time, so that no snapshot carries it: read with
//! the table by who programs it, and shown as it is at that moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Older figures are none: IPVS cannot be read. It is tried at least every 5 s.
const FRESH: Duration = Duration::from_secs(10);

/// Of one service, for as long as it is configured.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<Option<(Instant, Arc<Reading>)>>);

impl Traffic {
    pub fn note(&self, at: Instant, reading: Arc<Reading>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((at, reading));
    }

    /// The last one; `None`: there is none, or it is too old.
    pub fn reading(&self, now: Instant) -> Option<Arc<Reading>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, reading) = last.as_ref()?;
        (now.saturating_duration_since(*at) <= FRESH).then(|| reading.clone())
    }
}

/// What was read at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The service's own, of servers that have left it, too.
    pub counts: Counts,
    /// By what the kernel knows them by.
    pub servers: BTreeMap<SocketAddr, ServerTraffic>,
}

/// Of one server of a service. All of it begins anew when the kernel gets the server anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerTraffic {
    /// Of TCP: begun and not ended, counted from the first packet on. Of UDP: all.
    pub active: u32,
    /// Ended, but not forgotten yet: for 2 minutes, if `ipvsadm --set` says nothing else.
    pub inactive: u32,
    /// Clients that persistence ties to the server.
    pub persistent: u32,
    pub counts: Counts,
}

/// What `ipvsadm --stats` and `--rate` show. What comes from clients is `in`, what answers them `out`: the kernel
/// sees answers with masquerading only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// The same a second, as the kernel reckons it over some of the last ones.
    pub connection_rate: u64,
    pub packet_rate_in: u64,
    pub packet_rate_out: u64,
    pub byte_rate_in: u64,
    pub byte_rate_out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::sample;

    #[test]
    fn old_figures_are_none() {
        let traffic = Traffic::default();
        let now = sample::now();
        assert_eq!(traffic.reading(now), None);
        traffic.note(now, Arc::default());
        let after = |seconds| traffic.reading(now + Duration::from_secs(seconds));
        assert_eq!(after(10).as_deref(), Some(&Reading::default()));
        assert_eq!(after(11), None);
    }
}
