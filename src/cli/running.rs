//! The daemon that runs here: where its control socket is, and its answers as it gives them.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::ask::{Answer, Ask, AskError};
use super::say::Say;
use super::{CONFIG, exit};
use crate::chain::chain;
use crate::config::{Config, Mistakes};

const SOCKET: &str = "/run/plimsoll/control.sock";

#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// The daemon's control socket [default: what the configuration says].
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// The daemon's configuration, to find the socket [default: /etc/plimsoll/plimsoll.toml].
    #[arg(
        short,
        long,
        value_name = "FILE",
        global = true,
        conflicts_with = "socket"
    )]
    config: Option<PathBuf>,
}

impl Daemon {
    /// Asks for JSON, and shows it in words.
    pub(super) fn show(&self, ask: Ask, words: impl FnOnce(&Value, &mut Say)) -> ExitCode {
        let mut say = Say::new(false);
        match self.ask(ask) {
            Ok(answer) if answer.exit_code() != 0 => told(&answer, say),
            Ok(answer) => match serde_json::from_str(&answer.text) {
                Ok(json) => {
                    words(&json, &mut say);
                    say.exit(0)
                }
                Err(fault) => {
                    say.fault(&format!("the daemon's answer is no JSON: {fault}"));
                    ExitCode::from(exit::SOFTWARE)
                }
            },
            Err(failed) => {
                say.fault(&chain(&failed));
                ExitCode::from(failed.exit_code())
            }
        }
    }

    fn ask(&self, ask: Ask) -> Result<Answer, Failed> {
        Ok(ask.answer(&self.socket()?)?)
    }

    /// Asks, and shows the answer as it came.
    pub(super) fn tell(&self, ask: Ask) -> ExitCode {
        let say = Say::new(false);
        match self.ask(ask) {
            Ok(answer) => told(&answer, say),
            Err(failed) => {
                say.fault(&chain(&failed));
                ExitCode::from(failed.exit_code())
            }
        }
    }

    /// A host without a configuration at the usual place may have a daemon with another one.
    fn socket(&self) -> Result<PathBuf, Failed> {
        let usual = Path::new(CONFIG);
        let config = match (&self.socket, &self.config) {
            (Some(socket), _) => return Ok(socket.clone()),
            (None, Some(config)) => config,
            (None, None) if !usual.exists() => return Ok(PathBuf::from(SOCKET)),
            (None, None) => usual,
        };
        let api = Config::read_api(config).map_err(Failed::Config)?;
        api.control
            .ok_or_else(|| Failed::NoSocket(config.to_owned()))
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Config(Mistakes),
    #[error("{0}: [api] control = \"\", the daemon has no control socket")]
    NoSocket(PathBuf),
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl Failed {
    fn exit_code(&self) -> u8 {
        match self {
            Failed::Config(_) => exit::CONFIG,
            Failed::NoSocket(_) => exit::UNAVAILABLE,
            Failed::Ask(error) => error.exit_code(),
        }
    }
}

/// Answers to standard output, refusals to standard error.
fn told(answer: &Answer, say: Say) -> ExitCode {
    let code = answer.exit_code();
    if code != 0 {
        say.fault(answer.text.trim_end());
        return say.exit(code);
    }
    let mut out = io::stdout().lock();
    let text = answer.text.trim_end();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // Who has read enough (head, less) is no fault.
        Err(fault) if fault.kind() != ErrorKind::BrokenPipe => {
            say.fault(&format!("cannot write the answer: {fault}"));
            ExitCode::from(exit::OS_ERROR)
        }
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}
