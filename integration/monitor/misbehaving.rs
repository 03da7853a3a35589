//! A table of servers that misbehave: what is said of each, in what time, and how much of it is read.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::future::join_all;
use plimsoll::check::expect::Pattern;
use plimsoll::check::tls::TlsClient;
use plimsoll::check::{Grpc, Http, HttpVersion, Monitor, Probe, Tcp, Tls};
use plimsoll::event::Verdict;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use super::authority::{Authority, NAME};
use super::edge::PATIENCE;
use super::said;
use super::server::{Server, head, reset};

/// What a check has, of a server that uses it up.
const TIME: Duration = Duration::from_secs(1);
/// The most that a server can get rid of: what a check reads and what the kernels hold.
const MOST: usize = 6 * 1024 * 1024;

const UP: &str = "up";

struct Row {
    what: &'static str,
    probe: Probe,
    server: Server,
    sent: Arc<AtomicUsize>,
    /// [`UP`], or a reason, of which a star stands for any end.
    expected: &'static str,
}

struct Peer {
    stream: TcpStream,
    sent: Arc<AtomicUsize>,
}

impl Peer {
    async fn say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        self.stream.write_all(bytes).await?;
        self.sent.fetch_add(bytes.len(), SeqCst);
        Ok(())
    }

    /// Says it again and again, and hears everything.
    async fn pour(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        let (mut read, mut write) = self.stream.split();
        let listen = async {
            while read.read(&mut [0; 4096]).await? > 0 {}
            pending::<io::Result<()>>().await
        };
        let pour = async {
            loop {
                write.write_all(bytes).await?;
                self.sent.fetch_add(bytes.len(), SeqCst);
            }
        };
        tokio::select! {
            ended = listen => ended,
            ended = pour => ended,
        }
    }

    /// Ten bytes a second, for ever.
    async fn drip(&mut self, bytes: &'static [u8]) -> io::Result<()> {
        for byte in bytes.iter().cycle() {
            self.say([*byte]).await?;
            sleep(TIME / 10).await;
        }
        Ok(())
    }

    async fn asked(&mut self) -> io::Result<()> {
        head(&mut self.stream).await.map(drop)
    }

    /// Speaks HTTP/2 so far that a request has come.
    async fn greet(&mut self) -> io::Result<()> {
        self.stream.read_exact(&mut [0; 24]).await?;
        self.say(frame(SETTINGS, 0, 0, b"")).await?;
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let [_, high, low, kind, ..] = head;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
            self.stream.read_exact(&mut payload).await?;
            if kind == HEADERS {
                return Ok(());
            }
        }
    }

    async fn wait(self) -> io::Result<()> {
        let _open = self.stream;
        pending().await
    }
}

async fn row<F>(
    what: &'static str,
    probe: &Probe,
    serve: impl Fn(Peer) -> F + Send + 'static,
    expected: &'static str,
) -> Row
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let server = Server::start("127.0.0.1:0", move |stream| {
        // What the kernels hold is not ours: keep it small.
        SockRef::from(&stream)
            .set_send_buffer_size(16 * 1024)
            .unwrap();
        serve(Peer {
            stream,
            sent: count.clone(),
        })
    })
    .await;
    Row {
        what,
        probe: probe.clone(),
        server,
        sent,
        expected,
    }
}

/// Those that end at the timeout are tried together, the others one after another with all the time in the world.
/// Gives the table of what was found.
async fn judge(rows: Vec<Row>) -> String {
    let (late, soon): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| row.expected.starts_with("timed out"));
    let mut found = join_all(late.iter().map(|row| judge_one(row, TIME))).await;
    for row in &soon {
        found.push(judge_one(row, PATIENCE).await);
    }
    let (good, wrong): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let good: Vec<_> = good.into_iter().filter_map(Result::ok).collect();
    good.join("\n")
}

/// Its line in the table, or what is wrong.
async fn judge_one(row: &Row, time: Duration) -> Result<String, String> {
    let monitor = Monitor::new(row.probe.clone(), Duration::from_secs(3600), time);
    let before = Instant::now();
    let found = match said(row.server.address, monitor).await {
        Verdict::Up => UP.to_owned(),
        Verdict::Down(reason) => reason,
    };
    let took = before.elapsed();
    // The connection is gone: no more is sent after what was on its way.
    let mut sent = usize::MAX;
    while row.sent.load(SeqCst) != sent {
        sent = row.sent.load(SeqCst);
        sleep(Duration::from_millis(50)).await;
    }
    let (kind, what) = (row.probe.kind(), row.what);
    let good = match row.expected.strip_suffix('*') {
        Some(start) => found.starts_with(start),
        None => found == row.expected,
    };
    let late = time == TIME;
    let in_time = !late || (TIME..TIME * 3).contains(&took);
    if good && in_time && sent < MOST && !found.contains(char::is_control) {
        return Ok(format!(
            "{kind:5} {what:40} {found:70} {took:6.1?} {sent:8} bytes"
        ));
    }
    let expected = row.expected;
    Err(format!(
        "{kind}, {what}: {found:?} in {took:?}, {sent} bytes; expected {expected:?}"
    ))
}

fn get() -> Probe {
    Probe::Http(Box::new(Http::get(
        "http://www.example.org/".parse().unwrap(),
    )))
}

fn answer(
    text: impl AsRef<[u8]> + Clone + Send + Sync + 'static,
) -> impl Fn(Peer) -> std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>> {
    move |mut peer| {
        let text = text.clone();
        Box::pin(async move {
            peer.asked().await?;
            peer.say(text).await
        })
    }
}

const HEADERS_LATE: &str = "timed out after 1s waiting for headers";
const BODY_LATE: &str = "timed out after 1s waiting for the body";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1() {
    let get = &get();
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let rows = vec![
        row("accepts and says nothing", get, Peer::wait, HEADERS_LATE).await,
        row(
            "drips headers",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.say("HTTP/1.1 200 OK\r\n").await?;
                peer.drip(b"a: b\r\n").await
            },
            HEADERS_LATE,
        )
        .await,
        row(
            "drips a body",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.say("HTTP/1.1 200 OK\r\n\r\n").await?;
                peer.drip(b"y").await
            },
            BODY_LATE,
        )
        .await,
        row(
            "says less than it promised, and waits",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
                    .await?;
                peer.wait().await
            },
            BODY_LATE,
        )
        .await,
        row(
            "garbage",
            get,
            answer(b"\xff\0\x1b[31m\r\n\r\n"),
            "headers: not HTTP*",
        )
        .await,
        row(
            "another protocol",
            get,
            answer("SSH-2.0-x\r\n"),
            "headers: not HTTP*",
        )
        .await,
        row(
            "TLS",
            get,
            answer(b"\x15\x03\x03\0\x02\x02\x28"),
            "headers: not HTTP*",
        )
        .await,
        row(
            "HTTP/2",
            get,
            answer(frame(SETTINGS, 0, 0, b"")),
            "headers: not HTTP*",
        )
        .await,
        row(
            "endless headers",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.say("HTTP/1.1 200 OK\r\n").await?;
                peer.pour("x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").await
            },
            "headers: more than 64 KiB",
        )
        .await,
        row(
            "an endless header",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.say("HTTP/1.1 200 OK\r\nx: ").await?;
                peer.pour([b'y'; 1024]).await
            },
            "headers: more than 64 KiB",
        )
        .await,
        row(
            "endless 1xx",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.pour("HTTP/1.1 100 Continue\r\n\r\n").await
            },
            "headers: more than 1280 KiB",
        )
        .await,
        row(
            "an endless body",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.say("HTTP/1.1 200 OK\r\n\r\n").await?;
                peer.pour([b'y'; 1024]).await
            },
            UP,
        )
        .await,
        row(
            "endless chunks",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.say(CHUNKED).await?;
                peer.pour("1\r\ny\r\n").await
            },
            "body: more than 1280 KiB",
        )
        .await,
        row("HTTP/1.0", get, answer("HTTP/1.0 200 OK\r\n\r\nok"), UP).await,
        row(
            "no number of a status",
            get,
            answer("HTTP/1.1 2x0 OK\r\n\r\n"),
            "headers: not HTTP*",
        )
        .await,
        row(
            "an unknown status",
            get,
            answer("HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n"),
            "999, expected 200",
        )
        .await,
        row(
            "chunks without sizes",
            get,
            answer(format!("{CHUNKED}zz\r\n")),
            "body: *",
        )
        .await,
        row(
            "a chunk larger than any number",
            get,
            answer(format!("{CHUNKED}fffffffffffffffff\r\ny")),
            "body: *",
        )
        .await,
        row(
            "a negative length",
            get,
            answer("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
            "headers: not HTTP*",
        )
        .await,
        row(
            "a length larger than any number",
            get,
            answer("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"),
            "headers: not HTTP*",
        )
        .await,
        row(
            "a length of exbibytes",
            get,
            answer("HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\nok"),
            "body: closed by server",
        )
        .await,
        row(
            "two lengths",
            get,
            answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok"),
            "headers: not HTTP*",
        )
        .await,
        row(
            "speaks before it is asked",
            get,
            |mut peer| async move {
                peer.say("SSH-2.0-x\r\n").await?;
                peer.wait().await
            },
            "headers: *",
        )
        .await,
        row("closes", get, answer(""), "headers: closed by server").await,
        row(
            "closes half of it",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.stream.shutdown().await?;
                peer.wait().await
            },
            "headers: closed by server",
        )
        .await,
        row(
            "resets",
            get,
            |mut peer| async move {
                peer.asked().await?;
                reset(peer.stream);
                Ok(())
            },
            "headers: connection reset by server",
        )
        .await,
        row(
            "resets in the body",
            get,
            |mut peer| async move {
                peer.asked().await?;
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
                    .await?;
                sleep(TIME / 20).await;
                reset(peer.stream);
                Ok(())
            },
            "body: connection reset by server",
        )
        .await,
    ];
    println!("{}", judge(rows).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp() {
    let expect = &Probe::Tcp(Tcp {
        expect: Some(Pattern::substring("220").unwrap()),
        ..Tcp::default()
    });
    let late = "timed out after 1s waiting for the expected text";
    let rows = vec![
        row("accepts and says nothing", expect, Peer::wait, late).await,
        row(
            "drips",
            expect,
            |mut peer| async move { peer.drip(b"no").await },
            late,
        )
        .await,
        row(
            "floods",
            expect,
            |mut peer| async move { peer.pour([b'2'; 1000]).await },
            "16 KiB came without \"220\"",
        )
        .await,
        row(
            "closes",
            expect,
            |peer| async move {
                drop(peer);
                Ok(())
            },
            "closed by server without \"220\"",
        )
        .await,
        row(
            "resets",
            expect,
            |mut peer| async move {
                peer.say("22").await?;
                sleep(TIME / 20).await;
                reset(peer.stream);
                Ok(())
            },
            "connection reset by server without \"220\"",
        )
        .await,
    ];
    println!("{}", judge(rows).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls() {
    let tls = &Probe::Tls(Tls {
        tls: TlsClient {
            server_name: Some(NAME.into()),
            ..TlsClient::default()
        },
        proxy_protocol: None,
    });
    let https = &Probe::Http(Box::new(Http::get(
        "https://www.example.org/".parse().unwrap(),
    )));
    let late = "timed out after 1s waiting for the TLS handshake";
    let authority = Authority::new();
    let mut large = authority.sign(NAME);
    // 128 KiB, twice what a handshake message may have.
    while large.chain.iter().map(|c| c.len()).sum::<usize>() < 128 * 1024 {
        large.chain.push(large.chain[0].clone());
    }
    let shake_hands = |acceptor: TlsAcceptor| {
        move |peer: Peer| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(peer.stream).await?;
                head(&mut stream).await?;
                loop {
                    let text = b"HTTP/1.1 100 Continue\r\n\r\n";
                    stream.write_all(text).await?;
                    peer.sent.fetch_add(text.len(), SeqCst);
                }
            }
        }
    };
    let rows = vec![
        row("accepts and says nothing", tls, Peer::wait, late).await,
        row(
            "drips a record",
            tls,
            |mut peer| async move {
                peer.say(b"\x16\x03\x03\x40\x00").await?;
                peer.drip(b"\x02\0\x40\0").await
            },
            late,
        )
        .await,
        row(
            "endless garbage",
            tls,
            |mut peer| async move { peer.pour([0xff; 1024]).await },
            "TLS: the server speaks something else (InvalidContentType)",
        )
        .await,
        row(
            "endless empty handshake records",
            tls,
            |mut peer| async move { peer.pour(b"\x16\x03\x03\0\0").await },
            "TLS: *",
        )
        .await,
        row(
            "endless change of cipher specs",
            tls,
            |mut peer| async move { peer.pour(b"\x14\x03\x03\0\x01\x01").await },
            "TLS: *",
        )
        .await,
        row(
            "plain HTTP",
            tls,
            |mut peer| async move {
                peer.say("HTTP/1.1 400 Bad Request\r\n\r\n").await?;
                peer.wait().await
            },
            "TLS: the server speaks something else (InvalidContentType)",
        )
        .await,
        row(
            "an alert",
            tls,
            |mut peer| async move {
                peer.say(b"\x15\x03\x03\0\x02\x02\x28").await?;
                peer.wait().await
            },
            "TLS: refused by the server (HandshakeFailure)",
        )
        .await,
        row(
            "closes",
            tls,
            |mut peer| async move {
                peer.stream.read_u8().await?;
                while peer.stream.try_read(&mut [0; 4096]).is_ok() {}
                Ok(())
            },
            "TLS: closed by server",
        )
        .await,
        row(
            "too large a chain",
            tls,
            shake_hands(large.acceptor()),
            "TLS: *",
        )
        .await,
        row(
            "floods behind the handshake",
            https,
            shake_hands(authority.sign(NAME).acceptor()),
            "headers: more than 1280 KiB",
        )
        .await,
    ];
    println!("{}", judge(rows).await);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `:status: 200`, by its number in HPACK's static table.
const OK: &[u8] = &[0x88];

/// A header by HPACK, spelled out (RFC 7541 section 6.2.2).
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut header = vec![0];
    for text in [name, value] {
        header.push(u8::try_from(text.len()).unwrap());
        header.extend(text.as_bytes());
    }
    header
}

/// After the greeting, says this, and waits or pours.
fn frames(
    first: Vec<u8>,
    more: Vec<u8>,
) -> impl Fn(Peer) -> std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>> {
    move |mut peer| {
        let (first, more) = (first.clone(), more.clone());
        Box::pin(async move {
            peer.greet().await?;
            peer.say(first).await?;
            if more.is_empty() {
                return peer.wait().await;
            }
            peer.pour(more).await
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2() {
    let h2 = &Probe::Http(Box::new(Http {
        version: HttpVersion::Http2,
        ..Http::get("http://www.example.org/".parse().unwrap())
    }));
    let none = Vec::new;
    let ok = || frame(HEADERS, END_HEADERS, 1, OK);
    let rows = vec![
        row("accepts and says nothing", h2, Peer::wait, HEADERS_LATE).await,
        row(
            "greets and says nothing",
            h2,
            frames(none(), none()),
            HEADERS_LATE,
        )
        .await,
        row("no body", h2, frames(ok(), none()), BODY_LATE).await,
        row(
            "drips a frame",
            h2,
            |mut peer| async move {
                peer.greet().await?;
                peer.drip(b"\0\x40\0\x01\x04\0\0\0\x01").await
            },
            HEADERS_LATE,
        )
        .await,
        row(
            "HTTP/1.1",
            h2,
            |mut peer| async move {
                peer.say("HTTP/1.1 400 Bad Request\r\n\r\n").await?;
                peer.wait().await
            },
            "not HTTP/2 (FRAME_SIZE_ERROR)",
        )
        .await,
        row(
            "GOAWAY",
            h2,
            frames(frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]), none()),
            "HTTP/2: the server sent GOAWAY ENHANCE_YOUR_CALM",
        )
        .await,
        row(
            "RST_STREAM",
            h2,
            frames(frame(RST_STREAM, 0, 1, &[0, 0, 0, 7]), none()),
            "HTTP/2: the server reset the stream, REFUSED_STREAM",
        )
        .await,
        row(
            "RST_STREAM in the body",
            h2,
            frames(
                [ok(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])].concat(),
                none(),
            ),
            "body: HTTP/2: the server reset the stream, INTERNAL_ERROR",
        )
        .await,
        row(
            "closes half of it",
            h2,
            |mut peer| async move {
                peer.greet().await?;
                peer.stream.shutdown().await?;
                peer.wait().await
            },
            "closed by server",
        )
        .await,
        row(
            "endless SETTINGS",
            h2,
            frames(none(), frame(SETTINGS, 0, 0, b"")),
            "more than 1280 KiB",
        )
        .await,
        row(
            "endless PING",
            h2,
            frames(none(), frame(PING, 0, 0, b"12345678")),
            "more than 1280 KiB",
        )
        .await,
        row(
            "endless headers",
            h2,
            frames(
                frame(HEADERS, 0, 1, OK),
                frame(CONTINUATION, 0, 1, &header("x", &"y".repeat(100))),
            ),
            "not HTTP/2 (ENHANCE_YOUR_CALM)",
        )
        .await,
        row(
            "endless empty CONTINUATION",
            h2,
            frames(frame(HEADERS, 0, 1, OK), frame(CONTINUATION, 0, 1, b"")),
            "not HTTP/2 (ENHANCE_YOUR_CALM)",
        )
        .await,
        row(
            "endless empty DATA",
            h2,
            frames(ok(), frame(DATA, 0, 1, b"")),
            "body: not HTTP/2 (ENHANCE_YOUR_CALM)",
        )
        .await,
        row(
            "an endless body by the byte",
            h2,
            frames(ok(), frame(DATA, 0, 1, b"y")),
            "body: *",
        )
        .await,
        row(
            "a frame larger than agreed on",
            h2,
            frames(ok(), frame(DATA, 0, 1, &[b'y'; 20_000])),
            "body: *",
        )
        .await,
        row(
            "endless streams of its own",
            h2,
            frames(ok(), frame(5, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
            "body: *",
        )
        .await,
        row(
            "less than it promised",
            h2,
            frames(
                [
                    frame(
                        HEADERS,
                        END_HEADERS,
                        1,
                        &[OK, &header("content-length", "9")].concat(),
                    ),
                    frame(DATA, END_STREAM, 1, b"short"),
                ]
                .concat(),
                none(),
            ),
            "body: not HTTP/2 (PROTOCOL_ERROR)",
        )
        .await,
    ];
    println!("{}", judge(rows).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc() {
    let grpc = &Probe::Grpc(Grpc::default());
    let reply = |kind: &str, message: &[u8], trailers: &[(&str, &str)]| {
        let head = [OK, &header("content-type", kind)].concat();
        let trailers: Vec<u8> = trailers
            .iter()
            .flat_map(|(name, value)| header(name, value))
            .collect();
        let all = [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, 0, 1, message),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
        ];
        frames(all.concat(), Vec::new())
    };
    let (kind, ended) = ("application/grpc", &[("grpc-status", "0")][..]);
    let no_trailers = [
        OK,
        &header("content-type", kind),
        &header("grpc-status", "12"),
        &header("grpc-message", "no such method"),
    ]
    .concat();
    let rows = vec![
        row("accepts and says nothing", grpc, Peer::wait, HEADERS_LATE).await,
        row(
            "SERVING",
            grpc,
            reply("application/grpc+proto", b"\0\0\0\0\x02\x08\x01", ended),
            UP,
        )
        .await,
        row(
            "NOT_SERVING",
            grpc,
            reply(kind, b"\0\0\0\0\x02\x08\x02", ended),
            "NOT_SERVING",
        )
        .await,
        row(
            "an empty message",
            grpc,
            reply(kind, b"\0\0\0\0\0", ended),
            "UNKNOWN",
        )
        .await,
        row(
            "a status to come",
            grpc,
            reply(kind, b"\0\0\0\0\x02\x08\x09", ended),
            "unknown serving status 9",
        )
        .await,
        row(
            "UNIMPLEMENTED",
            grpc,
            frames(
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &no_trailers),
                Vec::new(),
            ),
            "gRPC: UNIMPLEMENTED, no such method",
        )
        .await,
        row(
            "another content type",
            grpc,
            reply("text/html", b"<html>", &[]),
            "not gRPC: content-type \"text/html\", expected application/grpc",
        )
        .await,
        row(
            "another status of HTTP",
            grpc,
            frames(
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x8d]),
                Vec::new(),
            ),
            "404 Not Found, expected 200",
        )
        .await,
        row(
            "no grpc-status",
            grpc,
            reply(kind, b"\0\0\0\0\x02\x08\x01", &[("x", "y")]),
            "gRPC: no grpc-status",
        )
        .await,
        row(
            "no message",
            grpc,
            reply(kind, b"", ended),
            "gRPC: no message",
        )
        .await,
        row(
            "a compressed message",
            grpc,
            reply(kind, b"\x01\0\0\0\x02\x08\x01", ended),
            "gRPC: the message is compressed, which was not asked for",
        )
        .await,
        row(
            "a message cut short",
            grpc,
            reply(kind, b"\0\0\0\0\x09\x08\x01", ended),
            "gRPC: a message of 9 bytes, 2 came",
        )
        .await,
        row(
            "a message of 4 GiB",
            grpc,
            reply(kind, b"\0\xff\xff\xff\xff\x08\x01", ended),
            "gRPC: a message of 4294967295 bytes, 2 came",
        )
        .await,
        row(
            "a message of something else",
            grpc,
            reply(kind, b"\0\0\0\0\x02\xff\xff", ended),
            "gRPC: the message is not a health check's*",
        )
        .await,
        row(
            "endless messages",
            grpc,
            frames(
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &[OK, &header("content-type", kind)].concat(),
                ),
                frame(DATA, 0, 1, &b"\0\0\0\0\x02\x08\x01".repeat(1000)),
            ),
            "body: not HTTP/2 (FLOW_CONTROL_ERROR)",
        )
        .await,
    ];
    println!("{}", judge(rows).await);
}
