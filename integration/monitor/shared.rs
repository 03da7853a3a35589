//! The same check of the same server for many services runs once, and all hear of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use plimsoll::check::{Check, Monitor};
use plimsoll::event::{CheckId, Event, Verdict};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::edge::{Edge, PATIENCE, service};
use super::server::{Server, keep_open};
use super::{check, down, idle, start};

const SERVICES: u64 = 100;

/// Service n has this check, under this id.
fn serve(edge: &Edge, n: u64, id: u64, check: &Check) {
    let name = format!("service-{n}");
    let check = Arc::new(Check {
        service: name.parse().unwrap(),
        figures: Arc::default(),
        ..check.clone()
    });
    let checks = [(CheckId(id), check)].into();
    let address = format!("192.0.2.{n}");
    edge.set(
        &name,
        Some(service(&name, &address, checks, Default::default())),
    );
}

/// The next `count` events are this verdict, for as many services; gives the checks' ids.
async fn all_hear(edge: &mut Edge, count: usize, expected: &Verdict) -> BTreeSet<u64> {
    let mut services = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for _ in 0..count {
        let event = edge.event().await;
        let Event::Checked {
            service,
            check,
            verdict,
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(verdict, *expected);
        services.insert(service);
        ids.insert(check.0);
    }
    assert_eq!((services.len(), ids.len()), (count, count));
    ids
}

#[tokio::test]
async fn one_connection_for_a_hundred_services() {
    let server = Server::start("127.0.0.1:0", keep_open).await;
    let idle = check(server.address, idle());
    let mut edge = start();
    for n in 0..SERVICES {
        serve(&edge, n, n, &idle);
    }
    all_hear(&mut edge, 100, &Verdict::Up).await;
    // Who comes later hears at once what is known.
    serve(&edge, 100, 100, &idle);
    assert_eq!(all_hear(&mut edge, 1, &Verdict::Up).await, [100].into());
    // A service that goes on under another id hears it, too, and its old id no more; the others are left alone.
    serve(&edge, 0, 200, &idle);
    assert_eq!(all_hear(&mut edge, 1, &Verdict::Up).await, [200].into());
    for n in 1..50 {
        edge.set(&format!("service-{n}"), None);
    }
    assert_eq!(server.accepted(), 1);
    drop(server);
    let left = all_hear(&mut edge, 52, &down("connection refused")).await;
    assert_eq!(left, (50..=100).chain([200]).collect());
}

#[tokio::test]
async fn another_question_is_another_connection() {
    let closed = Arc::new(Semaphore::new(0));
    let one_more = closed.clone();
    let server = Server::start("127.0.0.1:0", move |mut stream| {
        let closed = one_more.clone();
        async move {
            let _ = stream.read_u8().await;
            closed.add_permits(1);
            Ok(())
        }
    })
    .await;
    let idle = check(server.address, idle());
    let mut edge = start();
    serve(&edge, 1, 1, &idle);
    all_hear(&mut edge, 1, &Verdict::Up).await;
    let patient = Monitor {
        timeout: idle.monitor.timeout * 2,
        ..(*idle.monitor).clone()
    };
    serve(&edge, 2, 2, &check(server.address, patient));
    all_hear(&mut edge, 1, &Verdict::Up).await;
    assert_eq!(server.accepted(), 2);
    // The last one that leaves takes its connection along: the next one is asked anew.
    edge.set("service-1", None);
    let gone = timeout(PATIENCE, closed.acquire()).await;
    gone.expect("closed in time").unwrap().forget();
    serve(&edge, 3, 3, &idle);
    all_hear(&mut edge, 1, &Verdict::Up).await;
    assert_eq!(server.accepted(), 3);
}
