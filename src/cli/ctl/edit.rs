//! `edit`: an object's members as YAML in the operator's editor. What he changed there is the change, so
//! that what others change meanwhile stays.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitStatus};

use super::action::{Assignment, BadMember, checked};
use super::object::{InForce, Object};
use super::yaml::{self, BadYaml, Members};
use crate::cli::say::Say;
use crate::conftool::Node;

/// Debian's link to the system's editor.
const EDITOR: &str = "/usr/bin/editor";

#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    #[error("cannot write the text to edit")]
    File(#[source] io::Error),
    #[error("cannot start {editor:?}; EDITOR says which editor it is")]
    Start {
        editor: String,
        #[source]
        cause: io::Error,
    },
    #[error("{editor:?} failed ({status}); nothing was changed")]
    Editor { editor: String, status: ExitStatus },
    #[error("cannot read the text that was edited")]
    Read(#[source] io::Error),
    #[error("{object} as it was edited cannot be; nothing was changed")]
    Text {
        object: String,
        #[source]
        cause: BadYaml,
    },
}

/// What was changed in the editor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edited {
    pub(super) assignments: Vec<Assignment>,
    pub(super) reason: Option<String>,
}

/// Opens the editor, on a terminal again until the text is good; `None`: nothing was changed.
pub(super) fn edit(
    object: &Object,
    in_force: &InForce,
    say: &mut Say,
) -> Result<Option<Edited>, EditError> {
    let mut file = tempfile::Builder::new();
    let file = file.prefix("plimsoll-").suffix(".yaml").tempfile();
    let mut file = file.map_err(EditError::File)?;
    let text = text(object, in_force);
    file.write_all(text.as_bytes()).map_err(EditError::File)?;
    loop {
        open(file.path())?;
        // By its name: an editor may write a new file and rename it.
        let text = yaml::read(file.path()).map_err(EditError::Read)?;
        let cause = match yaml::members(&text).and_then(|m| difference(&in_force.node, m)) {
            Ok(edited) => return Ok(edited),
            Err(cause) => cause,
        };
        say.fault(&format!("{object}: {cause}"));
        let again =
            Say::is_terminal() && say.ask("Edit it again? [y/N] ").eq_ignore_ascii_case("y");
        if !again {
            let object = object.to_string();
            return Err(EditError::Text { object, cause });
        }
    }
}

fn text(object: &Object, in_force: &InForce) -> String {
    let mut text = format!("# {object}\n");
    if let Some(until) = &in_force.until {
        text += &format!("# This is a lease until {until}; a change ends it and stays.\n");
    }
    for line in yaml::lines(&in_force.node, None) {
        text += &format!("{line}\n");
    }
    text
}

/// Those members that are no longer what they were; one that is not there is left as it is, but a reason.
fn difference(before: &Node, edited: Members) -> Result<Option<Edited>, BadYaml> {
    let Members {
        assignments,
        reason,
    } = edited;
    let mut assignments = checked(assignments)?;
    assignments.retain(|assignment| match assignment {
        Assignment::Weight(weight) => *weight != before.weight,
        Assignment::Pooled(pooled) => *pooled != before.pooled,
    });
    let same = assignments.is_empty() && reason == before.reason;
    if let Some(reason) = &reason {
        super::check_reason(reason).map_err(|_| BadYaml::from(BadMember::Reason))?;
    }
    Ok((!same).then_some(Edited {
        assignments,
        reason,
    }))
}

/// `EDITOR` is a command of the shell, as for git and others.
fn open(path: &Path) -> Result<(), EditError> {
    let editor = match std::env::var("EDITOR") {
        Ok(editor) if !editor.trim().is_empty() => editor,
        Ok(_) | Err(_) => EDITOR.to_owned(),
    };
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$@\""), "sh"])
        .arg(path)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(EditError::Editor { editor, status }),
        Err(cause) => Err(EditError::Start { editor, cause }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        Node::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_shown_reads_as_no_change() {
        let object = Object {
            pool: "eqiad/bar/foo".parse().unwrap(),
            name: "srv1".into(),
            node: None,
            lease: None,
        };
        for value in [
            r#"{"weight": 10, "pooled": "yes"}"#,
            r##"{"weight": 0, "pooled": "inactive", "reason": "it's: \"#1\"", "confirmed": true}"##,
        ] {
            let in_force = InForce {
                node: node(value),
                until: Some("2026-01-01T00:00:00Z".into()),
            };
            let text = text(&object, &in_force);
            assert!(text.starts_with("# eqiad/bar/foo/srv1\n# This is a lease until 2026"));
            let members = yaml::members(&text).unwrap();
            assert_eq!(difference(&in_force.node, members), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_is_changed_is_the_change() {
        let before = node(r#"{"weight": 10, "pooled": "yes", "reason": "T1"}"#);
        let edited = |text: &str| difference(&before, yaml::members(text).unwrap()).unwrap();
        let found = edited("pooled: 'no'\nweight: 10\nreason: T1\n").unwrap();
        assert_eq!(found.assignments, [Assignment::DEPOOL]);
        let found = edited("pooled: yes\nweight: 10\n").unwrap();
        assert!(found.assignments.is_empty() && found.reason.is_none());
        let fault = difference(&before, yaml::members("reason: x").unwrap());
        assert_eq!(fault, Err(BadMember::Nothing.into()));
    }
}
