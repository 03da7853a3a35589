//! `plimsoll doctor`: reads the host, examines it, prints the report.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::say::Say;
use super::{CONFIG, exit};
use crate::config::{Config, Mistakes};
use crate::doctor::{self, Asked, Host, Report, Role};

/// What silently breaks a balancer or a real server, why it matters, and the command that mends it.
///
/// It changes nothing. On the wire it asks who has the service addresses; to etcd and to routers without a session
/// it opens a connection and closes it. Run it as root; what cannot be looked at is a note.
///
/// Exit codes: 0 nothing wrong; 1 warnings; 2 faults; 64 command line; 71 something else of the system; 78 configuration.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Beside those of the configuration, these service addresses are looked at.
    #[arg(value_name = "VIP")]
    vips: Vec<IpAddr>,
    /// What this host is for [default: a balancer if it has a configuration or services in IPVS].
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// The configuration [default: /etc/plimsoll/plimsoll.toml, if it is there].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn main(self) -> ExitCode {
        let mut say = Say::new(false);
        let host = match self.asked() {
            Ok(asked) => Host::read(asked),
            Err(mistakes) => {
                say.fault(&mistakes.to_string());
                return say.exit(exit::CONFIG);
            }
        };
        match host {
            Ok(host) => {
                let report = doctor::examine(&host);
                say.line(&self.text(&report));
                say.exit(report.exit_code())
            }
            Err(cause) => {
                say.fault(&format!("cannot start the runtime: {cause}"));
                say.exit(exit::OS_ERROR)
            }
        }
    }

    fn asked(&self) -> Result<Asked, Mistakes> {
        let config = match &self.config {
            Some(path) => Some(Config::read(path)?),
            None => match PathBuf::from(CONFIG) {
                path if path.exists() => Some(Config::read(&path)?),
                _ => None,
            },
        };
        Ok(Asked {
            role: self.role,
            config,
            vips: self.vips.iter().copied().collect(),
        })
    }

    fn text(&self, report: &Report) -> String {
        if self.json {
            // Cannot fail: all of it is text and numbers.
            serde_json::to_string_pretty(report).expect("plain data is JSON")
        } else {
            report.text()
        }
    }
}
