//! `type = "vip-reachability"`: it has no keys of its own.

use crate::check::Probe;
use crate::config::reader::{Key, Table};

pub(super) const KEYS: &[&[Key]] = &[];

pub(super) fn read(_: &Table<'_>) -> Option<Probe> {
    Some(Probe::VipReachability)
}
