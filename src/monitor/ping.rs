//! `ping`: one ICMP echo, sent a second time when a third of the timeout is over.
//!
//! By a socket that the kernel gives to those in `net.ipv4.ping_group_range`, else by a raw one, for which
//! CAP_NET_RAW is needed. Only a reply with our number and our payload counts.

use std::io;
use std::net::SocketAddr;

use socket2::{Protocol, Type};
use tokio::time::timeout_at;

use super::connect::ConnectError;
use super::datagram::{Datagrams, Heard};
use super::outcome::{Deadline, Failure, Outcome, Passed};
use crate::check::Check;

/// Echo request and reply: RFC 792, RFC 4443 sections 4.1 and 4.2.
const ECHO: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);
const HEADER: usize = 8;
/// A reply with the longest IPv4 header.
const LONGEST: usize = 60 + HEADER + size_of::<u128>();

pub(super) async fn ask(check: &Check, deadline: Deadline) -> Outcome {
    let target = SocketAddr::new(check.target.ip(), 0);
    let (socket, kind) = open(target)?;
    let echo = Echo {
        is_ipv4: target.is_ipv4(),
        is_raw: kind == Type::RAW,
        id: fastrand::u16(..),
        payload: fastrand::u128(..),
    };
    let answered = async {
        socket.send(&echo.request(1))?;
        if let Ok(outcome) = timeout_at(deadline.third(1), reply(&socket, &echo)).await {
            return outcome;
        }
        socket.send(&echo.request(2))?;
        reply(&socket, &echo).await
    };
    timeout_at(deadline.at, answered)
        .await
        .map_err(|_| Failure::NoAnswer(deadline.after))?
}

fn open(target: SocketAddr) -> Result<(Datagrams, Type), Failure> {
    let protocol = match target {
        SocketAddr::V4(_) => Protocol::ICMPV4,
        SocketAddr::V6(_) => Protocol::ICMPV6,
    };
    let open = |kind| Datagrams::open(target, kind, protocol).map(|socket| (socket, kind));
    let is_forbidden = |error: &ConnectError| match error {
        ConnectError::Failed(error) => error.kind() == io::ErrorKind::PermissionDenied,
        ConnectError::NoAnswer(_) | ConnectError::Unable(_) => false,
    };
    match open(Type::DGRAM) {
        Err(error) if is_forbidden(&error) => {}
        opened => return Ok(opened?),
    }
    match open(Type::RAW) {
        Err(error) if is_forbidden(&error) => Err(Failure::Unable(
            "ping is not permitted: this daemon has neither CAP_NET_RAW nor a group in net.ipv4.ping_group_range"
                .into(),
        )),
        opened => Ok(opened?),
    }
}

/// Until the reply comes, or ICMP says that none will.
async fn reply(socket: &Datagrams, echo: &Echo) -> Outcome {
    let mut packet = [0; LONGEST];
    loop {
        match socket.hear(&mut packet).await? {
            Heard::Unreachable(why) => return Err(Failure::Server(why)),
            Heard::Datagram(length) if echo.is_answered_by(&packet[..length]) => {
                return Ok(Passed::default());
            }
            Heard::Datagram(_) => {}
        }
    }
}

struct Echo {
    is_ipv4: bool,
    is_raw: bool,
    /// Of a raw socket; the kernel has its own for the other kind, and looks at it itself.
    id: u16,
    payload: u128,
}

impl Echo {
    fn request(&self, sequence: u16) -> Vec<u8> {
        let (kind, _) = if self.is_ipv4 { ECHO } else { ECHO_V6 };
        let mut packet = vec![kind, 0, 0, 0];
        packet.extend(self.id.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend(self.payload.to_be_bytes());
        // The kernel fills in ICMPv6's, for which the addresses are needed.
        if self.is_ipv4 {
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    fn is_answered_by(&self, packet: &[u8]) -> bool {
        // RFC 791 section 3.1: a raw IPv4 socket gives the IP header, too, its length in words of four bytes.
        let header = match packet {
            [first, ..] if self.is_raw && self.is_ipv4 => usize::from(first & 15) * 4,
            _ => 0,
        };
        let (_, reply) = if self.is_ipv4 { ECHO } else { ECHO_V6 };
        let Some(([kind, code, _, _, id @ .., _, _], payload)) = packet
            .get(header..)
            .and_then(|icmp| icmp.split_first_chunk::<HEADER>())
        else {
            return false;
        };
        (*kind, *code) == (reply, 0)
            && (!self.is_raw || *id == self.id.to_be_bytes())
            && payload == self.payload.to_be_bytes()
    }
}

/// RFC 1071; of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(is_ipv4: bool, is_raw: bool) -> Echo {
        Echo {
            is_ipv4,
            is_raw,
            id: 0x1234,
            payload: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        }
    }

    /// What a server makes of a request.
    fn reply(echo: &Echo) -> Vec<u8> {
        let mut packet = echo.request(1);
        packet[0] = if echo.is_ipv4 { 0 } else { 129 };
        if echo.is_raw && echo.is_ipv4 {
            let header = [&[0x46][..], &[0; 23]].concat();
            packet.splice(0..0, header);
        }
        packet
    }

    #[test]
    fn the_checksum_is_right_if_all_with_it_is_zero() {
        assert_eq!(checksum(&echo(true, true).request(7)), 0);
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), 0x220d);
    }

    #[test]
    fn only_our_own_echo_is_an_answer() {
        for (is_ipv4, is_raw) in [(true, true), (true, false), (false, true), (false, false)] {
            let echo = echo(is_ipv4, is_raw);
            let reply = reply(&echo);
            assert!(echo.is_answered_by(&reply));
            // Each byte is looked at, besides the IP header's after its first, the checksum, the sequence and, where
            // the kernel has its own, the number.
            let icmp = reply.len() - HEADER - 16;
            let free = [2, 3, 6, 7].map(|at| icmp + at);
            let kernels = [4, 5].map(|at| icmp + at);
            for at in 0..reply.len() {
                let mut other = reply.clone();
                other[at] ^= 2;
                let passed_over = (1..icmp).contains(&at)
                    || free.contains(&at)
                    || !is_raw && kernels.contains(&at);
                assert_eq!(echo.is_answered_by(&other), passed_over, "byte {at}");
                assert!(!echo.is_answered_by(&reply[..at]), "the first {at} bytes");
            }
            assert!(!echo.is_answered_by(&[reply, vec![0]].concat()));
        }
    }
}
