//! What shall be done with objects: `get`, `set/pooled=no:weight=5`, `set/@FILE`, `delete`, `edit`.
//! Text → type; the file of `set/@FILE` is read here, once.

use std::path::{Path, PathBuf};

use super::yaml;
use crate::conftool::Pooled;
use crate::service::Weight;

/// One member of a node and what it shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assignment {
    Weight(Weight),
    Pooled(Pooled),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Get,
    /// At least one, each member at most once, in the order in which they were said.
    Set(Vec<Assignment>),
    Delete,
    Edit,
}

/// Why a text is no action.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAction {
    #[error(
        "unknown action {0:?}; actions are get, set/MEMBER=VALUE[:MEMBER=VALUE], set/@FILE, delete, edit"
    )]
    Unknown(String),
    #[error("{0:?} is not MEMBER=VALUE; write set/pooled=no or set/pooled=yes:weight=10, say")]
    NoValue(String),
    #[error(transparent)]
    Member(#[from] BadMember),
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{path}")]
    File {
        path: PathBuf,
        #[source]
        cause: yaml::BadYaml,
    },
}

/// Why something is no assignment to a member of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadMember {
    #[error("reason is not set like this; write --reason TEXT")]
    Reason,
    #[error("a node has no member {0:?}; members are weight, pooled")]
    Unknown(String),
    #[error("{0} is said twice")]
    Twice(&'static str),
    #[error("weight is {0}; expected an integer from 0 to {max}", max = Weight::MAX)]
    Weight(String),
    #[error("pooled is {0}; expected yes, no or inactive")]
    Pooled(String),
    #[error("nothing is set; members are weight, pooled")]
    Nothing,
}

impl Action {
    pub(super) fn parse(text: &str) -> Result<Action, BadAction> {
        match text.split_once('/') {
            None if text == "get" => Ok(Action::Get),
            None if text == "delete" => Ok(Action::Delete),
            None if text == "edit" => Ok(Action::Edit),
            Some(("set", what)) => match what.strip_prefix('@') {
                Some(path) => from_file(Path::new(path)),
                None => from_text(what),
            },
            None | Some(_) => Err(BadAction::Unknown(text.into())),
        }
    }

    /// Whether it writes.
    pub(super) fn changes(&self) -> bool {
        match self {
            Action::Get => false,
            Action::Set(_) | Action::Delete | Action::Edit => true,
        }
    }
}

impl Assignment {
    pub(super) const POOL: Assignment = Assignment::Pooled(Pooled::Yes);
    pub(super) const DEPOOL: Assignment = Assignment::Pooled(Pooled::No);
    pub(super) const DECOMMISSION: Assignment = Assignment::Pooled(Pooled::Inactive);

    /// No new connections.
    pub(super) fn drain() -> Assignment {
        // 0 is below every limit.
        Assignment::Weight(Weight::new(0).unwrap_or(Weight::DEFAULT))
    }

    pub(super) fn member(self) -> &'static str {
        match self {
            Assignment::Weight(_) => "weight",
            Assignment::Pooled(_) => "pooled",
        }
    }

    pub(super) fn parse(member: &str, value: &str) -> Result<Assignment, BadMember> {
        match member {
            "weight" => {
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let number = digits.then(|| value.parse().ok()).flatten();
                let weight = number.and_then(Weight::new);
                weight
                    .map(Assignment::Weight)
                    .ok_or_else(|| BadMember::Weight(format!("{value:?}")))
            }
            "pooled" => {
                let found = Pooled::ALL.into_iter().find(|p| p.name() == value);
                found
                    .map(Assignment::Pooled)
                    .ok_or_else(|| BadMember::Pooled(format!("{value:?}")))
            }
            "reason" => Err(BadMember::Reason),
            other => Err(BadMember::Unknown(other.into())),
        }
    }
}

/// Each member once, at least one.
pub(super) fn checked(assignments: Vec<Assignment>) -> Result<Vec<Assignment>, BadMember> {
    for (index, assignment) in assignments.iter().enumerate() {
        let member = assignment.member();
        if assignments[..index].iter().any(|a| a.member() == member) {
            return Err(BadMember::Twice(member));
        }
    }
    if assignments.is_empty() {
        return Err(BadMember::Nothing);
    }
    Ok(assignments)
}

fn from_text(text: &str) -> Result<Action, BadAction> {
    let assignment = |part: &str| {
        let part = part.trim();
        let Some((member, value)) = part.split_once('=') else {
            return Err(BadAction::NoValue(part.into()));
        };
        Ok(Assignment::parse(member, value)?)
    };
    let assignments: Result<Vec<_>, _> = text.split(':').map(assignment).collect();
    Ok(Action::Set(checked(assignments?)?))
}

fn from_file(path: &Path) -> Result<Action, BadAction> {
    let text = yaml::read(path).map_err(|cause| BadAction::Read {
        path: path.into(),
        cause,
    })?;
    let file = |cause: yaml::BadYaml| BadAction::File {
        path: path.into(),
        cause,
    };
    let members = yaml::members(&text).map_err(file)?;
    let assignments = checked(members.assignments).map_err(|fault| file(fault.into()))?;
    if members.reason.is_some() {
        return Err(file(BadMember::Reason.into()));
    }
    Ok(Action::Set(assignments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_confctls() {
        let weight = |w| Assignment::Weight(Weight::new(w).unwrap());
        let check = |text: &str, expected: Action| {
            assert_eq!(Action::parse(text).unwrap(), expected, "{text}");
        };
        check("get", Action::Get);
        check("delete", Action::Delete);
        check("edit", Action::Edit);
        check("set/pooled=no", Action::Set(vec![Assignment::DEPOOL]));
        check("set/weight=010", Action::Set(vec![weight(10)]));
        check(
            "set/ weight=7 :pooled=inactive",
            Action::Set(vec![weight(7), Assignment::DECOMMISSION]),
        );
    }

    #[test]
    fn a_bad_action_is_told_what_is_wrong_with_it() {
        let check = |text: &str, expected: &str| {
            let fault = Action::parse(text).unwrap_err().to_string();
            assert!(fault.contains(expected), "{text}: {fault}");
        };
        for text in [
            "",
            "set",
            "Get",
            "get/x",
            "delete/",
            "setx/pooled=no",
            "pool",
        ] {
            check(text, "unknown action");
        }
        check("set/", "\"\" is not MEMBER=VALUE");
        check("set/pooled", "\"pooled\" is not MEMBER=VALUE");
        check("set/pooled=yes:", "\"\" is not MEMBER=VALUE");
        check(
            "set/poled=no",
            "no member \"poled\"; members are weight, pooled",
        );
        check(
            "set/pooled=maybe",
            "pooled is \"maybe\"; expected yes, no or inactive",
        );
        check("set/pooled=", "pooled is \"\"");
        check("set/pooled=yes:pooled=no", "pooled is said twice");
        check("set/reason=x", "--reason TEXT");
        for weight in [
            "-1",
            "",
            "1.5",
            "ten",
            "2147483647",
            "1_0",
            "+1",
            "0x10",
            "99999999999999",
        ] {
            check(
                &format!("set/weight={weight}"),
                &format!("weight is {weight:?}; expected an integer"),
            );
        }
        check("set/@/nowhere/file", "cannot read /nowhere/file");
    }

    #[test]
    fn a_file_says_the_same_in_yaml() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let action = format!("set/@{}", file.path().display());
        std::fs::write(&file, "pooled: 'no'\nweight: 9\n").unwrap();
        let Action::Set(assignments) = Action::parse(&action).unwrap() else {
            panic!("not a set");
        };
        assert_eq!(assignments[0], Assignment::DEPOOL);
        assert_eq!(assignments[1].member(), "weight");
        std::fs::write(&file, "{}").unwrap();
        let Err(BadAction::File { cause, .. }) = Action::parse(&action) else {
            panic!("nothing is set and nobody minds");
        };
        assert!(cause.to_string().contains("nothing is set"), "{cause}");
    }
}
