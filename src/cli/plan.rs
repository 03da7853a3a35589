//! `plimsoll plan -c FILE`: what a configuration would change on this host and in what is announced. It asks the very
//! core that the daemon runs, with what the kernel holds and the lists as they are now, and compares; it changes
//! nothing.

mod ahead;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ConfigFile;
use super::ask::{Ask, AskError, escaped};
use super::say::Say;
use crate::address;
use crate::chain::chain;
use crate::config::{Config, Mistakes};
use crate::ipvs::{self, Kernel, Planned, Table};
use crate::snapshot::{Health, Pooled, Snapshot};

/// Nothing could be said, or not all of it.
const FAILED: u8 = 1;
/// The configuration would change something.
const CHANGES: u8 = 2;

/// Show what a configuration would change on this host (IPVS, its connection synchronisation, the addresses on lo, the
/// settings of net.ipv4.vs) and in what the daemon here announces, and change nothing.
///
/// Server lists are read once, names are resolved once, servers that the kernel has are taken as up and others as at a
/// start of `plimsoll run`. Connection synchronisation that would end is not shown. Needs the right to read IPVS
/// (CAP_NET_ADMIN).
///
/// Exit codes: 0 nothing would change; 2 something would; 1 it is not known, or not all of it; 64 the command line.
#[derive(Debug, Args)]
pub(super) struct Plan {
    #[command(flatten)]
    file: ConfigFile,
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Mention the services in IPVS that are somebody else's, too. They are never touched.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, thiserror::Error)]
enum PlanError {
    #[error(transparent)]
    Config(Mistakes),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("cannot read the kernel's IPVS")]
    Ipvs(#[from] ipvs::Unavailable),
    #[error("cannot read this host's addresses")]
    Addresses(#[from] address::Lost),
}

/// What would change, and what is not known.
#[derive(Default, Serialize)]
struct Outlook {
    changes: Vec<Step>,
    /// Why a part of it is missing.
    unknown: Vec<String>,
    /// Only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Step {
    kind: Kind,
    object: String,
    change: String,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Ipvs,
    /// Goes into IPVS when its checks have passed.
    Server,
    Address,
    Sysctl,
    /// A thread of the kernel's that tells of connections, or hears of them.
    Sync,
    Route,
}

impl Plan {
    pub(super) fn main(self) -> ExitCode {
        let mut say = Say::new(false);
        let outlook = match self.outlook() {
            Ok(outlook) => outlook,
            Err(failed) => {
                say.fault(&chain(&failed));
                return ExitCode::from(FAILED);
            }
        };
        let code = outlook.exit_code();
        if self.json {
            // Cannot fail: plain data.
            say.line(&serde_json::to_string(&outlook).unwrap_or_default());
        } else {
            outlook.tell(&mut say);
        }
        say.exit(code)
    }

    fn outlook(&self) -> Result<Outlook, PlanError> {
        let config = Config::read(&self.file.config).map_err(PlanError::Config)?;
        let config = Arc::new(config);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().map_err(PlanError::Runtime)?;
        let (snapshot, mut outlook) = runtime.block_on(kernel(config.clone()))?;
        // A look-up that hangs is not waited for.
        runtime.shutdown_background();
        if !self.all {
            outlook.foreign = None;
        }
        match &config.api.control {
            Some(socket) => announced(&snapshot, socket, &mut outlook),
            None if config.bgp.is_some() => {
                outlook.not_known("what is announced: [api] control = \"\"")
            }
            None => {}
        }
        Ok(outlook)
    }
}

/// What the kernel's part of it would be; what is announced is not asked.
async fn kernel(config: Arc<Config>) -> Result<(Arc<Snapshot>, Outlook), PlanError> {
    let mut kernel = Kernel::connect().await?;
    let sync = ipvs::plan_sync(&mut kernel, config.ipvs.sync.as_ref()).await?;
    let mut table = Table::Kernel(kernel);
    let keys = config.services.values().map(|service| service.key);
    let found = ipvs::found(&mut table, keys).await?;
    let mut outlook = Outlook::default();
    let (snapshot, missing) = ahead::snapshot(config.clone(), found).await;
    for missing in missing {
        outlook.not_known(&missing);
    }
    let (sysctls, faults) = ipvs::plan_sysctls(&config.ipvs);
    outlook.add(Kind::Sysctl, sysctls);
    outlook.unknown.extend(faults);
    outlook.add(Kind::Sync, sync);
    let state = &config.daemon.state_directory;
    let prospect = ipvs::plan(&mut table, state, &snapshot).await?;
    outlook.add(Kind::Ipvs, prospect.changes);
    outlook.unknown.extend(prospect.fault);
    outlook.foreign = Some(prospect.foreign);
    if config.daemon.manage_addresses {
        for (address, change) in address::plan(&snapshot.vips).await? {
            outlook.step(Kind::Address, address.to_string(), change.to_owned());
        }
    }
    Ok((snapshot, outlook))
}

/// What the daemon that runs here tells of itself at `/bgp/addresses`, as far as it is of use.
#[derive(Deserialize)]
struct Shown {
    refusal: Option<String>,
}

/// Against what the running daemon announces, and what it knows of servers that are not checked here.
fn announced(snapshot: &Snapshot, socket: &Path, outlook: &mut Outlook) {
    let wanted = snapshot.vips.iter().filter(|(_, vip)| vip.announce.is_ok());
    let wanted: BTreeSet<IpAddr> = wanted.map(|(address, _)| *address).collect();
    let running: Result<Option<BTreeMap<IpAddr, Shown>>, String> =
        match Ask::get("/bgp/addresses", true).answer(socket) {
            Ok(answer) => serde_json::from_str(&answer.text)
                .map(Some)
                .map_err(|_| answer.text),
            Err(AskError::NotRunning(..)) => Ok(None),
            Err(failed) => Err(chain(&failed)),
        };
    let told = match running {
        Ok(told) => told,
        Err(fault) => {
            outlook.not_known(&format!("what is announced: {fault}"));
            return;
        }
    };
    let is_running = told.is_some();
    let told = told.unwrap_or_default();
    let told = told
        .into_iter()
        .filter(|(_, shown)| shown.refusal.is_none());
    let told: BTreeSet<IpAddr> = told.map(|(address, _)| address).collect();
    for address in told.difference(&wanted) {
        outlook.step(
            Kind::Route,
            address.to_string(),
            "announced -> withdrawn".to_owned(),
        );
    }
    for address in wanted.difference(&told) {
        outlook.step(
            Kind::Route,
            address.to_string(),
            "withdrawn -> announced".to_owned(),
        );
    }
    for (name, service) in &snapshot.services {
        for (host, server) in service.servers.iter() {
            let unchecked = server.enabled()
                && server.address.is_some()
                && server.health == Health::Unknown
                && server.pooled == Pooled::No;
            // One that the daemon knows has failed its checks there: no matter of the configuration.
            let path = format!(
                "/services/{}/{}",
                escaped(&name.to_string()),
                escaped(&host.to_string())
            );
            let known = || {
                let answer = Ask::get(&path, true).answer(socket);
                answer.is_ok_and(|answer| answer.exit_code() == 0)
            };
            if unchecked && !(is_running && known()) {
                let object = format!("{name} ({})", service.key());
                let change = format!("server {host}: gone -> there, once its checks have passed");
                outlook.step(Kind::Server, object, change);
            }
        }
    }
}

impl Outlook {
    fn add(&mut self, kind: Kind, planned: Vec<Planned>) {
        for Planned { object, change } in planned {
            self.step(kind, object, change);
        }
    }

    fn step(&mut self, kind: Kind, object: String, change: String) {
        self.changes.push(Step {
            kind,
            object,
            change,
        });
    }

    fn not_known(&mut self, what: &str) {
        self.unknown.push(what.to_owned());
    }

    fn exit_code(&self) -> u8 {
        match (self.unknown.is_empty(), self.changes.is_empty()) {
            (false, _) => FAILED,
            (true, false) => CHANGES,
            (true, true) => 0,
        }
    }

    fn tell(&self, say: &mut Say) {
        for Step {
            kind,
            object,
            change,
        } in &self.changes
        {
            say.line(&match kind {
                Kind::Ipvs | Kind::Server | Kind::Sysctl | Kind::Sync => {
                    format!("{object}: {change}")
                }
                Kind::Address => format!("address {object}: {change}"),
                Kind::Route => format!("route {object}: {change}"),
            });
        }
        for foreign in self.foreign.iter().flatten() {
            say.line(&format!("{foreign}: not ours, left alone"));
        }
        match self.changes.len() {
            0 => say.line("nothing would change"),
            1 => say.line("1 change"),
            more => say.line(&format!("{more} changes")),
        }
        for unknown in &self.unknown {
            say.note(&format!("not known: {unknown}"));
        }
    }
}
