//! A whole TCP connection to a VIP at one server: smoltcp's TCP over a port of ours.
//!
//! It has no task: whoever reads or writes moves it. It ends with a reset, whatever was said before, so that the server
//! has nothing left of it at once, neither a connection nor a TIME-WAIT, and nobody here waits for its farewell.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as TcpInstant;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use super::packet::{MTU, Segment};
use super::{Hop, Port, Vip, Way, asked, filter, not_sent, refused, silent};
use crate::check::Check;
use crate::monitor::connect::{spare, words};
use crate::monitor::outcome::{Deadline, Failure};

/// The server may send so much before it is read.
const RECEIVE: usize = 16 * 1024;
const SEND: usize = 16 * 1024;
/// So often another port is tried if the kernel has given one to somebody else.
const TRIES: usize = 16;

/// Connects to the VIP at the check's server. `None`: the server is this host, where no such way leads to.
pub(in crate::monitor) async fn connect(
    check: &Check,
    vip: &Arc<Vip>,
    deadline: Deadline,
) -> Result<Option<Stream>, Failure> {
    let server = check.target.ip();
    let Way::Over(hop) = vip.way(server, false, deadline).await? else {
        return Ok(None);
    };
    let address = asked(check);
    let mut stream = Stream::new(vip, hop, address)?;
    let half = deadline.at - deadline.after / 2;
    if let Ok(opened) = timeout_at(half, stream.opened()).await {
        return opened.map(|()| Some(stream));
    }
    // Nothing yet: the server may have another link-layer address by now.
    if let Way::Over(now) = vip.way(server, true, deadline).await?
        && now.source == hop.source
    {
        stream.port.hop = now;
    }
    let Ok(opened) = timeout_at(deadline.at, stream.opened()).await else {
        vip.forget(server);
        return Err(silent(address));
    };
    opened.map(|()| Some(stream))
}

pub(in crate::monitor) struct Stream {
    port: Port,
    /// Keeps the host's own TCP from answering the server's segments with resets.
    _held: Socket,
    device: Queues,
    interface: Interface,
    /// Of one.
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    began: Instant,
    /// The sequence number of the SYN, once it was sent.
    syn: Option<u32>,
    /// When something is due though nothing comes in: a retransmission, say.
    alarm: Pin<Box<Sleep>>,
}

impl Stream {
    fn new(vip: &Arc<Vip>, hop: Hop, address: SocketAddr) -> Result<Stream, Failure> {
        let (port, held) = hold_port(vip, hop, address)?;
        let began = Instant::now();
        let mut device = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = fastrand::u64(..);
        let mut interface = Interface::new(config, &mut device, TcpInstant::ZERO);
        let all = if hop.source.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|addresses| {
            // There is room for at least one.
            let _ = addresses.push(IpCidr::new(hop.source.into(), all));
        });
        // The device has no neighbours, so any router will do.
        let routed = match hop.source {
            IpAddr::V4(source) => interface.routes_mut().add_default_ipv4_route(source),
            IpAddr::V6(source) => interface.routes_mut().add_default_ipv6_route(source),
        };
        routed.map_err(|_| Failure::Unable("no room for a route".to_owned()))?;
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; RECEIVE]),
            tcp::SocketBuffer::new(vec![0; SEND]),
        );
        socket.set_nagle_enabled(false);
        let (ours, theirs) = (port.flow.ours, port.flow.vip);
        socket
            .connect(
                interface.context(),
                IpEndpoint::from(theirs),
                IpEndpoint::from(ours),
            )
            .map_err(|error| Failure::Unable(error.to_string()))?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Ok(Stream {
            port,
            _held: held,
            device,
            interface,
            sockets,
            socket,
            began,
            syn: None,
            alarm: Box::pin(sleep(std::time::Duration::ZERO)),
        })
    }

    /// Done when the server has taken the connection or refused it.
    async fn opened(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| {
            self.drive(cx).map_err(|error| not_sent(&error))?;
            match self.tcp().state() {
                tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen => Poll::Pending,
                tcp::State::Closed => Poll::Ready(Err(refused(self.port.flow.vip))),
                tcp::State::Established
                | tcp::State::FinWait1
                | tcp::State::FinWait2
                | tcp::State::CloseWait
                | tcp::State::Closing
                | tcp::State::LastAck
                | tcp::State::TimeWait => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    fn tcp(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Takes what came in, sends what is due, and has the task woken when there is more to do.
    fn drive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            while let Poll::Ready(packet) = self.port.poll_receive(cx) {
                self.device.came_in.push_back(packet);
            }
            let now = self.step()?;
            let Some(due) = self.interface.poll_at(now, &self.sockets) else {
                return Ok(());
            };
            let due = self.began + std::time::Duration::from_micros(due.total_micros() as u64);
            self.alarm.as_mut().reset(due);
            if self.alarm.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
        }
    }

    fn step(&mut self) -> io::Result<TcpInstant> {
        let now = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now = TcpInstant::from_micros(now);
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        while let Some(packet) = self.device.goes_out.pop_front() {
            if self.syn.is_none() {
                self.syn = Segment::read(&packet).map(|segment| segment.sequence());
            }
            self.port.send(&packet)?;
        }
        Ok(now)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.drive(cx)?;
        let tcp = self.tcp();
        if !tcp.can_recv() && tcp.may_recv() {
            return Poll::Pending;
        }
        match tcp.recv_slice(buffer.initialize_unfilled()) {
            Ok(length) => {
                buffer.advance(length);
                // The server hears that there is room again.
                self.drive(cx)?;
                Poll::Ready(Ok(()))
            }
            Err(tcp::RecvError::Finished) => Poll::Ready(Ok(())),
            Err(tcp::RecvError::InvalidState) => Poll::Ready(Err(reset())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.drive(cx)?;
        let tcp = self.tcp();
        if !tcp.can_send() && tcp.may_send() {
            return Poll::Pending;
        }
        let sent = tcp.send_slice(bytes).map_err(|_| reset())?;
        self.drive(cx)?;
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.drive(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().close();
        ready!(self.as_mut().poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let opening = self.tcp().state() == tcp::State::SynSent;
        self.tcp().abort();
        // If even that can not be sent, what the server still sends is answered by a reset.
        let _ = self.step();
        // A server that has the SYN and is about to answer forgets it by a reset without an acknowledgment alone;
        // smoltcp's has one, of a number that the server never sent.
        if let Some(sequence) = self.syn.filter(|_| opening) {
            let reset = self.port.flow.reset(sequence.wrapping_add(1));
            let _ = self.port.send(&reset);
        }
    }
}

fn reset() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNRESET)
}

/// A port that is the check's alone, and a socket of the kernel that has it. Segments that come for a port without any
/// socket are answered by the kernel's TCP with a reset. A listening socket whose filter passes nothing drops them
/// without a word.
fn hold_port(vip: &Arc<Vip>, hop: Hop, address: SocketAddr) -> Result<(Port, Socket), Failure> {
    let mut last = None;
    for _ in 0..TRIES {
        let port = vip.port(hop, address)?;
        match hold(port.flow.ours, hop.interface) {
            Ok(held) => return Ok((port, held)),
            Err(error) => last = Some(error),
        }
    }
    let why = last.as_ref().map_or_else(String::new, words);
    Err(Failure::Unable(format!("cannot hold a port: {why}")))
}

fn hold(ours: SocketAddr, interface: u32) -> io::Result<Socket> {
    // Only a link-local address needs the interface; the kernel looks at it for no other.
    let ours = match ours {
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, interface).into(),
        SocketAddr::V4(_) => ours,
    };
    let socket = Socket::new(Domain::for_address(ours), Type::STREAM, None)?;
    if spare(&socket).is_err() {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    socket.attach_filter(&filter::nothing())?;
    socket.bind(&ours.into())?;
    socket.listen(1)?;
    Ok(socket)
}

/// smoltcp's link: whole IP packets that came in, and those that are to go out.
#[derive(Default)]
struct Queues {
    came_in: VecDeque<Box<[u8]>>,
    goes_out: VecDeque<Vec<u8>>,
}

struct CameIn(Box<[u8]>);

struct GoesOut<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Queues {
    type RxToken<'a> = CameIn;
    type TxToken<'a> = GoesOut<'a>;

    fn receive(&mut self, _now: TcpInstant) -> Option<(CameIn, GoesOut<'_>)> {
        let packet = self.came_in.pop_front()?;
        Some((CameIn(packet), GoesOut(&mut self.goes_out)))
    }

    fn transmit(&mut self, _now: TcpInstant) -> Option<GoesOut<'_>> {
        Some(GoesOut(&mut self.goes_out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // What comes in has been looked at before it came here, see packet.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

impl RxToken for CameIn {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for GoesOut<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}
