//! `/bgp` over TCP: who looks is shown everything, and can change nothing.

use plimsoll::api::Limits;
use serde_json::json;

use crate::{Api, sample};

async fn api() -> Api {
    let mut snapshot = sample::snapshot([]);
    sample::sessions(&mut snapshot);
    Api::start(Limits::default(), snapshot).await
}

#[tokio::test]
async fn each_page_is_there_in_both_forms() {
    let api = api().await;
    for (path, begins) in [
        (
            "/bgp",
            "AS 64600, router ID 10.0.0.99: 1 of 4 sessions established\n",
        ),
        ("/bgp/peers", "AS 64600, "),
        ("/bgp/peers/10.0.0.1", "10.0.0.1: AS 14907, external\n"),
        (
            "/bgp/peers/fe80::1%25eth1",
            "fe80::1%eth1: AS 64600, internal\n",
        ),
        (
            "/bgp/peers/fe80::1%eth1",
            "fe80::1%eth1: AS 64600, internal\n",
        ),
        (
            "/bgp/peers/2001%3Adb8%3A%3A1",
            "2001:db8::1: AS 14907, external\n",
        ),
        (
            "/bgp/peers/10.0.0.1/routes",
            "10.0.0.1: Established, told 2 of 4 addresses\n",
        ),
        (
            "/bgp/peers/eth2/routes",
            "eth2: Idle, told 0 of 4 addresses\n",
        ),
        (
            "/bgp/addresses",
            "ADDRESS      PREFIX           CONDITION  TOLD TO\n",
        ),
    ] {
        let (status, text) = api.text(path).await;
        assert_eq!(status, 200, "{path}");
        assert!(text.starts_with(begins), "{path}: {text}");
    }
    let (status, all) = api.json("/bgp").await;
    assert_eq!(status, 200);
    assert_eq!(all["peers"]["10.0.0.1"]["told"], 2);
    // A session that came up in 2026 by the sample's clock is old by now.
    assert_eq!(all["peers"]["10.0.0.1"]["since"], "2026-01-02T03:04:05Z");
    let (_, peer) = api.json("/bgp/peers/10.0.0.1").await;
    assert_eq!(peer["hint"], json!(null));
    assert_eq!(peer["timers"]["connect_retry"], json!(null));
    let (_, routes) = api.json("/bgp/peers/10.0.0.1/routes").await;
    assert_eq!(routes["told"]["192.0.2.1/32"]["med"], 10);
    let (_, addresses) = api.json("/bgp/addresses").await;
    assert_eq!(addresses["192.0.2.2"]["heard"]["10.0.0.1"]["ours"], true);
}

#[tokio::test]
async fn a_peer_that_is_none_is_not_found_among_those_that_are() {
    let api = api().await;
    let names = "No such peer; there are 10.0.0.1, 2001:db8::1, fe80::1%eth1, eth2";
    for path in ["/bgp/peers/10.0.0.9", "/bgp/peers/x/routes"] {
        assert_eq!(api.text(path).await, (404, names.to_owned()));
    }
    assert_eq!(
        api.json("/bgp/peers/%00").await,
        (404, json!({"error": names}))
    );
    let gone = (404, "The desired url was not found".to_owned());
    for path in [
        "/bgp/10.0.0.1",
        "/bgp/peers/10.0.0.1/route",
        "/bgp/addresses/x",
    ] {
        assert_eq!(api.text(path).await, gone, "{path}");
    }
    let none = Api::start(Limits::default(), sample::snapshot([])).await;
    let said = "no BGP is configured, nothing is announced\n".to_owned();
    assert_eq!(none.text("/bgp").await, (200, said));
    let said = "No BGP is configured".to_owned();
    assert_eq!(none.text("/bgp/peers/10.0.0.1").await, (404, said));
}

#[tokio::test]
async fn orders_do_not_come_by_tcp() {
    let api = api().await;
    for verb in ["disable", "enable", "clear"] {
        let path = format!("/bgp/peers/10.0.0.1/{verb}");
        let (status, head, body) = api.ask("POST", &path, "Content-Length: 0\r\n").await;
        assert_eq!(status, 405);
        assert!(head.contains("\r\nallow: \r\n"), "{head}");
        assert!(
            body.starts_with("Orders are taken on the control socket alone"),
            "{body}"
        );
        let (status, head, _) = api.ask("GET", &path, "").await;
        assert_eq!(status, 405);
        assert!(head.contains("\r\nallow: post\r\n"), "{head}");
    }
}
