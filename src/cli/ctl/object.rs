//! One object of etcd: a node's value and the lease over it, what is in force of them, what is told of
//! it, and what a change makes of it. Pure.

use std::fmt;

use serde_json::{Map, Value};

use super::action::Assignment;
use crate::conftool::{BadNode, Lease, Node, PoolPath, Pooled};

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) value: Vec<u8>,
    /// etcd's `mod_revision`.
    pub(super) revision: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) pool: PoolPath,
    pub(super) name: String,
    pub(super) node: Option<Stored>,
    pub(super) lease: Option<Stored>,
}

/// What counts now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InForce {
    pub(super) node: Node,
    /// When the lease ends that it comes from.
    pub(super) until: Option<String>,
}

/// What a command makes of an object's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// In the order in which they are told.
    pub(super) assignments: Vec<Assignment>,
    /// `None`: the old one is dropped.
    pub(super) reason: Option<String>,
    /// The depool guard shall let it go.
    pub(super) force: bool,
    /// The change is a lease, and so ends then.
    pub(super) until: Option<String>,
}

/// A changed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// What counts then.
    pub(super) node: Node,
    /// The new text of the node or of the lease; `None`: it is already so.
    pub(super) value: Option<String>,
    /// confctl's line for each member that is another one then.
    pub(super) lines: Vec<String>,
}

/// Why an object cannot be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadObject {
    #[error("there is no {0}")]
    None(String),
    #[error("{object}")]
    Value {
        object: String,
        #[source]
        cause: BadNode,
    },
}

/// `DC/CLUSTER/SERVICE/NAME`.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

impl Object {
    pub(super) fn in_force(&self) -> Result<InForce, BadObject> {
        if let Some(Lease { node, until }) = self.lease_in_force() {
            let until = Some(until);
            return Ok(InForce { node, until });
        }
        let stored = self.stored()?;
        let node = Node::parse(&stored.value).map_err(|cause| self.bad(cause))?;
        Ok(InForce { node, until: None })
    }

    /// The lease, if it is younger than the node's last write.
    fn lease_in_force(&self) -> Option<Lease> {
        let (node, lease) = (self.node.as_ref()?, self.lease.as_ref()?);
        if lease.revision > node.revision {
            Lease::parse(&lease.value).ok()
        } else {
            None
        }
    }

    /// confctl's line of `get`, with a reason and an end if there are such.
    pub(super) fn line(&self, in_force: &InForce) -> String {
        let [dc, cluster, service] = self.pool.tags();
        let name = Value::from(&*self.name);
        let tags = Value::from(format!("dc={dc},cluster={cluster},service={service}"));
        let value = in_force.json();
        format!("{{{name}: {value}, \"tags\": {tags}}}")
    }

    /// What becomes of it. Members that the change does not name stay as they are; so do those that
    /// others have added to the value.
    ///
    /// A lease over it is over with a plain change: one that names `pooled` starts from the node's own
    /// value, so that what the lease drained is not left drained; one that does not starts from what the
    /// lease says, so that a server that is out for a while is not pooled by a change of its weight.
    pub(super) fn change(&self, change: &Change) -> Result<Changed, BadObject> {
        let stored = self.stored()?;
        let before = self.in_force();
        let mut members = self.members(stored, change)?;
        let names_pooled = change.assignments.iter().any(|a| a.member() == "pooled");
        if let (Some(lease), false) = (self.lease_in_force(), names_pooled) {
            members.insert("weight".into(), lease.node.weight.get().into());
            members.insert("pooled".into(), lease.node.pooled.name().into());
        }
        for assignment in &change.assignments {
            let value = match assignment {
                Assignment::Weight(weight) => weight.get().into(),
                Assignment::Pooled(pooled) => pooled.name().into(),
            };
            members.insert(assignment.member().into(), value);
        }
        let raw = Value::Object(members.clone()).to_string();
        let mut node = Node::parse(raw.as_bytes()).map_err(|cause| self.bad(cause))?;
        node.reason.clone_from(&change.reason);
        node.confirmed = confirmed(before.as_ref().ok(), &node, change.force);
        let lines = self.lines(before.as_ref().ok(), &node, change);
        let text = match &change.until {
            Some(until) => Lease {
                node: node.clone(),
                until: until.clone(),
            }
            .to_string(),
            None => with_others(&node, members),
        };
        let value = (!self.has(&text, change.until.is_some())).then_some(text);
        Ok(Changed { node, value, lines })
    }

    /// The node's JSON members. A value that is no object is nothing, which is enough for a change that
    /// names all that a node needs.
    fn members(&self, stored: &Stored, change: &Change) -> Result<Map<String, Value>, BadObject> {
        match serde_json::from_slice(&stored.value) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(_) | Err(_) if change.assignments.len() == 2 => Ok(Map::new()),
            Ok(_) | Err(_) => {
                let fault = "not a JSON object; set weight and pooled to write it anew".to_owned();
                Err(self.bad(BadNode::Json { fault }))
            }
        }
    }

    /// Whether nothing needs to be written.
    fn has(&self, text: &str, as_lease: bool) -> bool {
        let same = |stored: &Option<Stored>| {
            stored
                .as_ref()
                .is_some_and(|stored| same_json(&stored.value, text.as_bytes()))
        };
        if as_lease {
            self.lease_in_force().is_some() && same(&self.lease)
        } else {
            self.lease.is_none() && same(&self.node)
        }
    }

    fn lines(&self, before: Option<&InForce>, after: &Node, change: &Change) -> Vec<String> {
        let until = match &change.until {
            Some(until) => format!(" until {until}"),
            None => String::new(),
        };
        let pair = |member: &str| match member {
            "weight" => (
                before.map(|b| b.node.weight.to_string()),
                after.weight.to_string(),
            ),
            _ => (
                before.map(|b| b.node.pooled.to_string()),
                after.pooled.to_string(),
            ),
        };
        // Those that were said, in their order; then what the end of a lease brings back.
        let said: Vec<&str> = change.assignments.iter().map(|a| a.member()).collect();
        let unsaid = ["pooled", "weight"]
            .into_iter()
            .filter(|m| !said.contains(m));
        let line = |member: &str| {
            let (old, new) = pair(member);
            let old = old.unwrap_or_else(|| "none".to_owned());
            (old != new).then(|| format!("{self}: {member} changed {old} => {new}{until}"))
        };
        said.iter()
            .copied()
            .chain(unsaid)
            .filter_map(line)
            .collect()
    }

    fn stored(&self) -> Result<&Stored, BadObject> {
        self.node
            .as_ref()
            .ok_or_else(|| BadObject::None(self.to_string()))
    }

    fn bad(&self, cause: BadNode) -> BadObject {
        BadObject::Value {
            object: self.to_string(),
            cause,
        }
    }
}

impl InForce {
    /// As confctl tells it; `reason` and `until` if there are such.
    pub(super) fn json(&self) -> String {
        let node = Node {
            confirmed: false,
            ..self.node.clone()
        };
        match self.until.clone() {
            None => node.to_string(),
            Some(until) => Lease { node, until }.to_string(),
        }
    }
}

/// An earlier confirmation stands for as long as the server stays out.
fn confirmed(before: Option<&InForce>, after: &Node, force: bool) -> bool {
    let out = |node: &Node| node.pooled != Pooled::Yes;
    let leaves = out(after) || after.weight.get() == 0;
    let stands = before.is_some_and(|before| before.node.confirmed && out(&before.node));
    (force && leaves) || (stands && out(after))
}

/// The node's text with what others have added.
fn with_others(node: &Node, members: Map<String, Value>) -> String {
    let mut text = node.to_string();
    for (name, value) in members {
        if !["weight", "pooled", "reason", "confirmed"].contains(&&*name) {
            // The node's text is an object's, and closes.
            text.pop();
            text += &format!(", {}: {value}}}", Value::from(name));
        }
    }
    text
}

fn same_json(one: &[u8], other: &[u8]) -> bool {
    let read = |text| serde_json::from_slice::<Value>(text).ok();
    read(one).is_some_and(|one| read(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ctl::action::Action;

    fn stored(value: &str, revision: i64) -> Option<Stored> {
        let value = value.as_bytes().to_vec();
        Some(Stored { value, revision })
    }

    fn object(value: &str) -> Object {
        Object {
            pool: "eqiad/bar/foo".parse().unwrap(),
            name: "srv1".into(),
            node: stored(value, 5),
            lease: None,
        }
    }

    fn set(text: &str) -> Change {
        let Action::Set(assignments) = Action::parse(text).unwrap() else {
            panic!("{text} sets nothing");
        };
        Change {
            assignments,
            reason: None,
            force: false,
            until: None,
        }
    }

    const YES: &str = r#"{"weight": 10, "pooled": "yes"}"#;
    const UNTIL: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn get_is_confctls_line() {
        let mut object = object(r#"{"pooled": "no", "weight": 3, "x": 1}"#);
        let tags = r#""tags": "dc=eqiad,cluster=bar,service=foo"}"#;
        let check = |object: &Object, expected: &str| {
            let expected = format!("{{\"srv1\": {expected}, {tags}");
            assert_eq!(object.line(&object.in_force().unwrap()), expected);
        };
        check(&object, r#"{"weight": 3, "pooled": "no"}"#);
        object.node = stored(
            r#"{"weight": 3, "pooled": "no", "reason": "T\"1", "confirmed": true}"#,
            5,
        );
        check(
            &object,
            r#"{"weight": 3, "pooled": "no", "reason": "T\"1"}"#,
        );
        let lease = r#"{"weight": 3, "pooled": "yes", "reason": "T2", "until": "soon"}"#;
        object.lease = stored(lease, 6);
        check(&object, lease);
        // The node was written after it.
        object.lease = stored(lease, 5);
        check(
            &object,
            r#"{"weight": 3, "pooled": "no", "reason": "T\"1"}"#,
        );
        object.node = stored("broken", 5);
        assert!(object.in_force().is_err());
        object.node = None;
        assert_eq!(
            object.in_force().unwrap_err().to_string(),
            "there is no eqiad/bar/foo/srv1"
        );
    }

    #[test]
    fn a_change_names_each_changed_member() {
        let check = |value: &str, action: &str, after: Option<&str>, lines: &[&str]| {
            let changed = object(value).change(&set(action)).unwrap();
            assert_eq!(changed.value.as_deref(), after, "{value} {action}");
            assert_eq!(changed.lines, lines, "{value} {action}");
        };
        check(
            YES,
            "set/pooled=no",
            Some(r#"{"weight": 10, "pooled": "no"}"#),
            &["eqiad/bar/foo/srv1: pooled changed yes => no"],
        );
        check(
            YES,
            "set/weight=7:pooled=no",
            Some(r#"{"weight": 7, "pooled": "no"}"#),
            &[
                "eqiad/bar/foo/srv1: weight changed 10 => 7",
                "eqiad/bar/foo/srv1: pooled changed yes => no",
            ],
        );
        check(YES, "set/pooled=yes", None, &[]);
        check(
            r#"{"pooled":"yes","weight":10}"#,
            "set/weight=10",
            None,
            &[],
        );
        // What others have added stays; an old reason does not.
        check(
            r#"{"pooled": "yes", "a": [1, "x"], "weight": 10, "reason": "old"}"#,
            "set/weight=10",
            Some(r#"{"weight": 10, "pooled": "yes", "a": [1,"x"]}"#),
            &[],
        );
        // A value that is none can be written anew, whole.
        check(
            "broken",
            "set/pooled=no:weight=1",
            Some(r#"{"weight": 1, "pooled": "no"}"#),
            &[
                "eqiad/bar/foo/srv1: pooled changed none => no",
                "eqiad/bar/foo/srv1: weight changed none => 1",
            ],
        );
        check(
            r#"{"pooled": "yes"}"#,
            "set/weight=1",
            Some(r#"{"weight": 1, "pooled": "yes"}"#),
            &[
                "eqiad/bar/foo/srv1: weight changed none => 1",
                "eqiad/bar/foo/srv1: pooled changed none => yes",
            ],
        );
    }

    #[test]
    fn half_a_change_of_a_broken_value_is_refused() {
        for value in ["broken", "[]", r#"{"weight": -1, "pooled": "yes"}"#] {
            let fault = object(value).change(&set("set/pooled=no")).unwrap_err();
            assert!(matches!(fault, BadObject::Value { .. }), "{value}");
        }
        let nothing = Object {
            node: None,
            ..object(YES)
        };
        let fault = nothing.change(&set("set/pooled=no:weight=1"));
        assert!(matches!(fault, Err(BadObject::None(_))));
    }

    #[test]
    fn a_lease_is_written_over_the_node() {
        let change = Change {
            until: Some(UNTIL.into()),
            reason: Some("T1".into()),
            ..set("set/pooled=no")
        };
        let mut object = object(YES);
        let changed = object.change(&change).unwrap();
        let value =
            r#"{"weight": 10, "pooled": "no", "reason": "T1", "until": "2026-01-01T00:00:00Z"}"#;
        assert_eq!(changed.value.as_deref(), Some(value));
        let line = "eqiad/bar/foo/srv1: pooled changed yes => no until 2026-01-01T00:00:00Z";
        assert_eq!(changed.lines, [line]);
        object.lease = stored(value, 6);
        assert_eq!(object.change(&change).unwrap().value, None);
        // One that no longer counts has to be written again.
        object.lease = stored(value, 4);
        assert_eq!(
            object.change(&change).unwrap().value.as_deref(),
            Some(value)
        );
    }

    #[test]
    fn a_plain_change_ends_the_lease() {
        let mut object = object(YES);
        let check = |object: &Object, action: &str, after: &str, lines: &[&str]| {
            let changed = object.change(&set(action)).unwrap();
            assert_eq!(changed.value.as_deref(), Some(after), "{action}");
            assert_eq!(changed.lines, lines, "{action}");
        };
        object.lease = stored(r#"{"weight": 10, "pooled": "no", "until": "soon"}"#, 6);
        check(
            &object,
            "set/pooled=yes",
            YES,
            &["eqiad/bar/foo/srv1: pooled changed no => yes"],
        );
        check(
            &object,
            "set/weight=5",
            r#"{"weight": 5, "pooled": "no"}"#,
            &["eqiad/bar/foo/srv1: weight changed 10 => 5"],
        );
        object.lease = stored(r#"{"weight": 0, "pooled": "yes", "until": "soon"}"#, 6);
        check(
            &object,
            "set/pooled=yes",
            YES,
            &["eqiad/bar/foo/srv1: weight changed 0 => 10"],
        );
        check(
            &object,
            "set/weight=5",
            r#"{"weight": 5, "pooled": "yes"}"#,
            &["eqiad/bar/foo/srv1: weight changed 0 => 5"],
        );
    }

    #[test]
    fn a_confirmation_stands_until_the_server_is_back() {
        let check = |value: &str, action: &str, force: bool, expected: bool| {
            let change = Change {
                force,
                ..set(action)
            };
            let node = object(value).change(&change).unwrap().node;
            assert_eq!(node.confirmed, expected, "{value} {action} {force}");
        };
        let out = r#"{"weight": 10, "pooled": "no", "confirmed": true}"#;
        check(YES, "set/pooled=no", false, false);
        check(YES, "set/pooled=no", true, true);
        check(YES, "set/weight=0", true, true);
        check(YES, "set/weight=5", true, false);
        check(out, "set/weight=5", false, true);
        check(out, "set/pooled=inactive", false, true);
        check(out, "set/pooled=yes", false, false);
        check(out, "set/pooled=yes", true, false);
    }
}
