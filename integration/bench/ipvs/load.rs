//! What is balanced, and how each of those who are compared is told so: the same services and servers, no checks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use plimsoll::service::{Destinations, Protocol, VirtualService, Weight};

pub(crate) const PORT: u16 = 80;
/// Of all servers.
pub(crate) const WEIGHT: u32 = 10;

/// So many services of so many servers each, no two alike; and of one of them the weight may be another.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) services: u32,
    pub(crate) servers: u32,
    pub(crate) changed: Option<(Ipv4Addr, u32)>,
}

impl Load {
    pub(crate) fn new(services: u32, servers: u32) -> Load {
        Load {
            services,
            servers,
            changed: None,
        }
    }

    /// What a table must hold, to the last weight.
    pub(crate) fn table(&self) -> Table {
        self.each()
            .map(|(_, vip, servers)| {
                let key = VirtualService::Address {
                    protocol: Protocol::Tcp,
                    address: vip.into(),
                    port: PORT,
                };
                let servers = servers.map(|server| {
                    let weight = Weight::new(self.weight(server)).expect("small");
                    ((server, PORT).into(), weight.into())
                });
                (key, servers.collect())
            })
            .collect()
    }

    /// As `ipvsadm -R` reads it and `ipvsadm -Sn` writes it.
    pub(crate) fn ipvsadm(&self) -> String {
        let mut text = String::new();
        for (_, vip, servers) in self.each() {
            let _ = writeln!(text, "-A -t {vip}:{PORT} -s wrr");
            for server in servers {
                let weight = self.weight(server);
                let _ = writeln!(text, "-a -t {vip}:{PORT} -r {server}:{PORT} -g -w {weight}");
            }
        }
        text
    }

    pub(crate) fn keepalived(&self) -> String {
        let mut text = String::from("global_defs {\n script_user root\n}\n");
        for (_, vip, servers) in self.each() {
            let _ = write!(
                text,
                "virtual_server {vip} {PORT} {{\n lb_algo wrr\n lb_kind DR\n protocol TCP\n"
            );
            for server in servers {
                let weight = self.weight(server);
                let _ = write!(
                    text,
                    " real_server {server} {PORT} {{\n  weight {weight}\n }}\n"
                );
            }
            text += "}\n";
        }
        text
    }

    /// The configuration and the files of its server lists, if it has such.
    pub(crate) fn plimsoll(&self, folder: &Path, lists: bool) -> String {
        let mut text = format!(
            "[daemon]\nstate-directory = {:?}\nmanage-addresses = false\n[api]\ncontrol = {:?}\n",
            folder.join("state"),
            folder.join("control")
        );
        for (n, vip, servers) in self.each() {
            let _ = write!(
                text,
                "[service.s{n}]\naddress = \"{vip}\"\nport = {PORT}\nprotocol = \"tcp\"\nscheduler = \"wrr\"\n\
                 vip-reachability = false\n"
            );
            if lists {
                let _ = writeln!(text, "servers = \"file://{}\"", file(folder, n).display());
                continue;
            }
            for server in servers {
                let weight = self.weight(server);
                let _ = write!(
                    text,
                    "[[service.s{n}.server]]\nhost = \"{server}\"\nweight = {weight}\n"
                );
            }
        }
        text
    }

    pub(crate) fn write_lists(&self, folder: &Path) {
        for (n, _, servers) in self.each() {
            self.write_list(folder, n, servers);
        }
    }

    /// Of the service that has the changed server.
    pub(crate) fn write_changed_list(&self, folder: &Path) {
        let changed = self.changed.expect("one is changed").0;
        let (n, _, servers) = self
            .each()
            .find(|(_, _, servers)| servers.clone().any(|server| server == changed))
            .expect("it is one of ours");
        self.write_list(folder, n, servers);
    }

    fn write_list(&self, folder: &Path, n: u32, servers: impl Iterator<Item = Ipv4Addr>) {
        let servers = servers.map(|server| {
            let weight = self.weight(server);
            format!("\"{server}\": {{\"enabled\": true, \"weight\": {weight}}}")
        });
        let text = format!("{{{}}}", servers.collect::<Vec<_>>().join(",\n"));
        // Whole at once, as is good manners.
        let (new, list) = (folder.join("new"), file(folder, n));
        fs::write(&new, text).expect("writable");
        fs::rename(new, list).expect("writable");
    }

    fn weight(&self, server: Ipv4Addr) -> u32 {
        match self.changed {
            Some((changed, weight)) if changed == server => weight,
            Some(_) | None => WEIGHT,
        }
    }

    /// By service: its number, its VIP and its servers.
    fn each(
        &self,
    ) -> impl Iterator<Item = (u32, Ipv4Addr, impl Iterator<Item = Ipv4Addr> + Clone)> {
        let (vips, hosts) = (Ipv4Addr::new(198, 18, 0, 0), Ipv4Addr::new(10, 0, 0, 0));
        let servers = self.servers;
        (0..self.services).map(move |n| {
            let first = n * servers;
            (
                n,
                at(vips, n),
                (first..first + servers).map(move |n| at(hosts, n)),
            )
        })
    }
}

/// By service.
pub(crate) type Table = BTreeMap<VirtualService, Destinations>;

/// The `n`th address of a network, none of them one that ends in 0 or 255.
fn at(network: Ipv4Addr, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network) + n / 250 * 256 + n % 250 + 1)
}

fn file(folder: &Path, n: u32) -> PathBuf {
    folder.join(format!("s{n}.json"))
}
