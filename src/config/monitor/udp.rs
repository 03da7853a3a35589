//! `type = "udp"`

use std::time::Duration;

use super::timeout;
use crate::check::{Monitor, Probe, Udp};
use crate::config::reader::{Key, Table, key};
use crate::config::value::{self, TIMEOUT};

pub(super) const KEYS: &[&[Key]] = &[&[key("interval"), key("icmp-timeout")]];

/// What comes back is known after this time: that a neighbour does not answer takes the kernel 3 s, three tries a
/// second apart (`/proc/sys/net/ipv4/neigh/default`: `mcast_solicit`, `retrans_time_ms`).
const KNOWN_AFTER: Duration = Duration::from_secs(4);

pub(super) fn read(table: &Table<'_>) -> Option<Monitor> {
    let interval = timeout(table, "interval", 10);
    let icmp_timeout = table.or("icmp-timeout", Duration::from_secs(20), |node| {
        value::duration(node, &TIMEOUT)
    });
    if let (Some(interval), Some(icmp_timeout)) = (interval, icmp_timeout)
        && icmp_timeout <= interval
    {
        let interval = humantime::format_duration(interval);
        let said = table.get("icmp-timeout").or_else(|| table.get("interval"));
        said?.mistake(format_args!(
            "icmp-timeout is not longer than interval, {interval}: the server would be up between any two datagrams; write twice as much"
        ));
        return None;
    }
    let (interval, icmp_timeout) = (interval?, icmp_timeout?);
    let probe = Probe::Udp(Udp {
        interval,
        icmp_timeout,
    });
    Some(Monitor::new(
        probe,
        Duration::from_secs(1),
        KNOWN_AFTER.min(interval),
    ))
}
