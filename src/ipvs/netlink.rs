//! The kernel's table over generic netlink: one socket, one request at a time. What the messages look like is
//! [`super::wire`]'s business; when to talk is [`super`]'s.
//!
//! The kernel works on a request inside `send`, so the answers are there when it returns. All changes of one
//! service and its reading back therefore go out together and cost as little as one of them:
//!
//! ```text
//!  send: change … change  GET_SERVICE  GET_DEST(dump)
//!  recv: an error for each refused change, the service, its destinations, the end
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::table::{Change, Held, Listed, Outcome, Refusal, Unavailable};
use super::wire::{self, Reply, Requests, Says, SyncThread};
use crate::service::VirtualService;
use crate::snapshot::traffic::Reading;

/// The IPVS table of the network namespace that it was connected in.
pub struct Kernel {
    socket: TokioSocket,
    /// The number that the kernel gave the family "IPVS"; another one after each load of the module.
    family: u16,
    sequence: u32,
    received: Vec<u8>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// Answers to hundreds of refused changes, and a dump, must fit (socket(7): `SO_RCVBUFFORCE`).
const RECEIVE_BUFFER: usize = 8 << 20;
/// The kernel fills at most 32 KiB at once (`netlink_dump()`).
const DATAGRAM: usize = 64 << 10;
/// How long answers may take that should be there at once.
const PATIENCE: Duration = Duration::from_secs(5);

impl Kernel {
    /// Finds IPVS, loading its module if the kernel can, and makes sure that it lets us in.
    pub async fn connect() -> Result<Kernel, Unavailable> {
        let socket = open().map_err(|source| Unavailable::Netlink {
            operation: "open a socket",
            source,
        })?;
        let mut kernel = Kernel {
            socket,
            family: 0,
            sequence: 0,
            received: Vec::with_capacity(DATAGRAM),
        };
        kernel.family = kernel.resolve().await?;
        let mut requests = Requests::new(kernel.family, kernel.sequence);
        requests.info();
        kernel
            .converse(requests, |_| {})
            .await?
            .map_err(|errno| unavailable("ask for the version of IPVS", errno))?;
        Ok(kernel)
    }

    async fn resolve(&mut self) -> Result<u16, Unavailable> {
        let mut requests = Requests::new(0, self.sequence);
        requests.family();
        let mut family = None;
        let end = self
            .converse(requests, |reply| {
                if let Says::Data(body) = reply.says {
                    family = wire::parse_family(body);
                }
            })
            .await?;
        match (end, family) {
            (Ok(()), Some(family)) => Ok(family),
            (Ok(()), None) => Err(Unavailable::Malformed),
            (Err(Errno::ENOENT), _) => Err(Unavailable::NoIpvs),
            (Err(errno), _) => Err(unavailable("look for IPVS", errno)),
        }
    }

    /// Whether this kernel's IPVS was built with TCP, and with UDP. Without, a service of it can be made all the
    /// same, and gets no packet.
    pub async fn protocols(&mut self) -> Result<(bool, bool), Unavailable> {
        let mut requests = Requests::new(self.family, self.sequence);
        requests.timeouts();
        let mut protocols = None;
        let end = self
            .converse(requests, |reply| {
                if let Says::Data(body) = reply.says {
                    protocols = Some(wire::parse_timeouts(body));
                }
            })
            .await?;
        end.map_err(|errno| unavailable("ask for the timeouts", errno))?;
        protocols.ok_or(Unavailable::Malformed)
    }

    pub(super) async fn change(
        &mut self,
        key: VirtualService,
        changes: &[Change],
    ) -> Result<Outcome, Unavailable> {
        let mut requests = Requests::new(self.family, self.sequence);
        let first = requests.sequence.wrapping_add(1);
        for change in changes {
            requests.change(key, change);
        }
        let asked = requests.service(key);
        requests.destinations(key);

        let mut refusals = Vec::new();
        let mut settings = None;
        let mut read = Ok(());
        // A dump may name one twice; in a map that does no harm.
        let mut destinations = BTreeMap::new();
        let mut traffic = Reading::default();
        let end = self
            .converse(requests, |Reply { to, says }| match says {
                Says::Data(body) if to == asked => {
                    settings = Some(wire::parse_service(body).1);
                    traffic.counts = wire::parse_service_counts(body);
                }
                Says::Data(body) => {
                    if let Some((backend, to, busy)) = wire::parse_destination(body, key.family()) {
                        destinations.insert(backend, to);
                        traffic.servers.insert(backend, busy);
                    }
                }
                Says::End(end) if to == asked => read = end,
                Says::End(Ok(())) => {}
                Says::End(Err(errno)) => {
                    let index = usize::try_from(to.wrapping_sub(first)).ok();
                    if let Some(change) = index.and_then(|index| changes.get(index)) {
                        refusals.push(Refusal {
                            change: change.clone(),
                            errno,
                        });
                    }
                }
            })
            .await?;
        match read.and(end) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(unavailable("read a service", errno)),
        }
        Ok(Outcome {
            refusals,
            held: settings.map(|settings| Held {
                settings,
                destinations,
                traffic: Arc::new(traffic),
            }),
        })
    }

    pub(super) async fn list(&mut self) -> Result<BTreeSet<Listed>, Unavailable> {
        let mut requests = Requests::new(self.family, self.sequence);
        requests.all_services();
        let mut services = BTreeSet::new();
        let end = self
            .converse(requests, |reply| {
                if let Says::Data(body) = reply.says {
                    services.insert(wire::parse_service(body).0);
                }
            })
            .await?;
        end.map_err(|errno| unavailable("list the services", errno))?;
        Ok(services)
    }

    pub(super) async fn sync_threads(&mut self) -> Result<BTreeSet<SyncThread>, Unavailable> {
        let mut requests = Requests::new(self.family, self.sequence);
        requests.sync_threads();
        let mut threads = BTreeSet::new();
        let end = self
            .converse(requests, |reply| {
                if let Says::Data(body) = reply.says {
                    threads.extend(wire::parse_sync_thread(body));
                }
            })
            .await?;
        end.map_err(|errno| unavailable("list the threads of synchronisation", errno))?;
        Ok(threads)
    }

    pub(super) async fn start_sync(
        &mut self,
        thread: &SyncThread,
    ) -> Result<Result<(), Errno>, Unavailable> {
        let mut requests = Requests::new(self.family, self.sequence);
        requests.start_sync(thread);
        self.converse(requests, |_| {}).await
    }

    pub(super) async fn stop_sync(
        &mut self,
        thread: &SyncThread,
    ) -> Result<Result<(), Errno>, Unavailable> {
        let mut requests = Requests::new(self.family, self.sequence);
        requests.stop_sync(thread);
        self.converse(requests, |_| {}).await
    }

    /// Sends the requests and hands on what comes until the last of them has ended. Gives how that
    /// one ended. After an error of ours the socket is of no more use.
    async fn converse(
        &mut self,
        requests: Requests,
        mut each: impl FnMut(Reply<'_>),
    ) -> Result<Result<(), Errno>, Unavailable> {
        let failed = |operation| move |source| Unavailable::Netlink { operation, source };
        self.sequence = requests.sequence;
        for datagram in &requests.datagrams {
            self.socket.send(datagram).await.map_err(failed("send"))?;
        }
        loop {
            self.receive().await.map_err(failed("receive"))?;
            for reply in wire::replies(&self.received) {
                let reply = reply.ok_or(Unavailable::Malformed)?;
                match reply.says {
                    Says::End(end) if reply.to == requests.sequence => return Ok(end),
                    Says::End(_) | Says::Data(_) => each(reply),
                }
            }
        }
    }

    /// The next datagram. It is there already, so asking the runtime when one comes would only cost time.
    async fn receive(&mut self) -> io::Result<()> {
        self.received.clear();
        match self.socket.socket_ref().recv(&mut self.received, 0) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::timeout(PATIENCE, self.socket.recv(&mut self.received)).await?
            }
            other => other.map(|_| ()),
        }
    }
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
    socket.socket_mut().bind_auto()?;
    socket.socket_mut().connect(&SocketAddr::new(0, 0))?;
    // Errors come back without a copy of the request.
    socket.socket_mut().set_cap_ack(true)?;
    // Without CAP_NET_ADMIN this fails, and then so does all the rest, with a better message.
    let _ = setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER);
    Ok(socket)
}

fn unavailable(operation: &'static str, errno: Errno) -> Unavailable {
    if errno == Errno::EPERM {
        Unavailable::NotPermitted
    } else if errno == Errno::ENOENT {
        // The family's number is not known (any more). IPVS itself says ESRCH of a service that is not there.
        Unavailable::Reloaded
    } else {
        Unavailable::Netlink {
            operation,
            source: errno.into(),
        }
    }
}
