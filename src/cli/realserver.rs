//! `plimsoll realserver`: the command line, signals and exit codes of [`crate::realserver`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::say::Say;
use super::{exit, log};
use crate::chain::chain;
use crate::config::Config;
use crate::realserver::{self, Encapsulation, Fault, Report, Tunnel, Wanted};
use crate::service::{Family, Forwarding};

/// Something is not as it should be.
const DIFFERS: u8 = 2;
/// It could not be looked at.
const FAILED: u8 = 1;

#[derive(Debug, Args)]
pub(super) struct Realserver {
    /// The VIPs that this host serves.
    #[arg(value_name = "VIP", required_unless_present_any = ["config", "remove"])]
    vips: Vec<Vip>,
    /// The balancers' configuration: the addresses of its services.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only this service of the configuration; may be given again.
    #[arg(long, value_name = "NAME", requires = "config")]
    service: Vec<String>,
    /// The balancers send packets for the VIPs given here in tunnels: ipip, gre, gre:checksum or gue:PORT.
    #[arg(long, value_name = "TYPE", requires = "vips")]
    tunnel: Option<Encapsulation>,
    /// The tunnels are in IPv6 for IPv4 VIPs, too: the balancers reach this server by its IPv6 address.
    #[arg(long, requires = "tunnel")]
    over_ipv6: bool,
    /// The largest packet that gets from the balancers to here; if not given, the smallest MTU of this host's
    /// Ethernet interfaces, 1500 at most.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..))]
    mtu: Option<u16>,
    /// Only look and say what differs. Exit code 0: nothing does, 2: something, 1: could not look.
    #[arg(long, conflicts_with_all = ["once", "remove"])]
    check: bool,
    /// Set up, say what still differs, and end. Exit codes as with --check.
    #[arg(long, conflicts_with = "remove")]
    once: bool,
    /// Undo all that any run of this has made, say what is left of it, and end. Exit codes as with --check.
    #[arg(long, conflicts_with_all = ["vips", "config"])]
    remove: bool,
    /// What --check, --once and --remove say is one JSON document.
    #[arg(long)]
    json: bool,
    /// Where it is kept what settings were before, so that --remove can put them back.
    #[arg(long, value_name = "DIR", default_value = "/run/plimsoll-realserver")]
    state_directory: PathBuf,
}

impl Realserver {
    pub(super) fn main(self) -> ExitCode {
        // What is changed is said there by --once, too.
        let _log = match log::start() {
            Ok(log) => log,
            Err(cause) => {
                Say::new(false).fault(&format!("cannot start the thread that logs: {cause}"));
                return ExitCode::from(exit::OS_ERROR);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(cause) => {
                let say = Say::new(false);
                say.fault(&format!("cannot start the runtime: {cause}"));
                return ExitCode::from(exit::OS_ERROR);
            }
        };
        if self.check || self.once || self.remove {
            runtime.block_on(self.at_once())
        } else {
            runtime.block_on(self.stay())
        }
    }

    async fn at_once(&self) -> ExitCode {
        let mut say = Say::new(false);
        let wanted = match self.wanted() {
            Ok(wanted) => wanted,
            Err(wrong) => {
                say.fault(&wrong);
                return say.exit(exit::CONFIG);
            }
        };
        let directory = &self.state_directory;
        if self.remove && !realserver::remembers(directory) {
            say.note(&format!(
                "{} does not say what settings were before: net.ipv4.conf.*.arp_ignore and arp_announce stay as they are",
                directory.display()
            ));
        }
        let report = if self.check {
            realserver::check(&wanted, directory).await
        } else {
            realserver::settle(&wanted, directory).await
        };
        let code = match report {
            Ok(report) => {
                self.show(&report, &mut say);
                code(&report)
            }
            Err(fault) => {
                say.fault(&chain(&fault));
                FAILED
            }
        };
        say.exit(code)
    }

    fn show(&self, report: &Report, say: &mut Say) {
        if self.json {
            // Cannot fail: all keys are strings, and nothing serializes by code of its own.
            let text = serde_json::to_string_pretty(report).expect("plain data is JSON");
            say.line(&text);
            return;
        }
        for difference in &report.differences {
            say.line(&difference.to_string());
        }
        for fault in &report.faults {
            say.fault(fault);
        }
    }

    async fn stay(self) -> ExitCode {
        let wanted = match self.wanted() {
            Ok(wanted) => wanted,
            Err(wrong) => {
                wrong.lines().for_each(|line| error!("{line}"));
                return ExitCode::from(exit::CONFIG);
            }
        };
        let (sender, receiver) = watch::channel(Arc::new(wanted));
        let signals = Signals::new();
        let mut signals = match signals {
            Ok(signals) => signals,
            Err(cause) => {
                error!(error = %cause, "cannot wait for signals");
                return ExitCode::from(exit::OS_ERROR);
            }
        };
        let directory = self.state_directory.clone();
        // It ends when the sender goes, after the step that it is at: a VIP is never left half moved.
        let orders = async move {
            while signals.reload().await {
                match self.wanted() {
                    Ok(wanted) => {
                        info!(vips = wanted.vips.len(), "read again");
                        sender.send_replace(Arc::new(wanted));
                    }
                    Err(wrong) => {
                        wrong.lines().for_each(|line| warn!("{line}"));
                        warn!("the old configuration stays in force");
                    }
                }
            }
            drop(sender);
            // Never first: what is being done is finished.
            std::future::pending().await
        };
        let kept: Result<(), Fault> = tokio::select! {
            kept = realserver::keep(receiver, &directory) => kept,
            never = orders => never,
        };
        match kept {
            Ok(()) => {
                info!("stopped; all stays in place");
                ExitCode::SUCCESS
            }
            Err(fault) => {
                error!("{}", chain(&fault));
                ExitCode::from(FAILED)
            }
        }
    }

    /// Mistakes, one a line.
    fn wanted(&self) -> Result<Wanted, String> {
        let mut vips: BTreeSet<IpAddr> = self.vips.iter().map(|vip| vip.0).collect();
        let mut tunnels = BTreeMap::new();
        if let Some(encapsulation) = self.tunnel {
            for vip in &vips {
                let outer = match Family::of(*vip) {
                    Family::Ipv4 if !self.over_ipv6 => Family::Ipv4,
                    Family::Ipv4 | Family::Ipv6 => Family::Ipv6,
                };
                let tunnel = Tunnel {
                    encapsulation,
                    outer,
                };
                tunnels.insert(*vip, BTreeSet::from([tunnel]));
            }
        }
        if let Some(path) = &self.config {
            let config = Config::read(path).map_err(|mistakes| mistakes.to_string())?;
            let unknown = |name: &&String| !config.services.contains_key(name.as_str());
            if let Some(name) = self.service.iter().find(unknown) {
                let known: Vec<_> = config.services.keys().map(ToString::to_string).collect();
                return Err(format!(
                    "{}: there is no service {name}; there are {}",
                    path.display(),
                    known.join(", ")
                ));
            }
            for (name, service) in &config.services {
                if self.service.is_empty() || self.service.iter().any(|s| **s == *name.to_string())
                {
                    let all = [&service.delivery]
                        .into_iter()
                        .chain(service.deliveries.values());
                    for delivery in all {
                        let encapsulation = match delivery.forwarding {
                            // The server sees its own address alone.
                            Forwarding::Masquerading => continue,
                            Forwarding::DirectRouting => None,
                            Forwarding::Tunnel(tunnel) => Some(tunnel.into()),
                        };
                        vips.insert(service.address);
                        if let Some(encapsulation) = encapsulation {
                            let outer = service.server_family;
                            let tunnel = Tunnel {
                                encapsulation,
                                outer,
                            };
                            tunnels.entry(service.address).or_default().insert(tunnel);
                        }
                    }
                }
            }
            if vips.is_empty() {
                return Err(format!("{}: it has no services", path.display()));
            }
        }
        Ok(Wanted {
            vips,
            tunnels,
            mtu: self.mtu,
        })
    }
}

fn code(report: &Report) -> u8 {
    if !report.faults.is_empty() {
        FAILED
    } else if !report.differences.is_empty() {
        DIFFERS
    } else {
        0
    }
}

struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// `false`: it is to stop.
    async fn reload(&mut self) -> bool {
        tokio::select! {
            _ = self.reload.recv() => true,
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
        }
    }
}

/// An address that can be a VIP.
#[derive(Clone, Copy, Debug)]
struct Vip(IpAddr);

impl FromStr for Vip {
    type Err = String;

    fn from_str(text: &str) -> Result<Vip, String> {
        let address: IpAddr = text.parse().map_err(|_| {
            "not an IP address; write 192.0.2.11 or 2001:db8::11, without a length".to_owned()
        })?;
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => {
                address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
            }
        };
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() || link_local
        {
            return Err("no address that clients could reach".to_owned());
        }
        Ok(Vip(address))
    }
}

/// `ipip`, `gre`, `gre:checksum` or `gue:PORT`.
impl FromStr for Encapsulation {
    type Err = String;

    fn from_str(text: &str) -> Result<Encapsulation, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("ipip", "") => Ok(Encapsulation::Ipip),
            ("gre", "") => Ok(Encapsulation::Gre { checksum: false }),
            ("gre", "checksum") => Ok(Encapsulation::Gre { checksum: true }),
            ("gue", port) => match port.parse() {
                Ok(port) if port > 0 => Ok(Encapsulation::Gue { port }),
                Ok(_) | Err(_) => {
                    Err("gue needs its UDP port, as the service has it: gue:6080, say".to_owned())
                }
            },
            _ => Err("write ipip, gre, gre:checksum or gue:PORT".to_owned()),
        }
    }
}
