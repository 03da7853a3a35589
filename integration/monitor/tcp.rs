//! `tcp` against servers that talk, or don't.

use std::time::Duration;

use plimsoll::check::expect::Pattern;
use plimsoll::check::{Probe, ProxyProtocol, Tcp};
use plimsoll::event::Verdict;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::edge::PATIENCE;
use super::server::{Server, keep_open};
use super::{BOTH, asked, down, said};

fn tcp(send: Option<&str>, expect: Option<Pattern>) -> Probe {
    Probe::Tcp(Tcp {
        send: send.map(str::to_owned),
        expect,
        proxy_protocol: None,
    })
}

fn text(text: &str) -> Option<Pattern> {
    Some(Pattern::substring(text).unwrap())
}

fn regex(text: &str) -> Option<Pattern> {
    Some(Pattern::regex(text).unwrap())
}

#[tokio::test]
async fn a_connection_is_enough() {
    for at in BOTH {
        let server = Server::start(at, keep_open).await;
        assert_eq!(
            said(server.address, asked(tcp(None, None))).await,
            Verdict::Up
        );
        let listener = TcpListener::bind(at).await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let verdict = said(closed, asked(tcp(None, None))).await;
        assert_eq!(verdict, down("connection refused"));
    }
}

#[tokio::test]
async fn a_word_and_its_answer() {
    // Says who it is, then answers in two pieces.
    let server = Server::start("127.0.0.1:0", |mut stream| async move {
        stream.write_all(b"220 ready\r\n").await?;
        let mut word = [0; 6];
        stream.read_exact(&mut word).await?;
        assert_eq!(word, *b"PING\r\n");
        stream.write_all(b"+PO").await?;
        sleep(Duration::from_millis(50)).await;
        stream.write_all(b"NG\r\n").await?;
        keep_open(stream).await
    })
    .await;
    for expect in [text("+PONG"), regex("(?m)^\\+P.NG\r$"), text("220 ready")] {
        let monitor = asked(tcp(Some("PING\r\n"), expect.clone()));
        assert_eq!(
            said(server.address, monitor).await,
            Verdict::Up,
            "{expect:?}"
        );
    }
    let mut monitor = asked(tcp(Some("PING\r\n"), text("no such text")));
    monitor.timeout = Duration::from_millis(500);
    assert_eq!(
        said(server.address, monitor).await,
        down("timed out after 500ms waiting for the expected text")
    );
}

#[tokio::test]
async fn something_else_comes() {
    let server = Server::start("127.0.0.1:0", |mut stream| async move {
        stream.write_all(b"500 no\r\n").await
    })
    .await;
    for (expect, reason) in [
        (text("220"), "closed by server without \"220\""),
        (regex("^2"), "closed by server without /^2/"),
    ] {
        let verdict = said(server.address, asked(tcp(None, expect))).await;
        assert_eq!(verdict, down(reason));
    }
}

/// What comes before everything else.
#[tokio::test]
async fn the_proxy_header_is_first() {
    for (version, header) in [
        (None, &b""[..]),
        (Some(ProxyProtocol::V1), b"PROXY UNKNOWN\r\n"),
        (
            Some(ProxyProtocol::V2),
            b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x20\x00\x00\x00",
        ),
    ] {
        let (send, mut receive) = mpsc::unbounded_channel();
        let server = Server::start("[::1]:0", move |mut stream| {
            let send = send.clone();
            async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await?;
                send.send(all).unwrap();
                Ok(())
            }
        })
        .await;
        let probe = Tcp {
            send: Some("hello".into()),
            proxy_protocol: version,
            ..Tcp::default()
        };
        let monitor = asked(Probe::Tcp(probe));
        assert_eq!(said(server.address, monitor).await, Verdict::Up);
        let came = timeout(PATIENCE, receive.recv()).await.unwrap().unwrap();
        assert_eq!(came, [header, b"hello"].concat());
    }
}
