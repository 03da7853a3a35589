//! `plimsoll bgp` beside a running daemon and BIRD: what is shown, what BIRD makes of orders, and every exit code.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::{Daemon, Lab, SOON, Service, bgp, route};
use crate::netns::until;
use crate::router::Router;

/// An IPv4 address that BIRD has, and 192.0.2.2 that a missing list keeps back.
fn announced() -> (Lab, Router, Daemon) {
    let lab = Lab::new();
    lab.wire();
    let router = lab.router(2, false);
    let missing = format!(
        "servers = \"file://{}\"",
        lab.file("missing.json").display()
    );
    lab.configure(&[
        &bgp(&[2]),
        &Service::new("web", "192.0.2.1").servers(&["127.0.1.1"]),
        &Service::new("api", "192.0.2.2").key(&missing),
    ]);
    let daemon = lab.start();
    router.expect(&[route("192.0.2.1/32", 0)]);
    (lab, router, daemon)
}

/// What a command writes to standard output and to standard error; it must end with this code.
fn ends(command: &mut Command, code: i32) -> (String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{out}{err}");
    (out, err)
}

fn shown(lab: &Lab, words: &str) -> String {
    let (out, err) = ends(&mut lab.plimsoll(words), 0);
    assert_eq!(err, "");
    out
}

/// What a refused command says.
fn refused(lab: &Lab, words: &str, code: i32) -> String {
    let (out, err) = ends(&mut lab.plimsoll(words), code);
    assert_eq!(out, "");
    err
}

/// Without the figures and times, which nobody knows beforehand: the words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines();
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[test]
fn what_it_shows() {
    let (lab, _router, mut daemon) = announced();
    let all = shown(&lab, "bgp");
    let lines = words(&all);
    assert_eq!(
        all.lines().next(),
        Some("AS 64600, router ID 10.9.0.1: 1 of 1 sessions established")
    );
    let head = [
        "PEER", "AS", "STATE", "SINCE", "TOLD", "HEARD", "LAST", "ERROR",
    ];
    assert_eq!(lines[2], head);
    assert_eq!(lines[3][..3], ["10.9.0.2", "65001", "Established"]);
    assert!(lines[3].contains(&"1/1"), "{all}");
    assert_eq!(shown(&lab, "bgp show").lines().count(), 4);

    let one = shown(&lab, "bgp 10.9.0.2");
    assert!(one.starts_with("10.9.0.2: AS 65001, external\n"), "{one}");
    assert!(one.contains("\n  told              1 address\n"), "{one}");
    let routes = shown(&lab, "bgp show 10.9.0.2 --routes");
    let lines = words(&routes);
    assert_eq!(
        lines[0].join(" "),
        "10.9.0.2: Established, told 1 of 2 addresses"
    );
    assert_eq!(lines[3], ["192.0.2.1/32", "10.9.0.1", "0", "0", "igp", "-"]);
    let why = [
        "192.0.2.2/32",
        "a",
        "service",
        "has",
        "no",
        "server",
        "list",
        "yet",
    ];
    assert_eq!(lines[6], why);
    let addresses = shown(&lab, "bgp addresses");
    let line = ["192.0.2.1", "192.0.2.1/32", "healthy", "10.9.0.2"];
    assert_eq!(words(&addresses)[1], line);

    let json: Value = serde_json::from_str(&shown(&lab, "bgp --json")).unwrap();
    assert_eq!(json["peers"]["10.9.0.2"]["state"], "Established");
    let json: Value = serde_json::from_str(&shown(&lab, "bgp show 10.9.0.2 --json")).unwrap();
    assert_eq!(json["peer"], "10.9.0.2");
    let json: Value = serde_json::from_str(&shown(&lab, "bgp addresses --json")).unwrap();
    assert_eq!(json["192.0.2.1"]["told"][0], "10.9.0.2");
    daemon.stop(SOON);
}

/// BIRD hears the operator's text, loses the routes, and has them again.
#[test]
fn what_bird_makes_of_orders() {
    let (lab, router, mut daemon) = announced();
    let before = router.session();
    let said = shown(&lab, "bgp disable 10.9.0.2 switch upgrade, back at 10:00");
    assert_eq!(said, "10.9.0.2: disabled; the session is Idle\n");
    router.expect(&[]);
    let told = |text: &str| {
        until(SOON, &format!("BIRD is told {text:?}"), || {
            router.log().contains(text).then_some(())
        });
    };
    told("switch upgrade, back at 10:00");
    let all = shown(&lab, "bgp");
    let line = all.lines().last().unwrap();
    assert!(line.contains("Idle (disabled)"), "{all}");
    assert!(
        line.ends_with("disabled by an operator: switch upgrade, back at 10:00"),
        "{all}"
    );
    // A reload is no reason to come back.
    let reloaded = daemon.log().matches("reloaded").count();
    daemon.signal(Signal::SIGHUP);
    until(SOON, "it has reloaded", || {
        (daemon.log().matches("reloaded").count() > reloaded).then_some(())
    });
    let all = shown(&lab, "bgp");
    assert!(all.contains("Idle (disabled)"), "{all}");

    let said = shown(&lab, "bgp enable 10.9.0.2");
    assert!(
        said.starts_with("10.9.0.2: enabled; the session is "),
        "{said}"
    );
    router.expect(&[route("192.0.2.1/32", 0)]);
    let enabled = router.session();
    assert_ne!(before, enabled);

    let said = shown(&lab, "bgp clear 10.9.0.2 new filters");
    assert!(
        said.starts_with("10.9.0.2: cleared; the session is "),
        "{said}"
    );
    told("new filters");
    until(SOON, "another session", || {
        let now = router.session();
        (now.starts_with("true, ") && now != enabled).then_some(())
    });
    router.expect(&[route("192.0.2.1/32", 0)]);
    let one = shown(&lab, "bgp 10.9.0.2");
    assert!(
        one.contains("operators' orders enabled, cleared once, the last text: new filters"),
        "{one}"
    );
    daemon.stop(SOON);
}

#[test]
fn each_refusal_has_its_exit_code() {
    let (lab, _router, mut daemon) = announced();
    let said = refused(&lab, "bgp 10.9.0.9", 66);
    assert_eq!(said, "No such peer; there are 10.9.0.2\n");
    assert_eq!(refused(&lab, "bgp clear 10.9.0.9", 66), said);
    let long = format!("bgp disable 10.9.0.2 {}", "x".repeat(256));
    let said = refused(&lab, &long, 64);
    assert_eq!(
        said,
        "The text has 256 bytes; at most 255 can be told (RFC 9003)\n"
    );
    refused(&lab, "bgp --routes", 64);
    // A script's variable without a value names no peer, and not all of them.
    for words in ["bgp ", "bgp show ", "bgp clear ", "bgp enable "] {
        refused(&lab, words, 64);
    }
    refused(&lab, "bgp disable", 64);
    // Somebody else may reach the socket, but not open it.
    let socket = lab.file("control");
    let folder = socket.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = env!("CARGO_BIN_EXE_plimsoll");
    let mut nobody = lab.namespace.command("setpriv");
    nobody.args([
        "--reuid",
        "65534",
        "--clear-groups",
        program,
        "bgp",
        "--socket",
    ]);
    let (_, said) = ends(nobody.arg(&socket), 77);
    assert!(said.contains("Permission denied"), "{said}");
    // Whoever has read enough is no fault.
    let piped = format!(
        "set -o pipefail; {program} bgp -c {} | true",
        lab.config().display()
    );
    let (_, said) = ends(lab.namespace.command("bash").args(["-c", &piped]), 0);
    assert_eq!(said, "");

    daemon.stop(SOON);
    assert!(!socket.exists(), "the socket outlives the daemon");
    let said = refused(&lab, "bgp", 69);
    assert!(
        said.starts_with("no plimsoll runs here: cannot connect to /"),
        "{said}"
    );
    lab.configure(&[&"[api]\ncontrol = \"\"\n"]);
    let said = refused(&lab, "bgp", 69);
    assert!(
        said.ends_with("[api] control = \"\", the daemon has no control socket\n"),
        "{said}"
    );
    fs::write(lab.config(), "[api]\ncontrol = 1\n").unwrap();
    let said = refused(&lab, "bgp", 78);
    assert!(said.contains(":2: api.control: expected a path"), "{said}");
}

/// Somebody else's socket, who speaks HTTP but has nothing to say.
#[test]
fn an_answer_without_words_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).unwrap();
    });
    let mut asking = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    let (_, said) = ends(asking.args(["bgp", "--socket"]).arg(&socket), 70);
    let nothing = "other.sock answers with nothing but 302 Found\n";
    assert!(said.ends_with(nothing), "{said}");
    other.join().unwrap();
}

/// What a daemon that was killed leaves behind is no hindrance; what a dry run does is no disturbance.
#[test]
fn a_killed_daemons_socket_is_taken_over() {
    let (lab, _router, mut daemon) = announced();
    daemon.signal(Signal::SIGKILL);
    daemon.ends(SOON);
    let socket = lab.file("control");
    assert!(socket.exists());
    refused(&lab, "bgp", 69);
    let mut daemon = lab.start();
    until(SOON, "the control socket answers", || {
        lab.plimsoll("bgp")
            .output()
            .unwrap()
            .status
            .success()
            .then_some(())
    });
    daemon.stop(SOON);
    let mut dry = lab.daemon("run --dry-run");
    lab.until_it_answers();
    assert!(!socket.exists());
    dry.stop(SOON);
}
