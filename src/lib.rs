//! Plimsoll: a balancer control plane for Linux.
//!
//! ```text
//!  config ─┐                                              ┌─► ipvs ───┐
//!  source ─┤  Event  ┌─────────┐ (Event, now) ┌────────┐  ├─► bgp ────┤
//!  monitor ┼────────►│ control │─────────────►│balancer│  ├─► address ┤
//!  signals ┘  mpsc   │  (1x)   │◄─────────────│ + pool │  ├─► monitor │
//!    ▲               └────┬────┘   Snapshot   └────────┘  └─► api     │
//!    │                    └────────── watch: Arc<Snapshot> ──▲        │
//!    └──────────────── Event: applied, session state ─────────────────┘
//! ```
//!
//! One loop decides. Sources and monitors send it [`event::Event`]s; it asks a pure core what should now be
//! true; the answer, one immutable [`snapshot::Snapshot`], goes out on a watch channel; sinks make the world
//! equal to it and report what they applied as events.
//!
//! Who may import whom, held by a test (`integration/tidy.rs`): words import words; decisions import words;
//! tools import words; edges import words, tools and their own children, never each other or a decision;
//! `control` imports words and `balancer`; `daemon`, `doctor`, `cli` and `main` import anything. Read the modules in this
//! order:

// Words: plain data, no logic that waits or decides.
pub mod check;
pub mod config;
pub mod conftool;
pub mod event;
pub mod routing;
pub mod secret;
pub mod service;
pub mod snapshot;

// Decisions: no async, no clock, no I/O; `now` is an argument.
pub mod balancer;
mod pool;

// Tools: what several edges do alike; they know none of them.
pub mod backoff;
pub mod chain;
pub mod etcd;
pub mod history;
pub mod rtnl;
pub mod state;
pub mod sysctl;
pub mod table;

// Edges: each owns its sockets and its retries; none knows another.
pub mod address;
pub mod api;
pub mod bgp;
pub mod fleet;
pub mod ipvs;
pub mod monitor;
pub mod overrides;
pub mod realserver;
pub mod resolver;
pub mod source;

// Wiring: imports anything; nothing imports it.
pub mod cli;
pub mod control;
pub mod daemon;
pub mod doctor;
