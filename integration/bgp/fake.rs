//! A router made of bytes: it says whatever a test wants, right or wrong, and reads what we say.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::netns::{Namespace, until};
use crate::{ROUTER_AS, US};

pub(crate) const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
pub(crate) const NOTIFICATION: u8 = 3;
pub(crate) const KEEPALIVE: u8 = 4;

const LIMIT: Duration = Duration::from_secs(10);

/// One connection with the speaker, from the router's end.
pub(crate) struct Fake {
    pub(crate) stream: TcpStream,
}

/// Runs this on a thread in the namespace; sockets that it opens belong there.
pub(crate) fn within<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let handle = namespace.handle();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            handle.enter();
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Fake {
    /// Connects to the speaker, which may not listen yet.
    pub(crate) fn connect(namespace: &Namespace) -> Fake {
        let to = SocketAddr::new(US.parse().unwrap(), 179);
        Fake::new(within(namespace, || {
            until(LIMIT, "the speaker listens", || TcpStream::connect(to).ok())
        }))
    }

    /// Connects until it has the speaker's OPEN: who is no peer yet is sent away.
    pub(crate) fn open_sent(namespace: &Namespace) -> Fake {
        until(LIMIT, "an OPEN", || {
            let mut fake = Fake::connect(namespace);
            matches!(fake.read(), Some((OPEN, _))).then_some(fake)
        })
    }

    /// As above, and goes on to OpenConfirm with this OPEN.
    pub(crate) fn open_confirm(namespace: &Namespace, open: &[u8]) -> Fake {
        let mut fake = Fake::open_sent(namespace);
        fake.send(open);
        fake.expect(KEEPALIVE);
        fake
    }

    /// As above, and goes on to Established.
    pub(crate) fn established(namespace: &Namespace, open: &[u8]) -> Fake {
        let mut fake = Fake::open_confirm(namespace, open);
        fake.send(&keepalive());
        fake
    }

    pub(crate) fn new(stream: TcpStream) -> Fake {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Fake { stream }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message, as type and body; `None`: closed or reset.
    pub(crate) fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 19];
        if !self.fill(&mut header) {
            return None;
        }
        assert_eq!(header[..16], [0xff; 16]);
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
        self.fill(&mut body).then_some((header[18], body))
    }

    fn fill(&mut self, into: &mut [u8]) -> bool {
        match self.stream.read_exact(into) {
            Ok(()) => true,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                false
            }
            Err(error) => panic!("nothing to read: {error}"),
        }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, kind: u8) -> Vec<u8> {
        match self.read() {
            Some((other, body)) if other == kind => body,
            other => panic!("{other:?} is not of type {kind}"),
        }
    }

    /// What the speaker says at last, before it closes: code, subcode, data; the rest is skipped.
    pub(crate) fn last_words(&mut self) -> Option<Vec<u8>> {
        let mut last = None;
        while let Some((kind, body)) = self.read() {
            last = (kind == NOTIFICATION).then_some(body);
        }
        last
    }

    /// Closes it by a reset.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A listener at the router's end, for the speaker's own connections.
pub(crate) fn listen(namespace: &Namespace, address: IpAddr) -> TcpListener {
    within(namespace, || {
        until(LIMIT, "the port is free", || {
            TcpListener::bind((address, 179)).ok()
        })
    })
}

/// A message of this type around this body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend((19 + body.len() as u16).to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

pub(crate) fn keepalive() -> Vec<u8> {
    message(KEEPALIVE, &[])
}

/// An OPEN's fields, right until somebody makes one wrong.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) version: u8,
    pub(crate) asn: u16,
    pub(crate) hold_time: u16,
    pub(crate) identifier: Ipv4Addr,
    pub(crate) capabilities: Vec<u8>,
}

pub(crate) const MP_IPV4: [u8; 6] = [1, 4, 0, 1, 0, 1];
pub(crate) const MP_IPV6: [u8; 6] = [1, 4, 0, 2, 0, 1];

pub(crate) fn hello() -> Hello {
    let asn = ROUTER_AS as u16;
    let [high, low] = asn.to_be_bytes();
    let mut capabilities = [MP_IPV4, MP_IPV6].concat();
    capabilities.extend([65, 4, 0, 0, high, low]);
    Hello {
        version: 4,
        asn,
        hold_time: 90,
        identifier: Ipv4Addr::new(10, 9, 0, 2),
        capabilities,
    }
}

impl Hello {
    pub(crate) fn message(&self) -> Vec<u8> {
        let length = self.capabilities.len() as u8;
        let mut body = vec![self.version];
        body.extend(self.asn.to_be_bytes());
        body.extend(self.hold_time.to_be_bytes());
        body.extend(self.identifier.octets());
        if length == 0 {
            body.push(0);
        } else {
            body.extend([length + 2, 2, length]);
        }
        body.extend(&self.capabilities);
        message(OPEN, &body)
    }
}
