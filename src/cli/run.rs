//! `plimsoll run`: logging, runtime, daemon, exit code.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing::{error, info};

use super::{ConfigFile, log};
use crate::chain::chain;
use crate::daemon::{self, Options};
use crate::snapshot::Mode;

/// For so long tasks may end that are being dropped; it takes them a moment.
const LAST_TASKS: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// Touch nothing: a table in memory for the kernel's, no addresses, no BGP; checks and API are real.
    #[arg(long)]
    dry_run: bool,
    /// Where virtual services are kept. `memory` balances no traffic: for tests.
    #[arg(long, value_enum, default_value_t = Ipvs::Kernel, conflicts_with = "dry_run")]
    ipvs: Ipvs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ipvs {
    Kernel,
    Memory,
}

impl Run {
    #[expect(
        clippy::print_stderr,
        reason = "there is no log yet when that cannot start"
    )]
    pub(super) fn main(self) -> ExitCode {
        let log = match log::start() {
            Ok(log) => log,
            Err(cause) => {
                eprintln!("cannot start the thread that logs: {cause}");
                return ExitCode::from(super::exit::OS_ERROR);
            }
        };
        let mode = match (self.dry_run, self.ipvs) {
            (true, _) => Mode::DryRun,
            (false, Ipvs::Kernel) => Mode::Real,
            (false, Ipvs::Memory) => Mode::MemoryTable,
        };
        let options = Options {
            config: self.file.config,
            mode,
        };
        // Two at least: the kernel loads a scheduler's module while the one who asked for it waits.
        let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = match runtime.worker_threads(workers).enable_all().build() {
            Ok(runtime) => runtime,
            Err(cause) => {
                error!(error = %cause, "cannot start the runtime");
                return ExitCode::from(super::exit::OS_ERROR);
            }
        };
        let ended = runtime.block_on(daemon::run(options, log.history.clone()));
        // Checks that are in the middle of a connection end it. Look-ups and file reads that hang on their own threads
        // are not waited for.
        runtime.shutdown_timeout(LAST_TASKS);
        match ended {
            Ok(()) => {
                info!("stopped");
                ExitCode::SUCCESS
            }
            Err(ended) => {
                for line in chain(&ended).lines() {
                    error!("{line}");
                }
                ExitCode::from(ended.exit_code())
            }
        }
    }
}
