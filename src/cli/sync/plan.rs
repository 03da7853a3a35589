//! What to change so that etcd has the objects that are listed, and no others. Pure: (listed, there) → changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::object::Object;
use crate::conftool::{Node, Pooled};

/// An object as etcd has it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) value: Vec<u8>,
    pub(super) mod_revision: i64,
}

/// What may be done about objects that are no longer listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Nothing: a file is faulty, so nobody knows what is listed.
    Never,
    /// All but the last servers of a pool that are pooled.
    Guarded,
    /// All: the operator said so.
    Forced,
}

/// One change. Holds what it was reckoned from, so that it can be refused if that is no longer so.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create(Object),
    Remove(Object, Found),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What is new, by name; then what goes, by name. So a server that changes its name is there before it is
    /// gone.
    pub(super) changes: Vec<Change>,
    /// Objects that are listed and there.
    pub(super) unchanged: usize,
    /// No longer listed and kept, since a file is faulty.
    pub(super) kept: Vec<Object>,
    /// By pool: no longer listed and kept, since nothing pooled would be left.
    pub(super) held: BTreeMap<String, Vec<Object>>,
}

impl Change {
    pub(super) fn object(&self) -> &Object {
        match self {
            Change::Create(object) | Change::Remove(object, _) => object,
        }
    }

    /// How it is told; `done` or only planned.
    pub(super) fn told(&self, done: bool) -> String {
        let would = if done { "" } else { "would be " };
        match self {
            Change::Create(object) => format!("{object}: {would}created, weight 0, inactive"),
            Change::Remove(object, found) => format!("{object}: {would}removed, {found}"),
        }
    }
}

/// What it was.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Node::parse(&self.value) {
            Ok(node) => write!(f, "was weight {}, pooled {}", node.weight, node.pooled),
            Err(_) => f.write_str("was no node"),
        }
    }
}

pub(super) fn plan(
    listed: &BTreeSet<Object>,
    there: &BTreeMap<Object, Found>,
    removal: Removal,
) -> Plan {
    let mut plan = Plan::default();
    let new = listed.iter().filter(|object| !there.contains_key(object));
    plan.changes.extend(new.cloned().map(Change::Create));
    plan.unchanged = listed.len() - plan.changes.len();
    let gone = there.iter().filter(|(object, _)| !listed.contains(object));
    if removal == Removal::Never {
        plan.kept.extend(gone.map(|(object, _)| object.clone()));
        return plan;
    }
    let staying = pools_that_stay(listed, there);
    for (object, found) in gone {
        let last = may_serve(found) && !staying.contains(object.pool());
        if last && removal == Removal::Guarded {
            let held = plan.held.entry(object.pool().to_owned()).or_default();
            held.push(object.clone());
        } else {
            let (object, found) = (object.clone(), found.clone());
            plan.changes.push(Change::Remove(object, found));
        }
    }
    plan
}

/// The pools of which a server that is pooled stays listed.
fn pools_that_stay<'a>(
    listed: &BTreeSet<Object>,
    there: &'a BTreeMap<Object, Found>,
) -> BTreeSet<&'a str> {
    let stays = |(object, found): &(&Object, &Found)| {
        listed.contains(object) && pooled(found) == Some(Pooled::Yes)
    };
    let pools = there.iter().filter(stays);
    pools.map(|(object, _)| object.pool()).collect()
}

/// A value that cannot be read leaves a server in the balancers' pools if it was there.
fn may_serve(found: &Found) -> bool {
    match pooled(found) {
        Some(Pooled::No | Pooled::Inactive) => false,
        Some(Pooled::Yes) | None => true,
    }
}

fn pooled(found: &Found) -> Option<Pooled> {
    Node::parse(&found.value).ok().map(|node| node.pooled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YES: &str = r#"{"weight": 10, "pooled": "yes"}"#;
    const NO: &str = r#"{"weight": 10, "pooled": "no"}"#;
    const BAD: &str = "{";

    /// The plan's lines: changes, then what was kept, then what was held.
    fn planned(listed: &[&str], there: &[(&str, &str)], removal: Removal) -> Vec<String> {
        let object = |text: &&str| Object::found(text).unwrap();
        let listed: BTreeSet<_> = listed.iter().map(object).collect();
        let found = |(text, value): &(&str, &str)| {
            let value = value.as_bytes().to_owned();
            let mod_revision = 1;
            let found = Found {
                value,
                mod_revision,
            };
            (object(text), found)
        };
        let there: BTreeMap<_, _> = there.iter().map(found).collect();
        let plan = plan(&listed, &there, removal);
        let known = listed.iter().filter(|o| there.contains_key(o)).count();
        assert_eq!(plan.unchanged, known);
        let changes = plan.changes.iter().map(|change| change.told(false));
        let kept = plan.kept.iter().map(|object| format!("kept {object}"));
        let held = plan.held.values().flatten();
        let held = held.map(|object| format!("held {object}"));
        changes.chain(kept).chain(held).collect()
    }

    #[test]
    fn new_ones_come_and_others_go() {
        assert_eq!(
            planned(
                &["a/b/c/1", "a/b/c/4", "a/b/d/1"],
                &[
                    ("a/b/c/1", YES),
                    ("a/b/c/2", YES),
                    ("a/b/c/3", NO),
                    ("a/b/c/5", BAD)
                ],
                Removal::Guarded
            ),
            [
                "a/b/c/4: would be created, weight 0, inactive",
                "a/b/d/1: would be created, weight 0, inactive",
                "a/b/c/2: would be removed, was weight 10, pooled yes",
                "a/b/c/3: would be removed, was weight 10, pooled no",
                "a/b/c/5: would be removed, was no node",
            ]
        );
    }

    #[test]
    fn nothing_goes_while_a_file_is_faulty() {
        assert_eq!(
            planned(
                &["a/b/c/1"],
                &[("a/b/c/2", YES), ("a/b/c/3", NO)],
                Removal::Never
            ),
            [
                "a/b/c/1: would be created, weight 0, inactive",
                "kept a/b/c/2",
                "kept a/b/c/3"
            ]
        );
    }

    /// All servers renamed by one slip: the new ones are inactive, the old ones would be gone.
    #[test]
    fn the_last_pooled_servers_stay_unless_forced() {
        let listed = ["a/b/c/1x", "a/b/c/2x", "a/b/c/3"];
        let there = [
            ("a/b/c/1", YES),
            ("a/b/c/2", BAD),
            ("a/b/c/3", NO),
            ("a/b/c/4", NO),
            ("a/b/d/4", NO),
        ];
        let created = |host: &str| format!("a/b/c/{host}: would be created, weight 0, inactive");
        let removed = |host: &str, was: &str| format!("a/b/{host}: would be removed, was {was}");
        let off = "weight 10, pooled no";
        assert_eq!(
            planned(&listed, &there, Removal::Guarded),
            [
                created("1x"),
                created("2x"),
                removed("c/4", off),
                removed("d/4", off),
                "held a/b/c/1".to_owned(),
                "held a/b/c/2".to_owned(),
            ]
        );
        assert_eq!(
            planned(&listed, &there, Removal::Forced),
            [
                created("1x"),
                created("2x"),
                removed("c/1", "weight 10, pooled yes"),
                removed("c/2", "no node"),
                removed("c/4", off),
                removed("d/4", off),
            ]
        );
    }
}
