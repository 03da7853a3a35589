//! `/metrics` as it comes from the API: what promtool says of it, and the table in `grafana/metrics.md`, which names each
//! metric with its type, unit and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use crate::files::{folder, named, queries};
use crate::lab::Lab;
use crate::netns::until;
use crate::process::SOON;
use crate::wrong::{self, Wrong};

/// What `grafana/metrics.md` says of one metric.
struct Metric {
    /// Without a counter's `_total`.
    family: String,
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

impl Metric {
    fn name(&self) -> String {
        let total = if self.kind == "counter" { "_total" } else { "" };
        format!("{}{total}", self.family)
    }

    fn unit(&self) -> &'static str {
        let units = [
            ("_timestamp_seconds", "seconds since 1970"),
            ("_seconds", "seconds"),
            ("_bytes", "bytes"),
            ("_packets", "packets"),
            ("connections_per_second", "connections a second"),
            ("bytes_per_second", "bytes a second"),
            ("packets_per_second", "packets a second"),
            ("_share", "ratio"),
            ("_threshold", "ratio"),
        ];
        let found = units.iter().find(|(end, _)| self.family.ends_with(end));
        found.map_or("", |(_, unit)| unit)
    }

    fn row(&self) -> String {
        let (name, kind, unit, help) = (self.name(), &self.kind, self.unit(), &self.help);
        let labels: Vec<String> = self.labels.iter().map(|it| format!("`{it}`")).collect();
        let labels = labels.join(", ");
        format!("| `{name}` | {kind} | {unit} | {labels} | {help} |")
    }
}

/// In the order in which they are written.
fn metrics(text: &str) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            let (family, help) = head.split_once(' ').unwrap();
            metrics.push(Metric {
                family: family.to_owned(),
                kind: String::new(),
                help: help.to_owned(),
                labels: BTreeSet::new(),
            });
            continue;
        }
        let Some(last) = metrics.last_mut() else {
            panic!("{line} before the first family")
        };
        if let Some(head) = line.strip_prefix("# TYPE ") {
            last.kind = head.split_once(' ').unwrap().1.to_owned();
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.rsplit_once('}').unwrap().0.split("\",");
            last.labels
                .extend(labels.map(|it| it.split_once('=').unwrap().0.to_owned()));
        }
    }
    metrics
}

/// All that can be wrong is, so that each family has a sample.
fn exposition() -> String {
    let lab = Lab::new();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9090));
    let _wrong = Wrong::start(&lab, address, wrong::all(3));
    until(SOON, "the API answers", || lab.get("/metrics"))
}

#[test]
fn each_metric_is_documented() {
    let metrics = metrics(&exposition());
    let silent: Vec<String> = metrics
        .iter()
        .filter(|it| it.kind.is_empty())
        .map(Metric::name)
        .collect();
    assert!(silent.is_empty(), "without a type: {silent:?}");
    let rows: Vec<String> = metrics.iter().map(Metric::row).collect();
    let page = fs::read_to_string(folder().join("metrics.md")).unwrap();
    let written: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `plimsoll_"))
        .collect();
    let expected = rows.join("\n");
    assert!(
        written == rows,
        "the table in grafana/metrics.md should be\n{expected}"
    );
}

#[test]
fn only_metrics_that_exist_are_asked_for() {
    let metrics = metrics(&exposition());
    let known: BTreeSet<String> = metrics.iter().map(Metric::name).collect();
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (place, query) in queries() {
        asked.entry(place).or_default().extend(named(&query));
    }
    for file in ["alerts.yaml", "alerts_test.yaml"] {
        let text = fs::read_to_string(folder().join(file)).unwrap();
        asked.insert(file.to_owned(), named(&text));
    }
    for (place, names) in asked {
        let unknown: Vec<&String> = names.difference(&known).collect();
        assert!(unknown.is_empty(), "{place}: {unknown:?}");
    }
}

/// What promtool has to say of a text of `/metrics`, which should be nothing. It reads the older format only, where a
/// counter's family has its `_total`, and knows no `# EOF`.
pub(crate) fn lint(text: &str) {
    let body = text.strip_suffix("# EOF\n").expect("no end");
    let counters = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let counters: BTreeSet<&str> = counters.collect();
    let older = body.lines().map(|line| {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(head), Some(name), Some(rest)) if counters.contains(name) => {
                format!("# {head} {name}_total {rest}\n")
            }
            _ => format!("{line}\n"),
        }
    });
    let older: String = older.collect();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Debian's prometheus is installed");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(older.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn promtool_finds_nothing_to_say() {
    lint(&exposition());
}
