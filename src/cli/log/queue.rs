//! Lines on their way to a writer that may be stuck. Whoever has one to say puts it here and goes on; a thread
//! of its own writes them. What finds no room is counted and lost, and the count is told when there is room again.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long lines are gathered before they are written. They come in bursts, as decisions do, and what is decided
/// shall be in force before it is told: on a host with one processor the two compete.
const GATHER: Duration = Duration::from_millis(5);

/// Clones share one queue. The thread lives as long as the process.
#[derive(Clone, Debug)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The most bytes that wait.
    room: usize,
    waiting: Mutex<Waiting>,
    /// Lines have come, or have all been written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Since the writer last took lines.
    lost: u64,
    /// What the writer took is not all written yet.
    writing: bool,
}

impl Queue {
    /// At most `room` bytes wait, and as many again are being written. `lost`: says that so many lines were.
    pub(super) fn start(
        mut to: impl Write + Send + 'static,
        room: usize,
        lost: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Queue> {
        let queue = Queue(Arc::new(Shared {
            room,
            waiting: Mutex::default(),
            changed: Condvar::new(),
        }));
        let ours = queue.clone();
        thread::Builder::new().name("log".into()).spawn(move || {
            loop {
                let (lines, missing) = ours.take();
                let last = (missing > 0).then(|| lost(missing).into_bytes());
                let lines: Vec<_> = lines.into_iter().chain(last).collect();
                write(&mut to, &lines);
                let _ = to.flush();
            }
        })?;
        Ok(queue)
    }

    /// Never waits for the writer.
    pub(super) fn put(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes + line.len() > self.0.room {
            waiting.lost = waiting.lost.saturating_add(1);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_vec());
        // The writer waits for the first one only.
        if waiting.lines.len() == 1 {
            self.0.changed.notify_all();
        }
    }

    /// For tracing, which asks for a writer for each line.
    pub(super) fn writer(&self) -> impl Fn() -> Queue + Send + Sync + use<> {
        let queue = self.clone();
        move || queue.clone()
    }

    /// Until all that waits is written, but no longer than this.
    pub(super) fn flush(&self, limit: Duration) {
        let busy = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        drop(self.0.changed.wait_timeout_while(self.lock(), limit, busy));
    }

    /// All lines that wait, as soon as there are any, and how many were lost after them.
    fn take(&self) -> (VecDeque<Vec<u8>>, u64) {
        let mut waiting = self.lock();
        waiting.writing = false;
        self.0.changed.notify_all();
        drop(
            self.0
                .changed
                .wait_while(waiting, |waiting| waiting.lines.is_empty())
                .unwrap_or_else(PoisonError::into_inner),
        );
        thread::sleep(GATHER);
        let mut waiting = self.lock();
        let taken = std::mem::take(&mut *waiting);
        waiting.writing = true;
        (taken.lines, taken.lost)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Many lines a system call: at a start there is one for each server.
fn write(to: &mut impl Write, lines: &[Vec<u8>]) {
    let mut lines: Vec<_> = lines.iter().map(|line| IoSlice::new(line)).collect();
    let mut rest = lines.as_mut_slice();
    while !rest.is_empty() {
        match to.write_vectored(rest) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Nobody is left to tell; the next line may have better luck.
            Ok(0) | Err(_) => rest = &mut rest[1..],
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
        }
    }
}

/// A line a call, which is how tracing writes.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Writes a line for each permit and hands it on; fails when there are no more permits to come.
    struct Gate {
        permits: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let permit = self.permits.recv();
            permit.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            let text = String::from_utf8(line.to_vec()).unwrap();
            self.written.send(text).unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(room: usize) -> (Queue, Sender<()>, Receiver<String>) {
        let ((permit, permits), (written, lines)) = (channel(), channel());
        let queue = Queue::start(Gate { permits, written }, room, |lost| {
            format!("{lost} lost")
        });
        (queue.unwrap(), permit, lines)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the thread has no other clock")]
    fn a_stuck_writer_holds_up_nobody_and_what_was_lost_is_told() {
        let (queue, permit, lines) = queue(30);
        queue.put(b"first");
        let until = Instant::now() + LONG;
        while !queue.lock().writing {
            assert!(Instant::now() < until, "the writer takes it");
            thread::yield_now();
        }
        for n in 10..100 {
            queue.put(format!("line {n}").as_bytes());
        }
        let begun = Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < LONG, "it came back");
        (0..7).for_each(|_| permit.send(()).unwrap());
        queue.flush(LONG);
        let expected = [
            "first", "line 10", "line 11", "line 12", "line 13", "86 lost",
        ];
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), expected);
        queue.put(b"and on");
        queue.flush(LONG);
        assert_eq!(lines.try_recv().unwrap(), "and on");
    }

    #[test]
    fn a_writer_that_is_gone_is_no_end() {
        let (queue, permit, lines) = queue(30);
        drop(permit);
        for _ in 0..100 {
            queue.put(b"to nobody");
            queue.flush(LONG);
        }
        assert_eq!(queue.lock().bytes, 0);
        assert!(lines.try_recv().is_err());
    }
}
