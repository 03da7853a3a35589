//! `udp` against ports where somebody listens, and where nobody does.

use std::net::UdpSocket;
use std::time::Duration;

use plimsoll::check::{Monitor, Probe, Udp};
use plimsoll::event::Verdict;
use tokio::time::Instant;

use super::lab::Lab;
use super::{BOTH, down, verdict, watch};

const INTERVAL: Duration = Duration::from_millis(100);
const ICMP_TIMEOUT: Duration = Duration::from_millis(400);

fn udp() -> Monitor {
    let probe = Udp {
        interval: INTERVAL,
        icmp_timeout: ICMP_TIMEOUT,
    };
    Monitor::new(Probe::Udp(probe), Duration::from_secs(1), INTERVAL)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_closes_and_opens_again() {
    for at in BOTH {
        let server = UdpSocket::bind(at).unwrap();
        let address = server.local_addr().unwrap();
        let mut edge = watch(address, udp());
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
        // Datagrams are empty, and come on.
        for _ in 0..3 {
            server
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            assert_eq!(server.recv(&mut [0; 9]).unwrap(), 0);
        }
        drop(server);
        let closed = Instant::now();
        assert_eq!(verdict(&mut edge).await, down("port unreachable"));
        println!(
            "{at}: down {:?} after the port was closed",
            closed.elapsed()
        );
        // As long as each datagram brings ICMP it stays so, and then for a time.
        edge.silent(ICMP_TIMEOUT * 2).await;
        let _server = UdpSocket::bind(address).unwrap();
        let open = Instant::now();
        assert_eq!(verdict(&mut edge).await, Verdict::Up);
        let took = open.elapsed();
        assert!(took >= ICMP_TIMEOUT - INTERVAL * 2, "{at}: {took:?}");
    }
}

#[tokio::test]
async fn a_closed_port_is_down_from_the_start() {
    for at in BOTH {
        let address = UdpSocket::bind(at).unwrap().local_addr().unwrap();
        let mut edge = watch(address, udp());
        assert_eq!(verdict(&mut edge).await, down("port unreachable"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_too_much_is_up() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut edge = watch(server.local_addr().unwrap(), udp());
    let flood = tokio::task::spawn_blocking(move || {
        let (_, peer) = server.recv_from(&mut [0; 9]).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            server.send_to(&[b'x'; 1400], peer).unwrap();
        }
    });
    assert_eq!(verdict(&mut edge).await, Verdict::Up);
    flood.await.unwrap();
    assert_eq!(verdict(&mut edge).await, down("port unreachable"));
}

#[test]
fn hosts_that_cannot_be_reached() {
    let lab = Lab::new();
    let patient = || Monitor {
        timeout: Duration::from_secs(4),
        ..udp()
    };
    let cases = [
        ("203.0.113.1", "no route to network"),
        ("2001:db8:2::1", "no route to network"),
        // Nobody has the address.
        ("192.0.2.3", "host unreachable"),
        ("2001:db8::3", "host unreachable"),
    ];
    for (server, reason) in cases {
        let begun = Instant::now();
        assert_eq!(lab.told(server, patient), down(reason), "{server}");
        println!("{server}: {reason} after {:?}", begun.elapsed());
    }
}
