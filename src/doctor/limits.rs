//! What runs out or runs wrong by itself: file descriptors, the clock.

use std::net::SocketAddr;

use super::{Found, Host, command};
use crate::config::Servers;
use crate::ipvs::listing::Key;
use crate::service::VirtualService;

/// For what is neither check nor session: logs, netlink, etcd, clients of the API.
const OTHER_FILES: u64 = 256;

pub(super) fn files(host: &Host, found: &mut Found) {
    let Some(id) = host.daemon() else {
        return;
    };
    let limits = host
        .files
        .text(&format!("proc/{id}/limits"))
        .unwrap_or_default();
    let Some((limit, hard)) = limit(&limits) else {
        let text = format!("the limits of the daemon, process {id}, cannot be read");
        return found.unknown(text, "run it as root");
    };
    let open = std::fs::read_dir(host.files.root.join(format!("proc/{id}/fd")));
    let open = open.map_or(0, |entries| entries.count() as u64);
    let need = checks(host) + OTHER_FILES;
    let more = (4 * need.max(limit)).next_power_of_two();
    // The soft limit alone, as long as that is enough.
    let hard = if more <= hard {
        String::new()
    } else {
        more.to_string()
    };
    let mend = command(format!("prlimit --pid {id} --nofile={more}:{hard}"));
    let why = "beyond its limit the daemon opens no connection: checks cannot be made, and the API does not answer. \
               Besides the command, LimitNOFILE= in its unit, for the next start";
    if open > limit / 10 * 8 {
        found.fault(
            format!("the daemon has {open} files open of {limit} that it may"),
            why,
            mend,
        );
    } else if limit < need {
        found.warning(
            format!("the daemon may open {limit} files, and its checks may need {need}"),
            why,
            mend,
        );
    }
}

/// As many as there are pairs of monitor and server; of servers in files and in etcd, those that IPVS has.
fn checks(host: &Host) -> u64 {
    let services = host
        .config
        .iter()
        .flat_map(|config| config.services.values());
    let each = services.map(|service| {
        let key = match service.key {
            VirtualService::Address {
                protocol,
                address,
                port,
            } => Key::Address(protocol.to_string(), SocketAddr::new(address, port)),
            VirtualService::Mark { mark, family: _ } => Key::Mark(mark.get()),
        };
        let servers = match &service.servers {
            Servers::Inline(list) => list.len(),
            Servers::File(_) | Servers::Etcd(_) => {
                let mut held = host.listing.iter().flat_map(|listing| &listing.services);
                held.find(|held| held.key == key)
                    .map_or(0, |held| held.destinations.len())
            }
        };
        service.monitors.len() * servers
    });
    each.sum::<usize>() as u64
}

/// The soft and the hard one: `Max open files            1024                 524288               files`.
fn limit(limits: &str) -> Option<(u64, u64)> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let number = |word: &str| match word {
        "unlimited" => Some(u64::MAX / 16),
        number => number.parse().ok(),
    };
    let mut words = line.split_ascii_whitespace();
    Some((number(words.next()?)?, number(words.next()?)?))
}

pub(super) fn clock(host: &Host, found: &mut Found) {
    if !host.synchronised {
        found.note(
            "nothing keeps this host's clock right (no NTP)".to_owned(),
            "nothing of the balancing depends on it, but logs, certificates' dates and `until` of an operator do",
            command("apt-get install -y chrony"),
        );
    }
}

/// adjtimex(2), which changes nothing where no mode is set.
#[expect(unsafe_code, reason = "libc has no other way")]
pub(super) fn is_synchronised() -> bool {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: it is ours, and outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut time) };
    state != libc::TIME_ERROR
}

#[cfg(test)]
mod tests {
    use super::super::Role::Balancer;
    use super::super::Severity::{Fault, Note, Warning};
    use super::*;
    use crate::ipvs::listing::Listing;

    #[test]
    fn the_daemons_limit_is_read() {
        let (mut host, _root) = Host::sample(Balancer);
        assert_eq!(host.found(files), []);
        host.processes
            .insert(7, vec!["plimsoll".into(), "run".into()]);
        assert_eq!(host.found(files)[0].0, Note);
        let set = |host: &Host, limit| {
            let line = format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax open files  {limit}  524288  files\n"
            );
            host.write("proc/7/limits", &line);
        };
        set(&host, "1024");
        assert_eq!(host.found(files), []);
        set(&host, "128");
        assert_eq!(host.found(files)[0].0, Warning);
        (0..120).for_each(|n| host.write(&format!("proc/7/fd/{n}"), ""));
        assert_eq!(host.found(files)[0].0, Fault);
        set(&host, "unlimited");
        assert_eq!(host.found(files), []);
    }

    #[test]
    fn the_clock_is_a_note() {
        let (mut host, _root) = Host::sample(Balancer);
        host.listing = Some(Listing::default());
        assert_eq!(host.found(clock), []);
        host.synchronised = false;
        assert_eq!(host.found(clock)[0].0, Note);
    }
}
