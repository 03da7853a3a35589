//! A real web server on port 80 of the balancer's host: it dies, comes back, hesitates, and counts who comes.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::lab::Lab;

pub(crate) struct Server {
    address: SocketAddr,
    /// What requests are answered with; `None`: they wait.
    status: watch::Sender<Option<u16>>,
    count: Arc<Count>,
    /// All its sockets are in there.
    running: Option<(Runtime, JoinHandle<()>)>,
}

#[derive(Default)]
struct Count {
    accepted: AtomicUsize,
    /// By their numbers, from 1.
    open: Mutex<BTreeSet<usize>>,
    requests: AtomicUsize,
}

impl Server {
    /// Answers 200.
    pub(crate) fn start(lab: &Lab, address: &str) -> Server {
        let mut server = Server {
            address: SocketAddr::new(address.parse().unwrap(), 80),
            status: watch::Sender::new(Some(200)),
            count: Arc::default(),
            running: None,
        };
        server.revive(lab);
        server
    }

    /// Answers with this from now on; `None`: not before it is told to.
    pub(crate) fn answer(&self, status: Option<u16>) {
        self.status.send_replace(status);
    }

    /// As when its process is killed: all connections are closed, new ones refused.
    pub(crate) fn die(&mut self) {
        if let Some((runtime, serve)) = self.running.take() {
            serve.abort();
            // The listener is closed before the connections are.
            let _ = runtime.block_on(serve);
        }
    }

    pub(crate) fn revive(&mut self, lab: &Lab) {
        let listener = lab.inside(|| listen(self.address)).unwrap();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (status, count) = (self.status.subscribe(), self.count.clone());
        let serve = runtime.spawn(serve(listener, status, count));
        self.running = Some((runtime, serve));
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.count.accepted.load(Ordering::SeqCst)
    }

    /// The connections that are open now: which they were, the first is 1.
    pub(crate) fn open(&self) -> BTreeSet<usize> {
        self.count.open.lock().unwrap().clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.count.requests.load(Ordering::SeqCst)
    }
}

/// With room for as many as come at once.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(65535)?;
    Ok(socket.into())
}

async fn serve(listener: TcpListener, status: watch::Receiver<Option<u16>>, count: Arc<Count>) {
    // Dropped last.
    let mut connections = JoinSet::new();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let open = Open::new(count.clone());
        connections.spawn(converse(stream, status.clone(), open));
        while connections.try_join_next().is_some() {}
    }
}

/// A connection, counted.
struct Open {
    count: Arc<Count>,
    number: usize,
}

impl Open {
    fn new(count: Arc<Count>) -> Open {
        let number = 1 + count.accepted.fetch_add(1, Ordering::SeqCst);
        count.open.lock().unwrap().insert(number);
        Open { count, number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.open.lock().unwrap().remove(&self.number);
    }
}

async fn converse(mut stream: TcpStream, mut status: watch::Receiver<Option<u16>>, open: Open) {
    let mut head = Vec::new();
    // Until the client has gone.
    while let Ok(1..) = stream.read_buf(&mut head).await {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        open.count.requests.fetch_add(1, Ordering::SeqCst);
        let answer = status.wait_for(Option::is_some).await.map(|status| *status);
        let Ok(Some(status)) = answer else { return };
        let text = format!("HTTP/1.1 {status} Said\r\nContent-Length: 3\r\n\r\nup\n");
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}
