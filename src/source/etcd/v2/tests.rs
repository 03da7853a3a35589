//! A connection's life with servers that answer what etcd, proxies and strangers may. What a real etcd does is
//! tried in `integration/conftool.rs`.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::config::EtcdApi;

const PATIENCE: Duration = Duration::from_secs(20);
const KEY: &str = "/conftool/v1/pools/eqiad/a/web/h1";

/// What a server does with a request.
enum Reply {
    /// Status, index, cluster, body.
    Json(u16, u64, &'static str, String),
    /// The head of an answer with this index; then the end of the connection.
    Cut(u64, Duration),
    /// Nothing, for ever.
    Hang,
    /// These bytes, then this again and again.
    Raw(String, Vec<u8>),
}

fn json(index: u64, body: impl Into<String>) -> Reply {
    Reply::Json(200, index, "c1", body.into())
}

fn missing(index: u64) -> Reply {
    let body = r#"{"errorCode":100,"message":"Key not found","cause":"/","index":1}"#;
    Reply::Json(404, index, "c1", body.into())
}

fn all(index: u64, value: &str) -> Reply {
    let body = format!(
        r#"{{"action":"get","node":{{"key":"/conftool/v1/pools/eqiad/a/web","dir":true,"nodes":[
        {{"key":"{KEY}","value":"{value}","modifiedIndex":{index}}}]}}}}"#
    );
    json(index, body)
}

fn set(index: u64, value: &str) -> String {
    format!(
        r#"{{"action":"set","node":{{"key":"{KEY}","value":"{value}","modifiedIndex":{index}}}}}"#
    )
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Poll(u64),
    Beat,
}

fn asked(line: &str) -> Asked {
    let path = "GET /v2/keys/conftool/v1/pools/eqiad/a/web";
    let rest = line.strip_prefix(path).expect(line);
    let rest = rest.strip_suffix(" HTTP/1.1").expect(line);
    match rest.strip_prefix("?recursive=true&wait=true&waitIndex=") {
        Some(index) => Asked::Poll(index.parse().expect(line)),
        None if rest == "/_plimsoll?quorum=true" => Asked::Beat,
        None => {
            assert_eq!(rest, "?recursive=true&quorum=true");
            Asked::All
        }
    }
}

struct Running {
    news: mpsc::Receiver<News>,
    task: JoinSet<Ended>,
    _server: JoinSet<()>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Running {
    async fn start(answer: impl FnMut(Asked) -> Reply + Send + 'static) -> Running {
        Running::configured(|_| {}, answer).await
    }

    async fn configured(
        edit: impl FnOnce(&mut Etcd),
        answer: impl FnMut(Asked) -> Reply + Send + 'static,
    ) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let endpoint: Url = endpoint.parse().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::new(Mutex::new(answer)), heads.clone()));
        let mut config = Etcd {
            endpoints: vec![endpoint.clone()],
            prefix: "/conftool/v1/pools".into(),
            api: EtcdApi::V2,
            ca: None,
            certificate: None,
            key: None,
            user: None,
            password_file: None,
            timeout: Duration::from_millis(600),
            stale_after: Duration::from_secs(60),
        };
        edit(&mut config);
        let wanted = BTreeSet::from(["eqiad/a/web".parse().unwrap()]);
        let (sender, news) = mpsc::channel(16);
        let mut task = JoinSet::new();
        task.spawn(async move { follow(&config, &endpoint, &wanted, &sender).await });
        Running {
            news,
            task,
            _server: server,
            heads,
        }
    }

    /// The next news beside signs of life, in short: `All 5 x`, `Changed 6 y`.
    async fn next(&mut self) -> String {
        loop {
            let news = timeout(PATIENCE, self.news.recv()).await;
            match news.expect("news in time").expect("it lives") {
                News::Alive => {}
                News::All {
                    revision, pools, ..
                } => {
                    let values = pools.values().map(|entry| entry.value.clone().unwrap());
                    let values = values.map(|value| String::from_utf8(value).unwrap());
                    return format!("All {revision} {}", values.collect::<String>());
                }
                News::Changed { revision, changes } => {
                    let entry = changes[0].entry.as_ref().unwrap();
                    let value = String::from_utf8(entry.value.clone().unwrap()).unwrap();
                    return format!("Changed {revision} {value}");
                }
            }
        }
    }

    /// Why it ended.
    async fn end(mut self) -> String {
        let ended = timeout(PATIENCE, async {
            while self.news.recv().await.is_some() {}
            self.task.join_next().await
        });
        let cause = ended.await.expect("an end in time").unwrap().unwrap();
        let causes = std::iter::successors(Some(&cause as &dyn std::error::Error), |e| e.source());
        causes
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ")
    }
}

async fn serve<F: FnMut(Asked) -> Reply + Send + 'static>(
    listener: TcpListener,
    answer: Arc<Mutex<F>>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, answer.clone(), heads.clone()));
    }
}

async fn connection<F: FnMut(Asked) -> Reply>(
    stream: TcpStream,
    answer: Arc<Mutex<F>>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(stream.read_line(&mut head).await, Ok(1..)) {
                return;
            }
        }
        let line = head.lines().next().unwrap().to_owned();
        heads.lock().unwrap().push(head);
        let reply = (*answer.lock().unwrap())(asked(&line));
        let sent = match reply {
            Reply::Json(status, index, cluster, body) => {
                let text = format!(
                    "HTTP/1.1 {status} X\r\nX-Etcd-Index: {index}\r\nX-Etcd-Cluster-Id: {cluster}\r\n\
                     Content-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(text.as_bytes()).await
            }
            Reply::Cut(index, after) => {
                let text = format!(
                    "HTTP/1.1 200 OK\r\nX-Etcd-Index: {index}\r\nX-Etcd-Cluster-Id: c1\r\n\
                     Transfer-Encoding: chunked\r\n\r\n"
                );
                drop(stream.write_all(text.as_bytes()).await);
                sleep(after).await;
                return;
            }
            Reply::Hang => std::future::pending().await,
            Reply::Raw(first, again) => {
                let mut sent = stream.write_all(first.as_bytes()).await;
                while sent.is_ok() && !again.is_empty() {
                    sent = stream.write_all(&again).await;
                }
                sent
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn each_poll_goes_on_where_the_last_ended() {
    let mut running = Running::start(|asked| match asked {
        Asked::All => all(5, "a"),
        // The answer's own index is that of when the wait began.
        Asked::Poll(6) => json(9, set(6, "b")),
        // Others wrote in between.
        Asked::Poll(7) => json(9, set(9, "c")),
        Asked::Poll(10) => Reply::Hang,
        Asked::Poll(index) => panic!("{index}"),
        Asked::Beat => missing(9),
    })
    .await;
    assert_eq!(running.next().await, "All 5 a");
    assert_eq!(running.next().await, "Changed 6 b");
    assert_eq!(running.next().await, "Changed 9 c");
    // It lives on, by its beats.
    let alive = timeout(PATIENCE, running.news.recv()).await.unwrap();
    assert_eq!(alive, Some(News::Alive));
}

#[tokio::test]
async fn a_pool_that_does_not_exist_is_empty_and_waited_for() {
    let mut running = Running::start(|asked| match asked {
        Asked::All => missing(5),
        Asked::Poll(6) => json(5, set(6, "b")),
        Asked::Poll(_) => Reply::Hang,
        Asked::Beat => missing(9),
    })
    .await;
    assert_eq!(running.next().await, "All 5 ");
    assert_eq!(running.next().await, "Changed 6 b");
}

#[tokio::test]
async fn what_a_poll_can_not_tell_is_read() {
    let cleared = r#"{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [1500/6]","index":2499}"#;
    let odd = set(6, "x").replace("\"set\"", "\"swap\"");
    let causes: [fn(&str) -> Reply; 5] = [
        |cleared| Reply::Json(400, 2499, "c1", cleared.into()),
        // A cluster that counts from an older copy.
        |_| Reply::Cut(3, Duration::from_secs(60)),
        // An event that was had before.
        |_| json(5, set(5, "x")),
        |odd| json(6, odd),
        // A proxy that ends what is quiet.
        |_| Reply::Cut(5, CUT_EARLY + Duration::from_millis(100)),
    ];
    for (number, cause) in causes.into_iter().enumerate() {
        let mut reads = 0;
        let text = if number == 3 {
            odd.clone()
        } else {
            cleared.to_owned()
        };
        let mut running = Running::start(move |asked| match asked {
            Asked::All => {
                reads += 1;
                if reads == 1 {
                    all(5, "a")
                } else {
                    all(2500, "z")
                }
            }
            Asked::Poll(6) => cause(&text),
            Asked::Poll(2501) => json(2500, set(2501, "b")),
            Asked::Poll(_) => Reply::Hang,
            Asked::Beat => missing(9999),
        })
        .await;
        assert_eq!(running.next().await, "All 5 a", "cause {number}");
        assert_eq!(running.next().await, "All 2500 z", "cause {number}");
        assert_eq!(running.next().await, "Changed 2501 b", "cause {number}");
    }
}

#[tokio::test]
async fn reading_again_and_again_has_a_pace() {
    let reads = Arc::new(Mutex::new(0));
    let count = reads.clone();
    let mut running = Running::start(move |asked| match asked {
        Asked::All => {
            *count.lock().unwrap() += 1;
            all(5, "a")
        }
        Asked::Poll(_) => json(5, set(5, "old")),
        Asked::Beat => missing(5),
    })
    .await;
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(running.next().await, "All 5 a");
    }
    assert!(began.elapsed() >= 3 * PACE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_poll_that_hangs_hides_nothing() {
    // The member is frozen, or alone: no answer to a beat.
    let running = Running::start(|asked| match asked {
        Asked::All => all(5, "a"),
        Asked::Poll(_) | Asked::Beat => Reply::Hang,
    });
    assert_eq!(
        running.await.end().await,
        "no answer to the question for a sign of life within 600ms"
    );
    // Restored from an older copy.
    let running = Running::start(|asked| match asked {
        Asked::All => all(5, "a"),
        Asked::Poll(_) => Reply::Hang,
        Asked::Beat => missing(4),
    });
    let end = running.await.end().await;
    assert!(end.starts_with("the index went back from 5 to 4"), "{end}");
    // Built anew, and further on already.
    let running = Running::start(|asked| match asked {
        Asked::All => all(5, "a"),
        Asked::Poll(_) => Reply::Hang,
        Asked::Beat => Reply::Json(404, 9, "c2", r#"{"errorCode":100}"#.into()),
    });
    assert_eq!(
        running.await.end().await,
        "this is another cluster than before"
    );
}

fn plain(status: &str, body: &str) -> Reply {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    Reply::Raw(text, Vec::new())
}

#[tokio::test]
async fn who_is_no_etcd_is_told_apart() {
    let check = async |reply: fn() -> Reply, expected: &str| {
        let running = Running::start(move |_| reply()).await;
        let end = running.end().await;
        assert!(end.contains(expected), "{expected}: {end}");
    };
    // An etcd whose v2 API is off.
    check(
        || plain("404 Not Found", "404 page not found\n"),
        "404 Not Found to the reading of all pools: \"404 page not found\"",
    )
    .await;
    check(
        || {
            plain(
                "401 Unauthorized",
                "{\"message\":\"Insufficient credentials\"}",
            )
        },
        "Insufficient credentials",
    )
    .await;
    check(
        || plain("200 OK", "<html>"),
        "200 OK to the reading of all pools: \"<html>\"",
    )
    .await;
    check(
        || json(5, "<html>"),
        "cannot use the answer to the reading of all pools: it is not JSON of the v2 API: expected value",
    )
    .await;
    check(
        || Reply::Raw("SSH-2.0-x\r\n".into(), Vec::new()),
        "the reading of all pools broke off",
    )
    .await;
    check(
        || Reply::Cut(5, Duration::ZERO),
        "the reading of all pools broke off",
    )
    .await;
    check(
        || Reply::Hang,
        "no answer to the reading of all pools within 600ms",
    )
    .await;
    check(
        || Reply::Raw("HTTP/1.1 200 OK\r\n".into(), b"X: y\r\n".repeat(1000)),
        "the reading of all pools broke off",
    )
    .await;
}

#[tokio::test]
async fn an_endless_answer_ends() {
    // As long as it may take: it is not the time that is to end it.
    let running = Running::configured(
        |config| config.timeout = PATIENCE,
        |_| {
            let head = "HTTP/1.1 200 OK\r\nX-Etcd-Index: 5\r\n\r\n";
            Reply::Raw(head.into(), vec![b' '; 1024 * 1024])
        },
    );
    let end = running.await.end().await;
    assert_eq!(
        end,
        "the answer to the reading of all pools is longer than 64 MiB"
    );
}

#[tokio::test]
async fn a_poll_cut_at_once_is_a_fault() {
    for reply in [|| Reply::Cut(5, Duration::ZERO), || json(5, "")] {
        let running = Running::start(move |asked| match asked {
            Asked::All => all(5, "a"),
            Asked::Poll(_) => reply(),
            Asked::Beat => missing(5),
        });
        let end = running.await.end().await;
        assert!(end.contains("the wait for an event"), "{end}");
    }
}

#[tokio::test]
async fn nobody_there_and_nobody_who_listens() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let mut running = Running::start(|asked| match asked {
        Asked::Beat => missing(5),
        Asked::All => all(5, "a"),
        Asked::Poll(index) => json(index, set(index, "a")),
    })
    .await;
    running.next().await;
    running.news.close();
    assert_eq!(running.end().await, "nobody listens");

    let config = Etcd {
        endpoints: Vec::new(),
        prefix: "/x".into(),
        api: EtcdApi::V2,
        ca: None,
        certificate: None,
        key: None,
        user: None,
        password_file: None,
        timeout: PATIENCE,
        stale_after: PATIENCE,
    };
    let endpoint: Url = format!("http://{address}").parse().unwrap();
    let (sender, _news) = mpsc::channel(1);
    let cause = follow(&config, &endpoint, &BTreeSet::new(), &sender).await;
    assert_eq!(cause.to_string(), "cannot connect");
}

#[tokio::test]
async fn the_user_goes_with_each_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "secret: ü\nnot this\n").unwrap();
    let with_user = |config: &mut Etcd| {
        config.user = Some("plimsoll".into());
        config.password_file = Some(file.clone());
    };
    let mut running = Running::configured(with_user, |asked| match asked {
        Asked::All => all(5, "a"),
        Asked::Poll(6) => json(5, set(6, "b")),
        Asked::Poll(_) => Reply::Hang,
        Asked::Beat => missing(9),
    })
    .await;
    running.next().await;
    running.next().await;
    running.news.recv().await;
    let heads = running.heads.lock().unwrap().clone();
    // printf 'plimsoll:secret: ü' | base64
    let expected = "\r\nauthorization: Basic cGxpbXNvbGw6c2VjcmV0OiDDvA==\r\n";
    assert!(
        heads.len() >= 3 && heads.iter().all(|head| head.contains(expected)),
        "{heads:?}"
    );
}
