//! Server lists in a file: what is written there is in the pool at once, and what is wrong there empties none.

use std::fs;

use crate::lab::{Lab, Service, bgp, route};
use crate::server::Server;

const UP: &str = "enabled/up/pooled";

impl Lab {
    fn list(&self, text: &str) {
        let new = self.file("web.json.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file("web.json")).unwrap();
    }
}

#[test]
fn a_list_is_followed_and_a_bad_one_changes_nothing() {
    let lab = Lab::new();
    lab.wire();
    let _servers =
        ["127.0.1.1", "127.0.1.2", "127.0.1.3"].map(|address| Server::start(&lab, address));
    let router = lab.router(2, false);
    let file = lab.file("web.json");
    let web = Service::new("web", "192.0.2.1").idle();
    lab.configure(&[
        &bgp(&[2]),
        &web.key(&format!("servers = \"file://{}\"", file.display())),
    ]);
    // None yet: nothing to announce.
    let mut daemon = lab.start();
    let alerts = lab.until_alert("web: No usable server list: ");
    assert!(alerts.contains("No such file or directory"), "{alerts}");
    assert_eq!(
        lab.metric("plimsoll_vip_refused{vip=\"192.0.2.1\",reason=\"no-server-list\"}"),
        Some(1.0)
    );

    lab.list(r#"{"127.0.1.1": {"enabled": true, "weight": 10}, "127.0.1.2": {"enabled": true, "weight": 10}}"#);
    router.expect(&[route("192.0.2.1/32", 0)]);
    lab.expect_pool("web", &[("127.0.1.1", UP), ("127.0.1.2", UP)]);
    lab.until_no_alert("server list");
    let session = router.session();
    lab.list(r#"{"127.0.1.1": {"weight": 77}, "127.0.1.2": {"enabled": true, "weight": 0}}"#);
    lab.until_json("/pools/web/127.0.1.1", "\"weight\":77");
    lab.until_json("/pools/web/127.0.1.2", "\"weight\":0");

    let pool = [("127.0.1.1", UP), ("127.0.1.2", UP)];
    for (text, fault) in [
        ("{\"127.0.1.1\": {\"enabled\": tr", "EOF while parsing"),
        ("", "the file is empty"),
        ("{}", "the list names no server"),
        (
            r#"{"127.0.1.1": {"weight": -3}}"#,
            "invalid value: integer `-3`",
        ),
        (r#"["127.0.1.1"]"#, "invalid type: sequence"),
    ] {
        lab.list(text);
        let alerts = lab.until_alert("web: No usable server list, the last good one stays: ");
        assert!(
            alerts.contains("CRITICAL"),
            "the table is one in memory: {alerts}"
        );
        lab.until_alert(fault);
        lab.expect_pool("web", &pool);
    }
    fs::remove_file(&file).unwrap();
    lab.until_alert("No such file or directory");
    lab.expect_pool("web", &pool);
    lab.until_json("/pools/web/127.0.1.1", "\"weight\":77");

    // One goes, one comes, one is disabled.
    lab.list(
        r#"{"127.0.1.1": {"enabled": true}, "127.0.1.2": {"enabled": false}, "127.0.1.3": {}}"#,
    );
    lab.until_no_alert("server list");
    lab.expect_pool(
        "web",
        &[
            ("127.0.1.1", UP),
            ("127.0.1.2", "disabled/up/not pooled"),
            ("127.0.1.3", UP),
        ],
    );
    // Far too many go: they stay until their list says so of fewer.
    lab.list(r#"{"127.0.1.3": {"enabled": false}}"#);
    lab.until_alert("web: Against the server list, depool-guard keeps ");
    router.expect(&[route("192.0.2.1/32", 0)]);
    assert_eq!(router.session(), session);
    assert!(
        !router.log().contains("removed"),
        "the route was there all the time"
    );
    daemon.stop(crate::lab::SOON);
}
