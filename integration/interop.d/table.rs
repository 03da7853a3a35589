//! A full table, as bytes.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::fake::{
    Fake, KEEPALIVE, MP_IPV4, MP_IPV6, OPEN, UPDATE, hello, keepalive, message, within,
};
use crate::netns::{Namespace, until};
use crate::router::prefix;

/// UPDATEs with this many prefixes, of this AS and next hop; paths differ from message to message.
pub(crate) fn table(count: u32, asn: u32, next_hop: Ipv4Addr) -> Vec<u8> {
    const A_MESSAGE: u32 = 900;
    let mut bytes = Vec::new();
    for first in (0..count).step_by(A_MESSAGE as usize) {
        let mut body = attributes(&[asn, 64_600 + first % 100], next_hop);
        for n in first..count.min(first + A_MESSAGE) {
            body.push(24);
            body.extend(&prefix(n).octets()[..3]);
        }
        bytes.extend(message(UPDATE, &body));
    }
    bytes
}

/// An UPDATE's body before its prefixes: ORIGIN, AS_PATH, NEXT_HOP.
pub(crate) fn attributes(path: &[u32], next_hop: Ipv4Addr) -> Vec<u8> {
    let mut all = vec![0x40, 1, 1, 0];
    all.extend([0x40, 2, 2 + 4 * path.len() as u8, 2, path.len() as u8]);
    all.extend(path.iter().flat_map(|asn| asn.to_be_bytes()));
    all.extend([0x40, 3, 4]);
    all.extend(next_hop.octets());
    let mut body = vec![0, 0];
    body.extend((all.len() as u16).to_be_bytes());
    body.extend(all);
    body
}

/// An established session with a router, from a neighbor of this AS and identifier.
pub(crate) fn connect(from: &Namespace, router: IpAddr, asn: u32, identifier: Ipv4Addr) -> Fake {
    let patience = Duration::from_secs(60);
    let mut open = hello();
    // AS_TRANS (RFC 6793): the number is in the capability.
    (open.asn, open.hold_time) = (u16::try_from(asn).unwrap_or(23456), 240);
    open.identifier = identifier;
    open.capabilities = [&MP_IPV4[..], &MP_IPV6, &[65, 4], &asn.to_be_bytes()].concat();
    let mut fake = until(patience, "the router takes its neighbor", || {
        let router = SocketAddr::new(router, 179);
        let stream = within(from, || TcpStream::connect(router));
        let mut fake = Fake::new(stream.ok()?);
        fake.stream.write_all(&open.message()).ok()?;
        matches!(fake.read(), Some((OPEN, _))).then_some(())?;
        matches!(fake.read(), Some((KEEPALIVE, _))).then_some(())?;
        Some(fake)
    });
    fake.send(&keepalive());
    fake
}
