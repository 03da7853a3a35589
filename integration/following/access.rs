//! Users, tokens and permissions that end while the daemon follows.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::netns::run;
use crate::proxy::Proxy;
use crate::scene::{PROMISE, Scene, Settings};

const PASSWORD: &str = "secret-1";

/// With users; the daemon's is `plimsoll`, which may read the pools and the leases, and write its own keys.
fn scene(folder: &Path, arguments: Vec<String>) -> Scene {
    let file = folder.join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let mut scene = Scene::prepare(Settings {
        etcd: format!("user = \"plimsoll\"\npassword-file = {file:?}"),
        arguments,
        ..Settings::default()
    });
    for words in [
        "user add root:root",
        "role add root",
        "user grant-role root root",
        "role add balancer",
        "role grant-permission --prefix=true balancer read /conftool/v1/pools/",
        "role grant-permission --prefix=true balancer readwrite /plimsoll/v1/",
        "user add plimsoll:secret-1",
        "user grant-role plimsoll balancer",
        "auth enable",
    ] {
        scene.cluster.etcdctl(&words.split(' ').collect::<Vec<_>>());
    }
    scene.cluster.log_in("root:root");
    scene.store.log_in("root", "root");
    scene.start();
    scene.settled();
    scene
}

/// Tokens that end after so many seconds; without them, simple ones that their member forgets when it dies.
fn jwt(folder: &Path, seconds: u32) -> Vec<String> {
    let (private, public) = (folder.join("jwt"), folder.join("jwt.pub"));
    run(Command::new("openssl")
        .args(["genrsa", "-out"])
        .arg(&private)
        .arg("2048"));
    let mut openssl = Command::new("openssl");
    openssl
        .args(["rsa", "-pubout", "-in"])
        .arg(&private)
        .arg("-out")
        .arg(&public);
    run(&mut openssl);
    let (private, public) = (private.display(), public.display());
    let how = format!("jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={seconds}s");
    vec!["--auth-token".into(), how]
}

#[test]
fn a_token_expires() {
    const ENDS: u32 = 2;
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene(folder.path(), jwt(folder.path(), ENDS));
    // Several of its lives, with changes all along and with the connections cut in each.
    for round in 0..4 {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(u64::from(ENDS) + 1) {
            scene.turn();
            scene.settled();
            thread::sleep(Duration::from_millis(300));
        }
        if round % 2 == 1 {
            scene.proxies.iter().for_each(Proxy::cut);
            scene.turn();
            let took = scene.settled();
            println!("equal {took:?} after the cut");
        }
    }
}

/// Quiet for longer than the token lives: what comes then comes as ever.
#[test]
fn a_token_expires_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene(folder.path(), jwt(folder.path(), 2));
    thread::sleep(Duration::from_secs(8));
    scene.turn();
    let took = scene.settled();
    println!("equal {took:?} after the change");
    // Not one connection after the other meanwhile, either.
    let log = scene.log();
    let lost = log.lines().filter(|line| line.starts_with("<4>")).count();
    assert!(lost < 5, "{log}");
}

/// Simple tokens are in their member's memory.
#[test]
fn a_member_forgets_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene(folder.path(), Vec::new());
    for member in 0..3 {
        scene.lead_to(member);
        scene.cluster.kill(member);
        scene.cluster.spawn(member);
        scene.cluster.wait_for_all();
        scene.turn();
        let took = scene.settled();
        println!("equal {took:?} after the change");
    }
}

/// Any change of users or roles makes etcd refuse the tokens that were given before.
#[test]
fn users_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene(folder.path(), jwt(folder.path(), 300));
    for n in 0..3 {
        scene
            .cluster
            .etcdctl(&["role", "add", &format!("other{n}")]);
        scene.turn();
        scene.settled();
        scene.proxies.iter().for_each(Proxy::cut);
        scene.turn();
        let took = scene.settled();
        println!("equal {took:?} after the cut");
    }
}

#[test]
fn the_permission_is_revoked_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene(folder.path(), Vec::new());
    let permission = |scene: &Scene, words: &str| {
        let words = format!("role {words} /conftool/v1/pools/");
        scene.cluster.etcdctl(&words.split(' ').collect::<Vec<_>>());
    };
    permission(&scene, "revoke-permission --prefix=true balancer");
    scene.proxies.iter().for_each(Proxy::cut);
    scene.until_alert(&["ermission"]);
    let before = scene.pools();
    for _ in 0..5 {
        scene.turn();
    }
    let begun = Instant::now();
    while begun.elapsed() < PROMISE {
        assert_eq!(scene.pools(), before, "without the permission");
        thread::sleep(Duration::from_millis(100));
    }
    permission(&scene, "grant-permission --prefix=true balancer read");
    let took = scene.settled();
    println!("equal {took:?} after the permission's return");
    scene.until_no_alert("ermission");
}

/// The file is read with each new connection.
#[test]
fn the_password_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene(folder.path(), Vec::new());
    let change = |scene: &Scene, password: &str| {
        let mut words = Command::new("etcdctl");
        words
            .env("ETCDCTL_API", "3")
            .args(["--user", "root:root", "--endpoints"]);
        words.arg(scene.cluster.endpoints().join(","));
        words.args(["user", "passwd", "plimsoll", "--interactive=false"]);
        words.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = words.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    };
    change(&scene, "secret-2");
    scene.proxies.iter().for_each(Proxy::cut);
    let text = scene.until_alert(&["etcd"]);
    assert!(
        !text.contains(PASSWORD) && !text.contains("secret-2"),
        "{text}"
    );
    fs::write(folder.path().join("password"), "secret-2").unwrap();
    scene.turn();
    let took = scene.settled();
    println!("equal {took:?} after the file's change");
    assert!(!scene.log().contains("secret-"), "a password in the log");
}
