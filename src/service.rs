//! The nouns: what a service, a server and a list of servers are. Plain data; nothing here waits or decides.
//!
//! A *service* is what clients connect to: one protocol, one address (the VIP), one port.
//! A *server* ("real server") is who answers them. A *pool* is the servers of one service.

mod destination;
mod overrides;
mod virtual_service;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

pub use self::destination::{
    Delivery, Destination, Destinations, Forwarding, GueChecksum, Tunnel, Weight,
};
pub use self::overrides::{Action, Override, Overrides, Overruled};
pub use self::virtual_service::{
    Persistence, PersistenceEngine, Protocol, Scheduler, SchedulerFlag, Scheduling, VirtualService,
};

/// The name of a service, as in `[service.NAME]`: letters, digits, `.`, `_`, `-`, at most 128 of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

/// The name of a server as its list has it: a DNS name or an IP literal, at most 253 characters, no blanks. With a
/// port of its own where it is forwarded by masquerading: `cp1065.example.com:8001`, `[2001:db8::1]:8001`.
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
            "letters, digits, '.', '_', '-', ':', '[' and ']'",
            |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '[' | ']'),
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
        self.parts().0.parse().ok()
    }

    /// The port that stands behind the name.
    pub fn port(&self) -> Option<u16> {
        self.parts().1
    }

    /// The same without the port: what is resolved.
    pub fn bare(&self) -> Host {
        match self.parts() {
            (_, None) => self.clone(),
            (name, Some(_)) => Host(name.into()),
        }
    }

    /// Whether this is its name without the port.
    pub fn is_at(&self, bare: &Host) -> bool {
        self.parts().0 == bare.as_str()
    }

    fn parts(&self) -> (&str, Option<u16>) {
        let text = self.as_str();
        let split = || {
            let (name, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port > 0)?;
            let inner = name
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'));
            match inner {
                Some(address) => address.parse::<Ipv6Addr>().ok().map(|_| (address, port)),
                // With another colon it is an IPv6 address, or nothing.
                None => (!name.is_empty() && !name.contains(':')).then_some((name, port)),
            }
        };
        split().map_or((text, None), |(name, port)| (name, Some(port)))
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Host {
        Host(address.to_string().into())
    }
}

impl From<SocketAddr> for Host {
    fn from(backend: SocketAddr) -> Host {
        Host(backend.to_string().into())
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
    fn a_host_may_have_a_port() {
        let check = |text: &str, bare: &str, port, literal: bool| {
            let host: Host = text.parse().unwrap();
            assert_eq!((host.bare().as_str(), host.port()), (bare, port), "{text}");
            assert_eq!(host.literal().is_some(), literal, "{text}");
        };
        check("cp1065.eqiad.wmnet", "cp1065.eqiad.wmnet", None, false);
        check("cp1065:8001", "cp1065", Some(8001), false);
        check("10.0.0.1:8001", "10.0.0.1", Some(8001), true);
        check("[2001:db8::1]:8001", "2001:db8::1", Some(8001), true);
        check("2001:db8::1", "2001:db8::1", None, true);
        for no_port in [
            "cp1065:0",
            "cp1065:65536",
            "cp1065:",
            ":80",
            "[a]:80",
            "a:b:80",
        ] {
            check(no_port, no_port, None, false);
        }
    }
}
