//! The file source against real files: every way in which a list may change under it.
//! What must happen is waited for with a deadline; what must not is shown by what comes next instead.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../src/snapshot/sample.rs"]
mod sample;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use plimsoll::config::Servers;
use plimsoll::event::Event;
use plimsoll::service::ServerList;
use plimsoll::snapshot::{Snapshot, Source};
use plimsoll::{config, routing, service, snapshot};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Well under the poll's 5 s: what comes by then came by inotify.
const SOON: Duration = Duration::from_secs(3);

struct Running {
    directory: TempDir,
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: mpsc::Receiver<Event>,
    _task: JoinSet<()>,
}

impl Running {
    /// The source with one service, `web`, whose list is at `path` under a directory made just now.
    fn start(path: &str, prepare: impl FnOnce(&Path)) -> Running {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let snapshot = sample::snapshot([at("web", &directory.path().join(path))]);
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let (sender, events) = mpsc::channel(16);
        let mut task = JoinSet::new();
        task.spawn(plimsoll::source::run(None, receiver, sender));
        Running {
            directory,
            snapshots,
            events,
            _task: task,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn next(&mut self, within: Duration) -> Event {
        let event = timeout(within, self.events.recv()).await;
        event
            .expect("nothing came in time")
            .expect("the source ended")
    }

    /// The next event is a list: the hosts of it.
    async fn list(&mut self) -> String {
        let (service, hosts) = self.list_of().await;
        assert_eq!(service, "web");
        hosts
    }

    /// The next event is a list: whose, and the hosts of it.
    async fn list_of(&mut self) -> (String, String) {
        let event = self.next(SOON).await;
        let Event::List {
            service,
            from: Servers::File(from),
            list,
        } = event
        else {
            panic!("{event:?}")
        };
        assert!(
            from.starts_with(self.directory.path()),
            "{}",
            from.display()
        );
        (service.to_string(), hosts(&list.servers))
    }

    /// The next event is a fault: its text without the directory.
    async fn fault(&mut self) -> String {
        let event = self.next(SOON).await;
        let Event::SourceFailed { fault, .. } = event else {
            panic!("{event:?}")
        };
        let prefix = format!("{}/", self.directory.path().display());
        fault
            .strip_prefix(&prefix)
            .expect("no path in the fault")
            .to_owned()
    }

    fn publish(&self, snapshot: Snapshot) {
        self.snapshots.send_replace(Arc::new(snapshot));
    }
}

fn at(name: &str, path: &Path) -> (service::ServiceName, Arc<snapshot::Service>) {
    sample::edit(sample::service(name, 0.5, &[]), |service| {
        Arc::make_mut(&mut service.config).servers = Servers::File(path.to_owned());
    })
}

fn hosts(list: &ServerList) -> String {
    let server = |(host, listed): (&service::Host, &service::Listed)| {
        let off = if listed.enabled { "" } else { "!" };
        format!("{off}{host}*{}", listed.weight)
    };
    list.iter().map(server).collect::<Vec<_>>().join(" ")
}

fn text(hosts: &[&str]) -> String {
    let servers: Vec<String> = hosts
        .iter()
        .map(|host| format!(r#""{host}": {{}}"#))
        .collect();
    format!("{{{}}}", servers.join(", "))
}

fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

fn start_with_a() -> Running {
    Running::start("web.json", |d| {
        fs::write(d.join("web.json"), text(&["a"])).unwrap()
    })
}

#[tokio::test]
async fn written_in_place() {
    let mut running = start_with_a();
    assert_eq!(running.list().await, "a*10");

    // Open and truncated for far longer than the grace; nobody minds until it is closed.
    let mut file = File::create(running.path("web.json")).unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    file.write_all(br#"{"a": {"weight": 5}, "b": {"enabled": false}}"#)
        .unwrap();
    drop(file);
    assert_eq!(running.list().await, "a*5 !b*10");

    // The same again is no news; the next change is.
    fs::write(
        running.path("web.json"),
        r#"{"b": {"enabled":false}, "a": {"weight":5}}"#,
    )
    .unwrap();
    fs::write(running.path("web.json"), text(&["c"])).unwrap();
    assert_eq!(running.list().await, "c*10");
}

#[tokio::test]
async fn replaced_by_rename_is_seen_at_once() {
    let mut running = start_with_a();
    running.list().await;
    let path = running.path("web.json");
    let mut times = Vec::new();
    for weight in 100..120 {
        let new = path.with_extension("new");
        fs::write(&new, format!(r#"{{"a": {{"weight": {weight}}}}}"#)).unwrap();
        let start = Instant::now();
        fs::rename(new, &path).unwrap();
        assert_eq!(running.list().await, format!("a*{weight}"));
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "rename to event: median {:?}, worst {:?}",
        times[10], times[19]
    );
    // A millisecond on an idle machine; a debounce or a poll would show even on a busy one.
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
}

#[tokio::test]
async fn a_broken_file_is_a_fault_until_it_is_mended() {
    let mut running = start_with_a();
    running.list().await;

    let path = running.path("web.json");
    fs::write(&path, "{\"a\": {},\n \"b\": {\"weight\": -1}}").unwrap();
    let fault = running.fault().await;
    for part in [
        "web.json: server b: ",
        "`-1`",
        "an integer from 0 to",
        "line 2 column",
    ] {
        assert!(fault.contains(part), "{fault}");
    }
    // The same list as before the fault is sent again, so that the core sees the fault gone.
    fs::write(&path, text(&["a"])).unwrap();
    assert_eq!(running.list().await, "a*10");

    // Emptied by a writer who is done with it.
    fs::write(&path, "").unwrap();
    assert!(running.fault().await.contains("is empty"));
    replace(&path, "{}");
    assert!(running.fault().await.contains("names no server"));
    replace(
        &path,
        &format!(r#"{{"a": {{"{}": 1}}}}"#, "x\u{7f}".repeat(100_000)),
    );
    assert!(running.fault().await.len() < 5000);
    fs::remove_file(&path).unwrap();
    assert!(
        running
            .fault()
            .await
            .contains("cannot be read: No such file")
    );
    replace(&path, &text(&["b"]));
    assert_eq!(running.list().await, "b*10");
}

#[tokio::test]
async fn closed_is_told_at_once_and_gone_after_a_grace() {
    let mut running = start_with_a();
    running.list().await;
    let path = running.path("web.json");

    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        fs::write(&path, "[]").unwrap();
        running.fault().await;
        quickest = quickest.min(start.elapsed());
        fs::write(&path, text(&["a"])).unwrap();
        running.list().await;
    }
    assert!(quickest < Duration::from_millis(200), "{quickest:?}");

    let start = Instant::now();
    fs::remove_file(&path).unwrap();
    running.fault().await;
    assert!(
        start.elapsed() >= Duration::from_millis(249),
        "{:?}",
        start.elapsed()
    );

    // Removed and made again within the grace: only the new list is heard of.
    replace(&path, &text(&["a"]));
    running.list().await;
    fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    replace(&path, &text(&["b"]));
    assert_eq!(running.list().await, "b*10");
}

#[tokio::test]
async fn file_and_directories_appear_late_and_go() {
    let mut running = Running::start("x/y/web.json", |_| {});
    assert!(
        running
            .fault()
            .await
            .contains("x/y/web.json: cannot be read: No such file")
    );
    fs::create_dir_all(running.path("x/y")).unwrap();
    fs::write(running.path("x/y/web.json"), text(&["a"])).unwrap();
    assert_eq!(running.list().await, "a*10");

    // Deleted and made again.
    fs::remove_dir_all(running.path("x")).unwrap();
    running.fault().await;
    fs::create_dir(running.path("x")).unwrap();
    fs::create_dir(running.path("x/y")).unwrap();
    fs::write(running.path("x/y/web.json"), text(&["a"])).unwrap();
    assert_eq!(running.list().await, "a*10");

    // Renamed away; what happens at the new place is not ours.
    fs::rename(running.path("x"), running.path("z")).unwrap();
    running.fault().await;
    fs::write(running.path("z/y/web.json"), text(&["b"])).unwrap();
    fs::rename(running.path("z"), running.path("x")).unwrap();
    assert_eq!(running.list().await, "b*10");

    // Another directory is put in its place.
    fs::create_dir_all(running.path("n/y")).unwrap();
    fs::write(running.path("n/y/web.json"), text(&["c"])).unwrap();
    fs::rename(running.path("x/y"), running.path("old")).unwrap();
    fs::rename(running.path("n/y"), running.path("x/y")).unwrap();
    assert_eq!(running.list().await, "c*10");
}

#[tokio::test]
async fn links_are_followed_all_along() {
    let mut running = Running::start("web.json", |d| {
        fs::write(d.join("one"), text(&["one"])).unwrap();
        fs::write(d.join("two"), text(&["two"])).unwrap();
        symlink("one", d.join("web.json")).unwrap();
    });
    assert_eq!(running.list().await, "one*10");
    symlink(running.path("two"), running.path("new")).unwrap();
    fs::rename(running.path("new"), running.path("web.json")).unwrap();
    assert_eq!(running.list().await, "two*10");
    // The link's target is written to, in place.
    fs::write(running.path("two"), text(&["three"])).unwrap();
    assert_eq!(running.list().await, "three*10");
    // A loop ends.
    symlink("web.json", running.path("new")).unwrap();
    fs::rename(running.path("new"), running.path("web.json")).unwrap();
    assert!(running.fault().await.contains("cannot be read: "));
}

#[tokio::test]
async fn kubernetes_mounts() {
    let volume = |directory: &Path, stamp: &str, hosts: &[&str]| {
        fs::create_dir(directory.join(stamp)).unwrap();
        fs::write(directory.join(stamp).join("web.json"), text(hosts)).unwrap();
        symlink(stamp, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    let mut running = Running::start("web.json", |d| {
        volume(d, "..1", &["a"]);
        symlink("..data/web.json", d.join("web.json")).unwrap();
    });
    assert_eq!(running.list().await, "a*10");
    for (old, new, host) in [
        ("..1", "..2", "b"),
        ("..2", "..3", "c"),
        ("..3", "..1", "d"),
    ] {
        volume(running.directory.path(), new, &[host]);
        fs::remove_dir_all(running.path(old)).unwrap();
        assert_eq!(running.list().await, format!("{host}*10"));
    }
}

#[tokio::test]
async fn what_is_not_a_file_is_a_fault_and_blocks_nobody() {
    let mut running = Running::start("web.json", |d| {
        let made = Command::new("mkfifo")
            .arg(d.join("web.json"))
            .status()
            .unwrap();
        assert!(made.success());
    });
    assert_eq!(running.fault().await, "web.json: is not a regular file");
    let path = running.path("web.json");
    fs::write(running.path("big"), vec![b' '; (16 << 20) + 1]).unwrap();
    fs::rename(running.path("big"), &path).unwrap();
    assert_eq!(running.fault().await, "web.json: is longer than 16 MiB");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(running.fault().await, "web.json: is not a regular file");
    fs::remove_dir(&path).unwrap();
    fs::write(&path, text(&["a"])).unwrap();
    assert_eq!(running.list().await, "a*10");
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    assert_eq!(running.fault().await, "web.json: is not a regular file");
}

#[tokio::test]
async fn watchers_come_and_go_with_their_services() {
    let mut running = Running::start("web.json", |d| {
        fs::write(d.join("web.json"), text(&["a"])).unwrap();
        fs::write(d.join("api.json"), text(&["z"])).unwrap();
    });
    assert_eq!(running.list_of().await, ("web".into(), "a*10".into()));
    let (web, api) = (running.path("web.json"), running.path("api.json"));

    // Two services may share a file.
    running.publish(sample::snapshot([at("web", &web), at("two", &web)]));
    assert_eq!(running.list_of().await, ("two".into(), "a*10".into()));

    // A new path: a new list. A service gone: the next that is heard is of the other one.
    running.publish(sample::snapshot([at("two", &api)]));
    assert_eq!(running.list_of().await, ("two".into(), "z*10".into()));
    fs::write(&web, text(&["b"])).unwrap();
    fs::write(&api, text(&["y"])).unwrap();
    assert_eq!(running.list_of().await, ("two".into(), "y*10".into()));

    // The core has forgotten the list (removed and added between two snapshots): it is sent again.
    let forgotten = sample::edit(at("two", &api), |service| service.source = Source::Waiting);
    running.publish(sample::snapshot([forgotten]));
    assert_eq!(running.list_of().await, ("two".into(), "y*10".into()));

    // Inline: the core's own matter.
    let inline = sample::edit(at("two", &api), |service| {
        Arc::make_mut(&mut service.config).servers = Servers::Inline(Arc::default());
    });
    running.publish(sample::snapshot([inline, at("web", &web)]));
    assert_eq!(running.list_of().await, ("web".into(), "b*10".into()));
}

#[tokio::test]
async fn a_thousand_lists_in_one_directory() {
    let mut running = Running::start("web.json", |d| {
        for n in 0..1000 {
            fs::write(d.join(format!("{n}.json")), text(&["a"])).unwrap();
        }
    });
    assert!(running.fault().await.contains("No such file"));
    let mut all = sample::snapshot([]);
    for n in 0..1000 {
        let path = running.path(&format!("{n}.json"));
        all.services.extend([at(&format!("s{n}"), &path)]);
    }
    running.publish(all);
    for _ in 0..1000 {
        let event = running.next(Duration::from_secs(20)).await;
        assert!(matches!(event, Event::List { .. }), "{event:?}");
    }
    for n in [999, 0, 500] {
        replace(&running.path(&format!("{n}.json")), &text(&["b"]));
        assert_eq!(running.list_of().await, (format!("s{n}"), "b*10".into()));
    }
}

#[tokio::test]
async fn what_inotify_does_not_tell_the_poll_finds() {
    let mut running = Running::start("in/web.json", |d| {
        fs::create_dir(d.join("in")).unwrap();
        fs::create_dir(d.join("out")).unwrap();
        fs::write(d.join("in/web.json"), text(&["a"])).unwrap();
        fs::hard_link(d.join("in/web.json"), d.join("out/web.json")).unwrap();
    });
    running.list().await;
    // The directory of the other name is told of it, ours is not; and the length stays the same.
    fs::write(running.path("out/web.json"), text(&["b"])).unwrap();
    let event = running.next(Duration::from_secs(12)).await;
    let Event::List { list, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(hosts(&list.servers), "b*10");
}

/// With no inotify watches left it polls. The limit is a user namespace's own, so this test runs itself
/// again in one.
#[test]
fn without_watches_it_polls() {
    const INSIDE: &str = "PLIMSOLL_TEST_WITHOUT_WATCHES";
    if std::env::var_os(INSIDE).is_none() {
        let script = "echo 1 > /proc/sys/user/max_inotify_watches && exec \"$@\"";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "without_watches_it_polls"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "{output:?}"
        );
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut running = start_with_a();
        assert_eq!(running.list().await, "a*10");
        for host in ["b", "c", "d"] {
            let start = Instant::now();
            replace(&running.path("web.json"), &text(&[host]));
            assert_eq!(running.list().await, format!("{host}*10"));
            assert!(start.elapsed() < Duration::from_secs(3));
        }
        fs::remove_file(running.path("web.json")).unwrap();
        running.fault().await;
    });
}
