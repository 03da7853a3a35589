//! `plimsoll check -c FILE`: reads a configuration and says what is in it. Touches nothing else.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::exit;
use super::say::Say;

use crate::check::Monitor;
use crate::config::{
    Authentication, Bgp, Config, Etcd, EtcdApi, Mistakes, Peer, Servers, Service, Ttl,
};
use crate::routing::Attributes;
use crate::service::{Delivery, Family, Forwarding, SchedulerFlag, Scheduling, Tunnel};

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// The configuration is wrong; the mistakes, one a line. Exit code 78.
    #[error(transparent)]
    Mistakes(Mistakes),
    /// The configuration is good, but whoever should read the summary went away.
    #[error("cannot write the summary")]
    Write(#[source] io::Error),
}

/// Prints the summary to standard output or the mistakes to standard error.
pub(super) fn main(path: &Path) -> ExitCode {
    let say = Say::new(false);
    match check(path, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CheckError::Mistakes(mistakes)) => {
            say.fault(&mistakes.to_string());
            ExitCode::from(exit::CONFIG)
        }
        Err(CheckError::Write(cause)) => {
            say.fault(&format!("cannot write the summary: {cause}"));
            ExitCode::from(exit::OS_ERROR)
        }
    }
}

/// Writes a few lines on what the configuration holds, services by name.
pub(super) fn check(path: &Path, out: &mut impl Write) -> Result<(), CheckError> {
    let config = Config::read(path).map_err(CheckError::Mistakes)?;
    summary(&config, path, out).map_err(CheckError::Write)
}

fn summary(config: &Config, path: &Path, out: &mut impl Write) -> io::Result<()> {
    let services = counted(config.services.len(), "service");
    let peers = counted(
        config.bgp.as_ref().map_or(0, |bgp| bgp.peers.len()),
        "BGP peer",
    );
    writeln!(out, "{}: good: {services}, {peers}", path.display())?;
    for service in config.services.values() {
        writeln!(
            out,
            "service {}: {}",
            service.name,
            Summary(service, config.bgp.as_ref())
        )?;
    }
    match &config.etcd {
        None => writeln!(out, "etcd: none")?,
        Some(etcd) => etcd_of(etcd, out)?,
    }
    match &config.bgp {
        None => writeln!(out, "bgp: none, nothing is announced")?,
        Some(bgp) => peers_of(config, bgp, out)?,
    }
    match config.api.listen.len() {
        0 => writeln!(out, "api: none")?,
        _ => writeln!(out, "api: {}", listed(&config.api.listen))?,
    }
    out.flush()
}

/// Endpoints as they were written: without the slash that a URL's text ends in.
fn etcd_of(etcd: &Etcd, out: &mut impl Write) -> io::Result<()> {
    let api = match etcd.api {
        EtcdApi::V2 => "v2",
        EtcdApi::V3 => "v3",
    };
    let endpoints: Vec<_> = etcd
        .endpoints
        .iter()
        .map(|endpoint| endpoint.as_str().trim_end_matches('/'))
        .collect();
    let (prefix, endpoints) = (&etcd.prefix, endpoints.join(", "));
    write!(out, "etcd: {prefix} by API {api} at {endpoints}")?;
    if let Some(user) = &etcd.user {
        write!(out, ", as {user}")?;
    }
    writeln!(out)
}

fn peers_of(config: &Config, bgp: &Bgp, out: &mut impl Write) -> io::Result<()> {
    write!(out, "bgp: AS {}, router id {}", bgp.local_as, bgp.router_id)?;
    match bgp.listen.len() {
        0 => writeln!(out, ", does not listen")?,
        _ => writeln!(out, ", listens on {}", listed(&bgp.listen))?,
    }
    for peer in bgp.peers.values() {
        let mut told = BTreeSet::new();
        for service in config.services.values() {
            let address = service.address;
            if peer.is_told(address, &service.announce) {
                told.insert(address);
            }
        }
        let facts = [session_of(peer, bgp.local_as), limits_of(peer, told.len())].concat();
        writeln!(out, "peer {}: {}", peer.id, facts.join(", "))?;
    }
    Ok(())
}

/// Who the peer is and how it is connected to.
fn session_of(peer: &Peer, local_as: u32) -> Vec<String> {
    let internal = if peer.peer_as == local_as {
        " (internal)"
    } else {
        ""
    };
    let mut facts = vec![format!("AS {}{internal}", peer.peer_as)];
    if !peer.enabled {
        facts.push("disabled".to_owned());
    }
    facts.push(match peer.passive {
        true => "passive".to_owned(),
        false => format!("port {}", peer.port),
    });
    if let Some(address) = peer.local_address {
        facts.push(format!("from {address}"));
    }
    facts.push(format!(
        "hold time {}",
        humantime::format_duration(peer.hold_time)
    ));
    match peer.ttl {
        Ttl::Default => {}
        Ttl::Multihop(hops) => facts.push(format!("multihop {hops}")),
        Ttl::Security(hops) => facts.push(format!("TTL security {hops}")),
    }
    match &peer.authentication {
        None => {}
        Some(Authentication::Md5(_)) => facts.push("TCP MD5".to_owned()),
        Some(Authentication::Ao(_)) => facts.push("TCP-AO".to_owned()),
    }
    facts
}

/// What the peer is told, and what it may be told.
fn limits_of(peer: &Peer, told: usize) -> Vec<String> {
    let mut facts = vec![listed(&peer.families)];
    if !peer.groups.is_empty() {
        facts.push(format!("in {}", listed(&peer.groups)));
    }
    let addresses = if told == 1 { "address" } else { "addresses" };
    let most = peer
        .maximum_announced
        .map_or(String::new(), |most| format!(" of {most} at most"));
    let within = peer
        .allow
        .as_ref()
        .map_or(String::new(), |allow| format!(" within {}", listed(allow)));
    facts.push(format!("told {told} {addresses}{most}{within}"));
    facts
}

fn listed<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

fn scheduling_of(scheduling: &Scheduling, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Scheduling {
        scheduler,
        flags,
        one_packet,
        persistence,
    } = scheduling;
    write!(f, ", {scheduler}")?;
    for flag in flags {
        f.write_str(match flag {
            SchedulerFlag::Fallback => " with fallback",
            SchedulerFlag::Port => " by ports",
        })?;
    }
    if *one_packet {
        f.write_str(", one-packet")?;
    }
    if let Some(persistence) = persistence {
        write!(f, ", persistent for {}s", persistence.timeout)?;
        if let Some(length) = persistence.prefix_length {
            write!(f, " by /{length}")?;
        }
        if let Some(engine) = persistence.engine {
            write!(f, " by {}", engine.name())?;
        }
    }
    Ok(())
}

/// Only what is not usual.
fn delivery_of(service: &Service, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Delivery {
        forwarding,
        upper,
        lower,
    } = service.delivery;
    match forwarding {
        Forwarding::DirectRouting => {}
        Forwarding::Masquerading => write!(f, ", masquerading to port {}", service.server_port)?,
        Forwarding::Tunnel(Tunnel::Ipip) => f.write_str(", by IPIP tunnel")?,
        Forwarding::Tunnel(Tunnel::Gre { .. }) => f.write_str(", by GRE tunnel")?,
        Forwarding::Tunnel(Tunnel::Gue { port, .. }) => {
            write!(f, ", by GUE tunnel to port {port}")?;
        }
    }
    if service.server_family != Family::of(service.address) {
        write!(f, " over {}", service.server_family)?;
    }
    if upper > 0 {
        write!(f, ", {lower} to {upper} connections a server")?;
    }
    if let Some(sorry) = service.sorry {
        write!(f, ", sorry server {sorry}")?;
    }
    Ok(())
}

/// One line on a service.
struct Summary<'a>(&'a Service, Option<&'a Bgp>);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary(service, bgp) = self;
        write!(f, "{}", service.key)?;
        if service.key.protocol().is_none() {
            write!(f, ", address {}", service.address)?;
        }
        scheduling_of(&service.scheduling, f)?;
        delivery_of(service, f)?;
        match &service.servers {
            Servers::Inline(list) => write!(f, ", {}", counted(list.len(), "server"))?,
            Servers::File(path) => write!(f, ", servers from {}", path.display())?,
            Servers::Etcd(path) => write!(f, ", servers from etcd:{path}")?,
        }
        write!(f, ", depool threshold {}", service.depool_threshold.get())?;
        let unwritten = service.vip_reachability.then(Monitor::vip_reachability);
        let written = service.monitors.iter().map(Arc::as_ref);
        let monitors: Vec<_> = written.chain(&unwritten).collect();
        if monitors.is_empty() {
            f.write_str(", no monitor")?;
        }
        for monitor in monitors {
            let shown = if monitor.depool { "" } else { " (only shown)" };
            write!(f, ", {}{shown}", monitor.probe.kind())?;
        }
        match bgp {
            Some(bgp) if service.announce.announce => {
                let announce = &service.announce;
                let attributes = Attributes::of([&*bgp.policy, &announce.policy]);
                f.write_str(", announced")?;
                if let Some(prefix) = announce.prefix {
                    write!(f, " as {prefix}")?;
                }
                write!(f, " with MED {}", attributes.med)?;
                if !attributes.communities.is_empty() {
                    write!(f, " and {}", listed(&attributes.communities))?;
                }
                if let Some(to) = &announce.to {
                    write!(f, " to {}", listed(&**to))?;
                }
                write!(f, ", withdraw-when {}", announce.withdraw_when)
            }
            Some(_) | None => f.write_str(", not announced"),
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &Path) -> Result<String, CheckError> {
        let mut out = Vec::new();
        check(path, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn says_what_it_found() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/plimsoll.toml");
        let expected = "good: 2 services, 3 BGP peers
service dns: udp [2001:db8::53]:53, rr, one-packet, 2 servers, depool threshold 0.5, dns-query, udp, announced with MED 0 and 64600:100, 4200000001:1:2, rt:64600:100, withdraw-when not-pooled
service text: tcp 192.0.2.11:80, wrr, servers from /etc/plimsoll/pools/text.json, depool threshold 0.5, idle-connection, proxy-fetch, run-command, ping, vip-reachability, announced with MED 10 and 64600:80, 64600:100, 4200000001:1:2, rt:64600:100 to core, withdraw-when not-pooled
etcd: /conftool/v1/pools by API v3 at https://etcd1.example.com:2379, https://etcd2.example.com:2379, https://etcd3.example.com:2379, as plimsoll
bgp: AS 64600, router id 10.64.0.11, listens on 0.0.0.0:179, [::]:179
peer 10.64.0.1: AS 14907, port 179, from 10.64.0.11, hold time 30s, TTL security 1, IPv4, IPv6, in core, told 2 addresses of 100 at most within 192.0.2.0/24, 2001:db8::/48
peer 2001:db8:1::1: AS 14907, passive, hold time 1m 30s, multihop 2, IPv4, IPv6, in edge, told 1 address
peer eth1: AS 14907, port 179, hold time 30s, IPv4, IPv6, in core, told 2 addresses
api: 127.0.0.1:9090, [::1]:9090
";
        assert_eq!(
            said(&path).unwrap(),
            format!("{}: {expected}", path.display())
        );
    }

    #[test]
    fn says_that_there_is_no_etcd() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("small.toml");
        let service =
            "address = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"rr\"\n";
        let text = format!("[service.web]\n{service}servers = \"file:///x\"\n");
        std::fs::write(&path, text).unwrap();
        let said = said(&path).unwrap();
        assert!(said.contains("\netcd: none\nbgp: none"), "{said}");
    }

    #[test]
    fn says_which_monitors_a_service_has() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watched.toml");
        let check = |protocol: &str, lines: &str, expected: &str| {
            let service =
                "address = \"192.0.2.1\"\nport = 80\nscheduler = \"rr\"\nservers = \"file:///x\"\n";
            let text = format!("[service.web]\n{service}protocol = \"{protocol}\"\n{lines}");
            std::fs::write(&path, text).unwrap();
            let said = said(&path).unwrap();
            let (_, monitors) = said.split_once("depool threshold 0.5, ").unwrap();
            let (monitors, _) = monitors.split_once(", not announced").unwrap();
            assert_eq!(monitors, expected, "{protocol} {lines}");
        };
        let ping = "[[service.web.monitor]]\ntype = \"ping\"\n";
        let none = "vip-reachability = false\n";
        let own = "[[service.web.monitor]]\ntype = \"vip-reachability\"\n";
        check("tcp", "", "vip-reachability (only shown)");
        check("tcp", ping, "ping, vip-reachability (only shown)");
        check("tcp", none, "no monitor");
        check(
            "tcp",
            &format!("{none}{ping}depool = false"),
            "ping (only shown)",
        );
        check("tcp", own, "vip-reachability");
        check("udp", "", "no monitor");
        check("udp", ping, "ping");
    }

    #[test]
    fn says_as_what_an_address_is_announced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wide.toml");
        let text = r#"
bgp.local-as = 64600
bgp.router-id = "10.0.0.1"
bgp.peer = [{ address = "10.0.0.2", peer-as = 14907 }]
[service.dns]
address = "198.51.100.53"
port = 53
protocol = "udp"
scheduler = "rr"
servers = "file:///x"
bgp.prefix = "198.51.100.0/24"
"#;
        std::fs::write(&path, text).unwrap();
        let said = said(&path).unwrap();
        let announced = ", announced as 198.51.100.0/24 with MED 0, withdraw-when not-pooled\n";
        assert!(said.contains(announced), "{said}");
    }

    #[test]
    fn says_every_mistake() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bad.toml");
        std::fs::write(&path, "[service.web]\nport = 0\n").unwrap();
        let Err(CheckError::Mistakes(mistakes)) = said(&path) else {
            panic!("no mistakes");
        };
        assert_eq!(mistakes.count(), 5);
        assert!(matches!(
            said(&directory.path().join("none")),
            Err(CheckError::Mistakes(_))
        ));
    }

    #[test]
    fn a_reader_that_went_away_is_an_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/plimsoll.toml");
        assert!(matches!(check(&path, &mut Gone), Err(CheckError::Write(_))));
    }
}
