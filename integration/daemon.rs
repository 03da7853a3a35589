//! The whole program, as it is run: in network namespaces, with servers that die, BIRD as the router, and every
//! end that a process can meet. The table is the one in memory; the kernel's is the lab's business.
//! Needs root, iproute2, bird2 and util-linux.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test: a failure is a panic with the log beside it, the clock is the world's"
)]

#[path = "daemon/bgp.rs"]
mod bgp;
#[path = "daemon/client.rs"]
mod client;
#[path = "daemon/comeback.rs"]
mod comeback;
#[path = "daemon/commands.rs"]
mod commands;
#[path = "daemon/lab.rs"]
mod lab;
#[path = "daemon/lists.rs"]
mod lists;
#[path = "daemon/logs.rs"]
mod logs;
#[path = "daemon/many.rs"]
mod many;
#[path = "netns.rs"]
#[expect(dead_code, reason = "the tests of BGP use the rest of it")]
mod netns;
#[path = "daemon/order.rs"]
mod order;
#[path = "daemon/overrides.rs"]
mod overrides;
#[path = "daemon/process.rs"]
mod process;
#[path = "daemon/reload.rs"]
mod reload;
#[expect(dead_code, reason = "the tests of BGP use all of it")]
#[path = "routers.rs"]
mod router;
#[path = "daemon/server.rs"]
mod server;
#[path = "daemon/standstill.rs"]
mod standstill;
#[path = "daemon/stop.rs"]
mod stop;
