//! Logs that nobody takes: a pipe that is full, one that is closed, no standard error at all. The daemon goes on.

use std::fs;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use crate::lab::{Daemon, Lab, SOON, Service, bgp, failed, route};

use crate::netns::until;
use crate::router::Router;
use crate::server::Server;

const UP: (&str, &str) = ("127.0.1.1", "enabled/up/pooled");
const OUT: (&str, &str) = ("127.0.1.1", "enabled/down/not pooled");

/// Two servers of one service, and a router.
fn lab() -> (Lab, [Server; 2], Router) {
    let lab = Lab::new();
    lab.wire();
    let servers = ["127.0.1.1", "127.0.1.2"].map(|address| Server::start(&lab, address));
    let router = lab.router(2, false);
    let web = Service::new("web", "192.0.2.1").servers(&["127.0.1.1", "127.0.1.2"]);
    lab.configure(&[&bgp(&[2]), &web.idle().fetch()]);
    (lab, servers, router)
}

/// A daemon that says all it can, to standard output and error, into a pipe of the smallest size.
fn into_pipe(lab: &Lab) -> (Daemon, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut command = lab.plimsoll("run --ipvs memory");
    command.env("RUST_LOG", "trace");
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    (Daemon::spawn(&mut command, lab.file("no-log")), reader)
}

fn flap(lab: &Lab, server: &mut Server) {
    let other = ("127.0.1.2", "enabled/up/pooled");
    server.die();
    lab.expect_pool("web", &[OUT, other]);
    server.revive(lab);
    lab.expect_pool("web", &[UP, other]);
}

/// For more than three hold times, and so much of it that the lines that wait for a reader are as many as may.
#[test]
fn a_pipe_that_nobody_reads() {
    let (lab, mut servers, router) = lab();
    // rustls tells a lot at each try.
    let mut noise = Service::new("noise", "192.0.2.2").servers(&["127.0.1.2"]);
    for n in 0..20 {
        noise = noise.monitor(&format!(
            "type = \"proxy-fetch\"\nurl = \"https://www.example.com/{n}\"\ninterval = \"40ms\"\ntimeout = \"30ms\""
        ));
    }
    let mut config = fs::File::options().append(true).open(lab.config()).unwrap();
    config.write_all(noise.to_string().as_bytes()).unwrap();
    let (mut daemon, mut reader) = into_pipe(&lab);
    // Of the noisy one nobody is up.
    router.expect(&[route("192.0.2.1/32", 0), failed("192.0.2.2/32", 0)]);
    let session = router.session();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        flap(&lab, &mut servers[0]);
    }
    assert_eq!(router.session(), session, "the session was not reset");
    assert_eq!(router.routes().len(), 2);
    fill(&reader);
    daemon.signal(Signal::SIGTERM);
    let took = daemon.expect_end(0, SOON);
    assert!(took < Duration::from_secs(3), "{took:?}");
    router.expect(&[]);
    drop(daemon);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("stopped"), "it was stuck: {rest}");
}

/// To the last byte, so that not even a short line fits.
fn fill(reader: &PipeReader) {
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let mut options = fs::File::options();
    let mut pipe = options
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .unwrap();
    while pipe.write(b".").is_ok() {}
}

#[test]
fn a_pipe_that_is_closed() {
    let (lab, mut servers, router) = lab();
    let (mut daemon, reader) = into_pipe(&lab);
    router.expect(&[route("192.0.2.1/32", 0)]);
    drop(reader);
    flap(&lab, &mut servers[0]);
    flap(&lab, &mut servers[0]);
    daemon.signal(Signal::SIGTERM);
    let took = daemon.expect_end(0, SOON);
    assert!(took < Duration::from_secs(3), "{took:?}");
    router.expect(&[]);
}

#[test]
fn no_standard_error_at_all() {
    let (lab, mut servers, router) = lab();
    let program = env!("CARGO_BIN_EXE_plimsoll");
    let mut shell = lab.namespace.command("sh");
    shell.args(["-c", "exec \"$@\" 0>&- 1>&- 2>&-", "sh", program]);
    shell
        .args(["run", "--ipvs", "memory", "-c"])
        .arg(lab.config());
    let mut daemon = Daemon::spawn(&mut shell, lab.file("no-log"));
    router.expect(&[route("192.0.2.1/32", 0)]);
    flap(&lab, &mut servers[0]);
    daemon.stop(SOON);
}

/// A journald of this test's own, below which standard error is what systemd makes it.
const UNDER_SYSTEMD: &str = r#"
set -eu
mount -t tmpfs none /run/systemd
mount --bind "$1" /run/log
mkdir /run/systemd/journal
/lib/systemd/systemd-journald &
until systemd-cat true 2>/dev/null; do sleep 0.05; done
shift
systemd-cat sh -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"' sh "$@"
"#;

#[test]
fn under_systemd_each_field_is_one_of_journalds() {
    let (lab, mut servers, router) = lab();
    let journal = lab.file("journal");
    fs::create_dir_all(journal.join("journal")).unwrap();
    // Journald does not run in a network namespace of ip(8)'s: its /sys has no control groups.
    let plimsoll = lab.plimsoll("run --ipvs memory");
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    shell.args(["sh", "-c", UNDER_SYSTEMD, "sh"]).arg(&journal);
    shell.arg(plimsoll.get_program()).args(plimsoll.get_args());
    let daemon = Daemon::spawn(&mut shell, lab.file("no-log"));
    router.expect(&[route("192.0.2.1/32", 0)]);
    servers[0].die();
    let entry = |fields: &[&str]| {
        let mut journalctl = Command::new("journalctl");
        journalctl.arg("--directory").arg(journal.join("journal"));
        journalctl
            .args(["--output=json", "--no-pager"])
            .args(fields);
        let said = journalctl.output().unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        Some(serde_json::from_str::<serde_json::Value>(text.lines().next()?).unwrap())
    };
    let depooled = until(SOON, "the journal has it", || {
        entry(&["PLIMSOLL_EVENT=depooled", "PLIMSOLL_HOST=127.0.1.1"])
    });
    assert_eq!(depooled["PLIMSOLL_SERVICE"], "web");
    assert_eq!(depooled["SYSLOG_IDENTIFIER"], "plimsoll");
    assert_eq!(depooled["PRIORITY"], "6");
    let message = depooled["MESSAGE"].as_str().unwrap();
    assert!(message.starts_with("depooled service=web host=127.0.1.1 why="));
    // The API has the same.
    lab.until_json(
        "/api/v1/events?host=127.0.1.1",
        r#""event":"depooled","service":"web""#,
    );
    drop(daemon);
}

/// One line an event, with its priority, and no text of others that could pass for one of ours.
#[test]
fn lines_are_as_journald_wants_them() {
    let (lab, mut servers, router) = lab();
    let list = lab.file("list.json");
    fs::write(&list, r#"{"a\n<0>forged \u001b[31m": {}}"#).unwrap();
    let listed = Service::new("listed", "192.0.2.2");
    lab.add(&listed.key(&format!("servers = \"file://{}\"", list.display())));
    let mut daemon = lab.start();
    router.expect(&[route("192.0.2.1/32", 0)]);
    daemon.until_log("<6>BGP session established peer=");
    lab.until_alert("forged");
    servers[0].die();
    lab.expect_pool("web", &[OUT, ("127.0.1.2", "enabled/up/pooled")]);
    daemon.until_log("why=\"connection refused\"");
    servers[1].answer(Some(503));
    daemon.until_log("<4>could not depool");
    fs::write(
        lab.config(),
        "[service.\"a\\n<0>forged\"]\n\"\\u001b[31m\" = 1\n",
    )
    .unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.until_log("<4>reload refused");
    daemon.stop(SOON);
    let log = daemon.log();
    let of_session = |words: &str| log.lines().find(|line| line.contains(words)).unwrap();
    let established = of_session("BGP session established");
    for field in ["local=", "remote=", "hold_time=", "families=\"IPv4"] {
        assert!(established.contains(field), "{established}");
    }
    let ended = of_session("BGP session ended");
    for field in ["reason=\"we say: administrative shutdown (6/2)", "up="] {
        assert!(ended.contains(field), "{ended}");
    }
    for line in log.lines() {
        let mut characters = line.chars();
        let priority: String = characters.by_ref().take(3).collect();
        assert!(["<3>", "<4>", "<6>"].contains(&&*priority), "{line:?}");
        assert!(!characters.any(char::is_control), "{line:?}");
    }
}
