//! Who speaks from which port of ours to which VIP, and who did until a moment ago.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::filter::LOWEST_PORT;
use super::neighbours::Hop;
use super::packet::Flow;

/// For so long what comes for a closed port is answered by a reset: our own last one may have been lost, and then the
/// server sends its SYN+ACK once more after a second, and again after three (RFC 6298 section 2, Linux's tcp(7)).
const REMEMBERED: Duration = Duration::from_secs(4);
/// So many packets wait for who is to read them.
const INBOX: usize = 16;

#[derive(Default)]
pub(super) struct Ports(Mutex<State>);

#[derive(Default)]
struct State {
    flows: BTreeMap<Flow, Use>,
    /// In order of time; void if the port is in use again.
    closed: VecDeque<(Instant, Flow)>,
}

enum Use {
    Open(mpsc::Sender<Box<[u8]>>),
    Closed(Instant, Hop),
}

/// Who wants a packet.
pub(super) enum Wanted {
    By(mpsc::Sender<Box<[u8]>>),
    /// Nobody any more; resets go there.
    Closed(Hop),
    Unknown,
}

impl Ports {
    /// A port by chance, so that nobody can guess it and no two processes take the same ones.
    /// `None`: all are in use to this VIP.
    pub(super) fn take(
        &self,
        hop: Hop,
        vip: SocketAddr,
        now: Instant,
    ) -> Option<(Flow, mpsc::Receiver<Box<[u8]>>)> {
        let mut state = self.lock();
        state.expire(now);
        let count = u16::MAX - LOWEST_PORT;
        let first = fastrand::u16(0..=count);
        let flows = || {
            (0..=count).map(|n| {
                let port = LOWEST_PORT | (first.wrapping_add(n) & count);
                let ours = SocketAddr::new(hop.source, port);
                Flow { ours, vip }
            })
        };
        let is_free = |flow: &Flow| !state.flows.contains_key(flow);
        let is_closed = |flow: &Flow| matches!(state.flows.get(flow), Some(Use::Closed(..)));
        let flow = flows().find(is_free).or_else(|| flows().find(is_closed))?;
        let (send, inbox) = mpsc::channel(INBOX);
        state.flows.insert(flow, Use::Open(send));
        Some((flow, inbox))
    }

    pub(super) fn close(&self, flow: Flow, hop: Hop, now: Instant) {
        let mut state = self.lock();
        state.expire(now);
        state.flows.insert(flow, Use::Closed(now, hop));
        state.closed.push_back((now, flow));
    }

    pub(super) fn wanted(&self, flow: &Flow) -> Wanted {
        match self.lock().flows.get(flow) {
            Some(Use::Open(inbox)) => Wanted::By(inbox.clone()),
            Some(Use::Closed(_, hop)) => Wanted::Closed(*hop),
            None => Wanted::Unknown,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under it panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn expire(&mut self, now: Instant) {
        while let Some((at, flow)) = self.closed.front().copied()
            && now.saturating_duration_since(at) > REMEMBERED
        {
            self.closed.pop_front();
            if matches!(self.flows.get(&flow), Some(Use::Closed(closed, _)) if *closed == at) {
                self.flows.remove(&flow);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Hop = Hop {
        interface: 2,
        address: [2, 0, 0, 0, 0, 1],
        source: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 1)),
    };

    #[test]
    fn all_ports_once_then_those_of_the_past() {
        let (ports, now) = (Ports::default(), Instant::now());
        let vip = "192.0.2.1:80".parse().expect("an address");
        let take = || ports.take(HOP, vip, now);
        let mut taken: Vec<_> = std::iter::from_fn(take).map(|(flow, _)| flow).collect();
        assert_eq!(taken.len(), 4096);
        assert!(taken.iter().all(|flow| flow.ours.port() >= LOWEST_PORT));
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), 4096);
        // To another port of the VIP they are free.
        let other = "192.0.2.1:443".parse().expect("an address");
        assert!(ports.take(HOP, other, now).is_some());
        // One that was closed is taken again if there is no other.
        ports.close(taken[7], HOP, now);
        assert!(matches!(ports.wanted(&taken[7]), Wanted::Closed(_)));
        assert_eq!(take().map(|(flow, _)| flow), Some(taken[7]));
        assert!(matches!(ports.wanted(&taken[7]), Wanted::By(_)));
    }

    #[test]
    fn what_is_closed_is_forgotten_in_time() {
        let (ports, now) = (Ports::default(), Instant::now());
        let vip = "[2001:db8::1]:80".parse().expect("an address");
        let (flow, _inbox) = ports.take(HOP, vip, now).expect("a port");
        ports.close(flow, HOP, now);
        let (other, _inbox) = ports.take(HOP, vip, now + REMEMBERED).expect("a port");
        assert!(matches!(ports.wanted(&flow), Wanted::Closed(_)));
        ports.close(other, HOP, now + REMEMBERED + Duration::from_millis(1));
        assert!(matches!(ports.wanted(&flow), Wanted::Unknown));
        assert!(matches!(ports.wanted(&other), Wanted::Closed(_)));
    }
}
