//! What one check may find, and the time that it has for it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::connect::ConnectError;

/// The longest reason that is passed on, in characters.
const LONGEST_REASON: usize = 200;

pub(super) type Outcome = Result<Passed, Failure>;

/// The server did well.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Passed {
    /// Of a monitor that looks at the load: the text that has it, as [`Load::read`](crate::check::Load::read) takes it.
    /// `None`: the answer had no such part.
    pub(super) load: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server did not, and why, as an operator would say it.
    #[error("{0}")]
    Server(String),
    /// Nothing came in time, to our SYN or later. That can be our own fault.
    #[error("no answer in {}", humantime::format_duration(*.0))]
    NoAnswer(Duration),
    #[error("timed out after {} waiting for {stage}", humantime::format_duration(*.after))]
    TimedOut {
        after: Duration,
        stage: &'static str,
    },
    /// The check could not be made for want of something on this host: that says nothing about the server.
    #[error("{0}")]
    Unable(String),
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Failure {
        match error {
            ConnectError::NoAnswer(after) => Failure::NoAnswer(after),
            ConnectError::Failed(_) => Failure::Server(error.to_string()),
            ConnectError::Unable(_) => Failure::Unable(error.to_string()),
        }
    }
}

impl Failure {
    /// In words, for whoever asks; see [`printable`].
    pub(super) fn into_reason(self) -> String {
        match self {
            Failure::Server(why) | Failure::Unable(why) => printable(why),
            Failure::NoAnswer(_) | Failure::TimedOut { .. } => self.to_string(),
        }
    }

    pub(super) fn server(why: impl ToString) -> Failure {
        Failure::Server(why.to_string())
    }
}

/// When the whole check must be over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) after: Duration,
    pub(super) at: Instant,
}

impl Deadline {
    pub(super) fn of(after: Duration) -> Deadline {
        Deadline {
            after,
            at: Instant::now() + after,
        }
    }

    /// When `n` thirds of the time are over: what may get lost is sent again then.
    pub(super) fn third(self, n: u32) -> Instant {
        self.at - self.after / 3 * (3 - n)
    }

    /// `stage`: what the work waits for.
    pub(super) async fn limit<T>(
        self,
        stage: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        timeout_at(self.at, work)
            .await
            .map_err(|_| Failure::TimedOut {
                after: self.after,
                stage,
            })
    }
}

/// A server may have had a hand in the text: it stays on one line and short.
pub(super) fn printable(text: String) -> String {
    if text.len() <= LONGEST_REASON && !text.contains(char::is_control) {
        return text;
    }
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(LONGEST_REASON).collect()
}
