//! `servers = "etcd:DC/CLUSTER/SERVICE"`: follows the pools of `[etcd]` and sends their lists as they change.

pub(in crate::source) mod news;
