//! Reads `[ipvs]`: what holds for the kernel's IPVS as a whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::reader::{Key, Node, Table, key};
use super::{Ipvs, Sync, SyncRole};
use crate::service::Scheduler;

pub(super) const KEYS: &[Key] = &[key("sysctl"), key("sync")];

pub(super) const SYNC_KEYS: &[Key] = &[
    key("role"),
    key("interface"),
    key("sync-id"),
    key("group"),
    key("port"),
    key("ttl"),
];

/// The kernel's own (`IP_VS_SYNC_GROUP`, `IP_VS_SYNC_PORT`).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);
const PORT: u16 = 8848;

/// linux/if.h: `IFNAMSIZ`, with the zero at its end.
const LONGEST_NAME: usize = 15;

/// By the kernel's names, which is what an operator searches for.
pub(super) const SYSCTL_KEYS: &[Key] = &[
    key("expire_nodest_conn"),
    key("expire_quiescent_template"),
    key("conn_reuse_mode"),
    key("sloppy_tcp"),
    key("sloppy_sctp"),
    key("am_droprate"),
    key("amemthresh"),
    key("backup_only"),
    key("cache_bypass"),
    key("conntrack"),
    key("drop_entry"),
    key("drop_packet"),
    key("ignore_tunneled"),
    key("nat_icmp_send"),
    key("pmtu_disc"),
    key("run_estimation"),
    key("schedule_icmp"),
    key("secure_tcp"),
    key("snat_reroute"),
    key("sync_persist_mode"),
    key("sync_ports"),
    key("sync_qlen_max"),
    key("sync_refresh_period"),
    key("sync_retries"),
    key("sync_sock_size"),
    key("sync_threshold"),
    key("sync_version"),
];

/// `schedulers`: those of all services.
pub(super) fn ipvs(
    table: Option<&Table<'_>>,
    schedulers: impl Iterator<Item = Scheduler>,
) -> Option<Ipvs> {
    let sync = match table {
        Some(table) => table.optional("sync", sync),
        None => Some(None),
    };
    let sysctl = sysctls(table, schedulers);
    Some(Ipvs {
        sysctl: sysctl?,
        sync: sync?,
    })
}

fn sync(node: &Node<'_>) -> Option<Sync> {
    let table = node.table(SYNC_KEYS)?;
    let role = table.required("role", "role = \"both\", say", |node| {
        let roles = [
            ("master", SyncRole::Master),
            ("backup", SyncRole::Backup),
            ("both", SyncRole::Both),
        ];
        node.choice("role", roles)
    });
    let example = "interface = \"eth0\", say";
    let interface = table.required("interface", example, |node| {
        let name = node.string("an interface", "eth0")?;
        let good = !name.is_empty() && name.len() <= LONGEST_NAME;
        if !good {
            node.mistake("an interface's name has 1 to 15 characters; write one like \"eth0\"");
        }
        good.then(|| name.to_owned())
    });
    let byte = |least: u32| move |node: &Node<'_>| u8::try_from(node.integer(least, 255)?).ok();
    let id = table.or("sync-id", 0, byte(0));
    let group = table.or("group", GROUP.into(), group);
    let port = table.or("port", PORT, |node| {
        u16::try_from(node.integer(1, 65535)?).ok()
    });
    let ttl = table.or("ttl", 1, byte(1));
    Some(Sync {
        role: role?,
        interface: interface?,
        id: id?,
        group: group?,
        port: port?,
        ttl: ttl?,
    })
}

fn group(node: &Node<'_>) -> Option<IpAddr> {
    let text = node.string("a multicast address", "224.0.0.81")?;
    let address = text.parse().ok().filter(IpAddr::is_multicast);
    if address.is_none() {
        node.mistake("no multicast address; write one like \"224.0.0.81\" or \"ff02::81\"");
    }
    address
}

fn sysctls(
    table: Option<&Table<'_>>,
    schedulers: impl Iterator<Item = Scheduler>,
) -> Option<BTreeMap<&'static str, String>> {
    let mut sysctl = defaults(schedulers);
    let Some(node) = table.and_then(|table| table.get("sysctl")) else {
        return Some(sysctl);
    };
    let mut good = true;
    for (name, node) in node.table(SYSCTL_KEYS)?.entries() {
        // An unknown one has been noted.
        let Some(key) = SYSCTL_KEYS.iter().find(|key| key.name == name) else {
            continue;
        };
        match setting(key.name, &node) {
            Some(Some(value)) => {
                sysctl.insert(key.name, value);
            }
            Some(None) => {
                sysctl.remove(key.name);
            }
            None => good = false,
        }
    }
    good.then_some(sysctl)
}

/// What is set where the file says nothing. The README says why.
fn defaults(mut schedulers: impl Iterator<Item = Scheduler>) -> BTreeMap<&'static str, String> {
    let mut sysctl: BTreeMap<_, _> = [
        ("expire_nodest_conn", "1"),
        ("expire_quiescent_template", "1"),
        // Bit 1 of it is for masquerading alone, bit 2 for the states that direct routing sees, too.
        ("conn_reuse_mode", "2"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    // Only these choose the same server wherever a connection's packets come from now on.
    if schedulers.any(|scheduler| matches!(scheduler, Scheduler::Mh | Scheduler::Sh)) {
        sysctl.insert("sloppy_tcp", "1".to_owned());
    }
    sysctl
}

/// The value as the kernel writes it; `Some(None)`: it is left alone. `None`: a mistake was noted.
fn setting(name: &'static str, node: &Node<'_>) -> Option<Option<String>> {
    if let Some(keep) = node.as_bool() {
        if keep {
            node.wrong_type("a number", "a number, or false to leave the setting alone");
            return None;
        }
        return Some(None);
    }
    let (least, most) = range(name);
    if name != "sync_threshold" {
        return Some(Some(node.integer(least, most)?.to_string()));
    }
    let items = node.items();
    let numbers: Vec<u32> = items
        .iter()
        .map(|item| item.integer(least, most))
        .collect::<Option<_>>()?;
    let [first, every] = numbers[..] else {
        node.mistake("it is two numbers; write [3, 50]");
        return None;
    };
    // The kernel refuses it.
    if every > 0 && first >= every {
        node.mistake("the first number must be less than the second; write [3, 50]");
        return None;
    }
    Some(Some(format!("{first} {every}")))
}

/// As net/netfilter/ipvs/ip_vs_ctl.c takes them, or as far as they make sense.
fn range(name: &str) -> (u32, u32) {
    match name {
        "conn_reuse_mode" | "drop_entry" | "drop_packet" | "secure_tcp" => (0, 3),
        "sync_ports" => (1, 64),
        "sync_retries" => (0, 3),
        "am_droprate"
        | "amemthresh"
        | "sync_qlen_max"
        | "sync_refresh_period"
        | "sync_sock_size"
        | "sync_threshold" => (0, i32::MAX.unsigned_abs()),
        _ => (0, 1),
    }
}
