//! Whom the balancer talks to: etcd and the routers. A connection is opened to each and closed again; nothing is said
//! on it. A router that has a session with us is not bothered.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use super::host::PATIENCE;
use super::{Found, Host, command, services, words};
use crate::config::{Authentication, Peer, Ttl};
use crate::routing::PeerId;

/// An endpoint, and how long it took to connect to it.
#[derive(Debug)]
pub struct Etcd {
    pub endpoint: String,
    pub connected: Result<Duration, String>,
}

/// A router that we connect to.
#[derive(Debug)]
pub struct Router {
    pub peer: IpAddr,
    pub port: u16,
    pub keyed: bool,
    pub guarded: bool,
    pub connected: Result<(), Refused>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Silent,
    Said(String),
}

/// All at once, so that it takes as long as the slowest.
pub(super) fn read(host: &Host) -> (Vec<Etcd>, Vec<Router>) {
    let Some(config) = host
        .config
        .as_ref()
        .filter(|_| host.role == super::Role::Balancer)
    else {
        return Default::default();
    };
    let endpoints = config.etcd.iter().flat_map(|etcd| &etcd.endpoints);
    let peers = config.bgp.iter().flat_map(|bgp| bgp.peers.values());
    let connections = connections(host);
    let is_up = |peer: &Peer| connections.iter().any(|of| Some(of.ip()) == address(peer));
    std::thread::scope(|scope| {
        let etcd: Vec<_> = endpoints.map(|url| scope.spawn(|| etcd_of(url))).collect();
        let peers = peers.filter(|peer| peer.enabled && !peer.passive && !is_up(peer));
        let routers: Vec<_> = peers.map(|peer| scope.spawn(|| router_of(peer))).collect();
        let etcd = etcd.into_iter().filter_map(|thread| thread.join().ok());
        let routers = routers.into_iter().filter_map(|thread| thread.join().ok());
        (etcd.collect(), routers.flatten().collect())
    })
}

/// `None`: who is at the other end of an interface's wire is known to the daemon alone.
fn address(peer: &Peer) -> Option<IpAddr> {
    match &peer.id {
        PeerId::Address(address) => Some(*address),
        PeerId::LinkLocal(..) | PeerId::Interface(_) => None,
    }
}

fn etcd_of(url: &url::Url) -> Etcd {
    let connect = || {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or(2379);
        let mut found = (host, port).to_socket_addrs()?;
        let address = found.next().ok_or(io::ErrorKind::NotFound)?;
        let began = Instant::now();
        std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
        Ok::<_, io::Error>(began.elapsed())
    };
    Etcd {
        endpoint: url.as_str().trim_end_matches('/').to_owned(),
        connected: connect().map_err(|error| words_of(&error)),
    }
}

fn router_of(peer: &Peer) -> Option<Router> {
    let ip = address(peer)?;
    let guarded = matches!(peer.ttl, Ttl::Security(_));
    let connect = || {
        let to = SocketAddr::new(ip, peer.port);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if guarded {
            match ip {
                IpAddr::V4(_) => socket.set_ttl_v4(255)?,
                IpAddr::V6(_) => socket.set_unicast_hops_v6(255)?,
            }
        }
        if let Some(own) = peer.local_address {
            socket.bind(&SocketAddr::new(own, 0).into())?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)
    };
    let refused = |error: io::Error| match error.kind() == io::ErrorKind::TimedOut {
        true => Refused::Silent,
        false => Refused::Said(words_of(&error)),
    };
    Some(Router {
        peer: ip,
        port: peer.port,
        keyed: matches!(
            peer.authentication,
            Some(Authentication::Md5(_) | Authentication::Ao(_))
        ),
        guarded,
        connected: connect().map_err(refused),
    })
}

fn words_of(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        "connection refused".to_owned()
    } else if error.kind() == io::ErrorKind::TimedOut {
        format!("no answer in {} s", PATIENCE.as_secs())
    } else {
        error.to_string()
    }
}

/// The far ends of all established connections that have BGP's port at one end.
fn connections(host: &Host) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for file in ["tcp", "tcp6"] {
        let table = host
            .files
            .text(&format!("proc/net/{file}"))
            .unwrap_or_default();
        for line in table.lines() {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            // TCP_ESTABLISHED of net/tcp_states.h.
            let [_, ours, theirs, "01", ..] = words[..] else {
                continue;
            };
            if let (Some(ours), Some(theirs)) = (services::local(ours), services::local(theirs))
                && [ours.port(), theirs.port()].contains(&179)
            {
                all.push(theirs);
            }
        }
    }
    all
}

/// A write waits for a majority, so each of them matters.
const SLOW: Duration = Duration::from_millis(250);

pub(super) fn etcd(host: &Host, found: &mut Found) {
    let none = host.etcd.iter().all(|etcd| etcd.connected.is_err());
    for Etcd {
        endpoint,
        connected,
    } in &host.etcd
    {
        match connected {
            Err(fault) if none => found.fault(
                format!("etcd at {endpoint}: {fault}"),
                "no member can be reached: pools stay as they were last, whatever is changed",
                words("is it up, is the address right, does a firewall stand between?"),
            ),
            Err(fault) => found.warning(
                format!("etcd at {endpoint}: {fault}"),
                "the others are asked; when they are away, too, pools stay as they were last",
                words("is it up, is the address right, does a firewall stand between?"),
            ),
            Ok(took) if *took > SLOW => found.warning(
                format!(
                    "etcd at {endpoint}: it took {} ms to connect",
                    took.as_millis()
                ),
                "changes of pools come late, and reads end at their timeout",
                words("ask a nearer member first: the order of `endpoints` is the order of asking"),
            ),
            Ok(_) => {}
        }
    }
}

pub(super) fn routers(host: &Host, found: &mut Found) {
    for router in &host.routers {
        let at = SocketAddr::new(router.peer, router.port);
        match &router.connected {
            Ok(()) => {}
            Err(Refused::Said(fault)) => found.fault(
                format!("router {at}: {fault}"),
                "no session, so this router sends no clients here",
                words("does BGP run there, does it listen on that address, and does it know ours as a neighbour?"),
            ),
            // Whoever has no key gets no answer, so silence says nothing.
            Err(Refused::Silent) if router.keyed => found.note(
                format!("router {at}: no answer, as it must be to one who asks without the key; and there is no session"),
                "the key, the TTL or the way may be wrong",
                words(format!("plimsoll bgp {}{}", router.peer, counters(host))),
            ),
            Err(Refused::Silent) => found.fault(
                format!("router {at}: no answer{}", if router.guarded { ", although asked with TTL 255" } else { "" }),
                "no session, so this router sends no clients here",
                words(format!(
                    "a firewall between, a key (MD5) or TTL security (GTSM) there that is not in our configuration?{}",
                    counters(host)
                )),
            ),
        }
    }
    keys(host, found);
}

/// The kernel's counters of what it dropped of others' segments; since the start of the host.
const COUNTERS: &[(&str, &str)] = &[
    (
        "TCPMD5NotFound",
        "without the key (MD5) that we have for the sender",
    ),
    (
        "TCPMD5Unexpected",
        "with a key (MD5), where we have none for the sender",
    ),
    ("TCPMD5Failure", "with another key (MD5) than ours"),
    (
        "TCPMinTTLDrop",
        "from further away than TTL security (GTSM) lets them",
    ),
];

fn counters(host: &Host) -> String {
    let each = COUNTERS
        .iter()
        .filter_map(|(name, what)| match host.files.counter(name) {
            0 => None,
            count => Some(format!("{count} segments came {what}")),
        });
    let each: Vec<_> = each.collect();
    match each.is_empty() {
        true => String::new(),
        false => format!(" This host dropped since its start: {}", each.join(", ")),
    }
}

/// Of those that are never connected to, the passive ones, the counters alone tell; they matter if there is no session.
fn keys(host: &Host, found: &mut Found) {
    let Some(bgp) = host.config.as_ref().and_then(|config| config.bgp.as_ref()) else {
        return;
    };
    let up = connections(host);
    let waits = |peer: &Peer| {
        peer.enabled
            && peer.passive
            && address(peer).is_some_and(|of| !up.iter().any(|end| end.ip() == of))
    };
    let counted = counters(host);
    for peer in bgp
        .peers
        .values()
        .filter(|peer| waits(peer) && !counted.is_empty())
    {
        found.warning(
            format!(
                "router {}: no session; we wait for it to connect.{counted}",
                peer.id
            ),
            "its key or its TTL may be another than ours",
            command(format!("plimsoll bgp {}", peer.id)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role::Balancer;
    use super::super::Severity::{Fault, Note, Warning};
    use super::*;

    #[test]
    fn one_member_away_is_less_than_all() {
        let (mut host, _root) = Host::sample(Balancer);
        let etcd_of = |connected| Etcd {
            endpoint: "http://e:2379".into(),
            connected,
        };
        host.etcd = vec![
            etcd_of(Ok(Duration::ZERO)),
            etcd_of(Err("connection refused".into())),
        ];
        assert_eq!(host.found(etcd)[0].0, Warning);
        host.etcd.remove(0);
        assert_eq!(
            host.found(etcd),
            [(
                Fault,
                "etcd at http://e:2379: connection refused".to_owned()
            )]
        );
        host.etcd = vec![etcd_of(Ok(Duration::from_millis(300)))];
        assert_eq!(
            host.found(etcd),
            [(
                Warning,
                "etcd at http://e:2379: it took 300 ms to connect".to_owned()
            )]
        );
    }

    #[test]
    fn a_silent_router_is_a_fault_unless_it_wants_a_key() {
        let (mut host, _root) = Host::sample(Balancer);
        let peer = "10.0.0.254".parse().unwrap();
        host.routers = vec![Router {
            peer,
            port: 179,
            keyed: false,
            guarded: false,
            connected: Ok(()),
        }];
        assert_eq!(host.found(routers), []);
        host.routers[0].connected = Err(Refused::Silent);
        assert_eq!(
            host.found(routers),
            [(Fault, "router 10.0.0.254:179: no answer".to_owned())]
        );
        host.routers[0].keyed = true;
        assert_eq!(host.found(routers)[0].0, Note);
        host.routers[0].connected = Err(Refused::Said("connection refused".into()));
        assert_eq!(host.found(routers)[0].0, Fault);
    }

    #[test]
    fn the_kernels_counters_are_read() {
        let (host, _root) = Host::sample(Balancer);
        assert_eq!(counters(&host), "");
        host.write(
            "proc/net/netstat",
            "TcpExt: A TCPMD5Failure TCPMinTTLDrop\nTcpExt: 1 3 0\nIpExt: X\nIpExt: 9\n",
        );
        assert_eq!(
            counters(&host),
            " This host dropped since its start: 3 segments came with another key (MD5) than ours"
        );
        host.write("proc/net/tcp", "  sl\n   0: 0B00000A:B2F0 FE00000A:00B3 01 0\n   1: 0B00000A:B2F0 FE00000A:0050 01 0\n");
        assert_eq!(connections(&host), ["10.0.0.254:179".parse().unwrap()]);
    }
}
