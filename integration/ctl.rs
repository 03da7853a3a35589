//! `plimsoll ctl` against a real etcd: what it changes, what it refuses, what it waits for, and what it does
//! while others write and members die. The balancers' records are put there by the tests.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "in a test a panic is the message, and the clock is the world's"
)]

#[path = "cluster.rs"]
#[expect(
    unreachable_pub,
    dead_code,
    reason = "it is shared with tests that need more of it"
)]
mod cluster;

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Scope, ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use cluster::{Cluster, until};
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use nix::pty::openpty;
use serde_json::{Value, json};

const PREFIX: &str = "/conftool/v1/pools/";
const LEASES: &str = "/plimsoll/v1/leases/";
const SRV1: &str = "eqiad/bar/foo/srv1";
const YES: &str = r#"{"weight": 10, "pooled": "yes"}"#;

struct Lab {
    cluster: Cluster,
}

impl Lab {
    /// One member, four servers in one pool and the first of them in another one as well.
    fn new() -> Lab {
        let lab = Lab::of(1);
        for host in ["srv1", "srv2", "srv3", "srv4"] {
            lab.put(&format!("eqiad/bar/foo/{host}"), YES);
        }
        lab.put("codfw/bar/foo/srv1", YES);
        lab
    }

    fn of(members: usize) -> Lab {
        let cluster = Cluster::start(members);
        let config = format!("{}timeout = \"1s\"\n", cluster.section());
        std::fs::write(cluster.folder().join("plimsoll.toml"), config).unwrap();
        Lab { cluster }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        let config = self.cluster.folder().join("plimsoll.toml");
        command.arg("ctl").arg("--config").arg(config);
        command.stdin(Stdio::null());
        command
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Must work; gives what was said.
    fn does(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }

    /// Must not work and change nothing; gives the complaint.
    fn refuses(&self, code: i32, arguments: &[&str]) -> String {
        let before = self.revision();
        let output = self.ctl(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert_eq!(self.revision(), before, "{arguments:?} wrote something");
        text(&output.stderr)
    }

    fn put(&self, object: &str, value: &str) {
        let key = format!("{PREFIX}{object}");
        self.cluster.etcdctl(&["put", &key, value]);
    }

    fn get(&self, key: &str) -> Option<Value> {
        let text = self.cluster.etcdctl(&["get", "--print-value-only", key]);
        (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }

    fn value(&self, object: &str) -> Value {
        self.get(&format!("{PREFIX}{object}")).unwrap()
    }

    fn lease(&self, object: &str) -> Option<Value> {
        self.get(&format!("{LEASES}{object}"))
    }

    /// The store's.
    fn revision(&self) -> u64 {
        let text = self.cluster.etcdctl(&["get", "none", "-w", "json"]);
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["header"]["revision"].as_u64().unwrap()
    }

    /// A balancer says that it is alive.
    fn alive(&self, balancer: &str) {
        let key = format!("/plimsoll/v1/balancers/{balancer}");
        self.cluster.etcdctl(&["put", &key, "{}"]);
    }

    /// A balancer says what it has of eqiad/bar/foo.
    fn applied(&self, balancer: &str, revision: u64, service: &Value) {
        let key = format!("/plimsoll/v1/applied/{balancer}/eqiad/bar/foo");
        let record = json!({"revision": revision, "services": {"web": service}}).to_string();
        self.cluster.etcdctl(&["put", &key, &record]);
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.cluster.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// On a terminal, with this typed at it: how it ended and what it showed.
    fn on_terminal(&self, typed: &str, arguments: &[&str], editor: &str) -> (ExitStatus, String) {
        let terminal = openpty(None, None).unwrap();
        let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
        let mut child = self.command();
        child.args(arguments).env("EDITOR", editor);
        let mut child = child.stdin(slave()).stdout(slave()).stderr(slave());
        let mut running = child.spawn().unwrap();
        // Ours would keep it open when the child has gone.
        child = child.stdin(Stdio::null()).stdout(Stdio::null());
        child.stderr(Stdio::null());
        drop(terminal.slave);
        let mut master = File::from(terminal.master);
        master.write_all(typed.as_bytes()).unwrap();
        let mut shown = Vec::new();
        // The end of a terminal is an error, EIO.
        let _ = master.read_to_end(&mut shown);
        (running.wait().unwrap(), text(&shown))
    }
}

/// A service of a balancer's record.
fn service(guard: &str, pooled: &[&str], held: &Value) -> Value {
    json!({
        "depool-threshold": 0.5, "depool-guard": guard, "size": 4, "pooled": pooled, "held": held,
    })
}

const ALL: &[&str] = &["srv1", "srv2", "srv3", "srv4"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn set(lab: &Lab, member: &str, object: &str) -> Value {
    lab.value(object)[member].clone()
}

#[test]
fn get_and_set() {
    let lab = Lab::new();
    let one = "name=srv1,dc=eqiad";
    let line = |value: &str| {
        format!("{{\"srv1\": {value}, \"tags\": \"dc=eqiad,cluster=bar,service=foo\"}}\n")
    };
    assert_eq!(lab.does(&["select", one, "get"]), line(YES));
    assert_eq!(
        lab.does(&["select", one, "set/pooled=no", "--reason", "T1: \"disk\""]),
        "eqiad/bar/foo/srv1: pooled changed yes => no\n"
    );
    assert_eq!(
        lab.does(&["select", one, "get"]),
        line(r#"{"weight": 10, "pooled": "no", "reason": "T1: \"disk\""}"#)
    );
    // The reason was for that change alone; there is nothing more to write the second time.
    assert_eq!(lab.does(&["select", one, "set/pooled=no"]), "\n");
    let revision = lab.revision();
    assert_eq!(lab.does(&["select", one, "set/pooled=no"]), "\n");
    assert_eq!(lab.revision(), revision);
    assert_eq!(lab.value(SRV1), json!({"weight": 10, "pooled": "no"}));
    assert_eq!(
        lab.does(&["select", one, "set/pooled=yes:weight=3", "get"]),
        format!(
            "eqiad/bar/foo/srv1: pooled changed no => yes\n\
             eqiad/bar/foo/srv1: weight changed 10 => 3\n{}",
            line(r#"{"weight": 3, "pooled": "yes"}"#)
        )
    );
    assert_eq!(
        lab.does(&["select", one, "delete"]),
        "Deleted ('Node',) srv1.\n"
    );
    assert_eq!(lab.get(&format!("{PREFIX}{SRV1}")), None);
    lab.refuses(66, &["select", one, "get"]);
}

/// Incident 3 of the peers: a selector's unknown key was ignored, and a whole site was depooled.
#[test]
fn what_is_not_understood_changes_nothing() {
    let lab = Lab::new();
    let unknown = lab.refuses(64, &["--yes", "select", "host=srv1", "set/pooled=no"]);
    assert!(
        unknown.contains("unknown tag \"host\"") && unknown.contains("dc, cluster, service, name"),
        "{unknown}"
    );
    for arguments in [
        &["select", "", "set/pooled=no"][..],
        &["select", "srv1", "delete"],
        &["select", "dc=eqiad,host=srv1", "delete"],
        &["select", "name=srv1,name=srv2", "set/pooled=no"],
        &["select", "name=srv1,dc=", "set/pooled=no"],
        &["select", "name=srv1,dc=eqiad", "set/pooled=off"],
        &["select", "name=srv1,dc=eqiad", "set/pooled=no", "walk"],
        &[
            "select",
            "name=srv1,dc=eqiad",
            "set/pooled=no",
            "--for",
            "1s",
        ],
        &["tags", "dc=eqiad,cluster=bar", "--action", "delete", "srv1"],
        &[
            "tags",
            "dc=eqiad,cluster=bar,service=foo",
            "--action",
            "set/pooled=no",
            "a/b",
        ],
        &["depool", "--hostname", "srv1", "--service", "("],
        &["depool", "--hostname", ""],
        &["--object-type", "dbconfig", "depool", "--hostname", "srv1"],
    ] {
        lab.refuses(64, &[&["--yes"], arguments].concat());
    }
    lab.refuses(66, &["--yes", "select", "name=srv9", "set/pooled=no"]);
    lab.refuses(66, &["depool", "--hostname", "srv9"]);
    let tags = "dc=eqiad,cluster=bar,service=foo";
    lab.refuses(66, &["tags", tags, "--action", "set/pooled=no", "srv9"]);
}

#[test]
fn the_configuration_says_which_etcd() {
    let lab = Lab::new();
    let ctl = |name: &str, config: &str| {
        let path = lab.script(name, config);
        let mut plimsoll = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        plimsoll
            .args(["ctl", "select", "name=srv2", "get", "-c"])
            .arg(path);
        let output = plimsoll.output().unwrap();
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let (code, said) = ctl(
        "v2.toml",
        &format!("{}api = \"v2\"\n", lab.cluster.section()),
    );
    assert_eq!(code, 78);
    assert!(said.contains("v2") && said.contains("confctl"), "{said}");
    let (code, said) = ctl("wrong.toml", "[etcd]\nendpoints = []\n");
    assert_eq!(code, 78);
    assert!(said.contains("wrong.toml:2: etcd.endpoints"), "{said}");
    let (code, said) = ctl(
        "elsewhere.toml",
        "[etcd]\nendpoints = [\"http://127.0.0.1:9\"]\ntimeout = \"200ms\"\n",
    );
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("127.0.0.1:9"), "{said}");
    let (code, said) = ctl(
        "prefix.toml",
        &format!("{}prefix = \"/other\"\n", lab.cluster.section()),
    );
    assert_eq!(code, 66, "{said}");
    assert_eq!(
        lab.ctl(&["--config", "/nowhere/plimsoll.toml", "pool"])
            .status
            .code(),
        Some(64)
    );
    let missing = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .args(["ctl", "--config", "/nowhere/plimsoll.toml", "pool"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(78));
}

#[test]
fn help_names_the_exit_codes() {
    for arguments in [&["--help"][..], &["-h"]] {
        let help = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
            .arg("ctl")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(help.status.code(), Some(0));
        let help = text(&help.stdout);
        for code in [0, 1, 64, 65, 66, 69, 71, 73, 75, 77, 78] {
            assert!(help.contains(&format!("\n  {code:2}  ")), "{code}: {help}");
        }
    }
}

#[test]
fn several_objects_need_a_word() {
    let lab = Lab::new();
    let said = lab.refuses(64, &["select", "dc=eqiad", "set/pooled=no"]);
    assert!(
        said.contains("4 objects") && said.contains("--yes"),
        "{said}"
    );
    lab.refuses(64, &["select", "name=srv1", "set/pooled=no"]);
    lab.refuses(64, &["select", "dc=eqiad", "delete"]);
    lab.refuses(64, &["select", "dc=eqiad", "edit"]);
    lab.refuses(64, &["--host", "select", "dc=eqiad", "set/pooled=no"]);
    let tags = &["tags", "dc=eqiad,cluster=bar,service=foo", "--action"][..];
    lab.refuses(64, &[tags, &["set/pooled=no", "all"]].concat());
    lab.refuses(64, &[tags, &["delete", "re:srv[12]"]].concat());
    // Less than half, one by name, one host, no change: nobody is asked.
    assert_eq!(
        lab.does(&[tags, &["set/weight=1", "re:srv3"]].concat()),
        "eqiad/bar/foo/srv3: weight changed 10 => 1\n"
    );
    assert_eq!(
        lab.does(&["--host", "select", "name=srv1", "set/weight=2"]),
        "codfw/bar/foo/srv1: weight changed 10 => 2\neqiad/bar/foo/srv1: weight changed 10 => 2\n"
    );
    assert_eq!(lab.does(&["select", "dc=.*", "get"]).lines().count(), 5);
    assert_eq!(
        lab.does(&["drain", "--hostname", "srv1"]).lines().count(),
        2
    );
    // Said.
    let all = lab.does(&["--yes", "select", "dc=eqiad", "set/pooled=inactive"]);
    assert_eq!(all.lines().count(), 4);
    assert_eq!(
        lab.does(&[tags, &["delete", "all", "--yes"]].concat())
            .lines()
            .count(),
        4
    );
    assert_eq!(lab.does(&["select", "dc=.*", "get"]).lines().count(), 1);
}

#[test]
fn a_terminal_is_asked() {
    let lab = Lab::new();
    let select = &["select", "dc=eqiad,name=srv[12]", "set/pooled=no"];
    let code = |(status, shown): (ExitStatus, String)| (status.code().unwrap(), shown);
    for answer in ["n\n", "\n", "yes\n", "\u{4}"] {
        let (code, shown) = code(lab.on_terminal(answer, select, ""));
        assert_eq!(code, 1, "{answer:?} {shown}");
        assert!(
            shown.contains(r#"{"eqiad/bar/foo":["srv1","srv2"]}"#),
            "{shown}"
        );
        assert!(
            shown.contains("Go on? [y/N]") && shown.contains("nothing was changed"),
            "{shown}"
        );
        assert_eq!(set(&lab, "pooled", SRV1), "yes");
    }
    let (status, shown) = code(lab.on_terminal("y\n", select, ""));
    assert_eq!(status, 0, "{shown}");
    assert!(
        shown.contains("eqiad/bar/foo/srv2: pooled changed yes => no"),
        "{shown}"
    );
    let yaml = &[&["--yaml"], &select[..2], &["set/weight=1"]].concat();
    let (status, shown) = code(lab.on_terminal("Y\n", yaml, ""));
    assert_eq!(status, 0, "{shown}");
    assert!(
        shown.contains("eqiad/bar/foo:\r\n- srv1\r\n- srv2\r\n"),
        "{shown}"
    );

    let half = &[
        "tags",
        "dc=eqiad,cluster=bar,service=foo",
        "--action",
        "delete",
        "re:srv[12]",
    ];
    let (status, shown) = code(lab.on_terminal("y\n", half, ""));
    assert_eq!(status, 1, "{shown}");
    let (status, shown) = code(lab.on_terminal("Yes, I am sure of what I am doing.\n", half, ""));
    assert_eq!(status, 0, "{shown}");
    assert!(shown.contains("2 of the pool's 4 objects"), "{shown}");
    assert_eq!(lab.get(&format!("{PREFIX}{SRV1}")), None);
}

#[test]
fn what_others_have_added_stays() {
    let lab = Lab::new();
    lab.put(SRV1, r#"{"weight": 10, "pooled": "yes", "rack": {"b": [1, "x"]}, "reason": "old", "confirmed": true}"#);
    lab.does(&["select", "name=srv1,dc=eqiad", "set/weight=5"]);
    assert_eq!(
        lab.value(SRV1),
        json!({"weight": 5, "pooled": "yes", "rack": {"b": [1, "x"]}})
    );
}

#[test]
fn a_value_that_is_none() {
    let lab = Lab::new();
    lab.put("eqiad/bar/foo/srv2", "broken");
    lab.put("eqiad/bar/foo/srv3", r#"{"weight": -1, "pooled": "yes"}"#);
    lab.put("eqiad/bar/foo/too/deep", YES);
    lab.put("shallow", YES);
    let output = lab.ctl(&["select", "dc=eqiad", "get"]);
    assert_eq!(output.status.code(), Some(65));
    assert_eq!(text(&output.stdout).lines().count(), 2);
    let said = text(&output.stderr);
    assert!(
        said.contains("eqiad/bar/foo/srv2: not a JSON object"),
        "{said}"
    );
    assert!(said.contains("eqiad/bar/foo/srv3: weight is -1"), "{said}");
    // One that cannot be changed is found before the others are.
    lab.refuses(65, &["--yes", "select", "dc=eqiad", "set/pooled=no"]);
    lab.refuses(65, &["select", "name=srv2", "edit"]);
    lab.does(&["select", "name=srv2", "set/pooled=no:weight=1"]);
    assert_eq!(
        lab.value("eqiad/bar/foo/srv2"),
        json!({"weight": 1, "pooled": "no"})
    );
    lab.does(&["select", "name=srv3", "set/weight=1"]);
    assert_eq!(
        lab.value("eqiad/bar/foo/srv3"),
        json!({"weight": 1, "pooled": "yes"})
    );
}

#[test]
fn a_lease_ends_by_itself() {
    let lab = Lab::new();
    let one = "name=srv1,dc=eqiad";
    let said = lab.does(&["depool", "--hostname", "srv1", "--for", "5s", "-r", "T1"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2);
    let (line, until) = lines[1].split_once(" until ").unwrap();
    assert_eq!(line, "eqiad/bar/foo/srv1: pooled changed yes => no");
    let lease = lab.lease(SRV1).unwrap();
    assert_eq!(
        lease,
        json!({"weight": 10, "pooled": "no", "reason": "T1", "until": until})
    );
    assert_eq!(lab.value(SRV1), json!({"weight": 10, "pooled": "yes"}));
    let got = lab.does(&["select", one, "get"]);
    assert!(
        got.contains(&format!(
            r#"{{"weight": 10, "pooled": "no", "reason": "T1", "until": "{until}"}}"#
        )),
        "{got}"
    );
    // Both objects are under one lease of etcd.
    assert_eq!(lab.cluster.etcdctl(&["lease", "list"]).lines().count(), 2);
    let end = Instant::now() + Duration::from_secs(30);
    while lab.lease(SRV1).is_some() {
        assert!(Instant::now() < end, "the lease does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(lab.does(&["select", one, "get"]).contains(YES));
}

#[test]
fn a_plain_change_ends_a_lease() {
    let lab = Lab::new();
    let depool = &["depool", "--hostname", "srv1", "--for", "30m"][..];
    lab.does(depool);
    let revision = lab.revision();
    let one = &["select", "name=srv1,dc=eqiad"][..];
    assert_eq!(
        lab.does(&[one, &["set/pooled=yes"]].concat()),
        "eqiad/bar/foo/srv1: pooled changed no => yes\n"
    );
    // In one transaction.
    assert_eq!(lab.revision(), revision + 1);
    assert_eq!(lab.lease(SRV1), None);
    assert!(lab.lease("codfw/bar/foo/srv1").is_some());
    assert_eq!(lab.value(SRV1), json!({"weight": 10, "pooled": "yes"}));
    // A server that is out for a while is not pooled by a change of its weight.
    lab.does(depool);
    assert_eq!(
        lab.does(&[one, &["set/weight=5"]].concat()),
        "eqiad/bar/foo/srv1: weight changed 10 => 5\n"
    );
    assert_eq!(lab.lease(SRV1), None);
    assert_eq!(lab.value(SRV1), json!({"weight": 5, "pooled": "no"}));
    // One lease after the other; one that the node's own key is younger than is none.
    lab.does(&["pool", "--hostname", "srv1"]);
    lab.does(depool);
    lab.does(&["drain", "--hostname", "srv1", "--for", "1h"]);
    assert_eq!(lab.lease(SRV1).unwrap()["weight"], 0);
    lab.put(SRV1, YES);
    assert!(lab.does(&[one, &["get"]].concat()).contains(YES));
    assert_eq!(lab.does(&[one, &["set/weight=10"]].concat()), "\n");
    assert_eq!(lab.lease(SRV1), None);
    lab.does(depool);
    assert_eq!(
        lab.does(&[one, &["delete"]].concat()),
        "Deleted ('Node',) srv1.\n"
    );
    assert_eq!(lab.lease(SRV1), None);
}

#[test]
fn many_objects_are_few_transactions() {
    let lab = Lab::of(1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let number = 4500;
    runtime.block_on(async {
        let mut client = Client::connect(lab.cluster.endpoints(), None)
            .await
            .unwrap();
        let hosts: Vec<usize> = (0..number).collect();
        for hosts in hosts.chunks(100) {
            let put =
                |host: &usize| TxnOp::put(format!("{PREFIX}dc/big/web/srv{host:04}"), YES, None);
            let puts: Vec<TxnOp> = hosts.iter().map(put).collect();
            client.txn(Txn::new().and_then(puts)).await.unwrap();
        }
    });
    assert_eq!(
        lab.does(&["select", "dc=dc", "get"]).lines().count(),
        number
    );
    let before = lab.revision();
    let some = "name=srv0[0-1].*";
    let said = lab.does(&["--yes", "select", some, "set/pooled=no"]);
    assert_eq!(said.lines().count(), 200);
    assert_eq!(lab.revision(), before + 4);
    let said = lab.does(&["select", some, "get"]);
    assert!(said.lines().all(|line| line.contains("\"no\"")), "{said}");
    // With leases to be taken away: the largest transactions.
    lab.does(&["--yes", "select", some, "set/pooled=yes", "--for", "1h"]);
    assert_eq!(lab.revision(), before + 8);
    lab.does(&["--yes", "select", some, "set/weight=1"]);
    assert_eq!(lab.revision(), before + 12);
    assert_eq!(lab.cluster.etcdctl(&["get", "--prefix", LEASES]), "");
    lab.does(&["--yes", "select", some, "delete"]);
    assert_eq!(lab.revision(), before + 16);
    assert_eq!(
        lab.does(&["select", "dc=dc", "get"]).lines().count(),
        number - 200
    );
}

/// Four writers of ours and one that counts: at the end it has all that it counted.
#[test]
fn no_writers_change_is_lost() {
    const RUNS: usize = 60;
    let lab = Lab::new();
    lab.put(SRV1, r#"{"weight": 10, "pooled": "yes", "count": 0}"#);
    let runs = AtomicUsize::new(0);
    let counted = scope(|scope| {
        for weight in 1..=4 {
            let (lab, runs) = (&lab, &runs);
            scope.spawn(move || {
                let weight = format!("set/weight={weight}");
                let one = ["select", "name=srv1,dc=eqiad"];
                while runs.fetch_add(2, Ordering::Relaxed) < RUNS {
                    lab.does(&[&one[..], &[&*weight]].concat());
                    lab.does(&[&one[..], &["set/pooled=no"]].concat());
                }
            });
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let client = Client::connect(lab.cluster.endpoints(), None).await;
            let mut client = client.unwrap();
            let mut counted = 0;
            while runs.load(Ordering::Relaxed) < RUNS {
                count(&mut client).await;
                counted += 1;
            }
            counted
        })
    });
    let value = lab.value(SRV1);
    assert_eq!(value["pooled"], "no");
    assert!((1..=4).any(|weight| value["weight"] == weight), "{value}");
    assert!(counted > RUNS, "{counted} is no race");
    assert_eq!(value["count"], counted);
}

/// Another program's own compare-and-swap.
async fn count(client: &mut Client) {
    let key = format!("{PREFIX}{SRV1}");
    loop {
        let answer = client.get(&*key, None).await.unwrap();
        let kv = &answer.kvs()[0];
        let mut value: Value = serde_json::from_slice(kv.value()).unwrap();
        value["count"] = (value["count"].as_u64().unwrap() + 1).into();
        let unchanged = Compare::mod_revision(&*key, CompareOp::Equal, kv.mod_revision());
        let put = TxnOp::put(&*key, value.to_string(), None);
        let txn = Txn::new().when([unchanged]).and_then([put]);
        if client.txn(txn).await.unwrap().succeeded() {
            return;
        }
    }
}

#[test]
fn a_depool_below_the_guard_is_refused() {
    let lab = Lab::new();
    let depool = &["--yes", "select", "dc=eqiad,name=srv[123]", "set/pooled=no"][..];
    lab.alive("lb1");
    lab.applied("lb1", 1, &service("floor", ALL, &json!({})));
    let said = lab.refuses(77, depool);
    let arithmetic = "eqiad/bar/foo: of 4 pooled servers 1 would be left without srv1, srv2, srv3; \
                      service web on lb1 keeps at least 2 (4 listed × depool-threshold 0.5)";
    assert_eq!(
        said,
        format!("{arithmetic}\nnothing was changed; --force sends it all the same\n")
    );
    for action in ["delete", "set/pooled=inactive", "set/weight=0"] {
        lab.refuses(77, &[&depool[..3], &[action]].concat());
    }
    lab.refuses(77, &[depool, &["--for", "30m"]].concat());
    assert_eq!(lab.cluster.etcdctl(&["lease", "list"]), "found 0 leases\n");
    // What stays above it, what takes nothing away.
    lab.does(&["--yes", "select", "dc=eqiad,name=srv[123]", "set/weight=1"]);
    lab.does(&["--yes", "select", "dc=eqiad,name=srv[12]", "set/weight=0"]);
    // One by one is no way round it.
    lab.refuses(77, &["select", "dc=eqiad,name=srv3", "set/weight=0"]);
    lab.does(&["--yes", "select", "dc=eqiad,name=srv[12]", "set/pooled=no"]);

    lab.applied(
        "lb1",
        1,
        &service(
            "floor",
            &["srv3", "srv4"],
            &json!({"srv3": "depool-threshold"}),
        ),
    );
    lab.refuses(77, &["select", "name=srv3", "set/pooled=no"]);
    lab.applied("lb1", 1, &service("last", &["srv3", "srv4"], &json!({})));
    lab.does(&["select", "name=srv3", "set/pooled=no"]);
    lab.applied("lb1", 1, &service("last", &["srv4"], &json!({})));
    let last = lab.refuses(77, &["depool", "--hostname", "srv4"]);
    assert!(last.contains("keeps the last one"), "{last}");
    lab.applied("lb1", 1, &service("off", &["srv4"], &json!({})));
    lab.does(&["depool", "--hostname", "srv4"]);
}

#[test]
fn force_is_a_confirmation() {
    let lab = Lab::new();
    lab.alive("lb1");
    lab.applied("lb1", 1, &service("floor", ALL, &json!({})));
    let three = &["--yes", "--force", "select", "dc=eqiad,name=srv[123]"][..];
    lab.does(&[three, &["set/pooled=no"]].concat());
    let confirmed = json!({"weight": 10, "pooled": "no", "confirmed": true});
    assert_eq!(lab.value(SRV1), confirmed);
    let shown = lab.does(&["select", "name=srv1,dc=eqiad", "get"]);
    assert!(!shown.contains("confirmed"), "{shown}");
    lab.does(&["pool", "--hostname", "srv1"]);
    assert_eq!(lab.value(SRV1), json!({"weight": 10, "pooled": "yes"}));
    lab.does(&[three, &["set/pooled=no", "--for", "1h"]].concat());
    assert_eq!(lab.lease(SRV1).unwrap()["confirmed"], true);
    lab.does(&["pool", "--hostname", "srv1"]);

    // What is deleted says before that it shall go, and waits until the balancers have let it.
    let done = AtomicBool::new(false);
    let from = lab.revision() + 1;
    scope(|scope| {
        let applying = applying(scope, &lab, &done, service("floor", ALL, &json!({})));
        lab.does(&[three, &["delete"]].concat());
        done.store(true, Ordering::Relaxed);
        applying.join().unwrap();
    });
    assert_eq!(lab.get(&format!("{PREFIX}{SRV1}")), None);
    let history = history(&lab, SRV1, from);
    assert_eq!(
        history,
        [
            r#"{"weight": 0, "pooled": "inactive", "confirmed": true}"#,
            ""
        ]
    );
}

/// What a key was since a revision; nothing: it was deleted.
fn history(lab: &Lab, object: &str, from: u64) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(lab.cluster.endpoints(), None)
            .await
            .unwrap();
        let options = etcd_client::WatchOptions::new();
        let options = options.with_start_revision(i64::try_from(from).unwrap());
        let mut watch = client
            .watch(format!("{PREFIX}{object}"), Some(options))
            .await
            .unwrap();
        let mut values = Vec::new();
        loop {
            let message = tokio::time::timeout(Duration::from_secs(10), watch.message());
            let message = message.await.expect("the object was deleted");
            for event in message.unwrap().unwrap().events() {
                values.push(text(event.kv().unwrap().value()));
            }
            if values.last().is_some_and(String::is_empty) {
                return values;
            }
        }
    })
}

#[test]
fn without_a_balancer_there_is_no_guard() {
    let lab = Lab::new();
    let depool = lab.ctl(&["--yes", "select", "dc=eqiad", "set/pooled=no"]);
    assert_eq!(depool.status.code(), Some(0));
    assert_eq!(
        text(&depool.stderr),
        "eqiad/bar/foo: no balancer serves it, so there is no guard to ask\n"
    );
    let pool = lab.ctl(&["--yes", "select", "dc=eqiad", "set/pooled=yes"]);
    assert_eq!(text(&pool.stderr), "");
    let depool = lab.ctl(&["--quiet", "--yes", "select", "dc=eqiad", "set/pooled=no"]);
    assert_eq!(text(&depool.stderr), "");
}

/// A balancer `lb1` that has applied whatever is in the store, until it is done.
fn applying<'scope>(
    scope: &'scope Scope<'scope, '_>,
    lab: &'scope Lab,
    done: &'scope AtomicBool,
    service: Value,
) -> ScopedJoinHandle<'scope, ()> {
    scope.spawn(move || {
        while !done.load(Ordering::Relaxed) {
            lab.applied("lb1", lab.revision(), &service);
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

#[test]
fn wait_returns_when_all_have_applied_it() {
    let lab = Lab::new();
    for balancer in ["lb1", "lb2", "lb3"] {
        lab.alive(balancer);
    }
    let held = json!({"srv4": "depool-threshold"});
    lab.applied("lb1", lab.revision(), &service("floor", ALL, &json!({})));
    lab.applied("lb2", lab.revision(), &service("floor", ALL, &held));
    let revision = lab.revision();
    let mut ctl = lab.command();
    let ctl = ctl.args(["select", "name=srv2", "set/pooled=no", "--wait"]);
    let running = ctl.stdout(Stdio::piped()).spawn().unwrap();
    until("it is in etcd", || {
        lab.value("eqiad/bar/foo/srv2")["pooled"] == "no"
    });
    // One has it, the other only what was before.
    lab.applied("lb1", revision + 1, &service("floor", ALL, &json!({})));
    lab.applied("lb2", revision, &service("floor", ALL, &held));
    let late = Instant::now() + Duration::from_millis(300);
    let mut running = running;
    while Instant::now() < late {
        assert!(
            running.try_wait().unwrap().is_none(),
            "did not wait for lb2"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    lab.applied("lb2", revision + 9, &service("floor", ALL, &held));
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        format!(
            "eqiad/bar/foo/srv2: pooled changed yes => no\n\
             lb1: eqiad/bar/foo: applied at revision {}\n\
             lb2: eqiad/bar/foo: applied at revision {}, held: srv4 (depool-threshold)\n\
             lb3: eqiad/bar/foo: does not serve it\n",
            revision + 1,
            revision + 9
        )
    );
    // What was so already has been applied already.
    lab.does(&[
        "select",
        "name=srv2",
        "set/pooled=no",
        "--wait",
        "--timeout",
        "1s",
    ]);
}

#[test]
fn wait_names_who_did_not() {
    let lab = Lab::new();
    lab.alive("lb1");
    lab.alive("lb2");
    let revision = lab.revision();
    lab.applied("lb1", revision, &service("off", ALL, &json!({})));
    lab.applied("lb2", revision + 99, &service("off", ALL, &json!({})));
    let started = Instant::now();
    let output = lab.ctl(&[
        "depool",
        "--hostname",
        "srv2",
        "--wait",
        "--timeout",
        "700ms",
    ]);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("lb1 has not applied eqiad/bar/foo at revision"),
        "{said}"
    );
    assert!(!said.contains("lb2"), "{said}");
    assert!(text(&output.stdout).contains("lb2: eqiad/bar/foo: applied at revision"));
    assert_eq!(lab.value("eqiad/bar/foo/srv2")["pooled"], "no");

    // One that goes away is not waited for; one that holds what was depooled is told of.
    let running = lab
        .command()
        .args(["depool", "--hostname", "srv3", "--wait", "--for", "1h"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("it is in etcd", || {
        lab.lease("eqiad/bar/foo/srv3").is_some()
    });
    lab.applied(
        "lb2",
        lab.revision(),
        &service("off", ALL, &json!({"srv3": "stale-catch-up"})),
    );
    lab.cluster.etcdctl(&["del", "/plimsoll/v1/balancers/lb1"]);
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    let said = text(&output.stdout);
    // Unless it was gone before it was looked at.
    let gone = said.contains("lb1: eqiad/bar/foo: gone before it had applied it");
    assert!(gone || !said.contains("lb1"), "{said}");
    let said = text(&output.stderr);
    assert!(
        said.contains("lb2 holds srv3 in service web: stale-catch-up"),
        "{said}"
    );
}

/// A balancer's records go by one lease, all at once: it is gone, and has not just lost the pool.
#[test]
fn wait_tells_who_is_gone() {
    let lab = Lab::new();
    let granted = lab.cluster.etcdctl(&["lease", "grant", "600"]);
    let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
    let lease_option = format!("--lease={lease}");
    let put = |key: &str, value: &str| lab.cluster.etcdctl(&["put", key, value, &lease_option]);
    put("/plimsoll/v1/balancers/lb1", "{}");
    // It has started, and has had no list yet: it serves the pool all the same.
    put(
        "/plimsoll/v1/applied/lb1/eqiad/bar/foo",
        r#"{"revision": 0, "services": {}}"#,
    );
    let mut ctl = lab.command();
    ctl.args(["depool", "--hostname", "srv2", "--wait", "--timeout", "1s"]);
    let output = ctl.output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("eqiad/bar/foo: no balancer serves it"),
        "{said}"
    );
    assert!(said.contains("it has no list in force yet"), "{said}");

    let mut ctl = lab.command();
    ctl.args(["depool", "--hostname", "srv3", "--wait"]);
    let running = ctl.stdout(Stdio::piped()).spawn().unwrap();
    until("it is in etcd", || {
        lab.value("eqiad/bar/foo/srv3")["pooled"] == "no"
    });
    lab.cluster.etcdctl(&["lease", "revoke", &lease]);
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    // Or it was gone before it was looked at.
    let gone = said.contains("lb1: eqiad/bar/foo: gone before it had applied it");
    assert!(gone || !said.contains("lb1"), "{said}");
    assert!(said.ends_with("no balancer is alive\n"), "{said}");
}

#[test]
fn a_full_standard_error_changes_nothing_in_what_is_done() {
    let lab = Lab::new();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let mut ctl = lab.command();
    // It has something to note: nobody serves the pool.
    let status = ctl
        .args(["depool", "--hostname", "srv2"])
        .stderr(full())
        .status();
    assert_eq!(status.unwrap().code(), Some(0));
    assert_eq!(lab.value("eqiad/bar/foo/srv2")["pooled"], "no");
    let mut ctl = lab.command();
    let status = ctl
        .args(["select", "name=nobody", "get"])
        .stderr(full())
        .status();
    assert_eq!(status.unwrap().code(), Some(66));
}

#[test]
fn a_member_that_hangs_or_dies_is_passed_over() {
    let mut lab = Lab::of(3);
    lab.put(SRV1, YES);
    let weigh = |lab: &Lab, weight: u32| {
        let started = Instant::now();
        let action = format!("set/weight={weight}");
        lab.does(&["select", "name=srv1", &action]);
        assert_eq!(lab.value(SRV1)["weight"], weight);
        assert!(
            started.elapsed() < Duration::from_secs(15),
            "{:?}",
            started.elapsed()
        );
    };
    // The first that is asked, be it leader or not.
    lab.cluster.freeze(0);
    weigh(&lab, 1);
    lab.cluster.thaw(0);
    lab.cluster.wait_for_all();
    lab.cluster.kill(0);
    weigh(&lab, 2);
    lab.cluster.spawn(0);
    lab.cluster.wait_for_all();
    // The leader, whichever it is: meanwhile another one is elected.
    let leader = lab.cluster.leader();
    lab.cluster.kill(leader);
    weigh(&lab, 3);
    // No majority: it is over in time, and says so.
    let other = (leader + 1) % 3;
    lab.cluster.kill(other);
    let started = Instant::now();
    let output = lab.ctl(&["select", "name=srv1", "set/weight=4"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(started.elapsed() < Duration::from_secs(15));
    lab.cluster.spawn(leader);
    lab.cluster.spawn(other);
    lab.cluster.wait_for_all();
    weigh(&lab, 5);
}

/// The wait goes on by another member when the first one hangs.
#[test]
fn wait_outlives_a_member() {
    let lab = Lab::of(3);
    lab.put(SRV1, YES);
    lab.alive("lb1");
    lab.applied("lb1", 1, &service("off", ALL, &json!({})));
    let running = lab
        .command()
        .args(["depool", "--hostname", "srv1", "--wait", "--timeout", "50s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    until("it is in etcd", || lab.value(SRV1)["pooled"] == "no");
    lab.cluster.freeze(0);
    let others = lab.cluster.endpoints()[1..].join(",");
    let record = json!({"revision": 1000, "services": {"web": service("off", ALL, &json!({}))}});
    until("the record is put", || {
        let put = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &others, "--command-timeout", "2s", "put"])
            .args([
                "/plimsoll/v1/applied/lb1/eqiad/bar/foo",
                &record.to_string(),
            ])
            .output();
        put.unwrap().status.success()
    });
    let output = running.wait_with_output().unwrap();
    lab.cluster.thaw(0);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    assert!(
        said.contains("lb1: eqiad/bar/foo: applied at revision 1000"),
        "{said}"
    );
}

#[test]
fn edit_changes_what_was_edited() {
    let lab = Lab::new();
    let one = &["select", "name=srv1,dc=eqiad", "edit"];
    let edit = |editor: &str| {
        let output = lab
            .command()
            .args(one)
            .env("EDITOR", editor)
            .output()
            .unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        (output.status.code().unwrap(), out, err)
    };
    let (code, out, err) = edit("sed -i 's/^weight:.*/weight: 33/'");
    assert_eq!(
        (code, &*out, &*err),
        (0, "Entity eqiad/bar/foo/srv1 successfully updated\n", "")
    );
    assert_eq!(lab.value(SRV1), json!({"weight": 33, "pooled": "yes"}));
    let (code, out, _) = edit("cat");
    assert_eq!(code, 0);
    assert_eq!(
        out,
        "# eqiad/bar/foo/srv1\npooled: 'yes'\nweight: 33\nEntity eqiad/bar/foo/srv1 unchanged\n"
    );
    for (editor, expected) in [
        ("false", "\"false\" failed"),
        ("sed -i 's/^weight:.*/weight: many/'", "weight is \"many\""),
        ("sed -i 's/weight/wait/'", "no member \"wait\""),
        ("truncate -s 0", "expected one mapping"),
    ] {
        let (code, _, err) = edit(editor);
        assert_eq!(code, 65, "{editor} {err}");
        assert!(
            err.contains(expected) && err.contains("nothing was changed"),
            "{editor}: {err}"
        );
    }
    assert_eq!(lab.value(SRV1), json!({"weight": 33, "pooled": "yes"}));

    // What others change meanwhile stays.
    let put = r#"{"weight": 33, "pooled": "no", "rack": 1}"#;
    let script = format!(
        "ETCDCTL_API=3 etcdctl --endpoints {} put {PREFIX}{SRV1} '{put}' >/dev/null\nsed -i 's/^weight:.*/weight: 44/' $1\n",
        lab.cluster.endpoints()[0]
    );
    let script = lab.script("editor.sh", &script);
    let (code, out, err) = edit(&format!("sh {}", script.display()));
    assert_eq!(code, 0, "{out} {err}");
    assert_eq!(
        lab.value(SRV1),
        json!({"weight": 44, "pooled": "no", "rack": 1})
    );
}

#[test]
fn a_bad_edit_is_offered_again_on_a_terminal() {
    let lab = Lab::new();
    let flag = lab.cluster.folder().join("again");
    let script = format!(
        "if [ -e {0} ]; then sed -i 's/^weight:.*/weight: 7/' $1; else touch {0}; sed -i 's/^weight:.*/weight: x/' $1; fi\n",
        flag.display()
    );
    let editor = format!("sh {}", lab.script("editor.sh", &script).display());
    let one = &["select", "name=srv1,dc=eqiad", "edit"];
    let (status, shown) = lab.on_terminal("n\n", one, &editor);
    assert_eq!(status.code(), Some(65), "{shown}");
    std::fs::remove_file(&flag).unwrap();
    let (status, shown) = lab.on_terminal("y\n", one, &editor);
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(
        shown.contains("weight is \"x\"") && shown.contains("Edit it again? [y/N]"),
        "{shown}"
    );
    assert_eq!(lab.value(SRV1), json!({"weight": 7, "pooled": "yes"}));
}
