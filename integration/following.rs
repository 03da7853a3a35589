//! The daemon follows pools in a real etcd that fails in every way that we know of. After each fault its pools are
//! etcd's again within five seconds, or held where that is the rule; no server flaps meanwhile.
//! Needs etcd, etcdctl, openssl and util-linux.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test: it tells its figures, a failure is a panic with the log beside it, the clock is the world's"
)]

#[path = "following/access.rs"]
mod access;
#[path = "daemon/client.rs"]
mod client;
#[path = "cluster.rs"]
#[expect(dead_code, unreachable_pub, reason = "other tests use the rest of it")]
mod cluster;
#[path = "following/leases.rs"]
mod leases;
#[path = "following/members.rs"]
mod members;
#[path = "netns.rs"]
#[expect(dead_code, reason = "these tests need no network of their own")]
mod netns;
#[path = "following/observer.rs"]
mod observer;
#[path = "following/past.rs"]
mod past;
#[path = "daemon/process.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod process;
#[path = "following/proxy.rs"]
mod proxy;
#[path = "following/random.rs"]
mod random;
#[path = "following/saved.rs"]
mod saved;
#[path = "following/scene.rs"]
mod scene;
#[path = "following/store.rs"]
mod store;
#[path = "following/together.rs"]
mod together;
#[path = "following/values.rs"]
mod values;
