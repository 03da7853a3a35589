//! What sees into a router's tables without delay: its kernel's own events, and BIRD's control socket.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use crate::PATIENCE;
use crate::netns::Namespace;

/// The routes that BIRD puts into a kernel's table.
pub(crate) struct Kernel {
    events: Receiver<(Instant, IpAddr, bool)>,
    there: BTreeSet<IpAddr>,
}

impl Kernel {
    pub(crate) fn watch(namespace: &Namespace) -> Kernel {
        let (sender, events) = channel();
        let handle = namespace.handle();
        let (ready, listens) = channel();
        // It ends with the process.
        std::thread::spawn(move || {
            handle.enter();
            let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
            let groups = (libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE) as u32;
            socket.bind(&SocketAddr::new(0, groups)).unwrap();
            // No event may be lost for being many, whatever the system's limit is.
            setsockopt(&socket, RcvBufForce, &(256 << 20)).unwrap();
            ready.send(()).unwrap();
            loop {
                let (bytes, _) = socket.recv_from_full().unwrap();
                let at = Instant::now();
                for event in routes(&bytes) {
                    if sender.send((at, event.0, event.1)).is_err() {
                        return;
                    }
                }
            }
        });
        listens.recv().unwrap();
        Kernel {
            events,
            there: BTreeSet::new(),
        }
    }

    /// When the address's route came or went.
    pub(crate) fn until(&mut self, address: IpAddr, there: bool) -> Instant {
        self.until_holds(|table| table.contains(&address) == there)
    }

    pub(crate) fn until_count(&mut self, count: u32) -> Instant {
        self.until_holds(|table| table.len() == count as usize)
    }

    /// When this came to hold; now, if it does.
    fn until_holds(&mut self, holds: impl Fn(&BTreeSet<IpAddr>) -> bool) -> Instant {
        let mut at = Instant::now();
        while !holds(&self.there) {
            let (then, address, there) = self.events.recv_timeout(PATIENCE).unwrap();
            at = then;
            if there {
                self.there.insert(address);
            } else {
                self.there.remove(&address);
            }
        }
        at
    }
}

/// What a datagram says of BIRD's routes.
fn routes(mut bytes: &[u8]) -> Vec<(IpAddr, bool)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).unwrap();
        let length = (message.header.length as usize).next_multiple_of(4);
        bytes = &bytes[length.min(bytes.len())..];
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            continue;
        };
        if let RouteNetlinkMessage::NewRoute(route) = &inner {
            all.extend(destination(route).map(|to| (to, true)));
        } else if let RouteNetlinkMessage::DelRoute(route) = &inner {
            all.extend(destination(route).map(|to| (to, false)));
        }
    }
    all
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    if route.header.protocol != RouteProtocol::Bird {
        return None;
    }
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            Some((*address).into())
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(address)) = attribute {
            Some((*address).into())
        } else {
            None
        }
    })
}

/// birdc(8) without a process for each question.
pub(crate) struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    pub(crate) fn connect(path: &Path) -> Control {
        let stream = UnixStream::connect(path).unwrap();
        let mut control = Control {
            stream: BufReader::new(stream),
        };
        control.answer();
        control
    }

    pub(crate) fn has(&mut self, address: IpAddr) -> bool {
        self.ask(&format!("show route {address}/32 protocol lb"))
            .contains("unicast")
    }

    /// Routes of both families from the neighbor.
    pub(crate) fn count(&mut self) -> u32 {
        let mut of = |table| {
            // 1007-10000 of 10002 routes for 10002 networks in table master4
            let answer = self.ask(&format!("show route table {table} protocol lb count"));
            let line = answer.lines().find(|line| line.contains(" of ")).unwrap();
            let number = line[5..].split(' ').next().unwrap();
            number.parse::<u32>().unwrap()
        };
        of("master4") + of("master6")
    }

    fn ask(&mut self, question: &str) -> String {
        self.stream
            .get_mut()
            .write_all(format!("{question}\n").as_bytes())
            .unwrap();
        self.answer()
    }

    /// Lines up to the one with a code and a blank behind it.
    fn answer(&mut self) -> String {
        let mut answer = String::new();
        loop {
            let start = answer.len();
            self.stream.read_line(&mut answer).unwrap();
            let line = &answer[start..];
            assert!(!line.is_empty(), "BIRD has closed its control socket");
            let code = line.bytes().take(4).all(|byte| byte.is_ascii_digit());
            if code && line.as_bytes().get(4) == Some(&b' ') {
                return answer;
            }
        }
    }
}
