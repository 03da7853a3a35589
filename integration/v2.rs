//! `api = "v2"` against a real etcd, written by the real confctl and conftool-sync.
//! What must happen is waited for with a deadline; what must not is shown by what comes next instead.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "in a test a panic is the message, and the clock is the world's"
)]

#[expect(dead_code, unreachable_pub, reason = "other tests use the rest of it")]
mod cluster;
mod conftool;
#[path = "v2/follower.rs"]
mod follower;
#[path = "v2/proxy.rs"]
mod proxy;
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../src/snapshot/sample.rs"]
mod sample;
#[path = "v2/writer.rs"]
mod writer;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cluster::Cluster;
use conftool::Conftool;
use follower::{Follower, SOON};
use plimsoll::conftool::Pooled::{Inactive, No, Yes};
use plimsoll::{config, routing, service, snapshot};
use proxy::Proxy;
use tokio::task::spawn_blocking;
use writer::Writer;

/// etcd keeps so many events.
const EVENTS: usize = 1000;

fn section(endpoints: &[String]) -> String {
    format!("[etcd]\napi = \"v2\"\nendpoints = {endpoints:?}\n")
}

/// What it says to its user.
fn said(output: &Output) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn confctl_and_conftool_sync_are_followed() {
    let cluster = Cluster::start(1);
    let conftool = Conftool::new(&cluster.endpoints()[0]);
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("node")).unwrap();
    let file = data.path().join("node/eqiad.yaml");
    let services = [("nginx", "eqiad/text/nginx"), ("dns", "eqiad/dns/dns")];
    let mut follower = Follower::start(&section(&cluster.endpoints()), &services);

    // What conftool-sync makes is inactive: there is no list yet.
    fs::write(
        &file,
        "eqiad:\n  text:\n    cp1.example: [nginx]\n    cp2.example: [nginx]\n    cp3.example: [nginx]\n  \
         dns:\n    cp1.example: [dns]\n",
    )
    .unwrap();
    said(&conftool.sync(data.path()));
    follower.fault("nginx", "").await;
    assert_eq!(follower.count("nginx"), 0);

    let set = |selector: &str, action: &str| {
        let said = said(&conftool.confctl(&["select", selector, action]));
        println!("{said}");
        said
    };
    let text = set("name=cp1.example,service=nginx", "set/pooled=yes:weight=10");
    assert!(
        text.contains("eqiad/text/nginx/cp1.example: pooled changed inactive => yes"),
        "{text}"
    );
    follower.list("nginx", "cp1.example*10").await;
    // Several objects, each a write of its own.
    set("cluster=text", "set/pooled=yes:weight=7");
    follower
        .list("nginx", "cp1.example*7 cp2.example*7 cp3.example*7")
        .await;
    set("name=cp2.*", "set/pooled=no");
    follower
        .list("nginx", "cp1.example*7 !cp2.example*7 cp3.example*7")
        .await;
    set("name=cp3.*", "set/pooled=inactive");
    follower.list("nginx", "cp1.example*7 !cp2.example*7").await;
    set("name=cp2.*", "set/weight=0:pooled=yes");
    follower.list("nginx", "cp1.example*7 cp2.example*0").await;
    set("service=dns", "set/pooled=yes:weight=1");
    follower.list("dns", "cp1.example*1").await;
    said(&conftool.confctl(&["depool", "--hostname", "cp1.example"]));
    follower.list("nginx", "!cp1.example*7 cp2.example*0").await;
    follower.list("dns", "!cp1.example*1").await;
    said(&conftool.confctl(&["pool", "--hostname", "cp1.example"]));
    follower.list("nginx", "cp1.example*7 cp2.example*0").await;
    set("name=cp2.*", "delete");
    follower.list("nginx", "cp1.example*7").await;

    // What is no longer listed goes.
    fs::write(
        &file,
        "eqiad:\n  text:\n    cp1.example: [nginx]\n    cp9.example: [nginx]\n",
    )
    .unwrap();
    said(&conftool.sync(data.path()));
    set("name=cp9.*", "set/pooled=yes:weight=9");
    follower.list("nginx", "cp1.example*7 cp9.example*9").await;
    // The last of its pool: the list stays, and it is told.
    follower.fault("dns", "").await;
    assert_eq!(follower.text("dns"), "cp1.example*1");
}

/// All of a directory's end in one event.
#[tokio::test(flavor = "multi_thread")]
async fn directories_come_and_go() {
    let cluster = Cluster::start(1);
    let mut writer = Writer::new(&cluster.endpoints()[0]);
    let services = [("web", "dc/c/web"), ("other", "dc/c/other")];
    let mut follower = Follower::start(&section(&cluster.endpoints()), &services);
    follower.fault("web", "").await;
    writer.node("dc/c/web/a", 1, Yes);
    writer.node("dc/c/web/b", 1, Yes);
    writer.node("dc/c/other/a", 1, Yes);
    writer.node("dc/c/unwanted/a", 1, Yes);
    follower.list("web", "a*1 b*1").await;
    follower.list("other", "a*1").await;
    // A pool that vanishes keeps its list.
    writer.delete("conftool/v1/pools/dc/c/web?recursive=true");
    follower.fault("web", "").await;
    writer.node("dc/c/web/c", 1, Yes);
    follower.list("web", "c*1").await;
    // So do all of them.
    writer.delete("conftool?recursive=true");
    follower.fault("web", "").await;
    follower.fault("other", "").await;
    writer.node("dc/c/other/d", 1, No);
    follower.list("other", "!d*1").await;
    assert_eq!(follower.text("web"), "c*1");
    // A value where the pool's directory was, and a key below a server's.
    writer.delete("conftool/v1/pools/dc/c/other?recursive=true");
    writer.node("dc/c/other", 1, Yes);
    follower.fault("other", "").await;
    writer.delete("conftool/v1/pools/dc/c/other");
    writer.node("dc/c/other/e/deep", 1, Yes);
    writer.node("dc/c/other/f", 1, Yes);
    follower.list("other", "f*1").await;
}

/// PyBal waits 1 s after each event before it asks for the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_writes_in_a_row_are_followed() {
    const WRITES: u32 = 1000;
    let cluster = Cluster::start(1);
    let endpoint = cluster.endpoints().remove(0);
    let mut writer = Writer::new(&endpoint);
    writer.node("dc/c/web/a", 0, Yes);
    let mut follower = Follower::start(&section(&cluster.endpoints()), &[("web", "dc/c/web")]);
    follower.list("web", "a*0").await;

    // One by one: from the answer to the writer until the list is there.
    let mut times = Vec::new();
    for weight in 1..=200 {
        writer = spawn_blocking(move || {
            writer.node("dc/c/web/a", weight, Yes);
            writer
        })
        .await
        .unwrap();
        times.push(follower.list("web", &format!("a*{weight}")).await);
    }
    times.sort();
    println!(
        "one by one: median {:?}, 99th percentile {:?}",
        times[100], times[197]
    );
    // A pause of a second between polls, PyBal's, would cost half of it as a rule.
    assert!(times[100] < Duration::from_millis(500), "{times:?}");

    // In a row, as fast as etcd takes them.
    let before = follower.count("web");
    let writing = spawn_blocking(move || {
        let began = Instant::now();
        for weight in 1001..=1000 + WRITES {
            writer.node("dc/c/web/a", weight, Yes);
        }
        (began.elapsed(), Instant::now())
    });
    follower.list("web", &format!("a*{}", 1000 + WRITES)).await;
    let seen = Instant::now();
    let (took, ended) = writing.await.unwrap();
    let lag = seen.saturating_duration_since(ended);
    let lists = follower.count("web") - before;
    println!(
        "{WRITES} PUTs in {took:?}, the last list {lag:?} after the last of them, {lists} lists"
    );
    // With that pause it would be a thousand seconds.
    assert!(lag < Duration::from_secs(50), "{lag:?}");

    // The same by conftool's own library, which reads before each write.
    let conftool = Conftool::new(&endpoint);
    let program = "
import sys, time
from conftool import configuration, kvobject, loader
kvobject.KVObject.setup(configuration.get(sys.argv[1]))
node = loader.Schema.from_file('').entities['node']('dc', 'c', 'web', 'a')
began = time.monotonic()
for weight in range(3001, 4001):
    node.update({'weight': weight})
print(time.monotonic() - began)
";
    let before = follower.count("web");
    let running = spawn_blocking(move || said(&conftool.python(program)));
    let until = |follower: &Follower| follower.text("web") == "a*4000";
    while !running.is_finished() {
        follower.drain();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ended = Instant::now();
    follower.until("the library's last write", until).await;
    let lists = follower.count("web") - before;
    let took = running.await.unwrap();
    println!(
        "1000 updates by the library in {} s, {:?} behind, {lists} lists",
        took.trim(),
        ended.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_writes_elsewhere_than_etcd_keeps_lose_nothing() {
    let cluster = Cluster::start(1);
    let etcd = &cluster.endpoints()[0];
    let mut proxy = Proxy::start(etcd).await;
    let mut writer = Writer::new(etcd);
    writer.node("dc/c/web/a", 1, Yes);
    writer.node("dc/c/web/b", 1, Yes);
    let mut follower = Follower::start(
        &section(std::slice::from_ref(&proxy.endpoint)),
        &[("web", "dc/c/web")],
    );
    follower.list("web", "a*1 b*1").await;

    // A poll on its way, overtaken: it asks for what etcd has forgotten.
    proxy.polled().await;
    proxy.hold(true);
    writer.node("dc/c/web/a", 2, Yes);
    follower.list("web", "a*2 b*1").await;
    writer.node("dc/c/web/a", 3, Yes);
    for number in 0..EVENTS + 100 {
        writer.elsewhere(number);
    }
    let before = follower.count("web");
    proxy.hold(false);
    follower.list("web", "a*3 b*1").await;
    assert_eq!(follower.count("web"), before + 1);

    // All connections cut, and for long.
    proxy.shut(true);
    proxy.cut();
    writer.node("dc/c/web/a", 4, Yes);
    writer.node("dc/c/web/b", 4, Inactive);
    for number in 0..EVENTS + 100 {
        writer.elsewhere(number);
    }
    proxy.shut(false);
    follower.list("web", "a*4").await;
    // Cut again and again, with writes all the time: at the end it is as etcd has it.
    for weight in 10..30 {
        writer.node("dc/c/web/a", weight, Yes);
        proxy.cut();
        tokio::time::sleep(Duration::from_millis(u64::from(weight))).await;
    }
    follower.list("web", "a*29").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_lost_all_counts_from_one() {
    let mut cluster = Cluster::start(1);
    let mut writer = Writer::new(&cluster.endpoints()[0]);
    writer.node("dc/c/web/a", 1, Yes);
    writer.node("dc/c/web/b", 1, Yes);
    let mut index = 0;
    for number in 0..200 {
        index = writer.elsewhere(number);
    }
    let mut follower = Follower::start(&section(&cluster.endpoints()), &[("web", "dc/c/web")]);
    follower.list("web", "a*1 b*1").await;
    cluster.kill(0);
    cluster.wipe(0);
    cluster.spawn(0);
    cluster.wait_for_all();
    // Empty is an error: the list stays.
    follower.fault("web", "").await;
    assert_eq!(follower.count("web"), 1);
    let mut writer = Writer::new(&cluster.endpoints()[0]);
    assert!(writer.node("dc/c/web/b", 2, Yes) < index);
    follower.list("web", "b*2").await;
    writer.node("dc/c/web/b", 3, Yes);
    follower.list("web", "b*3").await;
}

/// A cluster of three, each member behind a proxy, so that it shows which one we are connected to.
async fn three() -> (Cluster, Vec<Proxy>) {
    let cluster = Cluster::start(3);
    let mut proxies = Vec::new();
    for endpoint in cluster.endpoints() {
        proxies.push(Proxy::start(&endpoint).await);
    }
    (cluster, proxies)
}

/// The one that all our connections go to, once it is one alone.
async fn connected(proxies: &[Proxy]) -> usize {
    let end = Instant::now() + SOON;
    loop {
        let open = |index: &usize| proxies[*index].open() > 0;
        let used: Vec<usize> = (0..proxies.len()).filter(open).collect();
        if let [index] = used[..] {
            return index;
        }
        assert!(Instant::now() < end, "connected to {used:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_member_is_left_for_another() {
    let (cluster, proxies) = three().await;
    let endpoints: Vec<String> = proxies.iter().map(|proxy| proxy.endpoint.clone()).collect();
    let others = |index: usize| cluster.endpoints().remove((index + 1) % 3);
    Writer::new(&others(0)).node("dc/c/web/a", 1, Yes);
    let mut follower = Follower::start(&section(&endpoints), &[("web", "dc/c/web")]);
    follower.list("web", "a*1").await;
    for weight in 2..4 {
        let index = connected(&proxies).await;
        cluster.freeze(index);
        let endpoint = others(index);
        let wrote = spawn_blocking(move || {
            let mut writer = Writer::new(&endpoint);
            // The frozen one may have been the leader, and an election takes its time.
            while let Err(answer) = writer.try_node("dc/c/web/a", weight, Yes) {
                assert!(answer.contains("Raft Internal Error"), "{answer}");
            }
            Instant::now()
        });
        let wrote = wrote.await.unwrap();
        follower.list("web", &format!("a*{weight}")).await;
        println!("frozen: followed {:?} after the write", wrote.elapsed());
        assert!(wrote.elapsed() < SOON, "{:?}", wrote.elapsed());
        cluster.thaw(index);
        proxies[index].cut();
        cluster.wait_for_all();
    }
    // Nothing came but what was written, and in its order.
    assert_eq!(follower.texts("web"), ["a*1", "a*2", "a*3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_alone_is_not_believed() {
    let mut cluster = Cluster::start(3);
    Writer::new(&cluster.endpoints()[0]).node("dc/c/web/a", 1, Yes);
    let alone = format!("{}timeout = \"1s\"\n", section(&cluster.endpoints()[..1]));
    let mut follower = Follower::start(&alone, &[("web", "dc/c/web")]);
    follower.list("web", "a*1").await;
    cluster.kill(1);
    cluster.kill(2);
    follower
        .fault("etcd", "no answer to the reading of all pools within 1s")
        .await;
    cluster.spawn(1);
    cluster.spawn(2);
    cluster.wait_for_all();
    Writer::new(&cluster.endpoints()[1]).node("dc/c/web/a", 2, Yes);
    follower.list("web", "a*2").await;
    follower
        .until("no trouble", |follower| follower.faults.is_empty())
        .await;
    assert_eq!(follower.count("web"), 2);
}

/// An authority, and certificates of etcd and of a client, in this folder.
fn certificates(folder: &Path) {
    let make = |names: Vec<String>| rcgen::CertificateParams::new(names).unwrap();
    let mut params = make(Vec::new());
    let name = rcgen::DnType::CommonName;
    params.distinguished_name.push(name, "authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let mut params = make(vec!["127.0.0.1".into()]);
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        fs::write(folder.join(format!("{name}.pem")), &certificate).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        let both = certificate + &key.serialize_pem();
        fs::write(folder.join(format!("{name}.both")), both).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_passwords_count() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let tls = [
        "cert-file=server.pem",
        "key-file=server.key",
        "trusted-ca-file=ca.pem",
    ];
    let mut arguments: Vec<String> = Vec::new();
    for argument in tls {
        let (name, file) = argument.split_once('=').unwrap();
        arguments.push(format!("--{name}={}", path(file)));
    }
    arguments.push("--client-cert-auth".into());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let cluster = Cluster::start_with(1, "https", &arguments);
    let endpoint = cluster.endpoints().remove(0);

    // etcdctl of the v2 API: users and roles are its own.
    let etcdctl = |words: &str| {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "2")
            .args(["--endpoints", &endpoint, "--ca-file", &path("ca.pem")])
            .args([
                "--cert-file",
                &path("client.pem"),
                "--key-file",
                &path("client.key"),
            ])
            .args(words.split(' '))
            .output()
            .unwrap();
        let said = [&*output.stdout, &*output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        if output.status.success() {
            Ok(said)
        } else {
            Err(said)
        }
    };
    let end = Instant::now() + Duration::from_secs(30);
    while let Err(error) = etcdctl("mkdir /conftool") {
        assert!(Instant::now() < end, "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    for words in [
        "user add root:top",
        "auth enable",
        "-u root:top role revoke guest --path /* --readwrite",
        "-u root:top role add conftool",
        "-u root:top role grant conftool --path /conftool/* --readwrite",
        "-u root:top user add conftool:secret",
        "-u root:top user grant conftool --roles conftool",
        "-u root:top role add reader",
        "-u root:top role grant reader --path /conftool/v1/pools/* --read",
        "-u root:top user add plimsoll:sea-level",
        "-u root:top user grant plimsoll --roles reader",
    ] {
        etcdctl(words).unwrap_or_else(|error| panic!("{words}: {error}"));
    }

    let port = endpoint.rsplit(':').next().unwrap();
    let conftool = Conftool::with(&format!(
        "host: 127.0.0.1\nport: {port}\nprotocol: https\nca_cert: {}\ncert: {}\n\
         username: conftool\npassword: secret\n",
        path("ca.pem"),
        path("client.both"),
    ));
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("node")).unwrap();
    fs::write(data.path().join("node/dc.yaml"), "dc: {c: {a: [web]}}\n").unwrap();
    said(&conftool.sync(data.path()));
    said(&conftool.confctl(&["select", "name=a", "set/pooled=yes:weight=1"]));

    fs::write(path("password"), "sea-level\n").unwrap();
    fs::write(path("wrong"), "no-level\n").unwrap();
    let services = [("web", "dc/c/web")];
    let full = section(&cluster.endpoints())
        + &format!(
            "ca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
            path("ca.pem"),
            path("client.pem"),
            path("client.key")
        )
        + &format!(
            "user = \"plimsoll\"\npassword-file = {:?}\n",
            path("password")
        );
    let mut follower = Follower::start(&full, &services);
    follower.list("web", "a*1").await;
    said(&conftool.confctl(&["select", "name=a", "set/weight=2"]));
    follower.list("web", "a*2").await;

    for (from, to, expected) in [
        (
            "password\"",
            "wrong\"",
            "401 Unauthorized to the reading of all pools: ",
        ),
        ("ca.pem", "client.pem", "invalid peer certificate"),
        ("client.pem", "server.key", "no certificate in it"),
        ("client.key", "none.key", "cannot read [etcd] key"),
    ] {
        let bad = full.replace(
            &path(from.trim_end_matches('"')),
            &path(to.trim_end_matches('"')),
        );
        assert_ne!(bad, full);
        let mut follower = Follower::start(&bad, &services);
        follower.fault("etcd", expected).await;
        assert_eq!(follower.count("web"), 0);
    }
    // Without a certificate the handshake seems good, and the request is refused.
    let line = |line: &&str| !line.starts_with("certificate") && !line.starts_with("key");
    let bare: Vec<&str> = full.lines().filter(line).collect();
    let mut follower = Follower::start(&bare.join("\n"), &services);
    follower.fault("etcd", "ertificate").await;
}
