//! The duplicate address probe: who on the wire answers for a service address? ARP with the sender 0.0.0.0, so that
//! nobody takes us for the one who has it (RFC 5227 section 1.1), and neighbour solicitation from our own link-local
//! address (RFC 4861 section 7.2.2). Both ask and leave no trace; the host's own kernel is not asked.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use libc::{
    AF_PACKET, BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, ETH_P_ARP, ETH_P_IPV6,
    PACKET_OUTGOING,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{LinkAddr, MsgFlags, SockaddrLike, recvfrom, sendto};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::time::Instant;

use super::host::Interface;

/// How long answers are waited for (RFC 5227 section 1.1, PROBE_WAIT), and after which part of it is asked again.
const WAIT: Duration = Duration::from_secs(1);
const ASKED: u32 = 2;

/// Somebody else has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub vip: IpAddr,
    pub interface: String,
    pub hardware: [u8; 6],
}

pub(super) fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// Asks for all of them on each interface that has ARP.
pub(super) fn probe(
    vips: &BTreeSet<IpAddr>,
    interfaces: &[Interface],
) -> Result<Vec<Answer>, String> {
    let on: Vec<_> = interfaces
        .iter()
        .filter(|interface| interface.arp && interface.up)
        .collect();
    if vips.is_empty() || on.is_empty() {
        return Ok(Vec::new());
    }
    let probed = Probe::open().and_then(|probe| probe.ask(vips, &on));
    probed.map_err(|error| format!("cannot ask on the wire who has the addresses: {error}"))
}

struct Probe {
    arp: Socket,
    ipv6: Socket,
}

impl Probe {
    fn open() -> io::Result<Probe> {
        let open = |protocol: i32| {
            let number = i32::from((protocol as u16).to_be());
            let socket = Socket::new(
                Domain::from(AF_PACKET),
                Type::DGRAM,
                Some(Protocol::from(number)),
            )?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        let (arp, ipv6) = (open(ETH_P_ARP)?, open(ETH_P_IPV6)?);
        ipv6.attach_filter(&advertisements())?;
        Ok(Probe { arp, ipv6 })
    }

    fn ask(&self, vips: &BTreeSet<IpAddr>, on: &[&Interface]) -> io::Result<Vec<Answer>> {
        let mut answers = BTreeSet::new();
        for _ in 0..ASKED {
            for interface in on {
                for vip in vips {
                    // One that is not sent, for the link has no carrier, say, gets no answer.
                    let _ = self.send(interface, *vip);
                }
            }
            let end = Instant::now() + WAIT / ASKED;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                let mut sockets = [&self.arp, &self.ipv6]
                    .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
                let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                match poll(&mut sockets, left) {
                    Err(nix::errno::Errno::EINTR) | Ok(_) => {}
                    Err(errno) => return Err(errno.into()),
                }
                self.receive(vips, on, &mut answers);
            }
        }
        Ok(answers.into_iter().collect())
    }

    fn send(&self, interface: &Interface, vip: IpAddr) -> io::Result<()> {
        let (socket, protocol, hardware, packet) = match vip {
            IpAddr::V4(vip) => (
                &self.arp,
                ETH_P_ARP,
                [0xff; 6],
                arp_probe(interface.hardware, vip).to_vec(),
            ),
            IpAddr::V6(vip) => {
                let link_local = interface
                    .addresses
                    .iter()
                    .find_map(|own| match own.address {
                        IpAddr::V6(own) if own.is_unicast_link_local() => Some(own),
                        IpAddr::V4(_) | IpAddr::V6(_) => None,
                    });
                // Without IPv6 on the interface, nobody there can have it who matters to us.
                let Some(own) = link_local else { return Ok(()) };
                let [.., a, b, c] = vip.octets();
                let to = [0x33, 0x33, 0xff, a, b, c];
                (
                    &self.ipv6,
                    ETH_P_IPV6,
                    to,
                    solicitation(interface.hardware, own, vip),
                )
            }
        };
        let to = link_address(protocol, interface.index, hardware)?;
        sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    fn receive(&self, vips: &BTreeSet<IpAddr>, on: &[&Interface], answers: &mut BTreeSet<Answer>) {
        let mut packet = [0; 2048];
        for socket in [&self.arp, &self.ipv6] {
            // What came before the filter, and a wire full of ARP, must not keep us from the end.
            for _ in 0..1000 {
                let Ok((length, Some(from))) =
                    recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut packet)
                else {
                    break;
                };
                let interface = on
                    .iter()
                    .find(|interface| interface.index as usize == from.ifindex());
                let (Some(interface), false) = (interface, from.pkttype() == PACKET_OUTGOING)
                else {
                    continue;
                };
                let packet = &packet[..length];
                let vip = arp_answer(packet).or_else(|| advertisement(packet));
                let (Some(vip), Some(hardware)) = (vip, from.addr()) else {
                    continue;
                };
                let of_ours = on.iter().any(|own| own.hardware == hardware);
                if vips.contains(&vip) && !of_ours {
                    let interface = interface.name.clone();
                    answers.insert(Answer {
                        vip,
                        interface,
                        hardware,
                    });
                }
            }
        }
    }
}

/// RFC 826, RFC 5227 section 1.1.
fn arp_probe(hardware: [u8; 6], vip: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&hardware);
    packet[24..].copy_from_slice(&vip.octets());
    packet
}

/// Who sends a reply has the address that it sends as.
fn arp_answer(packet: &[u8]) -> Option<IpAddr> {
    let is_reply = packet.get(..8)? == [0, 1, 8, 0, 6, 4, 0, 2];
    let sender: [u8; 4] = packet.get(14..18)?.try_into().ok()?;
    is_reply.then(|| IpAddr::from(sender))
}

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// RFC 4861 section 4.3, with the IPv6 header before it, to the address's own group (RFC 4291 section 2.7.1).
fn solicitation(hardware: [u8; 6], own: Ipv6Addr, vip: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = vip.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(vip.octets());
    // Option 1, 8 bytes: the link-layer address that the answer goes to.
    message.extend([1, 1]);
    message.extend(hardware);
    let length = message.len() as u8;
    let pseudo = [
        &own.octets()[..],
        &group,
        &[0, 0, 0, length, 0, 0, 0, ICMPV6],
    ]
    .concat();
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    [&header[..], &own.octets(), &group, &message].concat()
}

/// RFC 4861 sections 4.4 and 7.1.2.
fn advertisement(packet: &[u8]) -> Option<IpAddr> {
    let is_ours = packet.first()? >> 4 == 6 && packet.get(6..8)? == [ICMPV6, 255];
    let is_advertisement = *packet.get(40)? == ADVERTISEMENT;
    let target: [u8; 16] = packet.get(48..64)?.try_into().ok()?;
    (is_ours && is_advertisement).then(|| IpAddr::from(target))
}

/// A balancer's IPv6 traffic is none of ours: for the kernel to pass on only neighbour advertisements.
fn advertisements() -> [SockFilter; 6] {
    let load = |at| SockFilter::new((BPF_LD | BPF_B | BPF_ABS) as u16, 0, 0, at);
    let unless_skip = |value: u8, next| {
        SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, next, value.into())
    };
    let pass = |bytes| SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, bytes);
    [
        load(6),
        unless_skip(ICMPV6, 3),
        load(40),
        unless_skip(ADVERTISEMENT, 1),
        pass(u32::MAX),
        pass(0),
    ]
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[expect(unsafe_code, reason = "there is no other way to a LinkAddr")]
fn link_address(protocol: i32, interface: u32, address: [u8; 6]) -> io::Result<LinkAddr> {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&address);
    let raw = libc::sockaddr_ll {
        sll_family: AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: bytes,
    };
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the pointer is to a sockaddr_ll of that length, of the family AF_PACKET, which is copied.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_in_the_words_of_the_rfcs_and_hears_answers() {
        let vip = Ipv4Addr::new(192, 0, 2, 1);
        let mut packet = arp_probe([2, 0, 0, 0, 0, 1], vip);
        assert_eq!(packet[14..18], [0; 4], "the sender is nobody");
        assert_eq!(arp_answer(&packet), None);
        packet[7] = 2;
        packet[14..18].copy_from_slice(&vip.octets());
        assert_eq!(arp_answer(&packet), Some(vip.into()));

        let (own, vip) = (
            "fe80::1".parse().unwrap(),
            "2001:db8::77:1".parse::<Ipv6Addr>().unwrap(),
        );
        let mut packet = solicitation([2, 0, 0, 0, 0, 1], own, vip);
        assert_eq!(packet.len(), 72);
        assert_eq!(
            packet[24..40],
            "ff02::1:ff77:1".parse::<Ipv6Addr>().unwrap().octets()
        );
        let pseudo = [
            &packet[8..40],
            &[0, 0, 0, 32, 0, 0, 0, ICMPV6],
            &packet[40..],
        ]
        .concat();
        assert_eq!(
            checksum(&pseudo),
            0,
            "with its checksum the sum is all ones"
        );
        assert_eq!(advertisement(&packet), None);
        packet[40] = ADVERTISEMENT;
        assert_eq!(advertisement(&packet), Some(vip.into()));
        for end in 0..64 {
            assert_eq!(advertisement(&packet[..end]), None);
        }
    }
}
