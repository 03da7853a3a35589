//! What takes tunnelled packets out of their wrapping: devices for each kind, from whomever they come, and fou's
//! ports for GUE, which hands on to the devices of IPIP.
//!
//! A device of somebody else's that does the same already, `tunl0` say, is left to do it: one of ours beside it would
//! take its packets away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::IpProtocol;
use netlink_packet_route::link::{GreIOFlags, InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind};

use super::address::is_ours;
use super::host::Seen;
use super::saved::Port;
use super::step::{Action, Step};
use super::{Encapsulation, Tunnel, Wanted};
use crate::rtnl::Link;
use crate::service::Family;

/// The IPv4 dummy address (RFC 7600): on a device that has no address at all the kernel lets nothing in, whatever
/// rp_filter is, unless that is off for all.
pub(super) const DUMMY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Device {
    /// IPv4 in IPv4.
    Ipip,
    /// Both families in IPv6.
    Ip6,
    /// Both families in GRE. The kernel drops what has a checksum that a device doesn't expect, and what has none that
    /// it does.
    Gre {
        checksum: bool,
    },
    Gre6 {
        checksum: bool,
    },
}

impl Device {
    /// The device that a VIP's packets need; an error says why there is none.
    fn of(tunnel: Tunnel, vip: IpAddr) -> Result<Device, &'static str> {
        match (tunnel.encapsulation, tunnel.outer) {
            (Encapsulation::Gre { checksum }, Family::Ipv4) => Ok(Device::Gre { checksum }),
            (Encapsulation::Gre { checksum }, Family::Ipv6) => Ok(Device::Gre6 { checksum }),
            (Encapsulation::Ipip | Encapsulation::Gue { .. }, Family::Ipv6) => Ok(Device::Ip6),
            (Encapsulation::Ipip | Encapsulation::Gue { .. }, Family::Ipv4) if vip.is_ipv6() => {
                Err(
                    "IPv6 in IPv4 by ipip or gue is not made here; use gre, or IPv6 addresses for the servers",
                )
            }
            (Encapsulation::Ipip | Encapsulation::Gue { .. }, Family::Ipv4) => Ok(Device::Ipip),
        }
    }

    /// At most 15 bytes.
    pub(super) fn name(self) -> &'static str {
        match self {
            Device::Ipip => "plimsoll-ipip",
            Device::Ip6 => "plimsoll-ip6",
            Device::Gre { .. } => "plimsoll-gre",
            Device::Gre6 { .. } => "plimsoll-gre6",
        }
    }

    pub(super) fn kind(self) -> InfoKind {
        match self {
            Device::Ipip => InfoKind::IpIp,
            Device::Ip6 => InfoKind::Ip6Tnl,
            Device::Gre { .. } => InfoKind::GreTun,
            Device::Gre6 { .. } => InfoKind::GreTun6,
        }
    }

    /// `external` (ip-link(8)): a device for any remote address beside the module's own, `tunl0` and its like.
    pub(super) fn data(self) -> InfoData {
        let flags = |checksum| match checksum {
            true => GreIOFlags::Checksum,
            false => GreIOFlags::empty(),
        };
        match self {
            Device::Ipip | Device::Ip6 => InfoData::IpTunnel(vec![InfoIpTunnel::CollectMetadata]),
            Device::Gre { checksum } => InfoData::GreTun(vec![
                InfoGre::CollectMetadata,
                InfoGre::IFlags(flags(checksum)),
            ]),
            Device::Gre6 { checksum } => InfoData::GreTun6(vec![
                InfoGre6::CollectMetadata,
                InfoGre6::IFlags(flags(checksum)),
            ]),
        }
    }

    /// Whether the interface is such a device, from any address to any. `ipv4`: it must take IPv4 packets.
    fn is(self, link: &Link, ipv4: bool) -> bool {
        let data = match (&link.kind, &link.data) {
            (Some(kind), Some(data)) if *kind == self.kind() => data,
            (Some(_) | None, _) => return false,
        };
        match self {
            Device::Ipip | Device::Ip6 => {
                let InfoData::IpTunnel(data) = data else {
                    return false;
                };
                data.iter().all(|item| {
                    if let InfoIpTunnel::Local(end) | InfoIpTunnel::Remote(end) = item {
                        end.is_unspecified()
                    } else if let (Device::Ip6, InfoIpTunnel::Protocol(protocol)) = (self, item) {
                        // The kernel's own, ip6tnl0, takes IPv6 alone.
                        u8::from(*protocol) == 0 || (!ipv4 && *protocol == IpProtocol::Ipv6)
                    } else {
                        true
                    }
                })
            }
            Device::Gre { checksum } => {
                let InfoData::GreTun(data) = data else {
                    return false;
                };
                data.iter().all(|item| {
                    if let InfoGre::Local(end) | InfoGre::Remote(end) = item {
                        end.is_unspecified()
                    } else if let InfoGre::IFlags(flags) = item {
                        flags.contains(GreIOFlags::Checksum) == checksum
                    } else {
                        true
                    }
                })
            }
            Device::Gre6 { checksum } => {
                let InfoData::GreTun6(data) = data else {
                    return false;
                };
                data.iter().all(|item| {
                    if let InfoGre6::Local(end) | InfoGre6::Remote(end) = item {
                        end.is_unspecified()
                    } else if let InfoGre6::IFlags(flags) = item {
                        flags.contains(GreIOFlags::Checksum) == checksum
                    } else {
                        true
                    }
                })
            }
        }
    }
}

pub(super) fn is_tunnel(link: &Link) -> bool {
    matches!(
        link.kind,
        Some(InfoKind::IpIp | InfoKind::Ip6Tnl | InfoKind::GreTun | InfoKind::GreTun6)
    )
}

pub(super) fn steps(wanted: &Wanted, seen: &Seen<'_>) -> Vec<Step> {
    let needed = devices(wanted);
    let mut steps: Vec<Step> = all(wanted)
        .filter_map(|(vip, tunnel)| {
            let why = match Device::of(tunnel, vip) {
                Ok(device) if needed.contains_key(&device) => return None,
                Ok(_) => "gre with and without checksum at one server: the kernel does one of them, here without",
                Err(why) => why,
            };
            let what = format!("tunnel for {vip}");
            Some(Step::stuck(what, "not there", "there", why))
        })
        .collect();
    let mut used = BTreeSet::new();
    for (device, ipv4) in &needed {
        match taker(*device, *ipv4, seen) {
            Ok(link) => {
                used.insert(link.index);
                if *ipv4 {
                    steps.extend(number(link, seen));
                }
            }
            Err(step) => steps.push(*step),
        }
    }
    let names: BTreeSet<&str> = needed.keys().map(|device| device.name()).collect();
    for link in &seen.links {
        if link.name.starts_with("plimsoll-")
            && is_tunnel(link)
            && !names.contains(link.name.as_str())
        {
            let action = Action::RemoveDevice(link.clone());
            steps.push(Step::new(&link.name, "there", "gone", action));
        }
    }
    for left in &seen.addresses {
        if left.address == DUMMY && is_ours(left) && !used.contains(&left.index) {
            let what = format!("{DUMMY} on {}", seen.name(left.index));
            let action = Action::Unbind(left.clone());
            steps.push(Step::new(what, "there", "gone", action));
        }
    }
    steps.extend(of_ports(wanted, seen));
    steps
}

/// The interfaces that IPv4 packets come out of.
pub(super) fn that_carry_ipv4<'a>(wanted: &Wanted, seen: &'a Seen<'_>) -> Vec<&'a Link> {
    let carriers = devices(wanted).into_iter().filter(|(_, ipv4)| *ipv4);
    carriers
        .filter_map(|(device, ipv4)| taker(device, ipv4, seen).ok())
        .collect()
}

/// Whether any packets of this VIP's are wrapped, and how much longer the wrapping makes them, in bytes.
pub(super) fn overhead(wanted: &Wanted, vip: IpAddr) -> Option<u16> {
    let tunnels = wanted.tunnels.get(&vip)?;
    let length = |tunnel: &Tunnel| {
        let outer = match tunnel.outer {
            Family::Ipv4 => 20,
            Family::Ipv6 => 40,
        };
        outer
            + match tunnel.encapsulation {
                Encapsulation::Ipip => 0,
                // The headers of UDP and of GUE.
                Encapsulation::Gue { .. } => 8 + 4,
                Encapsulation::Gre { checksum: false } => 4,
                Encapsulation::Gre { checksum: true } => 8,
            }
    };
    tunnels.iter().map(length).max()
}

pub(super) fn ports(wanted: &Wanted) -> BTreeSet<Port> {
    all(wanted)
        .filter_map(|(_, tunnel)| match tunnel.encapsulation {
            Encapsulation::Gue { port } => Some(Port {
                ipv6: tunnel.outer == Family::Ipv6,
                port,
            }),
            Encapsulation::Ipip | Encapsulation::Gre { .. } => None,
        })
        .collect()
}

fn all(wanted: &Wanted) -> impl Iterator<Item = (IpAddr, Tunnel)> {
    let tunnels = wanted.tunnels.iter();
    tunnels.flat_map(|(vip, tunnels)| tunnels.iter().map(|tunnel| (*vip, *tunnel)))
}

/// Those that are needed, and whether IPv4 packets come out of them.
fn devices(wanted: &Wanted) -> BTreeMap<Device, bool> {
    let mut devices = BTreeMap::new();
    for (vip, tunnel) in all(wanted) {
        if let Ok(device) = Device::of(tunnel, vip) {
            *devices.entry(device).or_default() |= vip.is_ipv4();
        }
    }
    // They have one name, and the kernel has one such device for all addresses.
    for device in [
        Device::Gre { checksum: false },
        Device::Gre6 { checksum: false },
    ] {
        if devices.contains_key(&device) {
            devices.retain(|other: &Device, _| *other == device || other.name() != device.name());
        }
    }
    devices
}

/// The interface that does a device's work, ours or somebody else's; or what must be done to have one.
fn taker<'a>(device: Device, ipv4: bool, seen: &'a Seen<'_>) -> Result<&'a Link, Box<Step>> {
    let name = device.name();
    let of_our_name = seen.links.iter().find(|link| link.name == name);
    let should_be = match device {
        Device::Ipip => "up, ipip from anyone",
        Device::Ip6 => "up, ip6tnl from anyone",
        Device::Gre { checksum: false } | Device::Gre6 { checksum: false } => {
            "up, gre without checksum from anyone"
        }
        Device::Gre { checksum: true } | Device::Gre6 { checksum: true } => {
            "up, gre with checksum from anyone"
        }
    };
    match of_our_name {
        Some(link) if !device.is(link, ipv4) => {
            let action = Action::RemoveDevice(link.clone());
            return Err(Box::new(Step::new(
                name,
                "of another kind",
                should_be,
                action,
            )));
        }
        Some(link) if !link.up => {
            let action = Action::SetUp(link.clone());
            return Err(Box::new(Step::new(name, "down", should_be, action)));
        }
        Some(link) => return Ok(link),
        None => {}
    }
    let mut others = seen.links.iter();
    others
        .find(|link| link.up && device.is(link, ipv4))
        .ok_or_else(|| {
            Box::new(Step::new(
                name,
                "not there",
                should_be,
                Action::MakeDevice(device),
            ))
        })
}

/// An address, if it has none.
fn number(link: &Link, seen: &Seen<'_>) -> Option<Step> {
    let mut addresses = seen.addresses.iter();
    if addresses.any(|a| a.index == link.index && a.address.is_ipv4()) {
        return None;
    }
    let what = format!("IPv4 address of {}", link.name);
    Some(Step::new(
        what,
        "none",
        DUMMY.to_string(),
        Action::Number(link.index),
    ))
}

fn of_ports(wanted: &Wanted, seen: &Seen<'_>) -> Vec<Step> {
    let needed = ports(wanted);
    let Ok(open) = &seen.ports else {
        return vec![];
    };
    let mut steps = Vec::new();
    for port in &needed {
        match open.get(port) {
            Some(true) => {}
            Some(false) => steps.push(Step::stuck(
                shown(*port),
                "fou's, but not for GUE",
                "open for GUE",
                "it is somebody else's: remove it, or take another port",
            )),
            None => {
                let action = Action::OpenPort(*port);
                steps.push(Step::new(shown(*port), "closed", "open for GUE", action));
            }
        }
    }
    for port in seen.saved.ports.difference(&needed) {
        if open.contains_key(port) {
            steps.push(Step::new(
                shown(*port),
                "open for GUE",
                "closed",
                Action::ClosePort(*port),
            ));
        }
    }
    steps
}

fn shown(port: Port) -> String {
    let family = if port.ipv6 {
        Family::Ipv6
    } else {
        Family::Ipv4
    };
    format!("UDP port {} of {family}", port.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(tunnels: &[(&str, Encapsulation, Family)]) -> Wanted {
        let mut wanted = Wanted::default();
        for (vip, encapsulation, outer) in tunnels {
            let vip: IpAddr = vip.parse().unwrap();
            let tunnel = Tunnel {
                encapsulation: *encapsulation,
                outer: *outer,
            };
            wanted.vips.insert(vip);
            wanted.tunnels.entry(vip).or_default().insert(tunnel);
        }
        wanted
    }

    #[test]
    fn a_vip_of_several_tunnels_is_ready_for_the_longest() {
        let vip = "192.0.2.1";
        let check = |tunnels: &[(Encapsulation, Family)], expected| {
            let tunnels: Vec<_> = tunnels.iter().map(|(e, f)| (vip, *e, *f)).collect();
            let overhead = overhead(&wanted(&tunnels), vip.parse().unwrap());
            assert_eq!(overhead, expected, "{tunnels:?}");
        };
        let gre = Encapsulation::Gre { checksum: true };
        check(&[], None);
        check(&[(Encapsulation::Ipip, Family::Ipv4)], Some(20));
        check(
            &[(Encapsulation::Ipip, Family::Ipv4), (gre, Family::Ipv4)],
            Some(28),
        );
        check(&[(gre, Family::Ipv6)], Some(48));
    }

    #[test]
    fn one_device_of_a_name() {
        let gre = |checksum| Encapsulation::Gre { checksum };
        let wanted = wanted(&[
            ("192.0.2.1", gre(true), Family::Ipv4),
            ("192.0.2.2", gre(false), Family::Ipv4),
            ("192.0.2.2", gre(true), Family::Ipv6),
        ]);
        let expected = [
            Device::Gre { checksum: false },
            Device::Gre6 { checksum: true },
        ];
        assert!(devices(&wanted).into_keys().eq(expected));
        for device in expected {
            assert!(device.name().len() < 16, "{device:?}");
        }
    }
}
