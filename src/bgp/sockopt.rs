//! What a peer's settings ask of a TCP socket: keys (RFC 2385, RFC 5925), how far packets may go and may
//! have come (RFC 5082), their precedence. Only options that no crate has are spelled out; which socket
//! gets which is decided by `transport.rs` and `listener.rs`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::setsockopt_impl;
use nix::sys::socket::sockopt::SetStruct;
use nix::sys::socket::{SetSockOpt, setsockopt};
use socket2::{SockAddrStorage, SockRef};
use thiserror::Error;
use zeroize::Zeroize;

use crate::config::{AoAlgorithm, Authentication, Ttl};

/// Class Selector 6, network control (RFC 4594 section 3.2): what routers mark BGP with.
const NETWORK_CONTROL: u32 = 0xc0;

/// What the sender of a packet that has passed no router has put in (RFC 5082 section 3).
pub(crate) const FARTHEST: u8 = 255;

/// What could not be done, and with what.
#[derive(Debug, Error)]
#[error("{operation}")]
pub(crate) struct Failed {
    operation: String,
    pub(crate) source: io::Error,
}

impl Failed {
    /// For `map_err`: `operation` reads like "bind to 192.0.2.1".
    pub(crate) fn to(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Failed {
        let operation = operation.into();
        |source| Failed { operation, source }
    }
}

/// For every socket of ours that speaks BGP.
pub(crate) fn mark(socket: &SockRef<'_>, family: IpAddr) -> Result<(), Failed> {
    match family {
        IpAddr::V4(_) => socket.set_tos_v4(NETWORK_CONTROL),
        IpAddr::V6(_) => socket.set_tclass_v6(NETWORK_CONTROL),
    }
    .map_err(Failed::to("set the traffic class"))
}

/// How far packets go, and from how far they may come: before connecting, or on an accepted socket.
pub(crate) fn limit(
    socket: &SockRef<'_>,
    peer: IpAddr,
    ttl: Ttl,
    external: bool,
) -> Result<(), Failed> {
    match ttl {
        // An external peer is on our own wire unless the configuration says else.
        Ttl::Default if external => send_with(socket, peer, Some(1)),
        Ttl::Default => send_with(socket, peer, None),
        Ttl::Multihop(ttl) => send_with(socket, peer, Some(ttl)),
        Ttl::Security(hops) => {
            send_with(socket, peer, Some(FARTHEST))?;
            // RFC 5082 section 3: each router on the way takes one off; there are one less than hops.
            let least = libc::c_int::from(FARTHEST) + 1 - libc::c_int::from(hops.max(1));
            match peer {
                IpAddr::V4(_) => set(socket, LeastTtl, &least),
                IpAddr::V6(_) => set(socket, LeastHopLimit, &least),
            }
            .map_err(Failed::to(format!("accept no TTL below {least}")))
        }
    }
}

/// With which TTL or hop limit packets leave; `None`: the kernel's default, also on a socket that has
/// inherited another from the one that accepted it.
pub(crate) fn send_with(
    socket: &SockRef<'_>,
    family: IpAddr,
    ttl: Option<u8>,
) -> Result<(), Failed> {
    // -1 to the kernel.
    let value = ttl.map_or(u32::MAX, u32::from);
    match family {
        IpAddr::V4(_) => socket.set_ttl_v4(value),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(value),
    }
    .map_err(|source| {
        let what = ttl.map_or("the default".into(), |ttl| ttl.to_string());
        Failed::to(format!("set the TTL to {what}"))(source)
    })
}

/// A raw ICMPv6 socket is given Router Solicitations and Advertisements and nothing else.
pub(crate) fn only_router_discovery(socket: &SockRef<'_>) -> io::Result<()> {
    // RFC 3542 section 3.2; in Linux a bit that is set blocks.
    let mut blocked = [u32::MAX; 8];
    for kind in [133, 134] {
        blocked[kind / 32] &= !(1 << (kind % 32));
    }
    set(socket, IcmpFilter, &blocked)
}

/// From now on connections with `peer` are signed with this key, and what is not is dropped by the kernel:
/// before connecting, or for the peer's next SYN on a listening socket. One key an address.
pub(crate) fn authenticate(
    socket: &SockRef<'_>,
    peer: IpAddr,
    with: &Authentication,
) -> Result<(), Failed> {
    match with {
        Authentication::Md5(key) => md5(socket, peer, key.bytes()),
        Authentication::Ao(ao) => {
            let mut add = AoAdd {
                peer: storage(peer),
                algorithm: [0; 64],
                interface: 0,
                flags: 0,
                reserved: 0,
                prefix: prefix(peer),
                send_id: ao.send_id,
                receive_id: ao.receive_id,
                // RFC 5926 section 3.2: 96 bits of either.
                mac_length: 12,
                key_flags: 0,
                key_length: 0,
                key: [0; 80],
            };
            let algorithm = match ao.algorithm {
                AoAlgorithm::HmacSha1 => "hmac(sha1)",
                AoAlgorithm::Aes128Cmac => "cmac(aes128)",
            };
            add.algorithm[..algorithm.len()].copy_from_slice(algorithm.as_bytes());
            add.key_length = copy_key(ao.key.bytes(), &mut add.key)?;
            let result = set(socket, AddAo, &add);
            add.key.zeroize();
            result.map_err(|error| refused("TCP-AO", AO_MISSING, peer, error))
        }
    }
}

/// Takes the key off a listening socket again.
pub(crate) fn forget(
    socket: &SockRef<'_>,
    peer: IpAddr,
    key: &Authentication,
) -> Result<(), Failed> {
    match key {
        // A key without length.
        Authentication::Md5(_) => md5(socket, peer, &[]),
        Authentication::Ao(ao) => {
            let delete = AoDelete {
                peer: storage(peer),
                interface: 0,
                flags: 0,
                reserved: 0,
                prefix: prefix(peer),
                send_id: ao.send_id,
                receive_id: ao.receive_id,
                current: 0,
                next: 0,
                key_flags: 0,
            };
            set(socket, DeleteAo, &delete)
                .map_err(|error| refused("TCP-AO", AO_MISSING, peer, error))
        }
    }
}

const MD5_MISSING: &str = "this kernel has no TCP MD5 (CONFIG_TCP_MD5SIG)";
const AO_MISSING: &str = "this kernel has no TCP-AO (CONFIG_TCP_AO, Linux 6.7 or newer)";

fn md5(socket: &SockRef<'_>, peer: IpAddr, key: &[u8]) -> Result<(), Failed> {
    let mut signature = Md5 {
        peer: storage(peer),
        flags: 0,
        prefix: 0,
        length: 0,
        interface: 0,
        key: [0; 80],
    };
    signature.length = copy_key(key, &mut signature.key)?.into();
    let result = set(socket, Md5Key, &signature);
    signature.key.zeroize();
    result.map_err(|error| refused("TCP MD5", MD5_MISSING, peer, error))
}

/// Its length.
fn copy_key(key: &[u8], to: &mut [u8; 80]) -> Result<u8, Failed> {
    let (Some(room), Ok(length)) = (to.get_mut(..key.len()), u8::try_from(key.len())) else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is longer than 80 bytes");
        return Err(Failed::to("use the key")(error));
    };
    room.copy_from_slice(key);
    Ok(length)
}

fn refused(what: &str, missing: &'static str, peer: IpAddr, error: io::Error) -> Failed {
    let source = match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => io::Error::new(io::ErrorKind::Unsupported, missing),
        Some(libc::ENOMEM) => io::Error::new(
            io::ErrorKind::OutOfMemory,
            "no room for one more key on a socket (sysctl net.core.optmem_max)",
        ),
        _ => error,
    };
    Failed::to(format!("use a key for {peer} ({what})"))(source)
}

/// The port is any: zero.
fn storage(address: IpAddr) -> SockAddrStorage {
    socket2::SockAddr::from(SocketAddr::new(address, 0)).as_storage()
}

fn prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn set<O: SetSockOpt>(socket: &SockRef<'_>, option: O, value: &O::Val) -> io::Result<()> {
    Ok(setsockopt(&socket.as_fd(), option, value)?)
}

/// An option that is set with a plain value of this type, as linux/in.h, in6.h, icmpv6.h and tcp.h have it.
macro_rules! option {
    ($name:ident, $level:path, $number:path, $value:ty) => {
        #[derive(Clone, Copy)]
        struct $name;
        setsockopt_impl!($name, $level, $number, $value, SetStruct<'_, $value>);
    };
}

option!(LeastTtl, libc::IPPROTO_IP, libc::IP_MINTTL, libc::c_int);
option!(
    LeastHopLimit,
    libc::IPPROTO_IPV6,
    libc::IPV6_MINHOPCOUNT,
    libc::c_int
);
option!(IcmpFilter, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, [u32; 8]);
option!(Md5Key, libc::IPPROTO_TCP, libc::TCP_MD5SIG, Md5);
option!(AddAo, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, AoAdd);
option!(DeleteAo, libc::IPPROTO_TCP, TCP_AO_DEL_KEY, AoDelete);

const ICMPV6_FILTER: libc::c_int = 1;
const TCP_AO_ADD_KEY: libc::c_int = 38;
const TCP_AO_DEL_KEY: libc::c_int = 39;

/// `struct tcp_md5sig`
#[repr(C)]
struct Md5 {
    peer: SockAddrStorage,
    flags: u8,
    prefix: u8,
    length: u16,
    interface: i32,
    key: [u8; 80],
}

/// `struct tcp_ao_add`
#[repr(C, align(8))]
struct AoAdd {
    peer: SockAddrStorage,
    algorithm: [u8; 64],
    interface: i32,
    /// Whether the key is to be the current one at once: a listening socket has none, and a socket that
    /// connects takes the only one.
    flags: u32,
    reserved: u16,
    prefix: u8,
    send_id: u8,
    receive_id: u8,
    mac_length: u8,
    key_flags: u8,
    key_length: u8,
    key: [u8; 80],
}

/// `struct tcp_ao_del`
#[repr(C, align(8))]
struct AoDelete {
    peer: SockAddrStorage,
    interface: i32,
    flags: u32,
    reserved: u16,
    prefix: u8,
    send_id: u8,
    receive_id: u8,
    current: u8,
    next: u8,
    key_flags: u8,
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::chain::chain;
    use crate::config::Ao;
    use crate::secret::{Secret, dumped};

    fn password(text: &str) -> Authentication {
        Authentication::Md5(Secret::new(text.as_bytes()))
    }

    /// Whether a connection with these keys comes up.
    fn connects(host: &str, listening: Option<&str>, connecting: Option<&str>) -> bool {
        let host: IpAddr = host.parse().unwrap();
        let listener = TcpListener::bind((host, 0)).unwrap();
        if let Some(key) = listening {
            authenticate(&SockRef::from(&listener), host, &password(key)).unwrap();
        }
        let to = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        if let Some(key) = connecting {
            authenticate(&SockRef::from(&socket), host, &password(key)).unwrap();
        }
        socket
            .connect_timeout(&to.into(), Duration::from_millis(300))
            .is_ok()
    }

    #[test]
    fn only_equal_md5_keys_connect() {
        for host in ["127.0.0.1", "::1"] {
            assert!(connects(host, Some("one"), Some("one")));
            assert!(connects(host, None, None));
            let long = "x".repeat(80);
            assert!(connects(host, Some(&long), Some(&long)));
            for (listening, connecting) in [
                (Some("one"), Some("two")),
                (Some("one"), None),
                (None, Some("one")),
            ] {
                assert!(!connects(host, listening, connecting), "{host}");
            }
        }
    }

    #[test]
    fn a_key_that_is_forgotten_is_asked_for_no_more() {
        let host = IpAddr::from([127, 0, 0, 1]);
        let listener = TcpListener::bind((host, 0)).unwrap();
        let socket = SockRef::from(&listener);
        authenticate(&socket, host, &password("one")).unwrap();
        authenticate(&socket, host, &password("two")).unwrap();
        forget(&socket, host, &password("two")).unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    }

    #[test]
    fn what_cannot_be_is_told_in_words() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let socket = SockRef::from(&socket);
        let peer = IpAddr::from([192, 0, 2, 1]);
        let told = |key| chain(&authenticate(&socket, peer, &key).unwrap_err());
        assert_eq!(
            told(password(&"x".repeat(81))),
            "use the key: it is longer than 80 bytes"
        );
        let ao = |algorithm| {
            Authentication::Ao(Ao {
                key: Secret::new(b"one"),
                send_id: 1,
                receive_id: 2,
                algorithm,
            })
        };
        for algorithm in [AoAlgorithm::HmacSha1, AoAlgorithm::Aes128Cmac] {
            // On a kernel that has it, it has to work.
            if let Err(error) = authenticate(&socket, peer, &ao(algorithm)) {
                assert_eq!(
                    chain(&error),
                    "use a key for 192.0.2.1 (TCP-AO): this kernel has no TCP-AO \
                     (CONFIG_TCP_AO, Linux 6.7 or newer)"
                );
            } else {
                forget(&socket, peer, &ao(algorithm)).unwrap();
            }
        }
    }

    #[test]
    fn how_far_packets_go() {
        let peer = IpAddr::from([192, 0, 2, 1]);
        for (ttl, external, wanted) in [
            (Ttl::Default, true, 1),
            (Ttl::Multihop(7), true, 7),
            (Ttl::Multihop(7), false, 7),
            (Ttl::Security(1), true, 255),
            (Ttl::Security(254), false, 255),
        ] {
            let v4 = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            limit(&SockRef::from(&v4), peer, ttl, external).unwrap();
            assert_eq!(v4.ttl_v4().unwrap(), wanted, "{ttl:?}");
            let v6 = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            let v6 = SockRef::from(&v6);
            limit(&v6, "2001:db8::1".parse().unwrap(), ttl, external).unwrap();
            assert_eq!(v6.unicast_hops_v6().unwrap(), wanted, "{ttl:?}");
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let before = socket.ttl_v4().unwrap();
        limit(&SockRef::from(&socket), peer, Ttl::Default, false).unwrap();
        assert_eq!(socket.ttl_v4().unwrap(), before);
    }

    #[test]
    fn a_key_in_use_is_not_in_what_a_core_dump_has() {
        // Its clear text is nowhere but where this test puts it.
        let hidden: Vec<u8> = (0..32).map(|_| fastrand::u8(..)).collect();
        let mut clear: Vec<u8> = hidden.iter().map(|byte| byte ^ 0x55).collect();
        assert!(dumped(&hidden) > 0, "the search finds it");
        let secret = Secret::new(&clear);
        clear.zeroize();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let socket = SockRef::from(&socket);
        let peer = IpAddr::from([192, 0, 2, 1]);
        let key = Authentication::Md5(secret.clone());
        authenticate(&socket, peer, &key).unwrap();
        assert_eq!(dumped(&hidden), 0);
        drop(authenticate(
            &socket,
            peer,
            &Authentication::Ao(Ao {
                key: secret,
                send_id: 1,
                receive_id: 1,
                algorithm: AoAlgorithm::HmacSha1,
            }),
        ));
        assert_eq!(dumped(&hidden), 0);
    }
}
