//! Servers that do as they are told.

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::edge::PATIENCE;

/// Serves until dropped; then its sockets are closed as a killed process's are.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start<F>(
        at: impl tokio::net::ToSocketAddrs,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Server
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let count = accepted.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                let served = serve(stream);
                connections.spawn(async move { drop(served.await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Server {
            address,
            accepted,
            _tasks: tasks,
        }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    pub(crate) async fn until_accepted(&self, count: usize) {
        let enough = async {
            while self.accepted() < count {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, enough)
            .await
            .expect("connections in time");
    }
}

pub(crate) async fn keep_open(stream: TcpStream) -> io::Result<()> {
    let _open = stream;
    pending().await
}

/// Ends a connection by RST.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// Reads a request's head.
pub(crate) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// Answers every request with these bytes, then closes.
pub(crate) async fn answering(at: &str, answer: &'static str) -> Server {
    Server::start(at, move |mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(answer.as_bytes()).await
    })
    .await
}

/// After `first`, sends `more` for ever; counts the bytes that it could. If `asked`, it waits for a request.
pub(crate) async fn flooding(
    asked: bool,
    first: &'static str,
    more: &'static [u8],
) -> (Server, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let server = Server::start("127.0.0.1:0", move |mut stream| {
        let count = count.clone();
        async move {
            // What the kernels hold is not ours: keep it small.
            SockRef::from(&stream).set_send_buffer_size(16 * 1024)?;
            if asked {
                head(&mut stream).await?;
            }
            stream.write_all(first.as_bytes()).await?;
            loop {
                stream.write_all(more).await?;
                count.fetch_add(more.len(), SeqCst);
            }
        }
    })
    .await;
    (server, sent)
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
