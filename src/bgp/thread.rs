//! The thread that the speaker lives on: with a runtime of its own, so that nothing else that the process does
//! keeps a keepalive or a withdrawal from going out in time.

use std::io;
use std::panic::resume_unwind;
use std::thread::{Builder, JoinHandle};

use tokio::runtime;
use tokio::sync::oneshot;

/// Dropping it ends the thread soon, and with it all that the work holds. It is not waited for: the one who drops
/// it may be a runtime's thread that others need.
pub(crate) struct Thread {
    thread: JoinHandle<()>,
    /// Gone with the thread.
    alive: oneshot::Receiver<()>,
    _stop: oneshot::Sender<()>,
}

/// The priority that the thread asks for, as `nice` counts it.
const NICE: libc::c_int = -10;

impl Thread {
    /// Starts the work on a thread of this name. The thread belongs to the network namespace that the caller's
    /// thread is in.
    pub(crate) fn start(
        name: &str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Thread> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (_stop, stopped) = oneshot::channel();
        let (living, alive) = oneshot::channel();
        let thread = Builder::new().name(name.into()).spawn(move || {
            let _living = living;
            raise_priority();
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = work => {}
                }
            });
        })?;
        Ok(Thread {
            thread,
            alive,
            _stop,
        })
    }

    /// Until the work is done. Panics if it has.
    pub(crate) async fn ended(self) {
        // Nothing is ever sent.
        drop(self.alive.await);
        // It has dropped all that it had, so this takes no time.
        if let Err(panic) = self.thread.join() {
            resume_unwind(panic);
        }
    }
}

/// Before other processes that want all of the processor, a little: what this thread does is short, and late is as
/// good as never. Without the permission (CAP_SYS_NICE) it goes on as any other.
#[expect(unsafe_code, reason = "no crate here has it")]
fn raise_priority() {
    // SAFETY: it takes three numbers and touches no memory of ours. On Linux 0 is the calling thread.
    let raised = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if raised != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "the BGP thread runs at normal priority");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Says when it is dropped.
    struct Held(Option<oneshot::Sender<String>>);

    impl Drop for Held {
        fn drop(&mut self) {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            drop(self.0.take().map(|told| told.send(name)));
        }
    }

    #[tokio::test]
    async fn it_ends_when_the_work_does() {
        let (sender, receiver) = oneshot::channel();
        let work = async {
            let (name, runs) = (std::thread::current().name().map(str::to_owned), true);
            drop(sender.send((name, runs)));
        };
        let thread = Thread::start("bgp", work).unwrap();
        timeout(LIMIT, thread.ended()).await.unwrap();
        assert_eq!(receiver.await, Ok((Some("bgp".into()), true)));
    }

    #[tokio::test]
    async fn dropped_it_lets_go_of_all_that_it_holds() {
        let (told, dropped) = oneshot::channel();
        let held = Held(Some(told));
        let work = async move {
            let _held = held;
            std::future::pending().await
        };
        drop(Thread::start("bgp", work).unwrap());
        assert_eq!(timeout(LIMIT, dropped).await.unwrap().unwrap(), "bgp");
    }

    #[tokio::test]
    async fn a_panic_is_passed_on() {
        let thread = Thread::start("bgp", async { panic!("as a bug would") }).unwrap();
        let ended = tokio::task::JoinSet::from_iter([thread.ended()])
            .join_next()
            .await;
        let panic = ended.unwrap().unwrap_err().into_panic();
        assert_eq!(*panic.downcast::<&str>().unwrap(), "as a bug would");
    }

    /// A runtime whose only thread hangs does not keep the work from going on.
    #[tokio::test]
    async fn a_busy_caller_does_not_hold_it_up() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let work = async move {
            for n in 0..3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                sender.send(n).unwrap();
            }
        };
        let _thread = Thread::start("bgp", work).unwrap();
        for n in 0..3 {
            assert_eq!(receiver.recv_timeout(LIMIT), Ok(n), "while this blocks");
        }
    }
}
