//! The real [`plimsoll::bgp::run`] on a thread in a network namespace, the snapshots it is given,
//! and the events that it sends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plimsoll::config::{self, Bgp, Config};
use plimsoll::event::Event;
use plimsoll::routing::session::{Session, SessionState};
use plimsoll::routing::{PeerId, Policy};
use plimsoll::snapshot::{Announcement, Condition, Mode, PeerOrders, Refusal, Snapshot, Vip};
use tokio::sync::{mpsc, oneshot, watch};

use crate::netns::Namespace;

pub(crate) struct Speaker {
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: Receiver<Event>,
    stop: Option<oneshot::Sender<()>>,
    busy: mpsc::UnboundedSender<Duration>,
    thread: Option<JoinHandle<()>>,
    pub(crate) peers: BTreeMap<PeerId, Session>,
    pub(crate) announced: BTreeSet<IpAddr>,
    pub(crate) trouble: Option<String>,
    /// Every state of every peer, in order.
    pub(crate) history: Vec<(PeerId, SessionState)>,
}

impl Speaker {
    pub(crate) fn start(namespace: &Namespace, bgp: Bgp) -> Speaker {
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot(bgp)));
        let (to_test, events) = channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (busy, mut work) = mpsc::unbounded_channel();
        let namespace = namespace.handle();
        // Sockets belong to the namespace of the thread that opens them, so it is one thread.
        let thread = std::thread::spawn(move || {
            namespace.enter();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (sender, mut events) = mpsc::channel(8);
                let forward = async {
                    while let Some(event) = events.recv().await {
                        drop(to_test.send(event));
                    }
                };
                let speak = async { tokio::join!(plimsoll::bgp::run(receiver, sender), forward) };
                let work = async {
                    while let Some(time) = work.recv().await {
                        std::thread::sleep(time);
                    }
                };
                tokio::select! {
                    _ = stopped => {}
                    _ = speak => {}
                    () = work => {}
                }
            });
        });
        Speaker {
            snapshots,
            events,
            stop: Some(stop),
            busy,
            thread: Some(thread),
            peers: BTreeMap::new(),
            announced: BTreeSet::new(),
            trouble: None,
            history: Vec::new(),
        }
    }

    pub(crate) fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots
            .send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    pub(crate) fn configure(&self, change: impl FnOnce(&mut Bgp)) {
        self.publish(|snapshot| {
            let config = Arc::make_mut(&mut snapshot.config);
            change(config.bgp.as_mut().unwrap());
        });
    }

    pub(crate) fn configure_peer(
        &self,
        peer: impl Into<PeerId>,
        change: impl FnOnce(&mut config::Peer),
    ) {
        let peer = peer.into();
        self.configure(|bgp| change(Arc::make_mut(bgp.peers.get_mut(&peer).unwrap())));
    }

    /// What an operator says of a peer.
    pub(crate) fn order(&self, peer: IpAddr, change: impl FnOnce(&mut PeerOrders)) {
        self.publish(|snapshot| {
            let orders = Arc::make_mut(&mut snapshot.peer_orders);
            change(orders.entry(peer.into()).or_default());
        });
    }

    /// Keeps the runtime that polls [`plimsoll::bgp::run`] from doing anything else for so long.
    pub(crate) fn keep_busy(&self, time: Duration) {
        self.busy.send(time).unwrap();
    }

    pub(crate) fn announce(&self, address: &str, med: u32) {
        self.vip(address, Ok(Policy::of_med(med).into()));
    }

    /// To the peers of this group alone.
    pub(crate) fn announce_to(&self, group: &str, address: &str, med: u32) {
        let to = Some(Arc::new(BTreeSet::from([group.into()])));
        let all = Announcement::from(Policy::of_med(med));
        self.vip(address, Ok(Announcement { to, ..all }));
    }

    pub(crate) fn withdraw(&self, address: &str) {
        self.vip(address, Err(Refusal::NothingPooled));
    }

    pub(crate) fn vip(&self, address: &str, announce: Result<Announcement, Refusal>) {
        self.vip_as(None, address, announce);
    }

    /// One that is announced as this prefix.
    pub(crate) fn vip_as(
        &self,
        prefix: Option<&str>,
        address: &str,
        announce: Result<Announcement, Refusal>,
    ) {
        let vip = Vip {
            services: BTreeSet::new(),
            present: true,
            fault: None,
            condition: Condition::Healthy,
            prefix: prefix.map(|prefix| prefix.parse().unwrap()),
            announce,
        };
        self.publish(|snapshot| {
            snapshot
                .vips
                .insert(address.parse().unwrap(), Arc::new(vip));
        });
    }

    /// As the core does when the daemon stops.
    pub(crate) fn stop(&self) {
        self.publish(|snapshot| {
            snapshot.stopping = true;
            let addresses: Vec<IpAddr> = snapshot.vips.keys().copied().collect();
            for address in addresses {
                let mut vip = Vip::clone(&snapshot.vips[&address]);
                vip.announce = Err(Refusal::Stopping);
                snapshot.vips.insert(address, Arc::new(vip));
            }
        });
    }

    /// Takes events until this holds. Panics when the time is up.
    pub(crate) fn until(&mut self, limit: Duration, what: &str, holds: impl Fn(&Speaker) -> bool) {
        let end = Instant::now() + limit;
        while !holds(self) {
            match self
                .events
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "not within {limit:?}: {what}; {:?} {:?}",
                        self.peers, self.announced
                    )
                }
                Err(RecvTimeoutError::Disconnected) => panic!("the speaker has ended"),
            }
        }
    }

    /// What has come by now.
    pub(crate) fn catch_up(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
    }

    pub(crate) fn until_state(&mut self, peer: impl Into<PeerId>, state: SessionState) {
        let peer = peer.into();
        let what = format!("{peer} is {state:?}");
        self.until(Duration::from_secs(60), &what, |speaker| {
            speaker.state(peer.clone()) == Some(state)
        });
    }

    pub(crate) fn until_announced(&mut self, wanted: &[&str]) {
        let wanted: BTreeSet<IpAddr> = wanted
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        let what = format!("{wanted:?} are announced");
        self.until(Duration::from_secs(10), &what, |speaker| {
            speaker.announced == wanted
        });
    }

    pub(crate) fn state(&self, peer: impl Into<PeerId>) -> Option<SessionState> {
        self.peers.get(&peer.into()).map(|session| session.state)
    }

    pub(crate) fn session(&self, peer: IpAddr) -> &Session {
        &self.peers[&peer.into()]
    }

    pub(crate) fn fault(&self, peer: impl Into<PeerId>) -> &str {
        self.peers
            .get(&peer.into())
            .and_then(|session| session.fault.as_deref())
            .unwrap_or_default()
    }

    fn take(&mut self, event: Event) {
        if let Event::Peer { peer, session } = event {
            let before = self.peers.get(&peer).map(|before| before.state);
            if before != Some(session.state) {
                self.history.push((peer.clone(), session.state));
            }
            self.peers.insert(peer, session);
        } else if let Event::Announced(announced) = event {
            self.announced = announced;
        } else if let Event::Trouble {
            part: "bgp-listen",
            fault,
        } = event
        {
            self.trouble = fault;
        } else {
            panic!("no event of the BGP sink: {event:?}");
        }
    }
}

/// As when the daemon is killed: no goodbye.
impl Drop for Speaker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A peer of the usual kind: both next hops, a short hold time.
pub(crate) fn peer(id: impl Into<PeerId>, peer_as: u32) -> config::Peer {
    config::Peer {
        hold_time: Duration::from_secs(3),
        next_hop_ipv4: Some(crate::US.parse().unwrap()),
        next_hop_ipv6: Some(crate::US_V6.parse().unwrap()),
        advertisement_interval: Duration::ZERO,
        ..config::Peer::new(id.into(), peer_as)
    }
}

fn snapshot(bgp: Bgp) -> Snapshot {
    let config = Config {
        daemon: config::Daemon {
            state_directory: "/nonexistent".into(),
            manage_addresses: false,
        },
        monitor: Default::default(),
        metrics: Default::default(),
        ipvs: Default::default(),
        api: config::Api {
            listen: Vec::<SocketAddr>::new(),
            control: None,
        },
        bgp: Some(bgp),
        etcd: None,
        services: BTreeMap::new(),
    };
    Snapshot {
        mode: Mode::Real,
        config: Arc::new(config),
        services: Default::default(),
        retiring: Default::default(),
        vips: Default::default(),
        peers: Default::default(),
        peer_orders: Default::default(),
        overrides: Default::default(),
        overrides_kept: true,
        troubles: Default::default(),
        repairs: Default::default(),
        reload_refused: None,
        config_file: None,
        stopping: false,
    }
}
