//! What an IPVS table holds, what can be done to it, and how it says no: the words that the kernel's table
//! and the one in memory share. Not how either is reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nix::errno::Errno;

use super::memory::Memory;
use super::netlink::Kernel;
use crate::service::{
    self, Delivery, Family, Forwarding, GueChecksum, SchedulerFlag, Scheduling, Tunnel,
    VirtualService,
};
use crate::snapshot::traffic::Reading;

/// Where services are programmed.
#[derive(Debug)]
pub enum Table {
    Kernel(Kernel),
    /// For `--dry-run` and `--ipvs memory`: behaves as the kernel's, forwards nothing.
    Memory(Memory),
}

/// Why a table can't be worked on at all. Its state is unknown until it could be read again.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("the kernel has no IPVS: modprobe ip_vs (kernel option CONFIG_IP_VS)")]
    NoIpvs,
    #[error("the kernel refuses access to IPVS: CAP_NET_ADMIN is missing")]
    NotPermitted,
    #[error("the module ip_vs was unloaded or loaded anew")]
    Reloaded,
    #[error("netlink: cannot {operation}")]
    Netlink {
        operation: &'static str,
        source: io::Error,
    },
    #[error("netlink: malformed answer from the kernel")]
    Malformed,
}

/// A service's own settings, without its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) scheduler: String,
    /// `IP_VS_SVC_F_*` of linux/ip_vs.h, without what the kernel keeps for itself.
    pub(super) flags: u32,
    /// Of persistence, in seconds.
    pub(super) timeout: u32,
    /// Of persistence: an IPv4 mask in network order, or an IPv6 prefix length.
    pub(super) netmask: u32,
    /// The persistence engine.
    pub(super) engine: Option<String>,
}

/// `IP_VS_SVC_F_*` of linux/ip_vs.h. What the last two mean is the scheduler's: of `sh` and `mh` the same.
pub(super) const PERSISTENT: u32 = 1;
pub(super) const ONE_PACKET: u32 = 4;
pub(super) const FALLBACK: u32 = 8;
pub(super) const PORT: u32 = 0x10;

impl Settings {
    /// `family`: the service's.
    pub(super) fn new(family: Family, scheduling: &Scheduling) -> Settings {
        let Scheduling {
            scheduler,
            flags,
            one_packet,
            persistence,
        } = scheduling;
        let flag = |flag: &SchedulerFlag| match flag {
            SchedulerFlag::Fallback => FALLBACK,
            SchedulerFlag::Port => PORT,
        };
        let set = |bit, is: bool| if is { bit } else { 0 };
        let length = persistence.and_then(|persistence| persistence.prefix_length);
        let engine = persistence.and_then(|persistence| persistence.engine);
        Settings {
            scheduler: scheduler.name().to_owned(),
            flags: flags.iter().map(flag).sum::<u32>()
                | set(ONE_PACKET, *one_packet)
                | set(PERSISTENT, persistence.is_some()),
            timeout: persistence.map_or(0, |persistence| persistence.timeout),
            netmask: netmask(family, length),
            engine: engine.map(|engine| engine.name().to_owned()),
        }
    }
}

/// `None`: an address is for itself.
fn netmask(family: Family, length: Option<u8>) -> u32 {
    match family {
        Family::Ipv4 => {
            let host_bits = 32u32.saturating_sub(length.unwrap_or(32).into());
            u32::MAX.checked_shl(host_bits).unwrap_or(0).to_be()
        }
        Family::Ipv6 => length.unwrap_or(128).into(),
    }
}

/// `IP_VS_CONN_F_*` of linux/ip_vs.h: the forwarding part.
pub(super) const MASQUERADING: u32 = 0;
pub(super) const TUNNEL: u32 = 2;
pub(super) const DIRECT_ROUTING: u32 = 3;

/// A server as the kernel has it; anything that it may have can be said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) weight: u32,
    pub(super) forward: u32,
    /// Connection thresholds, 0: none.
    pub(super) upper: u32,
    pub(super) lower: u32,
    pub(super) tunnel: Encapsulation,
}

/// `IP_VS_CONN_F_TUNNEL_TYPE_*` and `IP_VS_TUNNEL_ENCAP_FLAG_*` of linux/ip_vs.h. All 0 is IP in IP, and no tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Encapsulation {
    pub(super) kind: u8,
    pub(super) port: u16,
    pub(super) flags: u16,
}

#[cfg(test)]
impl Destination {
    pub(super) fn direct(weight: u32) -> Destination {
        Destination {
            weight,
            forward: DIRECT_ROUTING,
            upper: 0,
            lower: 0,
            tunnel: Encapsulation::default(),
        }
    }
}

impl From<Tunnel> for Encapsulation {
    fn from(tunnel: Tunnel) -> Encapsulation {
        let (kind, port, flags) = match tunnel {
            Tunnel::Ipip => (0, 0, 0),
            Tunnel::Gue { port, checksum } => {
                let flags = match checksum {
                    GueChecksum::None => 0,
                    GueChecksum::Udp => 1,
                    GueChecksum::Remote => 2,
                };
                (1, port, flags)
            }
            Tunnel::Gre { checksum } => (2, 0, u16::from(checksum)),
        };
        Encapsulation { kind, port, flags }
    }
}

impl From<service::Destination> for Destination {
    fn from(to: service::Destination) -> Destination {
        let Delivery {
            forwarding,
            upper,
            lower,
        } = to.delivery;
        let (forward, tunnel) = match forwarding {
            Forwarding::DirectRouting => (DIRECT_ROUTING, Encapsulation::default()),
            Forwarding::Masquerading => (MASQUERADING, Encapsulation::default()),
            Forwarding::Tunnel(tunnel) => (TUNNEL, tunnel.into()),
        };
        Destination {
            weight: to.weight.get(),
            forward,
            upper,
            lower,
            tunnel,
        }
    }
}

/// What the kernel knows a destination by, within its service.
pub(super) type Backend = SocketAddr;

/// One service as a table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) settings: Settings,
    pub(super) destinations: BTreeMap<Backend, Destination>,
    /// How busy it and each of them was.
    pub(super) traffic: Arc<Reading>,
}

/// One change of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    AddService(Settings),
    EditService(Settings),
    RemoveService,
    AddDestination(Backend, Destination),
    EditDestination(Backend, Destination),
    RemoveDestination(Backend),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::AddService(settings) => {
                write!(f, "add the service with scheduler {}", settings.scheduler)
            }
            Change::EditService(settings) => {
                write!(
                    f,
                    "set the service to scheduler {}, flags {:#x}",
                    settings.scheduler, settings.flags
                )
            }
            Change::RemoveService => f.write_str("remove the service"),
            Change::AddDestination(backend, to) => {
                write!(f, "add {} with weight {}", backend, to.weight)
            }
            Change::EditDestination(backend, to) => {
                write!(f, "set {} to weight {}", backend, to.weight)
            }
            Change::RemoveDestination(backend) => write!(f, "remove {}", backend),
        }
    }
}

/// A change that the kernel did not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) change: Change,
    pub(super) errno: Errno,
}

/// In an operator's words, with what he can do. What an errno means depends on the change.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.change, self.errno) {
            (_, Errno::EPERM) => {
                f.write_str("the kernel does not permit it: CAP_NET_ADMIN is missing")
            }
            // It does not say which of the two.
            (Change::AddService(to) | Change::EditService(to), Errno::ENOENT) => {
                let name = &to.scheduler;
                write!(f, "the kernel has no scheduler {name}")?;
                match &to.engine {
                    None => write!(f, ": modprobe ip_vs_{name}"),
                    Some(engine) => write!(
                        f,
                        " or no persistence engine {engine}: modprobe -a ip_vs_{name} ip_vs_pe_{engine}"
                    ),
                }
            }
            (_, Errno::EAFNOSUPPORT) => f.write_str(
                "the kernel's IPVS does not know this address family (CONFIG_IP_VS_IPV6)",
            ),
            // An address-less namespace has no route for the check in ip_vs_new_dest().
            (Change::AddDestination(SocketAddr::V4(_), _), Errno::EINVAL) => {
                write!(
                    f,
                    "the kernel refuses to {}: {} (is lo up?)",
                    self.change,
                    self.errno.desc()
                )
            }
            _ => write!(
                f,
                "the kernel refuses to {}: {}",
                self.change,
                self.errno.desc()
            ),
        }
    }
}

/// What came of some changes of one service.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) refusals: Vec<Refusal>,
    /// The service as it was read back; `None`: there is no such service.
    pub(super) held: Option<Held>,
}

/// Names a service in a list of all of a table's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Listed {
    Service(VirtualService),
    /// A kind that we never make, in words.
    Other(String),
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listed::Service(key) => key.fmt(f),
            Listed::Other(words) => f.write_str(words),
        }
    }
}

impl Table {
    /// Makes the changes in their order, going on after a refused one, then reads the service back.
    /// No changes: only reads it.
    pub(super) async fn change(
        &mut self,
        key: VirtualService,
        changes: &[Change],
    ) -> Result<Outcome, Unavailable> {
        match self {
            Table::Kernel(kernel) => kernel.change(key, changes).await,
            Table::Memory(memory) => Ok(memory.change(key, changes)),
        }
    }

    /// All services, other people's too.
    pub(super) async fn list(&mut self) -> Result<BTreeSet<Listed>, Unavailable> {
        match self {
            Table::Kernel(kernel) => kernel.list().await,
            Table::Memory(memory) => Ok(memory.list()),
        }
    }

    /// A new start after [`Unavailable`].
    pub(super) async fn reopen(&mut self) -> Result<(), Unavailable> {
        match self {
            Table::Kernel(kernel) => {
                *kernel = Kernel::connect().await?;
                Ok(())
            }
            Table::Memory(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Scheduler;

    #[test]
    fn a_refusal_says_what_to_do() {
        let settings = Settings::new(Family::Ipv4, &Scheduler::Twos.into());
        let missing = Refusal {
            change: Change::AddService(settings),
            errno: Errno::ENOENT,
        };
        assert_eq!(
            missing.to_string(),
            "the kernel has no scheduler twos: modprobe ip_vs_twos"
        );
        let mut settings = Settings::new(Family::Ipv4, &Scheduler::Rr.into());
        settings.engine = Some("sip".into());
        let either = Refusal {
            change: Change::EditService(settings),
            errno: Errno::ENOENT,
        };
        assert_eq!(
            either.to_string(),
            "the kernel has no scheduler rr or no persistence engine sip: modprobe -a ip_vs_rr ip_vs_pe_sip"
        );
        let backend = "10.0.0.1:80".parse().unwrap();
        let gone = Refusal {
            change: Change::RemoveDestination(backend),
            errno: Errno::ENOENT,
        };
        assert_eq!(
            gone.to_string(),
            "the kernel refuses to remove 10.0.0.1:80: No such file or directory"
        );
    }
}
