//! What a virtual service is to the kernel: what it is known by, and its settings (`struct ip_vs_service_user`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Family;

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// By their names in files and commands.
    pub const ALL: [(&str, Protocol); 3] = [
        ("tcp", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("sctp", Protocol::Sctp),
    ];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// What the kernel knows a virtual service by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VirtualService {
    Address {
        protocol: Protocol,
        address: IpAddr,
        /// 0: every port of the address that no other service has.
        port: u16,
    },
    /// Packets that the firewall has given this mark, whatever they are.
    Mark {
        #[serde(rename = "firewall-mark")]
        mark: NonZeroU32,
        family: Family,
    },
}

impl VirtualService {
    pub fn family(&self) -> Family {
        match self {
            VirtualService::Address { address, .. } => Family::of(*address),
            VirtualService::Mark { family, .. } => *family,
        }
    }

    /// `None`: of any protocol.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            VirtualService::Address { protocol, .. } => Some(*protocol),
            VirtualService::Mark { .. } => None,
        }
    }

    /// `None`: of any port.
    pub fn port(&self) -> Option<u16> {
        match self {
            VirtualService::Address { port, .. } => Some(*port).filter(|port| *port > 0),
            VirtualService::Mark { .. } => None,
        }
    }
}

impl fmt::Display for VirtualService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            VirtualService::Address {
                protocol,
                address,
                port,
            } => write!(f, "{protocol} {}", SocketAddr::new(address, port)),
            VirtualService::Mark { mark, family } => write!(f, "{family} firewall mark {mark}"),
        }
    }
}

macro_rules! schedulers {
    ($($variant:ident $name:literal,)*) => {
        /// The kernel's schedulers (`net/netfilter/ipvs/`), by the names of ipvsadm(8).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Scheduler { $($variant,)* }

        impl Scheduler {
            pub const ALL: &[Scheduler] = &[$(Scheduler::$variant,)*];

            /// As in ipvsadm(8), and as in the module's name: `ip_vs_NAME`.
            pub fn name(self) -> &'static str {
                match self { $(Scheduler::$variant => $name,)* }
            }
        }
    };
}
schedulers! {
    Rr "rr", Wrr "wrr", Lc "lc", Wlc "wlc", Lblc "lblc", Lblcr "lblcr", Dh "dh", Sh "sh",
    Sed "sed", Nq "nq", Fo "fo", Ovf "ovf", Mh "mh", Twos "twos",
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `ipvsadm --sched-flags`, without the scheduler that goes before: `sh-fallback`, `mh-port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerFlag {
    /// A connection whose server is of weight 0, or over its upper threshold, goes to another one.
    Fallback,
    /// The hash is of the source port too.
    Port,
}

/// How the kernel spreads connections over the servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scheduling {
    pub scheduler: Scheduler,
    /// Of `sh` and `mh`.
    pub flags: BTreeSet<SchedulerFlag>,
    /// One-packet scheduling (`ipvsadm --ops`), UDP only.
    pub one_packet: bool,
    pub persistence: Option<Persistence>,
}

impl Scheduling {
    /// Whether a client can be refused because its hash is of a server of weight 0, though others serve.
    pub fn refuses_by_hash(&self) -> bool {
        match self.scheduler {
            Scheduler::Dh => true,
            Scheduler::Sh | Scheduler::Mh => !self.flags.contains(&SchedulerFlag::Fallback),
            Scheduler::Rr
            | Scheduler::Wrr
            | Scheduler::Lc
            | Scheduler::Wlc
            | Scheduler::Lblc
            | Scheduler::Lblcr
            | Scheduler::Sed
            | Scheduler::Nq
            | Scheduler::Fo
            | Scheduler::Ovf
            | Scheduler::Twos => false,
        }
    }
}

impl From<Scheduler> for Scheduling {
    fn from(scheduler: Scheduler) -> Scheduling {
        Scheduling {
            scheduler,
            flags: BTreeSet::new(),
            one_packet: false,
            persistence: None,
        }
    }
}

/// `ipvsadm --persistent`: a client comes back to the server that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Persistence {
    /// Seconds since the client's last connection ended, at least 1.
    pub timeout: u32,
    /// The clients of one prefix of this length are as one; `None`: each for itself.
    pub prefix_length: Option<u8>,
    pub engine: Option<PersistenceEngine>,
}

/// What else than its address a client is known by (`ipvsadm --pe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PersistenceEngine {
    /// The Call-ID of SIP over UDP.
    Sip,
}

impl PersistenceEngine {
    /// As in ipvsadm(8), and as in the module's name: `ip_vs_pe_NAME`.
    pub fn name(self) -> &'static str {
        match self {
            PersistenceEngine::Sip => "sip",
        }
    }
}
