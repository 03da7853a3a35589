//! Log lines, written by a thread of their own: a full pipe or a stuck disk loses lines, it never holds up who logs.
//! A panic's last words go the same way. What is logged is also kept as [`History`].
//!
//! On a terminal with times and colours; under systemd to journald, with each field; else to standard error with
//! the priority in front (sd-daemon(3)).

mod journald;
mod queue;

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::history::History;

use journald::{Native, Socket};
use queue::Queue;

/// Bytes that wait for a reader before new lines are lost.
const WAITING: usize = 2 << 20;
/// How long the end waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Priorities of syslog(3).
const CRITICAL: u8 = 2;
const WARNING: u8 = 4;

/// Lines still waiting are written when this is dropped, if that takes no longer than [`LAST_LINES`].
#[derive(Debug)]
pub(super) struct Log {
    queue: Queue,
    /// What was logged.
    pub(super) history: History,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.flush(LAST_LINES);
    }
}

/// How a line without fields is written.
type Plain = fn(u8, &str) -> String;

/// Starts logging at level INFO, or as `RUST_LOG` says. Fails if there can be no thread for it.
#[expect(
    clippy::disallowed_methods,
    reason = "it only tells this process's records from those of others"
)]
pub(super) fn start() -> io::Result<Log> {
    let history = History::new(SystemTime::now());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let bare = Format::default().without_time();
    let bare = bare.with_target(false).with_level(false);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false);
    let (queue, lines) = if let Some(journald) = Socket::of_stderr() {
        let queue = started(journald, journald::plain)?;
        let lines = lines.event_format(Native(bare));
        let lines = lines.with_writer(queue.writer());
        (queue, lines.boxed())
    } else if io::stderr().is_terminal() {
        let queue = started(io::stderr(), |_, text| format!("{text}\n"))?;
        let lines = lines.with_ansi(true).with_target(false);
        let lines = lines.with_writer(queue.writer());
        (queue, lines.boxed())
    } else {
        let prefixed: Plain = |priority, text| format!("<{priority}>{text}\n");
        let queue = started(io::stderr(), prefixed)?;
        let lines = lines.event_format(Prefixed(bare));
        let lines = lines.with_writer(queue.writer());
        (queue, lines.boxed())
    };
    tracing_subscriber::registry()
        .with(history.layer())
        .with(lines.with_filter(filter))
        .init();
    Ok(Log { queue, history })
}

/// Of panics, too.
fn started(to: impl io::Write + Send + 'static, plain: Plain) -> io::Result<Queue> {
    let lost = move |lost| {
        plain(
            WARNING,
            &format!("{lost} log lines were lost, nobody read them"),
        )
    };
    let queue = Queue::start(to, WAITING, lost)?;
    log_panics(queue.clone(), plain);
    Ok(queue)
}

fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => WARNING,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The usual hook writes to standard error itself, and so could hang there; whoever owns the part that panicked
/// would never hear of it.
fn log_panics(queue: Queue, plain: Plain) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        for line in format!("{panic}\n{backtrace}").lines() {
            queue.put(plain(CRITICAL, line).as_bytes());
        }
    }));
}

struct Prefixed(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Prefixed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(event.metadata().level()))?;
        self.0.format_event(ctx, writer, event)
    }
}
