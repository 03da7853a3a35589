//! The true path: TCP to a VIP at one very server, as IPVS forwards clients' packets by direct routing. The packets
//! have the VIP as their IP destination and go to the link-layer address of the server, or of the router before it.
//!
//! The kernel's own TCP can not do this: it sends what is for the VIP elsewhere, or, where the VIP is on this host,
//! takes it itself and drops the answers. So packets go out and come in by packet sockets, past the kernel's TCP.
//! They see an answer before rp_filter, netfilter and the host's own stack do.
//!
//! ```text
//!  vip_reachability ──► Port ──┐  next hop: neighbours          ┌─► line ─► server
//!  stream ────────────► Port ──┴────────────────────────────────┘
//!            inbox ◄── ports (by addresses and ports) ◄── receive ◄── line ◄── server
//! ```
//!
//! Not here: tunnelled servers, and what an answer means.

mod filter;
mod line;
mod neighbours;
mod packet;
mod ports;
mod stream;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::connect::words;
use super::outcome::{Deadline, Failure};
use crate::check::Check;

pub(super) use self::neighbours::Hop;
pub(super) use self::packet::{Answer, Flow, Segment};
pub(super) use self::stream::connect;

use self::line::Line;
use self::neighbours::Neighbours;
use self::ports::{Ports, Wanted};

/// What checks on the true path share.
#[derive(Default)]
pub(super) struct Vip {
    /// Opened by the first check that needs it.
    line: OnceLock<Line>,
    opened: Notify,
    ports: Ports,
    neighbours: Neighbours,
}

/// How a packet gets from here to a server.
pub(super) enum Way {
    /// The server is this very host.
    Here,
    Over(Hop),
}

impl Vip {
    /// The way to the server; `fresh`: as the kernel has it now, else it may be a few seconds old.
    pub(super) async fn way(
        &self,
        server: IpAddr,
        fresh: bool,
        deadline: Deadline,
    ) -> Result<Way, Failure> {
        self.neighbours.way(server, fresh, deadline).await
    }

    /// The server did not answer: its way is looked up anew the next time.
    pub(super) fn forget(&self, server: IpAddr) {
        self.neighbours.forget(server);
    }

    /// A port of ours to speak to `vip` from.
    pub(super) fn port(self: &Arc<Self>, hop: Hop, vip: SocketAddr) -> Result<Port, Failure> {
        let line = self.line()?;
        line.hear_for(hop.source)?;
        let (flow, inbox) = self
            .ports
            .take(hop, vip, Instant::now())
            .ok_or_else(|| Failure::Unable(format!("all ports to VIP {vip} are in use")))?;
        Ok(Port {
            flow,
            hop,
            inbox,
            vip: self.clone(),
        })
    }

    /// Hands on what comes in, for ever.
    pub(super) async fn receive(&self) -> Infallible {
        let line = loop {
            match self.line.get() {
                Some(line) => break line,
                None => self.opened.notified().await,
            }
        };
        line.receive(|packet| self.take(line, packet)).await
    }

    fn take(&self, line: &Line, packet: &[u8]) {
        let Some(segment) = Segment::read(packet) else {
            return;
        };
        match self.ports.wanted(&segment.flow) {
            Wanted::By(inbox) => {
                // Whoever does not keep up loses packets, as on any wire.
                let _ = inbox.try_send(packet.into());
            }
            // RFC 9293 section 3.5.2, group 1: a connection of the past ends at the other end, too.
            Wanted::Closed(hop) => {
                if let Some(reset) = segment.reset() {
                    let _ = line.send(&hop, &reset);
                }
            }
            Wanted::Unknown => {}
        }
    }

    fn line(&self) -> Result<&Line, Failure> {
        if let Some(line) = self.line.get() {
            return Ok(line);
        }
        let line = Line::open()?;
        let line = self.line.get_or_init(|| line);
        self.opened.notify_one();
        Ok(line)
    }
}

/// One end of a conversation with a VIP at a server. What still comes for it after its end is answered by a reset.
pub(super) struct Port {
    pub(super) flow: Flow,
    /// Where its packets go.
    pub(super) hop: Hop,
    inbox: mpsc::Receiver<Box<[u8]>>,
    vip: Arc<Vip>,
}

impl Port {
    /// A whole IP packet. That it is lost on this host is as if it were lost on the wire.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        let line = self.vip.line.get().ok_or(io::ErrorKind::NotConnected)?;
        match line.send(&self.hop, packet) {
            Err(error) if is_full(&error) => Ok(()),
            sent => sent,
        }
    }

    /// The next IP packet of this conversation.
    pub(super) async fn receive(&mut self) -> Box<[u8]> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Box<[u8]>> {
        match self.inbox.poll_recv(cx) {
            Poll::Ready(Some(packet)) => Poll::Ready(packet),
            // The other end of the inbox stays until this port is dropped.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.vip.ports.close(self.flow, self.hop, Instant::now());
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Where clients connect to, as far as the check goes: the VIP and the monitor's port.
pub(super) fn asked(check: &Check) -> SocketAddr {
    SocketAddr::new(check.vip, check.target.port())
}

pub(super) fn refused(vip: SocketAddr) -> Failure {
    Failure::Server(format!("connection refused at {}", named(vip)))
}

pub(super) fn silent(vip: SocketAddr) -> Failure {
    let vip = named(vip);
    Failure::Server(format!("does not answer for {vip}: is it bound on lo?"))
}

fn named(vip: SocketAddr) -> String {
    format!("VIP {} port {}", vip.ip(), vip.port())
}

/// A packet could not be sent.
pub(super) fn not_sent(error: &io::Error) -> Failure {
    Failure::Server(format!("cannot send to the server: {}", words(error)))
}
