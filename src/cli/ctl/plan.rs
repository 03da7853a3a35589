//! What a command is about to do to each object, and what follows of it: what is written, what is told, what
//! it takes from each pool. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::guard::Blow;
use super::object::{BadObject, Change, Object};
use super::store::{What, Write};
use crate::conftool::{Node, PoolPath};

/// An object and what shall become of it.
pub(super) struct Planned {
    pub(super) object: Object,
    /// `None`: it is deleted.
    pub(super) change: Option<Change>,
    pub(super) told: Told,
}

/// What is told of it when it is done.
pub(super) enum Told {
    /// A line for each member that is another one then.
    Members(Vec<String>),
    Line(String),
}

impl Planned {
    /// What counts then; `None`: it is gone.
    pub(super) fn after(&self) -> Option<Node> {
        let changed = self.object.change(self.change.as_ref()?);
        changed.ok().map(|changed| changed.node)
    }
}

/// What is to be written of a batch, and what will be told of it. `doubt`: a try without an answer may have
/// written it; then that try's lines are those to tell.
pub(super) fn writes(
    batch: &mut [Planned],
    lease: Option<i64>,
    doubt: bool,
) -> Result<Vec<Write>, BadObject> {
    let mut writes = Vec::new();
    for planned in batch {
        let object = planned.object.clone();
        let what = match &planned.change {
            None if object.node.is_none() => continue,
            None => What::Nothing,
            Some(change) => {
                let changed = object.change(change)?;
                if let (Told::Members(lines), true) =
                    (&mut planned.told, changed.value.is_some() || !doubt)
                {
                    *lines = changed.lines;
                }
                match (changed.value, lease) {
                    (None, _) => continue,
                    (Some(value), Some(lease)) => What::Lease { value, lease },
                    (Some(value), None) => What::Node(value),
                }
            }
        };
        writes.push(Write { object, what });
    }
    Ok(writes)
}

pub(super) fn blows(planned: &[Planned], all: &[Object]) -> BTreeMap<PoolPath, Blow> {
    let mut blows: BTreeMap<PoolPath, Blow> = BTreeMap::new();
    for planned in planned {
        let assignments = planned.change.iter().flat_map(|change| &change.assignments);
        let said: BTreeSet<&str> = assignments.map(|a| a.member()).collect();
        let (pooled, weight) = (said.contains("pooled"), said.contains("weight"));
        let blow = blows.entry(planned.object.pool.clone()).or_default();
        blow.add(&planned.object, planned.after().as_ref(), pooled, weight);
    }
    for object in all {
        let idle = |object: &Object| object.in_force().is_ok_and(|i| i.node.weight.get() == 0);
        if let Some(blow) = blows.get_mut(&object.pool)
            && idle(object)
        {
            blow.without_weight.insert(object.name.clone());
        }
    }
    blows
}
