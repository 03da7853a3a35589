//! A peer's connections: taken or opened, written to, closed. What comes by them is not read here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::shown::{End, said};
use super::{Peer, at, figures};
use crate::bgp::message;
use crate::bgp::notification::{Cease, Notification};
use crate::bgp::peering::Side;
use crate::bgp::session::Event;
use crate::bgp::sockopt::Failed;
use crate::bgp::transport::{Connection, Limits, Outgoing};
use crate::chain::chain;

/// So many connections, with those that are being closed, a peer may cost us.
const CONNECTIONS: usize = 8;

/// A connection and its two ends.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Peer {
    pub(super) fn accept(&mut self, stream: TcpStream) {
        if self.tasks.len() >= CONNECTIONS {
            tracing::debug!(peer = %self.current.peer.id, "a connection too many is closed unanswered");
            return;
        }
        let admitted = if self.ending.is_none() {
            self.peering.admit(at())
        } else {
            Err(Notification::cease(Cease::ConnectionRejected))
        };
        match admitted {
            Ok(actions) => {
                self.apply(actions);
                self.open(Side::In, stream);
            }
            Err(why) => {
                tracing::debug!(peer = %self.current.peer.id, %why, "a connection is refused");
                Connection::new(stream, self.limits(), &mut self.tasks)
                    .close(Some(message::notification(&why)));
            }
        }
    }

    pub(super) fn connected(&mut self, result: Result<TcpStream, Failed>) {
        self.connecting = None;
        match result {
            Ok(stream) => self.open(Side::Out, stream),
            Err(failed) => {
                let fault = chain(&failed);
                let refused = [
                    io::ErrorKind::ConnectionRefused,
                    io::ErrorKind::ConnectionReset,
                ];
                let event = if refused.contains(&failed.source.kind()) {
                    Event::ConnectionRefused(fault)
                } else {
                    Event::ConnectionFails(fault)
                };
                self.event(Side::Out, event);
            }
        }
    }

    fn open(&mut self, side: Side, stream: TcpStream) {
        let connection = Connection::new(stream, self.limits(), &mut self.tasks);
        let event = match (connection.local, connection.remote) {
            (Some(local), Some(remote)) => {
                tracing::debug!(peer = %self.current.peer.id, ?side, %local, %remote, "connected");
                *self.link(side) = Some(Link {
                    connection,
                    local,
                    remote,
                });
                Event::Connected
            }
            (None, _) | (_, None) => {
                Event::ConnectionFails("the connection is gone already".into())
            }
        };
        self.event(side, event);
    }

    /// Where there is no room the peer has more than a keepalive before it already.
    pub(super) fn send(&mut self, side: Side, frame: Vec<u8>, withdrawn: Vec<IpNet>) -> bool {
        let figures = self.shown.figures.clone();
        match self.link(side) {
            Some(link) if link.connection.has_room() => {
                figures::count(&figures.sent, &frame);
                link.connection.send(Outgoing { frame, withdrawn })
            }
            Some(_) | None => false,
        }
    }

    /// The end that this is, if there was a session.
    pub(super) fn close(&mut self, side: Side, last: Option<&Notification>) -> Option<End> {
        if side == Side::Out {
            self.connecting = None;
        }
        let established = self.established.take_if(|e| e.side == side);
        if established.is_some() {
            figures::add(&self.shown.figures.times_lost);
            figures::FAMILIES.iter().enumerate().for_each(|(index, _)| {
                figures::set(&self.shown.figures.prefixes[index], 0);
            });
            self.shown.negotiated = None;
        }
        if let Some(link) = self.link(side).take() {
            let frame = last.map(message::notification);
            if let (Some(last), Some(frame)) = (last, &frame) {
                self.shown.told_last = Some(Arc::new(said(last)));
                figures::count(&self.shown.figures.sent, frame);
            }
            link.connection.close(frame);
        }
        established.map(|established| End {
            up: Instant::now() - established.since,
            why: last.map_or_else(String::new, |last| format!("we say: {last}")),
        })
    }

    pub(super) fn link(&mut self, side: Side) -> &mut Option<Link> {
        match side {
            Side::Out => &mut self.outgoing,
            Side::In => &mut self.incoming,
        }
    }

    pub(super) fn has_room(&mut self, side: Side) -> bool {
        let link = self.link(side).as_ref();
        link.is_some_and(|link| link.connection.has_room())
    }

    pub(super) fn limits(&self) -> Limits {
        let longest = if self.current.ends.extended_messages {
            message::LONGEST_EXTENDED
        } else {
            message::LONGEST
        };
        Limits {
            send_hold: self.current.peer.send_hold_time,
            longest,
        }
    }
}
