//! The fleet's edge against a real etcd, fed with snapshots as the core would: several balancers in one process,
//! each way in which etcd or a balancer may go and come back, and what `plimsoll fleet` makes of it.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test: a panic is the message, the clock is the world's"
)]

#[expect(
    dead_code,
    unreachable_pub,
    reason = "shared with tests that need more of it"
)]
#[path = "cluster.rs"]
mod cluster;
#[path = "fleet/command.rs"]
mod command;
#[path = "fleet/edge.rs"]
mod edge;
#[path = "fleet/faults.rs"]
mod faults;
#[path = "fleet/records.rs"]
mod records;
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../src/snapshot/sample.rs"]
mod sample;

// What `sample` names.
use plimsoll::{config, routing, service, snapshot};
