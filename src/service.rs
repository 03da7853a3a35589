//! The nouns: what a service, a server and a list of servers are. Plain data; nothing here waits or decides.
//!
//! A *service* is what clients connect to: one protocol, one address (the VIP), one port.
//! A *server* ("real server") is who answers them. A *pool* is the servers of one service.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// The name of a service, as in `[service.NAME]`: letters, digits, `.`, `_`, `-`, at most 128 of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

/// The name of a server as its list has it: a DNS name or an IP literal, at most 253 characters, no blanks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(Arc<str>);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {longest} characters out of {allowed}, not {text:?}")]
pub struct BadName {
    what: &'static str,
    longest: usize,
    allowed: &'static str,
    text: String,
}

impl FromStr for ServiceName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        name(
            text,
            "a service's name",
            128,
            "letters, digits, '.', '_' and '-'",
            |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
        )
        .map(ServiceName)
    }
}

impl FromStr for Host {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        name(
            text,
            "a server's name",
            253,
            "letters, digits, '.', '_', '-' and ':'",
            |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':'),
        )
        .map(Host)
    }
}

fn name(
    text: &str,
    what: &'static str,
    longest: usize,
    allowed: &'static str,
    good: impl Fn(char) -> bool,
) -> Result<Arc<str>, BadName> {
    if text.is_empty() || text.len() > longest || !text.chars().all(good) {
        let text = text.chars().take(longest + 1).collect();
        return Err(BadName {
            what,
            longest,
            allowed,
            text,
        });
    }
    Ok(text.into())
}

macro_rules! text_type {
    ($($name:ident),*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
    )*};
}
text_type!(ServiceName, Host);

impl Host {
    /// The address, if the name is an IP literal and so needs no resolver.
    pub fn literal(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Host {
        Host(address.to_string().into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }

    pub fn of_prefix(prefix: &IpNet) -> Family {
        Family::of(prefix.addr())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// What the kernel knows a virtual service by (`struct ip_vs_service_user`: protocol, address, port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VirtualService {
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
}

impl VirtualService {
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl fmt::Display for VirtualService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = std::net::SocketAddr::new(self.address, self.port);
        write!(f, "{} {at}", self.protocol)
    }
}

/// A server's weight in its pool, 0 to [`Weight::MAX`]. 0: no new connections, the open ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Weight(u32);

impl Weight {
    /// The largest that ipvsadm(8) names.
    pub const MAX: u32 = 2_147_483_646;
    /// What PyBal takes if the list names none.
    pub const DEFAULT: Weight = Weight(10);

    /// `None` if it is more than the kernel takes.
    pub fn new(weight: u32) -> Option<Weight> {
        (weight <= Weight::MAX).then_some(Weight(weight))
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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

/// What a server list says of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// `pooled=yes` in conftool's words, `enabled` in PyBal's.
    pub enabled: bool,
    pub weight: Weight,
}

/// The servers of one pool as its source lists them (conftool's `inactive` ones are not in it).
/// A source never hands on an empty one: empty is an error (invariant 8).
pub type ServerList = BTreeMap<Host, Listed>;

/// A server list, and what its source knows beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Never empty.
    pub servers: ServerList,
    /// What operators said of servers, of those too that their word took off the list.
    pub notes: BTreeMap<Host, Note>,
    /// Entries of the source that cannot be used, by key, and what is wrong. Their servers keep their last
    /// good value, or are left out.
    pub faults: BTreeMap<String, String>,
    /// As of which revision of its store this is the list; `None`: the source counts none.
    pub revision: Option<u64>,
    pub freshness: Freshness,
}

impl From<ServerList> for Listing {
    fn from(servers: ServerList) -> Listing {
        Listing {
            servers,
            ..Listing::default()
        }
    }
}

/// What an operator said with a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Note {
    pub reason: Option<Arc<str>>,
    /// When it ends by itself, RFC 3339 in UTC; to be read, not reckoned with.
    pub until: Option<Arc<str>>,
    /// The depool guard shall let this server go.
    pub confirmed: bool,
}

/// How a list came to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    #[default]
    Current,
    /// The first one after the source was away for longer than `stale-after`: what has changed meanwhile
    /// comes all at once, and nobody watched it happen.
    CatchUp,
    /// The last good one, from our own disk: the source does not answer. So old was it when it was read.
    Saved { age: Duration },
}

/// What IPVS shall hold, or holds, for one service: the servers' addresses and weights.
pub type Destinations = BTreeMap<IpAddr, Weight>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("text-https_2.eqiad".parse::<ServiceName>().is_ok());
        for bad in ["", "a b", "a/b", "ü", &"a".repeat(129)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
        assert!("2001:db8::1".parse::<Host>().is_ok());
        assert!("cp1065.eqiad.wmnet".parse::<Host>().is_ok());
        assert!("cp1065\r\n".parse::<Host>().is_err());
    }

    #[test]
    fn weight_has_the_kernels_limit() {
        assert_eq!(Weight::new(0).map(Weight::get), Some(0));
        assert_eq!(
            Weight::new(2_147_483_646).map(Weight::get),
            Some(2_147_483_646)
        );
        assert_eq!(Weight::new(2_147_483_647), None);
    }
}
