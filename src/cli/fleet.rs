//! `plimsoll fleet`: what the balancers say of themselves in etcd, and what of it does not fit together.

mod facts;
mod read;
mod table;

use std::process::ExitCode;

use clap::Args;

use self::facts::Facts;
use super::ConfigFile;
use super::etcd::{self, EtcdError};
use super::say::Say;
use crate::chain::chain;

const NOT_BY_V2: &str = "balancers tell of themselves only with \"v3\"";

#[derive(Debug, Args)]
pub(super) struct Fleet {
    #[command(flatten)]
    file: ConfigFile,
    /// One JSON document instead of tables.
    #[arg(long)]
    json: bool,
}

impl Fleet {
    pub(super) fn main(self) -> ExitCode {
        let mut say = Say::new(false);
        let code = match self.facts() {
            Ok(facts) => {
                say.line(self.text(&facts).trim_end());
                0
            }
            Err(error) => {
                say.fault(&chain(&error));
                error.exit_code()
            }
        };
        say.exit(code)
    }

    fn facts(&self) -> Result<Facts, EtcdError> {
        let etcd = etcd::configured(&self.file.config, NOT_BY_V2)?;
        let read = etcd::block_on(read::read(etcd))??;
        Ok(Facts::of(&read))
    }

    fn text(&self, facts: &Facts) -> String {
        if self.json {
            // Cannot fail: all keys are strings or addresses, and nothing serializes by code of its own.
            serde_json::to_string_pretty(facts).expect("plain data is JSON")
        } else {
            table::text(facts)
        }
    }
}
