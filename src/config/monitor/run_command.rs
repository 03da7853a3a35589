//! `type = "run-command"`

use super::{each, load};
use crate::check::{Argument, Probe, RunCommand};
use crate::config::reader::{Key, Node, Table, key};
use crate::config::spelling::quoted;
use crate::config::value;

pub(super) const KEYS: &[&[Key]] = &[
    load::KEY,
    &[
        key("command"),
        key("arguments"),
        key("log-output"),
        key("user"),
    ],
];

pub(super) fn read(table: &Table<'_>) -> Option<Probe> {
    let example = "command = \"/usr/lib/nagios/plugins/check_ssh\", say";
    let command = table.required("command", example, value::path);
    let arguments = table.or("arguments", Vec::new(), |node| each(node, argument));
    let log_output = table.or("log-output", true, Node::boolean);
    let user = table.optional("user", value::user);
    Some(Probe::RunCommand(RunCommand {
        command: command?,
        arguments: arguments?,
        log_output: log_output?,
        user: user?,
    }))
}

fn argument(node: &Node<'_>) -> Option<Argument> {
    let text = node.string("an argument", "--host={host}")?;
    text.parse()
        .map_err(|error| node.mistake(format_args!("{}: {error}", quoted(text))))
        .ok()
}
