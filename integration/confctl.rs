//! The real `confctl` and `plimsoll ctl` side by side: the same objects, in etcd's v2 store and in its v3
//! store, the same commands, their answers line by line, and what both have made of the objects in the end.

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
#[expect(dead_code, reason = "other tests use the rest of it")]
mod conftool;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use cluster::Cluster;
use serde_json::Value;

const PREFIX: &str = "/conftool/v1/pools/";

/// The objects that both begin with.
const OBJECTS: &[(&str, &str)] = &[
    ("eqiad/bar/foo/srv1", r#"{"weight": 10, "pooled": "yes"}"#),
    ("eqiad/bar/foo/srv2", r#"{"weight": 10, "pooled": "no"}"#),
    (
        "eqiad/bar/foo/srv3",
        r#"{"pooled": "inactive", "weight": 0}"#,
    ),
    (
        "eqiad/bar/foo/srv4.example",
        r#"{"weight": 1, "pooled": "yes", "added": [1]}"#,
    ),
    ("eqiad/bar/baz/srv1", r#"{"weight": 1, "pooled": "yes"}"#),
    ("codfw/bar/foo/srv1", r#"{"weight": 1, "pooled": "yes"}"#),
    ("codfw/bar/foo/cp10", r#"{"weight": 5, "pooled": "yes"}"#),
    ("codfw/bar/foo/cp11", r#"{"weight": 5, "pooled": "yes"}"#),
];

/// Commands that both answer alike, and the exit code of both.
const ALIKE: &[(&[&str], i32)] = &[
    (&["select", "dc=eqiad", "get"], 0),
    (&["select", "dc=.*", "get"], 0),
    (
        &[
            "select",
            "dc=eqiad,cluster=bar,service=foo,name=srv1",
            "get",
        ],
        0,
    ),
    (&["select", "name=srv(1|2)", "get"], 0),
    (&["select", "service=ba.,name=srv[0-9]", "get"], 0),
    (&["--yaml", "select", "name=srv2", "get"], 0),
    (
        &[
            "-r",
            "why",
            "--quiet",
            "--host",
            "select",
            "name=srv2",
            "get",
        ],
        0,
    ),
    (&["select", "name=srv2", "set/pooled=yes"], 0),
    // Already so: an empty line.
    (&["select", "name=srv2", "set/pooled=yes"], 0),
    (&["select", "name=srv2", "set/weight=7:pooled=no"], 0),
    (&["select", "name=srv2", "set/pooled=inactive:weight=3"], 0),
    (&["select", "name=srv2", "set/ pooled=yes"], 0),
    (&["select", "name=srv2", "set/weight=010"], 0),
    (&["--host", "select", "name=srv1", "set/pooled=no"], 0),
    (&["select", "name=srv4[.]example", "get"], 0),
    (
        &[
            "--reason",
            "T1",
            "select",
            "name=srv4.example",
            "set/weight=9",
        ],
        0,
    ),
    (
        &[
            "tags",
            "dc=eqiad,cluster=bar,service=foo",
            "--action",
            "get",
            "srv1",
        ],
        0,
    ),
    (
        &[
            "tags",
            "service=foo, dc = eqiad,cluster=bar",
            "--action",
            "get",
            "re:srv[12]",
        ],
        0,
    ),
    (
        &[
            "tags",
            "dc=codfw,cluster=bar,service=foo",
            "--action",
            "get",
            "re:cp1",
        ],
        0,
    ),
    (
        &[
            "--tags",
            "dc=codfw,cluster=bar,service=foo",
            "--action",
            "get",
            "cp10",
        ],
        0,
    ),
    (
        &[
            "tags",
            "dc=codfw,cluster=bar,service=foo",
            "--action",
            "set/pooled=no",
            "cp10",
            "--action",
            "get",
            "cp10",
            "--action",
            "set/weight=2",
            "cp11",
        ],
        0,
    ),
    // Less than half of the pool: nobody is asked.
    (
        &[
            "tags",
            "dc=codfw,cluster=bar,service=foo",
            "--action",
            "set/weight=4",
            "re:cp10",
        ],
        0,
    ),
    (&["pool", "--hostname", "srv1"], 0),
    (&["depool", "--hostname", "srv1", "--service", "foo"], 0),
    (&["drain", "--hostname", "srv2"], 0),
    (
        &[
            "decommission",
            "--hostname",
            "srv4.example",
            "--service=fo.",
        ],
        0,
    ),
    (&["pool", "--service", "ba.", "--hostname", "srv1"], 0),
    (&["select", "name=srv2", "set/@FILE"], 0),
    (&["select", "name=srv2", "edit"], 0),
    (&["select", "name=srv3", "delete"], 0),
    (
        &[
            "tags",
            "dc=codfw,cluster=bar,service=foo",
            "--action",
            "delete",
            "cp11",
        ],
        0,
    ),
    (&["select", "name=.*", "get"], 0),
];

/// Commands that only `plimsoll ctl` refuses, or only it does, or that it does otherwise: the command, what
/// confctl exits with, what `plimsoll ctl` exits with, and why.
const DIFFERENT: &[(&[&str], i32, i32, &str)] = &[
    (
        &["select", "host=srv1", "get"],
        1,
        64,
        "a tag that does not exist: not a traceback but a message",
    ),
    (
        &["select", "name", "get"],
        1,
        64,
        "no expression: not a traceback but a message",
    ),
    (
        &["select", "name=srv[0-9]{1,2}", "get"],
        1,
        64,
        "a comma in an expression: a message",
    ),
    (
        &["select", "name=srv(", "get"],
        1,
        64,
        "a bad expression: a message",
    ),
    (&["select", "name=none", "get"], 0, 66, "nothing matches"),
    (
        &["select", "name=none", "set/pooled=no"],
        0,
        66,
        "nothing matches",
    ),
    (
        &["select", "name=srv1,name=srv2", "get"],
        0,
        64,
        "a tag twice: confctl takes the last",
    ),
    (
        &["select", "name=", "get"],
        0,
        64,
        "an empty expression matches nothing",
    ),
    (
        &["select", "name=srv2", "set/pooled=yes:pooled=no"],
        0,
        64,
        "a member twice: confctl takes the last",
    ),
    (
        &["select", "name=srv2", "set/weight=-3"],
        0,
        64,
        "confctl writes a weight that no kernel takes",
    ),
    (
        &["select", "name=srv2", "set/weight=1_0"],
        0,
        64,
        "a number of Python's",
    ),
    (
        &["select", "name=srv2", "set/weight=x"],
        1,
        64,
        "the exit code alone",
    ),
    (
        &["select", "name=srv2", "set/pooled=maybe"],
        1,
        64,
        "the exit code alone",
    ),
    (
        &["select", "name=srv2", "set/poled=no"],
        1,
        64,
        "the exit code alone",
    ),
    (
        &["select", "name=srv2", "get/x"],
        0,
        64,
        "confctl takes it for get",
    ),
    (
        &["select", "name=srv2", "walk"],
        1,
        64,
        "the exit code alone",
    ),
    (
        &["select", "name=srv.", "set/weight=1"],
        1,
        64,
        "several objects and nobody to ask: confctl dies of it",
    ),
    (
        &["tags", "dc=eqiad,cluster=bar", "--action", "get", "srv1"],
        1,
        64,
        "the exit code alone",
    ),
    (
        &[
            "tags",
            "dc=a,cluster=b,service=c,x=y",
            "--action",
            "get",
            "re:x",
        ],
        1,
        64,
        "a tag that does not exist",
    ),
    (
        &[
            "tags",
            "dc=eqiad,cluster=bar,service=foo",
            "--action",
            "get",
            "none",
        ],
        1,
        66,
        "confctl dies of it",
    ),
    (
        &[
            "tags",
            "dc=eqiad,cluster=bar,service=foo",
            "--action",
            "delete",
            "none",
        ],
        1,
        66,
        "the exit code alone",
    ),
    (
        &[
            "tags",
            "dc=eqiad,cluster=bar,service=foo",
            "--action",
            "set/pooled=no",
            "none",
        ],
        1,
        66,
        "the exit code alone",
    ),
    (
        &[
            "tags",
            "dc=eqiad,cluster=bar,service=none",
            "--action",
            "get",
            "all",
        ],
        1,
        66,
        "confctl dies of it",
    ),
    (
        &[
            "tags",
            "dc=eqiad,cluster=bar,service=foo",
            "--action",
            "set/pooled=no",
            "all",
        ],
        1,
        64,
        "nobody to ask",
    ),
    (
        &[
            "tags",
            "dc=eqiad,cluster=bar,service=foo",
            "--action",
            "get",
            "all",
        ],
        1,
        0,
        "confctl 6.1 dies of it",
    ),
    (&["pool", "--hostname", "none"], 0, 66, "nothing matches"),
    (
        &["--object-type", "other", "select", "name=a", "get"],
        1,
        64,
        "the exit code alone",
    ),
    (
        &["select", "name=srv2", "get", "get"],
        2,
        0,
        "several actions",
    ),
    (
        &["select", "name=srv2", "get", "--quiet"],
        2,
        0,
        "options after the action",
    ),
];

struct Sides {
    cluster: Cluster,
    confctl: PathBuf,
}

impl Sides {
    fn new() -> Sides {
        let confctl = conftool::environment().join("bin/confctl");
        let cluster = Cluster::start(1);
        let folder = cluster.folder();
        std::fs::write(folder.join("plimsoll.toml"), cluster.section()).unwrap();
        let etcd = url(&cluster);
        let port = etcd.rsplit(':').next().unwrap();
        let etcdrc =
            format!("host: 127.0.0.1\nport: {port}\nprotocol: http\nallow_redirect: false\n");
        std::fs::write(folder.join("etcdrc"), etcdrc).unwrap();
        let config = format!(
            "driver: etcd\nnamespace: /conftool\napi_version: v1\npools_path: pools\ndriver_options:\n  \
             etcd_config_file: {}\n  suppress_san_warnings: false\n",
            folder.join("etcdrc").display()
        );
        std::fs::write(folder.join("config.yaml"), config).unwrap();
        std::fs::write(folder.join("values.yaml"), "weight: 12\npooled: 'no'\n").unwrap();
        let sides = Sides { cluster, confctl };
        for (object, value) in OBJECTS {
            sides
                .cluster
                .etcdctl(&["put", &format!("{PREFIX}{object}"), value]);
            sides.v2_put(object, value);
        }
        sides
    }

    fn v2_put(&self, object: &str, value: &str) {
        let url = format!("{}/v2/keys{PREFIX}{object}", url(&self.cluster));
        let put = Command::new("curl")
            .args(["-sSf", "-X", "PUT", &url, "--data-urlencode"])
            .arg(format!("value={value}"))
            .output();
        let put = put.expect("curl is installed");
        assert!(put.status.success(), "{put:?}");
    }

    fn run(&self, program: &mut Command, arguments: &[&str]) -> Output {
        let file = format!(
            "set/@{}",
            self.cluster.folder().join("values.yaml").display()
        );
        let argument = |argument: &&str| match *argument {
            "set/@FILE" => file.clone(),
            other => other.to_owned(),
        };
        program
            .args(arguments.iter().map(argument))
            .env("EDITOR", "sed -i s/^weight:.*/weight:\\ 33/")
            .env("HOME", self.cluster.folder())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn confctl(&self, arguments: &[&str]) -> Output {
        let config = self.cluster.folder().join("config.yaml");
        self.run(
            Command::new(&self.confctl).arg("--config").arg(config),
            arguments,
        )
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut plimsoll = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        let config = self.cluster.folder().join("plimsoll.toml");
        self.run(plimsoll.args(["ctl", "--config"]).arg(config), arguments)
    }

    /// What confctl has made of the objects.
    fn v2(&self) -> BTreeMap<String, Value> {
        let mut objects = BTreeMap::new();
        let url = format!("{}/v2/keys{PREFIX}?recursive=true", url(&self.cluster));
        let answer = Command::new("curl").args(["-sSf", &url]).output().unwrap();
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        let mut nodes = vec![answer["node"].clone()];
        while let Some(node) = nodes.pop() {
            nodes.extend(node["nodes"].as_array().cloned().unwrap_or_default());
            if let Some(value) = node["value"].as_str() {
                let key = node["key"].as_str().unwrap().strip_prefix(PREFIX).unwrap();
                objects.insert(key.to_owned(), serde_json::from_str(value).unwrap());
            }
        }
        objects
    }

    /// What `plimsoll ctl` has made of them.
    fn v3(&self) -> BTreeMap<String, Value> {
        let text = self.cluster.etcdctl(&["get", "--prefix", PREFIX]);
        let lines: Vec<&str> = text.lines().collect();
        let object = |pair: &[&str]| {
            let key = pair[0].strip_prefix(PREFIX).unwrap().to_owned();
            let mut value: Value = serde_json::from_str(pair[1]).unwrap();
            // confctl tells its --reason to a chat channel; we keep it.
            value.as_object_mut().unwrap().remove("reason");
            (key, value)
        };
        lines.chunks(2).map(object).collect()
    }
}

fn url(cluster: &Cluster) -> String {
    cluster.endpoints().remove(0)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// etcd's v2 store gives a folder's keys in no order, so neither does confctl.
fn sorted(output: &Output) -> Vec<String> {
    let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// One weight is told otherwise: confctl compares the text that was said with the number that it has.
fn without_confctls_slips(lines: Vec<String>) -> Vec<String> {
    let slip = |line: String| match line
        .split_once(" changed ")
        .and_then(|(_, c)| c.split_once(" => "))
    {
        Some((old, new)) if old == new => String::new(),
        Some((_, new)) if new.starts_with('0') && new != "0" => {
            line.replace(new, new.trim_start_matches('0'))
        }
        Some(_) | None => line,
    };
    lines.into_iter().map(slip).collect()
}

#[test]
fn both_say_and_do_the_same() {
    let sides = Sides::new();
    assert_eq!(sides.v2(), sides.v3());
    for (command, code) in ALIKE {
        let (theirs, ours) = (sides.confctl(command), sides.ctl(command));
        assert_eq!(theirs.status.code(), Some(*code), "{command:?} {theirs:?}");
        assert_eq!(ours.status.code(), Some(*code), "{command:?} {ours:?}");
        assert_eq!(
            without_confctls_slips(sorted(&theirs)),
            sorted(&ours),
            "{command:?}"
        );
        assert_eq!(sides.v2(), sides.v3(), "{command:?}");
    }
    assert_eq!(sides.v2().len(), OBJECTS.len() - 2);
}

#[test]
fn where_they_differ_is_known() {
    for (command, their_code, our_code, why) in DIFFERENT {
        // Some of them break confctl's own objects.
        thread_local! {
            static SIDES: std::cell::OnceCell<Sides> = const { std::cell::OnceCell::new() };
        }
        SIDES.with(|sides| {
            let sides = sides.get_or_init(Sides::new);
            let (theirs, ours) = (sides.confctl(command), sides.ctl(command));
            assert_eq!(
                theirs.status.code(),
                Some(*their_code),
                "{command:?}: {why}: {theirs:?}"
            );
            assert_eq!(
                ours.status.code(),
                Some(*our_code),
                "{command:?}: {why}: {ours:?}"
            );
            if *our_code != 0 {
                assert_eq!(text(&ours.stdout), "", "{command:?}");
                let said = text(&ours.stderr);
                assert!(
                    !said.is_empty() && !said.contains("panicked"),
                    "{command:?}: {said}"
                );
                let untouched = sides.v3();
                for (object, value) in OBJECTS {
                    let value: Value = serde_json::from_str(value).unwrap();
                    assert_eq!(untouched[*object], value, "{command:?}");
                }
            }
        });
    }
}

/// Alternatives: confctl's `^a|b$` is `^a` or `b$`.
#[test]
fn alternatives_are_anchored_both() {
    let sides = Sides::new();
    let command = ["select", "dc=codfw,name=cp1|srv1", "get"];
    let lines = |output: Output| sorted(&output).len();
    assert_eq!(lines(sides.confctl(&command)), 3);
    assert_eq!(lines(sides.ctl(&command)), 1);
}

/// The lists that confctl 6.1 cannot give are as its own code means them.
#[test]
fn all_of_a_pool() {
    let sides = Sides::new();
    let tags = [
        "tags",
        "dc=eqiad,cluster=bar,service=foo",
        "--action",
        "get",
        "all",
    ];
    let list = text(&sides.ctl(&tags).stdout);
    assert_eq!(
        list,
        "{\"srv1\": {\"weight\": 10, \"pooled\": \"yes\"}, \"srv2\": {\"weight\": 10, \"pooled\": \"no\"}, \
         \"srv3\": {\"weight\": 0, \"pooled\": \"inactive\"}, \
         \"srv4.example\": {\"weight\": 1, \"pooled\": \"yes\"}}\n"
    );
    let yaml = text(&sides.ctl(&[&["--yaml"], &tags[..]].concat()).stdout);
    let read = Command::new(sides.confctl.with_file_name("python"))
        .args([
            "-c",
            "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))",
            &yaml,
        ])
        .output()
        .unwrap();
    let (list, read): (Value, Value) = (
        serde_json::from_str(&list).unwrap(),
        serde_json::from_slice(&read.stdout).unwrap(),
    );
    assert_eq!(list, read, "{yaml}");
}

/// Our default is what Python says this host is called, with whatever /etc/hosts says of it.
#[test]
fn the_default_host_is_pythons() {
    let sides = Sides::new();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let hostname = hostname.trim();
    let python = sides.confctl.with_file_name("python");
    for hosts in [
        format!("127.0.0.1 localhost\n127.0.1.1 {hostname}.example.com {hostname}\n"),
        format!("127.0.0.1 localhost\n127.0.1.1 {hostname} {hostname}.example.org x.example\n"),
        format!("127.0.0.1 localhost {hostname}\n"),
        format!("127.0.1.1 a b {hostname}\n"),
        format!("::1 localhost six.example {hostname}\n"),
    ] {
        let file = sides.cluster.folder().join("hosts");
        std::fs::write(&file, &hosts).unwrap();
        // A mount namespace of its own, with this file over /etc/hosts.
        let inside = |command: &str| {
            let script = format!("mount --bind {} /etc/hosts && {command}", file.display());
            let output = Command::new("unshare")
                .args(["--mount", "sh", "-c", &script])
                .output()
                .unwrap();
            (text(&output.stdout), text(&output.stderr))
        };
        let name = format!(
            "{} -c 'import socket; print(socket.getfqdn())'",
            python.display()
        );
        let (name, fault) = inside(&name);
        assert_eq!(fault, "", "{hosts}");
        let config = sides.cluster.folder().join("plimsoll.toml");
        let depool = format!(
            "{} ctl --config {} depool",
            env!("CARGO_BIN_EXE_plimsoll"),
            config.display()
        );
        let (_, fault) = inside(&depool);
        let expected = format!("selector \"name={}\" matches no object", name.trim());
        assert!(fault.contains(&expected), "{hosts}: {fault} {expected}");
    }
}
