//! The layer rule of `lib.rs`: who may import whom. Reads the sources; runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

const WORDS: &[&str] = &[
    "service", "check", "routing", "secret", "conftool", "config", "event", "snapshot",
];
const DECISIONS: &[&str] = &["pool", "balancer"];
const TOOLS: &[&str] = &[
    "backoff", "chain", "etcd", "history", "rtnl", "state", "sysctl", "table",
];
const EDGES: &[&str] = &[
    "source",
    "resolver",
    "monitor",
    "overrides",
    "ipvs",
    "bgp",
    "address",
    "api",
    "fleet",
    "realserver",
];

/// The modules of this crate that a module of the given name may use, itself aside.
fn allowed(module: &str) -> Option<BTreeSet<&'static str>> {
    let words = || WORDS.iter().copied();
    Some(match module {
        _ if WORDS.contains(&module) => words().collect(),
        _ if TOOLS.contains(&module) => words().collect(),
        "pool" => words().collect(),
        "balancer" => words().chain(["pool"]).collect(),
        _ if EDGES.contains(&module) => words().chain(TOOLS.iter().copied()).collect(),
        "control" => words().chain(["balancer"]).collect(),
        // The wiring imports anything. The doctor looks at what several edges work on, and none of them at it.
        "daemon" | "doctor" | "cli" | "main" | "lib" => return None,
        other => panic!("src/{other}.rs is in no layer: name it here and in lib.rs"),
    })
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (module, files) in modules() {
        let Some(allowed) = allowed(&module) else {
            continue;
        };
        for file in files {
            for used in uses(&file) {
                if used != module && !allowed.contains(used.as_str()) {
                    wrong.push(format!("{} uses crate::{used}", file.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the layer rule:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn decisions_do_not_wait_or_look_at_the_world() {
    let forbidden = [
        "tokio",
        "hyper",
        "fastrand",
        "socket2",
        "nix",
        "libc",
        "rtnetlink",
    ];
    let std_forbidden = ["fs", "process", "thread", "env"];
    for (module, files) in modules()
        .into_iter()
        .filter(|(module, _)| DECISIONS.contains(&module.as_str()))
    {
        for file in files {
            let syntax = parse(&file);
            let mut found = Paths::default();
            found.visit_file(&syntax);
            for path in &found.paths {
                let first = path.first().map_or("", String::as_str);
                let second = path.get(1).map_or("", String::as_str);
                assert!(
                    !forbidden.contains(&first),
                    "{module}: {} uses {first}",
                    file.display()
                );
                let std_bad = first == "std" && std_forbidden.contains(&second);
                assert!(!std_bad, "{module}: {} uses std::{second}", file.display());
            }
            assert_eq!(found.asyncs, 0, "{} has an async fn", file.display());
        }
    }
}

#[test]
fn each_file_says_what_it_is() {
    for file in modules().into_values().flatten() {
        let text = std::fs::read_to_string(&file).expect("a source file");
        assert!(
            text.starts_with("//!"),
            "{} does not open with what it is",
            file.display()
        );
    }
}

#[test]
fn the_map_names_every_module() {
    let map = std::fs::read_to_string(src().join("lib.rs")).expect("lib.rs");
    for module in modules().into_keys().filter(|m| m != "main" && m != "lib") {
        assert!(
            map.contains(&format!("mod {module};")),
            "lib.rs does not know {module}"
        );
    }
}

/// `src/bgp/rfc.md`: a row a rule, with the tests that hold it.
#[test]
fn the_table_of_rfcs_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(src().join("bgp/rfc.md")).expect("the table");
    let files = modules().remove("bgp").expect("src/bgp");
    let ours: BTreeSet<String> = files.iter().flat_map(|file| tests(&parse(file))).collect();
    let mut missing = Vec::new();
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_rfc, _section, _what, names] = cells[..] else {
            panic!("not four cells: {row}");
        };
        rows += 1;
        for name in names.split(", ").map(|name| name.trim_matches('`')) {
            let there = match name.split_once(": ") {
                Some((file, name)) => {
                    let file = root.join(file);
                    file.exists() && tests(&parse(&file)).contains(name)
                }
                None => ours.contains(name),
            };
            if !there {
                missing.push(name);
            }
        }
    }
    assert!(rows > 30, "{rows} rows");
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

/// The names of all functions of a file with an attribute that makes them a test, also in `proptest!`.
fn tests(file: &syn::File) -> BTreeSet<String> {
    let mut found = Tests::default();
    found.visit_file(file);
    found.0
}

#[derive(Default)]
struct Tests(BTreeSet<String>);

impl<'ast> Visit<'ast> for Tests {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let is_test = |attribute: &syn::Attribute| {
            let path = attribute.path().segments.last();
            path.is_some_and(|last| last.ident == "test")
        };
        if function.attrs.iter().any(is_test) {
            self.0.insert(function.sig.ident.to_string());
        }
    }

    fn visit_macro(&mut self, of: &'ast syn::Macro) {
        if of.path.is_ident("proptest") {
            let text = of.tokens.to_string();
            let functions = text.split("# [test]").skip(1);
            let name =
                |after: &str| Some(after.split_once("fn ")?.1.split_once('(')?.0.trim().into());
            self.0.extend(functions.filter_map(name));
        }
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Top-level modules with all their files.
fn modules() -> BTreeMap<String, Vec<PathBuf>> {
    let mut modules: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut folders = vec![src()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src") {
            let path = entry.expect("an entry of src").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(src()).expect("in src").with_extension("");
                let top = inside
                    .iter()
                    .next()
                    .expect("a file")
                    .to_string_lossy()
                    .into_owned();
                modules.entry(top).or_default().push(path);
            }
        }
    }
    modules
}

fn parse(file: &Path) -> syn::File {
    let text = std::fs::read_to_string(file).expect("a source file");
    syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The crate's own top-level modules that a file names, by `crate::`.
fn uses(file: &Path) -> BTreeSet<String> {
    let mut found = Paths::default();
    found.visit_file(&parse(file));
    let of_crate = |path: &Vec<String>| (path.first()? == "crate").then(|| path.get(1).cloned())?;
    let own: BTreeSet<String> = modules().into_keys().collect();
    found
        .paths
        .iter()
        .filter_map(of_crate)
        .filter(|name| own.contains(name))
        .collect()
}

/// Every path in a file, `use` trees spread out.
#[derive(Default)]
struct Paths {
    paths: Vec<Vec<String>>,
    asyncs: usize,
}

impl Paths {
    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.paths.push(with(&name.ident)),
            syn::UseTree::Rename(name) => self.paths.push(with(&name.ident)),
            syn::UseTree::Glob(_) => self.paths.push(before.to_vec()),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.tree(before, tree))
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths
            .push(path.segments.iter().map(|s| s.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.asyncs += usize::from(signature.asyncness.is_some());
        syn::visit::visit_signature(self, signature);
    }
}
