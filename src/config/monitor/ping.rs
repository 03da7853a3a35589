//! `type = "ping"`

use crate::check::Probe;
use crate::config::reader::{Key, Table};

pub(super) const KEYS: &[&[Key]] = &[];

pub(super) fn read(table: &Table<'_>) -> Option<Probe> {
    if let Some(node) = table.get("port") {
        node.mistake("of no use with ping, which goes to no port; leave it out");
        return None;
    }
    Some(Probe::Ping)
}
