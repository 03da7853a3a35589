//! The threads that probes run on: as many as there are processors, apart from the rest of the daemon, so that
//! thousands of answers that come at once keep neither the API nor BGP waiting. A probe stays on its thread.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tracing::warn;

/// How long what runs beside the probes (a look at the host's certificates) is waited for at the end.
const END: Duration = Duration::from_secs(1);

/// Dropping it ends all that runs on them.
pub(super) struct Threads(Vec<Thread>);

struct Thread {
    handle: Handle,
    /// Dropping it tells the thread to end.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start() -> Threads {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let mut threads = Vec::with_capacity(count);
        for n in 0..count {
            match Thread::start(n) {
                Ok(thread) => threads.push(thread),
                Err(error) => warn!(%error, "can not start a thread for checks"),
            }
        }
        Threads(threads)
    }

    /// If there is none at all, what would run on them runs where the rest of the daemon does.
    pub(super) fn handles(&self) -> Vec<Handle> {
        let mut handles: Vec<Handle> = self.0.iter().map(|thread| thread.handle.clone()).collect();
        if handles.is_empty() {
            handles.push(Handle::current());
        }
        handles
    }
}

impl Thread {
    fn start(n: usize) -> std::io::Result<Thread> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // It ends by the sender's end: nothing is ever sent.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(END);
        };
        let thread = thread::Builder::new()
            .name(format!("checks-{n}"))
            .spawn(run)?;
        Ok(Thread {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in &mut self.0 {
            thread.stop = None;
        }
        // What tidies up after itself has done so when this returns.
        for thread in self.0.iter_mut().filter_map(|thread| thread.thread.take()) {
            let _ = thread.join();
        }
    }
}
