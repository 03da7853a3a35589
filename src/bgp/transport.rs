//! One TCP connection to a peer as two bounded channels: frames out, frames in. It checks headers
//! (a frame's end depends on them) and nothing else.
//!
//! ```text
//!  driver ── Outgoing ─► writer ─► socket
//!         ◄─ Incoming ── reader ◄─ socket
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::message::{self, HEADER, LONGEST};
use super::notification::Notification;

/// Frames between driver and writer: enough to keep the socket busy, few enough to be nothing.
const FRAMES_OUT: usize = 4;
/// Frames between reader and driver.
pub(crate) const FRAMES_IN: usize = 16;
/// How long the last frame and the peer's own close may take once we have closed.
const LINGER: Duration = Duration::from_secs(2);

/// How long TCP may be silent before it asks whether the other end still knows the connection.
const PROBE: Duration = Duration::from_secs(10);

/// A frame to write.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) frame: Vec<u8>,
    /// Prefixes that it withdraws, to be given back by [`Incoming::Written`]; if empty, nothing is.
    pub(crate) withdrawn: Vec<IpAddr>,
}

#[derive(Debug)]
pub(crate) enum Incoming {
    /// A whole message with a good header.
    Frame(Vec<u8>),
    /// A header that ends the session, and what to tell the peer.
    BadHeader(Notification),
    /// The socket has taken an [`Outgoing`] that withdrew these.
    Written(Vec<IpAddr>),
    /// The connection is over, and why.
    Failed(String),
}

/// Dropping it closes the connection; [`Connection::close`] says something before.
/// Its task ends by itself soon after that.
#[derive(Debug)]
pub(crate) struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    incoming: mpsc::Receiver<Incoming>,
    /// The last frame; dropped without one, the connection is closed without.
    last: oneshot::Sender<Vec<u8>>,
}

impl Connection {
    /// The task that reads and writes goes into `tasks`. `send_hold`: how long one frame may take to write.
    pub(crate) fn new(
        stream: TcpStream,
        send_hold: Duration,
        tasks: &mut JoinSet<()>,
    ) -> Connection {
        let (outgoing, frames) = mpsc::channel(FRAMES_OUT);
        let (events, incoming) = mpsc::channel(FRAMES_IN);
        let (last, closing) = oneshot::channel();
        tasks.spawn(drive(stream, send_hold, frames, events, closing));
        Connection {
            outgoing,
            incoming,
            last,
        }
    }

    /// What comes next; `None`: there is room for another frame, which is only waited for if `sending`.
    pub(crate) async fn next(&mut self, sending: bool) -> Option<Incoming> {
        tokio::select! {
            incoming = self.incoming.recv() => {
                Some(incoming.unwrap_or_else(|| Incoming::Failed("the connection is closed".into())))
            }
            // A writer that is gone has none; the other side says so.
            Ok(_permit) = self.outgoing.reserve(), if sending => None,
        }
    }

    /// What has arrived already, without waiting.
    pub(crate) fn try_recv(&mut self) -> Option<Incoming> {
        self.incoming.try_recv().ok()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.capacity() > 0 && !self.outgoing.is_closed()
    }

    /// False if there is no room; nothing is queued then.
    pub(crate) fn send(&self, outgoing: Outgoing) -> bool {
        self.outgoing.try_send(outgoing).is_ok()
    }

    /// Writes what is queued, then this, then closes.
    pub(crate) fn close(self, last: Option<Vec<u8>>) {
        if let Some(frame) = last {
            // If the task is gone, so is the connection.
            drop(self.last.send(frame));
        }
    }
}

/// Without a limit in time: the ConnectRetryTimer is one.
pub(crate) async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(to).await
}

async fn drive(
    stream: TcpStream,
    send_hold: Duration,
    frames: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<Incoming>,
    last: oneshot::Receiver<Vec<u8>>,
) {
    // Routes are to go out at once; where this fails they only go out later.
    drop(stream.set_nodelay(true));
    // A router that has restarted answers a probe with a reset. BGP itself would not ask it before
    // its OPEN, nor with a hold time of zero. One that answers nothing is the HoldTimer's: this waits
    // for a quarter of an hour.
    let probe = TcpKeepalive::new()
        .with_time(PROBE)
        .with_interval(PROBE)
        .with_retries(90);
    drop(SockRef::from(&stream).set_tcp_keepalive(&probe));
    let (from, to) = stream.into_split();
    let work = async {
        tokio::join!(
            read(from, events.clone()),
            write(to, send_hold, frames, events.clone(), last)
        )
    };
    tokio::pin!(work);
    tokio::select! {
        _ = &mut work => {}
        // The driver is through with it: now it may not take much longer.
        () = events.closed() => drop(timeout(LINGER, work).await),
    }
}

async fn read(mut from: OwnedReadHalf, events: mpsc::Sender<Incoming>) {
    loop {
        let (next, more) = match read_frame(&mut from).await {
            Ok(Ok(frame)) => (Incoming::Frame(frame), true),
            Ok(Err(notification)) => (Incoming::BadHeader(notification), false),
            Err(error) => {
                let fault = if error.kind() == io::ErrorKind::UnexpectedEof {
                    "the peer closed the connection".into()
                } else {
                    format!("read from the peer: {error}")
                };
                drop(events.send(Incoming::Failed(fault)).await);
                return;
            }
        };
        if events.send(next).await.is_err() || !more {
            break;
        }
    }
    // Unread data would turn our close into a reset, and that overtakes the last frame.
    let mut unread = [0; 1024];
    while from.read(&mut unread).await.is_ok_and(|count| count > 0) {}
}

/// `Err` inside: a header that the peer should not have sent.
async fn read_frame(from: &mut OwnedReadHalf) -> io::Result<Result<Vec<u8>, Notification>> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header).await?;
    let length = match message::frame_length(&header, LONGEST) {
        Ok(length) => length,
        Err(notification) => return Ok(Err(notification)),
    };
    let mut frame = vec![0; length];
    frame[..HEADER].copy_from_slice(&header);
    from.read_exact(&mut frame[HEADER..]).await?;
    Ok(Ok(frame))
}

async fn write(
    mut to: OwnedWriteHalf,
    send_hold: Duration,
    mut frames: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<Incoming>,
    mut last: oneshot::Receiver<Vec<u8>>,
) {
    while let Some(Outgoing { frame, withdrawn }) = frames.recv().await {
        let fault = match timeout(send_hold, to.write_all(&frame)).await {
            Ok(Ok(())) if withdrawn.is_empty() => continue,
            Ok(Ok(())) => Incoming::Written(withdrawn),
            Ok(Err(error)) => Incoming::Failed(format!("write to the peer: {error}")),
            // RFC 9687.
            Err(_) => Incoming::Failed("send hold timer expired".into()),
        };
        let failed = matches!(fault, Incoming::Failed(_));
        // Nobody listens any more: what is queued is still to be written.
        drop(events.send(fault).await);
        if failed {
            return;
        }
    }
    // The driver has closed it; what it had to say last is there by now.
    if let Ok(frame) = last.try_recv() {
        drop(to.write_all(&frame).await);
    }
    drop(to.shutdown().await);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// A connection, and the socket of the peer at its other end.
    async fn pair(send_hold: Duration) -> (Connection, TcpStream, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let ours = connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let mut tasks = JoinSet::new();
        (Connection::new(ours, send_hold, &mut tasks), theirs, tasks)
    }

    fn out(frame: Vec<u8>) -> Outgoing {
        Outgoing {
            frame,
            withdrawn: Vec::new(),
        }
    }

    async fn rest(peer: &mut TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        timeout(Duration::from_secs(5), peer.read_to_end(&mut all))
            .await
            .unwrap()
            .unwrap();
        all
    }

    #[tokio::test]
    async fn frames_come_whole_and_a_bad_header_ends_it() {
        let (mut connection, mut peer, _tasks) = pair(LONG).await;
        let keepalive = message::keepalive();
        let mut bytes = [keepalive.clone(), keepalive.clone()].concat();
        bytes.extend([0; HEADER]);
        for piece in bytes.chunks(7) {
            peer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        for _ in 0..2 {
            assert!(
                matches!(connection.next(false).await, Some(Incoming::Frame(f)) if f == keepalive)
            );
        }
        assert!(
            matches!(connection.next(false).await, Some(Incoming::BadHeader(n)) if n.code == 1)
        );
    }

    #[tokio::test]
    async fn what_is_queued_and_the_last_frame_get_out_though_the_peer_still_sends() {
        let (connection, mut peer, mut tasks) = pair(LONG).await;
        peer.write_all(&message::keepalive().repeat(1000))
            .await
            .unwrap();
        assert!(connection.send(out(vec![1; 100])));
        connection.close(Some(vec![2; 3]));
        assert_eq!(rest(&mut peer).await, [vec![1; 100], vec![2; 3]].concat());
        drop(peer);
        timeout(Duration::from_secs(5), tasks.join_next())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_withdrawal_is_reported_once_written() {
        let (mut connection, mut peer, _tasks) = pair(LONG).await;
        let withdrawn = vec![IpAddr::from([192, 0, 2, 1])];
        let frame = vec![7; 30];
        assert!(connection.send(Outgoing {
            frame,
            withdrawn: withdrawn.clone()
        }));
        assert!(
            matches!(connection.next(false).await, Some(Incoming::Written(w)) if w == withdrawn)
        );
        let mut read = [0; 30];
        peer.read_exact(&mut read).await.unwrap();
        drop(peer);
        assert!(
            matches!(connection.next(false).await, Some(Incoming::Failed(f)) if f.contains("closed"))
        );
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_costs_four_frames_and_ends_by_send_hold() {
        let (mut connection, peer, mut tasks) = pair(Duration::from_millis(200)).await;
        let mut taken = 0usize;
        // The kernel's buffers take some megabytes; after that only the queue.
        while timeout(Duration::from_millis(100), connection.next(true))
            .await
            .is_ok()
        {
            assert!(connection.send(out(vec![0; 65536])));
            taken += 1;
            assert!(taken < 10_000, "somebody reads");
        }
        assert!(!connection.has_room() && !connection.send(out(vec![0; 1])));
        let incoming = timeout(Duration::from_secs(5), connection.next(false))
            .await
            .unwrap();
        assert!(matches!(incoming, Some(Incoming::Failed(f)) if f.contains("send hold")));
        connection.close(Some(vec![1]));
        timeout(Duration::from_secs(5), tasks.join_next())
            .await
            .unwrap();
        drop(peer);
    }
}
