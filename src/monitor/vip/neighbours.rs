//! The way to a server as the kernel would take it, and IPVS with it: the route, and the link-layer address of who is
//! next on it. Asked of the kernel by rtnetlink; ARP and neighbour discovery are left to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage,
    NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use rtnetlink::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Way;
use crate::monitor::connect::words;
use crate::monitor::outcome::{Deadline, Failure};

/// How old a way may be that is used again.
const KEPT: Duration = Duration::from_secs(10);
/// While the kernel asks for a link-layer address it is looked for after this long, then twice as long, and so on...
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// ...up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Where packets for a server go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::monitor) struct Hop {
    /// Its index.
    pub(super) interface: u32,
    /// Of the link; all zero where the link has none.
    pub(super) address: [u8; 6],
    /// Our own address on this way.
    pub(in crate::monitor) source: IpAddr,
}

#[derive(Default)]
pub(super) struct Neighbours {
    /// `None`: not open yet, or it broke.
    route: Mutex<Option<Connection>>,
    known: Mutex<BTreeMap<IpAddr, (Instant, Hop)>>,
}

struct Connection {
    handle: Handle,
    /// Drives the socket; ends with this value.
    _task: JoinSet<()>,
}

/// What the kernel says of the route to a server.
struct Route {
    interface: u32,
    /// The server itself, or the router before it.
    next: IpAddr,
    source: IpAddr,
}

impl Neighbours {
    pub(super) async fn way(
        &self,
        server: IpAddr,
        fresh: bool,
        deadline: Deadline,
    ) -> Result<Way, Failure> {
        let now = Instant::now();
        let known = lock(&self.known).get(&server).copied();
        if let Some((_, hop)) =
            known.filter(|(at, _)| !fresh && now.saturating_duration_since(*at) < KEPT)
        {
            return Ok(Way::Over(hop));
        }
        let Some(route) = self.route(server).await? else {
            return Ok(Way::Here);
        };
        let hop = Hop {
            interface: route.interface,
            address: self.resolve(&route, deadline).await?,
            source: route.source,
        };
        let mut known = lock(&self.known);
        // Servers come and go; none is remembered for long.
        if known.len() > 1000 && !known.contains_key(&server) {
            known.retain(|_, (at, _)| now.saturating_duration_since(*at) < KEPT);
        }
        known.insert(server, (now, hop));
        Ok(Way::Over(hop))
    }

    pub(super) fn forget(&self, server: IpAddr) {
        lock(&self.known).remove(&server);
    }

    /// `None`: the server is this host.
    async fn route(&self, server: IpAddr) -> Result<Option<Route>, Failure> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(server),
            destination_prefix_length: if server.is_ipv4() { 32 } else { 128 },
            ..RouteHeader::default()
        };
        let destination = RouteAttribute::Destination(RouteAddress::from(server));
        message.attributes.push(destination);
        let no_route = || Failure::Server(format!("no route to {server}"));
        let answer = self
            .request(RouteNetlinkMessage::GetRoute(message), 0)
            .await;
        let message = match answer {
            Ok(Some(RouteNetlinkMessage::NewRoute(message))) => message,
            Ok(_) => return Err(no_route()),
            // Whatever the kernel has against it, there is none.
            Err(Refusal::Kernel(_)) => return Err(no_route()),
            Err(Refusal::Ours(failure)) => return Err(failure),
        };
        if message.header.kind == RouteType::Local {
            return Ok(None);
        }
        let (mut interface, mut next, mut source) = (None, server, None);
        for attribute in message.attributes {
            if let RouteAttribute::Oif(index) = attribute {
                interface = Some(index);
            } else if let RouteAttribute::Gateway(router) = attribute {
                next = ip(&router).unwrap_or(next);
            } else if let RouteAttribute::Via(RouteVia::Inet(router)) = attribute {
                next = router.into();
            } else if let RouteAttribute::Via(RouteVia::Inet6(router)) = attribute {
                next = router.into();
            } else if let RouteAttribute::PrefSource(ours) = attribute {
                source = ip(&ours);
            }
        }
        let source = source.ok_or_else(|| {
            Failure::Server(format!("this host has no address to reach {server} from"))
        })?;
        Ok(Some(Route {
            interface: interface.ok_or_else(no_route)?,
            next,
            source,
        }))
    }

    /// The next hop's link-layer address. Has the kernel find it or confirm it, as a packet of IPVS would.
    async fn resolve(&self, route: &Route, deadline: Deadline) -> Result<[u8; 6], Failure> {
        let (mut pause, mut asked) = (FIRST_PAUSE, false);
        loop {
            let (state, address) = self.neighbour(route).await?;
            match (state, address) {
                (
                    NeighbourState::Reachable
                    | NeighbourState::Delay
                    | NeighbourState::Probe
                    | NeighbourState::Permanent
                    | NeighbourState::Noarp,
                    address,
                ) => return Ok(address.unwrap_or_default()),
                (NeighbourState::Stale, Some(address)) => {
                    self.use_neighbour(route).await?;
                    return Ok(address);
                }
                (NeighbourState::Failed, _) if asked => return Err(unanswered(route)),
                // The kernel is at it.
                (NeighbourState::Incomplete, _) => {}
                (_, _) if asked => {}
                (_, _) => {
                    self.use_neighbour(route).await?;
                    asked = true;
                }
            }
            if Instant::now() + pause >= deadline.at {
                return Err(unanswered(route));
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// What the kernel knows of the next hop: the state of its entry and, if known, the address.
    async fn neighbour(&self, route: &Route) -> Result<(NeighbourState, Option<[u8; 6]>), Failure> {
        let message = RouteNetlinkMessage::GetNeighbour(neighbour(route));
        let message = match self.request(message, 0).await {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(message))) => message,
            Ok(_) | Err(Refusal::Kernel(Errno::ENOENT)) => return Ok((NeighbourState::None, None)),
            Err(Refusal::Kernel(errno)) => return Err(odd("look up a neighbour", errno)),
            Err(Refusal::Ours(failure)) => return Err(failure),
        };
        let address = message.attributes.iter().find_map(|attribute| {
            if let NeighbourAttribute::LinkLayerAddress(address) = attribute {
                <[u8; 6]>::try_from(address.as_slice()).ok()
            } else {
                None
            }
        });
        Ok((message.header.state, address))
    }

    /// Does with the entry what a packet that is sent there does: NTF_USE of linux/neighbour.h.
    async fn use_neighbour(&self, route: &Route) -> Result<(), Failure> {
        let mut message = neighbour(route);
        message.header.flags = NeighbourFlags::Use;
        let message = RouteNetlinkMessage::NewNeighbour(message);
        match self.request(message, NLM_F_CREATE).await {
            Ok(_) => Ok(()),
            Err(Refusal::Kernel(Errno::EPERM)) => Err(Failure::Unable(
                "checks at the VIP need CAP_NET_ADMIN".to_owned(),
            )),
            Err(Refusal::Kernel(errno)) => Err(odd("ask for a neighbour", errno)),
            Err(Refusal::Ours(failure)) => Err(failure),
        }
    }

    /// The last message of the answer, once it is whole.
    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, Refusal> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut handle = self.handle().map_err(Refusal::Ours)?;
        if let Ok(mut answers) = handle.request(request) {
            let mut message = None;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::InnerMessage(part) = answer.payload {
                    message = Some(part);
                } else if let NetlinkPayload::Error(end) = answer.payload {
                    return match end.raw_code() {
                        0 => Ok(message),
                        code => Err(Refusal::Kernel(Errno::from_raw(code.wrapping_abs()))),
                    };
                }
            }
        }
        // Another one next time.
        *lock(&self.route) = None;
        let why = "the connection to the kernel's routes ended before the answer".to_owned();
        Err(Refusal::Ours(Failure::Unable(why)))
    }

    fn handle(&self) -> Result<Handle, Failure> {
        let mut route = lock(&self.route);
        if let Some(connection) = &*route {
            return Ok(connection.handle.clone());
        }
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(|error| {
            Failure::Unable(format!("cannot open a route socket: {}", words(&error)))
        })?;
        // Otherwise a success and a dead connection look alike: the end of the answers.
        connection.set_forward_ack(true);
        let mut task = JoinSet::new();
        task.spawn(connection);
        *route = Some(Connection {
            handle: handle.clone(),
            _task: task,
        });
        Ok(handle)
    }
}

enum Refusal {
    Kernel(Errno),
    Ours(Failure),
}

fn neighbour(route: &Route) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: family(route.next),
        ifindex: route.interface,
        ..NeighbourHeader::default()
    };
    let destination = NeighbourAttribute::Destination(NeighbourAddress::from(route.next));
    message.attributes.push(destination);
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some((*address).into())
    } else if let RouteAddress::Inet6(address) = address {
        Some((*address).into())
    } else {
        None
    }
}

fn unanswered(route: &Route) -> Failure {
    let how = if route.next.is_ipv4() { "ARP" } else { "ND" };
    Failure::Server(format!("no neighbour ({how}) answer from {}", route.next))
}

/// An interface that has just gone, say.
fn odd(what: &str, errno: Errno) -> Failure {
    Failure::Unable(format!("cannot {what}: {}", errno.desc().to_lowercase()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under it panics half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
