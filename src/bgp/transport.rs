//! One TCP connection to a peer: how it is opened, and then two bounded channels, frames out and frames in.
//! It checks headers (a frame's end depends on them) and nothing else.
//!
//! ```text
//!  driver ── Outgoing ─► writer ─► socket
//!         ◄─ Incoming ── reader ◄─ socket
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::message::{self, HEADER};
use super::notification::Notification;
use super::sockopt::{self, Failed};
use super::unnumbered::{self, Neighbours};
use crate::config::{self, Authentication, Ttl};
use crate::routing::PeerId;

/// Frames between driver and writer: enough to keep the socket busy, few enough to be nothing.
const FRAMES_OUT: usize = 4;
/// Frames between reader and driver.
pub(crate) const FRAMES_IN: usize = 16;
/// How long the last frame and the peer's own close may take once we have closed.
const LINGER: Duration = Duration::from_secs(2);

/// What one read takes at most: the longest frame and some, so that a full table costs few system calls.
const READ: usize = 128 * 1024;
/// How long a router of an interface may take to be heard before a try to connect has failed.
const HEAR: Duration = Duration::from_secs(4);

/// How long TCP may be silent before it asks whether the other end still knows the connection.
const PROBE: Duration = Duration::from_secs(10);

/// How a peer is reached. When it changes, what is connected is not what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) id: PeerId,
    port: u16,
    pub(crate) local_address: Option<IpAddr>,
    local_port: Option<u16>,
    pub(crate) ttl: Ttl,
    /// Of another AS.
    pub(crate) external: bool,
    pub(crate) authentication: Option<Authentication>,
}

impl Settings {
    pub(crate) fn of(local_as: u32, peer: &config::Peer) -> Settings {
        Settings {
            id: peer.id.clone(),
            port: peer.port,
            local_address: peer.local_address,
            local_port: peer.local_port,
            ttl: peer.ttl,
            external: peer.peer_as != local_as,
            authentication: peer.authentication.clone(),
        }
    }
}

/// Without a limit in time: the ConnectRetryTimer is one.
pub(crate) async fn connect(
    settings: Settings,
    neighbours: watch::Receiver<Neighbours>,
) -> Result<TcpStream, Failed> {
    let to = destination(&settings, neighbours).await?;
    let socket = prepare(&settings, to)?;
    socket
        .connect(to)
        .await
        .map_err(Failed::to(format!("connect to {to}")))
}

async fn destination(
    settings: &Settings,
    mut neighbours: watch::Receiver<Neighbours>,
) -> Result<SocketAddr, Failed> {
    let link_local = |address: Ipv6Addr, interface| {
        let index = unnumbered::index(interface)?;
        Ok(SocketAddrV6::new(address, settings.port, 0, index).into())
    };
    let interface = match &settings.id {
        PeerId::Address(address) => return Ok(SocketAddr::new(*address, settings.port)),
        PeerId::LinkLocal(address, interface) => return link_local(*address, interface),
        PeerId::Interface(interface) => interface,
    };
    unnumbered::index(interface)?;
    let none = |text: String| {
        let error = io::Error::new(io::ErrorKind::NotFound, text);
        Failed::to("find the router to connect to")(error)
    };
    let known = timeout(
        HEAR,
        neighbours.wait_for(|neighbours| neighbours.contains_key(interface)),
    )
    .await;
    let routers = known
        .ok()
        .and_then(Result::ok)
        .and_then(|neighbours| neighbours.get(interface).cloned())
        .unwrap_or_default();
    if let Some(fault) = unnumbered::several(interface, &routers) {
        return Err(none(fault));
    }
    let Some(router) = routers.first() else {
        return Err(none(format!(
            "no Router Advertisement is heard on {interface}"
        )));
    };
    link_local(*router, interface)
}

/// A socket that is bound and has all that must be there before its SYN.
fn prepare(settings: &Settings, to: SocketAddr) -> Result<TcpSocket, Failed> {
    let peer = to.ip();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))
        .map_err(Failed::to("open a TCP socket"))?;
    socket
        .set_nonblocking(true)
        .map_err(Failed::to("open a TCP socket"))?;
    let options = SockRef::from(&socket);
    sockopt::mark(&options, peer)?;
    sockopt::limit(&options, peer, settings.ttl, settings.external)?;
    if let Some(key) = &settings.authentication {
        sockopt::authenticate(&options, peer, key)?;
    }
    if settings.local_address.is_some() || settings.local_port.is_some() {
        let from = source(settings, to);
        // A connection that was there before may still wait for its last segments.
        socket
            .set_reuse_address(true)
            .and_then(|()| socket.bind(&from.into()))
            .map_err(Failed::to(format!("bind to the local address {from}")))?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

fn source(settings: &Settings, to: SocketAddr) -> SocketAddr {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = settings.local_address.unwrap_or(any);
    let port = settings.local_port.unwrap_or(0);
    match (address, to) {
        (IpAddr::V6(address), SocketAddr::V6(to)) if address.is_unicast_link_local() => {
            SocketAddrV6::new(address, port, 0, to.scope_id()).into()
        }
        (address, _) => SocketAddr::new(address, port),
    }
}

/// A frame to write.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) frame: Vec<u8>,
    /// Prefixes that it withdraws, to be given back by [`Incoming::Written`]; if empty, nothing is.
    pub(crate) withdrawn: Vec<IpNet>,
}

#[derive(Debug)]
pub(crate) enum Incoming {
    /// A whole message with a good header.
    Frame(Bytes),
    /// A header that ends the session, and what to tell the peer.
    BadHeader(Notification),
    /// The socket has taken an [`Outgoing`] that withdrew these.
    Written(Vec<IpNet>),
    /// The SendHoldTimer expired (RFC 9687): a last frame may follow, if none has been begun.
    SendHoldExpired,
    /// The connection is over, and why.
    Failed(String),
}

/// What a connection is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long one frame may take to write.
    pub(crate) send_hold: Duration,
    /// The longest frame that may come: what we have offered, we take (RFC 8654 section 4).
    pub(crate) longest: usize,
}

/// Dropping it closes the connection; [`Connection::close`] says something before.
/// Its task ends by itself soon after that.
#[derive(Debug)]
pub(crate) struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    incoming: mpsc::Receiver<Incoming>,
    /// The last frame; dropped without one, the connection is closed without.
    last: oneshot::Sender<Vec<u8>>,
    /// Our end and the peer's, as the kernel says; `None` if it is gone already.
    pub(crate) local: Option<SocketAddr>,
    pub(crate) remote: Option<SocketAddr>,
}

impl Connection {
    /// The task that reads and writes goes into `tasks`.
    pub(crate) fn new(stream: TcpStream, limits: Limits, tasks: &mut JoinSet<()>) -> Connection {
        let (outgoing, frames) = mpsc::channel(FRAMES_OUT);
        let (events, incoming) = mpsc::channel(FRAMES_IN);
        let (last, closing) = oneshot::channel();
        let end = |address: io::Result<SocketAddr>| address.ok().map(canonical);
        let connection = Connection {
            outgoing,
            incoming,
            last,
            local: end(stream.local_addr()),
            remote: end(stream.peer_addr()),
        };
        let writer = Writer {
            send_hold: limits.send_hold,
            frames,
            events: events.clone(),
            last: closing,
        };
        tasks.spawn(drive(stream, events, limits.longest, writer));
        connection
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

fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => v6
            .ip()
            .to_ipv4_mapped()
            .map_or(address, |v4| SocketAddr::new(v4.into(), v6.port())),
    }
}

async fn drive(stream: TcpStream, events: mpsc::Sender<Incoming>, longest: usize, writer: Writer) {
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
        tokio::join!(read(from, longest, events.clone()), writer.run(to));
    };
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => {}
        // The driver is through with it: now it may not take much longer.
        () = events.closed() => drop(timeout(LINGER, work).await),
    }
}

async fn read(mut from: OwnedReadHalf, longest: usize, events: mpsc::Sender<Incoming>) {
    let mut buffer = BytesMut::new();
    loop {
        let next = match next_frame(&mut buffer, longest) {
            Ok(Some(frame)) => Incoming::Frame(frame),
            Ok(None) => {
                // Where all frames of it are gone, it is the same memory again.
                buffer.reserve(READ);
                match from.read_buf(&mut buffer).await {
                    Ok(0) => Incoming::Failed("the peer closed the connection".into()),
                    Ok(_) => continue,
                    Err(error) => Incoming::Failed(format!("read from the peer: {error}")),
                }
            }
            Err(notification) => Incoming::BadHeader(notification),
        };
        let failed = matches!(next, Incoming::Failed(_));
        let bad = matches!(next, Incoming::BadHeader(_));
        let nobody = events.send(next).await.is_err();
        if failed {
            return;
        }
        if bad || nobody {
            break;
        }
    }
    // Unread data would turn our close into a reset, and that overtakes the last frame.
    let mut unread = [0; 1024];
    while from.read(&mut unread).await.is_ok_and(|count| count > 0) {}
}

/// `None`: it is not whole yet. `Err`: a header that the peer should not have sent.
fn next_frame(buffer: &mut BytesMut, longest: usize) -> Result<Option<Bytes>, Notification> {
    let Some(header) = buffer.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = message::frame_length(header, longest)?;
    Ok((buffer.len() >= length).then(|| buffer.split_to(length).freeze()))
}

struct Writer {
    send_hold: Duration,
    frames: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<Incoming>,
    last: oneshot::Receiver<Vec<u8>>,
}

impl Writer {
    async fn run(mut self, mut to: OwnedWriteHalf) {
        while let Some(Outgoing { frame, withdrawn }) = self.frames.recv().await {
            let mut rest = &frame[..];
            let fault = match timeout(self.send_hold, to.write_all_buf(&mut rest)).await {
                Ok(Ok(())) if withdrawn.is_empty() => continue,
                Ok(Ok(())) => Incoming::Written(withdrawn),
                Ok(Err(error)) => Incoming::Failed(format!("write to the peer: {error}")),
                Err(_) => Incoming::SendHoldExpired,
            };
            let over = !matches!(fault, Incoming::Written(_));
            // Nobody listens any more: what is queued is still to be written.
            drop(self.events.send(fault).await);
            if over {
                // RFC 9687 section 4.3: a NOTIFICATION if TCP takes one. In the middle of a frame it would be
                // read as the rest of that.
                if rest.len() == frame.len() {
                    break;
                }
                return;
            }
        }
        // The driver closes it; what it has to say last is there when the queue is gone.
        self.frames.close();
        if let Ok(frame) = self.last.await {
            drop(to.write_all(&frame).await);
        }
        drop(to.shutdown().await);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::bgp::message::{LONGEST, LONGEST_EXTENDED};

    const LONG: Duration = Duration::from_secs(600);

    /// A connection, and the socket of the peer at its other end.
    async fn pair(send_hold: Duration) -> (Connection, TcpStream, JoinSet<()>) {
        let longest = LONGEST;
        pair_of(Limits { send_hold, longest }).await
    }

    async fn pair_of(limits: Limits) -> (Connection, TcpStream, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let mut tasks = JoinSet::new();
        (Connection::new(ours, limits, &mut tasks), theirs, tasks)
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

    /// RFC 8654: only if we have offered it.
    #[tokio::test]
    async fn long_frames_come_when_they_are_allowed() {
        let update = |length: u16| {
            let mut frame = vec![0xff; 16];
            frame.extend(length.to_be_bytes());
            frame.push(2);
            frame.resize(length.into(), 0);
            frame
        };
        for allowed in [true, false] {
            let longest = if allowed { LONGEST_EXTENDED } else { LONGEST };
            let (mut connection, mut peer, _tasks) = pair_of(Limits {
                send_hold: LONG,
                longest,
            })
            .await;
            peer.write_all(&[update(4096), update(65535)].concat())
                .await
                .unwrap();
            let first = connection.next(false).await;
            assert!(matches!(first, Some(Incoming::Frame(f)) if f == update(4096)));
            match connection.next(false).await {
                Some(Incoming::Frame(frame)) => assert!(allowed && frame == update(65535)),
                Some(Incoming::BadHeader(told)) => {
                    assert_eq!((allowed, told.code, told.subcode), (false, 1, 2));
                }
                other => panic!("{other:?}"),
            }
        }
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
        let withdrawn = vec![IpNet::from(IpAddr::from([192, 0, 2, 1]))];
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
        assert!(matches!(incoming, Some(Incoming::SendHoldExpired)));
        connection.close(Some(vec![1]));
        timeout(Duration::from_secs(5), tasks.join_next())
            .await
            .unwrap();
        drop(peer);
    }
}
