//! What a server is to the kernel, within its virtual service (`struct ip_vs_dest_user`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

/// A server's weight in its pool, 0 to [`Weight::MAX`]. 0: no new connections, the open ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Weight(u32);

impl Weight {
    /// The largest that ipvsadm(8) names.
    pub const MAX: u32 = 2_147_483_646;
    /// No new connections.
    pub const ZERO: Weight = Weight(0);
    /// The least that gets connections.
    pub const ONE: Weight = Weight(1);
    /// What PyBal takes if the list names none.
    pub const DEFAULT: Weight = Weight(10);

    /// `None` if it is more than the kernel takes.
    pub fn new(weight: u32) -> Option<Weight> {
        (weight <= Weight::MAX).then_some(Weight(weight))
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a client's packets get to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// On the same wire, to the server's link-layer address; the server has the VIP.
    #[default]
    DirectRouting,
    /// The destination address and port are rewritten, and back on the way out.
    Masquerading,
    /// In a packet to the server; the server has the VIP.
    Tunnel(Tunnel),
}

/// What the packets are put in (`ipvsadm --tun-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Tunnel {
    /// IP in IP, of whichever versions.
    Ipip,
    /// Generic UDP Encapsulation, to this port.
    Gue {
        port: u16,
        checksum: GueChecksum,
    },
    Gre {
        checksum: bool,
    },
}

/// `ipvsadm --tun-nocsum`, `--tun-csum`, `--tun-remcsum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GueChecksum {
    None,
    /// Of the outer UDP packet.
    Udp,
    /// The inner packet's is left to the one who unpacks it (remote checksum offload).
    Remote,
}

/// All that the kernel knows of a server but for its address and weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Delivery {
    pub forwarding: Forwarding,
    /// No new connections beyond so many, until there are fewer than `lower`; 0: no limit.
    pub upper: u32,
    /// 0: three quarters of `upper`.
    pub lower: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    pub weight: Weight,
    pub delivery: Delivery,
}

/// By direct routing, without thresholds.
impl From<Weight> for Destination {
    fn from(weight: Weight) -> Destination {
        Destination {
            weight,
            delivery: Delivery::default(),
        }
    }
}

/// What IPVS shall hold, or holds, for one service, by the servers' addresses and ports.
pub type Destinations = BTreeMap<SocketAddr, Destination>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_has_the_kernels_limit() {
        assert_eq!(Weight::new(0).map(Weight::get), Some(0));
        assert_eq!(
            Weight::new(2_147_483_646).map(Weight::get),
            Some(2_147_483_646)
        );
        assert_eq!(Weight::new(2_147_483_647), None);
    }
}
