//! What checks cost at scale: so many servers on the loopback with two checks each, a GET and a connection, once a
//! second. Processor time for 1,000 checks, memory, and how late checks are, by the servers' clock.
//!
//! ```text
//!  plimsoll run   ══ checks ══► one server on all addresses of 127.0.0.0/8 ──► when which was asked
//!  keepalived     ══ checks ══►   (a process of its own: its time is not counted)
//! ```
//!
//! `cargo bench --bench checks [-- SERVERS]`, as root, with keepalived installed; 10,000 servers if nothing is said.
//! Where the kernel has no IPVS, ours has a table in memory and keepalived a library that stands for it. With IPVS,
//! in user-mode-linux, with as many servers as that can do:
//!
//! ```text
//! CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="integration/uml -t 900 -m 4G --" \
//!     cargo bench --bench checks -- 300
//! ```
//!
//! On the loopback whoever sends a packet pays for its receipt, too: both balancers pay for most of what the
//! servers' kernel does.
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark: what is not there ends it, with a trace"
)]

#[path = "checks/balancer.rs"]
mod balancer;
#[path = "../netns.rs"]
#[expect(dead_code, reason = "tests do more with it")]
mod netns;
#[path = "checks/server.rs"]
mod server;

use std::time::Duration;

use balancer::{Balancer, Kind, has_ipvs};
use netns::Namespace;
use server::{Report, Server};

/// For each service.
const SERVERS: usize = 100;
/// The first checks, and what comes with them, are not what is measured.
const WARM_UP: Duration = Duration::from_secs(8);
const MEASURED: Duration = Duration::from_secs(20);
const ROUNDS: usize = 3;

fn main() {
    if server::is_child() {
        return server::serve();
    }
    let servers = std::env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(10_000);
    if !has_ipvs() {
        println!("no IPVS in this kernel: it is stood for");
    }
    let kinds = [Kind::Plimsoll, Kind::Keepalived];
    println!("{servers} servers, a GET and a connection to each, once a second");
    let mut results = [Vec::new(), Vec::new()];
    // In turns, so that what else the machine does falls on all alike.
    for _ in 0..ROUNDS {
        for (kind, results) in kinds.iter().zip(&mut results) {
            results.push(measure(*kind, servers));
        }
    }
    println!(
        "{:<12} {:>9} {:>22} {:>8} {:>30}",
        "", "checks/s", "CPU ms / 1,000 checks", "MiB", "ms from check to check 50/99 %"
    );
    for (kind, results) in kinds.iter().zip(&mut results) {
        results.sort_by(|a, b| a.cost().total_cmp(&b.cost()));
        let Measure { report, memory, .. } = &results[ROUNDS / 2];
        println!(
            "{:<12} {:>9.0} {:>22.2} {:>8.1} {:>30}",
            kind.to_string(),
            report.checks as f64 / MEASURED.as_secs_f64(),
            results[ROUNDS / 2].cost(),
            *memory as f64 / 1024.0,
            format!("{} / {}", report.median, report.late),
        );
    }
    let [ours, theirs] = &results;
    let ratio = ours[ROUNDS / 2].cost() / theirs[ROUNDS / 2].cost();
    println!("CPU of a check, ours to keepalived's: {ratio:.2}");
}

#[derive(Clone)]
struct Measure {
    busy: Duration,
    /// KiB.
    memory: u64,
    report: Report,
}

impl Measure {
    /// Milliseconds of processor time for 1,000 checks.
    fn cost(&self) -> f64 {
        self.busy.as_secs_f64() * 1e6 / self.report.checks as f64
    }
}

fn measure(kind: Kind, servers: usize) -> Measure {
    let namespace = Namespace::new("bench");
    let mut server = Server::start(&namespace);
    let mut balancer = Balancer::start(kind, &namespace, servers);
    std::thread::sleep(WARM_UP);
    balancer.expect_running();
    server.report();
    let before = balancer.busy();
    std::thread::sleep(MEASURED);
    let busy = balancer.busy() - before;
    let report = server.report();
    let memory = balancer.memory();
    println!(
        "{kind}: {busy:?} for {} checks, {memory} KiB",
        report.checks
    );
    assert!(report.checks > 0, "{kind} checked nothing");
    Measure {
        busy,
        memory,
        report,
    }
}
