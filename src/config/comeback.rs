//! Reads what `[service.NAME]` says of servers that come and come back: `start`, `slow-start`, `flap-hold`.

use std::time::Duration;

use super::reader::{Key, Node, Table, key};
use super::value::{self, Durations, TIMEOUT};
use crate::check::{Comeback, FlapHold, Start};

pub(super) const FLAP_HOLD_KEYS: &[Key] = &[
    key("transitions"),
    key("within"),
    key("hold"),
    key("longest"),
];

/// Steps are a second apart at least.
const SLOW_START: Durations = Durations {
    least: Duration::from_secs(1),
    most: Duration::from_secs(24 * 60 * 60),
    whole_seconds: false,
    example: "30s",
};

const MINUTE: Duration = Duration::from_secs(60);

/// As many of the last times down as are remembered.
const MOST_TRANSITIONS: u32 = 64;

pub(super) fn comeback(table: &Table<'_>) -> Option<Comeback> {
    let start = table.or("start", Start::Last, |node| {
        let choices = [
            ("up", Start::Up),
            ("down", Start::Down),
            ("last", Start::Last),
        ];
        node.choice("start", choices)
    });
    let slow_start = table.optional("slow-start", |node| value::duration(node, &SLOW_START));
    let flap_hold = table.optional("flap-hold", flap_hold);
    Some(Comeback {
        start: start?,
        flap_hold: flap_hold?,
        slow_start: slow_start?,
    })
}

fn flap_hold(node: &Node<'_>) -> Option<FlapHold> {
    let table = node.table(FLAP_HOLD_KEYS)?;
    let time = |key, default| table.or(key, default, |node| value::duration(node, &TIMEOUT));
    let transitions = table.or("transitions", 3, |node| node.integer(1, MOST_TRANSITIONS));
    let within = time("within", MINUTE);
    let hold = time("hold", MINUTE);
    // A hold that is longer than the default is its own limit.
    let longest = time("longest", hold.unwrap_or_default().max(60 * MINUTE));
    if let (Some(hold), Some(longest)) = (hold, longest)
        && longest < hold
    {
        let place = table.place_of("longest");
        let hold = humantime::format_duration(hold);
        place.mistake(format_args!(
            "shorter than hold; write {hold} or more, or leave it out"
        ));
        return None;
    }
    Some(FlapHold {
        transitions: transitions?,
        within: within?,
        hold: hold?,
        longest: longest?,
    })
}
