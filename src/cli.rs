//! The command line: what may be said, and which exit code follows. One file a subcommand; `ask`,
//! `etcd`, `log`, `running`, `say` and `text` are for several of them.

mod ask;
mod bgp;
mod check;
mod connections;
mod ctl;
mod doctor;
mod etcd;
mod fleet;
mod log;
mod overrides;
mod plan;
mod realserver;
mod run;
mod running;
mod say;
mod sync;
mod text;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Where the configuration is, if nothing else is said.
const CONFIG: &str = "/etc/plimsoll/plimsoll.toml";

/// Exit codes, by the names of sysexits.h.
pub mod exit {
    /// The one who was asked said no.
    pub const NOT_CONFIRMED: u8 = 1;
    /// EX_USAGE: the command line is wrong.
    pub const USAGE: u8 = 64;
    /// EX_DATAERR: what is read or was edited is not what it should be.
    pub const DATA: u8 = 65;
    /// EX_NOINPUT: there is no such object.
    pub const NO_INPUT: u8 = 66;
    /// EX_UNAVAILABLE: the kernel lacks something, or etcd does not do what it is asked for.
    pub const UNAVAILABLE: u8 = 69;
    /// EX_SOFTWARE: a fault of our own.
    pub const SOFTWARE: u8 = 70;
    /// EX_OSERR: the system refused something else, a port or a file that is in use, say.
    pub const OS_ERROR: u8 = 71;
    /// EX_CANTCREAT: others kept writing the same object.
    pub const CANNOT_CREATE: u8 = 73;
    /// EX_TEMPFAIL: not done in the time that was given.
    pub const TEMPORARY: u8 = 75;
    /// EX_NOPERM: a capability is missing, or the depool guard stands against it.
    pub const NO_PERMISSION: u8 = 77;
    /// EX_CONFIG: the configuration is wrong.
    pub const CONFIG: u8 = 78;
}

/// Balancer control plane: health checks, a pool floor, IPVS and BGP.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the balancer in the foreground.
    Run(run::Run),
    /// Read a configuration and say what is in it, or every mistake with its line.
    Check(ConfigFile),
    /// Show what a configuration would change on this host and in what it announces, and change nothing.
    Plan(plan::Plan),
    /// Show and change servers in etcd, as confctl does: pool, depool, weigh.
    Ctl(ctl::Ctl),
    /// Make etcd have the servers that conftool's files list, and no others.
    Sync(sync::Sync),
    /// Show all balancers as they tell of themselves in etcd: who serves which address, who is behind, whose
    /// configuration differs.
    Fleet(fleet::Fleet),
    /// Look for what silently breaks a balancer or a real server, and say how to mend it.
    Doctor(doctor::Doctor),
    /// Show the connections that the kernel balances, and which server has each.
    Connections(connections::Connections),
    /// Pool, depool or weigh a server in place of what its list says, for a while, on this balancer alone.
    Override(overrides::Overrides),
    /// Show the BGP sessions of the daemon that runs here, and disable, enable or clear them.
    Bgp(bgp::Bgp),
    /// On a real server: bind its VIPs to lo, answer no ARP for them, take packets out of tunnels, and keep it so.
    Realserver(realserver::Realserver),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = CONFIG
    )]
    config: PathBuf,
}

/// Does what the arguments say, the program's name among them, and gives the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(ctl::as_confctl(arguments)) {
        Ok(Cli { command }) => match command {
            Command::Run(run) => run.main(),
            Command::Check(file) => check::main(&file.config),
            Command::Plan(plan) => plan.main(),
            Command::Ctl(ctl) => ctl.main(),
            Command::Sync(sync) => sync.main(),
            Command::Fleet(fleet) => fleet.main(),
            Command::Connections(connections) => connections.main(),
            Command::Doctor(doctor) => doctor.main(),
            Command::Bgp(bgp) => bgp.main(),
            Command::Override(overrides) => overrides.main(),
            Command::Realserver(realserver) => realserver.main(),
        },
        Err(refused) => {
            // Nobody is left to tell if this cannot be written.
            let _ = refused.print();
            ExitCode::from(if refused.use_stderr() { exit::USAGE } else { 0 })
        }
    }
}
