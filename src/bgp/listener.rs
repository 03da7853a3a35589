//! The sockets on which routers' own connections arrive. Who may connect is not decided here.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::report::Board;
use crate::backoff::Backoff;

/// A connection, and who opened it.
pub(crate) type Accepted = (TcpStream, SocketAddr);

/// One task a socket; dropping it closes all.
#[derive(Debug)]
pub(crate) struct Listeners {
    sockets: BTreeMap<SocketAddr, AbortHandle>,
    tasks: JoinSet<()>,
    accepted: mpsc::Sender<Accepted>,
    board: Board,
}

impl Listeners {
    pub(crate) fn new(accepted: mpsc::Sender<Accepted>, board: Board) -> Listeners {
        Listeners {
            sockets: BTreeMap::new(),
            tasks: JoinSet::new(),
            accepted,
            board,
        }
    }

    /// Listens on these addresses and no others; those that stay are not touched.
    pub(crate) fn set(&mut self, wanted: &[SocketAddr]) {
        self.sockets.retain(|address, task| {
            let keep = wanted.contains(address);
            if !keep {
                task.abort();
            }
            keep
        });
        self.board.listening_only(wanted);
        for &address in wanted {
            self.sockets.entry(address).or_insert_with(|| {
                let (accepted, board) = (self.accepted.clone(), self.board.clone());
                self.tasks.spawn(listen(address, accepted, board))
            });
        }
        // Those that were aborted.
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn listen(address: SocketAddr, accepted: mpsc::Sender<Accepted>, board: Board) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let fault = match bind(address) {
            Ok(listener) => {
                board.listening(address, None);
                let error = accept(&listener, &accepted, &mut backoff).await;
                format!("accept on {address}: {error}")
            }
            Err(error) => format!("listen on {address}: {error}"),
        };
        if board.listening(address, Some(fault.clone())) {
            tracing::warn!(fault, "BGP connections of peers cannot be accepted");
        }
        sleep(backoff.next()).await;
    }
}

/// Until the socket fails.
async fn accept(
    listener: &TcpListener,
    accepted: &mpsc::Sender<Accepted>,
    backoff: &mut Backoff,
) -> io::Error {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                backoff.reset();
                if accepted.send(connection).await.is_err() {
                    return io::ErrorKind::BrokenPipe.into();
                }
            }
            // A connection that went away while it waited says nothing about the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return error,
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // IPv4 has its own socket.
        socket.set_only_v6(true)?;
    }
    // Else connections of a former process would be in the way for a minute.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(64)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;
    use crate::bgp::report::Report;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A port that was free a moment ago.
    fn free(host: &str) -> SocketAddr {
        let socket = std::net::TcpListener::bind((host, 0)).unwrap();
        socket.local_addr().unwrap()
    }

    fn listeners() -> (Listeners, mpsc::Receiver<Accepted>, watch::Receiver<Report>) {
        let (board, reports) = Board::new();
        let (accepted, connections) = mpsc::channel(1);
        (Listeners::new(accepted, board), connections, reports)
    }

    #[tokio::test]
    async fn both_families_on_one_port_and_gone_when_no_longer_wanted() {
        let (mut listeners, mut connections, _reports) = listeners();
        let v4 = free("127.0.0.1");
        let v6 = SocketAddr::new("::1".parse().unwrap(), v4.port());
        listeners.set(&[v4, v6]);
        for address in [v4, v6] {
            let connect = timeout(LIMIT, async {
                loop {
                    if let Ok(peer) = TcpStream::connect(address).await {
                        return peer;
                    }
                    tokio::task::yield_now().await;
                }
            });
            let mut peer = connect
                .await
                .unwrap_or_else(|_| panic!("{address} does not listen"));
            let (stream, from) = timeout(LIMIT, connections.recv()).await.unwrap().unwrap();
            assert_eq!(from, peer.local_addr().unwrap());
            drop(stream);
            assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
        }
        listeners.set(&[v6]);
        timeout(LIMIT, async {
            while TcpStream::connect(v4).await.is_ok() {}
        })
        .await
        .unwrap();
        TcpStream::connect(v6).await.unwrap();
    }
}
