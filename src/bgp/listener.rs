//! The sockets on which routers' own connections arrive. A connection is matched to a peer here, and has that
//! peer's TTL and key; whoever is no peer is closed unanswered. Whether it is wanted now is not decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::report::Board;
use super::sockopt::{self, FARTHEST, Failed};
use super::transport::Settings;
use super::unnumbered::{self, Neighbours};
use crate::backoff::Backoff;
use crate::chain::chain;
use crate::config::{Authentication, Bgp, Ttl};
use crate::routing::{Interface, PeerId};

/// Half-open connections and those that wait for us; the kernel drops what is beyond.
const BACKLOG: i32 = 64;
/// Strangers are told of in the log once in this time.
const STRANGERS: Duration = Duration::from_secs(10);
/// Keys that could not be set are tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// A connection, and whose it is.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) peer: PeerId,
    pub(crate) stream: TcpStream,
}

/// Who may connect, and how.
type Callers = BTreeMap<PeerId, Settings>;

/// One task a socket; dropping it closes all.
#[derive(Debug)]
pub(crate) struct Listeners {
    sockets: BTreeMap<SocketAddr, AbortHandle>,
    tasks: JoinSet<()>,
    callers: watch::Sender<Callers>,
    neighbours: watch::Receiver<Neighbours>,
    accepted: mpsc::Sender<Accepted>,
    board: Board,
}

impl Listeners {
    pub(crate) fn new(
        accepted: mpsc::Sender<Accepted>,
        neighbours: watch::Receiver<Neighbours>,
        board: Board,
    ) -> Listeners {
        Listeners {
            sockets: BTreeMap::new(),
            tasks: JoinSet::new(),
            callers: watch::Sender::default(),
            neighbours,
            accepted,
            board,
        }
    }

    /// Listens for these peers on these addresses and no others. Sockets that stay are not closed for it.
    pub(crate) fn set(&mut self, bgp: Option<&Bgp>) {
        let callers = bgp.map_or_else(Callers::new, |bgp| {
            let settings = |peer| Settings::of(bgp.local_as, peer);
            let peers = bgp.peers.iter();
            peers
                .map(|(id, peer)| (id.clone(), settings(peer)))
                .collect()
        });
        self.callers.send_if_modified(|old| {
            let changed = *old != callers;
            *old = callers;
            changed
        });
        let wanted: &[SocketAddr] = bgp.map_or(&[], |bgp| &bgp.listen);
        self.sockets.retain(|address, task| {
            let keep = wanted.contains(address);
            if !keep {
                task.abort();
                // It is nobody's business any more.
                self.board.trouble(&address.to_string(), None);
            }
            keep
        });
        for &address in wanted {
            self.sockets.entry(address).or_insert_with(|| {
                let ears = Ears {
                    address,
                    callers: self.callers.subscribe(),
                    neighbours: self.neighbours.clone(),
                    accepted: self.accepted.clone(),
                    board: self.board.clone(),
                };
                self.tasks.spawn(ears.listen())
            });
        }
        // Those that were aborted.
        while self.tasks.try_join_next().is_some() {}
    }
}

/// The peer whose connection this is: by its address; by address and interface if that is link-local; by the
/// interface alone for who is named so. `to` is the address of ours that it called.
fn whose<'a>(
    callers: &'a Callers,
    from: IpAddr,
    interface: Option<&Interface>,
    to: IpAddr,
) -> Option<&'a Settings> {
    let settings = match (from, interface) {
        (IpAddr::V6(address), Some(interface)) => callers
            .get(&PeerId::LinkLocal(address, interface.clone()))
            .or_else(|| callers.get(&PeerId::Interface(interface.clone())))?,
        _ => callers.get(&PeerId::Address(from))?,
    };
    settings
        .local_address
        .is_none_or(|ours| ours == to)
        .then_some(settings)
}

/// The keys that a listening socket of a family needs, by peer's address, and which peers cannot have theirs.
fn keys(
    callers: &Callers,
    neighbours: &Neighbours,
    ipv6: bool,
) -> (BTreeMap<IpAddr, Authentication>, Vec<String>) {
    let mut keys: BTreeMap<IpAddr, (&PeerId, Option<&Authentication>)> = BTreeMap::new();
    let mut faults = Vec::new();
    for (id, settings) in callers {
        let addresses: Vec<IpAddr> = match id {
            PeerId::Address(address) => vec![*address],
            PeerId::LinkLocal(address, _) => vec![(*address).into()],
            PeerId::Interface(interface) => {
                let routers = neighbours.get(interface).into_iter().flatten();
                routers.map(|router| IpAddr::from(*router)).collect()
            }
        };
        for address in addresses.into_iter().filter(|a| a.is_ipv6() == ipv6) {
            let key = settings.authentication.as_ref();
            let (first, other) = *keys.entry(address).or_insert((id, key));
            if key != other {
                // The kernel asks for a key by the address alone, whatever the interface.
                faults.push(format!(
                    "peers {first} and {id} have the same address, so they need the same key"
                ));
            }
        }
    }
    let keys = keys.into_iter();
    let keys = keys.filter_map(|(address, (_, key))| Some((address, key?.clone())));
    (keys.collect(), faults)
}

/// What the task of one address has.
struct Ears {
    address: SocketAddr,
    callers: watch::Receiver<Callers>,
    neighbours: watch::Receiver<Neighbours>,
    accepted: mpsc::Sender<Accepted>,
    board: Board,
}

impl Ears {
    async fn listen(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut strangers = Strangers::default();
        loop {
            let failed = match Door::open(self.address) {
                Ok(mut door) => self.attend(&mut door, &mut strangers, &mut backoff).await,
                Err(failed) => failed,
            };
            self.tell(vec![chain(&failed)]);
            sleep(backoff.next()).await;
        }
    }

    /// Until the socket fails.
    async fn attend(
        &mut self,
        door: &mut Door,
        strangers: &mut Strangers,
        backoff: &mut Backoff,
    ) -> Failed {
        let failed = |error| Failed::to(format!("accept on {}", self.address))(error);
        loop {
            let callers = self.callers.borrow_and_update().clone();
            let neighbours = self.neighbours.borrow_and_update().clone();
            let (changed, faults) = door.prepare(&callers, &neighbours);
            let faulty = !faults.is_empty();
            if let Err(error) = door.listen() {
                return Failed::to(format!("listen on {}", self.address))(error);
            }
            self.tell(faults);
            // Who waits here by now has come in under the key before.
            while let Some(Ok((stream, from))) = door.socket.accept().now_or_never() {
                if !changed.contains(&from.ip()) {
                    door.admit(&callers, stream, from, strangers, &self.accepted)
                        .await;
                }
            }
            loop {
                tokio::select! {
                    accepted = door.socket.accept() => match accepted {
                        Ok((stream, from)) => {
                            backoff.reset();
                            door.admit(&callers, stream, from, strangers, &self.accepted).await;
                        }
                        // A connection that went away while it waited says nothing about the socket.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                        Err(error) => return failed(error),
                    },
                    Ok(()) = self.callers.changed() => break,
                    Ok(()) = self.neighbours.changed() => break,
                    () = sleep(AGAIN), if faulty => break,
                }
            }
        }
    }

    fn tell(&self, faults: Vec<String>) {
        let fault = (!faults.is_empty()).then(|| faults.join("; "));
        let news = self.board.trouble(&self.address.to_string(), fault.clone());
        if let Some(fault) = fault.filter(|_| news) {
            tracing::warn!(fault, "BGP connections of peers cannot be accepted");
        }
    }
}

/// A listening socket and what it asks of callers.
struct Door {
    address: SocketAddr,
    socket: TcpListener,
    listening: bool,
    /// Those that are set on the socket.
    keys: BTreeMap<IpAddr, Authentication>,
}

impl Door {
    /// Bound, but not listening: the keys come first.
    fn open(address: SocketAddr) -> Result<Door, Failed> {
        let bind = || {
            let domain = Domain::for_address(address);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            if address.is_ipv6() {
                // IPv4 has its own socket.
                socket.set_only_v6(true)?;
            }
            // Else connections of a former process would be in the way for a minute.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            TcpListener::from_std(socket.into())
        };
        let socket = bind().map_err(Failed::to(format!("listen on {address}")))?;
        sockopt::mark(&SockRef::from(&socket), address.ip())?;
        Ok(Door {
            address,
            socket,
            listening: false,
            keys: BTreeMap::new(),
        })
    }

    fn listen(&mut self) -> io::Result<()> {
        if !self.listening {
            SockRef::from(&self.socket).listen(BACKLOG)?;
            self.listening = true;
        }
        Ok(())
    }

    /// Brings keys and TTL to what the callers need. Whose keys have changed, and what could not be done.
    fn prepare(
        &mut self,
        callers: &Callers,
        neighbours: &Neighbours,
    ) -> (BTreeSet<IpAddr>, Vec<String>) {
        let (wanted, mut faults) = keys(callers, neighbours, self.address.is_ipv6());
        let socket = SockRef::from(&self.socket);
        let on = |failed: Failed| format!("on {}: {}", self.address, chain(&failed));
        let mut changed = BTreeSet::new();
        let stale = self
            .keys
            .extract_if(.., |peer, key| wanted.get(peer) != Some(key));
        for (peer, key) in stale {
            changed.insert(peer);
            faults.extend(sockopt::forget(&socket, peer, &key).err().map(on));
        }
        for (peer, key) in wanted {
            if self.keys.contains_key(&peer) {
                continue;
            }
            changed.insert(peer);
            match sockopt::authenticate(&socket, peer, &key) {
                Ok(()) => drop(self.keys.insert(peer, key)),
                Err(failed) => faults.push(on(failed)),
            }
        }
        // The SYN-ACK is sent before we know whose it is.
        let secure = |settings: &Settings| matches!(settings.ttl, Ttl::Security(_));
        let ttl = callers.values().any(secure).then_some(FARTHEST);
        faults.extend(
            sockopt::send_with(&socket, self.address.ip(), ttl)
                .err()
                .map(on),
        );
        (changed, faults)
    }

    /// Gives a peer's connection to the speaker, with that peer's TTL; closes any other.
    async fn admit(
        &self,
        callers: &Callers,
        stream: TcpStream,
        from: SocketAddr,
        strangers: &mut Strangers,
        accepted: &mpsc::Sender<Accepted>,
    ) {
        match self.check(callers, &stream, from) {
            // If nobody takes it, all is over.
            Ok(peer) => drop(accepted.send(Accepted { peer, stream }).await),
            Err(why) => strangers.turned_away(from, &why),
        }
    }

    fn check(
        &self,
        callers: &Callers,
        stream: &TcpStream,
        from: SocketAddr,
    ) -> Result<PeerId, String> {
        let local = stream.local_addr().map_err(|error| error.to_string())?;
        let interface = match from {
            SocketAddr::V6(from) if from.ip().is_unicast_link_local() => {
                unnumbered::name(from.scope_id())
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => None,
        };
        let settings = whose(callers, from.ip(), interface.as_ref(), local.ip())
            .ok_or("it is no peer's address")?;
        // Without its key on the socket, the kernel has let it in unasked.
        if settings.authentication.as_ref() != self.keys.get(&from.ip()) {
            return Err("its key could not be asked for".into());
        }
        let socket = SockRef::from(stream);
        sockopt::limit(&socket, from.ip(), settings.ttl, settings.external)
            .map_err(|failed| chain(&failed))?;
        Ok(settings.id.clone())
    }
}

/// Who is turned away is said, but not so often that it fills the log.
#[derive(Default)]
struct Strangers {
    unsaid: u64,
    last: Option<Instant>,
}

impl Strangers {
    fn turned_away(&mut self, from: SocketAddr, why: &str) {
        let now = Instant::now();
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < STRANGERS)
        {
            self.unsaid += 1;
            return;
        }
        self.last = Some(now);
        let unsaid = std::mem::take(&mut self.unsaid);
        tracing::debug!(%from, why, unsaid, "a BGP connection is closed unanswered");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::time::timeout;

    use super::*;
    use crate::bgp::report::Report;
    use crate::config::Peer;
    use crate::secret::Secret;

    const LIMIT: Duration = Duration::from_secs(5);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn interface(name: &str) -> Interface {
        Interface::new(name).unwrap()
    }

    fn link_local(address: &str, name: &str) -> PeerId {
        PeerId::LinkLocal(address.parse().unwrap(), interface(name))
    }

    fn password(text: &str) -> Option<Authentication> {
        Some(Authentication::Md5(Secret::new(text.as_bytes())))
    }

    fn bgp(listen: &[SocketAddr], peers: Vec<Peer>) -> Bgp {
        Bgp {
            local_as: 64600,
            router_id: [10, 0, 0, 1].into(),
            listen: listen.to_vec(),
            policy: Arc::default(),
            shutdown_text: None,
            peers: peers
                .into_iter()
                .map(|peer| (peer.id.clone(), Arc::new(peer)))
                .collect(),
        }
    }

    fn callers(peers: Vec<Peer>) -> Callers {
        let peers = bgp(&[], peers).peers;
        let settings = |(id, peer): (PeerId, Arc<Peer>)| (id, Settings::of(64600, &peer));
        peers.into_iter().map(settings).collect()
    }

    #[test]
    fn a_connection_is_whose_address_or_interface_it_is() {
        let local = Peer {
            local_address: Some(address("10.0.0.1")),
            ..Peer::new(address("10.0.0.3").into(), 64601)
        };
        let peers = callers(vec![
            Peer::new(address("10.0.0.2").into(), 64601),
            local,
            Peer::new(address("fd00::2").into(), 64601),
            Peer::new(link_local("fe80::2", "eth1"), 64601),
            Peer::new(PeerId::Interface(interface("eth2")), 64601),
            Peer::new(link_local("fe80::2", "eth2"), 64601),
        ]);
        let check = |from: &str, on: Option<&str>, to: &str, wanted: Option<&str>| {
            let on = on.map(interface);
            let found = whose(&peers, address(from), on.as_ref(), address(to));
            let found = found.map(|settings| settings.id.to_string());
            assert_eq!(found.as_deref(), wanted, "{from} on {on:?}");
        };
        check("10.0.0.2", None, "10.0.0.9", Some("10.0.0.2"));
        check("10.0.0.3", None, "10.0.0.1", Some("10.0.0.3"));
        check("10.0.0.3", None, "10.0.0.9", None);
        check("10.0.0.4", None, "10.0.0.1", None);
        check("fd00::2", None, "fd00::1", Some("fd00::2"));
        check("fe80::2", Some("eth1"), "fe80::1", Some("fe80::2%eth1"));
        check("fe80::3", Some("eth1"), "fe80::1", None);
        check("fe80::2", Some("eth2"), "fe80::1", Some("fe80::2%eth2"));
        check("fe80::3", Some("eth2"), "fe80::1", Some("eth2"));
        check("fe80::2", Some("eth3"), "fe80::1", None);
        // Its interface is gone.
        check("fe80::2", None, "fe80::1", None);
    }

    #[test]
    fn keys_go_by_address() {
        let peer = |id: PeerId, key: Option<&str>| Peer {
            authentication: key.and_then(password),
            ..Peer::new(id, 64601)
        };
        let peers = callers(vec![
            peer(address("10.0.0.2").into(), Some("one")),
            peer(address("10.0.0.3").into(), None),
            peer(link_local("fe80::2", "eth1"), Some("two")),
            peer(link_local("fe80::2", "eth2"), Some("two")),
            peer(PeerId::Interface(interface("eth3")), Some("three")),
        ]);
        let (v4, faults) = keys(&peers, &Neighbours::new(), false);
        assert_eq!(
            v4.keys().copied().collect::<Vec<_>>(),
            [address("10.0.0.2")]
        );
        assert!(faults.is_empty());
        let (v6, _) = keys(&peers, &Neighbours::new(), true);
        assert_eq!(v6.keys().copied().collect::<Vec<_>>(), [address("fe80::2")]);
        let router = |text: &str| BTreeSet::from([text.parse().unwrap()]);
        let neighbours = Neighbours::from([(interface("eth3"), router("fe80::3"))]);
        let (v6, faults) = keys(&peers, &neighbours, true);
        assert_eq!(v6.get(&address("fe80::3")), password("three").as_ref());
        assert!(faults.is_empty());

        let neighbours = Neighbours::from([(interface("eth3"), router("fe80::2"))]);
        let (v6, faults) = keys(&peers, &neighbours, true);
        assert_eq!(v6.get(&address("fe80::2")), password("two").as_ref());
        assert_eq!(
            faults,
            ["peers fe80::2%eth1 and eth3 have the same address, so they need the same key"]
        );
    }

    /// A port that was free a moment ago.
    fn free(host: &str) -> SocketAddr {
        let socket = std::net::TcpListener::bind((host, 0)).unwrap();
        socket.local_addr().unwrap()
    }

    struct Lab {
        listeners: Listeners,
        connections: mpsc::Receiver<Accepted>,
        reports: watch::Receiver<Report>,
    }

    impl Lab {
        fn new() -> Lab {
            let (board, reports) = Board::new();
            let (accepted, connections) = mpsc::channel(1);
            let neighbours = watch::Sender::default().subscribe();
            Lab {
                listeners: Listeners::new(accepted, neighbours, board),
                connections,
                reports,
            }
        }

        /// Connects as soon as it can; whose it is.
        async fn connect(&mut self, to: SocketAddr) -> (PeerId, TcpStream, TcpStream) {
            let connect = timeout(LIMIT, async {
                loop {
                    if let Ok(peer) = TcpStream::connect(to).await {
                        return peer;
                    }
                    tokio::task::yield_now().await;
                }
            });
            let theirs = connect
                .await
                .unwrap_or_else(|_| panic!("{to} does not listen"));
            let Accepted { peer, stream } = timeout(LIMIT, self.connections.recv())
                .await
                .unwrap()
                .unwrap();
            (peer, stream, theirs)
        }
    }

    #[tokio::test]
    async fn both_families_on_one_port_and_gone_when_no_longer_wanted() {
        let mut lab = Lab::new();
        let v4 = free("127.0.0.1");
        let v6 = SocketAddr::new("::1".parse().unwrap(), v4.port());
        let peers = || {
            vec![
                Peer::new(v4.ip().into(), 64601),
                Peer {
                    ttl: Ttl::Multihop(9),
                    ..Peer::new(v6.ip().into(), 64601)
                },
            ]
        };
        lab.listeners.set(Some(&bgp(&[v4, v6], peers())));
        for (address, ttl) in [(v4, 1), (v6, 9)] {
            let (peer, stream, mut theirs) = lab.connect(address).await;
            assert_eq!(peer, address.ip().into());
            let socket = SockRef::from(&stream);
            let set = if address.is_ipv4() {
                socket.ttl_v4().unwrap()
            } else {
                socket.unicast_hops_v6().unwrap()
            };
            assert_eq!(set, ttl, "the peer's own");
            drop(stream);
            assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        }
        lab.listeners.set(Some(&bgp(&[v6], peers())));
        timeout(LIMIT, async {
            while TcpStream::connect(v4).await.is_ok() {}
        })
        .await
        .unwrap();
        TcpStream::connect(v6).await.unwrap();
    }

    /// A flood of them, too, leaves room for peers.
    #[tokio::test]
    async fn strangers_are_closed_unanswered() {
        let mut lab = Lab::new();
        let here = free("127.0.0.1");
        let peer = |address: &str| vec![Peer::new(address.parse::<IpAddr>().unwrap().into(), 1)];
        lab.listeners.set(Some(&bgp(&[here], peer("127.0.0.1"))));
        drop(lab.connect(here).await);
        lab.listeners.set(Some(&bgp(&[here], peer("127.0.0.2"))));
        for _ in 0..300 {
            let mut stranger = TcpStream::connect(here).await.unwrap();
            assert_eq!(stranger.read(&mut [0]).await.unwrap(), 0);
        }
        assert!(lab.connections.try_recv().is_err());
        lab.listeners.set(Some(&bgp(&[here], peer("127.0.0.1"))));
        lab.connect(here).await;
    }

    /// What cannot be authenticated is not let in without, and the reason is told.
    #[tokio::test]
    async fn without_its_key_a_peer_is_not_let_in() {
        let mut lab = Lab::new();
        let here = free("127.0.0.1");
        let peer = Peer {
            authentication: password(&"x".repeat(81)),
            ..Peer::new(here.ip().into(), 1)
        };
        lab.listeners.set(Some(&bgp(&[here], vec![peer])));
        let told = timeout(
            LIMIT,
            lab.reports
                .wait_for(|report| format!("{report:?}").contains("longer than 80 bytes")),
        );
        drop(told.await.unwrap().unwrap());
        let mut stranger = TcpStream::connect(here).await.unwrap();
        assert_eq!(stranger.read(&mut [0]).await.unwrap(), 0);
        lab.listeners
            .set(Some(&bgp(&[here], vec![Peer::new(here.ip().into(), 1)])));
        lab.connect(here).await;
    }
}
