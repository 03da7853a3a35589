//! The control socket: who may open it, what it leaves behind, what orders come to, and what clients cost.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use plimsoll::api::{Limits, control};
use plimsoll::event::{Event, PeerOrder};
use plimsoll::history::History;
use plimsoll::routing::session::SessionState;
use plimsoll::snapshot::Snapshot;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::{SOON, sample, split};

/// The socket's side of the daemon; the test itself is the core.
struct Control {
    path: PathBuf,
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: mpsc::Receiver<Event>,
    task: JoinSet<()>,
    _folder: TempDir,
}

impl Control {
    /// In a folder that is not there yet; `before` may have something at the socket's place.
    fn begun(limits: Limits, before: impl FnOnce(&Path)) -> Control {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/plimsoll/control.sock");
        before(&path);
        let mut snapshot = sample::snapshot([]);
        sample::sessions(&mut snapshot);
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let (sender, events) = mpsc::channel(8);
        let mut task = JoinSet::new();
        let history = History::new(SystemTime::UNIX_EPOCH);
        task.spawn(control::run_within(
            limits,
            path.clone(),
            history,
            receiver,
            sender,
        ));
        Control {
            path,
            snapshots,
            events,
            task,
            _folder: folder,
        }
    }

    async fn start(limits: Limits) -> Control {
        let control = Control::begun(limits, |_| {});
        control.until_it_answers().await;
        control
    }

    async fn until_it_answers(&self) {
        let answers = async {
            while UnixStream::connect(&self.path).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, answers).await.expect("no control socket");
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    async fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        asked(&self.path, method, path, body).await
    }

    async fn event(&mut self) -> Event {
        timeout(SOON, self.events.recv())
            .await
            .expect("no event")
            .unwrap()
    }

    async fn order(&mut self) -> PeerOrder {
        let event = self.event().await;
        let Event::PeerOrder { peer, order } = event else {
            panic!("{event:?}");
        };
        assert_eq!(peer.to_string(), "10.0.0.1");
        order
    }

    async fn trouble(&mut self) -> Option<String> {
        let event = self.event().await;
        let Event::Trouble { part, fault } = event else {
            panic!("{event:?}");
        };
        assert_eq!(part, "control");
        fault
    }

    /// The next snapshot, in which something is different of 10.0.0.1.
    fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot::clone(&self.snapshots.borrow());
        change(&mut snapshot);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    fn say(&self, enabled: Option<bool>, clears: u64) {
        self.publish(|snapshot| {
            let orders = Arc::make_mut(&mut snapshot.peer_orders);
            let said = orders.entry(sample::ip("10.0.0.1").into()).or_default();
            (said.enabled, said.clears) = (enabled, clears);
        });
    }

    fn session(&self, state: SessionState, since: u64) {
        self.publish(|snapshot| {
            let peers = Arc::make_mut(&mut snapshot.peers);
            let session = peers.get_mut(&sample::ip("10.0.0.1").into()).unwrap();
            (session.state, session.since) = (state, Some(sample::at(since)));
        });
    }
}

async fn asked(socket: &Path, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // It may answer before it has taken all.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    let (status, _, body) = split(&answer(&mut stream).await);
    (status, body)
}

async fn answer(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is the end of it, too.
    let _ = timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .expect("no answer");
    String::from_utf8(answer).unwrap()
}

const DISABLE: &str = "/bgp/peers/10.0.0.1/disable";
const ENABLE: &str = "/bgp/peers/10.0.0.1/enable";
const CLEAR: &str = "/bgp/peers/10.0.0.1/clear";

/// Runs an asking in the background.
fn asking(control: &Control, path: &'static str, body: &'static str) -> JoinSet<(u16, String)> {
    let socket = control.path.clone();
    let mut task = JoinSet::new();
    task.spawn(async move { asked(&socket, "POST", path, body.as_bytes()).await });
    task
}

async fn waits(task: &mut JoinSet<(u16, String)>) {
    let early = timeout(Duration::from_millis(200), task.join_next()).await;
    assert!(early.is_err(), "answered already: {early:?}");
}

async fn answers(mut task: JoinSet<(u16, String)>) -> (u16, String) {
    timeout(SOON, task.join_next())
        .await
        .expect("no answer")
        .unwrap()
        .unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn it_is_the_owners_alone_and_gone_with_the_daemon() {
    let mut control = Control::start(Limits::default()).await;
    assert_eq!(mode(&control.path), 0o600);
    assert_eq!(mode(control.path.parent().unwrap()) & 0o755, 0o755);
    let (status, text) = control.ask("GET", "/bgp", b"").await;
    assert_eq!(status, 200);
    assert!(text.starts_with("AS 64600, router ID 10.0.0.99"), "{text}");
    for path in ["/healthz", "/alerts", "/metrics", "/services", "/pools"] {
        assert_eq!(control.ask("GET", path, b"").await.0, 200, "{path}");
    }
    assert_eq!(control.ask("POST", "/pools", b"").await.0, 405);
    assert_eq!(control.ask("DELETE", DISABLE, b"").await.0, 405);
    control.task.shutdown().await;
    assert!(!control.path.exists());
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced() {
    let control = Control::begun(Limits::default(), |path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // The name stays when its listener goes.
        drop(UnixListener::bind(path).unwrap());
        assert!(path.exists());
    });
    control.until_it_answers().await;
    assert_eq!(mode(&control.path), 0o600);
    assert_eq!(control.ask("GET", "/healthz", b"").await.0, 200);
}

#[tokio::test]
async fn a_living_ones_never() {
    let mut living = None;
    let mut control = Control::begun(Limits::default(), |path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        living = Some(UnixListener::bind(path).unwrap());
    });
    let fault = control.trouble().await.unwrap();
    assert!(fault.starts_with("another process listens on /"), "{fault}");
    // It lives still.
    assert!(std::os::unix::net::UnixStream::connect(&control.path).is_ok());
    // And when it has ended, the place is taken, and the trouble is over.
    drop(living);
    assert_eq!(control.trouble().await, None);
    assert_eq!(control.ask("GET", "/healthz", b"").await.0, 200);
    // A name that has become another's is not removed.
    fs::remove_file(&control.path).unwrap();
    let _other = UnixListener::bind(&control.path).unwrap();
    control.task.shutdown().await;
    assert!(
        fs::symlink_metadata(&control.path)
            .unwrap()
            .file_type()
            .is_socket()
    );
}

/// By who tidies up in /run, or by another daemon that began at the same moment.
#[tokio::test]
async fn taken_away_it_is_made_again() {
    let mut control = Control::start(Limits::default()).await;
    tokio::time::pause();
    fs::remove_dir_all(control.path.parent().unwrap()).unwrap();
    control.until_it_answers().await;
    assert_eq!(mode(&control.path), 0o600);

    fs::remove_file(&control.path).unwrap();
    let other = UnixListener::bind(&control.path).unwrap();
    let fault = control.trouble().await.unwrap();
    assert!(fault.starts_with("another process listens on /"), "{fault}");
    drop(other);
    assert_eq!(control.trouble().await, None);
    tokio::time::resume();
    assert_eq!(control.ask("GET", "/healthz", b"").await.0, 200);
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let mut control = Control::begun(Limits::default(), |path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "precious").unwrap();
    });
    let fault = control.trouble().await.unwrap();
    assert!(
        fault.ends_with("control.sock is there and is no socket; move it away"),
        "{fault}"
    );
    assert_eq!(fs::read_to_string(&control.path).unwrap(), "precious");
}

#[tokio::test]
async fn disabled_is_said_when_the_session_is_down() {
    let mut control = Control::start(Limits::default()).await;
    let mut task = asking(&control, DISABLE, "switch upgrade\n");
    assert_eq!(
        control.order().await,
        PeerOrder::Disable(Some("switch upgrade".into()))
    );
    waits(&mut task).await;
    control.say(Some(false), 1);
    waits(&mut task).await;
    control.session(SessionState::Idle, 100);
    let said = "10.0.0.1: disabled; the session is Idle\n".to_owned();
    assert_eq!(answers(task).await, (200, said));

    // A clear does not bring it up again.
    let task = asking(&control, CLEAR, "");
    assert_eq!(control.order().await, PeerOrder::Clear(None));
    control.say(Some(false), 2);
    let said = "10.0.0.1: cleared, but it stays disabled; the session is Idle\n".to_owned();
    assert_eq!(answers(task).await, (200, said));

    let mut task = asking(&control, ENABLE, "");
    assert_eq!(control.order().await, PeerOrder::Enable);
    waits(&mut task).await;
    control.say(Some(true), 2);
    let said = "10.0.0.1: enabled; the session is Idle\n".to_owned();
    assert_eq!(answers(task).await, (200, said));
}

#[tokio::test]
async fn cleared_is_said_when_the_session_is_another() {
    let mut control = Control::start(Limits::default()).await;
    let mut task = asking(&control, CLEAR, "");
    assert_eq!(control.order().await, PeerOrder::Clear(None));
    control.say(None, 2);
    waits(&mut task).await;
    // It may have come up again before anybody looks.
    control.session(SessionState::Established, 100);
    let said = "10.0.0.1: cleared; the session is Established\n".to_owned();
    assert_eq!(answers(task).await, (200, said));
}

#[tokio::test]
async fn what_is_not_done_in_time_is_said_to_be_ordered() {
    let mut control = Control::start(Limits::default()).await;
    let begun = Instant::now();
    let task = asking(&control, DISABLE, "");
    assert_eq!(control.order().await, PeerOrder::Disable(None));
    control.say(Some(false), 1);
    let (status, text) = answers(task).await;
    assert_eq!(status, 202);
    let said = "10.0.0.1: to be disabled, not done after 5 s; the session is Established\n";
    assert_eq!(text, said);
    assert!(begun.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn texts_and_names_that_cannot_be() {
    let mut control = Control::start(Limits::default()).await;
    let most = "ü".repeat(127) + "x";
    let too_long =
        |bytes| format!("The text has {bytes} bytes; at most 255 can be told (RFC 9003)");
    let too_large = || "The order's text has more than 4096 bytes".to_owned();
    for (path, body, status, said) in [
        (DISABLE, vec![b'x'; 256], 400, too_long("256")),
        (CLEAR, vec![b'x'; 4096], 400, too_long("4096")),
        (CLEAR, vec![b'x'; 4097], 413, too_large()),
        (CLEAR, vec![b'x'; 1_000_000], 413, too_large()),
        (
            CLEAR,
            b"\xff\xfe".to_vec(),
            400,
            "The text is not UTF-8".to_owned(),
        ),
        (
            ENABLE,
            b"welcome".to_vec(),
            400,
            "A peer that is enabled is told no text; leave it out".to_owned(),
        ),
        (
            "/bgp/peers/10.0.0.9/clear",
            Vec::new(),
            404,
            "No such peer; there are 10.0.0.1, 2001:db8::1, fe80::1%eth1, eth2".to_owned(),
        ),
    ] {
        assert_eq!(
            control.ask("POST", path, &body).await,
            (status, said),
            "{path}"
        );
    }
    // None of it was an order.
    let task = {
        let (socket, most) = (control.path.clone(), most.clone());
        let mut task = JoinSet::new();
        task.spawn(async move { asked(&socket, "POST", DISABLE, most.as_bytes()).await });
        task
    };
    assert_eq!(control.order().await, PeerOrder::Disable(Some(most.into())));
    control.say(Some(false), 1);
    control.session(SessionState::Idle, 1);
    assert_eq!(answers(task).await.0, 200);
}

#[tokio::test]
async fn slow_clients_and_garbage() {
    let limits = Limits {
        head: Duration::from_millis(500),
        ..Limits::default()
    };
    let mut control = Control::start(limits).await;
    // A text that never comes.
    let mut slow = control.connect().await;
    let head = format!("POST {CLEAR} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab");
    slow.write_all(head.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let (status, _, body) = split(&answer(&mut slow).await);
    assert_eq!(
        (status, body.as_str()),
        (408, "The order's text did not come in time")
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    // A head that never comes.
    let mut silent = control.connect().await;
    assert_eq!(answer(&mut silent).await, "");
    // No HTTP at all.
    let mut garbage = control.connect().await;
    garbage
        .write_all(b"\0\x01show protocols\r\n\r\n")
        .await
        .unwrap();
    let said = answer(&mut garbage).await;
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 400 "),
        "{said}"
    );
    // A body without end is not read.
    let (mut read, mut write) = control.connect().await.into_split();
    let head = format!("POST {CLEAR} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    write.write_all(head.as_bytes()).await.unwrap();
    let pour = async { while write.write_all(b"10\r\n0123456789abcdef\r\n").await.is_ok() {} };
    let mut first = [0; 12];
    let (_, got) = tokio::join!(timeout(SOON, pour), read.read_exact(&mut first));
    assert_eq!(&first[..got.unwrap_or(0)], b"HTTP/1.1 413");
    // Nobody was heard, and the next one is.
    assert!(control.events.try_recv().is_err());
    assert_eq!(control.ask("GET", "/healthz", b"").await.0, 200);
}

#[tokio::test]
async fn a_hundred_connections_do_not_keep_one_out() {
    let limits = Limits {
        connections: 32,
        ..Limits::default()
    };
    let control = Control::start(limits).await;
    let mut hoard = Vec::new();
    for _ in 0..100 {
        hoard.push(control.connect().await);
        assert_eq!(control.ask("GET", "/healthz", b"").await.0, 200);
    }
    let mut open = 0;
    for stream in &mut hoard {
        let closed = timeout(Duration::from_millis(20), stream.read_u8()).await;
        open += usize::from(closed.is_err());
    }
    assert!(open <= 32, "{open} are open");
}
