//! Which endpoint is next and when, and what is said while none answers. Keeps no connection itself.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use crate::backoff::Backoff;

/// After all endpoints have failed in a row.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Contact {
    endpoints: Vec<Url>,
    next: usize,
    /// How many in a row have failed.
    failed: usize,
    backoff: Backoff,
    /// What each said last, shortened; of a row that goes on.
    said: BTreeMap<Url, String>,
}

impl Contact {
    /// Begins at any of them, so that not all balancers crowd on one.
    pub(super) fn new(endpoints: &[Url]) -> Contact {
        Contact {
            next: fastrand::usize(..endpoints.len().max(1)),
            endpoints: endpoints.to_vec(),
            failed: 0,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
            said: BTreeMap::new(),
        }
    }

    pub(super) fn endpoint(&self) -> Option<&Url> {
        self.endpoints.get(self.next % self.endpoints.len().max(1))
    }

    /// A connection has proved itself.
    pub(super) fn good(&mut self) {
        self.failed = 0;
        self.backoff.reset();
        self.said.clear();
    }

    /// A connection that had proved itself has ended: the next one may begin at once.
    pub(super) fn ended(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    /// The endpoint is of no use now. When to try the next one.
    pub(super) fn bad(&mut self, said: &str, now: Instant) -> Instant {
        const SHOWN: usize = 300;
        if let Some(endpoint) = self.endpoint().cloned() {
            self.said
                .insert(endpoint, said.chars().take(SHOWN).collect());
        }
        self.next = self.next.wrapping_add(1);
        self.failed += 1;
        if self.failed.is_multiple_of(self.endpoints.len().max(1)) {
            now + self.backoff.next()
        } else {
            now
        }
    }

    /// Whether each endpoint has failed since the last good connection.
    pub(super) fn all_failed(&self) -> bool {
        self.failed >= self.endpoints.len()
    }

    /// What is the matter, in words.
    pub(super) fn fault(&self) -> String {
        if self.said.is_empty() {
            return "no endpoint of [etcd] has answered yet".to_owned();
        }
        let each = self.said.iter().map(|(url, said)| format!("{url}: {said}"));
        let each = each.collect::<Vec<_>>().join("; ");
        format!("no endpoint of [etcd] answers: {each}")
    }
}
