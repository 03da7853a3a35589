//! The little YAML that confctl speaks: a node's members in a file or an editor, and lists to be read by
//! people. Written by hand, read by a library, YAML 1.2: `yes` and `no` are texts.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use saphyr::{LoadableYamlNode, Scalar, Yaml};

use super::action::{Assignment, BadMember};
use super::object::InForce;
use crate::cli::text;
use crate::conftool::Node;

/// A node is a few members.
const LARGEST: usize = 64 * 1024;

/// What a text says of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// In the text's order.
    pub(super) assignments: Vec<Assignment>,
    pub(super) reason: Option<String>,
}

/// Why a text says nothing of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadYaml {
    #[error("not YAML: {0}")]
    Syntax(String),
    #[error("expected one mapping, like pooled: 'no'")]
    NoMapping,
    #[error(transparent)]
    Member(#[from] BadMember),
    #[error("reason is no text")]
    Reason,
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    text::read(path, LARGEST)
}

pub(super) fn members(text: &str) -> Result<Members, BadYaml> {
    let documents = Yaml::load_from_str(text);
    let documents = documents.map_err(|fault| BadYaml::Syntax(fault.to_string()))?;
    let [Yaml::Mapping(mapping)] = &documents[..] else {
        return Err(BadYaml::NoMapping);
    };
    let mut members = Members::default();
    for (key, value) in mapping {
        let Some(key) = key.as_str() else {
            return Err(BadMember::Unknown(shown(key)).into());
        };
        if key == "reason" {
            let reason = value.as_str().ok_or(BadYaml::Reason)?;
            members.reason = Some(reason.to_owned());
        } else {
            let assignment = Assignment::parse(key, &shown(value))?;
            members.assignments.push(assignment);
        }
    }
    Ok(members)
}

/// A scalar's text as it would be said on the command line; what is none cannot be mistaken for one.
fn shown(value: &Yaml<'_>) -> String {
    match value {
        Yaml::Value(Scalar::String(text)) => text.to_string(),
        Yaml::Value(Scalar::Integer(number)) => number.to_string(),
        Yaml::Value(Scalar::FloatingPoint(number)) => format!("{:?}", number.into_inner()),
        Yaml::Value(Scalar::Boolean(value)) => value.to_string(),
        Yaml::Value(Scalar::Null) => "null".to_owned(),
        Yaml::Sequence(_) => "[…]".to_owned(),
        Yaml::Mapping(_) => "{…}".to_owned(),
        Yaml::Representation(..) | Yaml::Tagged(..) | Yaml::Alias(_) | Yaml::BadValue => {
            "unreadable".to_owned()
        }
    }
}

/// One member of a mapping: an object's name and what counts of it.
pub(super) fn object(name: &str, in_force: &InForce) -> String {
    let mut text = format!("{}:", scalar(name));
    for line in lines(&in_force.node, in_force.until.as_deref()) {
        text += &format!("\n  {line}");
    }
    text
}

/// A node's members by name, each a line.
pub(super) fn lines(node: &Node, until: Option<&str>) -> Vec<String> {
    let Node {
        weight,
        pooled,
        reason,
        confirmed: _,
    } = node;
    let member = |name, value| format!("{name}: {}", scalar(value));
    let mut lines = vec![member("pooled", pooled.name())];
    lines.extend(reason.iter().map(|reason| member("reason", reason)));
    lines.extend(until.map(|until| member("until", until)));
    lines.push(format!("weight: {weight}"));
    lines
}

/// A mapping of lists.
pub(super) fn lists(lists: &BTreeMap<&str, Vec<&str>>) -> String {
    let mut lines = Vec::new();
    for (name, items) in lists {
        lines.push(format!("{}:", scalar(name)));
        lines.extend(items.iter().map(|item| format!("- {}", scalar(item))));
    }
    lines.join("\n")
}

/// A text as a scalar that every YAML reads as this text, in quotes only where it needs them.
pub(super) fn scalar(text: &str) -> String {
    /// What YAML 1.1 takes for a truth value or for nothing, in any case.
    const WORDS: [&str; 9] = ["yes", "no", "on", "off", "true", "false", "null", "y", "n"];
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain) && !word {
        text.to_owned()
    } else if text.contains(char::is_control) {
        // JSON's texts are YAML's.
        serde_json::Value::from(text).to_string()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read() {
        let read =
            members("# a comment\nweight: \"12\"\npooled: no\nreason: 'T1: disk'\n").unwrap();
        assert_eq!(
            read.assignments[0],
            Assignment::parse("weight", "12").unwrap()
        );
        assert_eq!(read.assignments[1], Assignment::DEPOOL);
        assert_eq!(read.reason.as_deref(), Some("T1: disk"));
        assert!(members(r#"{"weight": 11}"#).is_ok_and(|m| m.assignments.len() == 1));
    }

    #[test]
    fn what_is_no_node_is_refused() {
        let check = |text: &str, expected: &str| {
            let fault = members(text).unwrap_err().to_string();
            assert!(fault.contains(expected), "{text}: {fault}");
        };
        check("", "expected one mapping");
        check("- 1", "expected one mapping");
        check("yes", "expected one mapping");
        check("a: 1\n---\nb: 2\n", "expected one mapping");
        check("weight: [", "not YAML");
        check("weight: 1.5", "weight is \"1.5\"");
        check("weight: 1.0", "weight is \"1.0\"");
        check("weight: [1]", "weight is \"[…]\"");
        check("pooled: true", "pooled is \"true\"");
        check("1: 2", "no member \"1\"");
        check("colour: blue", "no member \"colour\"");
        check("reason: 1", "reason is no text");
    }

    #[test]
    fn objects_and_lists_are_written() {
        let in_force = InForce {
            node: Node::parse(br#"{"weight": 3, "pooled": "no", "reason": "T1: x"}"#).unwrap(),
            until: Some("2026-01-01T00:00:00Z".into()),
        };
        let text = "10.0.0.1:\n  pooled: 'no'\n  reason: 'T1: x'\n  until: '2026-01-01T00:00:00Z'\n  weight: 3";
        assert_eq!(
            object("10.0.0.1", &in_force),
            text.replacen("10.0.0.1", "'10.0.0.1'", 1)
        );
        let text = lists(&[("a/b/c", vec!["srv1", "no"]), ("a/b/d", vec!["x"])].into());
        assert_eq!(text, "a/b/c:\n- srv1\n- 'no'\na/b/d:\n- x");
    }

    #[test]
    fn texts_are_quoted_where_they_need_it() {
        for text in [
            "yes", "No", "", "10", "it's", "a: b", "a b", "~", "x\ny", "#", "ü",
        ] {
            let scalar = scalar(text);
            assert_ne!(scalar, text);
            let read = Yaml::load_from_str(&scalar).unwrap();
            assert_eq!(read[0].as_str(), Some(text), "{scalar}");
        }
        for text in ["inactive", "cp1065.eqiad.wmnet", "a/b_c-d"] {
            assert_eq!(scalar(text), text);
        }
    }
}
