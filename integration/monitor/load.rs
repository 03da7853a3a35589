//! The load in an answer: out of a header, a body, a program's output; and who hears of it.

use std::net::SocketAddr;

use hyper::header::HeaderName;
use plimsoll::check::{Http, Load, LoadFrom, LoadKind, Monitor, Probe, RunCommand};
use plimsoll::event::{Event, Verdict};
use tokio::io::AsyncWriteExt;

use super::edge::Edge;
use super::server::{Server, head};
use super::{asked, check, list, start};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nX-Load: 70\r\nContent-Length: 31\r\n\r\n{\"load\": [{\"one\": 70, \"x\": 1}]}";

async fn server() -> Server {
    Server::start("127.0.0.1:0", |mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(ANSWER.as_bytes()).await
    })
    .await
}

fn shares(probe: Probe, from: LoadFrom) -> Monitor {
    let load = Load {
        from,
        what: LoadKind::Weight,
        smoothing: 0,
        step: 100,
        least: 10,
        most: 100,
    };
    Monitor {
        load: Some(load),
        ..asked(probe)
    }
}

fn http(from: LoadFrom) -> Monitor {
    let get = Http::get("http://www.example.org/".parse().unwrap());
    shares(Probe::Http(Box::new(get)), from)
}

fn echo(text: &str) -> Monitor {
    let command = RunCommand {
        command: "/bin/echo".into(),
        arguments: vec![text.parse().unwrap()],
        log_output: false,
        user: None,
    };
    shares(Probe::RunCommand(command), LoadFrom::Output)
}

/// The next two events: the share, which comes first, and the verdict; both of this check.
async fn share(edge: &mut Edge, id: u64) -> u32 {
    let first = edge.event().await;
    let Event::Load { check, percent, .. } = first else {
        panic!("{first:?}");
    };
    let second = edge.event().await;
    let Event::Checked {
        check: same,
        verdict: Verdict::Up,
        ..
    } = second
    else {
        panic!("{second:?}");
    };
    assert_eq!((check.0, same), (id, check));
    percent
}

#[tokio::test]
async fn where_it_stands() {
    let server = server().await;
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    for (target, monitor) in [
        (
            server.address,
            http(LoadFrom::Header(HeaderName::from_static("x-load"))),
        ),
        (server.address, http(LoadFrom::Json("/load/0/one".into()))),
        (nowhere, echo("70")),
    ] {
        let mut edge = start();
        let check = check(target, monitor);
        list(&edge, [(1, check.clone())]);
        assert_eq!(share(&mut edge, 1).await, 70);
        assert_eq!(check.figures.load().percent, Some(70));
    }
}

/// No number is no reason to depool, nor to change a weight.
#[tokio::test]
async fn where_it_does_not_stand() {
    let server = server().await;
    for (target, monitor, fault) in [
        (
            server.address,
            http(LoadFrom::Header(HeaderName::from_static("x-other"))),
            "no load in the answer",
        ),
        (
            server.address,
            http(LoadFrom::Json("/load/7".into())),
            "no load at /load/7 of the JSON",
        ),
        (
            server.address,
            echo("seventy"),
            "the load is no number from 0 on: \"seventy\"",
        ),
    ] {
        let mut edge = start();
        let check = check(target, monitor);
        list(&edge, [(1, check.clone())]);
        let event = edge.event().await;
        assert!(
            matches!(
                event,
                Event::Checked {
                    verdict: Verdict::Up,
                    ..
                }
            ),
            "{event:?}"
        );
        let load = check.figures.load();
        assert_eq!(load.fault.as_deref(), Some(fault));
        assert_eq!(load.percent, None);
    }
}

#[tokio::test]
async fn who_comes_late_hears_of_it() {
    let server = server().await;
    let mut edge = start();
    let check = check(
        server.address,
        http(LoadFrom::Header(HeaderName::from_static("x-load"))),
    );
    list(&edge, [(1, check.clone())]);
    assert_eq!(share(&mut edge, 1).await, 70);
    list(&edge, [(1, check.clone()), (2, check)]);
    assert_eq!(share(&mut edge, 2).await, 70);
    assert_eq!(server.accepted(), 1);
}
