//! `DIRECTORY/node/*.yaml`, conftool's lists of servers: `dc: cluster: host: [services]`. Reads them and says
//! what they list or, with file and line, why not. Nothing here talks to etcd.
//!
//! A file with a mistake counts for nothing: what else it lists may be half of what was meant.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::object::Object;
use crate::cli::text;
use crate::conftool::{PoolPath, is_tag};
use crate::service::Host;

/// The most bytes that a file may have.
const LARGEST: usize = 16 * 1024 * 1024;

/// What the files list.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Each object, and where it is listed.
    pub(super) objects: BTreeMap<Object, Place>,
    /// By file and line.
    pub(super) faults: Vec<Fault>,
}

/// A line of a file, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: Arc<Path>,
    line: usize,
}

/// What is wrong with a file or with the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    path: Arc<Path>,
    line: Option<usize>,
    text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// `FILE:LINE: TEXT`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Reads all files, by name. Blocks, as files do.
pub(super) fn read(directory: &Path) -> Lists {
    let mut lists = Lists::default();
    let folder = directory.join("node");
    let mut paths = match yaml_files(&folder, &mut lists.faults) {
        Ok(paths) => paths,
        Err(error) => {
            let text = format!("cannot be read: {error}");
            lists.faults.push(Fault::of(&folder, None, text));
            return lists;
        }
    };
    paths.sort();
    if paths.is_empty() {
        let text = "no file *.yaml in it".to_owned();
        lists.faults.push(Fault::of(&folder, None, text));
    }
    for path in paths {
        lists.add(&path);
    }
    lists
}

/// As conftool-sync looks for them: `*.yaml`, none that begins with a dot.
fn yaml_files(folder: &Path, faults: &mut Vec<Fault>) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("yaml") if !hidden => found.push(path),
            // Meant to be read, as a rule; to pass it over would be to remove what it lists.
            Some("yml") if !hidden => {
                let text = "only *.yaml is read; rename it".to_owned();
                faults.push(Fault::of(&path, None, text));
            }
            Some(_) | None => {}
        }
    }
    Ok(found)
}

impl Lists {
    fn add(&mut self, path: &Path) {
        let mut file = Reading::new(path);
        match contents(path) {
            Ok(text) => file.text(&text),
            Err(error) => file.fault(None, format!("cannot be read: {error}")),
        }
        for (object, place) in &file.objects {
            if let Some(other) = self.objects.get(object) {
                let text = format!("{object} is also in {other}; leave one of them out");
                file.faults.push(Fault::of(path, Some(place.line), text));
            }
        }
        if file.faults.is_empty() {
            self.objects.append(&mut file.objects);
        } else {
            file.faults.sort_by_key(|fault| fault.line);
            self.faults.append(&mut file.faults);
        }
    }
}

fn contents(path: &Path) -> io::Result<String> {
    // A pipe that nobody writes to would never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    text::read(path, LARGEST)
}

impl Fault {
    fn of(path: &Path, line: Option<usize>, text: String) -> Fault {
        Fault {
            path: path.into(),
            line,
            text,
        }
    }
}

/// One file.
struct Reading {
    path: Arc<Path>,
    objects: BTreeMap<Object, Place>,
    faults: Vec<Fault>,
}

type Entries<'a, 'y> = Vec<(String, usize, &'a MarkedYaml<'y>)>;

impl Reading {
    fn new(path: &Path) -> Reading {
        Reading {
            path: path.into(),
            objects: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, line: Option<usize>, text: String) {
        self.faults.push(Fault {
            path: Arc::clone(&self.path),
            line,
            text,
        });
    }

    fn text(&mut self, text: &str) {
        let documents = match MarkedYaml::load_from_str(text) {
            Ok(documents) => documents,
            Err(error) => {
                let text = format!("not YAML: {}", error.info());
                return self.fault(Some(error.marker().line()), text);
            }
        };
        match &documents[..] {
            [] => self.fault(Some(1), EMPTY.to_owned()),
            [document] => self.document(document),
            [_, second, ..] => {
                let text = "a second document begins; write them into one".to_owned();
                self.fault(Some(second.span.start.line()), text);
            }
        }
        if self.objects.is_empty() && self.faults.is_empty() {
            self.fault(Some(1), EMPTY.to_owned());
        }
    }

    fn document(&mut self, document: &MarkedYaml<'_>) {
        if matches!(document.data, YamlData::Value(Scalar::Null)) {
            return self.fault(Some(1), EMPTY.to_owned());
        }
        for (dc, _, clusters) in self.tags(document, "data centre") {
            for (cluster, _, hosts) in self.tags(clusters, "cluster") {
                for (host, line, services) in self.entries(hosts, "host") {
                    self.host(&dc, &cluster, &host, line, services);
                }
            }
        }
    }

    fn host(
        &mut self,
        dc: &str,
        cluster: &str,
        host: &str,
        line: usize,
        services: &MarkedYaml<'_>,
    ) {
        let name = match host.parse::<Host>() {
            Ok(name) => name,
            Err(fault) => return self.fault(Some(line), fault.to_string()),
        };
        let YamlData::Sequence(services) = &services.data else {
            let text = format!(
                "{host}: expected a list of services, found {}; write [nginx], say",
                found(services)
            );
            return self.fault(Some(services.span.start.line()), text);
        };
        for service in services {
            let line = service.span.start.line();
            let Some(service) = self.tag(service, "service") else {
                continue;
            };
            // Its parts are good, so the whole is; a reading of our own that says otherwise is still told.
            let path = match format!("{dc}/{cluster}/{service}").parse::<PoolPath>() {
                Ok(path) => path,
                Err(fault) => {
                    self.fault(Some(line), fault.to_string());
                    continue;
                }
            };
            let file = Arc::clone(&self.path);
            match self.objects.entry(Object::new(&path, &name)) {
                Entry::Vacant(free) => {
                    free.insert(Place { file, line });
                }
                Entry::Occupied(_) => {
                    let text = format!("{host} has {service} twice; leave one of them out");
                    self.fault(Some(line), text);
                }
            }
        }
    }

    /// A mapping's entries by names that may stand in a key; there is at least one.
    fn tags<'a, 'y>(&mut self, node: &'a MarkedYaml<'y>, what: &str) -> Entries<'a, 'y> {
        let mut entries = self.entries(node, what);
        entries.retain(|(name, line, _)| {
            let good = is_tag(name);
            if !good {
                self.fault(Some(*line), not_a_name(what, name));
            }
            good
        });
        entries
    }

    /// A mapping's entries; there is at least one.
    fn entries<'a, 'y>(&mut self, node: &'a MarkedYaml<'y>, what: &str) -> Entries<'a, 'y> {
        let line = node.span.start.line();
        let YamlData::Mapping(mapping) = &node.data else {
            let found = found(node);
            let text = format!("expected a mapping with a {what} each, found {found}");
            self.fault(Some(line), text);
            return Vec::new();
        };
        if mapping.is_empty() {
            let text = format!("no {what}; leave the entry out if it shall have none");
            self.fault(Some(line), text);
        }
        let mut entries = Vec::new();
        for (key, value) in mapping {
            if let Some(name) = self.word(key, what) {
                entries.push((name, key.span.start.line(), value));
            }
        }
        entries
    }

    fn tag(&mut self, node: &MarkedYaml<'_>, what: &str) -> Option<String> {
        let name = self.word(node, what)?;
        if is_tag(&name) {
            return Some(name);
        }
        self.fault(Some(node.span.start.line()), not_a_name(what, &name));
        None
    }

    fn word(&mut self, node: &MarkedYaml<'_>, what: &str) -> Option<String> {
        let text = match &node.data {
            YamlData::Value(Scalar::String(text)) if text == "<<" => {
                "a merge (<<) is not followed; write the entries out".to_owned()
            }
            YamlData::Value(Scalar::String(text)) => return Some(text.clone().into_owned()),
            YamlData::Value(Scalar::Boolean(_) | Scalar::Integer(_) | Scalar::FloatingPoint(_)) => {
                format!(
                    "expected a {what}, found {}; write it in quotes",
                    found(node)
                )
            }
            YamlData::Value(Scalar::Null)
            | YamlData::Representation(..)
            | YamlData::Sequence(_)
            | YamlData::Mapping(_)
            | YamlData::Tagged(..)
            | YamlData::Alias(_)
            | YamlData::BadValue => format!("expected a {what}, found {}", found(node)),
        };
        self.fault(Some(node.span.start.line()), text);
        None
    }
}

const EMPTY: &str = "it lists nothing";

fn not_a_name(what: &str, name: &str) -> String {
    let shown: String = name.chars().take(60).collect();
    format!("{shown:?} is no {what}: 1 to 128 characters, no slash, no blank")
}

fn found(node: &MarkedYaml<'_>) -> String {
    match &node.data {
        YamlData::Value(Scalar::Null) => "nothing".to_owned(),
        YamlData::Value(Scalar::Boolean(value)) => value.to_string(),
        YamlData::Value(Scalar::Integer(value)) => format!("the number {value}"),
        YamlData::Value(Scalar::FloatingPoint(value)) => format!("the number {value}"),
        YamlData::Value(Scalar::String(text)) => {
            let shown: String = text.chars().take(60).collect();
            format!("{shown:?}")
        }
        YamlData::Sequence(_) => "a list".to_owned(),
        YamlData::Mapping(_) => "a mapping".to_owned(),
        YamlData::Tagged(..) | YamlData::BadValue | YamlData::Representation(..) => {
            "a value with a tag".to_owned()
        }
        YamlData::Alias(_) => "an alias".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> (Vec<String>, Vec<String>) {
        let mut file = Reading::new(Path::new("F"));
        file.text(text);
        file.faults.sort_by_key(|fault| fault.line);
        let objects = file.objects.keys().map(|object| object.to_string());
        let faults = file.faults.iter().map(|fault| fault.to_string());
        (objects.collect(), faults.collect())
    }

    fn check(text: &str, expected: &str) {
        let (_, faults) = listed(text);
        assert_eq!(faults.join("\n"), expected, "{text}");
    }

    #[test]
    fn conftools_form_is_read() {
        let text = "---
eqiad:
  cache_text:
    cp1065.eqiad.wmnet: [varnish-fe, nginx]
    cp1066.eqiad.wmnet: &both
      - nginx
      - varnish-fe
  cache_upload:
    cp1070.eqiad.wmnet: *both   # an alias
    cp1071.eqiad.wmnet: []
codfw: {cache_text: {'2001:db8::1': [nginx]}}
";
        let (objects, faults) = listed(text);
        assert_eq!(faults, [""; 0]);
        assert_eq!(
            objects,
            [
                "codfw/cache_text/nginx/2001:db8::1",
                "eqiad/cache_text/nginx/cp1065.eqiad.wmnet",
                "eqiad/cache_text/nginx/cp1066.eqiad.wmnet",
                "eqiad/cache_text/varnish-fe/cp1065.eqiad.wmnet",
                "eqiad/cache_text/varnish-fe/cp1066.eqiad.wmnet",
                "eqiad/cache_upload/nginx/cp1070.eqiad.wmnet",
                "eqiad/cache_upload/varnish-fe/cp1070.eqiad.wmnet",
            ]
        );
    }

    #[test]
    fn empty_says_so() {
        for empty in ["", "# nothing\n", "---\n", "a: {b: {c: []}}\n"] {
            check(empty, "F:1: it lists nothing");
        }
        check(
            "a:\n  b: {}\n",
            "F:2: no host; leave the entry out if it shall have none",
        );
        check(
            "a: {}\n",
            "F:1: no cluster; leave the entry out if it shall have none",
        );
        check(
            "{}",
            "F:1: no data centre; leave the entry out if it shall have none",
        );
    }

    #[test]
    fn what_is_not_yaml() {
        for (text, expected) in [
            ("a:\n  b: [\nc", "F:3: not YAML: "),
            ("a:\n\tb: c\n", "F:2: not YAML: "),
            (
                "a:\n b:\n  c: [x]\n  c: [y]\n",
                "F:4: not YAML: duplicated key in mapping",
            ),
            ("a: {b: {c: *d}}", "F:1: not YAML: "),
        ] {
            let (_, faults) = listed(text);
            assert!(faults.concat().starts_with(expected), "{text}: {faults:?}");
        }
        check(
            "a: {b: {c: [d]}}\n---\na: {b: {e: [f]}}\n",
            "F:3: a second document begins; write them into one",
        );
        let deep = "[".repeat(100_000);
        assert!(listed(&deep).1.concat().contains("not YAML"));
        let mut laughs = "a: &a0 [x]\n".to_owned();
        for n in 1..30 {
            laughs += &format!("b{n}: &a{n} [*a{0}, *a{0}]\n", n - 1);
        }
        assert!(listed(&laughs).1.concat().contains("not YAML"));
    }

    #[test]
    fn wrong_shapes_are_told_with_their_line() {
        check(
            "a: 1",
            "F:1: expected a mapping with a cluster each, found the number 1",
        );
        check(
            "- a",
            "F:1: expected a mapping with a data centre each, found a list",
        );
        check(
            "a:\n  b:\n    - c\n",
            "F:3: expected a mapping with a host each, found a list",
        );
        check(
            "a:\n  b:\n    c: nginx\n    d:\n      e: f\n    g: [h]\n",
            "F:3: c: expected a list of services, found \"nginx\"; write [nginx], say\n\
             F:5: d: expected a list of services, found a mapping; write [nginx], say",
        );
        check(
            "a:\n  b:\n    c:\n",
            "F:3: c: expected a list of services, found nothing; write [nginx], say",
        );
        check(
            "a:\n  b:\n    c: [d, 5, true, ~, [e], !!int f]\n",
            "F:3: expected a service, found the number 5; write it in quotes\n\
             F:3: expected a service, found true; write it in quotes\n\
             F:3: expected a service, found nothing\n\
             F:3: expected a service, found a list\n\
             F:3: expected a service, found a value with a tag",
        );
        check(
            "a:\n  b: &b\n    c: [d]\n  e:\n    <<: *b\n    f: [g]\n",
            "F:5: a merge (<<) is not followed; write the entries out",
        );
    }

    #[test]
    fn wrong_names_are_told_with_their_line() {
        check(
            "a/b:\n  c:\n    d: [e]\n",
            "F:1: \"a/b\" is no data centre: 1 to 128 characters, no slash, no blank",
        );
        check(
            "a:\n  b c:\n    d: [e]\n  f:\n    g: [h/i, '']\n",
            "F:2: \"b c\" is no cluster: 1 to 128 characters, no slash, no blank\n\
             F:5: \"h/i\" is no service: 1 to 128 characters, no slash, no blank\n\
             F:5: \"\" is no service: 1 to 128 characters, no slash, no blank",
        );
        check(
            "a:\n  b:\n    x/y: [c]\n",
            "F:3: a server's name must be 1 to 253 characters out of letters, digits, '.', '_', '-', ':', '[' and ']', \
             not \"x/y\"",
        );
        check(
            "a:\n  b:\n    c: [d, e, d]\n",
            "F:3: c has d twice; leave one of them out",
        );
    }

    fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("node")).unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join("node").join(name), text).unwrap();
        }
        directory
    }

    fn faults(lists: &Lists, directory: &Path) -> String {
        let folder = directory.join("node").display().to_string();
        let said = lists.faults.iter().map(|fault| fault.to_string());
        said.collect::<Vec<_>>().join("\n").replace(&folder, "NODE")
    }

    #[test]
    fn a_faulty_file_counts_for_nothing_and_the_others_do() {
        let directory = files(&[
            ("codfw.yaml", "codfw: {c: {h1: [s], h2: [s/t]}}\n"),
            ("eqiad.yaml", "eqiad: {c: {h1: [s]}}\n"),
            ("more.yaml", "# eqiad again\neqiad: {c: {h2: [s]}}\n"),
            ("twice.yaml", "# and again\neqiad: {c: {h2: [s]}}\n"),
            ("drmrs.yml", "drmrs: {c: {h1: [s]}}\n"),
            (".hidden.yaml", "{"),
            ("eqiad.yaml~", "{"),
            ("README", "{"),
        ]);
        let bad = directory.path().join("node/latin.yaml");
        std::fs::write(bad, b"\xe4: {b: {c: [d]}}").unwrap();
        std::fs::create_dir(directory.path().join("node/folder.yaml")).unwrap();
        let lists = read(directory.path());
        let objects: Vec<_> = lists.objects.keys().map(|o| o.to_string()).collect();
        assert_eq!(objects, ["eqiad/c/s/h1", "eqiad/c/s/h2"]);
        assert_eq!(
            faults(&lists, directory.path()),
            "NODE/drmrs.yml: only *.yaml is read; rename it
NODE/codfw.yaml:1: \"s/t\" is no service: 1 to 128 characters, no slash, no blank
NODE/folder.yaml: cannot be read: it is not a file
NODE/latin.yaml: cannot be read: it is not UTF-8
NODE/twice.yaml:2: eqiad/c/s/h2 is also in NODE/more.yaml:2; leave one of them out"
        );
    }

    #[test]
    fn a_directory_without_files_is_a_fault() {
        let directory = files(&[]);
        assert_eq!(
            faults(&read(directory.path()), directory.path()),
            "NODE: no file *.yaml in it"
        );
        let said = faults(&read(&directory.path().join("none")), directory.path());
        assert!(
            said.contains("none/node: cannot be read: No such file"),
            "{said}"
        );
    }
}
