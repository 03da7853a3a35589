//! When results become verdicts: rows and windows of them, doubt about ourselves, and who wakes whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use plimsoll::check::figures::Last;
use plimsoll::check::{Damping, Monitor, Probe};
use plimsoll::event::Verdict;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use super::edge::PATIENCE;
use super::server::{OK, Server, head, keep_open, reset};
use super::{YOUNG, check, checked, down, fetch, idle, list, once, start, verdict, watch};

const BAD: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";

/// Answers the n-th request by what the n-th letter says, `+` or `-`, and the later ones by the last.
async fn scripted(script: &'static str) -> Server {
    let asked = Arc::new(AtomicUsize::new(0));
    Server::start("127.0.0.1:0", move |mut stream| {
        let asked = asked.clone();
        async move {
            head(&mut stream).await?;
            let n = asked.fetch_add(1, SeqCst).min(script.len() - 1);
            let good = script.as_bytes()[n] == b'+';
            stream
                .write_all(if good { OK } else { BAD }.as_bytes())
                .await
        }
    })
    .await
}

fn damped(damping: Damping) -> Monitor {
    Monitor {
        interval: Duration::from_millis(20),
        damping,
        ..fetch("http://www.example.org/")
    }
}

/// After how many requests which verdict comes.
async fn verdicts<const N: usize>(damping: Damping, script: &'static str) -> [(usize, bool); N] {
    let server = scripted(script).await;
    let mut edge = watch(server.address, damped(damping));
    let mut all = [(0, false); N];
    for one in &mut all {
        let up = verdict(&mut edge).await == Verdict::Up;
        *one = (server.accepted(), up);
    }
    all
}

#[tokio::test]
async fn rows_and_windows_of_results() {
    let rows = Damping::InARow { rise: 2, fall: 3 };
    let given = verdicts(rows, "+--+---+-++").await;
    assert_eq!(given, [(1, true), (7, false), (11, true)]);
    let window = Damping::Window { bad: 2, of: 3 };
    let given = verdicts(window, "-++-+-+++").await;
    assert_eq!(given, [(1, false), (2, true), (6, false), (7, true)]);
}

#[tokio::test]
async fn in_doubt_the_fast_interval_counts() {
    let server = scripted("-+").await;
    let slow = Duration::from_secs(3600);
    let monitor = Monitor {
        interval: slow,
        fast_interval: Some(Duration::from_millis(10)),
        ..damped(Damping::InARow { rise: 5, fall: 1 })
    };
    let check = check(server.address, monitor);
    let figures = check.figures.clone();
    let mut edge = start();
    list(&edge, [(1, check)]);
    assert_eq!(
        verdict(&mut edge).await,
        down("503 Service Unavailable, expected 200")
    );
    // Bad as before: there is no doubt. So nothing comes soon.
    edge.silent(Duration::from_millis(300)).await;
    assert_eq!(server.accepted(), 1);
    let Some(Last { result, took, .. }) = figures.last() else {
        panic!("nothing is known")
    };
    assert_eq!(result, Err("503 Service Unavailable, expected 200".into()));
    assert!(took.is_some_and(|took| took < PATIENCE));

    let server = scripted("+-").await;
    let monitor = Monitor {
        interval: slow,
        fast_interval: Some(Duration::from_millis(10)),
        ..damped(Damping::InARow { rise: 1, fall: 5 })
    };
    let check = self::check(server.address, monitor);
    let mut edge = start();
    list(&edge, [(1, check)]);
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    edge.silent(Duration::from_millis(300)).await;
    assert_eq!(server.accepted(), 1);
}

/// With a doubt the fast interval goes on until the row is whole.
#[tokio::test]
async fn a_row_in_doubt_is_made_fast() {
    let server = scripted("+-").await;
    let monitor = Monitor {
        interval: Duration::from_secs(1),
        fast_interval: Some(Duration::from_millis(10)),
        ..damped(Damping::InARow { rise: 1, fall: 20 })
    };
    let mut edge = watch(server.address, monitor);
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    let before = Instant::now();
    assert_eq!(
        verdict(&mut edge).await,
        down("503 Service Unavailable, expected 200")
    );
    assert_eq!(server.accepted(), 21);
    // By the interval alone it would have taken twenty seconds.
    assert!(before.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn all_urls_and_some_may_fail() {
    let server = Server::start("127.0.0.1:0", |mut stream| async move {
        let good = head(&mut stream).await?.starts_with("GET /good");
        stream
            .write_all(if good { OK } else { BAD }.as_bytes())
            .await
    })
    .await;
    let all = |urls: &str, may_fail| {
        let mut monitor = once(fetch(urls));
        let Probe::ProxyFetch(probe) = &mut monitor.probe else {
            panic!("no proxy-fetch")
        };
        probe.check_all = Some(may_fail);
        watch(server.address, monitor)
    };
    let urls = "http://x/good/1 http://x/bad http://x/good/2";
    assert_eq!(verdict(&mut all(urls, 1)).await, Verdict::Up);
    let reason = "1 of 3 failed, http://x/bad: 503 Service Unavailable, expected 200";
    assert_eq!(verdict(&mut all(urls, 0)).await, down(reason));
    let before = server.accepted();
    assert_eq!(verdict(&mut all("http://x/good/1", 0)).await, Verdict::Up);
    assert_eq!(server.accepted() - before, 1);
}

/// Who was down for long and waits to connect again does so at once when another check of the server succeeds.
#[tokio::test]
async fn a_success_wakes_the_servers_other_checks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (mut patient, mut fetch) = (idle(), fetch("http://www.example.org/"));
    let Probe::IdleConnection(probe) = &mut patient.probe else {
        panic!("no idle-connection")
    };
    probe.max_delay = Duration::from_secs(3600);
    fetch.interval = Duration::from_millis(50);
    let mut edge = start();
    let patient = check(address, patient);
    let tries = patient.figures.clone();
    list(&edge, [(1, patient), (2, check(address, fetch))]);
    for _ in 0..2 {
        let (_, verdict) = checked(&mut edge).await;
        assert_eq!(verdict, down("connection refused"));
    }
    // Each of its waits is twice as long as the last one: the next is 2.4 s at least.
    let waits = async {
        while tries.down_results.load(SeqCst) < 6 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waits).await.unwrap();
    let server = Server::start(address, |mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(OK.as_bytes()).await?;
        keep_open(stream).await
    })
    .await;
    let mut up = Vec::new();
    let before = Instant::now();
    while up.len() < 2 {
        let (id, verdict) = checked(&mut edge).await;
        assert_eq!(verdict, Verdict::Up);
        up.push(id);
    }
    assert_eq!(up, [2, 1]);
    assert!(before.elapsed() < Duration::from_secs(2));
    drop(server);
}

/// Who loses a connection while we stand still is connected to once more.
#[tokio::test]
async fn after_a_standstill_a_lost_connection_is_doubted_once() {
    for comes_back in [true, false] {
        let count = Arc::new(AtomicUsize::new(0));
        let server = Server::start("127.0.0.1:0", move |stream| {
            let first = count.fetch_add(1, SeqCst) == 0;
            async move {
                if first {
                    // It has been up for as long as it takes to be no young connection.
                    sleep(YOUNG * 2).await;
                    std::thread::sleep(Duration::from_millis(600));
                    reset(stream);
                    Ok(())
                } else if comes_back {
                    keep_open(stream).await
                } else {
                    reset(stream);
                    Ok(())
                }
            }
        })
        .await;
        let mut edge = watch(server.address, idle());
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
        if comes_back {
            server.until_accepted(2).await;
            edge.silent(YOUNG).await;
            assert_eq!(server.accepted(), 2);
        } else {
            assert_eq!(verdict(&mut edge).await, down("connection reset by server"));
            assert!(server.accepted() >= 2);
        }
    }
}

/// What fails while this process stands still is asked once more before anybody hears of it.
#[tokio::test]
async fn after_a_standstill_failures_are_doubted_once() {
    let dead = Arc::new(AtomicBool::new(false));
    let (is_dead, asked) = (dead.clone(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let server = Server::start("127.0.0.1:0", move |mut stream| {
        // The second request meets a bad moment.
        let first = count.fetch_add(1, SeqCst) == 1;
        let bad = first || is_dead.load(SeqCst);
        async move {
            head(&mut stream).await?;
            if first {
                std::thread::sleep(Duration::from_millis(600));
            }
            stream
                .write_all(if bad { BAD } else { OK }.as_bytes())
                .await
        }
    })
    .await;
    let mut edge = watch(server.address, damped(Damping::NONE));
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    // The server's own thread is the checks' one: all stands still, and then there is a failure.
    server.until_accepted(6).await;
    assert!(edge.events.try_recv().is_err(), "it was believed");
    dead.store(true, SeqCst);
    assert_eq!(
        verdict(&mut edge).await,
        down("503 Service Unavailable, expected 200")
    );
}
