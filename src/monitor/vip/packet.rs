//! TCP over IP as bytes: what came in, if it is whole and right, and the few segments that we write ourselves.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber, checksum,
};

/// Fits every interface (RFC 8200 section 5), so that nobody need ask how wide the way is.
pub(super) const MTU: usize = 1280;
const HOPS: u8 = 64;

/// A conversation as its packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::monitor) struct Flow {
    pub(in crate::monitor) ours: SocketAddr,
    pub(in crate::monitor) vip: SocketAddr,
}

impl Flow {
    /// The first segment of a connection.
    pub(in crate::monitor) fn syn(&self, sequence: u32) -> Vec<u8> {
        let headers = match self.ours {
            SocketAddr::V4(_) => 40,
            SocketAddr::V6(_) => 60,
        };
        self.write(TcpRepr {
            control: TcpControl::Syn,
            window_len: u16::MAX,
            max_seg_size: Some((MTU - headers) as u16),
            ..self.bare(sequence)
        })
    }

    pub(in crate::monitor) fn reset(&self, sequence: u32) -> Vec<u8> {
        self.write(TcpRepr {
            control: TcpControl::Rst,
            ..self.bare(sequence)
        })
    }

    fn bare(&self, sequence: u32) -> TcpRepr<'static> {
        TcpRepr {
            src_port: self.ours.port(),
            dst_port: self.vip.port(),
            control: TcpControl::None,
            // SeqNumber is a number of 32 bits that wraps, whatever its sign.
            seq_number: TcpSeqNumber(sequence as i32),
            ack_number: None,
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        }
    }

    fn write(&self, tcp: TcpRepr<'_>) -> Vec<u8> {
        let (from, to) = (
            IpAddress::from(self.ours.ip()),
            IpAddress::from(self.vip.ip()),
        );
        let all = ChecksumCapabilities::default();
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, tcp.buffer_len(), HOPS);
        let mut bytes = vec![0; ip.buffer_len()];
        ip.emit(&mut bytes, &all);
        let payload = &mut bytes[ip.header_len()..];
        tcp.emit(&mut TcpPacket::new_unchecked(payload), &from, &to, &all);
        bytes
    }
}

/// A segment that came in.
#[derive(Debug)]
pub(in crate::monitor) struct Segment<'a> {
    pub(in crate::monitor) flow: Flow,
    tcp: TcpRepr<'a>,
}

/// What a segment is to somebody who has sent a SYN (RFC 9293 section 3.10.7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::monitor) enum Answer {
    Accepted,
    Refused,
    /// It answers another SYN than ours.
    Other,
    Nothing,
}

impl<'a> Segment<'a> {
    /// `None`: it is no whole TCP segment with a right checksum.
    pub(in crate::monitor) fn read(packet: &'a [u8]) -> Option<Segment<'a>> {
        let (from, to, payload): (IpAddr, IpAddr, _) = match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4Packet::new_checked(packet).ok()?;
                let whole = !ip.more_frags() && ip.frag_offset() == 0;
                if ip.next_header() != IpProtocol::Tcp || !whole || !ip.verify_checksum() {
                    return None;
                }
                (ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
            }
            6 => {
                let ip = Ipv6Packet::new_checked(packet).ok()?;
                if ip.next_header() != IpProtocol::Tcp {
                    return None;
                }
                (ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
            }
            _ => return None,
        };
        let tcp = TcpPacket::new_checked(payload).ok()?;
        let (source, destination) = (IpAddress::from(from), IpAddress::from(to));
        if !is_right(&tcp, payload.len(), &source, &destination) {
            return None;
        }
        let unchecked = ChecksumCapabilities::ignored();
        let tcp = TcpRepr::parse(&tcp, &source, &destination, &unchecked).ok()?;
        Some(Segment {
            flow: Flow {
                ours: SocketAddr::new(to, tcp.dst_port),
                vip: SocketAddr::new(from, tcp.src_port),
            },
            tcp,
        })
    }

    pub(in crate::monitor) fn sequence(&self) -> u32 {
        let TcpSeqNumber(sequence) = self.tcp.seq_number;
        sequence as u32
    }

    /// To a SYN with this sequence number.
    pub(in crate::monitor) fn answer(&self, sequence: u32) -> Answer {
        let Some(TcpSeqNumber(acknowledged)) = self.tcp.ack_number else {
            return Answer::Nothing;
        };
        let ours = acknowledged as u32 == sequence.wrapping_add(1);
        match self.tcp.control {
            TcpControl::Rst if ours => Answer::Refused,
            TcpControl::Rst => Answer::Nothing,
            TcpControl::Syn if ours => Answer::Accepted,
            TcpControl::Syn | TcpControl::None | TcpControl::Psh | TcpControl::Fin => Answer::Other,
        }
    }

    /// What ends the connection that this is of (RFC 9293 section 3.5.2).
    pub(in crate::monitor) fn reset(&self) -> Option<Vec<u8>> {
        match (self.tcp.control, self.tcp.ack_number) {
            (TcpControl::Rst, _) | (_, None) => None,
            (_, Some(TcpSeqNumber(acknowledged))) => Some(self.flow.reset(acknowledged as u32)),
        }
    }
}

/// Right as on the wire, or as the kernel hands it over where no wire is (veth) or where it has joined segments
/// (GRO): then the field has but the sum over the pseudo-header (`CHECKSUM_PARTIAL` of linux/skbuff.h).
fn is_right(tcp: &TcpPacket<&[u8]>, length: usize, from: &IpAddress, to: &IpAddress) -> bool {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let partial = || checksum::pseudo_header(from, to, IpProtocol::Tcp, length);
    tcp.verify_checksum(from, to) || tcp.checksum() == partial()
}
