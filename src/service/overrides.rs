//! What an operator says of a server in place of its list, for a while: the way to pool and depool on the day that
//! the list cannot be changed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Host, Listed, Note, ServiceName, Weight};

/// All that are in force.
pub type Overrides = BTreeMap<Overruled, Arc<Override>>;

/// Whom an override is about. One about a single service goes before one about all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Overruled {
    pub host: Host,
    /// `None`: wherever it is listed.
    pub service: Option<ServiceName>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Override {
    pub action: Action,
    /// Why, until when, and whether the depool guard shall let it go. Shown in place of the list's.
    pub note: Arc<Note>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Depool,
    /// Its checks still decide whether it gets connections.
    Pool,
    Weight(Weight),
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Depool => "depool",
            Action::Pool => "pool",
            Action::Weight(_) => "weight",
        }
    }

    pub fn weight(self) -> Option<Weight> {
        match self {
            Action::Depool | Action::Pool => None,
            Action::Weight(weight) => Some(weight),
        }
    }

    /// What its list says, but for what this says.
    pub fn over(self, listed: Listed) -> Listed {
        match self {
            Action::Depool => Listed {
                enabled: false,
                ..listed
            },
            Action::Pool => Listed {
                enabled: true,
                ..listed
            },
            Action::Weight(weight) => Listed { weight, ..listed },
        }
    }
}

/// As on the command line: `depool`, `pool`, `weight 5`.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.weight()
            .map_or(Ok(()), |weight| write!(f, " {weight}"))
    }
}

/// `cp1`, or `cp1 of web`.
impl fmt::Display for Overruled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        match &self.service {
            Some(service) => write!(f, " of {service}"),
            None => Ok(()),
        }
    }
}
