//! `plimsoll fleet`: what the balancers say of themselves in etcd, and what of it does not fit together.

mod facts;
mod read;
mod table;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use self::facts::Facts;
use super::{ConfigFile, exit};
use crate::config::{Config, Etcd, EtcdApi};

#[derive(Debug, Args)]
pub(super) struct Fleet {
    #[command(flatten)]
    file: ConfigFile,
    /// One JSON document instead of tables.
    #[arg(long)]
    json: bool,
}

/// Why there is nothing to show.
struct Refused {
    code: u8,
    text: String,
}

impl Fleet {
    #[expect(
        clippy::print_stderr,
        reason = "what a command says goes to its standard error"
    )]
    pub(super) fn main(self) -> ExitCode {
        match self.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(refused) => {
                eprintln!("{}", refused.text.trim_end());
                ExitCode::from(refused.code)
            }
        }
    }

    fn run(&self) -> Result<(), Refused> {
        let facts = facts(&self.file.config)?;
        let text = if self.json {
            // Cannot fail: all keys are strings or addresses, and nothing serializes by code of its own.
            serde_json::to_string_pretty(&facts).expect("plain data is JSON") + "\n"
        } else {
            table::text(&facts)
        };
        let written = io::stdout().lock().write_all(text.as_bytes());
        written.map_err(|cause| Refused {
            code: exit::OS_ERROR,
            text: format!("cannot write the tables: {cause}"),
        })
    }
}

fn facts(path: &Path) -> Result<Facts, Refused> {
    let etcd = Config::read_etcd(path).map_err(|mistakes| Refused {
        code: exit::CONFIG,
        text: mistakes.to_string(),
    })?;
    if etcd.api != EtcdApi::V3 {
        return Err(Refused {
            code: exit::CONFIG,
            text: format!(
                "{}: [etcd] api is \"v2\", but balancers tell of themselves only with \"v3\"",
                path.display()
            ),
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|cause| Refused {
        code: exit::OS_ERROR,
        text: format!("cannot start the runtime: {cause}"),
    })?;
    let read = runtime.block_on(first_that_answers(&etcd));
    // A file that hangs on its own thread is not waited for.
    runtime.shutdown_background();
    read.map(|read| Facts::of(&read))
}

/// The endpoints in turn.
async fn first_that_answers(etcd: &Etcd) -> Result<read::Read, Refused> {
    let mut text = String::new();
    for endpoint in &etcd.endpoints {
        match read::read(etcd, endpoint).await {
            Ok(read) => return Ok(read),
            // Writing to a string cannot fail.
            Err(fault) => _ = writeln!(text, "{fault}"),
        }
    }
    Err(Refused {
        code: exit::UNAVAILABLE,
        text,
    })
}
