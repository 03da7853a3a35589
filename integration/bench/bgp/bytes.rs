//! UPDATEs that announce and withdraw addresses, as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::fake::{UPDATE, message};
use crate::table::attributes;

/// Of 4,096 bytes at most.
const IPV4_A_MESSAGE: usize = 800;
const IPV6_A_MESSAGE: usize = 230;

pub(crate) fn announce(addresses: &[IpAddr], asn: u32, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<u8> {
    let (ipv4, ipv6) = by_family(addresses);
    let mut bytes = Vec::new();
    for some in ipv4.chunks(IPV4_A_MESSAGE) {
        let mut body = attributes(&[asn], v4);
        body.extend(some.concat());
        bytes.extend(message(UPDATE, &body));
    }
    for some in ipv6.chunks(IPV6_A_MESSAGE) {
        // MP_REACH_NLRI (RFC 4760 section 3).
        let mut reach = vec![0, 2, 1, 16];
        reach.extend(v6.octets());
        reach.push(0);
        reach.extend(some.concat());
        let mut body = attributes(&[asn], v4);
        extend(&mut body, 14, &reach);
        bytes.extend(message(UPDATE, &body));
    }
    bytes
}

pub(crate) fn withdraw(addresses: &[IpAddr]) -> Vec<u8> {
    let (ipv4, ipv6) = by_family(addresses);
    let mut bytes = Vec::new();
    for some in ipv4.chunks(IPV4_A_MESSAGE) {
        let prefixes = some.concat();
        let mut body = (prefixes.len() as u16).to_be_bytes().to_vec();
        body.extend(prefixes);
        body.extend([0, 0]);
        bytes.extend(message(UPDATE, &body));
    }
    for some in ipv6.chunks(IPV6_A_MESSAGE) {
        // MP_UNREACH_NLRI (RFC 4760 section 4).
        let unreach = [&[0, 2, 1][..], &some.concat()].concat();
        let mut body = vec![0; 4];
        extend(&mut body, 15, &unreach);
        bytes.extend(message(UPDATE, &body));
    }
    bytes
}

/// Host prefixes, each as its length and bits.
fn by_family(addresses: &[IpAddr]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => ipv4.push([&[32][..], &address.octets()].concat()),
            IpAddr::V6(address) => ipv6.push([&[128][..], &address.octets()].concat()),
        }
    }
    (ipv4, ipv6)
}

/// Puts an attribute behind those that a body ends with.
fn extend(body: &mut Vec<u8>, kind: u8, value: &[u8]) {
    body.extend([0x90, kind]);
    body.extend((value.len() as u16).to_be_bytes());
    body.extend(value);
    let length = (body.len() - 4) as u16;
    body[2..4].copy_from_slice(&length.to_be_bytes());
}
