//! `ping` in networks of our own: a host that is there, one that is not, one behind a wire that loses.

use std::sync::mpsc;
use std::time::Duration;

use plimsoll::check::{Monitor, Probe};
use plimsoll::event::Verdict;

use super::edge::Edge;
use super::lab::{Lab, SERVER};
use super::netns::run;
use super::{down, unable, verdict, watch};

const TIMEOUT: Duration = Duration::from_millis(900);

fn ping() -> Monitor {
    Monitor::new(Probe::Ping, Duration::from_millis(100), TIMEOUT)
}

fn told(lab: &Lab, server: &str) -> Verdict {
    lab.told(server, ping)
}

#[test]
fn a_host_that_answers_by_either_kind_of_socket() {
    let lab = Lab::new();
    for range in ["0 2147483647", "1 0"] {
        lab.group_range(range);
        for server in SERVER.into_iter().chain(["127.0.0.1", "::1"]) {
            assert_eq!(told(&lab, server), Verdict::Up, "{server} {range}");
        }
    }
}

#[test]
fn hosts_that_do_not() {
    for range in ["0 2147483647", "1 0"] {
        let lab = Lab::new();
        lab.group_range(range);
        // Nobody has the address; the kernel says so only after 3 s.
        let no_answer = down("no answer in 900ms");
        for nobody in ["192.0.2.3", "2001:db8::3"] {
            assert_eq!(told(&lab, nobody), no_answer, "{nobody} {range}");
        }
        // A router says so at once.
        lab.balancer.ip("route add 198.51.100.0/24 via 192.0.2.2");
        lab.balancer.ip("route add 2001:db8:1::/64 via 2001:db8::2");
        lab.server.ip("route add unreachable 198.51.100.0/24");
        lab.server.ip("route add unreachable 2001:db8:1::/64");
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        run(lab.server.command("sh").args(["-c", forward]));
        let behind = [
            ("198.51.100.1", "host unreachable"),
            ("2001:db8:1::1", "network unreachable"),
        ];
        for (behind, reason) in behind {
            assert_eq!(told(&lab, behind), down(reason), "{behind} {range}");
        }
        for nowhere in ["203.0.113.1", "2001:db8:2::1"] {
            assert_eq!(
                told(&lab, nowhere),
                down("no route to network"),
                "{nowhere} {range}"
            );
        }
        // It is up, and does not answer.
        let ignore = "echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all; echo 1 > /proc/sys/net/ipv6/icmp/echo_ignore_all";
        run(lab.server.command("sh").args(["-c", ignore]));
        for server in SERVER {
            assert_eq!(told(&lab, server), no_answer, "{server} {range}");
        }
    }
}

#[test]
fn loss_is_made_up_by_the_second_echo() {
    let lab = Lab::new();
    // The first echo is dropped, and so is every other one after it.
    let rule = "add rule ip t c icmp type echo-request numgen inc mod 2 0 drop; add rule ip6 t c icmpv6 type echo-request numgen inc mod 2 0 drop";
    let chain = |family| {
        format!(
            "add table {family} t; add chain {family} t c {{ type filter hook input priority 0; }}; "
        )
    };
    let rules = format!("{}{}{rule}", chain("ip"), chain("ip6"));
    run(lab.server.command("nft").arg(&rules));
    for server in SERVER {
        assert_eq!(told(&lab, server), Verdict::Up, "{server}");
    }
}

#[test]
fn a_server_goes_and_comes_back() {
    let lab = Lab::new();
    let (send, changes) = mpsc::channel();
    let (verdicts, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        let lab = &lab;
        scope.spawn(move || {
            for _ in changes.iter().take(1) {
                lab.server.ip("link set wire down");
            }
            for _ in changes.iter().take(1) {
                lab.server.ip("link set wire up");
            }
        });
        lab.inside(async move || {
            let mut edge: Edge = watch("192.0.2.2:80".parse().unwrap(), ping());
            verdicts.send(verdict(&mut edge).await).unwrap();
            send.send(()).unwrap();
            verdicts.send(verdict(&mut edge).await).unwrap();
            send.send(()).unwrap();
            verdicts.send(verdict(&mut edge).await).unwrap();
        });
    });
    let all: Vec<Verdict> = receive.iter().collect();
    assert_eq!((&all[0], &all[2]), (&Verdict::Up, &Verdict::Up));
    assert!(
        matches!(&all[1], Verdict::Down(reason) if !reason.is_empty()),
        "{all:?}"
    );
}

/// Set where the test below runs by itself, without the capability.
const WITHOUT: &str = "PLIMSOLL_TEST_WITHOUT_NET_RAW";

#[test]
fn without_permission_it_is_our_trouble() {
    if std::env::var_os(WITHOUT).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(without_permission());
    }
    let lab = Lab::new();
    lab.group_range("1 0");
    let mut alone = lab.balancer.command("setpriv");
    alone
        .args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "ping::without_permission_it_is_our_trouble"])
        .env(WITHOUT, "1");
    let said = run(&mut alone);
    assert!(said.contains("1 passed"), "{said}");
}

async fn without_permission() {
    let reason = "ping is not permitted: this daemon has neither CAP_NET_RAW nor a group in net.ipv4.ping_group_range";
    for server in ["127.0.0.1:80", "[::1]:80"] {
        let mut edge = watch(server.parse().unwrap(), ping());
        unable(&mut edge, 1, reason).await;
    }
}
