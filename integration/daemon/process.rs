//! The real program as a process: signals, its end, its log, what it costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::until;

/// Longer than anything here takes on a machine that is busy with other things.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// So many of its log's last lines stand beside a failure.
const TOLD: usize = 200;

/// The running program; killed when this is dropped, unless it has ended.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn spawn(command: &mut Command, log: PathBuf) -> Daemon {
        let child = command.stdin(Stdio::null()).spawn();
        Daemon {
            child: child.unwrap(),
            log,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Waits for its end and gives how long that took.
    pub(crate) fn ends(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let status = until(limit, "the daemon ends", || self.child.try_wait().unwrap());
        (status, begun.elapsed())
    }

    /// It ends with this exit code within the limit.
    pub(crate) fn expect_end(&mut self, code: i32, limit: Duration) -> Duration {
        let (status, took) = self.ends(limit);
        assert_eq!(status.code(), Some(code), "{status}\n{}", self.log());
        took
    }

    pub(crate) fn stop(&mut self, limit: Duration) -> Duration {
        self.signal(Signal::SIGTERM);
        self.expect_end(0, limit)
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log contains this.
    pub(crate) fn until_log(&self, part: &str) {
        until(SOON, &format!("{part:?} in the log"), || {
            self.log().contains(part).then_some(())
        });
    }

    /// A line of `/proc/PID/status`, in its unit.
    pub(crate) fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(self.proc("status")).unwrap();
        let value = |line: &str| line.strip_prefix(key)?.strip_prefix(':').map(str::to_owned);
        let value = text.lines().find_map(value).unwrap();
        value.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Processor time used so far.
    pub(crate) fn busy(&self) -> Duration {
        let text = fs::read_to_string(self.proc("stat")).unwrap();
        // After the program's name: the state is the third field, utime the 14th, stime the 15th (proc(5)).
        let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TOLD)..].join("\n");
            eprintln!("the end of the daemon's log:\n{tail}");
        } else {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}
