//! Network namespaces, the cables between them, and processes in them, for tests. All of it is gone
//! when its value is dropped, and processes die with the test's thread. Needs root and iproute2.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One network namespace, with `lo` up.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Its name is like no other's, in other processes neither.
    pub(crate) fn new(label: &str) -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-{}-{count}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Namespace { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// A command that runs in here.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        // A test that is killed leaves no daemon behind.
        command.args([
            "netns",
            "exec",
            &self.name,
            "setpriv",
            "--pdeathsig",
            "KILL",
            program,
        ]);
        command
    }

    /// `ip WORDS` in here.
    pub(crate) fn ip(&self, words: &str) {
        run(self.command("ip").args(words.split(' ')));
    }

    /// To enter it from another thread.
    pub(crate) fn handle(&self) -> Handle {
        Handle(File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there"))
    }

    /// A cable to another namespace, up, with these addresses (`ADDRESS/LENGTH`) at our end and theirs.
    pub(crate) fn cable(&self, device: &str, addresses: &[&str], to: &Namespace, theirs: &[&str]) {
        self.ip(&format!(
            "link add {device} type veth peer name {device} netns {}",
            to.name
        ));
        for (namespace, addresses) in [(self, addresses), (to, theirs)] {
            for address in addresses {
                // Duplicate address detection would make an IPv6 address wait for a second.
                let nodad = if address.contains(':') { " nodad" } else { "" };
                namespace.ip(&format!("address add {address} dev {device}{nodad}"));
            }
            namespace.ip(&format!("link set {device} up"));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A process that still holds it, and so what is left of it, ends with its own value.
        drop(
            Command::new("ip")
                .args(["netns", "del", &self.name])
                .status(),
        );
    }
}

pub(crate) struct Handle(File);

impl Handle {
    /// Moves the calling thread in there, for good.
    pub(crate) fn enter(self) {
        setns(self.0, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
    }
}

/// A process that is killed when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Process {
        Process(
            command
                .stdin(Stdio::null())
                .spawn()
                .unwrap_or_else(|e| panic!("{command:?}: {e}")),
        )
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("it runs");
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn ended(&mut self) -> bool {
        self.0.try_wait().expect("a child of ours").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the command writes; it must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{errors}",
        output.status
    );
    text
}

/// Asks again and again until there is an answer; panics with `what` when the time is up.
pub(crate) fn until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A counter of a namespace's kernel.
pub(crate) fn counter(namespace: &Namespace, name: &str) -> u64 {
    let text = run(namespace.command("cat").arg("/proc/net/netstat"));
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let pairs = lines.chunks(2).flat_map(|two| two[0].iter().zip(&two[1]));
    let found = pairs.into_iter().find(|(key, _)| **key == name);
    found.map(|(_, value)| value.parse().unwrap()).unwrap()
}
