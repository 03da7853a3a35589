//! What an IPVS table holds, what can be done to it, and how it says no: the words that the kernel's table
//! and the one in memory share. Not how either is reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use super::memory::Memory;
use super::netlink::Kernel;
use crate::service::VirtualService;

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
    /// The persistence engine; we want none.
    pub(super) engine: Option<String>,
}

/// `IP_VS_SVC_F_ONEPACKET` of linux/ip_vs.h.
pub(super) const ONE_PACKET: u32 = 4;

/// `IP_VS_CONN_F_DROUTE` of linux/ip_vs.h.
pub(super) const DIRECT_ROUTING: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) weight: u32,
    /// `IP_VS_CONN_F_*` of linux/ip_vs.h, its forwarding part.
    pub(super) forward: u32,
    /// Connection thresholds, 0: none.
    pub(super) upper: u32,
    pub(super) lower: u32,
}

impl Destination {
    /// As we make them.
    pub(super) fn direct(weight: u32) -> Destination {
        Destination {
            weight,
            forward: DIRECT_ROUTING,
            upper: 0,
            lower: 0,
        }
    }
}

/// What the kernel knows a destination by, within its service.
pub(super) type Backend = (IpAddr, u16);

/// One service as a table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) settings: Settings,
    pub(super) destinations: BTreeMap<Backend, Destination>,
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
        let at = |(address, port): &Backend| SocketAddr::new(*address, *port);
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
                write!(f, "add {} with weight {}", at(backend), to.weight)
            }
            Change::EditDestination(backend, to) => {
                write!(f, "set {} to weight {}", at(backend), to.weight)
            }
            Change::RemoveDestination(backend) => write!(f, "remove {}", at(backend)),
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
            (Change::AddService(to) | Change::EditService(to), Errno::ENOENT) => {
                let name = &to.scheduler;
                write!(
                    f,
                    "the kernel has no scheduler {name}: modprobe ip_vs_{name}"
                )
            }
            (_, Errno::EAFNOSUPPORT) => f.write_str(
                "the kernel's IPVS does not know this address family (CONFIG_IP_VS_IPV6)",
            ),
            // An address-less namespace has no route for the check in ip_vs_new_dest().
            (Change::AddDestination((IpAddr::V4(_), _), _), Errno::EINVAL) => {
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
    /// A kind that we never make (a firewall mark, SCTP), in words.
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

    #[test]
    fn a_refusal_says_what_to_do() {
        let settings = Settings {
            scheduler: "twos".into(),
            flags: 0,
            engine: None,
        };
        let missing = Refusal {
            change: Change::AddService(settings),
            errno: Errno::ENOENT,
        };
        assert_eq!(
            missing.to_string(),
            "the kernel has no scheduler twos: modprobe ip_vs_twos"
        );
        let backend = ("10.0.0.1".parse().unwrap(), 80);
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
