//! A received UPDATE (RFC 4271 section 4.3), read as RFC 7606 says: as few faults as it allows end the
//! session. Where it leaves the choice between that and AFI/SAFI disable, the family goes and the session
//! stays: what we announce is worth more than what we hear.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::attributes::{self, Approach, Found};
use super::{Received, Sender, Update, take_u16};
use crate::bgp::notification::Notification;
use crate::service::Family;

pub(super) fn decode(mut body: &[u8], sender: Sender) -> Result<Update, Notification> {
    // RFC 7606 section 3 (b): lengths that cannot be.
    let mut part = || {
        let length = take_u16(&mut body)?;
        body.split_off(..usize::from(length))
    };
    let malformed_list = || Notification::new(3, 1, []);
    let withdrawn = part().ok_or_else(malformed_list)?;
    let list = part().ok_or_else(malformed_list)?;
    // RFC 7606 section 3 (i) and (j), section 5.3; RFC 4271 section 6.3.
    let invalid_network = || Notification::new(3, 10, []);
    let withdrawn = prefixes(withdrawn, Family::Ipv4).ok_or_else(invalid_network)?;
    let announced = prefixes(body, Family::Ipv4).ok_or_else(invalid_network)?;

    let mut found = attributes::read(list, !announced.is_empty(), sender)?;
    if !(announced.is_empty() && found.announced.is_empty()) {
        found.require(!announced.is_empty());
    }
    let reaches = found.reaches || !announced.is_empty();
    if let Some(fault) = &found.fault {
        // RFC 7606 section 5.2: then who knows whether the prefixes have been found at all.
        let withdraws = fault.approach > Approach::AttributeDiscard;
        if withdraws && found.others && !reaches {
            return Err(fault.told.clone());
        }
    }
    let mark = match list {
        [] => Some(Family::Ipv4),
        _ => found.withdraws.filter(|_| !found.others),
    };
    let mut update = together(withdrawn, announced, found);
    update.end_of_rib = mark.filter(|_| {
        update.withdrawn.is_empty() && update.announced.is_empty() && update.fault.is_none()
    });
    Ok(update)
}

/// What came inside of attributes with what came outside.
fn together(withdrawn: Vec<IpNet>, announced: Vec<IpNet>, mut found: Found) -> Update {
    let outside = (!announced.is_empty()).then_some(found.next_hop);
    let inside = (!found.announced.is_empty()).then_some(found.announced_by);
    found.received.next_hop = match (outside, inside) {
        (Some(next_hop), None) => next_hop.map(Into::into),
        (None, Some(next_hop)) => next_hop,
        (None, None) | (Some(_), Some(_)) => None,
    };
    let mut update = Update {
        withdrawn: joined(withdrawn, found.withdrawn),
        announced: joined(announced, found.announced),
        attributes: found.received,
        fault: None,
        end_of_rib: None,
        disabled: found.disabled,
    };
    if !update.disabled.is_empty() {
        let heard = |prefix: &IpNet| !update.disabled.contains(&Family::of_prefix(prefix));
        update.withdrawn.retain(heard);
        update.announced.retain(heard);
    }
    if let Some(fault) = found.fault {
        if found.unusable {
            update.withdrawn.append(&mut update.announced);
        }
        update.fault = Some(fault.why);
    }
    if update.announced.is_empty() {
        update.attributes = Received::default();
    }
    update
}

fn joined(mut all: Vec<IpNet>, more: Vec<IpNet>) -> Vec<IpNet> {
    if all.is_empty() {
        return more;
    }
    all.extend(more);
    all
}

/// `None`: they cannot be read (RFC 7606 section 5.3). What a prefix has behind its length is cut off.
pub(super) fn prefixes(mut field: &[u8], family: Family) -> Option<Vec<IpNet>> {
    // Most often /24 or /32, /48 or /128.
    let mut all = Vec::with_capacity(field.len().div_ceil(4));
    while let Some(&length) = field.split_off_first() {
        let octets = field.split_off(..usize::from(length.div_ceil(8)))?;
        all.push(match family {
            Family::Ipv4 => Ipv4Net::new(Ipv4Addr::from(padded(octets)?), length)
                .ok()?
                .trunc()
                .into(),
            Family::Ipv6 => Ipv6Net::new(Ipv6Addr::from(padded(octets)?), length)
                .ok()?
                .trunc()
                .into(),
        });
    }
    Some(all)
}

fn padded<const SIZE: usize>(octets: &[u8]) -> Option<[u8; SIZE]> {
    let mut all = [0; SIZE];
    all.get_mut(..octets.len())?.copy_from_slice(octets);
    Some(all)
}
