//! Programs that checks run: each in a session of its own that is killed as a whole, so many at once, as a user that
//! has no rights. Not here: what a program's end means.
//!
//! What a program starts stays in its process group and dies with it. Not what leaves the group by setsid(2) or
//! setpgid(2): such a process is nobody's to find again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid, geteuid, setsid};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::connect::words;
use super::outcome::Failure;
use crate::check::User;
use crate::config::Checks;

/// Whom programs run as where the configuration names nobody.
const NOBODY: &str = "nobody";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The usual soft limit of open files. Ours is higher, which some programs cannot cope with (select(2)).
const OPEN_FILES: libc::rlim_t = 1024;

/// All that run, and leave to run.
pub(super) struct Commands(Mutex<State>);

struct State {
    settings: Checks,
    /// One for each command that may run.
    turns: Arc<Semaphore>,
    /// The process groups that live.
    running: BTreeSet<i32>,
    /// What has been killed and is not gone yet, a task each with its turn: a process that hangs in the kernel is one
    /// less that may be started.
    dying: JoinSet<()>,
    stopped: bool,
}

/// Leave to run one command.
pub(super) type Turn = OwnedSemaphorePermit;

/// What to run, and as whom if that is not the configuration's user.
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) user: Option<User>,
}

/// A program that runs. Dropping it kills it, and what it has started.
pub(super) struct Running {
    pub(super) group: Group,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

pub(super) struct Group {
    id: Pid,
    /// Until it has been reaped.
    child: Option<(Child, Turn)>,
    commands: Arc<Commands>,
}

/// How a program ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// It left processes behind in its group, which have been killed.
    pub(super) leftovers: bool,
}

impl Commands {
    pub(super) fn new() -> Commands {
        let settings = Checks::default();
        Commands(Mutex::new(State {
            turns: turns(&settings),
            settings,
            running: BTreeSet::new(),
            dying: JoinSet::new(),
            stopped: false,
        }))
    }

    /// What holds from now on. Those that run under another number of turns are not counted by the new one.
    pub(super) fn set(&self, settings: &Checks) {
        let mut state = self.lock();
        if state.settings.commands_at_once != settings.commands_at_once {
            state.turns = turns(settings);
        }
        if state.settings != *settings {
            state.settings = settings.clone();
        }
    }

    /// Kills all that runs, at once, and whatever is started later.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        for group in &state.running {
            kill(Pid::from_raw(*group));
        }
    }

    /// Waits until one more may run, at most so long.
    pub(super) async fn turn(&self, limit: Duration) -> Result<Turn, Failure> {
        let (turns, most) = {
            let state = self.lock();
            (state.turns.clone(), state.settings.commands_at_once)
        };
        match timeout(limit, turns.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            // It is closed by nobody.
            Ok(Err(_)) | Err(_) => Err(Failure::Unable(format!(
                "a command had no turn within {}, commands-at-once is {most}",
                humantime::format_duration(limit)
            ))),
        }
    }

    /// Starts a program: on a thread of its own, as fork(2) and execve(2) take their time, and the disk may take more.
    pub(super) async fn start(
        self: &Arc<Self>,
        program: Program,
        turn: Turn,
    ) -> Result<Running, Failure> {
        let commands = self.clone();
        let started = spawn_blocking(move || commands.spawn(&program, turn)).await;
        started.unwrap_or_else(|error| Err(Failure::Unable(error.to_string())))
    }

    fn spawn(self: Arc<Self>, program: &Program, turn: Turn) -> Result<Running, Failure> {
        let path = program.path.display();
        let user = self.user(program.user.as_ref())?;
        let unable =
            |error: io::Error| Failure::Unable(format!("{path} not run: {}", words(&error)));
        let mut command = Command::new(&program.path);
        let (stdout, write_stdout) = pipe_to_us().map_err(unable)?;
        let (stderr, write_stderr) = pipe_to_us().map_err(unable)?;
        command
            .args(program.arguments.iter().map(OsStr::new))
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(write_stdout)
            .stderr(write_stderr);
        if let Some(user) = &user {
            // This leaves root's other groups, too.
            command.uid(user.uid).gid(user.gid);
        }
        in_a_session_of_its_own(&mut command);
        let child = command
            .spawn()
            .map_err(|error| not_run(program, user.as_ref(), &error))?;
        let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else {
            return Err(Failure::Unable(format!("{path} has no process id")));
        };
        self.began(id);
        let group = Group {
            id: Pid::from_raw(id),
            child: Some((child, turn)),
            commands: self,
        };
        Ok(Running {
            group,
            stdout,
            stderr,
        })
    }

    /// Whom to change to; `None`: as who we are.
    fn user(&self, own: Option<&User>) -> Result<Option<User>, Failure> {
        let named = own
            .cloned()
            .or_else(|| self.lock().settings.command_user.clone());
        let me = geteuid();
        match named {
            Some(user) if Uid::from_raw(user.uid) == me && !me.is_root() => Ok(None),
            Some(user) if !me.is_root() => Err(Failure::Unable(format!(
                "a command cannot run as {}: this daemon is not root",
                user.name
            ))),
            Some(user) => Ok(Some(user)),
            None if !me.is_root() => Ok(None),
            None => {
                let nobody = nix::unistd::User::from_name(NOBODY).ok().flatten();
                let nobody = nobody.ok_or_else(|| {
                    Failure::Unable(format!(
                        "there is no user {NOBODY} to run commands as; write command-user"
                    ))
                })?;
                Ok(Some(User {
                    name: nobody.name,
                    uid: nobody.uid.as_raw(),
                    gid: nobody.gid.as_raw(),
                }))
            }
        }
    }

    fn began(&self, group: i32) {
        let mut state = self.lock();
        state.running.insert(group);
        if state.stopped {
            kill(Pid::from_raw(group));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under it panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Waits for the program's end; if this is given up, the program goes on.
    pub(super) async fn ended(&mut self) -> io::Result<Ended> {
        let Some((child, _)) = &mut self.child else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let status = child.wait().await?;
        // The group's number is free again if nobody is left in it. It is not given out to another before all others
        // have been, so what is killed at once is ours.
        let leftovers = kill(self.id);
        self.child = None;
        Ok(Ended { status, leftovers })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut state = self.commands.lock();
        state.running.remove(&self.id.as_raw());
        let Some((mut child, turn)) = self.child.take() else {
            return;
        };
        // It has not been reaped, so the number is still its own.
        kill(self.id);
        while state.dying.try_join_next().is_some() {}
        // Without a runtime the process ends, and init reaps.
        if let Ok(runtime) = Handle::try_current() {
            let until_dead = async move {
                let _ = child.wait().await;
                drop(turn);
            };
            state.dying.spawn_on(until_dead, &runtime);
        }
    }
}

fn turns(settings: &Checks) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(settings.commands_at_once as usize))
}

/// Whether there was anybody to kill.
fn kill(group: Pid) -> bool {
    killpg(group, Signal::SIGKILL) != Err(Errno::ESRCH)
}

/// Ours is read without waiting; the program's is a plain one.
fn pipe_to_us() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let reader = pipe::Receiver::from_owned_fd(reader.into())?;
    Ok((reader, writer.into()))
}

/// As leader of a session and of a process group, with no descriptors beside the standard ones and no capability
/// that comes from ours. Of the crates that offer a session (std's own is not stable) none has the rest.
#[expect(
    unsafe_code,
    reason = "what a child does before execve(2) is unsafe in std"
)]
fn in_a_session_of_its_own(command: &mut Command) {
    let prepare = || {
        setsid()?;
        // SAFETY: a system call on numbers alone. What cannot be closed is closed by its own flag.
        unsafe {
            libc::close_range(
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
            )
        };
        // SAFETY: a system call on numbers alone. It fails only on kernels that have no such capabilities.
        unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_CLEAR_ALL,
                0,
                0,
                0,
            )
        };
        let mut files = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel reads and writes one rlimit, which is on the stack.
        unsafe {
            if libc::getrlimit(libc::RLIMIT_NOFILE, &mut files) == 0 {
                files.rlim_cur = files.rlim_max.min(OPEN_FILES);
                libc::setrlimit(libc::RLIMIT_NOFILE, &files);
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls, which are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

fn not_run(program: &Program, user: Option<&User>, error: &io::Error) -> Failure {
    let path = program.path.display();
    let user = user.map_or(String::new(), |user| format!(" by {}", user.name));
    Failure::Unable(match error.raw_os_error() {
        Some(libc::ENOENT) if program.path.exists() => {
            format!("{path} not run: its interpreter is missing")
        }
        Some(libc::ENOENT | libc::ENOTDIR) => format!("{path} not run: there is no such program"),
        Some(libc::EACCES) => format!("{path} not run: not executable{user}"),
        Some(libc::E2BIG) => format!("{path} not run: its arguments are too long"),
        Some(_) | None => format!("{path} not run: {}", words(error)),
    })
}
