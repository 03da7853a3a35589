//! Edge: what this balancer says of itself in etcd, under a lease, and what the others say.

pub mod record;
