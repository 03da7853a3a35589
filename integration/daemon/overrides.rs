//! An operator's word in place of a list's, by `plimsoll override`: what it does, that it outlives the daemon, and
//! that it ends.

use std::fs;

use nix::sys::signal::Signal;

use crate::lab::{Lab, SOON, Service};
use crate::server::Server;

const IN: &str = "enabled/up/pooled";
const OUT: &str = "disabled/up/not pooled";
const HELD: &str = "disabled/up/pooled";

/// Exit code, standard output and standard error.
fn told(lab: &Lab, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = lab.plimsoll("override");
    let output = command.args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn ordered(lab: &Lab, words: &[&str]) -> String {
    let (code, out, err) = told(lab, words);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{words:?}: {out}");
    out
}

const WHY: [&str; 4] = ["--for", "1h", "--reason", "T1: bad disk"];

#[test]
fn it_is_obeyed_kept_and_ended() {
    let lab = Lab::new();
    let hosts = ["127.0.1.1", "127.0.1.2", "127.0.1.3"];
    let _servers = hosts.map(|host| Server::start(&lab, host));
    let web = Service::new("web", "192.0.2.1")
        .servers(&hosts)
        .idle()
        .fetch();
    lab.configure(&[&web]);
    let mut daemon = lab.start();
    let pool = |states: [&str; 3]| {
        let states: Vec<_> = hosts.into_iter().zip(states).collect();
        lab.expect_pool("web", &states);
    };
    pool([IN, IN, IN]);
    assert_eq!(ordered(&lab, &["list"]), "no override is in force\n");

    let said = ordered(&lab, &[&["depool", "127.0.1.1"][..], &WHY].concat());
    assert!(said.starts_with("127.0.1.1: depool until 20"), "{said}");
    assert!(said.ends_with("\nweb: disabled/up/not pooled\n"), "{said}");
    pool([OUT, IN, IN]);
    lab.until_alert("127.0.1.1: Overridden by an operator, depool, until 20");
    lab.until_json("/api/v1/why/web/127.0.1.1", "\"event\":\"overridden\"");
    lab.until_json("/services/web/127.0.1.1", "\"overridden\":\"depool\"");
    // Two of three must stay: the guard holds the second one, until it is confirmed.
    let second = [&["depool", "127.0.1.2", "--service", "web"][..], &WHY].concat();
    let said = ordered(&lab, &second);
    assert!(
        said.ends_with("web: disabled/up/pooled (depool-guard)\n"),
        "{said}"
    );
    pool([OUT, HELD, IN]);
    ordered(&lab, &[&second[..], &["--confirm"]].concat());
    pool([OUT, OUT, IN]);

    // Not even a kill makes it forget.
    daemon.signal(Signal::SIGKILL);
    daemon.ends(SOON);
    let mut daemon = lab.start();
    pool([OUT, OUT, IN]);
    let list = ordered(&lab, &["list"]);
    for part in [
        "127.0.1.1  all      depool",
        "127.0.1.2  web      depool",
        "confirmed  T1: bad disk",
    ] {
        assert!(list.contains(part), "{list}");
    }
    let said = ordered(&lab, &["end", "127.0.1.2", "--service", "web"]);
    assert!(said.contains("its list's word is in force again"), "{said}");
    pool([OUT, IN, IN]);
    ordered(&lab, &["end", "127.0.1.1"]);
    pool([IN, IN, IN]);
    lab.until_no_alert("Overridden");

    let short = ["--for", "2s", "--reason", "a moment"];
    ordered(
        &lab,
        &[&["weight", "127.0.1.3", "--to", "0"][..], &short].concat(),
    );
    lab.until_json(
        "/api/v1/services/web/servers/127.0.1.3",
        "\"overridden\":null",
    );
    daemon.until_log("no longer overridden host=127.0.1.3");
    daemon.stop(SOON);
    let mut daemon = lab.start();
    pool([IN, IN, IN]);
    assert_eq!(ordered(&lab, &["list"]), "no override is in force\n");
    daemon.stop(SOON);
}

#[test]
fn what_cannot_be_is_refused_and_a_spoiled_file_is_told() {
    let lab = Lab::new();
    let _server = Server::start(&lab, "127.0.1.1");
    let web = Service::new("web", "192.0.2.1")
        .servers(&["127.0.1.1"])
        .idle();
    lab.configure(&[&web]);
    fs::create_dir_all(lab.file("state")).unwrap();
    fs::write(lab.file("state/overrides.json"), "[{}]").unwrap();
    let mut daemon = lab.start();
    lab.until_alert("overrides: ");
    assert!(lab.file("state/overrides.json.bad").exists());
    for (words, code, expected) in [
        (
            &["depool", "127.0.1.2"][..],
            66,
            "No service has a server 127.0.1.2",
        ),
        (
            &["depool", "127.0.1.1", "--service", "dns"],
            66,
            "No service is called dns",
        ),
        (&["pool", "a b"], 64, "not the name of a server"),
        (&["weight", "127.0.1.1"], 64, "--to"),
        (
            &["end", "127.0.1.1"],
            66,
            "127.0.1.1 is not overridden; there is no override",
        ),
    ] {
        let why = if words[0] == "end" { &[][..] } else { &WHY };
        let (found, _, err) = told(&lab, &[words, why].concat());
        assert_eq!(found, Some(code), "{words:?}: {err}");
        assert!(err.contains(expected), "{words:?}: {err}");
    }
    let long = ["depool", "127.0.1.1", "--for", "32days", "--reason", "x"];
    let (code, _, err) = told(&lab, &long);
    assert_eq!(code, Some(64), "{err}");
    assert!(
        err.contains("for_seconds 2764800: 1 to 2678400, 31 days"),
        "{err}"
    );
    // By TCP nobody orders anything.
    let mut curl = lab.namespace.command("curl");
    curl.args(["-s", "-d", "{}", "127.0.0.1:9090/api/v1/overrides"]);
    let refused = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    assert!(
        refused.contains("Only GET and HEAD are allowed"),
        "{refused}"
    );
    daemon.stop(SOON);
}
