//! Overrides: whose word is in force, and when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::{Balancer, Due};
use crate::service::{Host, Override, Overrides, Overruled, ServiceName};

impl Balancer {
    /// It is in force from now on, `left` long, in place of another one about the same.
    pub(super) fn overrule(
        &mut self,
        overruled: Overruled,
        by: Override,
        left: Duration,
        now: Instant,
    ) {
        let (reason, until) = (by.note.reason.as_deref(), by.note.until.as_deref());
        info!(host = %overruled.host, service = said(&overruled), action = %by.action, reason, until, "overridden");
        self.forget_end(&overruled);
        // An end that no clock can tell is none.
        if let Some(end) = now.checked_add(left) {
            self.due.insert((end, Due::Override(overruled.clone())));
        }
        self.change_overrides(|overrides| overrides.insert(overruled.clone(), Arc::new(by)));
        self.apply_override(&overruled);
    }

    /// The list's word is in force again.
    pub(super) fn end_override(&mut self, overruled: &Overruled) {
        if !self.snapshot.overrides.contains_key(overruled) {
            return;
        }
        info!(host = %overruled.host, service = said(overruled), "no longer overridden");
        self.forget_end(overruled);
        self.change_overrides(|overrides| overrides.remove(overruled));
        self.apply_override(overruled);
    }

    /// What was kept is another value from now on, even if nobody has looked at it yet.
    fn change_overrides(&mut self, change: impl FnOnce(&mut Overrides) -> Option<Arc<Override>>) {
        let mut overrides = Overrides::clone(&self.snapshot.overrides);
        change(&mut overrides);
        self.snapshot.overrides = Arc::new(overrides);
        self.snapshot.overrides_kept = false;
    }

    fn forget_end(&mut self, overruled: &Overruled) {
        self.due
            .retain(|(_, due)| !matches!(due, Due::Override(other) if other == overruled));
    }

    fn apply_override(&mut self, overruled: &Overruled) {
        let services: Vec<_> = match &overruled.service {
            Some(service) => vec![service.clone()],
            None => self.pools.keys().cloned().collect(),
        };
        for service in services {
            self.give_overrides(&service);
        }
    }

    /// To a pool that is new, or that a change bears on.
    pub(super) fn give_overrides(&mut self, service: &ServiceName) {
        let mut overrides: BTreeMap<Host, Arc<Override>> = BTreeMap::new();
        // Those about all services come first.
        for (overruled, by) in &*self.snapshot.overrides {
            if overruled.service.as_ref().is_none_or(|of| of == service) {
                overrides.insert(overruled.host.clone(), by.clone());
            }
        }
        if let Some(pool) = self.pools.get_mut(service)
            && pool.overrule(overrides)
        {
            self.dirty.insert(service.clone());
        }
    }
}

/// For the log.
fn said(overruled: &Overruled) -> Option<&str> {
    overruled.service.as_ref().map(ServiceName::as_str)
}
