//! IPVS' generic-netlink messages ↔ our types: bytes in, bytes out, no socket.
//!
//! The attributes are those of linux/ip_vs.h. Only what we make can be written; whatever others may have in the
//! table can be read: attributes that we do not know are skipped.
//! Numbers are in host order but for ports; an address always takes 16 bytes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use nix::errno::Errno;

use super::table::{Backend, Change, Destination, Encapsulation, Listed, Settings, TUNNEL};
use crate::config::SyncRole;
use crate::service::{Family, Protocol, VirtualService};
use crate::snapshot::traffic::{Counts, ServerTraffic};

/// `IPVS_CMD_*`
const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DEL_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DEST: u8 = 5;
const SET_DEST: u8 = 6;
const DEL_DEST: u8 = 7;
const GET_DEST: u8 = 8;
const NEW_DAEMON: u8 = 9;
const DEL_DAEMON: u8 = 10;
const GET_DAEMON: u8 = 11;
const GET_CONFIG: u8 = 13;
const GET_INFO: u8 = 15;
const IPVS_VERSION: u8 = 1;

/// linux/genetlink.h: `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// `IPVS_CMD_ATTR_*`
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;
const DAEMON: u16 = 3;
/// `IP_VS_STATE_*`
const MASTER: u32 = 1;
const BACKUP: u32 = 2;

/// `IPVS_SVC_ATTR_STATS` and `_STATS64`; the same numbers for a destination.
const STATS: u16 = 10;
const STATS64: u16 = 12;

/// `IP_VS_SVC_F_PERSISTENT`, `_ONEPACKET`, `_SCHED1` to `3`: all that a user may set. The kernel adds `_HASHED` (2).
const USER_FLAGS: u32 = 0x3d;
/// `IP_VS_CONN_F_FWD_MASK`
const FORWARD_MASK: u32 = 7;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const TCP: u16 = 6;
const UDP: u16 = 17;
const SCTP: u16 = 132;

/// Requests on their way into datagrams, numbered on from `sequence`.
#[derive(Debug)]
pub(super) struct Requests {
    family: u16,
    pub(super) sequence: u32,
    pub(super) datagrams: Vec<Vec<u8>>,
    in_last: usize,
}

/// So that a datagram stays well under the socket's send buffer.
const PER_DATAGRAM: usize = 200;

impl Requests {
    pub(super) fn new(family: u16, sequence: u32) -> Requests {
        Requests {
            family,
            sequence,
            datagrams: Vec::new(),
            in_last: 0,
        }
    }

    /// The kernel answers only if it refuses. The request's number.
    pub(super) fn change(&mut self, key: VirtualService, change: &Change) -> u32 {
        let (command, settings, destination) = match change {
            Change::AddService(settings) => (NEW_SERVICE, Some(settings), None),
            Change::EditService(settings) => (SET_SERVICE, Some(settings), None),
            Change::RemoveService => (DEL_SERVICE, None, None),
            Change::AddDestination(backend, to) => (NEW_DEST, None, Some((*backend, Some(to)))),
            Change::EditDestination(backend, to) => (SET_DEST, None, Some((*backend, Some(to)))),
            Change::RemoveDestination(backend) => (DEL_DEST, None, Some((*backend, None))),
        };
        self.put(self.family, command, 0, |out| {
            put_service(out, key, settings);
            if let Some((backend, to)) = destination {
                put_destination(out, backend, to);
            }
        })
    }

    /// One answer: the service, or `ESRCH`.
    pub(super) fn service(&mut self, key: VirtualService) -> u32 {
        self.put(self.family, GET_SERVICE, 0, |out| {
            put_service(out, key, None)
        })
    }

    /// A dump. A service that is not there has an empty one, no error.
    pub(super) fn destinations(&mut self, key: VirtualService) -> u32 {
        self.put(self.family, GET_DEST, NLM_F_DUMP, |out| {
            put_service(out, key, None)
        })
    }

    pub(super) fn all_services(&mut self) -> u32 {
        self.put(self.family, GET_SERVICE, NLM_F_DUMP, |_| {})
    }

    pub(super) fn start_sync(&mut self, thread: &SyncThread) -> u32 {
        self.put(self.family, NEW_DAEMON, NLM_F_ACK, |out| {
            put_thread(out, thread)
        })
    }

    pub(super) fn stop_sync(&mut self, thread: &SyncThread) -> u32 {
        self.put(self.family, DEL_DAEMON, NLM_F_ACK, |out| {
            put_thread(out, thread)
        })
    }

    pub(super) fn sync_threads(&mut self) -> u32 {
        self.put(self.family, GET_DAEMON, NLM_F_DUMP, |_| {})
    }

    pub(super) fn info(&mut self) -> u32 {
        self.put(self.family, GET_INFO, NLM_F_ACK, |_| {})
    }

    /// The timeouts of the protocols that the kernel was built with.
    pub(super) fn timeouts(&mut self) -> u32 {
        self.put(self.family, GET_CONFIG, NLM_F_ACK, |_| {})
    }

    /// The number of the family "IPVS". By asking for the name, the kernel loads the module if it can.
    pub(super) fn family(&mut self) -> u32 {
        self.put(CONTROL, GET_FAMILY, NLM_F_ACK, |out| {
            attribute(out, FAMILY_NAME, b"IPVS\0")
        })
    }

    fn put(
        &mut self,
        family: u16,
        command: u8,
        flags: u16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        if self.datagrams.is_empty() || self.in_last == PER_DATAGRAM {
            self.datagrams.push(Vec::new());
            self.in_last = 0;
        }
        self.in_last += 1;
        // There is one: it was just pushed if not.
        let out = self.datagrams.last_mut().expect("a datagram");
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&family.to_ne_bytes());
        out.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        out.extend_from_slice(&self.sequence.to_ne_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&[command, IPVS_VERSION, 0, 0]);
        body(out);
        let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.sequence
    }
}

fn put_service(out: &mut Vec<u8>, key: VirtualService, settings: Option<&Settings>) {
    nested(out, SERVICE, |out| {
        attribute(out, 1, &number_of(key.family()).to_ne_bytes());
        match key {
            VirtualService::Address {
                protocol,
                address,
                port,
            } => {
                let protocol = match protocol {
                    Protocol::Tcp => TCP,
                    Protocol::Udp => UDP,
                    Protocol::Sctp => SCTP,
                };
                attribute(out, 2, &protocol.to_ne_bytes());
                attribute(out, 3, &sixteen(address));
                attribute(out, 4, &port.to_be_bytes());
            }
            VirtualService::Mark { mark, family: _ } => {
                attribute(out, 5, &mark.get().to_ne_bytes());
            }
        }
        let Some(settings) = settings else { return };
        // The kernel wants these four together: scheduler, flags, timeout, netmask.
        let mut name = settings.scheduler.clone().into_bytes();
        name.push(0);
        attribute(out, 6, &name);
        // struct ip_vs_flags: flags, mask
        let mut flags = [0; 8];
        flags[..4].copy_from_slice(&settings.flags.to_ne_bytes());
        flags[4..].copy_from_slice(&USER_FLAGS.to_ne_bytes());
        attribute(out, 7, &flags);
        attribute(out, 8, &settings.timeout.to_ne_bytes());
        attribute(out, 9, &settings.netmask.to_ne_bytes());
        if let Some(engine) = &settings.engine {
            let mut name = engine.clone().into_bytes();
            name.push(0);
            attribute(out, 11, &name);
        }
    });
}

fn put_destination(out: &mut Vec<u8>, backend: Backend, to: Option<&Destination>) {
    nested(out, DESTINATION, |out| {
        let family = number_of(Family::of(backend.ip()));
        attribute(out, 1, &sixteen(backend.ip()));
        attribute(out, 2, &backend.port().to_be_bytes());
        attribute(out, 11, &family.to_ne_bytes());
        let Some(to) = to else { return };
        // The kernel wants these four together: forwarding, weight, both thresholds.
        for (kind, value) in [
            (3, to.forward),
            (4, to.weight),
            (5, to.upper),
            (6, to.lower),
        ] {
            attribute(out, kind, &value.to_ne_bytes());
        }
        // Kernels before 5.2 know no kinds of tunnels; of what is none they need not be told.
        if to.tunnel != Encapsulation::default() || to.forward == TUNNEL {
            attribute(out, 13, &[to.tunnel.kind]);
            attribute(out, 14, &to.tunnel.port.to_be_bytes());
            attribute(out, 15, &to.tunnel.flags.to_ne_bytes());
        }
    });
}

/// One of the kernel's threads of connection synchronisation; there is one of a role at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SyncThread {
    /// Never both.
    pub(super) role: SyncRole,
    pub(super) interface: String,
    pub(super) id: u32,
    pub(super) group: IpAddr,
    pub(super) port: u16,
    pub(super) ttl: u8,
}

impl fmt::Display for SyncThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            SyncRole::Backup => "backup",
            SyncRole::Master | SyncRole::Both => "master",
        };
        let SyncThread {
            interface,
            id,
            group,
            port,
            ttl,
            ..
        } = self;
        write!(
            f,
            "{role} on {interface}, sync-id {id}, group {group}, port {port}, ttl {ttl}"
        )
    }
}

fn put_thread(out: &mut Vec<u8>, thread: &SyncThread) {
    let state = match thread.role {
        SyncRole::Backup => BACKUP,
        SyncRole::Master | SyncRole::Both => MASTER,
    };
    nested(out, DAEMON, |out| {
        attribute(out, 1, &state.to_ne_bytes());
        let mut name = thread.interface.clone().into_bytes();
        name.push(0);
        attribute(out, 2, &name);
        attribute(out, 3, &thread.id.to_ne_bytes());
        match thread.group {
            IpAddr::V4(group) => attribute(out, 5, &group.octets()),
            IpAddr::V6(group) => attribute(out, 6, &group.octets()),
        }
        attribute(out, 7, &thread.port.to_ne_bytes());
        attribute(out, 8, &[thread.ttl]);
    });
}

/// `None` if it cannot be made out.
pub(super) fn parse_sync_thread(body: &[u8]) -> Option<SyncThread> {
    let mut thread = SyncThread {
        role: SyncRole::Master,
        interface: String::new(),
        id: 0,
        // Kernels before 4.3 have no other and do not say so.
        group: Ipv4Addr::new(224, 0, 0, 81).into(),
        port: 8848,
        ttl: 1,
    };
    for (kind, value) in inside(body, DAEMON) {
        match kind {
            1 if number(value)? == BACKUP => thread.role = SyncRole::Backup,
            2 => thread.interface = text(value),
            3 => thread.id = number(value)?,
            5 => thread.group = read_address(AF_INET, value)?,
            6 => thread.group = read_address(AF_INET6, value)?,
            7 => thread.port = short(value)?,
            8 => thread.ttl = *value.first()?,
            _ => {}
        }
    }
    Some(thread)
}

fn number_of(family: Family) -> u16 {
    match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    }
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn nested(out: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    attribute(out, kind | NLA_F_NESTED, &[]);
    body(out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// One message of the kernel's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    /// The number of the request that it answers.
    pub(super) to: u32,
    pub(super) says: Says<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Says<'a> {
    /// The attributes.
    Data(&'a [u8]),
    /// Nothing more comes for this request: it is done, or refused.
    End(Result<(), Errno>),
}

/// Splits a datagram into its messages; `None` where one of them is cut short.
pub(super) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Option<Reply<'_>>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let reply = reply(datagram);
        datagram = match reply {
            Some((_, length)) => datagram
                .get(length.next_multiple_of(4)..)
                .unwrap_or_default(),
            None => &[],
        };
        Some(reply.map(|(reply, _)| reply))
    })
}

fn reply(datagram: &[u8]) -> Option<(Reply<'_>, usize)> {
    let length = usize::try_from(number(datagram)?)
        .ok()
        .filter(|length| *length >= HEADER)?;
    let message = datagram.get(..length)?;
    let kind = short(message.get(4..)?)?;
    let to = number(message.get(8..)?)?;
    let says = match kind {
        // A negative errno first in both; NLMSG_DONE of an old kernel may lack it.
        NLMSG_ERROR => Says::End(end(number(&message[HEADER..])?)),
        NLMSG_DONE => Says::End(end(number(&message[HEADER..]).unwrap_or(0))),
        _ => Says::Data(message.get(HEADER + GENERIC_HEADER..)?),
    };
    Some((Reply { to, says }, length))
}

fn end(code: u32) -> Result<(), Errno> {
    match code.cast_signed() {
        0 => Ok(()),
        negative => Err(Errno::from_raw(negative.wrapping_neg())),
    }
}

/// The family's number in an answer to [`Requests::family`].
pub(super) fn parse_family(body: &[u8]) -> Option<u16> {
    attributes(body)
        .find(|(kind, _)| *kind == FAMILY_ID)
        .and_then(|(_, value)| short(value))
}

/// Whether TCP and UDP are in an answer to [`Requests::timeouts`]: `IPVS_CMD_ATTR_TIMEOUT_TCP` (4), `_UDP` (6).
/// A kernel leaves out what it was built without (`ip_vs_genl_get_cmd()`).
pub(super) fn parse_timeouts(body: &[u8]) -> (bool, bool) {
    let has = |wanted| attributes(body).any(|(kind, _)| kind == wanted);
    (has(4), has(6))
}

/// A service in an answer; never fails: what it does not understand it says in words.
pub(super) fn parse_service(body: &[u8]) -> (Listed, Settings) {
    let (mut family, mut protocol, mut port, mut mark) = (0, 0, 0, None);
    let mut address: &[u8] = &[];
    let mut settings = Settings {
        scheduler: String::new(),
        flags: 0,
        timeout: 0,
        netmask: 0,
        engine: None,
    };
    for (kind, value) in inside(body, SERVICE) {
        match kind {
            1 => family = short(value).unwrap_or(0),
            2 => protocol = short(value).unwrap_or(0),
            3 => address = value,
            4 => port = big_endian(value).unwrap_or(0),
            5 => mark = number(value),
            6 => settings.scheduler = text(value),
            7 => settings.flags = number(value).unwrap_or(0) & USER_FLAGS,
            8 => settings.timeout = number(value).unwrap_or(0),
            9 => settings.netmask = number(value).unwrap_or(0),
            11 => settings.engine = Some(text(value)).filter(|name| !name.is_empty()),
            _ => {}
        }
    }
    let marked = mark.and_then(NonZeroU32::new);
    let listed = match (marked, family_of(family), read_address(family, address)) {
        (Some(mark), Some(family), _) => Listed::Service(VirtualService::Mark { mark, family }),
        (None, _, Some(address)) => match protocol_of(protocol) {
            Some(protocol) => Listed::Service(VirtualService::Address {
                protocol,
                address,
                port,
            }),
            None => {
                let at = SocketAddr::new(address, port);
                Listed::Other(format!("protocol {protocol} {at}"))
            }
        },
        (Some(_) | None, _, _) => Listed::Other(format!("address family {family}")),
    };
    (listed, settings)
}

/// A service's own figures in an answer.
pub(super) fn parse_service_counts(body: &[u8]) -> Counts {
    let stats = inside(body, SERVICE).filter(|(kind, _)| matches!(*kind, STATS | STATS64));
    stats
        .last()
        .map_or_else(Counts::default, |(_, value)| parse_counts(value))
}

/// `IPVS_STATS_ATTR_*`: in `STATS` some numbers have 4 bytes, in `STATS64`, which comes after it, all have 8.
fn parse_counts(stats: &[u8]) -> Counts {
    let mut counts = Counts::default();
    for (kind, value) in attributes(stats) {
        let number = match value.first_chunk() {
            Some(eight) => u64::from_ne_bytes(*eight),
            None => number(value).map_or(0, u64::from),
        };
        match kind {
            1 => counts.connections = number,
            2 => counts.packets_in = number,
            3 => counts.packets_out = number,
            4 => counts.bytes_in = number,
            5 => counts.bytes_out = number,
            6 => counts.connection_rate = number,
            7 => counts.packet_rate_in = number,
            8 => counts.packet_rate_out = number,
            9 => counts.byte_rate_in = number,
            10 => counts.byte_rate_out = number,
            _ => {}
        }
    }
    counts
}

fn protocol_of(number: u16) -> Option<Protocol> {
    match number {
        TCP => Some(Protocol::Tcp),
        UDP => Some(Protocol::Udp),
        SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

fn family_of(number: u16) -> Option<Family> {
    match number {
        AF_INET => Some(Family::Ipv4),
        AF_INET6 => Some(Family::Ipv6),
        _ => None,
    }
}

/// A destination in an answer, of a service of this family; `None` if its address cannot be made out.
pub(super) fn parse_destination(
    body: &[u8],
    service: Family,
) -> Option<(Backend, Destination, ServerTraffic)> {
    // Kernels before 3.18 do not say the family: it is the service's.
    let mut family = number_of(service);
    let mut address: &[u8] = &[];
    let mut port = 0;
    let mut traffic = ServerTraffic::default();
    let mut to = Destination {
        weight: 0,
        forward: 0,
        upper: 0,
        lower: 0,
        tunnel: Encapsulation::default(),
    };
    for (kind, value) in inside(body, DESTINATION) {
        match kind {
            1 => address = value,
            2 => port = big_endian(value)?,
            3 => to.forward = number(value)? & FORWARD_MASK,
            4 => to.weight = number(value)?,
            5 => to.upper = number(value)?,
            6 => to.lower = number(value)?,
            7 => traffic.active = number(value)?,
            8 => traffic.inactive = number(value)?,
            9 => traffic.persistent = number(value)?,
            STATS | STATS64 => traffic.counts = parse_counts(value),
            11 => family = short(value)?,
            13 => to.tunnel.kind = *value.first()?,
            14 => to.tunnel.port = big_endian(value)?,
            15 => to.tunnel.flags = short(value)?,
            _ => {}
        }
    }
    let backend = SocketAddr::new(read_address(family, address)?, port);
    Some((backend, to, traffic))
}

fn read_address(family: u16, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn inside(body: &[u8], outer: u16) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(body)
        .find(|(kind, _)| *kind == outer)
        .into_iter()
        .flat_map(|(_, value)| attributes(value))
}

/// Attributes up to the end or the first that is cut short.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes)?);
        let kind = short(bytes.get(2..)?)? & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn short(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_ne_bytes)
}

fn big_endian(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_be_bytes)
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(address: &str) -> VirtualService {
        VirtualService::Address {
            protocol: Protocol::Udp,
            address: address.parse().unwrap(),
            port: 53,
        }
    }

    /// The one message of the requests, as if the kernel had sent it.
    fn echoed(requests: &Requests) -> Vec<u8> {
        let [datagram] = &requests.datagrams[..] else {
            panic!("one datagram")
        };
        let mut replies = replies(datagram);
        let Some(Some(Reply {
            says: Says::Data(body),
            ..
        })) = replies.next()
        else {
            panic!("data")
        };
        assert_eq!(replies.next(), None);
        body.to_vec()
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mark = |family| VirtualService::Mark {
            mark: NonZeroU32::MAX,
            family,
        };
        for (key, server) in [
            (key("192.0.2.1"), "10.0.0.1:53"),
            (key("2001:db8::1"), "[2001:db8::2]:53"),
            // By tunnel.
            (key("192.0.2.1"), "[2001:db8::2]:53"),
            (mark(Family::Ipv4), "10.0.0.1:0"),
            (mark(Family::Ipv6), "10.0.0.1:8000"),
        ] {
            let settings = Settings {
                scheduler: "mh".into(),
                flags: 5,
                timeout: 300,
                netmask: 24,
                engine: Some("sip".into()),
            };
            let mut requests = Requests::new(28, 0);
            requests.change(key, &Change::AddService(settings.clone()));
            assert_eq!(
                parse_service(&echoed(&requests)),
                (Listed::Service(key), settings)
            );

            let backend = server.parse().unwrap();
            let to = Destination {
                weight: 7,
                forward: TUNNEL,
                upper: 9,
                lower: 8,
                tunnel: Encapsulation {
                    kind: 1,
                    port: 5555,
                    flags: 2,
                },
            };
            let mut requests = Requests::new(28, 0);
            requests.change(key, &Change::EditDestination(backend, to.clone()));
            assert_eq!(
                parse_destination(&echoed(&requests), key.family()),
                Some((backend, to, ServerTraffic::default()))
            );
        }
    }

    #[test]
    fn a_thread_that_is_written_can_be_read() {
        for (role, group) in [
            (SyncRole::Master, "224.0.0.81"),
            (SyncRole::Backup, "ff02::81"),
        ] {
            let thread = SyncThread {
                role,
                interface: "eth1.100".into(),
                id: 255,
                group: group.parse().unwrap(),
                port: 9000,
                ttl: 2,
            };
            let mut requests = Requests::new(28, 0);
            requests.start_sync(&thread);
            assert_eq!(parse_sync_thread(&echoed(&requests)), Some(thread));
        }
    }

    #[test]
    fn what_others_have_is_named() {
        let mut body = Vec::new();
        nested(&mut body, SERVICE, |out| {
            attribute(out, 1, &AF_INET.to_ne_bytes());
            attribute(out, 5, &7u32.to_ne_bytes());
            attribute(out, 77, &[1, 2, 3]);
            attribute(out, 6, b"rr\0");
        });
        let (listed, settings) = parse_service(&body);
        assert_eq!(listed.to_string(), "IPv4 firewall mark 7");
        assert_eq!(settings.scheduler, "rr");

        let mut body = Vec::new();
        nested(&mut body, SERVICE, |out| {
            attribute(out, 1, &AF_INET6.to_ne_bytes());
            attribute(out, 2, &SCTP.to_ne_bytes());
            attribute(out, 3, &sixteen("2001:db8::1".parse().unwrap()));
            attribute(out, 4, &80u16.to_be_bytes());
        });
        assert_eq!(parse_service(&body).0.to_string(), "sctp [2001:db8::1]:80");
    }

    #[test]
    fn a_protocol_that_the_kernel_lacks_is_left_out() {
        let mut body = Vec::new();
        assert_eq!(parse_timeouts(&body), (false, false));
        attribute(&mut body, 6, &300u32.to_ne_bytes());
        assert_eq!(parse_timeouts(&body), (false, true));
        attribute(&mut body, 4, &900u32.to_ne_bytes());
        assert_eq!(parse_timeouts(&body), (true, true));
    }

    #[test]
    fn figures_are_read_in_either_width() {
        let old = |out: &mut Vec<u8>| {
            nested(out, STATS, |out| {
                for kind in [1, 2, 3, 6, 7, 8, 9, 10] {
                    attribute(out, kind, &u32::from(kind).to_ne_bytes());
                }
                for kind in [4, 5] {
                    attribute(out, kind, &u64::from(kind).to_ne_bytes());
                }
            });
        };
        let new = |out: &mut Vec<u8>| {
            old(out);
            nested(out, STATS64, |out| {
                for kind in 1..=10 {
                    // Padding, as the kernel puts it before numbers that would else not be aligned.
                    attribute(out, 11, &[]);
                    attribute(out, kind, &(u64::from(kind) << 32).to_ne_bytes());
                }
            });
        };
        let counts = |times: u64| Counts {
            connections: times,
            packets_in: 2 * times,
            packets_out: 3 * times,
            bytes_in: 4 * times,
            bytes_out: 5 * times,
            connection_rate: 6 * times,
            packet_rate_in: 7 * times,
            packet_rate_out: 8 * times,
            byte_rate_in: 9 * times,
            byte_rate_out: 10 * times,
        };
        let check = |stats: &dyn Fn(&mut Vec<u8>), counts: Counts| {
            let mut body = Vec::new();
            nested(&mut body, SERVICE, stats);
            assert_eq!(parse_service_counts(&body), counts);
            let mut body = Vec::new();
            nested(&mut body, DESTINATION, |out| {
                attribute(out, 1, &sixteen("10.0.0.1".parse().unwrap()));
                for (kind, value) in [(7, 11u32), (8, 12), (9, 13)] {
                    attribute(out, kind, &value.to_ne_bytes());
                }
                stats(out);
            });
            let traffic = ServerTraffic {
                active: 11,
                inactive: 12,
                persistent: 13,
                counts,
            };
            let parsed = parse_destination(&body, Family::Ipv4);
            assert_eq!(parsed.map(|(_, _, traffic)| traffic), Some(traffic));
        };
        check(&|_| {}, Counts::default());
        check(&old, counts(1));
        check(&new, counts(1 << 32));
    }

    #[test]
    fn many_requests_take_several_datagrams() {
        let mut requests = Requests::new(28, u32::MAX - 1);
        let last = (0..401).map(|_| requests.service(key("192.0.2.1"))).last();
        assert_eq!(last, Some(399));
        let counts: Vec<_> = requests
            .datagrams
            .iter()
            .map(|datagram| replies(datagram).count())
            .collect();
        assert_eq!(counts, [200, 200, 1]);
    }

    #[test]
    fn ends_carry_the_errno() {
        let mut datagram = Vec::new();
        for (kind, errno) in [(NLMSG_ERROR, -2i32), (NLMSG_DONE, 0)] {
            datagram.extend_from_slice(&20u32.to_ne_bytes());
            datagram.extend_from_slice(&kind.to_ne_bytes());
            datagram.extend_from_slice(&[0; 2]);
            datagram.extend_from_slice(&5u32.to_ne_bytes());
            datagram.extend_from_slice(&[0; 4]);
            datagram.extend_from_slice(&errno.to_ne_bytes());
        }
        let says: Vec<_> = replies(&datagram).map(|reply| reply.unwrap()).collect();
        assert_eq!(
            says,
            [
                Reply {
                    to: 5,
                    says: Says::End(Err(Errno::ENOENT))
                },
                Reply {
                    to: 5,
                    says: Says::End(Ok(()))
                }
            ]
        );
        assert_eq!(replies(&datagram[..19]).collect::<Vec<_>>(), [None]);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for reply in replies(&bytes) {
                if let Some(Reply { says: Says::Data(body), .. }) = reply {
                    parse_family(body);
                }
            }
            parse_service(&bytes);
            let mut body = Vec::new();
            attribute(&mut body, DESTINATION, &bytes);
            parse_destination(&body, Family::Ipv4);
            let mut body = Vec::new();
            attribute(&mut body, SERVICE, &bytes);
            parse_service(&body);
            parse_counts(&bytes);
        }
    }
}
