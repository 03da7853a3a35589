//! Writes by etcd's v2 API, one after the other on one connection: quicker than confctl, for what takes many.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use plimsoll::conftool::Pooled;

pub(crate) struct Writer {
    stream: BufReader<TcpStream>,
}

impl Writer {
    /// To the endpoint `http://ADDRESS`.
    pub(crate) fn new(endpoint: &str) -> Writer {
        let stream = TcpStream::connect(endpoint.trim_start_matches("http://")).unwrap();
        stream.set_nodelay(true).unwrap();
        let patience = Duration::from_secs(20);
        stream.set_read_timeout(Some(patience)).unwrap();
        Writer {
            stream: BufReader::new(stream),
        }
    }

    /// A server of a pool; gives the index of the write.
    pub(crate) fn node(&mut self, node: &str, weight: u32, pooled: Pooled) -> u64 {
        let written = self.try_node(node, weight, pooled);
        written.unwrap_or_else(|answer| panic!("{node}: {answer}"))
    }

    /// The same; an error is etcd's answer. What was written all the same, etcd itself does not know.
    pub(crate) fn try_node(
        &mut self,
        node: &str,
        weight: u32,
        pooled: Pooled,
    ) -> Result<u64, String> {
        let value = format!(r#"{{"weight": {weight}, "pooled": "{pooled}"}}"#);
        let key = format!("conftool/v1/pools/{node}");
        self.write("PUT", &key, &value)
    }

    /// A write of a key that has nothing to do with pools.
    pub(crate) fn elsewhere(&mut self, number: usize) -> u64 {
        self.write("PUT", "elsewhere", &number.to_string()).unwrap()
    }

    pub(crate) fn delete(&mut self, key: &str) -> u64 {
        self.write("DELETE", key, "").unwrap()
    }

    fn write(&mut self, method: &str, key: &str, value: &str) -> Result<u64, String> {
        let escaped = |byte: u8| format!("%{byte:02x}");
        let body: String = value.bytes().map(escaped).collect();
        let body = if value.is_empty() {
            body
        } else {
            format!("value={body}")
        };
        let request = format!(
            "{method} /v2/keys/{key} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (head, body) = self.answer();
        if !head.starts_with("HTTP/1.1 20") {
            return Err(head + &body);
        }
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        Ok(answer["node"]["modifiedIndex"].as_u64().unwrap())
    }

    fn answer(&mut self) -> (String, String) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.stream.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let length = |line: &str| line.strip_prefix("Content-Length: ")?.parse().ok();
        let length: usize = head.lines().find_map(length).unwrap();
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }
}
