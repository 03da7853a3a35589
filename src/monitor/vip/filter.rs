//! What of the host's traffic gets to us: classic BPF programs, which the kernel runs for each packet that comes in.
//! Nothing of what clients send to VIPs passes: it is for other addresses than those that we send from.

use std::net::{Ipv4Addr, Ipv6Addr};

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD,
    BPF_LDX, BPF_MSH, BPF_RET, BPF_W,
};
use socket2::SockFilter;

/// The lowest port that we send from; all above it are ours, too. Beyond those that Linux gives out by default
/// (`ip_local_port_range`), and one mask says whether a port is of them.
pub(super) const LOWEST_PORT: u16 = 0xf000;

const TCP: u32 = 6;
/// More fragments follow, or the offset is not 0 (RFC 791 section 3.1).
const FRAGMENT: u32 = 0x3fff;
const WHOLE: u32 = u32::MAX;

pub(super) fn nothing() -> Vec<SockFilter> {
    vec![pass(0)]
}

/// Whole TCP packets to one of our ports at these addresses; the packet begins with its IP header.
pub(super) fn ipv4(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<SockFilter> {
    let mut program = vec![
        load(BPF_B, 9),
        skip_if(TCP, 1),
        pass(0),
        load(BPF_H, 6),
        jump(BPF_JSET, FRAGMENT, 0, 1),
        pass(0),
        // X: the length of the IP header.
        filter(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 0),
        filter(BPF_LD | BPF_H | BPF_IND, 0, 0, 2),
        filter(BPF_ALU | BPF_AND | BPF_K, 0, 0, LOWEST_PORT.into()),
        skip_if(LOWEST_PORT.into(), 1),
        pass(0),
        load(BPF_W, 16),
    ];
    for address in addresses {
        program.extend([unless_skip(address.to_bits(), 1), pass(WHOLE)]);
    }
    program.push(pass(0));
    program
}

/// The same; TCP behind extension headers is not ours.
pub(super) fn ipv6(addresses: impl IntoIterator<Item = Ipv6Addr>) -> Vec<SockFilter> {
    let mut program = vec![
        load(BPF_B, 6),
        skip_if(TCP, 1),
        pass(0),
        load(BPF_H, 42),
        filter(BPF_ALU | BPF_AND | BPF_K, 0, 0, LOWEST_PORT.into()),
        skip_if(LOWEST_PORT.into(), 1),
        pass(0),
    ];
    for address in addresses {
        let words = (0..4u32).map(|n| (address.to_bits() >> (96 - 32 * n)) as u32);
        for ((at, left), word) in [(24, 7), (28, 5), (32, 3), (36, 1)].into_iter().zip(words) {
            program.extend([load(BPF_W, at), unless_skip(word, left)]);
        }
        program.push(pass(WHOLE));
    }
    program.push(pass(0));
    program
}

fn load(size: u32, at: u32) -> SockFilter {
    filter(BPF_LD | size | BPF_ABS, 0, 0, at)
}

/// Passes over so many instructions if what was loaded is `value`.
fn skip_if(value: u32, instructions: u8) -> SockFilter {
    jump(BPF_JEQ, value, instructions, 0)
}

/// Passes over so many instructions unless what was loaded is `value`.
fn unless_skip(value: u32, instructions: u8) -> SockFilter {
    jump(BPF_JEQ, value, 0, instructions)
}

fn jump(test: u32, value: u32, then: u8, otherwise: u8) -> SockFilter {
    filter(BPF_JMP | test | BPF_K, then, otherwise, value)
}

/// The end: so many bytes of the packet, at most, get to us.
fn pass(bytes: u32) -> SockFilter {
    filter(BPF_RET | BPF_K, 0, 0, bytes)
}

fn filter(code: u32, then: u8, otherwise: u8, value: u32) -> SockFilter {
    // Codes have 16 bits; libc's constants are wider than they need be.
    SockFilter::new(code as u16, then, otherwise, value)
}
