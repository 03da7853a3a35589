//! What the checks judge: a host, as it was read. All that is read of it, is read here or called from here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use super::netlink::{Address, Interface, Neighbour, Owner, Way};
use super::probe::{self, Answer};
use super::reach::{self, Etcd, Router};
use super::{Role, limits, netlink};
use crate::config::{self, Config, Servers};
use crate::ipvs::Kernel;
use crate::ipvs::listing::{Forward, Listing};
use crate::rtnl::Route;
use crate::service::{Family, Forwarding, Protocol, VirtualService};

/// What is asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// `None`: as the host looks.
    pub role: Option<Role>,
    /// `None`: there is none.
    pub config: Option<Config>,
    /// Beside those of the configuration.
    pub vips: BTreeSet<IpAddr>,
}

/// A host, as it was read. An `Err` says why something could not be.
#[derive(Debug)]
pub struct Host {
    pub role: Role,
    pub files: Files,
    pub config: Option<Config>,
    /// Of the configuration, the command line, and of IPVS if neither names any; on a real server without
    /// either those on `lo`.
    pub vips: BTreeSet<IpAddr>,
    pub interfaces: Result<Vec<Interface>, String>,
    /// Whose large receive offload is on, by name.
    pub lro: BTreeSet<String>,
    pub neighbours: Vec<Neighbour>,
    /// To each server of IPVS.
    pub ways: BTreeMap<IpAddr, Way>,
    /// Whether a default route has an MTU or MSS of its own.
    pub limits_mss: bool,
    /// `None`: the kernel has no IPVS, or not loaded.
    pub listing: Option<Listing>,
    /// Whether IPVS was built with TCP, with UDP.
    pub protocols: Result<(bool, bool), String>,
    /// Who else answers for a VIP.
    pub answers: Result<Vec<Answer>, String>,
    pub etcd: Vec<Etcd>,
    pub routers: Vec<Router>,
    /// Command lines of this network namespace's processes, by their ids.
    pub processes: BTreeMap<u32, Vec<String>>,
    /// Whether something disciplines the clock.
    pub synchronised: bool,
}

/// The host's files: below `/`, or below another folder in tests.
#[derive(Clone, Debug)]
pub struct Files {
    pub root: PathBuf,
}

impl Files {
    pub fn text(&self, path: &str) -> io::Result<String> {
        let bytes = std::fs::read(self.root.join(path.trim_start_matches('/')))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn has(&self, path: &str) -> bool {
        self.root.join(path.trim_start_matches('/')).exists()
    }

    /// A sysctl by its name with slashes: an interface's name may have a dot. `None`: there is none like that.
    pub fn sysctl(&self, name: &str) -> Option<String> {
        let text = self.text(&format!("proc/sys/{name}")).ok()?;
        Some(text.trim().to_owned())
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        self.sysctl(name)?.parse().ok()
    }

    /// `uname -r`
    pub fn release(&self) -> String {
        self.sysctl("kernel/osrelease").unwrap_or_default()
    }

    /// A counter of `/proc/net/netstat`.
    pub fn counter(&self, name: &str) -> u64 {
        let text = self.text("proc/net/netstat").unwrap_or_default();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
        let mut pairs = lines
            .chunks_exact(2)
            .flat_map(|two| two[0].iter().zip(&two[1]));
        let found = pairs.find(|(key, _)| **key == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}

impl Host {
    /// Takes a second for the answers of others, and as long as they take to connect, 3 s at most. Fails if there is
    /// no runtime to ask the kernel with.
    pub fn read(asked: Asked) -> io::Result<Host> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build()?;
        let files = Files { root: "/".into() };
        let listing = files.text(crate::ipvs::listing::PATH).ok();
        let listing = listing.map(|text| Listing::of(&text));
        let (route, interfaces) = match runtime.block_on(netlink::interfaces()) {
            Ok((route, interfaces)) => (Some(route), Ok(interfaces)),
            Err(lost) => (None, Err(lost.to_string())),
        };
        let role = asked
            .role
            .unwrap_or_else(|| guess(&asked, listing.as_ref()));
        let vips = vips(
            role,
            &asked,
            listing.as_ref(),
            interfaces.as_deref().unwrap_or_default(),
        );
        let answers = probe::probe(&vips, interfaces.as_deref().unwrap_or_default());
        let mut host = Host {
            role,
            lro: super::network::read_lro(interfaces.as_deref().unwrap_or_default()),
            neighbours: Vec::new(),
            ways: BTreeMap::new(),
            limits_mss: false,
            protocols: runtime.block_on(protocols(role, listing.is_some())),
            answers,
            etcd: Vec::new(),
            routers: Vec::new(),
            processes: processes(),
            synchronised: limits::is_synchronised(),
            files,
            config: asked.config,
            vips,
            interfaces,
            listing,
        };
        if let Some(route) = route {
            runtime.block_on(host.read_ways(route));
        }
        (host.etcd, host.routers) = reach::read(&host);
        Ok(host)
    }

    async fn read_ways(&mut self, mut route: Route) {
        for server in self.servers() {
            if let Ok(way) = netlink::way(&mut route, server).await {
                self.ways.insert(server, way);
            }
        }
        self.neighbours = netlink::neighbours(&mut route).await.unwrap_or_default();
        self.limits_mss = netlink::limits_mss(&mut route).await.unwrap_or(false);
    }

    /// Those in IPVS.
    pub fn servers(&self) -> BTreeSet<IpAddr> {
        let services = self.listing.iter().flat_map(|listing| &listing.services);
        let servers = services.flat_map(|service| &service.destinations);
        servers.map(|to| to.at.ip()).collect()
    }

    pub fn interfaces(&self) -> &[Interface] {
        self.interfaces.as_deref().unwrap_or_default()
    }

    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces()
            .iter()
            .find(|interface| interface.index == index)
    }

    /// Where an address is on this host.
    pub fn places(&self, of: IpAddr) -> impl Iterator<Item = (&Interface, &Address)> {
        self.interfaces().iter().flat_map(move |interface| {
            let those = interface
                .addresses
                .iter()
                .filter(move |own| own.address == of);
            those.map(move |own| (interface, own))
        })
    }

    /// The daemon's process, if it runs in this network namespace.
    pub fn daemon(&self) -> Option<u32> {
        let is_daemon = |line: &Vec<String>| {
            program(line) == "plimsoll" && line.get(1).is_some_and(|word| word == "run")
        };
        let mut those = self.processes.iter().filter(|(_, line)| is_daemon(line));
        those.next().map(|(id, _)| *id)
    }

    /// The ids of the processes of a program.
    pub fn running(&self, name: &str) -> Vec<u32> {
        let those = self
            .processes
            .iter()
            .filter(|(_, line)| program(line) == name);
        those.map(|(id, _)| *id).collect()
    }

    /// The families of the servers that are reached so, configured or in IPVS.
    pub fn forwards(&self, how: Forward) -> BTreeSet<Family> {
        let configured = self
            .config
            .iter()
            .flat_map(|config| config.services.values());
        let configured = configured
            .filter(|service| configured_ways(service).any(|way| way == how))
            .map(|service| service.server_family);
        let held = self.listing.iter().flat_map(|listing| &listing.services);
        let held = held
            .flat_map(|service| &service.destinations)
            .filter(|to| to.forward == how)
            .map(|to| Family::of(to.at.ip()));
        configured.chain(held).collect()
    }

    /// All services, configured or in IPVS: their protocols in small letters, addresses and ports.
    pub fn services(&self) -> BTreeSet<(String, SocketAddr)> {
        let mut all = BTreeSet::new();
        for service in self
            .config
            .iter()
            .flat_map(|config| config.services.values())
        {
            if let VirtualService::Address {
                protocol,
                address,
                port,
            } = service.key
            {
                all.insert((protocol.to_string(), SocketAddr::new(address, port)));
            }
        }
        for service in self.listing.iter().flat_map(|listing| &listing.services) {
            if let crate::ipvs::listing::Key::Address(protocol, at) = &service.key {
                all.insert((protocol.clone(), *at));
            }
        }
        all
    }

    pub fn has_services_of(&self, protocol: Protocol) -> bool {
        let name = protocol.to_string();
        self.services().iter().any(|(of, _)| *of == name)
    }

    /// All schedulers, configured or in IPVS.
    pub fn schedulers(&self) -> BTreeSet<String> {
        let configured = self
            .config
            .iter()
            .flat_map(|config| config.services.values());
        let configured = configured.map(|service| service.scheduling.scheduler.name().to_owned());
        let held = self.listing.iter().flat_map(|listing| &listing.services);
        configured
            .chain(held.map(|service| service.scheduler.clone()))
            .collect()
    }
}

/// How its servers are reached; of those whose list is elsewhere none says otherwise than the service.
fn configured_ways(service: &config::Service) -> impl Iterator<Item = Forward> {
    let each = match &service.servers {
        Servers::Inline(list) => list
            .keys()
            .map(|host| service.deliveries.get(host).unwrap_or(&service.delivery))
            .collect(),
        Servers::File(_) | Servers::Etcd(_) => vec![&service.delivery],
    };
    each.into_iter().map(|delivery| match delivery.forwarding {
        Forwarding::DirectRouting => Forward::DirectRouting,
        Forwarding::Masquerading => Forward::Masquerading,
        Forwarding::Tunnel(_) => Forward::Tunnel,
    })
}

/// A file name without its folders: `keepalived` of `/usr/sbin/keepalived -D`. Daemons may write a text of their
/// own over it (`keepalived: …`).
fn program(line: &[String]) -> &str {
    let first = line.first().map_or("", String::as_str);
    let first = first.split([' ', ':']).next().unwrap_or_default();
    first.rsplit('/').next().unwrap_or_default()
}

fn guess(asked: &Asked, listing: Option<&Listing>) -> Role {
    let has_services = listing.is_some_and(|listing| !listing.services.is_empty());
    match asked.config.is_some() || has_services {
        true => Role::Balancer,
        false => Role::RealServer,
    }
}

fn vips(
    role: Role,
    asked: &Asked,
    listing: Option<&Listing>,
    interfaces: &[Interface],
) -> BTreeSet<IpAddr> {
    let configured = asked
        .config
        .iter()
        .flat_map(|config| config.services.values());
    let mut vips: BTreeSet<IpAddr> = configured.map(|service| service.address).collect();
    vips.extend(&asked.vips);
    if !vips.is_empty() {
        return vips;
    }
    let held = listing.iter().flat_map(|listing| &listing.services);
    vips.extend(held.filter_map(|service| service.key.address()));
    if vips.is_empty() && role == Role::RealServer {
        let lo = interfaces.iter().filter(|interface| interface.loopback);
        let addresses = lo.flat_map(|lo| &lo.addresses).map(|own| own.address);
        vips.extend(addresses.filter(|address| !address.is_loopback()));
    }
    vips
}

/// Asked of the kernel only if IPVS is loaded: the question itself would load it.
async fn protocols(role: Role, loaded: bool) -> Result<(bool, bool), String> {
    if !loaded || role != Role::Balancer {
        return Ok((true, true));
    }
    let asked = async { Kernel::connect().await?.protocols().await };
    asked.await.map_err(|error| crate::chain::chain(&error))
}

fn processes() -> BTreeMap<u32, Vec<String>> {
    let mut processes = BTreeMap::new();
    let namespace = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
    let ours = namespace("self");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Ok(id) = name.parse() else { continue };
        let line = std::fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
        if line.is_empty() || namespace(&name) != ours {
            continue;
        }
        let words = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty());
        processes.insert(
            id,
            words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
        );
    }
    processes
}

/// How long others may take to answer a connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
impl Host {
    /// With `lo` and `eth0`, and nothing wrong; its files are in a folder that is empty.
    pub(super) fn sample(role: Role) -> (Host, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let address = |text: &str, length| Address {
            address: text.parse().unwrap(),
            length,
            owner: Owner::Plimsoll,
            duplicate: false,
        };
        let lo = Interface {
            index: 1,
            name: "lo".into(),
            up: true,
            loopback: true,
            mtu: 65536,
            addresses: vec![address("127.0.0.1", 8), address("192.0.2.1", 32)],
            ..Interface::default()
        };
        let eth0 = Interface {
            index: 2,
            name: "eth0".into(),
            up: true,
            arp: true,
            mtu: 1500,
            addresses: vec![address("10.0.0.1", 24)],
            ..Interface::default()
        };
        let host = Host {
            role,
            files: Files {
                root: root.path().to_owned(),
            },
            config: None,
            vips: ["192.0.2.1".parse().unwrap()].into(),
            interfaces: Ok(vec![lo, eth0]),
            lro: BTreeSet::new(),
            neighbours: Vec::new(),
            ways: BTreeMap::new(),
            limits_mss: false,
            listing: Some(Listing::default()),
            protocols: Ok((true, true)),
            answers: Ok(Vec::new()),
            etcd: Vec::new(),
            routers: Vec::new(),
            processes: BTreeMap::new(),
            synchronised: true,
        };
        (host, root)
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.files.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// What one check finds: severity and text.
    pub(super) fn found(
        &self,
        look: fn(&Host, &mut super::Found),
    ) -> Vec<(super::Severity, String)> {
        let mut found = super::Found {
            check: "test",
            findings: Vec::new(),
        };
        look(self, &mut found);
        found
            .findings
            .into_iter()
            .map(|finding| (finding.severity, finding.found))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_names() {
        let line = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(program(&line("/usr/sbin/keepalived|-D")), "keepalived");
        assert_eq!(program(&line("keepalived: watching 3")), "keepalived");
        assert_eq!(program(&[]), "");
        let (mut host, _root) = Host::sample(Role::Balancer);
        host.processes.insert(7, line("/usr/sbin/plimsoll|check"));
        assert_eq!(host.daemon(), None);
        host.processes
            .insert(8, line("/usr/sbin/plimsoll|run|-c|x"));
        assert_eq!(host.daemon(), Some(8));
    }

    #[test]
    fn who_has_services_is_a_balancer() {
        assert_eq!(guess(&Asked::default(), None), Role::RealServer);
        assert_eq!(
            guess(&Asked::default(), Some(&Listing::default())),
            Role::RealServer
        );
        let listing = Listing::of("TCP  0A640001:0051 rr\n");
        assert_eq!(guess(&Asked::default(), Some(&listing)), Role::Balancer);
    }
}
