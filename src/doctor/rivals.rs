//! Other programs that think the addresses or IPVS are theirs.

use super::host::Owner;
use super::{Found, Host, command, words};

/// Those that write IPVS' table, keepalived aside; pybal runs inside Python, so its script's name tells.
const OTHERS: &[&str] = &[
    "ldirectord",
    "pybal",
    "liberica-cp",
    "seesaw_engine",
    "seesaw_ncc",
    "kube-router",
    "nanny",
];

const CONFIGURATION: &str = "etc/keepalived/keepalived.conf";

/// keepalived, and what it holds.
pub(super) fn vrrp(host: &Host, found: &mut Found) {
    let running = !host.running("keepalived").is_empty();
    let configuration = host.files.text(CONFIGURATION).unwrap_or_default();
    let is_named = |vip: String| {
        let words = configuration.split(|c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.'));
        words.into_iter().any(|word| word == vip)
    };
    let mut any = false;
    for vip in &host.vips {
        let its = |owner: Owner| owner == Owner::Keepalived;
        if let Some((interface, own)) = host.places(*vip).find(|(_, own)| its(own.owner)) {
            any = true;
            let (name, length) = (&interface.name, own.length);
            found.fault(
                format!("keepalived put {vip} on {name}"),
                "VRRP and routing both decide who has the address: two balancers may serve it, or none",
                command(match running {
                    true => "systemctl disable --now keepalived".to_owned(),
                    false => format!("ip address del {vip}/{length} dev {name}"),
                }),
            );
        } else if running && is_named(vip.to_string()) {
            any = true;
            found.fault(
                format!("keepalived runs, and {vip} is in its configuration"),
                "it takes the address, or its servers in IPVS, when its peer goes or when it is reloaded",
                words(format!("take {vip} out of /{CONFIGURATION} and reload it, or: systemctl disable --now keepalived")),
            );
        }
    }
    if running && !any {
        found.warning(
            "keepalived runs on this host".to_owned(),
            "it may write the same table of IPVS, and lets addresses come and go",
            words("systemctl disable --now keepalived, if it is not for something else"),
        );
    }
}

pub(super) fn others(host: &Host, found: &mut Found) {
    for (id, line) in &host.processes {
        let names = line
            .iter()
            .take(2)
            .filter_map(|word| word.rsplit('/').next());
        for name in names.filter(|name| OTHERS.contains(name)) {
            found.warning(
                format!("{name} runs on this host (process {id})"),
                "two programs that write one table of IPVS undo each other's changes",
                words(format!(
                    "systemctl disable --now {name}, if its services are Plimsoll's now"
                )),
            );
        }
    }
    let lock = "var/lock/conntrack.lock";
    if host.files.has(lock) && host.running("conntrackd").is_empty() {
        found.note(
            format!("/{lock} is there, but conntrackd does not run"),
            "conntrackd does not start as long as it is there",
            command(format!("rm /{lock}")),
        );
    }
}

/// Debian's service of the package ipvsadm.
pub(super) fn ipvsadm(host: &Host, found: &mut Found) {
    let defaults = host.files.text("etc/default/ipvsadm").unwrap_or_default();
    let is_on = |line: &str| line.trim().replace(['"', '\''], "") == "AUTO=true";
    if defaults.lines().any(is_on) {
        found.warning(
            "/etc/default/ipvsadm has AUTO=\"true\"".to_owned(),
            "when its service starts or stops it empties the whole table of IPVS, Plimsoll's services too, until they are put back",
            command("sed -i 's/^AUTO=.*/AUTO=\"false\"/' /etc/default/ipvsadm"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role::Balancer;
    use super::super::Severity::{Fault, Warning};
    use super::*;

    #[test]
    fn keepalived_may_run_but_not_with_our_addresses() {
        let (mut host, _root) = Host::sample(Balancer);
        assert_eq!(host.found(vrrp), []);
        host.processes
            .insert(7, vec!["/usr/sbin/keepalived".into(), "-D".into()]);
        assert_eq!(
            host.found(vrrp),
            [(Warning, "keepalived runs on this host".to_owned())]
        );
        host.write(CONFIGURATION, "virtual_ipaddress {\n 192.0.2.11/32\n}\n");
        assert_eq!(host.found(vrrp)[0].0, Warning);
        host.write(CONFIGURATION, "virtual_ipaddress {\n 192.0.2.1/32\n}\n");
        let text = "keepalived runs, and 192.0.2.1 is in its configuration";
        assert_eq!(host.found(vrrp), [(Fault, text.to_owned())]);
        host.processes.clear();
        assert_eq!(host.found(vrrp), []);
        host.interfaces.as_mut().unwrap()[0].addresses[1].owner = Owner::Keepalived;
        assert_eq!(
            host.found(vrrp),
            [(Fault, "keepalived put 192.0.2.1 on lo".to_owned())]
        );
    }

    #[test]
    fn others_are_named() {
        let (mut host, _root) = Host::sample(Balancer);
        host.processes
            .insert(7, vec!["/usr/bin/python".into(), "/usr/sbin/pybal".into()]);
        host.processes
            .insert(8, vec!["less".into(), "-n".into(), "pybal".into()]);
        assert_eq!(
            host.found(others),
            [(Warning, "pybal runs on this host (process 7)".to_owned())]
        );
        host.write("var/lock/conntrack.lock", "");
        assert_eq!(host.found(others).len(), 2);
        host.write("etc/default/ipvsadm", "# AUTO=\"true\"\nAUTO=\"false\"\n");
        assert_eq!(host.found(ipvsadm), []);
        host.write("etc/default/ipvsadm", "AUTO=\"true\"\n");
        assert_eq!(host.found(ipvsadm)[0].0, Warning);
    }
}
