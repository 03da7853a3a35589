//! One thing that is not as it should be, and what mends it.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use tracing::{info, warn};

use super::saved::Port;
use super::tunnel::Device;
use crate::rtnl::{Assigned, Link};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// An address, a setting, an interface, a port or a table.
    pub what: String,
    pub is: String,
    pub should_be: String,
    /// Why it is not mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hindrance: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference {
            what,
            is,
            should_be,
            hindrance,
        } = self;
        write!(f, "{what}: is {is}; should be {should_be}")?;
        match hindrance {
            Some(why) => write!(f, "; {why}"),
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) difference: Difference,
    /// `None`: it is somebody else's to mend, or something else comes first.
    pub(super) action: Option<Action>,
    /// Whether it has done harm until now, whoever has made it so.
    pub(super) loud: bool,
}

#[derive(Debug)]
pub(super) enum Action {
    Bind(IpAddr),
    /// The same address, which is in the way, goes first.
    Rebind(IpAddr, Assigned),
    Unbind(Assigned),
    /// Gives the tunnel device of this index an address that is good for nothing else.
    Number(u32),
    Set {
        name: String,
        value: String,
    },
    PutBack {
        name: String,
        value: String,
    },
    MakeDevice(Device),
    SetUp(Link),
    RemoveDevice(Link),
    OpenPort(Port),
    ClosePort(Port),
    /// `None`: no table of ours.
    Clamp(Option<String>),
}

impl Step {
    pub(super) fn new(
        what: impl Into<String>,
        is: impl Into<String>,
        should_be: impl Into<String>,
        action: Action,
    ) -> Step {
        Step {
            difference: Difference {
                what: what.into(),
                is: is.into(),
                should_be: should_be.into(),
                hindrance: None,
            },
            action: Some(action),
            loud: false,
        }
    }

    /// What we can do nothing about.
    pub(super) fn stuck(
        what: impl Into<String>,
        is: impl Into<String>,
        should_be: impl Into<String>,
        why: impl Into<String>,
    ) -> Step {
        Step {
            difference: Difference {
                what: what.into(),
                is: is.into(),
                should_be: should_be.into(),
                hindrance: Some(why.into()),
            },
            action: None,
            loud: false,
        }
    }

    pub(super) fn loud(self) -> Step {
        Step { loud: true, ..self }
    }

    /// Nothing is done about it.
    pub(super) fn hindered(mut self, why: impl Into<String>) -> Step {
        self.difference.hindrance = Some(why.into());
        self.action = None;
        self
    }

    /// After it is done. `known`: it was right before, so somebody has changed it.
    pub(super) fn log(&self, known: bool) {
        let Difference {
            what,
            is,
            should_be,
            hindrance: _,
        } = &self.difference;
        if known {
            warn!(
                what,
                was = is,
                now = should_be,
                "somebody changed it; put right"
            );
        } else if self.loud {
            warn!(what, was = is, now = should_be, "put right");
        } else {
            info!(what, was = is, now = should_be, "set up");
        }
    }
}
