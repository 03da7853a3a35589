//! All real servers in one process: answers GETs on every address of the loopback and notes when each was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::netns::Namespace;

pub(crate) const PORT: u16 = 8000;
const CHILD: &str = "PLIMSOLL_BENCH_SERVER";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";

/// Since the last report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) checks: u64,
    /// From one check to the next one of the same kind and server, in milliseconds: half of them take longer.
    pub(crate) median: u64,
    /// One of 100 takes longer.
    pub(crate) late: u64,
}

pub(crate) struct Server {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn start(namespace: &Namespace) -> Server {
        let this = std::env::current_exe().unwrap();
        let mut child = namespace
            .command(this.to_str().unwrap())
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let reports = BufReader::new(child.stdout.take().unwrap());
        let mut server = Server {
            child,
            orders,
            reports,
        };
        // It listens when it answers.
        server.report();
        server
    }

    pub(crate) fn report(&mut self) -> Report {
        self.orders.write_all(b"report\n").unwrap();
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

pub(crate) fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let notes = Arc::new(Mutex::new(Notes::default()));
    let listening = runtime.block_on(async { listener() });
    let answering = notes.clone();
    std::thread::spawn(move || answer_orders(&answering));
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        loop {
            let (stream, _) = listening.accept().await.unwrap();
            let notes = notes.clone();
            tokio::task::spawn_local(async move { drop(talk(stream, &notes).await) });
        }
    }));
}

fn listener() -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([0, 0, 0, 0], PORT).into()).unwrap();
    socket.listen(65535).unwrap()
}

fn answer_orders(notes: &Mutex<Notes>) {
    for line in std::io::stdin().lines() {
        line.unwrap();
        let report = notes.lock().unwrap().report();
        println!("{}", serde_json::to_string(&report).unwrap());
    }
}

async fn talk(mut stream: TcpStream, notes: &Mutex<Notes>) -> std::io::Result<()> {
    let (server, at) = (stream.local_addr()?.ip(), Instant::now());
    let mut head = [0; 1024];
    let mut read = 0;
    while !head[..read].ends_with(b"\r\n\r\n") {
        let more = stream.read(&mut head[read..]).await?;
        if more == 0 {
            break;
        }
        read += more;
    }
    notes.lock().unwrap().asked(server, read > 0, at);
    if read > 0 {
        stream.write_all(ANSWER).await?;
        stream.shutdown().await?;
        while stream.read(&mut head).await? > 0 {}
    }
    Ok(())
}

#[derive(Default)]
struct Notes {
    checks: u64,
    last: BTreeMap<(IpAddr, bool), Instant>,
    /// How often so many milliseconds were between two.
    gaps: BTreeMap<u64, u64>,
}

impl Notes {
    /// `get`: it was a GET.
    fn asked(&mut self, server: IpAddr, get: bool, at: Instant) {
        self.checks += 1;
        if let Some(last) = self.last.insert((server, get), at) {
            let gap = u64::try_from((at - last).as_millis()).unwrap();
            *self.gaps.entry(gap).or_default() += 1;
        }
    }

    /// And begins anew.
    fn report(&mut self) -> Report {
        let report = Report {
            checks: std::mem::take(&mut self.checks),
            median: self.percentile(50),
            late: self.percentile(99),
        };
        self.gaps.clear();
        report
    }

    fn percentile(&self, percent: u64) -> u64 {
        let all: u64 = self.gaps.values().sum();
        let mut seen = 0;
        for (gap, count) in &self.gaps {
            seen += count;
            if seen * 100 >= all * percent {
                return *gap;
            }
        }
        0
    }
}
