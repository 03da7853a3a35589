//! Builds all parts from a configuration, joins them, runs them, and stops them in order.

mod config_file;
mod reader;
mod reload;
mod threads;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use self::reader::Reader;
use self::reload::Reload;
use self::threads::Threads;
use crate::balancer::Balancer;
use crate::cli::exit;
use crate::config::{Config, Mistakes};
use crate::event::Event;
use crate::history::History;
use crate::overrides::Kept;
use crate::routing::session::SessionState;
use crate::snapshot::{Mode, Snapshot};
use crate::{address, api, bgp, control, fleet, ipvs, monitor, overrides, resolver, source};

/// How long peers may take to be told that we go: longer than the speaker waits for a frozen one.
const FAREWELL: Duration = Duration::from_secs(6);

/// How long etcd may then take to hear the same (without it our lease ends by itself), and the parts to end.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The part that tells it.
const FLEET: &str = "fleet";

#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    pub mode: Mode,
}

/// Why the daemon did not start, or ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Config(Mistakes),
    #[error("cannot use the kernel's IPVS")]
    Ipvs(#[source] ipvs::Unavailable),
    #[error("cannot serve the API")]
    Api(#[source] api::BindError),
    #[error("cannot use [daemon] state-directory {path}")]
    StateDirectory {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("another plimsoll runs with [daemon] state-directory {0}")]
    Running(PathBuf),
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
    #[error("a part of the daemon ended by itself: {0}")]
    Part(String),
}

impl Ended {
    pub fn exit_code(&self) -> u8 {
        match self {
            Ended::Config(_) => exit::CONFIG,
            Ended::Ipvs(ipvs::Unavailable::NotPermitted) => exit::NO_PERMISSION,
            Ended::Ipvs(_) => exit::UNAVAILABLE,
            Ended::StateDirectory { cause, .. }
                if cause.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                exit::NO_PERMISSION
            }
            Ended::Api(_)
            | Ended::StateDirectory { .. }
            | Ended::Running(_)
            | Ended::Signals(_) => exit::OS_ERROR,
            Ended::Part(_) => exit::SOFTWARE,
        }
    }
}

/// Runs until SIGTERM or SIGINT, and stops in order: withdraw, say farewell to the peers and to etcd, end. What IPVS
/// and `lo` hold stays, so that open connections go on and a new start finds it.
/// `history`: what is logged.
pub async fn run(options: Options, history: History) -> Result<(), Ended> {
    let config = Arc::new(Config::read(&options.config).map_err(Ended::Config)?);
    let mut signals = Signals::new().map_err(Ended::Signals)?;
    let state = &config.daemon.state_directory;
    let _lock = match options.mode {
        Mode::Real | Mode::MemoryTable => Some(lock(state)?),
        Mode::DryRun => None,
    };
    let table = match options.mode {
        Mode::Real => ipvs::Table::Kernel(ipvs::Kernel::connect().await.map_err(Ended::Ipvs)?),
        Mode::MemoryTable | Mode::DryRun => ipvs::Table::Memory(ipvs::Memory::default()),
    };
    let listeners = api::bind(&config.api.listen).await.map_err(Ended::Api)?;
    warn_of_mode(options.mode);
    raise_file_limit();
    lock_memory();
    let reader = Reader::start();
    let mut daemon = Daemon::start(&options, config, table, listeners, history, reader.clone());
    let mut reload = Reload::new(options.config, reader);
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => reload.start(),
            read = reload.outcome() => daemon.reload(read).await,
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            ended = daemon.parts.join_next() => return Err(Ended::Part(name_of(ended))),
        }
    }
    tokio::select! {
        () = daemon.farewell() => {}
        _ = signals.terminate.recv() => warn!("told twice: stopping at once"),
        _ = signals.interrupt.recv() => warn!("told twice: stopping at once"),
    }
    // Each part that is dropped tidies up after itself; what takes longer is left behind.
    let _ = timeout(LAST_WORD, daemon.parts.shutdown()).await;
    Ok(())
}

/// The running parts. Dropping it stops them all.
struct Daemon {
    mode: Mode,
    config: Arc<Config>,
    events: mpsc::Sender<Event>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    parts: JoinSet<&'static str>,
    /// After the parts, which end what runs here.
    _checks: Threads,
}

impl Daemon {
    fn start(
        options: &Options,
        config: Arc<Config>,
        table: ipvs::Table,
        listeners: Vec<TcpListener>,
        history: History,
        reader: Reader,
    ) -> Daemon {
        let now = Instant::now().into_std();
        let mut balancer = Balancer::new(options.mode, config.clone(), now);
        let mut kept = match options.mode {
            Mode::DryRun => Kept::default(),
            Mode::Real | Mode::MemoryTable => Kept::read(&config.daemon.state_directory),
        };
        for event in std::mem::take(&mut kept.events) {
            balancer.handle(event, now);
        }
        let (publish, snapshots) = watch::channel(balancer.snapshot(now));
        let (events, inbox) = mpsc::channel(control::EVENTS);
        let mut parts = JoinSet::new();
        let mut start = |name, part: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            parts.spawn(async move {
                part.await;
                name
            });
        };
        let (seen, tell) = (|| snapshots.clone(), || events.clone());
        // A table in memory is gone with the process; so is what in it is ours.
        let owned = (options.mode == Mode::Real).then(|| config.daemon.state_directory.clone());
        start("control", Box::pin(control::run(balancer, inbox, publish)));
        start("ipvs", Box::pin(ipvs::run(table, owned, seen(), tell())));
        if options.mode != Mode::DryRun {
            let state = config.daemon.state_directory.clone();
            start(
                "overrides",
                Box::pin(overrides::run(state, kept, seen(), tell())),
            );
        }
        if options.mode == Mode::Real {
            start("sync", Box::pin(ipvs::keep_sync(seen(), tell())));
            start("sysctl", Box::pin(ipvs::keep_sysctls(seen(), tell())));
        }
        // A dry run leaves no trace, and another daemon may have the directory.
        let lists = (options.mode != Mode::DryRun).then(|| config.daemon.state_directory.clone());
        start("source", Box::pin(source::run(lists, seen(), tell())));
        start(
            "resolver",
            Box::pin(resolver::run(resolver::Files::default(), seen(), tell())),
        );
        let checks = Threads::start();
        start(
            "monitor",
            Box::pin(monitor::run(checks.handles(), seen(), tell())),
        );
        let file = options.config.clone();
        start(
            "configuration file",
            Box::pin(config_file::run(file, reader, seen(), tell())),
        );
        start(
            "api",
            Box::pin(api::run(listeners, history.clone(), seen())),
        );
        if options.mode != Mode::DryRun {
            if let Some(path) = config.api.control.clone() {
                start(
                    "control socket",
                    Box::pin(api::control::run(path, history, seen(), tell())),
                );
            }
            start("address", Box::pin(address::run(seen(), tell())));
            start("bgp", Box::pin(bgp::run(seen(), tell())));
            // Beside the daemon that it tries out: the name is taken, and nothing is served.
            let hostname = fleet::hostname();
            start(FLEET, Box::pin(fleet::run(hostname, seen(), tell())));
        }
        info!(config = %options.config.display(), services = config.services.len(), "started");
        Daemon {
            mode: options.mode,
            config,
            events,
            snapshots,
            parts,
            _checks: checks,
        }
    }

    /// The new configuration is taken whole or refused whole.
    async fn reload(&mut self, read: Result<Config, String>) {
        let event = match read {
            Ok(config) => {
                info!(services = config.services.len(), "reloaded");
                self.config_of_start(&config).await;
                Event::Configured(Arc::new(config))
            }
            Err(mistakes) => {
                for line in mistakes.lines() {
                    warn!("{line}");
                }
                warn!("reload refused; the configuration in force stays");
                Event::ReloadRefused(mistakes)
            }
        };
        // The control loop ends only with the daemon.
        let _ = self.events.send(event).await;
    }

    /// What only a start can change is said to differ.
    async fn config_of_start(&self, new: &Config) {
        let old = &self.config;
        let mut fault = Vec::new();
        if old.api.listen != new.api.listen {
            fault.push("[api] listen");
        }
        if old.api.control != new.api.control {
            fault.push("[api] control");
        }
        if old.daemon.state_directory != new.daemon.state_directory {
            fault.push("[daemon] state-directory");
        }
        let fault = (!fault.is_empty())
            .then(|| format!("{} takes effect at the next start", fault.join(", ")));
        let _ = self
            .events
            .send(Event::Trouble {
                part: "reload",
                fault,
            })
            .await;
    }

    /// Withdraws, and waits until every peer has been told and its session is closed, but not for long.
    async fn farewell(&mut self) {
        info!("stopping: withdrawing");
        let _ = self.events.send(Event::Stop).await;
        let closed = |snapshot: &Arc<Snapshot>| {
            snapshot.stopping
                && snapshot
                    .peers
                    .values()
                    .all(|peer| peer.state == SessionState::Idle)
        };
        if timeout(FAREWELL, self.snapshots.wait_for(closed))
            .await
            .is_err()
        {
            warn!("a peer did not close its session in time");
        } else if timeout(LAST_WORD, self.last_word()).await.is_err() {
            info!("etcd could not be told in time; our lease there ends by itself");
        }
    }

    /// Waits until the fleet's edge has ended, if there is one.
    async fn last_word(&mut self) {
        while self.mode != Mode::DryRun {
            match self.parts.join_next().await {
                Some(Ok(FLEET)) | None => return,
                Some(_) => {}
            }
        }
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, std::io::Error> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// One daemon a state directory: two would undo each other's work. Held until the file is closed.
fn lock(state: &Path) -> Result<File, Ended> {
    let failed = |cause| Ended::StateDirectory {
        path: state.to_owned(),
        cause,
    };
    let path = state.join("lock");
    let file = std::fs::create_dir_all(state)
        .and_then(|()| File::create(&path))
        // A disk that has become read-only must not keep us from starting again.
        .or_else(|cause| File::open(&path).map_err(|_| cause))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Ended::Running(state.to_owned())),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// Each idle connection holds a descriptor, and the usual soft limit is 1,024.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(cause) = raised {
        warn!(error = %cause, "cannot raise the limit of open files");
    }
}

/// Keeps in memory what the daemon uses of it, now and later: on a host that is short of memory a keepalive would
/// else wait for a disk that everybody waits for. Only where there is no limit to locked memory, by permission
/// (CAP_SYS_RESOURCE) or by `LimitMEMLOCK=infinity`: beyond a limit it is not the locking that fails but the next
/// allocation, and that ends the process.
#[expect(unsafe_code, reason = "nix lacks MCL_ONFAULT")]
fn lock_memory() {
    let locked = Resource::RLIMIT_MEMLOCK;
    if setrlimit(locked, RLIM_INFINITY, RLIM_INFINITY).is_err()
        && !getrlimit(locked).is_ok_and(|(soft, _)| soft == RLIM_INFINITY)
    {
        debug!("memory is not locked: there is a limit to it");
        return;
    }
    // What is reserved and never touched (stacks, the allocator's arenas) is not brought in for this.
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: it takes a number and changes where pages are, not what is in them.
    if unsafe { libc::mlockall(flags) } != 0 {
        debug!(error = %std::io::Error::last_os_error(), "memory is not locked");
    }
}

fn warn_of_mode(mode: Mode) {
    match mode {
        Mode::Real => {}
        Mode::MemoryTable => {
            warn!("IPVS in memory: NO TRAFFIC IS BALANCED by this host, yet it announces")
        }
        Mode::DryRun => {
            warn!("dry run: nothing is balanced, no address is set, nothing is announced")
        }
    }
}

fn name_of(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(cause)) => cause.to_string(),
        None => "all of them".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::process::Command;

    use super::*;

    /// As on a disk that has become read-only. What stands in for it refuses root too: a running program.
    #[test]
    fn a_lock_that_cannot_be_written_locks_all_the_same() {
        let state = tempfile::tempdir().expect("a folder");
        let path = state.path().join("lock");
        std::fs::copy("/bin/sleep", &path).expect("a copy");
        let mut running = loop {
            match Command::new(&path).arg("60").spawn() {
                // Another test's fork still holds the copy open for writing.
                Err(cause) if cause.kind() == ErrorKind::ExecutableFileBusy => {}
                other => break other.expect("it runs"),
            }
        };
        assert!(File::create(&path).is_err(), "it can be written");
        let held = lock(state.path());
        let again = lock(state.path());
        running.kill().expect("it ran");
        running.wait().expect("it ends");
        assert!(held.is_ok(), "{held:?}");
        assert!(matches!(again, Err(Ended::Running(_))), "{again:?}");
    }
}
