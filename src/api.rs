//! Edge: the status API over HTTP/1.1, PyBal's paths and ours. It reads the newest snapshot and keeps
//! nothing beside it. What comes by TCP changes nothing; operators' orders are taken on the control socket.
//!
//! ```text
//!  TcpListener ─► run ──────────┐                      ┌──► v1: one body for all who ask ─► json
//!                               ├─► connections ─► hyper ─► answer(request, snapshot) ─► text | json | metrics
//!  UnixListener ─► control::run ┘                      └──► order ─► Event::PeerOrder ─► … ─► snapshot ─► text
//! ```
//!
//! What a client may cost is bounded by [`Limits`]. Connections are bounded in number; a new one beyond
//! that closes the oldest idle one, so that whoever hoards connections loses them and nobody waits.

mod accept;
mod answer;
mod bgp;
mod body;
mod checks;
mod connections;
pub mod control;
mod detail;
mod events;
mod json;
mod metrics;
mod order;
mod patience;
mod repairs;
mod resource;
mod text;
mod traffic;
mod v1;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use crate::history::History;
use crate::snapshot::Snapshot;

use connections::{Connections, Door, Stream};

/// How long nothing is accepted after accept(2) failed, for want of file descriptors say.
const PAUSE: Duration = Duration::from_millis(100);
/// What the kernel may hold for a client that does not read.
const SEND_BUFFER: usize = 128 << 10;

/// What clients may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a request's head may take to come, the idle time before it included.
    pub head: Duration,
    /// How long a client may refuse to take even one more byte of an answer.
    pub stalled: Duration,
    /// Open connections.
    pub connections: usize,
    /// Bytes of a request's head, and about the bytes that are buffered for a connection.
    pub buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: Duration::from_secs(5),
            stalled: Duration::from_secs(10),
            connections: 1024,
            buffer: 16 << 10,
        }
    }
}

/// What ages, times and timers are told by.
#[derive(Clone, Copy, Debug)]
struct Now {
    monotonic: Instant,
    calendar: SystemTime,
}

impl Now {
    #[expect(
        clippy::disallowed_methods,
        reason = "since when a session is up is told by the calendar; nothing is decided by it"
    )]
    fn read() -> Now {
        Now {
            monotonic: tokio::time::Instant::now().into_std(),
            calendar: SystemTime::now(),
        }
    }
}

/// An address of `[api] listen` that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("the API cannot listen on {address}")]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Listens on all of the addresses. `[::1]` is left out with a warning if the host has no IPv6:
/// it stands in the default, and such a host must come up too.
#[expect(
    clippy::unused_async,
    reason = "a tokio listener needs the runtime; async says so"
)]
pub async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if no_ipv6(address, &error) => {
                warn!(%address, %error, "no IPv6 on this host, the API does not listen there");
            }
            Err(source) => return Err(BindError { address, source }),
        }
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // 0.0.0.0 and [::] may both be listed.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn no_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    let absent = matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    );
    address.ip() == IpAddr::from(std::net::Ipv6Addr::LOCALHOST) && absent
}

/// Answers on all listeners, for ever.
pub async fn run(
    listeners: Vec<TcpListener>,
    history: History,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    run_within(Limits::default(), listeners, history, snapshots).await;
}

/// [`run`] with other limits.
pub async fn run_within(
    limits: Limits,
    listeners: Vec<TcpListener>,
    history: History,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let door = Door {
        desk: v1::Desk::new(history.clone()),
        history,
        snapshots,
        orders: None,
    };
    let mut next = 0;
    serve(limits, door, |cx| accept(&listeners, &mut next, cx)).await;
}

/// Lets in whoever comes, for ever.
async fn serve<S: Stream>(
    limits: Limits,
    door: Door,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
) {
    let mut connections = Connections::new(limits, door);
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = poll_fn(&mut accept) => accepted,
            () = connections.reap() => continue,
        };
        match accepted {
            Ok(stream) => {
                failing = false;
                connections.admit(stream);
            }
            Err(error) => {
                if !failing {
                    warn!(%error, "the API cannot accept a connection");
                }
                failing = true;
                // Connections that end meanwhile free what is wanting.
                let _ = timeout(PAUSE, async {
                    loop {
                        connections.reap().await
                    }
                })
                .await;
            }
        }
    }
}

/// The next connection of any listener, each in its turn.
fn accept(
    listeners: &[TcpListener],
    next: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<TcpStream>> {
    for _ in listeners {
        let listener = &listeners[*next % listeners.len()];
        *next = next.wrapping_add(1);
        if let Poll::Ready(accepted) = listener.poll_accept(cx) {
            let stream = accepted.map(|(stream, _)| stream);
            // Small answers shall not wait for an acknowledgement; without it they do, no more.
            let _ = stream.as_ref().map(|stream| stream.set_nodelay(true));
            return Poll::Ready(stream);
        }
    }
    Poll::Pending
}
