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

// Words: plain data, no logic that waits or decides.
pub mod config;
pub mod event;
pub mod service;
pub mod snapshot;

// Decisions: no async, no clock, no I/O.
pub mod balancer;
mod pool;
// Edges: each owns its sockets and its retries; none knows another.
pub mod ipvs;
// Edges: each owns its sockets and its retries; none knows another.
pub mod backoff;
pub mod monitor;
// pub mod resolver;
pub mod resolver;
pub mod bgp;
// Edges: each owns its sockets and its retries; none knows another.
pub mod source;
