//! Draining: a server that its list depools keeps its open connections for a time, in IPVS with weight 0.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::info;

use super::Pool;
use super::member::Member;
use crate::config;
use crate::service::Protocol;
use crate::snapshot::Pooled;

/// What became of a server's drain when its pool was last decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    Same,
    Begun(Duration),
    /// Why, for the log.
    Ended(&'static str),
}

impl Pool {
    /// These have no connection left.
    pub(crate) fn drained(&mut self, backends: &BTreeSet<SocketAddr>) {
        let service = &self.config.name;
        for (host, member) in &mut self.members {
            let at = member.backend(host, &self.config);
            if at.is_some_and(|at| backends.contains(&at)) && member.draining.take().is_some() {
                info!(%service, %host, "drained: no connection is left");
            }
        }
    }

    /// Whose connections are waited for.
    pub(super) fn draining(&self) -> BTreeSet<SocketAddr> {
        let draining = self.members.iter().filter(|(_, m)| m.draining.is_some());
        draining
            .filter_map(|(host, member)| member.backend(host, &self.config))
            .collect()
    }
}

impl Member {
    /// Begins or ends its drain, once it is decided whether it is pooled. A server that fails is not waited for, nor
    /// one of a UDP service: a client that sends from one port for ever would be sent there for ever.
    pub(super) fn drain(
        &mut self,
        before: Pooled,
        config: &config::Service,
        now: Instant,
    ) -> Drain {
        let time = config.drain_timeout;
        let wanted = !time.is_zero() && config.key.protocol() != Some(Protocol::Udp);
        let may = wanted && !self.pooled.in_ipvs() && self.ready() && self.up();
        match self.draining {
            None if may && before.in_ipvs() => {
                self.draining = Some(now + time);
                Drain::Begun(time)
            }
            Some(until) if !may || until <= now => {
                self.draining = None;
                Drain::Ended(if self.pooled.in_ipvs() {
                    "it is pooled again"
                } else if until <= now {
                    "drain-timeout is over"
                } else if wanted {
                    "it does not pass its checks"
                } else {
                    "drain-timeout is 0"
                })
            }
            Some(_) | None => Drain::Same,
        }
    }
}
