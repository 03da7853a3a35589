//! What the flags of the schedulers that hash do, and the persistence engine, as clients see it.

use std::collections::BTreeSet;

use super::forwarding::{at, direct, until_direct, words};
use super::traffic::{A, B, CLIENTS, Lab, Service, Transport, VIPS};
use crate::netns::run;

const TCP: Transport = Transport::Tcp;

/// A service with these flags. Its servers are of weight 1, `a` of this one.
fn hashed(n: usize, port: u16, scheduler: &str, flags: &[&str], a: u32) -> Service {
    let name = format!("{scheduler}{port}-{n}");
    let flags: Vec<_> = flags
        .iter()
        .map(|flag| format!("\"{scheduler}-{flag}\""))
        .collect();
    let keys = format!(
        "scheduler = \"{scheduler}\"\nscheduler-flags = [{}]",
        flags.join(", ")
    );
    let a = format!("host = \"{}\"\nweight = {a}", A[n]);
    let b = format!("host = \"{}\"\nweight = 1", B[n]);
    Service::new(&name, (VIPS[n], port, TCP), &keys, &[&a, &b])
}

/// The names of those who answer 16 connections, each from a port of its own; whoever is refused is told so.
fn answers(lab: &Lab, n: usize, to: u16, first: u16) -> BTreeSet<String> {
    let ask = |from| match lab.ask_from(TCP, Some((CLIENTS[n][0], from)), (VIPS[n], to)) {
        Ok(name) => name,
        Err(error) => error.kind().to_string(),
    };
    (first..first + 16).map(ask).collect()
}

/// With `PORT` each connection has its place in the hash, and so half of them `a`. `FALLBACK` is for those whose
/// server takes none.
fn flags_of(scheduler: &str) {
    let mut lab = Lab::new();
    const PLAIN: u16 = 4600;
    const PORT: u16 = 4601;
    const FALLBACK: u16 = 4602;
    for port in [PLAIN, PORT, FALLBACK] {
        lab.serve_vips(port);
    }
    // Each client is told at once that it is refused.
    let told = ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"];
    run(lab.balancer.command("sysctl").arg("-qw").args(told));
    let services = |a: u32| {
        let of_family = |n| {
            [
                hashed(n, PLAIN, scheduler, &[], a),
                hashed(n, PORT, scheduler, &["port"], a),
                hashed(n, FALLBACK, scheduler, &["port", "fallback"], a),
            ]
        };
        [0, 1].into_iter().flat_map(of_family).collect::<Vec<_>>()
    };
    let mut own_ports = (41000..).step_by(16);
    let mut check = |lab: &Lab, n, port, expected: &[&str]| {
        let names = answers(lab, n, port, own_ports.next().unwrap());
        let expected = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names, expected, "port {port} of {}", VIPS[n]);
    };
    for a in [1, 0] {
        lab.run(&services(a));
        for n in [0, 1] {
            for port in [PLAIN, PORT, FALLBACK] {
                let shown = [(A, a), (B, 1)]
                    .map(|(server, weight)| format!("{} -g -w {weight}", at(server[n], port)));
                lab.until_destinations(&words(TCP, VIPS[n], port), &[&shown[0], &shown[1]]);
            }
            if a == 1 {
                let one = answers(&lab, n, PLAIN, 40000);
                assert_eq!(one.len(), 1, "the hash is of the address: {one:?}");
                check(&lab, n, PORT, &["a", "b"]);
                check(&lab, n, FALLBACK, &["a", "b"]);
            } else {
                check(&lab, n, PORT, &["b", "connection refused"]);
                check(&lab, n, FALLBACK, &["b"]);
            }
        }
    }
}

#[test]
fn flags_of_sh() {
    flags_of("sh");
}

#[test]
fn flags_of_mh() {
    flags_of("mh");
}

/// As much of a request as IPVS looks at.
fn invite(call: &str) -> String {
    format!("OPTIONS sip:x SIP/2.0\r\nCall-ID: {call}\r\n\r\n")
}

#[test]
fn a_call_stays_at_its_server_whatever_port_it_comes_from() {
    let udp = Transport::Udp;
    let mut lab = Lab::new();
    for port in [5060, 5061] {
        lab.serve_vips(port);
    }
    let timeout = "persistence-timeout = \"1m\"";
    let sip = format!("{timeout}\npersistence-engine = \"sip\"");
    let services = [0, 1].into_iter().flat_map(|n| {
        [
            direct("sip", n, (5060, udp), &sip),
            direct("client", n, (5061, udp), timeout),
        ]
    });
    lab.run(&services.collect::<Vec<_>>());
    for n in [0, 1] {
        for port in [5060, 5061] {
            until_direct(&lab, &words(udp, VIPS[n], port), n, port);
        }
        let ask = |call: &str, client: usize, port| {
            lab.ask_with(&invite(call), CLIENTS[n][client], (VIPS[n], port))
                .unwrap_or_else(|error| panic!("{call} to port {port} of {}: {error}", VIPS[n]))
        };
        let one = ask("one@test", 0, 5060);
        // By turns, so one client's calls are of both servers; a call of another client's is another one.
        let two = ask("two@test", 0, 5060);
        assert_ne!(one, two);
        let other = ask("three@test", 1, 5060);
        assert_ne!(ask("one@test", 1, 5060), other);
        for _ in 0..3 {
            assert_eq!(ask("one@test", 0, 5060), one);
            assert_eq!(ask("two@test", 0, 5060), two);
            assert_eq!(ask("three@test", 1, 5060), other);
        }
        let mut ours = lab.balancer.command(env!("CARGO_BIN_EXE_plimsoll"));
        let to = at(VIPS[n], 5060);
        let lines = run(ours.args(["connections", "--json", "--service", &to]));
        for (call, count) in [("one", 2), ("two", 1), ("three", 1), ("four", 0)] {
            let kept = format!("\"engine\":[\"sip\",\"{call}@test\"]");
            assert_eq!(lines.matches(&kept).count(), count, "{call}: {lines}");
        }
        // Without the engine the client decides, not the call.
        let first = ask("three@test", 0, 5061);
        assert_eq!(ask("four@test", 0, 5061), first);
        assert_ne!(ask("three@test", 1, 5061), first);
    }
}
