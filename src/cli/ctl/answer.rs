//! What `get` tells.

use super::Options;
use super::failure::Failure;
use super::object::{InForce, Object};
use super::yaml;
use crate::chain::chain;
use crate::cli::say::Say;

/// confctl's line for each object, or all of them as one mapping.
pub(super) fn get(
    objects: &[Object],
    as_one: bool,
    options: &Options,
    say: &mut Say,
) -> Result<(), Failure> {
    let mut good = Vec::new();
    for object in objects {
        match object.in_force() {
            Ok(in_force) => good.push((object, in_force)),
            Err(fault) => say.fault(&chain(&fault)),
        }
    }
    if as_one {
        say.line(&mapping(&good, options.yaml));
    } else {
        for (object, in_force) in &good {
            say.line(&object.line(in_force));
        }
    }
    match objects.len() - good.len() {
        0 => Ok(()),
        number => Err(Failure::Unreadable { number }),
    }
}

fn mapping(objects: &[(&Object, InForce)], as_yaml: bool) -> String {
    if as_yaml {
        let member = |(object, in_force): &(&Object, InForce)| yaml::object(&object.name, in_force);
        return objects.iter().map(member).collect::<Vec<_>>().join("\n");
    }
    let member = |(object, in_force): &(&Object, InForce)| {
        let name = serde_json::Value::from(&*object.name);
        format!("{name}: {}", in_force.json())
    };
    let members: Vec<String> = objects.iter().map(member).collect();
    format!("{{{}}}", members.join(", "))
}
