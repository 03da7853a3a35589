//! `plimsoll sync` against a real etcd: what it makes, what it leaves alone, what it refuses; and beside the
//! real conftool-sync.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "in a test a panic is the message, and what runs beside it has the system's clock"
)]

#[expect(dead_code, unreachable_pub, reason = "other tests use the rest of it")]
mod cluster;
#[expect(dead_code, reason = "other tests use the rest of it")]
mod conftool;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cluster::Cluster;
use conftool::Conftool;

const INACTIVE: &str = r#"{"weight": 0, "pooled": "inactive"}"#;
const YES: &str = r#"{"weight": 10, "pooled": "yes"}"#;
const NO: &str = r#"{"pooled":"no",  "weight":1, "other": [1]}"#;

/// A cluster, a directory of files, a configuration.
struct Site {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

/// What a run did.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Site {
    fn new(members: usize) -> Site {
        let cluster = Cluster::start(members);
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data/node")).unwrap();
        let site = Site { cluster, folder };
        site.configure(&site.cluster.section());
        site
    }

    fn configure(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("plimsoll.toml")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.data().join("node").join(name), text).unwrap();
    }

    fn put(&self, object: &str, value: &str) {
        let key = format!("/conftool/v1/pools/{object}");
        self.cluster.etcdctl(&["put", &key, value]);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.arg("sync").arg(self.data()).args(arguments);
        command.arg("-c").arg(self.config()).stdin(Stdio::null());
        command
    }

    fn sync(&self, arguments: &[&str]) -> Ran {
        self.ran(self.command(arguments).output().unwrap())
    }

    /// Paths of the data are left out.
    fn ran(&self, output: Output) -> Ran {
        let data = format!("{}/", self.data().display());
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&data, "");
        Ran {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// All keys of etcd with their values; `/conftool/v1/pools/` is left out.
    fn all(&self) -> BTreeMap<String, String> {
        let text = self.cluster.etcdctl(&["get", "", "--prefix"]);
        let mut lines = text.lines();
        let mut all = BTreeMap::new();
        while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
            let key = key.trim_start_matches("/conftool/v1/pools/");
            all.insert(key.to_owned(), value.to_owned());
        }
        all
    }

    /// etcd's revision: it grows with each change.
    fn revision(&self) -> i64 {
        let text = self.cluster.etcdctl(&["get", "none", "-w", "json"]);
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        answer["header"]["revision"].as_i64().unwrap()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[track_caller]
fn check(ran: Ran, code: i32, stdout: &str, stderr: &str) {
    assert_eq!(ran.stdout, stdout, "{ran:?}");
    assert_eq!(ran.stderr, stderr, "{ran:?}");
    assert_eq!(ran.code, Some(code), "{ran:?}");
}

#[test]
fn etcd_gets_what_is_listed_and_keeps_what_it_has() {
    let site = Site::new(1);
    site.file(
        "eqiad.yaml",
        "eqiad:\n  text:\n    cp1: [nginx, varnish]\n    cp2: [nginx]\n",
    );
    site.file("codfw.yaml", "codfw: {text: {cp9: [nginx]}}\n");
    site.put("eqiad/text/nginx/cp1", YES);
    site.put("eqiad/text/varnish/cp1", NO);
    site.put("eqiad/text/varnish/cp2", YES);
    site.put("eqiad/text/nginx/cp3", "no JSON");
    site.put("esams/text/nginx/cp3", NO);
    site.put("eqiad/text/strange", "a");
    site.put("eqiad/text/nginx/cp1/strange", "b");
    site.cluster.etcdctl(&["put", "/conftool/v1/pools0", "c"]);
    site.cluster
        .etcdctl(&["put", "/conftool/v1/services/a/b/c/d", "e"]);
    // The last pooled server of eqiad/text/varnish is not listed.
    site.put("eqiad/text/varnish/cp1", YES);
    let before = site.revision();

    let planned = site.sync(&["--dry-run"]);
    let strangers = "/conftool/v1/pools/eqiad/text/nginx/cp1/strange: no node's key; left alone
/conftool/v1/pools/eqiad/text/strange: no node's key; left alone
";
    check(
        planned,
        0,
        "codfw/text/nginx/cp9: would be created, weight 0, inactive
eqiad/text/nginx/cp2: would be created, weight 0, inactive
eqiad/text/nginx/cp3: would be removed, was no node
eqiad/text/varnish/cp2: would be removed, was weight 10, pooled yes
esams/text/nginx/cp3: would be removed, was weight 1, pooled no
sync: 2 would be created, 3 would be removed, 2 unchanged
",
        strangers,
    );
    assert_eq!(site.revision(), before);

    let done = site.sync(&[]);
    check(
        done,
        0,
        "codfw/text/nginx/cp9: created, weight 0, inactive
eqiad/text/nginx/cp2: created, weight 0, inactive
eqiad/text/nginx/cp3: removed, was no node
eqiad/text/varnish/cp2: removed, was weight 10, pooled yes
esams/text/nginx/cp3: removed, was weight 1, pooled no
sync: 2 created, 3 removed, 2 unchanged
",
        strangers,
    );
    // One transaction.
    assert_eq!(site.revision(), before + 1);
    assert_eq!(
        site.all(),
        pairs(&[
            ("/conftool/v1/pools0", "c"),
            ("/conftool/v1/services/a/b/c/d", "e"),
            ("codfw/text/nginx/cp9", INACTIVE),
            ("eqiad/text/nginx/cp1", YES),
            ("eqiad/text/nginx/cp1/strange", "b"),
            ("eqiad/text/nginx/cp2", INACTIVE),
            ("eqiad/text/strange", "a"),
            ("eqiad/text/varnish/cp1", YES),
        ])
    );
    let again = site.sync(&[]);
    check(
        again,
        0,
        "sync: 0 created, 0 removed, 4 unchanged\n",
        strangers,
    );
    assert_eq!(site.revision(), before + 1);
}

#[test]
fn a_faulty_file_removes_nothing_and_stops_no_other() {
    let site = Site::new(1);
    site.put("eqiad/text/nginx/gone", NO);
    let kept = "eqiad/text/nginx/gone: not listed, and kept until all files are good\n";
    let faults = [
        ("", "node/codfw.yaml:1: it lists nothing\n"),
        (
            "codfw:\n  text: [\n",
            "node/codfw.yaml:3: not YAML: while parsing a node, did not find expected node content\n",
        ),
        (
            "codfw:\n  text:\n    cp1: [a]\n    cp1: [b]\n",
            "node/codfw.yaml:4: not YAML: duplicated key in mapping\n",
        ),
        (
            "codfw:\n  text:\n    cp1: [a, b/c]\n",
            "node/codfw.yaml:3: \"b/c\" is no service: 1 to 128 characters, no slash, no blank\n",
        ),
        (
            "codfw:\n  text:\n    cp1: nginx\n",
            "node/codfw.yaml:3: cp1: expected a list of services, found \"nginx\"; write [nginx], say\n",
        ),
    ];
    for (index, (text, fault)) in faults.into_iter().enumerate() {
        site.file("codfw.yaml", text);
        site.file(
            "eqiad.yaml",
            &format!("eqiad: {{text: {{cp{index}: [nginx]}}}}\n"),
        );
        // What the file before listed is no longer listed, and kept.
        let created = format!("eqiad/text/nginx/cp{index}: created, weight 0, inactive\n");
        let mut older: String = (0..index)
            .map(|n| {
                format!("eqiad/text/nginx/cp{n}: not listed, and kept until all files are good\n")
            })
            .collect();
        older += kept;
        let summary = format!(
            "sync: 1 created, 0 removed, {} not listed and kept, 0 unchanged\n",
            index + 1
        );
        // --force does not mean this.
        let ran = site.sync(&["--force"]);
        check(ran, 65, &(created + &summary), &format!("{fault}{older}"));
    }
    fs::remove_file(site.data().join("node/codfw.yaml")).unwrap();
    let ran = site.sync(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(site.all(), pairs(&[("eqiad/text/nginx/cp4", INACTIVE)]));
}

#[test]
fn without_files_nothing_happens() {
    let site = Site::new(1);
    site.put("eqiad/text/nginx/cp1", NO);
    let before = site.revision();
    let nothing = "sync: 0 created, 0 removed, 0 unchanged\n";
    check(site.sync(&[]), 65, nothing, "node: no file *.yaml in it\n");
    fs::remove_dir(site.data().join("node")).unwrap();
    let missing = "node: cannot be read: No such file or directory (os error 2)\n";
    check(site.sync(&["--force"]), 65, nothing, missing);
    fs::remove_dir(site.data()).unwrap();
    check(site.sync(&["--force"]), 65, nothing, missing);
    fs::write(site.data(), "a file").unwrap();
    check(
        site.sync(&[]),
        65,
        nothing,
        "node: cannot be read: Not a directory (os error 20)\n",
    );
    assert_eq!(site.revision(), before);
}

/// All of a pool's servers renamed, by a slip: the new ones are inactive.
#[test]
fn the_last_pooled_servers_go_only_by_force() {
    let site = Site::new(1);
    site.file(
        "eqiad.yaml",
        "eqiad: {text: {cp1x: [nginx], cp2x: [nginx]}}\n",
    );
    site.put("eqiad/text/nginx/cp1", YES);
    site.put("eqiad/text/nginx/cp2", YES);
    site.put("eqiad/text/nginx/cp3", NO);
    let held = "eqiad/text/nginx: not listed, and kept, since no pooled server would be left: cp1, cp2; \
                --force removes them, or depool them before\n";
    check(
        site.sync(&[]),
        65,
        "eqiad/text/nginx/cp1x: created, weight 0, inactive
eqiad/text/nginx/cp2x: created, weight 0, inactive
eqiad/text/nginx/cp3: removed, was weight 1, pooled no
sync: 2 created, 1 removed, 2 not listed and kept, 0 unchanged
",
        held,
    );
    // One of the new ones serves: the old ones may go.
    site.put("eqiad/text/nginx/cp1x", YES);
    let planned = site.sync(&["--dry-run"]);
    assert_eq!(planned.code, Some(0), "{planned:?}");
    site.put("eqiad/text/nginx/cp1x", INACTIVE);
    assert_eq!(site.sync(&["--dry-run"]).code, Some(65));
    check(
        site.sync(&["--force"]),
        0,
        "eqiad/text/nginx/cp1: removed, was weight 10, pooled yes
eqiad/text/nginx/cp2: removed, was weight 10, pooled yes
sync: 0 created, 2 removed, 2 unchanged
",
        "",
    );
}

/// Files that list `hosts` servers of one service.
fn many(hosts: usize) -> String {
    let mut text = "eqiad:\n  big:\n".to_owned();
    for host in 0..hosts {
        text += &format!("    h{host:04}: [s]\n");
    }
    text
}

/// More than one transaction takes, and more than one page holds.
#[test]
fn thousands_at_once() {
    let site = Site::new(1);
    site.file("eqiad.yaml", &many(2500));
    let ran = site.sync(&[]);
    assert!(
        ran.stdout
            .ends_with("sync: 2500 created, 0 removed, 0 unchanged\n"),
        "{ran:?}"
    );
    assert_eq!(ran.stdout.lines().count(), 2501);
    assert!(
        ran.stdout
            .lines()
            .is_sorted_by_key(|line| line.starts_with("sync"))
    );
    assert_eq!(site.all().len(), 2500);
    site.file("eqiad.yaml", &many(1100));
    let ran = site.sync(&[]);
    assert!(
        ran.stdout
            .ends_with("sync: 0 created, 1400 removed, 1100 unchanged\n"),
        "{ran:?}"
    );
    assert_eq!(site.all().len(), 1100);
}

/// Two at the same time: each object is made once, and each says so of what it made itself.
#[test]
fn two_at_once_agree() {
    let site = Site::new(1);
    site.file("eqiad.yaml", &many(1500));
    let start = || {
        let mut command = site.command(&[]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let runs = [start(), start()].map(|run| site.ran(run.wait_with_output().unwrap()));
    let created = |ran: &Ran| {
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{ran:?}");
        let created = ran.stdout.lines().count() - 1;
        let others = 1500 - created;
        let summary = format!("sync: {created} created, 0 removed, {others} unchanged\n");
        assert!(ran.stdout.ends_with(&summary), "{ran:?}");
        created
    };
    assert_eq!(runs.iter().map(created).sum::<usize>(), 1500);
    assert_eq!(site.all().len(), 1500);
}

/// Somebody pools servers while they are made: what he wrote stays, whoever came first.
#[tokio::test]
async fn what_others_write_meanwhile_stays() {
    const HOSTS: usize = 1500;
    let site = Site::new(1);
    site.file("eqiad.yaml", &many(HOSTS));
    let mut client = etcd_client::Client::connect(site.cluster.endpoints(), None)
        .await
        .unwrap();
    let run = site.command(&[]).stdout(Stdio::piped()).spawn().unwrap();
    // From the last to the first, so that both meet.
    for host in (0..HOSTS).rev() {
        let key = format!("/conftool/v1/pools/eqiad/big/s/h{host:04}");
        client.put(key, YES, None).await.unwrap();
    }
    let ran = site.ran(run.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let created = ran.stdout.lines().count() - 1;
    assert!(created < HOSTS, "they did not meet");
    let all = site.all();
    assert_eq!(all.len(), HOSTS);
    assert!(all.values().all(|value| value == YES));
}

/// One member is gone, one is frozen with its connections open; the third has no quorum until one is back.
#[test]
fn endpoints_that_fail_are_passed_over() {
    let mut site = Site::new(3);
    let fast = "timeout = \"1s\"\n";
    site.configure(&(site.cluster.section() + fast));
    site.file("eqiad.yaml", "eqiad: {text: {cp1: [nginx]}}\n");
    site.cluster.freeze(0);
    let began = Instant::now();
    let ran = site.sync(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    site.cluster.thaw(0);
    site.cluster.kill(0);
    site.file("eqiad.yaml", "eqiad: {text: {cp2: [nginx]}}\n");
    site.cluster.leader();
    let ran = site.sync(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        ran.stdout.lines().next_back(),
        Some("sync: 1 created, 1 removed, 0 unchanged")
    );
    site.cluster.kill(1);
    site.cluster.kill(2);
    site.file("eqiad.yaml", "eqiad: {text: {cp3: [nginx]}}\n");
    let ran = site.sync(&[]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert_eq!(ran.stdout, "sync: 0 created, 0 removed, 0 unchanged\n");
    let mut lines = ran.stderr.lines();
    assert_eq!(lines.next(), Some("no endpoint of etcd gives the objects"));
    for endpoint in site.cluster.endpoints() {
        let line = lines.next().unwrap();
        assert!(line.contains(&endpoint), "{line} is not about {endpoint}");
    }
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_configuration_that_does_not_fit() {
    let site = Site::new(1);
    site.file("eqiad.yaml", "eqiad: {text: {cp1: [nginx]}}\n");
    let config = site.config().display().to_string();
    site.configure("[etcd]\nendpoints = [\"http://127.0.0.1:1\"]\napi = \"v2\"\n");
    check(
        site.sync(&[]),
        78,
        "",
        &format!(
            "{config}: [etcd] api = \"v2\": plimsoll sync writes by etcd's v3 API alone; use conftool-sync\n"
        ),
    );
    site.configure("[api]\n");
    check(
        site.sync(&[]),
        78,
        "",
        &format!("{config}:1: etcd: missing; write [etcd] with endpoints\n"),
    );
    let ran = site.ran(
        Command::new(env!("CARGO_BIN_EXE_plimsoll"))
            .arg("sync")
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, Some(64), "{ran:?}");
}

/// What the v2 store has below /conftool/v1/pools, by a recursive read.
fn v2(endpoint: &str) -> BTreeMap<String, String> {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "2")
        .args(["--endpoint", endpoint, "ls", "--recursive", "-p"])
        .arg("/conftool/v1/pools")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let keys = text.lines().filter(|key| !key.ends_with('/'));
    let value = |key: &str| {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "2")
            .args(["--endpoint", endpoint, "get", key])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let value = String::from_utf8(output.stdout).unwrap();
        let name = key.trim_start_matches("/conftool/v1/pools/");
        (name.to_owned(), value.trim_end().to_owned())
    };
    keys.map(value).collect()
}

/// The same files for both, conftool on the v2 store and plimsoll on the v3 store of one etcd; after each
/// round the same keys with the same values.
#[test]
fn conftool_sync_does_the_same() {
    let site = Site::new(1);
    let endpoint = site.cluster.endpoints().remove(0);
    let conftool = Conftool::new(&endpoint);
    let both = |round: &str| {
        let theirs = conftool.sync(&site.data());
        let ours = site.sync(&[]);
        assert_eq!(v2(&endpoint), site.all(), "{round}: {theirs:?}\n{ours:?}");
        ours
    };
    site.file(
        "eqiad.yaml",
        "eqiad:
  cache_text:
    cp1065.eqiad.wmnet: [varnish-fe, nginx]
    cp1066.eqiad.wmnet: &services
      - varnish-fe
      - nginx
  cache_upload:
    cp1070.eqiad.wmnet: *services
    cp1071.eqiad.wmnet: []
",
    );
    site.file("codfw.yaml", "codfw: {api: {mw2001: [apache2]}}\n");
    assert_eq!(both("made").code, Some(0));
    assert_eq!(site.all().len(), 7);

    for (object, value) in [
        ("eqiad/cache_text/nginx/cp1065.eqiad.wmnet", YES),
        ("eqiad/cache_text/nginx/cp1066.eqiad.wmnet", NO),
        ("codfw/api/apache2/mw2001", YES),
    ] {
        site.put(object, value);
        let key = format!("/conftool/v1/pools/{object}");
        let put = Command::new("etcdctl")
            .env("ETCDCTL_API", "2")
            .args(["--endpoint", &endpoint, "set", &key, value])
            .output()
            .unwrap();
        assert!(put.status.success());
    }
    site.file(
        "eqiad.yaml",
        "eqiad:
  cache_text:
    cp1065.eqiad.wmnet: [varnish-fe, nginx]
    cp1067.eqiad.wmnet: [nginx]
",
    );
    assert_eq!(both("changed").code, Some(0));
    assert_eq!(
        site.all(),
        pairs(&[
            ("codfw/api/apache2/mw2001", YES),
            ("eqiad/cache_text/nginx/cp1065.eqiad.wmnet", YES),
            ("eqiad/cache_text/nginx/cp1067.eqiad.wmnet", INACTIVE),
            ("eqiad/cache_text/varnish-fe/cp1065.eqiad.wmnet", INACTIVE),
        ])
    );

    site.file("codfw.yaml", "");
    site.file(
        "eqiad.yaml",
        "eqiad: {cache_text: {cp1068.eqiad.wmnet: [nginx]}}\n",
    );
    assert_eq!(both("with an empty file").code, Some(65));
    site.file("codfw.yaml", "codfw: {api: [\n");
    site.file(
        "eqiad.yaml",
        "eqiad: {cache_text: {cp1069.eqiad.wmnet: [nginx]}}\n",
    );
    assert_eq!(both("with a file that is not YAML").code, Some(65));
    assert_eq!(site.all().len(), 6);
}
