//! confctl's questions: several objects of a selector, or half of a pool. Where nobody can be asked, the
//! answer is no.

use std::collections::{BTreeMap, BTreeSet};

use super::Options;
use super::action::Action;
use super::failure::Failure;
use super::object::Object;
use super::perform::{Target, Work};
use super::selector::Names;
use super::yaml;
use crate::cli::say::Say;

/// confctl's own words, so that whoever knows them can go on using them.
const SURE: &str = "Yes, I am sure of what I am doing.";

/// Asks if it has to be asked; `all`: how many objects the pool has.
pub(super) fn confirm(
    work: &Work,
    objects: &[Object],
    all: usize,
    options: &Options,
    say: &mut Say,
) -> Result<(), Failure> {
    let number = objects.len();
    if options.yes || !must_ask(work, objects, all, options.host) {
        return Ok(());
    }
    if !Say::is_terminal() {
        return Err(Failure::Unasked { number });
    }
    let sure = match &work.target {
        Target::Select { .. } => {
            say.line(&format!("{number} objects are selected:"));
            say.line(&shown(objects, options.yaml));
            say.ask("Go on? [y/N] ").eq_ignore_ascii_case("y")
        }
        Target::Tags { .. } => {
            say.line(&format!(
                "These are {number} of the pool's {all} objects. To go on, write: {SURE}"
            ));
            say.ask("> ") == SURE
        }
    };
    if sure {
        Ok(())
    } else {
        Err(Failure::NotConfirmed)
    }
}

fn must_ask(work: &Work, objects: &[Object], all: usize, host: bool) -> bool {
    match &work.target {
        Target::Select { confirm, .. } => {
            let hosts: BTreeSet<&str> = objects.iter().map(|o| &*o.name).collect();
            *confirm && objects.len() > 1 && !(host && hosts.len() == 1)
        }
        Target::Tags {
            names: Names::One(_),
            ..
        } => false,
        Target::Tags {
            names: Names::All | Names::Pattern(_),
            ..
        } => work.action != Action::Edit && all <= 2 * objects.len(),
    }
}

/// The objects' names by pool.
fn shown(objects: &[Object], as_yaml: bool) -> String {
    let mut pools: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for object in objects {
        let pool = pools.entry(object.pool.as_str()).or_default();
        pool.push(&object.name);
    }
    if as_yaml {
        yaml::lists(&pools)
    } else {
        serde_json::json!(pools).to_string()
    }
}
