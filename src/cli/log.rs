//! Log lines to standard error, written by a thread of their own: a full pipe or a stuck disk loses lines,
//! it never holds up who logs. A panic's last words go the same way.
//!
//! On a terminal with times and colours; else as journald wants it, the priority in front (sd-daemon(3)).

mod queue;

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use queue::Queue;

/// Bytes that wait for a reader before new lines are lost.
const WAITING: usize = 2 << 20;
/// How long the end waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Lines still waiting are written when this is dropped, if that takes no longer than [`LAST_LINES`].
#[derive(Debug)]
pub(super) struct Log(Queue);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Starts logging at level INFO, or as `RUST_LOG` says. Fails if there can be no thread for it.
pub(super) fn start() -> io::Result<Log> {
    let terminal = io::stderr().is_terminal();
    let lost = if terminal {
        |lost| format!("{lost} log lines were lost, nobody read them\n")
    } else {
        |lost| format!("<4>{lost} log lines were lost, nobody read them\n")
    };
    let queue = Queue::start(io::stderr(), WAITING, lost)?;
    let writer = queue.clone();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone());
    if terminal {
        base.with_target(false).init();
    } else {
        base.with_ansi(false)
            .event_format(Journald(
                Format::default()
                    .without_time()
                    .with_target(false)
                    .with_level(false),
            ))
            .init();
    }
    log_panics(queue.clone(), if terminal { "" } else { "<2>" });
    Ok(Log(queue))
}

/// The usual hook writes to standard error itself, and so could hang there; whoever owns the part that panicked
/// would never hear of it.
fn log_panics(queue: Queue, priority: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        for line in format!("{panic}\n{backtrace}").lines() {
            queue.put(format!("{priority}{line}\n").as_bytes());
        }
    }));
}

struct Journald(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journald
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
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(ctx, writer, event)
    }
}
