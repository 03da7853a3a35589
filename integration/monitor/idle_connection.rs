//! `idle-connection` against servers that come, go, hang up and babble.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use plimsoll::check::Monitor;
use plimsoll::event::Verdict;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::edge::PATIENCE;
use super::server::{Server, flooding, keep_open, reset};
use super::{BOTH, YOUNG, down, fetch, idle, verdict, watch};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connected_is_up_and_a_killed_server_is_down_at_once() {
    for at in BOTH {
        let server = Server::start(at, keep_open).await;
        let mut edge = watch(server.address, idle());
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
        server.until_accepted(1).await;
        drop(server);
        let killed = Instant::now();
        assert_eq!(verdict(&mut edge).await, down("connection refused"));
        println!(
            "{at}: down {:?} after the server was told to go",
            killed.elapsed()
        );
    }
}

#[tokio::test]
async fn refused_is_down_and_a_server_that_comes_is_up() {
    for at in BOTH {
        let server = Server::start(at, keep_open).await;
        let address = server.address;
        drop(server);
        let mut edge = watch(address, idle());
        assert_eq!(verdict(&mut edge).await, down("connection refused"));
        let _server = Server::start(address, keep_open).await;
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_down_at_once() {
    for at in BOTH {
        let listener = TcpListener::bind(at).await.unwrap();
        let mut edge = watch(listener.local_addr().unwrap(), idle());
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
        let before = Instant::now();
        reset(stream);
        assert_eq!(verdict(&mut edge).await, down("connection reset by server"));
        println!("{at}: down {:?} after the reset", before.elapsed());
    }
}

#[tokio::test]
async fn a_clean_close_is_no_loss_if_a_quick_reconnect_works() {
    for at in BOTH {
        let listener = TcpListener::bind(at).await.unwrap();
        let mut edge = watch(listener.local_addr().unwrap(), idle());
        for round in 0..3 {
            let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
            if round == 0 {
                assert_eq!(verdict(&mut edge).await, Verdict::Up);
            }
            edge.silent(YOUNG * 2).await;
            drop(stream);
        }
        drop(listener);
        // The reconnect came before the listener went, or after.
        let Verdict::Down(reason) = verdict(&mut edge).await else {
            panic!("still up")
        };
        assert!(
            ["connection reset by server", "connection refused"].contains(&&*reason),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_server_that_closes_everybody_is_down_and_not_pestered() {
    for closing in [drop::<TcpStream>, reset] {
        let server = Server::start("127.0.0.1:0", move |stream| async move {
            closing(stream);
            Ok(())
        })
        .await;
        let mut edge = watch(server.address, idle());
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
        let Verdict::Down(reason) = verdict(&mut edge).await else {
            panic!("still up")
        };
        assert!(
            ["closed by server at once", "connection reset by server"].contains(&&*reason),
            "{reason}"
        );
        // Back-off, not a loop: 100, 200, 400, 400, … ms, shortened by a quarter at most; and no flapping.
        let before = server.accepted();
        edge.silent(Duration::from_secs(2)).await;
        let tries = server.accepted() - before;
        assert!((2..=12).contains(&tries), "{tries} tries in 2 s");
    }
}

#[tokio::test]
async fn after_such_a_loss_only_a_connection_that_lasts_is_up() {
    let good = Arc::new(AtomicUsize::new(0));
    let is_good = good.clone();
    let server = Server::start("[::1]:0", move |stream| {
        let good = is_good.load(SeqCst) == 1;
        async move {
            if good {
                keep_open(stream).await
            } else {
                Ok(())
            }
        }
    })
    .await;
    let mut edge = watch(server.address, idle());
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    assert_eq!(verdict(&mut edge).await, down("closed by server at once"));
    good.store(1, SeqCst);
    let before = Instant::now();
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    assert!(before.elapsed() >= YOUNG);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_down() {
    for (domain, at) in [(Domain::IPV4, BOTH[0]), (Domain::IPV6, BOTH[1])] {
        // The kernel drops what comes to a full backlog.
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        socket
            .bind(&at.parse::<SocketAddr>().unwrap().into())
            .unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) =
            timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 10, "the backlog is never full");
        }
        let limit = Duration::from_millis(200);
        let options = Monitor {
            timeout: limit,
            ..idle()
        };
        let mut edge = watch(address, options);
        assert_eq!(verdict(&mut edge).await, down("no answer in 200ms"));
        let options = Monitor {
            timeout: limit,
            ..fetch("http://www.example.org/")
        };
        let mut edge = watch(address, options);
        assert_eq!(verdict(&mut edge).await, down("no answer in 200ms"));
    }
}

#[tokio::test]
async fn an_address_without_a_route_is_down() {
    // TCP has none to a group of hosts, whatever else this machine's routes are.
    for target in ["224.0.0.1:80", "[ff02::1]:80"] {
        let target = target.parse().unwrap();
        let mut edge = watch(target, idle());
        assert_eq!(verdict(&mut edge).await, down("no route to network"));
        let mut edge = watch(target, fetch("http://www.example.org/"));
        assert_eq!(verdict(&mut edge).await, down("no route to network"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_sends_is_thrown_away_slowly() {
    let (server, sent) = flooding(false, "220 ready\r\n", &[b'x'; 4096]).await;
    let mut edge = watch(server.address, idle());
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    edge.silent(Duration::from_millis(2500)).await;
    let sent = sent.load(SeqCst);
    // 64 KiB a second, and what the kernels hold for both sides.
    assert!((64 * 1024..1024 * 1024).contains(&sent), "{sent} bytes");
    drop(server);
    assert!(matches!(verdict(&mut edge).await, Verdict::Down(_)));
}
