//! What of IPVS this kernel has: the module, its protocols and schedulers, its sizes and settings.

use super::{Found, Host, command, words};
use crate::ipvs::listing::Key;
use crate::service::Protocol;

pub(super) fn ipvs(host: &Host, found: &mut Found) {
    if host.listing.is_some() {
        return;
    }
    let mend = match module(host, "ip_vs") {
        Module::Loadable if is_locked(host) => {
            words("reboot: kernel.modules_disabled lets no module be loaded any more")
        }
        Module::Loadable | Module::Unknown | Module::BuiltIn => command("modprobe ip_vs"),
        Module::Missing => words(format!(
            "install the modules of kernel {} (linux-modules-extra-… on Ubuntu), or a kernel with CONFIG_IP_VS",
            host.files.release()
        )),
    };
    found.fault(
        "the kernel has no IPVS, or has not loaded it".to_owned(),
        "nothing is balanced",
        mend,
    );
}

/// The seeds' trap: no error, and no connections.
pub(super) fn protocols(host: &Host, found: &mut Found) {
    let missing = |name: &str| {
        let why = "services of it can be made without an error, and get no connection";
        let mend = words(format!("a kernel with CONFIG_IP_VS_PROTO_{name}"));
        (
            format!("this kernel's IPVS was built without {name}"),
            why,
            mend,
        )
    };
    let needed = [Protocol::Tcp, Protocol::Udp].map(|protocol| host.has_services_of(protocol));
    let built = match &host.protocols {
        Ok((tcp, udp)) => [*tcp, *udp],
        Err(fault) => match configured(host) {
            Some(built) => built,
            None => {
                let text =
                    format!("whether IPVS was built with TCP and UDP cannot be seen: {fault}");
                return found.unknown(text, "run it as root");
            }
        },
    };
    for ((needed, built), name) in needed.into_iter().zip(built).zip(["TCP", "UDP"]) {
        if needed && !built {
            let (text, why, mend) = missing(name);
            found.fault(text, why, mend);
        }
    }
}

/// As the kernel's configuration says that it was built; `None`: it cannot be read.
fn configured(host: &Host) -> Option<[bool; 2]> {
    let text = host
        .files
        .text(&format!("boot/config-{}", host.files.release()))
        .ok()?;
    let has = |name: &str| {
        text.lines()
            .any(|line| line == format!("CONFIG_IP_VS_PROTO_{name}=y"))
    };
    Some([has("TCP"), has("UDP")])
}

enum Module {
    /// Or loaded.
    BuiltIn,
    Loadable,
    Missing,
    /// There are no lists of modules, in a container for instance.
    Unknown,
}

/// As far as one can see.
pub(super) fn is_loaded(host: &Host, name: &str) -> bool {
    matches!(module(host, name), Module::BuiltIn | Module::Unknown)
}

fn module(host: &Host, name: &str) -> Module {
    let loaded = host.files.text("proc/modules").unwrap_or_default();
    if loaded
        .lines()
        .any(|line| line.split(' ').next() == Some(name))
    {
        return Module::BuiltIn;
    }
    let folder = format!("lib/modules/{}", host.files.release());
    let list = |file: &str| host.files.text(&format!("{folder}/{file}")).ok();
    // `kernel/net/netfilter/ipvs/ip_vs.ko.xz: …`
    let has = |text: &str| {
        text.lines()
            .any(|line| line.contains(&format!("/{name}.ko")))
    };
    match (list("modules.builtin"), list("modules.dep")) {
        (Some(builtin), _) if has(&builtin) => Module::BuiltIn,
        (_, Some(loadable)) if has(&loadable) => Module::Loadable,
        (_, Some(_)) => Module::Missing,
        (_, None) => Module::Unknown,
    }
}

fn is_locked(host: &Host) -> bool {
    host.files.number("kernel/modules_disabled") == Some(1)
}

pub(super) fn schedulers(host: &Host, found: &mut Found) {
    let in_use = |name: &str| {
        let mut services = host.listing.iter().flat_map(|listing| &listing.services);
        services.any(|service| service.scheduler == name)
    };
    for name in host.schedulers() {
        let module = format!("ip_vs_{name}");
        let why = "the kernel refuses services with this scheduler";
        match self::module(host, &module) {
            _ if in_use(&name) => {}
            Module::BuiltIn => {}
            Module::Loadable if is_locked(host) => found.fault(
                format!("the scheduler {name} is not loaded, and kernel.modules_disabled is 1"),
                why,
                words(format!("echo {module} >/etc/modules-load.d/{module}.conf, and reboot")),
            ),
            Module::Loadable => {}
            Module::Missing => found.fault(
                format!("the kernel has no scheduler {name}"),
                why,
                words(format!("another scheduler, or a kernel with the module {module}")),
            ),
            Module::Unknown => found.unknown(
                format!("whether the kernel has the scheduler {name} cannot be seen: no list of modules in /lib/modules"),
                "run it on the host itself",
            ),
        }
    }
}

/// Connections of one bucket are gone through one by one, for each packet.
const MOST_IN_BUCKET: u64 = 4;

pub(super) fn connection_table(host: &Host, found: &mut Found) {
    let Some(listing) = &host.listing else { return };
    let (connections, Some(buckets)) = (listing.connections(), listing.buckets) else {
        return;
    };
    if connections > buckets * MOST_IN_BUCKET {
        // Two for each connection, 20 bits at the most in kernels before 6.
        let bits = (connections / 2).next_power_of_two().ilog2().clamp(12, 20);
        found.warning(
            format!("{connections} connections in a table of {buckets} lists, {} in each", connections / buckets),
            "each packet looks its connection up in such a list: the processors' load grows with the connections",
            words(format!(
                "echo options ip_vs conn_tab_bits={bits} >/etc/modprobe.d/ip_vs.conf, and reboot, for the module \
                 reads it when it is loaded"
            )),
        );
    }
}

/// Those whose defaults hurt, and when.
pub(super) fn sysctls(host: &Host, found: &mut Found) {
    let services = || host.listing.iter().flat_map(|listing| &listing.services);
    let mut want = |name: &str, good: &[i64], value: i64, why: &'static str| {
        let is = host.files.number(&format!("net/ipv4/vs/{name}"));
        if let Some(is) = is.filter(|is| !good.contains(is)) {
            let text = format!("net.ipv4.vs.{name} is {is}");
            found.warning(
                text,
                why,
                command(format!("sysctl -w net.ipv4.vs.{name}={value}")),
            );
        }
    };
    let is_udp = |key: &Key| matches!(key, Key::Address(protocol, _) if protocol == "udp");
    if services().any(|service| is_udp(&service.key)) {
        want(
            "expire_nodest_conn",
            &[1],
            1,
            "a UDP client that keeps its port is sent to a server that was removed, for minutes",
        );
    }
    if services().any(|service| service.persistent) {
        want(
            "expire_quiescent_template",
            &[1],
            1,
            "a server with weight 0 still gets new connections of the clients that it has had",
        );
    }
    if services().any(|service| matches!(service.scheduler.as_str(), "mh" | "sh")) {
        want(
            "sloppy_tcp",
            &[1],
            1,
            "when routers send a connection to another balancer, it resets it, although the scheduler would find its server",
        );
    }
    if services().next().is_some() {
        want(
            "conn_reuse_mode",
            &[2, 3],
            2,
            "a client that uses its port again gets the old server, even one that has weight 0",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role::Balancer;
    use super::super::Severity::{Fault, Note, Warning};
    use super::*;
    use crate::ipvs::listing::Listing;

    const WEB: &str = "TCP C0000201:0050 wrr\n -> 0A000007:0050 Route 1 0 0\n";

    #[test]
    fn a_kernel_without_ipvs_is_told_what_it_lacks() {
        let (mut host, _root) = Host::sample(Balancer);
        assert_eq!(host.found(ipvs), []);
        host.listing = None;
        let text = "the kernel has no IPVS, or has not loaded it";
        assert_eq!(host.found(ipvs), [(Fault, text.to_owned())]);
    }

    #[test]
    fn protocols_that_are_missing_matter_if_they_are_used() {
        let (mut host, _root) = Host::sample(Balancer);
        host.protocols = Ok((false, false));
        assert_eq!(host.found(protocols), []);
        host.listing = Some(Listing::of(WEB));
        let missing = [(Fault, "this kernel's IPVS was built without TCP".to_owned())];
        assert_eq!(host.found(protocols), missing);
        host.protocols = Err("not permitted".into());
        assert_eq!(host.found(protocols)[0].0, Note);
        host.write("proc/sys/kernel/osrelease", "6.1.0\n");
        host.write(
            "boot/config-6.1.0",
            "CONFIG_IP_VS_PROTO_UDP=y\n# CONFIG_IP_VS_PROTO_TCP is not set\n",
        );
        assert_eq!(host.found(protocols), missing);
        host.protocols = Ok((true, false));
        assert_eq!(host.found(protocols), []);
    }

    #[test]
    fn schedulers_are_loaded_or_loadable() {
        let (mut host, _root) = Host::sample(Balancer);
        host.listing = Some(Listing::of(WEB));
        assert_eq!(host.found(schedulers), [], "it is in use");
        host.listing = None;
        let service = "address = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"mh\"\nservers = \"file:///x\"\n";
        host.write("c.toml", &format!("[service.web]\n{service}"));
        host.config = Some(crate::config::Config::read(&host.files.root.join("c.toml")).unwrap());
        assert_eq!(host.found(schedulers)[0].0, Note, "nobody knows");
        host.write("proc/sys/kernel/osrelease", "6.1.0\n");
        host.write(
            "lib/modules/6.1.0/modules.dep",
            "kernel/net/ipvs/ip_vs_rr.ko: x\n",
        );
        assert_eq!(
            host.found(schedulers),
            [(Fault, "the kernel has no scheduler mh".to_owned())]
        );
        host.write(
            "lib/modules/6.1.0/modules.dep",
            "kernel/net/ipvs/ip_vs_mh.ko.xz: x\n",
        );
        assert_eq!(host.found(schedulers), []);
        host.write("proc/sys/kernel/modules_disabled", "1\n");
        assert_eq!(host.found(schedulers)[0].0, Fault);
        host.write("proc/modules", "ip_vs_mh 16384 0 - Live 0x0\n");
        assert_eq!(host.found(schedulers), []);
    }

    #[test]
    fn a_small_table_under_load_is_found() {
        let (mut host, _root) = Host::sample(Balancer);
        let listing = |active: u64| {
            format!(
                "IP Virtual Server version 1.2.1 (size=4096)\n{}",
                WEB.replace("1 0 0", &format!("1 {active} 4"))
            )
        };
        host.listing = Some(Listing::of(&listing(4 * 4096 - 4)));
        assert_eq!(host.found(connection_table), []);
        host.listing = Some(Listing::of(&listing(1 << 20)));
        assert_eq!(host.found(connection_table)[0].0, Warning);
    }

    #[test]
    fn settings_matter_where_they_are_used() {
        let (mut host, _root) = Host::sample(Balancer);
        for name in [
            "expire_nodest_conn",
            "expire_quiescent_template",
            "sloppy_tcp",
        ] {
            host.write(&format!("proc/sys/net/ipv4/vs/{name}"), "0\n");
        }
        host.write("proc/sys/net/ipv4/vs/conn_reuse_mode", "1\n");
        assert_eq!(host.found(sysctls), []);
        host.listing = Some(Listing::of(
            "UDP C0000201:0035 mh  persistent 36000 FFFFFFFF\n",
        ));
        assert_eq!(host.found(sysctls).len(), 4);
        host.listing = Some(Listing::of(WEB));
        assert_eq!(
            host.found(sysctls),
            [(Warning, "net.ipv4.vs.conn_reuse_mode is 1".to_owned())]
        );
        host.write("proc/sys/net/ipv4/vs/conn_reuse_mode", "3\n");
        assert_eq!(host.found(sysctls), []);
    }
}
