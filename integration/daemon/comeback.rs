//! A server that dies comes back little by little; one that dies again and again, after a time.

use std::time::{Duration, Instant};

use crate::lab::{Lab, SOON, Service};
use crate::netns::until;
use crate::server::Server;

const SERVER: &str = "/services/web/127.0.1.1";

#[test]
fn a_server_comes_back_slowly_and_after_a_second_time_late() {
    const SLOW_START: Duration = Duration::from_secs(3);
    const HOLD: Duration = Duration::from_secs(4);
    let lab = Lab::new();
    let hosts = ["127.0.1.1", "127.0.1.2", "127.0.1.3"];
    let [mut one, _two, _three] = hosts.map(|address| Server::start(&lab, address));
    let web = Service::new("web", "192.0.2.1").servers(&hosts).idle();
    let web = web.key("slow-start = \"3s\"");
    lab.configure(&[&web.key("flap-hold = { transitions = 2, hold = \"4s\" }")]);
    let mut daemon = lab.start();
    let line = |what: &str, is: &dyn Fn(&str) -> bool| {
        until(SOON, what, || {
            let text = lab.get(SERVER)?;
            let line = text.lines().next()?;
            is(line).then(|| line.to_owned())
        })
    };
    let whole = |line: &str| line == "enabled/up/pooled, weight 10";
    line("it has its weight", &whole);

    one.die();
    line("it is down", &|line| {
        line.starts_with("enabled/down/not pooled")
    });
    one.revive(&lab);
    let first = line("it is back", &|line| line.starts_with("enabled/up/pooled"));
    let begun = Instant::now();
    let share =
        "plimsoll_server_weight_share{service=\"web\",host=\"127.0.1.1\",by=\"slow-start\"}";
    let weights = ["in IPVS 1, slow-start 0 %", "in IPVS 4, slow-start 33 %"];
    assert!(weights.iter().any(|end| first.ends_with(end)), "{first}");
    assert!(lab.metric(share).is_some_and(|share| share < 1.0));
    line("it is at two thirds", &|line| {
        line.ends_with("in IPVS 7, slow-start 66 %")
    });
    line("it has its weight again", &whole);
    // The first look at it came later than its return, by no more than a step.
    assert!(begun.elapsed() > SLOW_START / 2, "{:?}", begun.elapsed());
    assert_eq!(lab.metric(share), None);

    one.die();
    let held = Instant::now();
    line("it is kept down", &|line| line.contains(", flap-hold for "));
    one.revive(&lab);
    daemon.until_log("goes down too often: kept down");
    // Its check passes, and yet it is down.
    let kept = until(SOON, "its check passes", || {
        let text = lab.get(SERVER)?;
        text.contains("idle-connection:\tup").then_some(text)
    });
    assert!(
        kept.starts_with("enabled/down/not pooled, flap-hold for "),
        "{kept}"
    );
    let reason =
        "plimsoll_server_kept_down{service=\"web\",host=\"127.0.1.1\",reason=\"flap-hold\"}";
    assert_eq!(lab.metric(reason), Some(1.0));
    line("it is back", &|line| line.starts_with("enabled/up/pooled"));
    assert!(
        held.elapsed() > HOLD - Duration::from_millis(500),
        "{:?}",
        held.elapsed()
    );
    assert_eq!(lab.metric(reason), None);
    line("it has its weight at last", &whole);
    daemon.stop(SOON);
}
