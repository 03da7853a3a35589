//! Why a command of `plimsoll ctl` was not done, and the exit code that says so.

use std::io;
use std::time::Duration;

use super::action::BadAction;
use super::edit::EditError;
use super::guard::Refusal;
use super::object::BadObject;
use super::selector::BadSelector;
use crate::cli::etcd::EtcdError;
use crate::cli::exit;

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Selector(#[from] BadSelector),
    #[error(transparent)]
    Action(#[from] BadAction),
    #[error("object type {0:?} is unknown; the only one is node")]
    ObjectType(String),
    #[error("--{0}")]
    Option(&'static str),
    #[error(
        "{number} objects are meant and nobody is there to ask: nothing was changed; say --yes"
    )]
    Unasked { number: usize },
    #[error("not confirmed: nothing was changed")]
    NotConfirmed,
    #[error("{what} matches no object: nothing was done")]
    NoMatch { what: String },
    #[error(transparent)]
    Object(#[from] BadObject),
    /// Each has been told already.
    #[error("{number} objects cannot be read")]
    Unreadable { number: usize },
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("{}nothing was changed; --force sends it all the same", lines(.0))]
    Guard(Vec<Refusal>),
    #[error("others kept changing {objects}: it was tried {tries} times")]
    Conflict { objects: String, tries: u32 },
    #[error("the change is in etcd, but within {within:?}\n{}", .late.join("\n"))]
    Late { within: Duration, late: Vec<String> },
    #[error("the change is in etcd, but\n{}", .0.join("\n"))]
    Held(Vec<String>),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("cannot find out this host's name; say --hostname")]
    Hostname(#[source] io::Error),
}

impl Failure {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Failure::NotConfirmed => exit::NOT_CONFIRMED,
            Failure::Selector(_)
            | Failure::Action(_)
            | Failure::ObjectType(_)
            | Failure::Option(_)
            | Failure::Unasked { .. } => exit::USAGE,
            Failure::Object(BadObject::Value { .. })
            | Failure::Unreadable { .. }
            | Failure::Edit(_) => exit::DATA,
            Failure::Object(BadObject::None(_)) | Failure::NoMatch { .. } => exit::NO_INPUT,
            Failure::Etcd(error) => error.exit_code(),
            Failure::Hostname(_) => exit::OS_ERROR,
            Failure::Conflict { .. } => exit::CANNOT_CREATE,
            Failure::Late { .. } => exit::TEMPORARY,
            Failure::Guard(_) | Failure::Held(_) => exit::NO_PERMISSION,
        }
    }
}

fn lines(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(|refusal| format!("{refusal}\n"))
        .collect()
}
