//! The daemon stands still and goes on: nobody is depooled for that.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::{Lab, SOON, Service};
use crate::netns::until;
use crate::server::Server;

const HOSTS: [&str; 3] = ["127.0.1.1", "127.0.1.2", "127.0.1.3"];

/// Half a minute, longer than any timeout. Meanwhile the servers lose patience, restart, and are well again.
#[test]
fn stopped_and_continued() {
    let lab = Lab::new();
    let mut servers = HOSTS.map(|address| Server::start(&lab, address));
    let services: Vec<String> = (0..5)
        .map(|n| {
            let name = format!("s{n}");
            let service = Service::new(&name, &format!("192.0.2.{}", n + 1)).servers(&HOSTS);
            // Each service asks for a page of its own, so that many checks are under way.
            let fetch = format!(
                "type = \"proxy-fetch\"\nurl = \"http://www.example.org/{n}\"\ninterval = \"200ms\"\ntimeout = \"1s\""
            );
            let service = service.monitor("type = \"idle-connection\"");
            service.monitor(&fetch).to_string()
        })
        .collect();
    lab.configure(&[&services.concat()]);
    let mut daemon = lab.start();
    let all_passed = |more: f64| {
        until(SOON, "every check has passed once more", || {
            let passed = results(&lab, "up", "proxy-fetch");
            (passed.len() == 15 && passed.iter().all(|count| *count >= more)).then_some(())
        });
    };
    all_passed(3.0);
    let most = results(&lab, "up", "proxy-fetch")
        .into_iter()
        .fold(0.0, f64::max);

    let before = daemon.log().len();
    daemon.signal(Signal::SIGSTOP);
    sleep(Duration::from_secs(15));
    for server in &mut servers {
        server.die();
        server.revive(&lab);
    }
    sleep(Duration::from_secs(15));
    daemon.signal(Signal::SIGCONT);

    all_passed(most + 3.0);
    for monitor in ["proxy-fetch", "idle-connection"] {
        let text = lab.get("/metrics").unwrap();
        let down = series(&text, "plimsoll_monitor_down_transitions_total", monitor);
        assert_eq!(down, [0.0; 15], "{monitor}");
    }
    let text = lab.get("/metrics").unwrap();
    let late = series(&text, "plimsoll_monitor_late_checks_total", "proxy-fetch");
    assert!(late.iter().sum::<f64>() > 0.0, "{late:?}");
    daemon.until_log("this host stood still");
    let log = daemon.log().split_off(before);
    assert!(!log.contains("depooled"), "{log}");

    // A dead server is found all the same.
    servers[0].die();
    until(SOON, "its services know", || {
        let text = lab.get("/services/s0/127.0.1.1")?;
        text.starts_with("enabled/down/not pooled").then_some(())
    });
    daemon.until_log("depooled service=s0 host=127.0.1.1 why=\"");
    daemon.stop(SOON);
}

/// Of each service and server, how many results were good or bad.
fn results(lab: &Lab, kind: &str, monitor: &str) -> Vec<f64> {
    let text = lab.get("/metrics").unwrap_or_default();
    series(
        &text,
        &format!("plimsoll_monitor_{kind}_results_total"),
        monitor,
    )
}

fn series(text: &str, name: &str, monitor: &str) -> Vec<f64> {
    let label = format!("monitor=\"{monitor}\"");
    text.lines()
        .filter(|line| line.starts_with(name) && line.contains(&label))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect()
}
