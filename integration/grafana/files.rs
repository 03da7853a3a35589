//! What stands in `grafana/`: the panels' queries and the rules' expressions, and that they are as Grafana and
//! Prometheus want them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use crate::netns::run;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

/// By the file's name without `.json`.
pub(crate) fn dashboards() -> BTreeMap<String, Value> {
    let entries = fs::read_dir(folder()).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let dashboards = files.filter(|path| path.extension().is_some_and(|it| it == "json"));
    dashboards
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, json)
        })
        .collect()
}

pub(crate) fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

/// The queries of all panels, each with where it stands.
pub(crate) fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for (name, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                let place = format!("{name}: {}", panel["title"].as_str().unwrap());
                queries.push((place, target["expr"].as_str().unwrap().to_owned()));
            }
        }
    }
    queries
}

/// The names of metrics that a text names, without what a histogram adds to them.
pub(crate) fn named(text: &str) -> BTreeSet<String> {
    let names = Regex::new(r"\bplimsoll_[a-z0-9_]+").unwrap();
    names
        .find_iter(text)
        .map(|found| found.as_str().trim_end_matches("_bucket").to_owned())
        .collect()
}

#[test]
fn panels_are_numbered_and_described() {
    for (name, dashboard) in dashboards() {
        assert_eq!(dashboard["uid"], format!("plimsoll-{name}"));
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: {panel}");
            for key in ["title", "description"] {
                let text = panel[key].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{name}: {key} of {panel}");
            }
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{name}: {panel}"
            );
        }
        assert!(!ids.is_empty(), "{name}");
    }
}

/// In Grafana's grid, which is 24 wide.
#[test]
fn panels_lie_beside_each_other() {
    for (name, dashboard) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in panels(&dashboard) {
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {panel}");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{name}: {panel} lies on another");
            }
        }
    }
}

#[test]
fn dashboards_link_to_each_other() {
    let dashboards = dashboards();
    let names: BTreeSet<&str> = dashboards.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        BTreeSet::from(["balancer", "bgp", "fleet", "service"])
    );
    let link = Regex::new("\"/d/plimsoll-([a-z]+)([^\"]*)\"").unwrap();
    for (name, dashboard) in &dashboards {
        let listed = dashboard["links"].as_array().unwrap();
        let listed = listed.iter().map(|link| link["url"].as_str().unwrap());
        let listed: BTreeSet<&str> = listed
            .map(|url| url.strip_prefix("/d/plimsoll-").unwrap())
            .collect();
        let others: BTreeSet<&str> = names.iter().copied().filter(|it| it != name).collect();
        assert_eq!(listed, others, "the links of {name}");
        let text = dashboard.to_string();
        assert_eq!(
            text.matches("/d/").count(),
            link.captures_iter(&text).count()
        );
        for found in link.captures_iter(&text) {
            let there = &dashboards[&found[1]];
            // What it hands over is a variable there.
            if let Some((variable, _)) = found[2]
                .strip_prefix("?var-")
                .and_then(|it| it.split_once('='))
            {
                assert!(variables(there).contains(variable), "{name}: {}", &found[0]);
            }
        }
    }
}

fn variables(dashboard: &Value) -> BTreeSet<&str> {
    let list = dashboard["templating"]["list"].as_array().unwrap();
    list.iter().map(|it| it["name"].as_str().unwrap()).collect()
}

#[test]
fn variables_are_there_and_used() {
    let used = Regex::new(r"\$\{?([a-z]+)").unwrap();
    for (name, dashboard) in dashboards() {
        let text = dashboard.to_string();
        let used: BTreeSet<&str> = used
            .captures_iter(&text)
            .map(|found| found.get(1).unwrap().as_str())
            .collect();
        assert_eq!(used, variables(&dashboard), "{name}");
    }
}

#[test]
fn prometheus_takes_the_rules() {
    let promtool =
        |words: [&str; 3]| run(Command::new("promtool").args(words).current_dir(folder()));
    let said = promtool(["check", "rules", "alerts.yaml"]);
    assert!(said.contains("SUCCESS"), "{said}");
    promtool(["test", "rules", "alerts_test.yaml"]);
}

/// So that a rule without a test is none.
#[test]
fn each_alert_has_a_firing_and_a_silent_case() {
    let read = |name| fs::read_to_string(folder().join(name)).unwrap();
    let (rules, tests) = (read("alerts.yaml"), read("alerts_test.yaml"));
    let alert = Regex::new(r"(?m)^ +- alert: (\w+)$").unwrap();
    let mut count = 0;
    for found in alert.captures_iter(&rules) {
        let case = format!(
            r"(?m)^ +- alertname: {}\n +eval_time: \w+\n +exp_alerts:( \[\])?$",
            &found[1]
        );
        let cases: Vec<bool> = Regex::new(&case)
            .unwrap()
            .captures_iter(&tests)
            .map(|case| case.get(1).is_some())
            .collect();
        assert_eq!(cases, [false, true], "{}", &found[1]);
        count += 1;
    }
    for part in [" for: ", "severity: ", "summary: ", "description: "] {
        assert_eq!(rules.matches(part).count(), count, "{part}");
    }
}
