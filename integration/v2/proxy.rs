//! What may stand between us and etcd: passes bytes on, cuts connections, keeps polls waiting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    open: Arc<AtomicUsize>,
    polls: watch::Receiver<usize>,
    state: watch::Sender<State>,
    _task: JoinSet<()>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Connections of an older number are cut.
    cuts: u64,
    /// Polls are not passed on.
    held: bool,
    /// New connections are closed at once.
    shut: bool,
}

impl Proxy {
    /// In front of the endpoint `http://ADDRESS`.
    pub(crate) async fn start(target: &str) -> Proxy {
        let target = target.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (state, watched) = watch::channel(State::default());
        let open = Arc::new(AtomicUsize::new(0));
        let (count, polls) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(serve(listener, target, watched, count, open.clone()));
        Proxy {
            endpoint,
            open,
            polls,
            state,
            _task: task,
        }
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns when a poll has been passed on.
    pub(crate) async fn polled(&mut self) {
        self.polls.wait_for(|polls| *polls > 0).await.unwrap();
    }

    /// Ends all connections, as a reset does.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Whether new connections are closed at once.
    pub(crate) fn shut(&self, shut: bool) {
        self.state.send_modify(|state| state.shut = shut);
    }

    /// Whether polls are kept from etcd.
    pub(crate) fn hold(&self, held: bool) {
        self.state.send_modify(|state| state.held = held);
    }
}

async fn serve(
    listener: TcpListener,
    target: SocketAddr,
    state: watch::Receiver<State>,
    polls: watch::Sender<usize>,
    open: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        if state.borrow().shut {
            continue;
        }
        let (state, polls, open) = (state.clone(), polls.clone(), open.clone());
        connections.spawn(async move {
            open.fetch_add(1, Ordering::Relaxed);
            pass(stream, target, state, polls).await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn pass(
    stream: TcpStream,
    target: SocketAddr,
    state: watch::Receiver<State>,
    polls: watch::Sender<usize>,
) {
    let Ok(etcd) = TcpStream::connect(target).await else {
        return;
    };
    etcd.set_nodelay(true).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut answers, requests) = etcd.into_split();
    let (from, mut to) = stream.into_split();
    let cuts = state.borrow().cuts;
    let mut cut = state.clone();
    tokio::select! {
        _ = ask(from, requests, state, polls) => {}
        _ = copy(&mut answers, &mut to) => {}
        _ = cut.wait_for(|state| state.cuts != cuts) => {}
    }
}

/// A request is a packet, or its beginning is: so short they are.
async fn ask(
    mut from: OwnedReadHalf,
    mut requests: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    polls: watch::Sender<usize>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        if bytes[..read].windows(9).any(|part| part == b"wait=true") {
            drop(state.wait_for(|state| !state.held).await);
            polls.send_modify(|polls| *polls += 1);
        }
        requests.write_all(&bytes[..read]).await?;
    }
}
