//! `grafana/`: the dashboards and alerts against the metrics that there are, by Debian's Prometheus. Each query is asked
//! of a real one, which scrapes a real daemon beside a router, and the API on snapshots in which all is wrong at once.
//! Needs root, iproute2, bird2 and prometheus.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test: a failure is a panic with the log beside it, the clock is the world's"
)]

#[path = "daemon/client.rs"]
mod client;
#[path = "grafana/exposition.rs"]
mod exposition;
#[path = "grafana/files.rs"]
mod files;
#[path = "daemon/lab.rs"]
#[expect(dead_code, reason = "the tests of the daemon use all of it")]
mod lab;
#[path = "netns.rs"]
#[expect(dead_code, reason = "the tests of BGP use the rest of it")]
mod netns;
#[path = "daemon/process.rs"]
#[expect(dead_code, reason = "the tests of the daemon use all of it")]
mod process;
#[path = "grafana/prometheus.rs"]
mod prometheus;
#[path = "routers.rs"]
#[expect(dead_code, reason = "the tests of BGP use all of it")]
mod router;
#[path = "../src/snapshot/sample.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod sample;
#[path = "daemon/server.rs"]
#[expect(dead_code, reason = "the tests of the daemon use all of it")]
mod server;
#[path = "grafana/wrong.rs"]
mod wrong;

// What sample.rs takes from the crate that it is written for.
use plimsoll::{config, routing, service, snapshot};
