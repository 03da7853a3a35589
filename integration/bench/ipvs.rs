//! How soon IPVS is as it shall be: at a start with nothing in it, and at a reload that changes the weight of one server
//! of many; beside ipvsadm(8) and keepalived(8), in turns.
//!
//! `integration/lab bench-ipvs`, in user-mode-linux; where the kernel has IPVS also `cargo bench --bench ipvs`, as root,
//! with ipvsadm and keepalived installed. Each measurement has a network namespace of its own, for a table that servers
//! were removed from takes new ones many times more slowly for minutes.
//!
//! A start goes from the start of the program, a reload from the signal, to the kernel's table being right; that is seen
//! from outside for all alike (`ipvs/kernel.rs`), but ipvsadm's end is its own. So it has the reading of what is wanted
//! in it, and of ours that the table is read before and after each change. The files are written before, and before a
//! reload who shall reload has come to rest. Nobody checks servers, and nobody has VIPs to put on an interface.
//!
//! Times are those of a machine and what else it did; ratios are what counts. In user-mode-linux a page of memory that is
//! new to a process costs some 50 times what it costs elsewhere, a system call 100 times.
//! `start` or `reload` as an argument is one half of it.
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark: what is not there ends it, with a trace"
)]

#[path = "ipvs/kernel.rs"]
mod kernel;
#[path = "ipvs/load.rs"]
mod load;
#[path = "../netns.rs"]
#[expect(dead_code, reason = "tests do more with it")]
mod netns;

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kernel::Reader;
use load::{Load, PORT};
use netns::{Namespace, Process};
use nix::sys::signal::Signal;
use plimsoll::ipvs;

const START: (u32, u32) = (1000, 20);
/// 37,205 servers: those of the reload that keepalived publishes; how they are spread it does not say.
const RELOAD: (u32, u32) = (1063, 35);
const ROUNDS: usize = 5;
/// Reloads of one process in a round.
const RELOADS: usize = 3;
/// Far more than any of it takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// What comes after a start, with everybody: a look at all of the table, say.
const REST: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if !Path::new(ipvs::listing::PATH).exists() {
        println!("this kernel has no IPVS: integration/lab bench-ipvs");
        return ExitCode::from(69);
    }
    let reader = Reader::new();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let all = !words.iter().any(|word| word == "start" || word == "reload");
    if all || words.iter().any(|word| word == "start") {
        starts(&reader);
    }
    if all || words.iter().any(|word| word == "reload") {
        reloads(&reader);
    }
    ExitCode::SUCCESS
}

/// Who makes the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ipvsadm,
    Keepalived,
    Plimsoll { lists: bool },
}

const KINDS: [Kind; 4] = [
    Kind::Ipvsadm,
    Kind::Keepalived,
    Kind::Plimsoll { lists: false },
    Kind::Plimsoll { lists: true },
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Ipvsadm => "ipvsadm -R",
            Kind::Keepalived => "keepalived",
            Kind::Plimsoll { lists: false } => "plimsoll, servers in the configuration",
            Kind::Plimsoll { lists: true } => "plimsoll, a file of servers for each service",
        })
    }
}

fn starts(reader: &Reader) {
    let load = Load::new(START.0, START.1);
    let mut figures: Vec<_> = KINDS.map(|kind| Figures::new(&kind.to_string())).into();
    // The first round brings the programs into memory and is not counted.
    for round in 0..=ROUNDS {
        for (kind, figures) in KINDS.into_iter().zip(&mut figures) {
            let took = inside(|| Maker::prepare(kind, &load).start(&load, reader).0);
            if round > 0 {
                figures.add(took);
            }
        }
    }
    print(
        &format!("Start: {} services of {} servers", START.0, START.1),
        &mut figures,
    );
}

fn reloads(reader: &Reader) {
    let load = Load::new(RELOAD.0, RELOAD.1);
    let mut figures = [
        "the table dumped (netlink), one server changed (ipvsadm -e)",
        "the table dumped (ipvsadm -Sn), one server changed (ipvsadm -e)",
        "ipvsadm -R of all of it, into an empty table",
        "keepalived, SIGHUP",
        "plimsoll, SIGHUP, servers in the configuration",
        "plimsoll, one file of servers changed",
    ]
    .map(Figures::new);
    for _ in 0..ROUNDS {
        let [netlink, text, restored, keepalived, signalled, listed] = &mut figures;
        inside(|| {
            let (took, _) = Maker::prepare(Kind::Ipvsadm, &load).start(&load, reader);
            restored.add(took);
            for _ in 0..RELOADS {
                netlink.add(dump_by_netlink(&load, reader) + change_one());
                text.add(dump_by_ipvsadm() + change_one());
            }
        });
        let reloading = [
            (Kind::Keepalived, keepalived),
            (Kind::Plimsoll { lists: false }, signalled),
            (Kind::Plimsoll { lists: true }, listed),
        ];
        for (kind, figures) in reloading {
            inside(|| reload(kind, &load, figures, reader));
        }
    }
    print(
        &format!(
            "Reload: one of {} servers of {} services changed",
            RELOAD.0 * RELOAD.1,
            RELOAD.0
        ),
        &mut figures,
    );
}

fn reload(kind: Kind, load: &Load, figures: &mut Figures, reader: &Reader) {
    let maker = Maker::prepare(kind, load);
    let (_, process) = maker.start(load, reader);
    let process = process.expect("it runs on");
    sleep(REST);
    let mut load = load.clone();
    let (_, server, mut weight) = kernel::first();
    for _ in 0..RELOADS {
        weight += 1;
        load.changed = Some((server, weight));
        maker.write(&load);
        let begun = Instant::now();
        if kind == (Kind::Plimsoll { lists: true }) {
            load.write_changed_list(maker.folder.path());
        } else {
            process.signal(Signal::SIGHUP);
        }
        kernel::wait_for_weight(weight, PATIENCE);
        figures.add(begun.elapsed());
        let wanted = load.table();
        assert!(reader.holds(&wanted), "{kind} changed more");
        sleep(REST);
    }
}

/// What it takes to read all of the table, with the daemon's own code.
fn dump_by_netlink(load: &Load, reader: &Reader) -> Duration {
    let wanted = load.table();
    let begun = Instant::now();
    let table = reader.table(&wanted);
    let took = begun.elapsed();
    assert_eq!(table.len(), wanted.len());
    took
}

fn dump_by_ipvsadm() -> Duration {
    let dump = tempfile::tempfile().unwrap();
    let mut command = Command::new("ipvsadm");
    command.arg("-Sn").stdout(dump);
    timed(&mut command)
}

fn change_one() -> Duration {
    let (service, server, weight) = kernel::first();
    let weight = weight + 1;
    let mut command = Command::new("ipvsadm");
    command.args(["-e", "-t", &service.to_string()]);
    command.args(["-r", &format!("{server}:{PORT}"), "-g"]);
    command.args(["-w", &weight.to_string()]);
    let took = timed(&mut command);
    assert_eq!(kernel::first().2, weight);
    took
}

fn timed(command: &mut Command) -> Duration {
    let begun = Instant::now();
    let status = command.status().unwrap();
    let took = begun.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

/// One that makes the table, and its files.
struct Maker {
    kind: Kind,
    folder: tempfile::TempDir,
}

impl Maker {
    fn prepare(kind: Kind, load: &Load) -> Maker {
        let folder = tempfile::tempdir().unwrap();
        let maker = Maker { kind, folder };
        maker.write(load);
        if kind == (Kind::Plimsoll { lists: true }) {
            load.write_lists(maker.folder.path());
        }
        maker
    }

    /// What it reads, without the server lists.
    fn write(&self, load: &Load) {
        let folder = self.folder.path();
        let text = match self.kind {
            Kind::Ipvsadm => load.ipvsadm(),
            Kind::Keepalived => load.keepalived(),
            Kind::Plimsoll { lists } => load.plimsoll(folder, lists),
        };
        fs::write(folder.join("wanted"), text).unwrap();
    }

    fn command(&self) -> Command {
        let folder = self.folder.path();
        let wanted = folder.join("wanted");
        let mut command;
        match self.kind {
            Kind::Ipvsadm => {
                command = Command::new("ipvsadm");
                command.arg("-R").stdin(File::open(wanted).unwrap());
            }
            Kind::Keepalived => {
                command = Command::new("keepalived");
                // In the foreground, only what is for IPVS; and when it ends nobody waits for it to clear the table.
                command.args(["--dont-fork", "--log-console", "--check"]);
                command.args(["--dont-release-ipvs", "--use-file"]);
                command.arg(wanted);
                for (option, name) in [("--pid", "pid"), ("--checkers_pid", "checkers")] {
                    command.arg(option).arg(folder.join(name));
                }
            }
            Kind::Plimsoll { .. } => {
                command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
                command.args(["run", "-c"]).arg(wanted);
            }
        }
        let log = File::create(folder.join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// Ends the benchmark with its log if it did not last.
    fn expect(&self, process: &mut Running) {
        if process.0.ended() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
            panic!("{} has ended:\n{log}", self.kind);
        }
    }

    /// How long it took, and what runs on.
    fn start(&self, load: &Load, reader: &Reader) -> (Duration, Option<Running>) {
        let wanted = load.table();
        let mut command = self.command();
        if self.kind == Kind::Ipvsadm {
            let took = timed(&mut command);
            assert!(reader.holds(&wanted), "ipvsadm left something out");
            return (took, None);
        }
        let begun = Instant::now();
        let mut process = Running(Process::start(&mut command));
        let done = reader.wait_for(&wanted, PATIENCE, || self.expect(&mut process));
        (done - begun, Some(process))
    }
}

/// Ends in order when it is dropped, its children too.
struct Running(Process);

impl Running {
    fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.ended() {
            return;
        }
        self.0.signal(Signal::SIGTERM);
        let until = Instant::now() + PATIENCE;
        while !self.0.ended() && Instant::now() < until {
            sleep(Duration::from_millis(10));
        }
    }
}

/// In a network namespace that is as new.
fn inside<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let namespace = Namespace::new("bench");
    let handle = namespace.handle();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            handle.enter();
            act()
        });
        thread.join().unwrap()
    })
}

struct Figures {
    name: String,
    times: Vec<Duration>,
}

impl Figures {
    fn new(name: &str) -> Figures {
        Figures {
            name: name.to_owned(),
            times: Vec::new(),
        }
    }

    /// Told at once, for all of them take long.
    fn add(&mut self, took: Duration) {
        println!("{}: {:.3} s", self.name, took.as_secs_f64());
        self.times.push(took);
    }

    /// The least, the median and the most.
    fn spread(&mut self) -> [f64; 3] {
        self.times.sort();
        let last = self.times.len() - 1;
        [0, last / 2, last].map(|at| self.times[at].as_secs_f64())
    }
}

/// Ratios are to the first.
fn print(title: &str, figures: &mut [Figures]) {
    println!(
        "\n{title}\n{:<64} {:>3} {:>8} {:>8} {:>8} {:>8}",
        "", "n", "least s", "median", "most", "ratio"
    );
    let [_, base, _] = figures[0].spread();
    for figures in figures {
        let [least, median, most] = figures.spread();
        let (name, count) = (&figures.name, figures.times.len());
        println!(
            "{name:<64} {count:>3} {least:>8.3} {median:>8.3} {most:>8.3} {:>8.2}",
            median / base
        );
    }
    println!();
}
