//! The command line: what `check` finds, what `run` refuses to start with, and the exit codes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use crate::lab::{Daemon, Lab, SOON, Service};
use crate::netns::until;

fn plimsoll(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_says_what_the_example_holds() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/plimsoll.toml");
    let output = plimsoll(&["check", "-c", example.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    let said = text(&output.stdout);
    for part in [
        "good: 2 services, 3 BGP peers",
        "service text: tcp 192.0.2.11:80",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// Each with file, line, key; by `check` and by `run` alike.
#[test]
fn all_mistakes_of_a_file_are_told() {
    let lab = Lab::new();
    let path = lab.config();
    let lines = [
        "[service.web]",
        "address = \"192.0.2.1\"",
        "port = 80",
        "protocol = \"tcp\"",
        "scheduler = \"fastest\"",
        "one-packet = true",
        "depool-threshold = 1.5",
        "[[service.web.server]]",
        "host = \"2001:db8::1\"",
        "colour = \"blue\"",
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    for command in ["check", "run"] {
        let output = lab.plimsoll(command).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        let mark = if command == "run" { "<3>" } else { "" };
        let start = |line: usize| format!("{mark}{}:{line}: ", path.display());
        for (line, key) in [
            (5, "service.web.scheduler"),
            (6, "service.web.one-packet"),
            (7, "service.web.depool-threshold"),
            (9, "service.web.server[0].host"),
            (10, "service.web.server[0].colour"),
        ] {
            let start = format!("{}{key}: ", start(line));
            assert!(
                said.lines().any(|said| said.starts_with(&start)),
                "no {start} in\n{said}"
            );
        }
        assert_eq!(said.lines().count(), 5, "{said}");
    }
}

#[test]
fn a_missing_file_is_a_mistake_of_the_configuration() {
    for command in ["check", "run"] {
        let output = plimsoll(&[command, "-c", "/nowhere/plimsoll.toml"]);
        assert_eq!(output.status.code(), Some(78));
        let said = text(&output.stderr);
        assert!(
            said.contains("/nowhere/plimsoll.toml: cannot be read: No such file"),
            "{said}"
        );
    }
}

#[test]
fn usage() {
    for wrong in [
        &[][..],
        &["walk"],
        &["run", "--fast"],
        &["run", "--dry-run", "--ipvs", "memory"],
        &["run", "--ipvs", "paper"],
        &["check", "-c"],
        &["check", "one.toml"],
    ] {
        let output = plimsoll(wrong);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{wrong:?}"
        );
    }
    for right in [
        &["--help"][..],
        &["--version"],
        &["help"],
        &["run", "--help"],
        &["check", "-h"],
    ] {
        let output = plimsoll(right);
        assert_eq!(output.status.code(), Some(0), "{right:?}");
        assert!(
            output.stderr.is_empty() && !output.stdout.is_empty(),
            "{right:?}"
        );
    }
}

#[test]
fn a_summary_that_nobody_takes_is_an_error() {
    let lab = Lab::new();
    lab.configure(&[&Service::new("web", "192.0.2.1").servers(&["127.0.1.1"])]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = lab.plimsoll("check").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    assert!(text(&output.stderr).contains("No space left on device"));
}

/// Nor does it end in a panic if not even its mistakes find a reader.
#[test]
fn mistakes_that_nobody_takes_are_mistakes() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    check.args(["check", "-c", "/nowhere/plimsoll.toml"]);
    assert_eq!(check.stderr(full).status().unwrap().code(), Some(78));
}

/// Whether this kernel has IPVS is asked of the kernel, after the program had its chance to load it.
#[test]
fn the_kernels_table_needs_ipvs() {
    let lab = lab_with_a_service();
    let mut daemon = lab.daemon("run");
    until(SOON, "it runs or ends", || {
        (!daemon.runs() || lab.get("/healthz").is_some()).then_some(())
    });
    if has_ipvs(&lab) {
        assert!(!lab.get("/alerts").unwrap().contains("ipvs"));
        daemon.stop(SOON);
    } else {
        daemon.expect_end(69, SOON);
        let said = "<3>cannot use the kernel's IPVS: the kernel has no IPVS: modprobe ip_vs";
        assert!(daemon.log().contains(said), "{}", daemon.log());
    }
}

fn has_ipvs(lab: &Lab) -> bool {
    let mut look = lab.namespace.command("test");
    look.args(["-e", "/proc/net/ip_vs"]);
    look.status().unwrap().success()
}

fn lab_with_a_service() -> Lab {
    let lab = Lab::new();
    lab.configure(&[&Service::new("web", "192.0.2.1").servers(&["127.0.1.1"])]);
    lab
}

/// As somebody without any capability, with a state directory of his own.
fn as_nobody(lab: &Lab, words: &str) -> Daemon {
    let folder = lab.config().parent().unwrap().to_owned();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    // The one that was built may lie where only its owner comes.
    let program = lab.file("plimsoll");
    fs::copy(env!("CARGO_BIN_EXE_plimsoll"), &program).unwrap();
    let mut command = lab.namespace.command("setpriv");
    command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
    command.args(["--bounding-set", "-all", "--pdeathsig", "KILL"]);
    command
        .arg(program)
        .args(words.split(' '))
        .arg("-c")
        .arg(lab.config());
    let log = fs::File::create(lab.file("log")).unwrap();
    Daemon::spawn(command.stderr(log), lab.file("log"))
}

#[test]
fn without_capabilities_the_kernels_table_is_refused() {
    let lab = lab_with_a_service();
    let state = lab.file("state");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(65534), None).unwrap();
    let mut daemon = as_nobody(&lab, "run");
    let (code, said) = if has_ipvs(&lab) {
        (77, "CAP_NET_ADMIN is missing")
    } else {
        // It would be of no use.
        (69, "modprobe ip_vs")
    };
    daemon.expect_end(code, SOON);
    assert!(daemon.log().contains(said), "{}", daemon.log());
}

/// It is no reason to end, but an alert for each address.
#[test]
fn without_capabilities_addresses_are_missing() {
    let lab = lab_with_a_service();
    let state = lab.file("state");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(65534), None).unwrap();
    let mut daemon = as_nobody(&lab, "run --ipvs memory");
    lab.until_alert("192.0.2.1: The address is not on this host: the kernel does not permit");
    daemon.until_log("CAP_NET_ADMIN is missing");
    daemon.stop(SOON);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_a_missing_permission() {
    let lab = lab_with_a_service();
    fs::create_dir(lab.file("state")).unwrap();
    let mut daemon = as_nobody(&lab, "run --ipvs memory");
    daemon.expect_end(77, SOON);
    let log = daemon.log();
    assert!(log.contains(&format!(
        "<3>cannot use [daemon] state-directory {}",
        lab.file("state").display()
    )));
    assert!(log.contains("Permission denied"), "{log}");
}

#[test]
fn a_state_directory_that_is_a_file_is_the_systems_no() {
    let lab = lab_with_a_service();
    fs::write(lab.file("state"), "").unwrap();
    let mut daemon = lab.daemon("run --ipvs memory");
    daemon.expect_end(71, SOON);
    assert!(
        daemon
            .log()
            .contains("<3>cannot use [daemon] state-directory")
    );
}

/// The first goes on as if nothing had been.
#[test]
fn one_state_directory_has_one_daemon() {
    let lab = lab_with_a_service();
    let mut first = lab.start();
    let mut second = lab.daemon("run --ipvs memory");
    second.expect_end(71, SOON);
    let said = format!(
        "<3>another plimsoll runs with [daemon] state-directory {}",
        lab.file("state").display()
    );
    assert!(first.log().contains(&said), "{}", first.log());
    assert!(lab.get("/healthz").is_some());
    // A dry run touches nothing, so it may; but for the port.
    let mut dry = lab.daemon("run --dry-run");
    dry.expect_end(71, SOON);
    let said =
        "<3>cannot serve the API: the API cannot listen on 127.0.0.1:9090: Address already in use";
    assert!(first.log().contains(said), "{}", first.log());
    first.stop(SOON);
    let mut third = lab.start();
    third.stop(SOON);
}
