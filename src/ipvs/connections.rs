//! The connections that the kernel balances, as `/proc/net/ip_vs_conn` lists them: a line each, read one at a time,
//! however many there are. There is no other way to ask for them (IPVS has no netlink command for it).
//!
//! ```text
//! Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
//! TCP 0A09000A D194 0A640001 0050 0A090002 0050 SYN_RECV         55
//! ```
//!
//! Not a snapshot: the kernel gives it in pieces, so a connection that ends or begins meanwhile may be there or not.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde::{Serialize, Serializer};

/// The table of the network namespace that one is in.
pub const PATH: &str = "/proc/net/ip_vs_conn";

/// Three IPv6 addresses and `IP_VS_PEDATA_MAXLEN` (255) bytes of a persistence engine are far below this.
const LONGEST_LINE: usize = 4096;

/// One connection, or a template of persistence: client port 0, and the server that its next connections go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection<'a> {
    /// As the kernel names it, in small letters: `tcp`, `udp`, `sctp`; `ip` for a firewall mark's template.
    #[serde(serialize_with = "small")]
    pub protocol: &'a str,
    pub client: SocketAddr,
    /// What the client connected to.
    #[serde(rename = "virtual")]
    pub to: Target,
    pub server: SocketAddr,
    /// `ESTABLISHED`, `FIN_WAIT`, `UDP`, …; templates have `NONE`.
    pub state: &'a str,
    /// Seconds until it is forgotten if no packet comes.
    pub expires: u64,
    /// The persistence engine and what it keeps of the connection (SIP's Call-ID).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<(&'a str, &'a str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Address(SocketAddr),
    /// A firewall mark's template.
    Mark(u32),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => address.fmt(f),
            Target::Mark(mark) => write!(f, "mark {mark}"),
        }
    }
}

impl Connection<'_> {
    /// A promise to a client, not a connection (`ip_vs_ct_in_get()`).
    pub fn is_template(&self) -> bool {
        self.client.port() == 0
    }
}

fn small<S: Serializer>(protocol: &str, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&protocol.to_ascii_lowercase())
}

/// Why there is no list, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(
        "the kernel has no IPVS, so it balances no connection: there is no {PATH} (modprobe ip_vs)"
    )]
    NoIpvs,
    #[error("may not read {PATH}: this needs root")]
    NotPermitted,
    #[error("cannot read {PATH}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        if error.kind() == io::ErrorKind::NotFound {
            Unreadable::NoIpvs
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            Unreadable::NotPermitted
        } else {
            Unreadable::Io(error)
        }
    }
}

/// A reader of the list that keeps one line of it in memory.
pub struct Connections<R> {
    lines: R,
    line: Vec<u8>,
    garbled: u64,
}

/// The kernel's own.
pub fn open() -> Result<Connections<BufReader<File>>, Unreadable> {
    let file = File::open(Path::new(PATH))?;
    Ok(Connections::of(BufReader::with_capacity(1 << 16, file)))
}

impl<R: BufRead> Connections<R> {
    pub fn of(lines: R) -> Connections<R> {
        Connections {
            lines,
            line: Vec::new(),
            garbled: 0,
        }
    }

    /// The next connection; `None`: that was all. Lines that are none are counted.
    pub fn following(&mut self) -> Result<Option<Connection<'_>>, Unreadable> {
        while self.read_line()? {
            if self.line.starts_with(b"Pro ") {
                continue;
            }
            if read(&self.line).is_some() {
                // Once more, as the borrow checker wants it: what is handed out ends the loop.
                return Ok(read(&self.line));
            }
            self.garbled += 1;
        }
        Ok(None)
    }

    /// So many lines were not understood.
    pub fn garbled(&self) -> u64 {
        self.garbled
    }

    /// `false`: there is none. Of a line that is too long the end is thrown away, and so it is not understood.
    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        let mut part = self.lines.by_ref().take(LONGEST_LINE as u64);
        part.read_until(b'\n', &mut self.line)?;
        if self.line.len() == LONGEST_LINE && !self.line.ends_with(b"\n") {
            self.lines.skip_until(b'\n')?;
            self.line.fill(b'?');
        }
        Ok(!self.line.is_empty())
    }
}

fn read(line: &[u8]) -> Option<Connection<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let protocol = words.next()?;
    let client = end(&mut words)?;
    let to = end(&mut words)?;
    let server = end(&mut words)?;
    let state = words.next()?;
    let expires = words.next()?.parse().ok()?;
    let engine = match (words.next(), words.next()) {
        (Some(name), Some(data)) => Some((name, data)),
        (_, _) => None,
    };
    let to = match to.ip() {
        IpAddr::V4(mark) if protocol == "IP" => Target::Mark(mark.into()),
        // `union nf_inet_addr`: the mark is in the first of its four words.
        IpAddr::V6(mark) if protocol == "IP" => Target::Mark((mark.to_bits() >> 96) as u32),
        IpAddr::V4(_) | IpAddr::V6(_) => Target::Address(to),
    };
    Some(Connection {
        protocol,
        client,
        to,
        server,
        state,
        expires,
        engine,
    })
}

fn end<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<SocketAddr> {
    let address = address(words.next()?)?;
    let port = u16::from_str_radix(words.next()?, 16).ok()?;
    Some(SocketAddr::new(address, port))
}

/// As IPVS writes them in /proc: `0A09000A`, or eight groups of four digits (`%pI6`).
pub(super) fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let is_plain = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = u32::from_str_radix(text, 16).ok()?;
    is_plain.then(|| Ipv4Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a 6.1 kernel wrote it: direct routing, a template and a connection by masquerading to another port, an
    /// IPv6 server behind an IPv4 address by tunnel, IPv6, UDP, SIP's template, a firewall mark's template.
    const SAMPLE: &str = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A09000A D194 0A640001 0050 0A090002 0050 SYN_RECV         55
TCP 0A09000A 0000 0A640001 1F90 0A090002 0050 NONE            296
TCP 0A09000A DE26 0A640001 1F90 0A090002 0050 SYN_RECV         56
TCP 0A09000A 9938 0A640001 0051 2001:0db8:0009:0000:0000:0000:0000:0002 0051 SYN_RECV         55
TCP 2001:0db8:0009:0000:0000:0000:0000:0010 8FDE 2001:0db8:0100:0000:0000:0000:0000:0001 0050 2001:0db8:0009:0000:0000:0000:0000:0002 0050 SYN_RECV         57
UDP 0A09000A CBAF 0A640001 0035 0A090002 0035 UDP             297
UDP 0A09000A 0000 0A640001 13C4 0A090002 13C4 NONE             57 sip abc123@host
IP  0A090001 0000 00000007 0000 0A090002 0000 NONE             97
";

    fn all(text: impl AsRef<[u8]>) -> (Vec<String>, u64) {
        let mut connections = Connections::of(text.as_ref());
        let mut all = Vec::new();
        while let Some(connection) = connections.following().unwrap() {
            all.push(serde_json::to_string(&connection).unwrap());
        }
        (all, connections.garbled())
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        let (all, garbled) = all(SAMPLE);
        let expected = [
            r#"{"protocol":"tcp","client":"10.9.0.10:53652","virtual":{"address":"10.100.0.1:80"},"server":"10.9.0.2:80","state":"SYN_RECV","expires":55}"#,
            r#"{"protocol":"tcp","client":"10.9.0.10:0","virtual":{"address":"10.100.0.1:8080"},"server":"10.9.0.2:80","state":"NONE","expires":296}"#,
            r#"{"protocol":"tcp","client":"10.9.0.10:56870","virtual":{"address":"10.100.0.1:8080"},"server":"10.9.0.2:80","state":"SYN_RECV","expires":56}"#,
            r#"{"protocol":"tcp","client":"10.9.0.10:39224","virtual":{"address":"10.100.0.1:81"},"server":"[2001:db8:9::2]:81","state":"SYN_RECV","expires":55}"#,
            r#"{"protocol":"tcp","client":"[2001:db8:9::10]:36830","virtual":{"address":"[2001:db8:100::1]:80"},"server":"[2001:db8:9::2]:80","state":"SYN_RECV","expires":57}"#,
            r#"{"protocol":"udp","client":"10.9.0.10:52143","virtual":{"address":"10.100.0.1:53"},"server":"10.9.0.2:53","state":"UDP","expires":297}"#,
            r#"{"protocol":"udp","client":"10.9.0.10:0","virtual":{"address":"10.100.0.1:5060"},"server":"10.9.0.2:5060","state":"NONE","expires":57,"engine":["sip","abc123@host"]}"#,
            r#"{"protocol":"ip","client":"10.9.0.1:0","virtual":{"mark":7},"server":"10.9.0.2:0","state":"NONE","expires":97}"#,
        ];
        assert_eq!(all, expected);
        assert_eq!(garbled, 0);
    }

    #[test]
    fn what_is_no_connection_is_counted_and_passed_over() {
        let good = "TCP 0A09000A D194 0A640001 0050 0A090002 0050 SYN_RECV 55";
        let long = "x".repeat(LONGEST_LINE * 3);
        let bad = [
            "",
            "TCP",
            "TCP 0A09000A D194",
            &good.replace("D194", "D1948"),
            &good.replace("0A640001", "A640001"),
            &long,
        ];
        for bad in bad {
            let (all, garbled) = all(format!("{bad}\n{good}\n{bad}\n{good}"));
            assert_eq!((all.len(), garbled), (2, 2), "{bad:.40}");
        }
        let (all, garbled) = all(b"\xff\xfe\n");
        assert_eq!((all.len(), garbled), (0, 1));
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            all(bytes);
        }

        #[test]
        fn so_is_a_damaged_list(at in 0..SAMPLE.len(), byte: u8) {
            let mut bytes = SAMPLE.as_bytes().to_vec();
            bytes[at] = byte;
            prop_assert!(all(bytes).0.len() >= 6);
        }
    }
}
