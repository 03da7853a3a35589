//! The speaker, a router that does all right, and the one that does what a script says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use plimsoll::bgp::message::{self, Open};
use plimsoll::config::{Bgp, MaximumAction, Peer};
use plimsoll::routing::session::SessionState;
use plimsoll::routing::{PeerId, Role};
use plimsoll::service::Family;
use plimsoll::snapshot::PeerOrders;

use crate::script::{End, Order, Script, Setting, Step, vip};
use crate::speaker::{Speaker, peer};
use crate::wire::{LIMIT, Wire, wait, wait_for};
use crate::{LOCAL_AS, US};

/// Of the router that does all right.
const WITNESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const WITNESS_AS: u32 = 65000;
/// A host's address, as the one that we speak from, 127.0.0.1, is not.
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
/// Open at a time, of one router: more than the speaker lets it have.
const CONNECTIONS: usize = 12;
/// A [`Step::Pause`] that nothing happens in.
const PAUSE: Duration = Duration::from_millis(3);

pub(crate) struct Lab {
    speaker: Speaker,
    /// Where the speaker listens. Routers listen on the same port.
    address: SocketAddr,
    witness: Wire,
    runs: u32,
    /// What is to be announced, and the MED.
    wanted: BTreeMap<IpAddr, u32>,
    /// Descriptors that this process has when there is no other router.
    files: usize,
}

/// The router of one run.
struct Router {
    address: IpAddr,
    setting: Setting,
    /// Its entry in the configuration, as long as no order changes it.
    peer: Peer,
    listener: Option<TcpListener>,
    wires: Vec<Wire>,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        ignore_broken_pipes();
        let address = free_address();
        let witness = Peer {
            passive: true,
            hold_time: Duration::from_secs(65535),
            next_hop_ipv4: Some(NEXT_HOP),
            ..peer(WITNESS, WITNESS_AS)
        };
        let speaker = Speaker::start(
            &crate::netns::Namespace,
            Bgp {
                local_as: LOCAL_AS,
                router_id: Ipv4Addr::new(10, 0, 0, 100),
                policy: Arc::default(),
                shutdown_text: None,
                listen: vec![address],
                peers: BTreeMap::from([(PeerId::from(WITNESS), Arc::new(witness))]),
            },
        );
        let open = Open {
            asn: WITNESS_AS,
            four_octet_as: true,
            hold_time: 65535,
            identifier: Ipv4Addr::new(10, 0, 0, 2),
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_messages: true,
            extended_next_hop: false,
            graceful_restart: None,
            role: None,
            unknown_role: false,
        };
        let witness = wait("the witness has a session", || {
            establish(WITNESS, address, &open, false)
        });
        let mut lab = Lab {
            speaker,
            address,
            witness,
            runs: 0,
            wanted: BTreeMap::new(),
            files: 0,
        };
        let id = PeerId::from(WITNESS);
        lab.speaker.until_state(id, SessionState::Established);
        lab.speaker.history.clear();
        lab.files = files();
        lab
    }

    pub(crate) fn run(&mut self, script: &Script) {
        let mut router = self.router(&script.setting);
        for step in &script.steps {
            self.step(&mut router, step);
            router.look();
        }
        self.check_connections(&mut router);
        self.check_history(&router);
        self.end(router);
    }

    /// The next one, which the speaker knows; the same two addresses are announced in the beginning of each run.
    fn router(&mut self, setting: &Setting) -> Router {
        self.runs += 1;
        let [_, high, mid, low] = self.runs.to_be_bytes();
        // From 127.1.0.1 on, and the same again after millions.
        let address = IpAddr::from([127, high % 200 + 1, mid, low]);
        let router = Router {
            listener: setting
                .listens
                .then(|| listen(address, self.address.port())),
            address,
            setting: setting.clone(),
            peer: configured(address, self.address.port(), setting),
            wires: Vec::new(),
        };
        self.configure(&router.peer);
        for index in 0..8 {
            match index % 4 {
                0 => self.announce(index, 10),
                _ => self.withdraw(index),
            }
        }
        let id = PeerId::from(address);
        let what = "the speaker knows its peer";
        self.speaker
            .until(LIMIT, what, |speaker| speaker.peers.contains_key(&id));
        router
    }

    fn step(&mut self, router: &mut Router, step: &Step) {
        match step {
            Step::Connect => {
                let open = router.wires.iter().filter(|wire| wire.is_open()).count();
                if open < CONNECTIONS {
                    let wire = Wire::connect(router.address, self.address, router.setting.internal);
                    router.wires.extend(wire);
                }
            }
            Step::Listen(true) if router.listener.is_none() => {
                router.listener = Some(listen(router.address, self.address.port()));
            }
            Step::Listen(true) => {}
            Step::Listen(false) => router.listener = None,
            Step::Pause => drop(wait_for(PAUSE, || router.look().then_some(()))),
            Step::Send(wire, bytes) => {
                if let Some(wire) = router.wire(*wire) {
                    wire.send(bytes);
                }
            }
            Step::Close(wire, end) => {
                if let Some(wire) = router.wire(*wire) {
                    match end {
                        End::Close => wire.close(),
                        End::Reset => wire.reset(),
                        End::Half => wire.half_close(),
                    }
                }
            }
            Step::Announce(index, med) => self.announce(*index, *med),
            Step::Withdraw(index) => self.withdraw(*index),
            Step::Order(order) => self.order(router, *order),
        }
    }

    fn order(&mut self, router: &Router, order: Order) {
        let peer = &router.peer;
        match order {
            Order::Clear => self.say(router.address, |said| said.clears += 1),
            Order::Disable => self.say(router.address, |said| said.enabled = Some(false)),
            Order::Enable => self.say(router.address, |said| said.enabled = None),
            Order::HoldTime => self.configure(&Peer {
                hold_time: Duration::from_secs(9),
                ..peer.clone()
            }),
            Order::PeerAs => self.configure(&Peer {
                peer_as: 65099,
                ..peer.clone()
            }),
            Order::Families => self.configure(&Peer {
                families: BTreeSet::from([Family::Ipv4]),
                ..peer.clone()
            }),
            Order::NextHop => self.configure(&Peer {
                next_hop_ipv4: Some(Ipv4Addr::new(10, 0, 0, 101)),
                ..peer.clone()
            }),
            Order::Restore => self.configure(peer),
            Order::Remove => self.remove(router.address),
        }
    }

    /// Beside a connection that has a session there is none, and those that were told of their end have it.
    fn check_connections(&mut self, router: &mut Router) {
        let settled = wait_for(LIMIT, || {
            router.look();
            let open: Vec<&Wire> = router.wires.iter().filter(|wire| wire.is_open()).collect();
            let session = open.iter().any(|wire| wire.established);
            let ended = open.iter().all(|wire| wire.told.is_none());
            (ended && (!session || open.len() == 1)).then_some(())
        });
        assert!(
            settled.is_some(),
            "after {LIMIT:?} still: {:#?}",
            router.wires
        );
    }

    /// What the speaker says of itself: as many sessions as there can have been, and the witness's is none of them.
    fn check_history(&mut self, router: &Router) {
        self.speaker.catch_up();
        let id = PeerId::from(router.address);
        let up = (id, SessionState::Established);
        let sessions = self
            .speaker
            .history
            .iter()
            .filter(|entry| **entry == up)
            .count();
        let possible = router.wires.iter().filter(|wire| wire.has_said_all());
        assert!(
            sessions <= possible.count(),
            "{sessions} sessions: {:#?}",
            router.wires
        );
        self.check_sessions();
    }

    fn check_sessions(&mut self) {
        let witness = PeerId::from(WITNESS);
        let disturbed = self
            .speaker
            .history
            .iter()
            .any(|(peer, _)| *peer == witness);
        assert!(
            !disturbed,
            "the witness is disturbed: {:?}",
            self.speaker.history
        );
        for (peer, session) in &self.speaker.peers {
            let up = session.state == SessionState::Established;
            let good = up == session.negotiated.is_some() && (up || session.routes.is_empty());
            assert!(good, "{peer}: {session:?}");
        }
    }

    /// From now on the router does all right: it gets what every router gets, and then it goes.
    fn end(&mut self, router: Router) {
        let Router {
            address,
            setting,
            peer,
            listener,
            wires,
        } = router;
        drop((listener, wires));
        self.configure(&peer);
        self.say(address, |said| {
            said.enabled = None;
            // A session that had too many prefixes stays down for as long as nobody does something about it.
            said.clears += u64::from(setting.maximum);
        });
        let open = setting.best_open();
        let mut wire = wait("a session with a router that does all right", || {
            establish(address, self.address, &open, setting.internal)
        });
        let wanted: BTreeMap<_, _> = self.wanted.iter().map(|(a, m)| (*a, Some(*m))).collect();
        let all = wire.until("all that is announced", |wire| {
            wire.ends_of_rib == 2 && wire.table == wanted
        });
        assert!(all, "{wire:?} ends, and not with {wanted:?}");
        let same = |witness: &Wire| witness.table == wanted;
        assert!(self.witness.until("the same for the witness", same));
        self.witness.send(&message::keepalive());
        let addresses: BTreeSet<IpAddr> = self.wanted.keys().copied().collect();
        self.speaker.until(LIMIT, "that is told of it", |speaker| {
            speaker.announced == addresses
                && speaker.state(address) == Some(SessionState::Established)
        });
        self.remove(address);
        assert!(
            wire.until("the end", |wire| wire.told.is_some()),
            "{wire:?}"
        );
        assert!(wire.table.is_empty(), "not all is withdrawn: {wire:?}");
        let told = wire.told.as_ref().map(|told| (told.code, told.subcode));
        assert_eq!(told, Some((6, 3)), "{wire:?}");
        drop(wire);
        self.tidy(address);
    }

    /// Nothing of the router is left.
    fn tidy(&mut self, address: IpAddr) {
        let before = self.files;
        let left = wait_for(LIMIT, || (files() <= before).then_some(()));
        assert!(
            left.is_some(),
            "{} files are open, before {before}",
            files()
        );
        self.speaker.publish(|snapshot| {
            Arc::make_mut(&mut snapshot.peer_orders).remove(&address.into());
        });
        self.speaker.until_state(address, SessionState::Idle);
        self.check_sessions();
        self.speaker.peers.remove(&address.into());
        self.speaker.history.clear();
    }

    fn configure(&self, peer: &Peer) {
        let entry = (peer.id.clone(), Arc::new(peer.clone()));
        self.speaker.configure(|bgp| bgp.peers.extend([entry]));
    }

    fn remove(&self, address: IpAddr) {
        self.speaker
            .configure(|bgp| drop(bgp.peers.remove(&address.into())));
    }

    fn say(&self, address: IpAddr, change: impl FnOnce(&mut PeerOrders)) {
        self.speaker.order(address, change);
    }

    fn announce(&mut self, index: usize, med: u32) {
        let address = vip(index);
        if self.wanted.insert(address, med) != Some(med) {
            self.speaker.announce(&address.to_string(), med);
        }
    }

    fn withdraw(&mut self, index: usize) {
        let address = vip(index);
        if self.wanted.remove(&address).is_some() {
            self.speaker.withdraw(&address.to_string());
        }
    }
}

impl Router {
    /// Takes what has come, connections too; whether that is anything.
    fn look(&mut self) -> bool {
        let listener = self.listener.iter();
        let accepted = listener.flat_map(|listener| listener.accept().ok());
        let internal = self.setting.internal;
        let new: Vec<Wire> = accepted
            .map(|(stream, _)| Wire::new(stream, internal))
            .collect();
        let mut news = !new.is_empty();
        self.wires.extend(new);
        for wire in &mut self.wires {
            news |= wire.read();
        }
        news
    }

    fn wire(&mut self, index: usize) -> Option<&mut Wire> {
        let count = self.wires.len().max(1);
        self.wires.get_mut(index % count)
    }
}

fn configured(address: IpAddr, port: u16, setting: &Setting) -> Peer {
    let (maximum_prefixes, maximum_prefixes_action) = match setting.maximum {
        true => (3, MaximumAction::Cease),
        false => (1000, MaximumAction::Warn),
    };
    let milliseconds = |set: bool, time| Duration::from_millis(if set { time } else { 0 });
    Peer {
        port,
        passive: setting.passive,
        hold_time: Duration::from_secs(90),
        next_hop_ipv4: Some(NEXT_HOP),
        extended_messages: setting.extended_messages,
        delay_open_time: setting.delay_open.then(|| milliseconds(true, 3)),
        advertisement_interval: milliseconds(setting.interval, 2),
        maximum_prefixes,
        maximum_prefixes_action,
        role: setting.role.then_some(Role::Customer),
        role_strict: setting.role,
        ..peer(address, setting.open.asn)
    }
}

/// As a router does it that has nothing on its mind; `None`: closed before it came to that.
fn establish(from: IpAddr, to: SocketAddr, open: &Open, internal: bool) -> Option<Wire> {
    let mut wire = Wire::connect(from, to, internal)?;
    let open = message::open(open);
    if !wire.until("an OPEN", |wire| wire.open.is_some()) {
        return None;
    }
    wire.send(&open);
    if !wire.until("a KEEPALIVE", |wire| wire.keepalive) {
        return None;
    }
    wire.send(&message::keepalive());
    wire.until("an UPDATE", |wire| wire.established)
        .then_some(wire)
}

/// Its port is none that the kernel gives to connections: of those some may wait for their end on any router's
/// address for a minute, and then the router could not listen there.
fn free_address() -> SocketAddr {
    let free = |port: &u16| TcpListener::bind((US, *port)).is_ok();
    let port = (17900..32000).find(free).expect("a port that is free");
    SocketAddr::new(US.parse().expect("an address"), port)
}

fn listen(address: IpAddr, port: u16) -> TcpListener {
    let listener = TcpListener::bind((address, port)).expect("nobody else has the address");
    listener.set_nonblocking(true).expect("a socket");
    listener
}

/// As the standard library does it before `main`, which is libFuzzer's here.
fn ignore_broken_pipes() {
    // SAFETY: no handler is installed, so none can do wrong, and nobody else has set one for this signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// How many descriptors this process has open.
fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}
