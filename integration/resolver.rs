//! Names against a hosts file and a real DNS server on the loopback, one that answers as it is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "resolver/dns.rs"]
mod dns;
mod edge;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use plimsoll::event::Event;
use plimsoll::resolver::{self, Files};
use plimsoll::service::{Family, Host};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use dns::{Dns, Reply};
use edge::{Edge, service};

/// A host's files, and the DNS server that they name.
struct Machine {
    dir: TempDir,
    dns: Dns,
}

impl Machine {
    async fn new(hosts: &str) -> Machine {
        Machine::at("127.0.0.1:0", hosts, "").await
    }

    async fn at(dns: &str, hosts: &str, resolv_conf: &str) -> Machine {
        let machine = Machine {
            dir: TempDir::new().unwrap(),
            dns: Dns::start(dns).await,
        };
        machine.write("hosts", hosts);
        let server = machine.dns.address.ip();
        machine.write(
            "resolv.conf",
            &format!("nameserver {server}\n{resolv_conf}\n"),
        );
        machine
    }

    /// As configuration management does it.
    fn write(&self, name: &str, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.dir.path(), name)
    }

    fn resolve(&self, address: &str, names: &[&str]) -> Edge {
        let files = Files {
            hosts: self.path("hosts"),
            resolv_conf: self.path("resolv.conf"),
            dns_port: self.dns.address.port(),
        };
        let edge = Edge::start(|snapshots, events| resolver::run(files, snapshots, events));
        list(&edge, "web", address, names);
        edge
    }
}

const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

fn list(edge: &Edge, name: &str, address: &str, names: &[&str]) {
    let names: BTreeSet<Host> = names.iter().map(|name| name.parse().unwrap()).collect();
    edge.set(name, Some(service(name, address, BTreeMap::new(), names)));
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn resolved(edge: &mut Edge, name: &str, wanted: &[&str]) {
    let event = edge.event().await;
    let Event::Resolved {
        host,
        addresses,
        family,
    } = event
    else {
        panic!("{event:?}");
    };
    assert_eq!((host.as_str(), &addresses), (name, &ips(wanted)));
    assert!(
        addresses
            .iter()
            .all(|address| Family::of(*address) == family)
    );
}

async fn unresolved(edge: &mut Edge, name: &str, said: &str) {
    let event = edge.event().await;
    let Event::Unresolved { host, fault, .. } = event else {
        panic!("{event:?}");
    };
    assert_eq!((host.as_str(), &*fault), (name, said));
}

#[tokio::test]
async fn a_name_in_the_hosts_file_is_answered_at_once_without_dns() {
    let machine = Machine::new("10.0.0.2 a.example.org a\n10.0.0.1 a\n2001:db8::a a\n").await;
    for (address, name, addresses) in [
        (V4, "a", &["10.0.0.1", "10.0.0.2"][..]),
        (V4, "A.Example.org", &["10.0.0.2"]),
        (V4, "a.example.org.", &["10.0.0.2"]),
        (V6, "a", &["2001:db8::a"]),
    ] {
        let mut edge = machine.resolve("198.51.100.1", &[]);
        // The files have been read by now: names come to a resolver that runs.
        edge.silent(Duration::from_millis(50)).await;
        let before = Instant::now();
        list(&edge, "web", address, &[name]);
        resolved(&mut edge, name, addresses).await;
        println!("{name}: {:?}", before.elapsed());
        assert!(before.elapsed() < Duration::from_millis(100));
    }
    assert!(machine.dns.zone.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn localhost_needs_neither() {
    let machine = Machine::at("127.0.0.1:0", "", "search example.org").await;
    resolved(
        &mut machine.resolve(V4, &["localhost"]),
        "localhost",
        &["127.0.0.1"],
    )
    .await;
    resolved(
        &mut machine.resolve(V6, &["localhost"]),
        "localhost",
        &["::1"],
    )
    .await;
    assert!(machine.dns.zone.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn changes_of_the_hosts_file_are_followed() {
    let machine = Machine::new("10.0.0.1 a\n").await;
    machine.dns.set_addresses("a.", &["10.9.9.9"], 3600);
    machine.dns.set_addresses("b.", &["10.9.9.8"], 3600);
    let mut edge = machine.resolve(V4, &["a"]);
    resolved(&mut edge, "a", &["10.0.0.1"]).await;
    machine.write("hosts", "10.0.0.2 a\n");
    resolved(&mut edge, "a", &["10.0.0.2"]).await;
    list(&edge, "web", V4, &["a", "b"]);
    resolved(&mut edge, "b", &["10.9.9.8"]).await;
    std::fs::remove_file(machine.path("hosts")).unwrap();
    resolved(&mut edge, "a", &["10.9.9.9"]).await;
    machine.write("hosts", "10.0.0.3 a\n");
    resolved(&mut edge, "a", &["10.0.0.3"]).await;
    // What DNS says of another name is not asked for again for that.
    assert_eq!(machine.dns.asked("b."), 1);
}

#[tokio::test]
async fn dns_by_family() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let machine = Machine::at(at, "2001:db8::ff cp1.example.org\n", "").await;
        let all = [
            "10.0.0.2",
            "2001:db8::b",
            "10.0.0.1",
            "10.0.0.2",
            "0.0.0.0",
            "2001:db8::a",
        ];
        machine.dns.set_addresses("cp2.example.org.", &all, 3600);
        machine
            .dns
            .set_addresses("cp1.example.org.", &["10.0.0.9"], 3600);
        let mut edge = machine.resolve(V4, &["cp2.example.org"]);
        resolved(&mut edge, "cp2.example.org", &["10.0.0.1", "10.0.0.2"]).await;
        list(&edge, "web6", V6, &["cp2.example.org"]);
        resolved(
            &mut edge,
            "cp2.example.org",
            &["2001:db8::a", "2001:db8::b"],
        )
        .await;
        // The hosts file has only the other family.
        list(&edge, "web", V4, &["cp1.example.org"]);
        resolved(&mut edge, "cp1.example.org", &["10.0.0.9"]).await;
    }
}

#[tokio::test]
async fn asks_again_when_the_ttl_is_over_and_tells_changes_only() {
    let machine = Machine::new("").await;
    machine.dns.set_addresses("a.", &["10.0.0.1"], 1);
    machine.dns.set_addresses("b.", &["10.0.0.1"], 3600);
    machine.dns.set("c.", Reply::Alias("d.", 1));
    machine.dns.set_addresses("d.", &["10.0.0.1"], 3600);
    let mut edge = machine.resolve(V4, &["a"]);
    resolved(&mut edge, "a", &["10.0.0.1"]).await;
    list(&edge, "web", V4, &["a", "b"]);
    resolved(&mut edge, "b", &["10.0.0.1"]).await;
    list(&edge, "web", V4, &["a", "b", "c"]);
    resolved(&mut edge, "c", &["10.0.0.1"]).await;
    let before = Instant::now();
    machine.dns.until_asked("a.", 3).await;
    assert!(
        before.elapsed() > Duration::from_secs(1),
        "{:?}",
        before.elapsed()
    );
    // An alias is as good as its shortest-lived record.
    machine.dns.until_asked("c.", 2).await;
    assert!(edge.events.try_recv().is_err(), "nothing has changed");
    machine
        .dns
        .set_addresses("a.", &["10.0.0.2", "10.0.0.1"], 1);
    resolved(&mut edge, "a", &["10.0.0.1", "10.0.0.2"]).await;
    assert_eq!(machine.dns.asked("b."), 1);
}

#[tokio::test]
async fn a_fault_is_told_once_and_tried_again() {
    let machine = Machine::new("").await;
    let mut edge = machine.resolve(V4, &["a"]);
    unresolved(&mut edge, "a", "no such name in DNS").await;
    machine.dns.until_asked("a.", 2).await;
    machine.dns.set_addresses("a.", &["2001:db8::1"], 1);
    unresolved(&mut edge, "a", "no IPv4 address in DNS").await;
    machine.dns.set("a.", Reply::Code(ResponseCode::ServFail));
    unresolved(&mut edge, "a", "DNS says Server Failure").await;
    machine.dns.set_addresses("a.", &["10.0.0.1"], 1);
    resolved(&mut edge, "a", &["10.0.0.1"]).await;
    machine.dns.set("a.", Reply::Code(ResponseCode::Refused));
    unresolved(&mut edge, "a", "DNS says Query Refused").await;
    // The fault is over: this must be told, though the address is the one known before.
    machine.dns.set_addresses("a.", &["10.0.0.1"], 1);
    resolved(&mut edge, "a", &["10.0.0.1"]).await;
}

#[tokio::test]
async fn names_that_dns_cannot_have() {
    let machine = Machine::new("").await;
    let long = "a".repeat(64);
    for name in ["a..b", &long] {
        unresolved(
            &mut machine.resolve(V4, &[name]),
            name,
            "not a name for DNS",
        )
        .await;
    }
}

#[tokio::test]
async fn search_domains_and_dots() {
    let machine = Machine::at(
        "127.0.0.1:0",
        "",
        "search one.example.org two.example.org\noptions ndots:2",
    )
    .await;
    machine
        .dns
        .set_addresses("a.two.example.org.", &["10.0.0.1"], 3600);
    machine
        .dns
        .set_addresses("a.b.one.example.org.", &["10.0.0.2"], 3600);
    machine.dns.set_addresses("a.b.", &["10.0.0.3"], 3600);
    machine.dns.set_addresses("a.b.c.", &["10.0.0.4"], 3600);
    machine
        .dns
        .set_addresses("a.b.c.one.example.org.", &["10.0.0.5"], 3600);
    for (name, address) in [
        ("a", "10.0.0.1"),
        ("a.b", "10.0.0.2"),
        ("a.b.", "10.0.0.3"),
        ("a.b.c", "10.0.0.4"),
    ] {
        resolved(&mut machine.resolve(V4, &[name]), name, &[address]).await;
    }
    unresolved(
        &mut machine.resolve(V4, &["a."]),
        "a.",
        "no such name in DNS",
    )
    .await;
}

#[tokio::test]
async fn a_dead_server_delays_nobody_else() {
    let machine = Machine::new("10.0.0.1 known\n").await;
    machine.dns.set("dead.", Reply::Silence);
    machine.dns.set_addresses("alive.", &["10.0.0.2"], 3600);
    let mut edge = machine.resolve(V4, &["dead"]);
    machine.dns.until_asked("dead.", 1).await;
    list(&edge, "web", V4, &["alive", "dead"]);
    resolved(&mut edge, "alive", &["10.0.0.2"]).await;
    list(&edge, "web", V4, &["alive", "dead", "known"]);
    resolved(&mut edge, "known", &["10.0.0.1"]).await;
    unresolved(&mut edge, "dead", "no answer from DNS").await;
    machine.dns.set_addresses("dead.", &["10.0.0.3"], 3600);
    resolved(&mut edge, "dead", &["10.0.0.3"]).await;
}

#[tokio::test]
async fn a_second_server_is_asked_when_the_first_is_dead() {
    let machine = Machine::new("").await;
    machine.dns.set_addresses("a.", &["10.0.0.1"], 3600);
    let port = machine.dns.address.port();
    // Nobody answers there, nor says that nobody does.
    let _silent = UdpSocket::bind(("127.0.0.2", port)).await.unwrap();
    machine.write(
        "resolv.conf",
        "nameserver 127.0.0.2\nnameserver 127.0.0.1\n",
    );
    resolved(&mut machine.resolve(V4, &["a"]), "a", &["10.0.0.1"]).await;
}

#[tokio::test]
async fn a_new_resolv_conf_is_used() {
    let machine = Machine::new("").await;
    machine
        .dns
        .set_addresses("a.example.org.", &["10.0.0.1"], 3600);
    machine.write("resolv.conf", "# nothing yet\n");
    let mut edge = machine.resolve(V4, &["a"]);
    let Event::Unresolved { fault, .. } = edge.event().await else {
        panic!("it resolved")
    };
    assert!(fault.contains("nameserver"), "{fault}");
    machine.write("resolv.conf", "nameserver 127.0.0.1\nsearch example.org\n");
    resolved(&mut edge, "a", &["10.0.0.1"]).await;
}

#[tokio::test]
async fn no_more_than_64_questions_at_once() {
    let machine = Machine::new("").await;
    machine.dns.zone.lock().unwrap().delay = Duration::from_millis(20);
    let names: Vec<String> = (0..500).map(|n| format!("cp{n}")).collect();
    for name in &names {
        machine
            .dns
            .set_addresses(&format!("{name}."), &["10.0.0.1"], 3600);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut edge = machine.resolve(V4, &names);
    for _ in 0..500 {
        assert!(matches!(edge.event().await, Event::Resolved { .. }));
    }
    let most = machine.dns.zone.lock().unwrap().most_open;
    assert!((2..=64).contains(&most), "{most}");
}

#[tokio::test]
async fn a_name_is_asked_for_once_however_many_list_it() {
    let machine = Machine::new("").await;
    machine.dns.set_addresses("a.", &["10.0.0.1"], 3600);
    let mut edge = machine.resolve(V4, &["a"]);
    resolved(&mut edge, "a", &["10.0.0.1"]).await;
    // A further service hears what is known.
    list(&edge, "other", "192.0.2.2", &["a"]);
    resolved(&mut edge, "a", &["10.0.0.1"]).await;
    list(&edge, "web", V4, &["b"]);
    unresolved(&mut edge, "b", "no such name in DNS").await;
    assert_eq!(machine.dns.asked("a."), 1);
    // Nobody lists it any more: forgotten. Back again: asked for again.
    edge.set("other", None);
    list(&edge, "third", V4, &["c"]);
    unresolved(&mut edge, "c", "no such name in DNS").await;
    list(&edge, "third", V4, &["a", "c"]);
    resolved(&mut edge, "a", &["10.0.0.1"]).await;
    assert_eq!(machine.dns.asked("a."), 2);
}

#[tokio::test]
async fn a_name_that_nobody_lists_is_not_asked_for() {
    let machine = Machine::new("").await;
    machine.dns.set_addresses("a.", &["10.0.0.1"], 1);
    machine.dns.set_addresses("b.", &["10.0.0.1"], 1);
    let mut edge = machine.resolve(V4, &["a", "b"]);
    let _both = (edge.event().await, edge.event().await);
    list(&edge, "web", V4, &["b"]);
    machine
        .dns
        .until_asked("b.", machine.dns.asked("b.") + 2)
        .await;
    let before = machine.dns.asked("a.");
    machine
        .dns
        .until_asked("b.", machine.dns.asked("b.") + 2)
        .await;
    assert_eq!(machine.dns.asked("a."), before);
}
