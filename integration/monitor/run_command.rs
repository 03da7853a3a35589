//! `run-command` with programs that end, do not end, flood, fork and cannot be run.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};
use plimsoll::check::{Argument, Monitor, Probe, RunCommand, User};
use plimsoll::config::Checks;
use plimsoll::event::Verdict;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::edge::{Edge, PATIENCE};
use super::{check, checked, down, list, once, other, start, unable, verdict, watch};

const TARGET: &str = "[2001:db8::1]:80";

fn target() -> SocketAddr {
    TARGET.parse().unwrap()
}

fn run(command: &str, arguments: &[&str]) -> Monitor {
    let literal = |text: &&str| -> Argument {
        let text = text.replace('{', "{{").replace('}', "}}");
        text.parse().unwrap()
    };
    run_of(command, arguments.iter().map(literal).collect())
}

fn run_of(command: &str, arguments: Vec<Argument>) -> Monitor {
    let probe = RunCommand {
        command: command.into(),
        arguments,
        log_output: true,
        user: None,
    };
    let interval = Duration::from_millis(10);
    Monitor::new(Probe::RunCommand(probe), interval, PATIENCE)
}

fn shell(script: &str) -> Monitor {
    run("/bin/sh", &["-c", script])
}

/// Whether one run of this, which may take half a second, is good, and why not.
async fn told(monitor: Monitor) -> Verdict {
    let mut edge = watch(target(), once(monitor));
    verdict(&mut edge).await
}

/// Where any user may write.
fn anybodys() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_and_reasons() {
    let up = [
        "exit 0",
        "echo fine; echo noise >&2",
        "exec >&- 2>&-; exit 0",
        // Nobody to wait for, though a descriptor of ours is held open for a time.
        "setsid sleep 2 & exit 0",
        "sleep 60 & exit 0",
    ];
    for script in up {
        assert_eq!(told(shell(script)).await, Verdict::Up, "{script}");
    }
    let bad = [
        ("exit 3", "exit status 3"),
        (
            "echo one; echo CRITICAL - no; exit 2",
            "exit status 2: CRITICAL - no",
        ),
        ("echo out; echo err >&2; exit 1", "exit status 1: err"),
        (
            r"printf 'a\n\033[31mb\0c\377\n\n'; exit 255",
            "exit status 255:  [31mb c\u{fffd}",
        ),
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("echo well; kill -KILL $$", "killed by SIGKILL: well"),
        (
            "no-such-thing",
            "exit status 127: /bin/sh: 1: no-such-thing: not found",
        ),
        ("sleep 60", "timed out after 500ms"),
        (
            "trap '' TERM INT HUP; while :; do sleep 1; done",
            "timed out after 500ms",
        ),
        ("exec >&- 2>&-; sleep 60", "timed out after 500ms"),
        ("yes", "timed out after 500ms"),
        ("kill -STOP $$", "timed out after 500ms"),
    ];
    for (script, reason) in bad {
        let begun = Instant::now();
        assert_eq!(told(shell(script)).await, down(reason), "{script}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{script}: {:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test]
async fn a_flood_is_read_to_its_end() {
    let flood = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; echo done >&2; exit 7";
    let mut edge = watch(target(), shell(flood));
    let Verdict::Down(reason) = verdict(&mut edge).await else {
        panic!("up");
    };
    assert!(
        reason.starts_with("exit status 7: ") && reason.len() <= 200,
        "{reason}"
    );
}

#[tokio::test]
async fn what_cannot_be_run_is_our_trouble() {
    let directory = anybodys();
    // By another process: a file that is open for writing in this one, be it in a child between fork and exec,
    // cannot be run.
    let script = r#"printf '#!/no/such/interpreter\n' > "$1/no-interpreter"; : > "$1/plain"; chmod 755 "$1/no-interpreter"; chmod 644 "$1/plain""#;
    let made = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(directory.path())
        .status();
    assert!(made.unwrap().success());
    let by = if geteuid().is_root() {
        " by nobody"
    } else {
        ""
    };
    let cases = [
        ("none", "not run: there is no such program".to_owned()),
        ("plain/none", "not run: there is no such program".to_owned()),
        (
            "no-interpreter",
            "not run: its interpreter is missing".to_owned(),
        ),
        ("plain", format!("not run: not executable{by}")),
        ("", format!("not run: not executable{by}")),
    ];
    for (name, reason) in cases {
        let path = directory.path().join(name);
        let path = path.to_str().unwrap();
        let mut edge = watch(target(), once(run(path, &[])));
        unable(&mut edge, 1, &format!("{path} {reason}")).await;
    }
    let long = "x".repeat(3_000_000);
    let reason = "/bin/true not run: its arguments are too long";
    assert_eq!(told(run("/bin/true", &[&long])).await, down(reason));
}

#[tokio::test]
async fn what_a_command_is_given() {
    let script = r#"test "$*" = "a 2001:db8::1 80 web {{x}}" && test $# = 5"#;
    let words = ["{host}", "{address}", "{port}", "{service}", "{{x}}"];
    let arguments = ["-c", script, "sh"].into_iter().chain(words);
    let arguments = arguments.map(|text| text.parse().unwrap()).collect();
    assert_eq!(told(run_of("/bin/sh", arguments)).await, Verdict::Up);
    let scripts = [
        r#"test "$(env | sort | grep -v '^_=' | tr '\n' ' ')" = "LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PWD=/ " || { env >&2; false; }"#,
        "! read line",
        r#"test "$(pwd)" = /"#,
        // Its own id is its group's and its session's.
        r#"set -- $(cat /proc/$$/stat); test $5 = $$ && test $6 = $$ && test $7 = 0"#,
        // The fourth is ls's own.
        r#"test "$(ls /proc/self/fd | wc -l)" = 4 || { ls -l /proc/self/fd >&2; false; }"#,
        r#"test "$(ulimit -S -n)" -le 1024"#,
        r#"grep -q "^SigBlk:.0*$" /proc/self/status && grep -q "^CapAmb:.0*$" /proc/self/status"#,
    ];
    for script in scripts {
        assert_eq!(told(shell(script)).await, Verdict::Up, "{script}");
    }
}

#[tokio::test]
async fn whom_a_command_runs_as() {
    let user = |name| {
        let user = nix::unistd::User::from_name(name).unwrap().unwrap();
        User {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }
    };
    // On standard error, as is the user's name in a reason of ours.
    let who = |user| {
        let mut monitor = shell(r#"echo "$(id -u) $(id -g) $(id -G)"; exit 1"#);
        let Probe::RunCommand(probe) = &mut monitor.probe else {
            panic!("no command");
        };
        probe.user = user;
        monitor
    };
    let ids = |user: User| format!("exit status 1: {} {1} {1}", user.uid, user.gid);
    if !geteuid().is_root() {
        let reason = "a command cannot run as root: this daemon is not root";
        assert_eq!(told(who(Some(user("root")))).await, down(reason));
        return;
    }
    assert_eq!(told(who(None)).await, down(&ids(user("nobody"))));
    assert_eq!(
        told(who(Some(user("daemon")))).await,
        down(&ids(user("daemon")))
    );
    assert_eq!(
        told(who(Some(user("root")))).await,
        down(&ids(user("root")))
    );
    let mut edge = start();
    set(
        &edge,
        Checks {
            command_user: Some(user("mail")),
            ..Checks::default()
        },
    );
    list(&edge, [(1, check(target(), once(who(None))))]);
    assert_eq!(verdict(&mut edge).await, down(&ids(user("mail"))));
}

/// From now on.
fn set(edge: &Edge, checks: Checks) {
    edge.snapshots.send_modify(|snapshot| {
        let snapshot = Arc::make_mut(snapshot);
        Arc::make_mut(&mut snapshot.config).monitor = checks;
    });
}

/// The process that a script wrote the id of, as soon as it is there.
async fn written(file: &Path) -> Pid {
    let read = async {
        loop {
            let text = fs::read_to_string(file).unwrap_or_default();
            if let Some(id) = text.strip_suffix('\n') {
                return Pid::from_raw(id.parse().unwrap());
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, read).await.expect("an id in time")
}

async fn until_gone(process: Pid) {
    let gone = async {
        while kill(process, None) != Err(Errno::ESRCH) && !is_zombie(process) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("killed in time");
}

/// An orphan is reaped by init, in a container maybe by nobody.
fn is_zombie(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|status| status.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_do_not_outlive_a_command() {
    let directory = anybodys();
    let file = directory.path().join("child");
    let child = format!(
        "trap '' TERM HUP; sleep 1000 & echo $! > {}",
        file.display()
    );
    for end in ["exit 0", "exit 1", "wait", "kill -KILL $$"] {
        let mut edge = watch(target(), once(shell(&format!("{child}; {end}"))));
        verdict(&mut edge).await;
        until_gone(written(&file).await).await;
        fs::remove_file(&file).unwrap();
    }
    // Stopped while they run: the check, then the whole of it.
    let stops: [fn(&mut Option<Edge>); 2] = [
        |edge| edge.as_ref().unwrap().set("web", None),
        |edge| *edge = None,
    ];
    for stop in stops {
        let mut edge = Some(watch(target(), shell(&format!("{child}; wait"))));
        let child = written(&file).await;
        stop(&mut edge);
        until_gone(child).await;
        fs::remove_file(&file).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_at_once_than_may() {
    let directory = anybodys();
    let file = directory.path().join("log");
    let script = format!("echo + >> {0}; sleep 0.05; echo - >> {0}", file.display());
    let mut edge = start();
    set(
        &edge,
        Checks {
            commands_at_once: 2,
            ..Checks::default()
        },
    );
    let run = Monitor {
        interval: PATIENCE,
        ..shell(&script)
    };
    let run = check(target(), run);
    list(&edge, (0..8).map(|id| other(&run, id)));
    for _ in 0..8 {
        assert_eq!(checked(&mut edge).await.1, Verdict::Up);
    }
    let (mut running, mut most) = (0, 0);
    for line in fs::read_to_string(&file).unwrap().lines() {
        running += if line == "+" { 1 } else { -1 };
        most = most.max(running);
    }
    assert_eq!((running, most), (0, 2));
}

#[tokio::test]
async fn without_a_turn_nothing_is_known() {
    let mut edge = start();
    set(
        &edge,
        Checks {
            commands_at_once: 1,
            ..Checks::default()
        },
    );
    let long = check(target(), once(shell("sleep 4321")));
    let long = Arc::new(plimsoll::check::Check {
        monitor: Arc::new(Monitor {
            timeout: PATIENCE,
            ..Monitor::clone(&long.monitor)
        }),
        ..plimsoll::check::Check::clone(&long)
    });
    list(&edge, [(1, long.clone())]);
    // It starts first.
    until_a_child_sleeps().await;
    let short = Monitor {
        interval: Duration::from_millis(100),
        ..shell("exit 0")
    };
    list(&edge, [(1, long), (2, check(target(), short))]);
    let reason = "a command had no turn within 100ms, commands-at-once is 1";
    unable(&mut edge, 2, reason).await;
}

/// The shell, or what it has become.
async fn until_a_child_sleeps() {
    let sleeps = |child: &String| {
        let line = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        line.replace('\0', " ").contains("sleep 4321")
    };
    let wait = async {
        while !children().iter().any(sleeps) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("running in time");
}

/// Of all our threads.
fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children"));
    let text: String = tasks.flatten().flat_map(of).collect();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Set where the test below runs by itself.
const ALONE: &str = "PLIMSOLL_TEST_ALONE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_runs_leave_nothing_behind() {
    if std::env::var_os(ALONE).is_some() {
        return println!("{}", runs().await);
    }
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "run_command::hundreds_of_runs_leave_nothing_behind",
            "--nocapture",
        ])
        .env(ALONE, "1")
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE * 3, child).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    println!("{said}");
}

/// How they went, in numbers.
async fn runs() -> String {
    let scripts = [
        "exit 0",
        "exit 1",
        "sleep 9 & exit 0",
        "sleep 9",
        "trap '' TERM; sleep 9 & wait",
        "yes",
        "kill -KILL $$",
    ];
    let checks: Vec<_> = scripts
        .iter()
        .map(|script| {
            let brief = Monitor {
                timeout: Duration::from_millis(50),
                ..shell(script)
            };
            check(target(), brief)
        })
        .collect();
    let edge = start();
    list(
        &edge,
        checks
            .iter()
            .cloned()
            .zip(1..)
            .map(|(check, id)| (id, check)),
    );
    let done = || {
        let of = |check: &Arc<plimsoll::check::Check>| {
            use std::sync::atomic::Ordering::Relaxed;
            check.figures.up_results.load(Relaxed) + check.figures.down_results.load(Relaxed)
        };
        checks.iter().map(of).collect::<Vec<_>>()
    };
    let until = async |count| {
        let enough = async {
            while done().iter().any(|done| *done < count) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE * 2, enough).await.expect("runs in time");
    };
    until(20).await;
    let before = (descriptors(), resident());
    until(100).await;
    let after = (descriptors(), resident());
    let total: u64 = done().iter().sum();
    // Those of runs that are going on.
    assert!(
        after.0 <= before.0 + 6 * scripts.len(),
        "{before:?} {after:?}"
    );
    assert!(after.1 <= before.1 + 4096, "{before:?} {after:?}");
    drop(edge);
    let none = async {
        while !children().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, none)
        .await
        .expect("no zombies, nobody left");
    format!("{total} runs: descriptors and KiB of memory {before:?}, then {after:?}")
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// In KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
