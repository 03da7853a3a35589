//! Why a command of `plimsoll ctl` was not done, and the exit code that says so.

use std::io;
use std::time::Duration;

use super::action::BadAction;
use super::edit::EditError;
use super::guard::Refusal;
use super::object::BadObject;
use super::selector::BadSelector;
use super::store::StoreError;
use crate::cli::exit;
use crate::config::Mistakes;

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
    Store(Box<StoreError>),
    #[error(transparent)]
    Config(Mistakes),
    #[error(
        "[etcd] api = \"v2\": plimsoll ctl changes objects by etcd's v3 API, which does not see those of \
         v2; go on with confctl until they have been moved, then write api = \"v3\""
    )]
    V2,
    #[error("cannot find out this host's name; say --hostname")]
    Hostname(#[source] io::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Store(Box::new(error))
    }
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
            Failure::Store(_) => exit::UNAVAILABLE,
            Failure::Hostname(_) | Failure::Runtime(_) | Failure::Output(_) => exit::OS_ERROR,
            Failure::Conflict { .. } => exit::CANNOT_CREATE,
            Failure::Late { .. } => exit::TEMPORARY,
            Failure::Guard(_) | Failure::Held(_) => exit::NO_PERMISSION,
            Failure::Config(_) | Failure::V2 => exit::CONFIG,
        }
    }
}

fn lines(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(|refusal| format!("{refusal}\n"))
        .collect()
}
