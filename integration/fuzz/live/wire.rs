//! One connection with the speaker, from the router's end: what has passed over it, both ways, and whether that is
//! what a speaker may say. It panics where it is not.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use plimsoll::bgp::message::{self, HEADER, Message, Open, Sender, Update};
use plimsoll::bgp::notification::Notification;
use socket2::{Domain, SockRef, Socket, Type};

/// Far more than anything takes on a machine that has other things to do, too.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Wire {
    /// `None`: closed by us.
    stream: Option<TcpStream>,
    internal: bool,
    /// What the router has said, as far as a speaker gets to a session by it.
    sent: Vec<u8>,
    sent_open: Option<Open>,
    sent_keepalive: bool,
    /// It has said something else first.
    spoilt: bool,
    /// What is not a whole message yet.
    unread: Vec<u8>,
    pub(crate) open: Option<Open>,
    pub(crate) keepalive: bool,
    /// An UPDATE has come, so the speaker takes it for established.
    pub(crate) established: bool,
    pub(crate) told: Option<Notification>,
    /// By the speaker.
    pub(crate) closed: bool,
    /// What it has announced and not withdrawn, with the MED.
    pub(crate) table: BTreeMap<IpAddr, Option<u32>>,
    pub(crate) ends_of_rib: usize,
}

impl Wire {
    /// `None`: not even a connection.
    pub(crate) fn connect(from: IpAddr, to: SocketAddr, internal: bool) -> Option<Wire> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from = SocketAddr::new(from, 0);
        socket
            .bind(&from.into())
            .expect("the loopback device has all of 127.0.0.0/8");
        socket.connect(&to.into()).ok()?;
        Some(Wire::new(socket.into(), internal))
    }

    pub(crate) fn new(stream: TcpStream, internal: bool) -> Wire {
        stream.set_nonblocking(true).expect("a socket");
        // Else a part of what the script sends would wait for the rest; a socket that is gone already does not mind.
        drop(stream.set_nodelay(true));
        Wire {
            stream: Some(stream),
            internal,
            sent: Vec::new(),
            sent_open: None,
            sent_keepalive: false,
            spoilt: false,
            unread: Vec::new(),
            open: None,
            keepalive: false,
            established: false,
            told: None,
            closed: false,
            table: BTreeMap::new(),
            ends_of_rib: 0,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.stream.is_some() && !self.closed
    }

    /// Whether the router has said all that makes a session. What the speaker said may never have been read.
    pub(crate) fn has_said_all(&self) -> bool {
        self.sent_keepalive
    }

    /// As much of it as the socket takes.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) {
        while let Some(stream) = &mut self.stream
            && let Ok(count @ 1..) = stream.write(bytes)
        {
            self.sent.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
        }
        self.note_sent();
    }

    /// The connection's end, once it is dropped.
    pub(crate) fn close(&mut self) {
        self.stream = None;
    }

    pub(crate) fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
        }
    }

    pub(crate) fn half_close(&mut self) {
        if let Some(stream) = &self.stream {
            drop(stream.shutdown(std::net::Shutdown::Write));
        }
    }

    /// Reads until this holds or the speaker closes; whether it holds.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Wire) -> bool) -> bool {
        wait(what, || {
            self.read();
            if holds(self) {
                return Some(true);
            }
            (!self.is_open()).then_some(false)
        })
    }

    /// What has come by now; whether that is anything.
    pub(crate) fn read(&mut self) -> bool {
        let mut news = false;
        let mut buffer = [0; 16384];
        while let Some(stream) = &mut self.stream
            && !self.closed
        {
            match stream.read(&mut buffer) {
                Ok(0) => {
                    self.closed = true;
                    assert!(self.unread.is_empty(), "it ends inside a message: {self:?}");
                }
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.closed = true,
            }
            news = true;
            self.hear_all();
        }
        news
    }

    fn hear_all(&mut self) {
        while let Some(header) = self.unread.first_chunk::<HEADER>() {
            let length = message::frame_length(header, message::LONGEST_EXTENDED)
                .unwrap_or_else(|told| panic!("{told} in {self:?}"));
            if self.unread.len() < length {
                return;
            }
            let frame: Vec<u8> = self.unread.drain(..length).collect();
            self.hear(&frame);
        }
    }

    fn hear(&mut self, frame: &[u8]) {
        let extended = |open: &Option<Open>| open.as_ref().is_some_and(|o| o.extended_messages);
        let long = extended(&self.open) && extended(&self.sent_open);
        assert!(long || frame.len() <= message::LONGEST, "{self:?}");
        let sender = Sender {
            internal: self.internal,
            four_octet_as: self
                .sent_open
                .as_ref()
                .is_none_or(|open| open.four_octet_as),
        };
        let heard = message::decode(frame, sender)
            .unwrap_or_else(|told| panic!("{told}: {frame:?} in {self:?}"));
        assert_eq!(self.told, None, "{heard:?} after that: {self:?}");
        let first = self.open.is_none();
        match heard {
            Message::Open(open) => {
                assert!(first, "another {open:?} in {self:?}");
                self.open = Some(open);
            }
            Message::Keepalive => {
                let answers = !first && self.sent_open.is_some();
                assert!(answers, "a KEEPALIVE before the OPENs: {self:?}");
                self.keepalive = true;
            }
            Message::Update(update) => {
                assert!(self.has_session(), "{update:?} without a session: {self:?}");
                self.established = true;
                self.update(update);
            }
            Message::RouteRefresh(refresh) => {
                assert!(
                    self.has_session(),
                    "{refresh:?} without a session: {self:?}"
                );
            }
            Message::Notification(told) => self.told = Some(told),
        }
    }

    fn has_session(&self) -> bool {
        self.keepalive && self.sent_keepalive
    }

    fn update(&mut self, update: Update) {
        assert_eq!(update.fault, None, "{update:?} in {self:?}");
        if update.end_of_rib.is_some() {
            self.ends_of_rib += 1;
        }
        for prefix in update.withdrawn {
            let known = self.table.remove(&prefix.addr());
            assert!(known.is_some(), "{prefix} was not announced: {self:?}");
        }
        for prefix in update.announced {
            assert_eq!(prefix.prefix_len(), prefix.max_prefix_len(), "{self:?}");
            self.table.insert(prefix.addr(), update.attributes.med);
        }
    }

    /// The first message has to be an OPEN and the second a KEEPALIVE; what comes then changes no more.
    fn note_sent(&mut self) {
        while !self.sent_keepalive
            && !self.spoilt
            && let Some(header) = self.sent.first_chunk::<HEADER>()
            && let Ok(length) = message::frame_length(header, message::LONGEST)
            && self.sent.len() >= length
        {
            let frame: Vec<u8> = self.sent.drain(..length).collect();
            let sender = Sender {
                internal: self.internal,
                four_octet_as: true,
            };
            match message::decode(&frame, sender) {
                Ok(Message::Open(open)) if self.sent_open.is_none() => self.sent_open = Some(open),
                Ok(Message::Keepalive) if self.sent_open.is_some() => self.sent_keepalive = true,
                Ok(_) | Err(_) => self.spoilt = true,
            }
        }
    }
}

/// Asks again and again until there is an answer. Panics when it takes too long.
pub(crate) fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    wait_for(LIMIT, &mut ask).unwrap_or_else(|| panic!("not within {LIMIT:?}: {what}"))
}

pub(crate) fn wait_for<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let answer = ask();
        if answer.is_some() || begun.elapsed() >= limit {
            return answer;
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}
