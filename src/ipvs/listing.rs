//! The services and destinations of IPVS as `/proc/net/ip_vs` lists them: for who only looks. It takes no capability,
//! loads no module and leaves out thresholds, scheduler flags and what tunnels are like.

use std::net::{IpAddr, SocketAddr};

use super::connections::address;

/// The table of the network namespace that one is in.
pub const PATH: &str = "/proc/net/ip_vs";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Of the table of connections; each takes a list of them.
    pub buckets: Option<u64>,
    pub services: Vec<Service>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: Key,
    pub scheduler: String,
    pub persistent: bool,
    pub destinations: Vec<Destination>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The protocol in small letters.
    Address(String, SocketAddr),
    Mark(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub at: SocketAddr,
    pub forward: Forward,
    pub weight: i64,
    pub active: u64,
    pub inactive: u64,
}

/// `ip_vs_fwd_name()`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    DirectRouting,
    Masquerading,
    Tunnel,
    /// The server is this very host.
    Local,
}

impl Listing {
    /// Lines that are neither service nor destination are passed over.
    pub fn of(text: &str) -> Listing {
        let mut listing = Listing::default();
        for line in text.lines() {
            if let Some((_, size)) = line.split_once("(size=") {
                listing.buckets = size.trim_end_matches(')').parse().ok();
            } else if let Some(found) = service(line) {
                listing.services.push(found);
            } else if let (Some(found), Some(last)) =
                (destination(line), listing.services.last_mut())
            {
                last.destinations.push(found);
            }
        }
        listing
    }

    pub fn connections(&self) -> u64 {
        let destinations = self
            .services
            .iter()
            .flat_map(|service| &service.destinations);
        destinations.map(|to| to.active + to.inactive).sum()
    }
}

fn service(line: &str) -> Option<Service> {
    let mut words = line.split_ascii_whitespace();
    let (protocol, at) = (words.next()?, words.next()?);
    let key = match protocol {
        "FWM" => Key::Mark(u32::from_str_radix(at, 16).ok()?),
        "TCP" | "UDP" | "SCTP" => Key::Address(protocol.to_ascii_lowercase(), end(at)?),
        _ => return None,
    };
    Some(Service {
        key,
        scheduler: words.next()?.to_owned(),
        persistent: words.any(|word| word == "persistent"),
        destinations: Vec::new(),
    })
}

fn destination(line: &str) -> Option<Destination> {
    let mut words = line
        .trim_start()
        .strip_prefix("-> ")?
        .split_ascii_whitespace();
    Some(Destination {
        at: end(words.next()?)?,
        forward: match words.next()? {
            "Route" => Forward::DirectRouting,
            "Masq" => Forward::Masquerading,
            "Tunnel" => Forward::Tunnel,
            "Local" => Forward::Local,
            _ => return None,
        },
        weight: words.next()?.parse().ok()?,
        active: words.next()?.parse().ok()?,
        inactive: words.next()?.parse().ok()?,
    })
}

fn end(text: &str) -> Option<SocketAddr> {
    let (at, port) = text.rsplit_once(':')?;
    let at = address(at.trim_start_matches('[').trim_end_matches(']'))?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(at, port))
}

impl Key {
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Key::Address(_, at) => Some(at.ip()),
            Key::Mark(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a 6.1 kernel wrote it.
    const SAMPLE: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A640001:0051 rr  
  -> [2001:0db8:0009:0000:0000:0000:0000:0002]:0051      Tunnel  1      1          0         
TCP  0A640001:0000 rr  persistent 30000 FFFFFFFF
  -> 0A090002:0000      Route   1      2          3         
TCP  [2001:0db8:0100:0000:0000:0000:0000:0001]:0050 rr 
FWM  00000007 wrr persistent 10000 FFFFFFFF
  -> 0A090002:0000      Masq    0      0          0         
";

    #[test]
    fn reads_what_the_kernel_writes() {
        let listing = Listing::of(SAMPLE);
        assert_eq!(listing.buckets, Some(4096));
        assert_eq!(listing.connections(), 6);
        let said: Vec<_> = listing
            .services
            .iter()
            .map(|service| {
                let to = service.destinations.iter();
                let to: Vec<_> = to
                    .map(|to| format!("{} {:?} {}", to.at, to.forward, to.weight))
                    .collect();
                format!(
                    "{:?} {} {} {to:?}",
                    service.key, service.scheduler, service.persistent
                )
            })
            .collect();
        let expected = [
            r#"Address("tcp", 10.100.0.1:81) rr false ["[2001:db8:9::2]:81 Tunnel 1"]"#,
            r#"Address("tcp", 10.100.0.1:0) rr true ["10.9.0.2:0 DirectRouting 1"]"#,
            r#"Address("tcp", [2001:db8:100::1]:80) rr false []"#,
            r#"Mark(7) wrr true ["10.9.0.2:0 Masquerading 0"]"#,
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn garbage_is_passed_over() {
        for end in 0..SAMPLE.len() {
            Listing::of(&SAMPLE[end..]);
            Listing::of(&SAMPLE[..end]);
        }
        assert_eq!(
            Listing::of("TCP rr\n  -> x Route 1 1 1\n\u{0}"),
            Listing::default()
        );
    }
}
