//! `proxy-fetch` against good, bad and hostile servers, in the clear and in TLS.

use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll::check::{Monitor, Probe};
use plimsoll::event::Verdict;
use rustls::crypto::ring;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::edge::PATIENCE;
use super::server::{OK, Server, answering, flooding, head, keep_open, reset};
use super::{BOTH, down, fetch, fetch_of, impatient, once, verdict, watch};

#[tokio::test]
async fn asks_for_the_url_at_the_server_and_is_up() {
    for at in BOTH {
        let asked = Arc::new(Mutex::new(String::new()));
        let note = asked.clone();
        let server = Server::start(at, move |mut stream| {
            let note = note.clone();
            async move {
                *note.lock().unwrap() = head(&mut stream).await?;
                stream.write_all(OK.as_bytes()).await
            }
        })
        .await;
        let options = fetch("http://www.example.org:8080/health?deep=1#part");
        let mut edge = watch(server.address, options);
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
        let asked = asked.lock().unwrap().clone();
        assert!(
            asked.starts_with("GET /health?deep=1 HTTP/1.1\r\n"),
            "{asked}"
        );
        let agent = format!("user-agent: plimsoll/{}\r\n", env!("CARGO_PKG_VERSION"));
        for line in [
            "host: www.example.org:8080\r\n",
            &agent,
            "connection: close\r\n",
        ] {
            assert!(asked.contains(line), "{asked}");
        }
        // Each check has a connection of its own, and says nothing new.
        server.until_accepted(5).await;
        assert!(edge.events.try_recv().is_err());
        drop(server);
        let Verdict::Down(reason) = verdict(&mut edge).await else {
            panic!("still up")
        };
        println!("server gone: {reason}");
    }
}

#[tokio::test]
async fn every_url_is_asked_for() {
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let note = asked.clone();
    let server = Server::start("127.0.0.1:0", move |mut stream| {
        let note = note.clone();
        async move {
            let head = head(&mut stream).await?;
            note.lock()
                .unwrap()
                .insert(head.split(' ').nth(1).unwrap().to_owned());
            stream.write_all(OK.as_bytes()).await
        }
    })
    .await;
    let mut options = fetch("http://www.example.org/a http://www.example.org/b");
    options.interval = Duration::from_millis(10);
    let _edge = watch(server.address, options);
    let both = async {
        while asked.lock().unwrap().len() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, both).await.unwrap();
}

/// What one check says of a server that answers this.
async fn answer(answer: &'static str, status: &[u16]) -> Verdict {
    let server = answering("127.0.0.1:0", answer).await;
    let options = once(fetch_of("http://www.example.org/", status));
    verdict(&mut watch(server.address, options)).await
}

#[tokio::test]
async fn the_status_counts_and_redirects_are_not_followed() {
    let moved = "HTTP/1.1 301 Moved\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answer(moved, &[301]).await, Verdict::Up);
    assert_eq!(
        answer(moved, &[200]).await,
        down("301 Moved Permanently, expected 200")
    );
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\nno more";
    assert_eq!(
        answer(busy, &[200, 204]).await,
        down("503 Service Unavailable, expected 200 or 204")
    );
    assert_eq!(
        answer("HTTP/1.1 204 No Content\r\n\r\n", &[200, 204]).await,
        Verdict::Up
    );
    assert_eq!(
        answer(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            &[200]
        )
        .await,
        Verdict::Up
    );
}

#[tokio::test]
async fn the_body_must_come_whole() {
    for whole in [
        OK,
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        assert_eq!(answer(whole, &[200]).await, Verdict::Up, "{whole}");
    }
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    ] {
        assert_eq!(
            answer(cut, &[200]).await,
            down("body: closed by server"),
            "{cut}"
        );
    }
    for (strange, said) in [
        ("", "headers: closed by server"),
        ("HTTP/1.1 200 OK\r\nX: y\r\n", "headers: closed by server"),
    ] {
        assert_eq!(answer(strange, &[200]).await, down(said), "{strange:?}");
    }
    for strange in [
        "SSH-2.0-OpenSSH_9.2\r\n\x1b[31m\r\n",
        "HTTP/1.1 2\x0000 OK\r\n\r\n",
    ] {
        let Verdict::Down(reason) = answer(strange, &[200]).await else {
            panic!("{strange:?} is up")
        };
        assert!(reason.starts_with("headers: not HTTP"), "{reason}");
        assert!(!reason.contains(char::is_control), "{reason:?}");
    }
}

#[tokio::test]
async fn a_reset_in_the_body_is_down() {
    let server = Server::start("127.0.0.1:0", |mut stream| async move {
        head(&mut stream).await?;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            .await?;
        sleep(Duration::from_millis(50)).await;
        reset(stream);
        Ok(())
    })
    .await;
    let mut edge = watch(server.address, impatient("http://www.example.org/"));
    assert_eq!(
        verdict(&mut edge).await,
        down("body: connection reset by server")
    );
}

/// What is said of a server that floods, and how many bytes it could send.
async fn flooded(
    first: &'static str,
    more: &'static [u8],
    url: &str,
) -> (Verdict, usize, Duration) {
    let (server, sent) = flooding(url.starts_with("http:"), first, more).await;
    let before = Instant::now();
    let patient = Monitor {
        timeout: PATIENCE,
        ..impatient(url)
    };
    let mut edge = watch(server.address, patient);
    let verdict = verdict(&mut edge).await;
    let took = before.elapsed();
    // The connection is gone: no more is sent after what was on its way.
    let mut last = usize::MAX;
    while sent.load(SeqCst) != last {
        last = sent.load(SeqCst);
        sleep(Duration::from_millis(100)).await;
    }
    (verdict, last, took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_soon_and_cost_little() {
    let url = "http://www.example.org/";
    const MIB: usize = 1024 * 1024;
    let head = "HTTP/1.1 200 OK\r\n";
    let (said, sent, _) = flooded(
        head,
        b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
        url,
    )
    .await;
    assert!(
        matches!(&said, Verdict::Down(r) if r.starts_with("headers: ")),
        "{said:?}"
    );
    assert!(sent < MIB, "{sent} bytes of headers");
    let (said, sent, _) = flooded("HTTP/1.1 200 OK\r\nx: ", &[b'y'; 1024], url).await;
    assert_eq!(said, down("headers: more than 64 KiB"));
    assert!(sent < MIB, "{sent} bytes of one header");
    let (said, sent, _) = flooded("", b"HTTP/1.1 100 Continue\r\n\r\n", url).await;
    assert_eq!(said, down("headers: more than 1280 KiB"));
    assert!(sent < 6 * MIB, "{sent} bytes of 1xx");
    let (said, sent, _) = flooded("HTTP/1.1 200 OK\r\n\r\n", &[b'y'; 1024], url).await;
    assert_eq!(said, Verdict::Up);
    assert!((MIB / 2..6 * MIB).contains(&sent), "{sent} bytes of body");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (said, sent, _) = flooded(chunked, b"1\r\ny\r\n", url).await;
    assert!(sent < 6 * MIB, "{said:?}, {sent} bytes of chunks");
    let (said, sent, took) = flooded("", &[0x17; 1024], "https://www.example.org/").await;
    assert!(
        matches!(&said, Verdict::Down(r) if r.starts_with("TLS: ")),
        "{said:?}"
    );
    assert!(sent < 6 * MIB && took < PATIENCE, "{sent} bytes of garbage");
}

#[tokio::test]
async fn slow_servers_end_at_the_timeout() {
    /// Sends this, then a byte of `drip` every 50 ms for ever.
    async fn slow(first: &'static str, drip: &'static [u8], url: &str) -> Verdict {
        let server = Server::start("127.0.0.1:0", move |mut stream| async move {
            stream.write_all(first.as_bytes()).await?;
            for byte in drip.iter().cycle() {
                stream.write_u8(*byte).await?;
                sleep(Duration::from_millis(50)).await;
            }
            pending().await
        })
        .await;
        let before = Instant::now();
        let said = verdict(&mut watch(server.address, impatient(url))).await;
        assert!(before.elapsed() >= Duration::from_millis(500));
        said
    }
    let (http, https) = ("http://www.example.org/", "https://www.example.org/");
    let waiting = |stage| down(&format!("timed out after 500ms waiting for {stage}"));
    assert_eq!(slow("", b"", http).await, waiting("headers"));
    assert_eq!(
        slow("HTTP/1.1 200 OK\r\n", b"a: b\r\n", http).await,
        waiting("headers")
    );
    assert_eq!(
        slow("HTTP/1.1 200 OK\r\n\r\n", b"y", http).await,
        waiting("the body")
    );
    assert_eq!(
        slow("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"", http).await,
        waiting("the body")
    );
    assert_eq!(slow("", b"", https).await, waiting("the TLS handshake"));
    assert_eq!(
        slow("", b"\x16\x03\x03\x40\x00", https).await,
        waiting("the TLS handshake")
    );
}

/// The host is suspended while an answer is awaited: that is not held against the server, once.
#[tokio::test]
async fn a_host_that_slept_asks_again() {
    for (answered, expected) in [
        (true, Verdict::Up),
        (false, down("timed out after 500ms waiting for headers")),
    ] {
        let requests = Arc::new(AtomicUsize::new(0));
        let server = Server::start("127.0.0.1:0", move |mut stream| {
            let requests = requests.clone();
            async move {
                head(&mut stream).await?;
                if requests.fetch_add(1, SeqCst) > 0 && answered {
                    stream.write_all(OK.as_bytes()).await?;
                }
                pending().await
            }
        })
        .await;
        let options = impatient("http://www.example.org/");
        let mut edge = watch(server.address, options);
        server.until_accepted(1).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3)).await;
        tokio::time::resume();
        assert_eq!(verdict(&mut edge).await, expected);
        assert_eq!(server.accepted(), 2, "once more and no oftener");
    }
}

/// Serves HTTPS with a certificate that nobody has signed; notes the name that was asked for.
async fn secure<F>(
    at: &str,
    serve: impl Fn(tokio_rustls::server::TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) -> (Server, Arc<Mutex<Option<String>>>)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let certified = rcgen::generate_simple_self_signed(vec!["other.example.net".into()]).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certified.cert.der().clone()],
            certified.signing_key.into(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let named = Arc::new(Mutex::new(None));
    let note = named.clone();
    let server = Server::start(at, move |stream| {
        let (acceptor, note, serve) = (acceptor.clone(), note.clone(), serve.clone());
        async move {
            let stream = acceptor.accept(stream).await?;
            *note.lock().unwrap() = stream.get_ref().1.server_name().map(str::to_owned);
            serve(stream).await
        }
    })
    .await;
    (server, named)
}

async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> io::Result<()> {
    head(&mut stream).await?;
    stream.write_all(answer).await?;
    stream.flush().await
}

#[tokio::test]
async fn https_by_the_urls_name_with_any_certificate() {
    for at in BOTH {
        let (server, named) = secure(at, |stream| say(stream, OK.as_bytes())).await;
        let options = fetch("https://www.example.org/");
        let mut edge = watch(server.address, options);
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
        assert_eq!(named.lock().unwrap().as_deref(), Some("www.example.org"));
    }
}

#[tokio::test]
async fn https_ends_as_servers_end_it() {
    let options = impatient("https://www.example.org/");
    // A body that ends with TCP, without TLS's close_notify, is whole if it doesn't say how long it is.
    let (server, _) = secure("127.0.0.1:0", |s| {
        say(s, b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
    })
    .await;
    let mut edge = watch(server.address, options.clone());
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    let (server, _) = secure("127.0.0.1:0", |s| {
        say(s, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
    })
    .await;
    let mut edge = watch(server.address, options.clone());
    assert_eq!(verdict(&mut edge).await, down("body: closed by server"));
    // An endless body, encrypted.
    let (server, _) = secure("127.0.0.1:0", |mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(&[b'y'; 4096]).await?;
        }
    })
    .await;
    let patient = Monitor {
        timeout: PATIENCE,
        ..options
    };
    let mut edge = watch(server.address, patient);
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
}

#[tokio::test]
async fn a_bad_certificate_is_down_if_it_is_verified() {
    let (server, _) = secure("[::1]:0", |stream| say(stream, OK.as_bytes())).await;
    let mut options = fetch("https://www.example.org/");
    let Probe::ProxyFetch(probe) = &mut options.probe else {
        panic!("no proxy-fetch")
    };
    probe.verify_certificate = true;
    let mut edge = watch(server.address, options);
    assert_eq!(
        verdict(&mut edge).await,
        down("certificate is by an unknown authority")
    );
}

#[tokio::test]
async fn plain_http_at_an_https_check_is_down() {
    let server = Server::start("127.0.0.1:0", |mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await?;
        keep_open(stream).await
    })
    .await;
    let mut edge = watch(server.address, impatient("https://www.example.org/"));
    let Verdict::Down(reason) = verdict(&mut edge).await else {
        panic!("it is up")
    };
    assert!(reason.starts_with("TLS: "), "{reason}");
}
