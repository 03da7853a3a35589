//! `start`, `slow-start` and `[service.NAME.flap-hold]`: what is read, and each rule with its message.

use std::time::Duration;

use plimsoll::check::{Comeback, FlapHold, Start};
use plimsoll::config::Config;

use super::{check, web};

fn read(lines: &str) -> Comeback {
    let config = Config::parse(&web(lines), "FILE").expect("it is good");
    config.services["web"].comeback
}

#[test]
fn without_a_word_all_of_it_is_off() {
    let off = Comeback {
        start: Start::Last,
        flap_hold: None,
        slow_start: None,
    };
    assert_eq!(read(""), off);
}

#[test]
fn what_is_written_is_read() {
    let seconds = Duration::from_secs;
    let defaults = FlapHold {
        transitions: 3,
        within: seconds(60),
        hold: seconds(60),
        longest: seconds(3600),
    };
    assert_eq!(read("[service.web.flap-hold]").flap_hold, Some(defaults));
    let long = read("flap-hold = { hold = \"2h\" }");
    let own = FlapHold {
        hold: seconds(7200),
        longest: seconds(7200),
        ..defaults
    };
    assert_eq!(long.flap_hold, Some(own));
    let lines = "start = \"up\"\nslow-start = \"30s\"\n[service.web.flap-hold]\n\
        transitions = 5\nwithin = \"10m\"\nhold = \"5s\"\nlongest = \"20s\"";
    let all = Comeback {
        start: Start::Up,
        slow_start: Some(seconds(30)),
        flap_hold: Some(FlapHold {
            transitions: 5,
            within: seconds(600),
            hold: seconds(5),
            longest: seconds(20),
        }),
    };
    assert_eq!(read(lines), all);
    assert_eq!(read("start = \"down\"").start, Start::Down);
}

#[test]
fn mistakes() {
    for (lines, expected) in [
        (
            "start = \"on\"\nslow-start = \"500ms\"\nflap-hold = true",
            "7: service.web.start: unknown start \"on\"; allowed are up, down, last\n\
             8: service.web.slow-start: \"500ms\" is out of range; write 1s to 1day\n\
             9: service.web.flap-hold: expected a table, found true; write [service.web.flap-hold]",
        ),
        (
            "slow-start = 30\n[service.web.flap-hold]\ntransitions = 0\nwithin = \"0s\"\nholds = 1",
            "7: service.web.slow-start: expected a duration, found the integer 30; write \"30s\" if seconds are meant\n\
             9: service.web.flap-hold.transitions: the integer 0 is out of range; write 1 to 64\n\
             10: service.web.flap-hold.within: \"0s\" is out of range; write 1ms to 1day\n\
             11: service.web.flap-hold.holds: unknown key \"holds\"; did you mean \"hold\"?",
        ),
        (
            "[service.web.flap-hold]\nhold = \"5m\"\nlongest = \"1m\"",
            "9: service.web.flap-hold.longest: shorter than hold; write 5m or more, or leave it out",
        ),
    ] {
        check(&web(lines), expected);
    }
}
