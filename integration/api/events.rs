//! `/api/v1/events`: the list, and the stream as a browser follows it.

use std::time::{Duration, SystemTime};

use plimsoll::api::Limits;
use plimsoll::history::{History, KEPT};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing_subscriber::layer::SubscriberExt;

use crate::{Api, SOON, sample};

const STREAM: &str = "Accept: text/event-stream\r\n";

struct Scene {
    history: History,
    api: Api,
}

impl Scene {
    async fn start() -> Scene {
        let history = History::new(SystemTime::UNIX_EPOCH + Duration::from_millis(0xabc));
        let snapshot = sample::snapshot([]);
        Scene {
            api: Api::with_history(Limits::default(), snapshot, history.clone()).await,
            history,
        }
    }

    /// Logs that so many servers of a service were depooled.
    fn depooled(&self, service: &str, count: usize) {
        let subscriber = tracing_subscriber::registry().with(self.history.layer());
        tracing::subscriber::with_default(subscriber, || {
            for host in 0..count {
                tracing::info!(target: "plimsoll", service, %host, why = "list", "depooled");
            }
        });
    }

    async fn list(&self, query: &str) -> (Vec<String>, bool) {
        let path = format!("/api/v1/events{query}");
        let (status, head, body) = self.api.ask("GET", &path, "").await;
        assert_eq!(status, 200, "{body}");
        assert!(head.contains("\r\ncontent-type: application/json\r\n"));
        let body: Value = serde_json::from_str(&body).unwrap();
        let ids = body["events"].as_array().unwrap().iter();
        let ids = ids.map(|event| event["id"].as_str().unwrap().to_owned());
        (ids.collect(), body["missed"].as_bool().unwrap())
    }

    async fn stream(&self, query: &str, headers: &str) -> Stream {
        let mut connection = self.api.connect().await;
        let request =
            format!("GET /api/v1/events{query} HTTP/1.1\r\nHost: x\r\n{STREAM}{headers}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Stream {
            connection,
            text: String::new(),
        };
        let head = stream.until("\r\n\r\n").await;
        assert!(head.contains("200 OK"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        stream
    }
}

struct Stream {
    connection: TcpStream,
    text: String,
}

impl Stream {
    /// What comes up to this mark.
    async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(end) = self.text.find(mark) {
                let rest = self.text.split_off(end + mark.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let mut buffer = [0; 4096];
            let read = timeout(SOON, self.connection.read(&mut buffer)).await;
            let read = read.expect("nothing comes").unwrap();
            assert_ne!(read, 0, "the stream ends: {}", self.text);
            self.text
                .push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }

    /// The next block's fields, without the chunks' lengths between.
    async fn block(&mut self) -> Vec<String> {
        let block = self.until("\n\n").await;
        let lines = block.lines().filter(|line| line.contains(':'));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn the_newest_those_after_and_those_that_are_asked_for() {
    let scene = Scene::start().await;
    assert_eq!(scene.list("").await, (vec![], false));
    scene.depooled("web", 2);
    scene.depooled("dns", 1);
    let ids = |numbers: &[u64]| {
        numbers
            .iter()
            .map(|n| format!("abc-{n}"))
            .collect::<Vec<_>>()
    };
    for (query, expected) in [
        ("", &[1, 2, 3][..]),
        ("/", &[1, 2, 3]),
        ("?limit=2", &[2, 3]),
        ("?since=abc-1", &[2, 3]),
        ("?since=abc-1&limit=1", &[2]),
        ("?since=abd-1", &[1, 2, 3]),
        ("?since=2020-01-01T00:00:00Z", &[1, 2, 3]),
        ("?since=2999-01-01T00:00:00Z", &[]),
        ("?service=web", &[1, 2]),
        ("?service=web&host=1", &[2]),
        ("?service=dns&since=abc-0&limit=1", &[3]),
        ("?vip=192.0.2.1", &[]),
    ] {
        assert_eq!(scene.list(query).await, (ids(expected), false), "{query}");
    }
    for (query, expected) in [
        ("?since=x", "since=x: not an event's id"),
        ("?limit=0", "limit=0: not 1 to 10000"),
        ("?limit=10001", "limit=10001: not"),
        (
            "?pool=web",
            "pool: not since, limit, service, host, vip or peer",
        ),
    ] {
        let path = format!("/api/v1/events{query}");
        let (status, _, body) = scene.api.ask("GET", &path, "").await;
        assert_eq!(status, 400, "{query}");
        assert!(body.contains(expected), "{body}");
    }
    let (status, head, body) = scene.api.ask("HEAD", "/api/v1/events", STREAM).await;
    assert_eq!((status, body.as_str()), (200, ""), "{head}");
    let (status, _, body) = scene
        .api
        .ask("GET", "/api/v1/events", "Accept: text/html\r\n")
        .await;
    assert_eq!(status, 406, "{body}");
    let (status, head, _) = scene.api.ask("POST", "/api/v1/events", "").await;
    assert_eq!(status, 405);
    assert!(head.contains("\r\nallow: get, head\r\n"), "{head}");
}

#[tokio::test]
async fn as_it_happens_and_again_after_a_break() {
    let scene = Scene::start().await;
    scene.depooled("web", 2);
    let mut stream = scene.stream("", "").await;
    assert_eq!(stream.block().await, ["retry: 2000", "id: abc-2"]);
    scene.depooled("web", 1);
    let block = stream.block().await;
    assert_eq!(block[0], "id: abc-3");
    let event: Value = serde_json::from_str(block[1].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(event["event"], "depooled");
    assert_eq!(event["service"], "web");
    assert_eq!(event["fields"]["why"], "list");
    drop(stream);
    scene.depooled("web", 2);
    for (query, headers) in [
        ("", "Last-Event-ID: abc-3\r\n"),
        ("?since=abc-3", ""),
        ("?since=abc-1", "Last-Event-ID: abc-3\r\n"),
    ] {
        let mut stream = scene.stream(query, headers).await;
        assert_eq!(stream.block().await, ["retry: 2000", "id: abc-3"]);
        assert_eq!(stream.block().await[0], "id: abc-4");
        assert_eq!(stream.block().await[0], "id: abc-5");
    }
    // A page that was open when the daemon was started anew has all of the new one's to read.
    for id in ["123-9", "garbage", ""] {
        let mut stream = scene.stream("", &format!("Last-Event-ID: {id}\r\n")).await;
        assert_eq!(stream.block().await[1], "id: abc-0", "{id}");
        assert_eq!(stream.block().await[0], "id: abc-1", "{id}");
    }
    let mut dns = scene.stream("?service=dns", "").await;
    assert_eq!(dns.block().await[1], "id: abc-5");
    scene.depooled("web", 500);
    scene.depooled("dns", 1);
    assert_eq!(dns.block().await[0], "id: abc-506");
}

#[tokio::test]
async fn who_was_away_for_too_long_is_told() {
    let scene = Scene::start().await;
    scene.depooled("web", 1);
    let mut stream = scene.stream("", "").await;
    assert_eq!(stream.block().await[1], "id: abc-1");
    scene.depooled("web", KEPT + 1);
    assert_eq!(stream.block().await, ["event: missed", "data: {}"]);
    let oldest = "id: abc-3";
    assert_eq!(stream.block().await[0], oldest);
    let (ids, missed) = scene.list("?since=abc-1&limit=1").await;
    assert_eq!((ids[0].as_str(), missed), ("abc-3", true));
}
