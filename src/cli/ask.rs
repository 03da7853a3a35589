//! One question to the daemon, by HTTP over its control socket.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::exit;

/// Longer than the daemon waits for what was ordered.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Ask {
    method: Method,
    path: String,
    json: bool,
    text: String,
}

pub(super) struct Answer {
    status: StatusCode,
    pub(super) text: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("no plimsoll runs here: cannot connect to {0}")]
    NotRunning(PathBuf, #[source] io::Error),
    #[error("cannot connect to {0}")]
    Connect(PathBuf, #[source] io::Error),
    #[error("{0} does not answer by HTTP")]
    Http(PathBuf, #[source] hyper::Error),
    #[error("the question cannot be asked")]
    Question(#[source] hyper::http::Error),
    #[error("{0} does not answer within {limit} s", limit = PATIENCE.as_secs())]
    Silent(PathBuf),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

impl AskError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            AskError::NotRunning(..) => exit::UNAVAILABLE,
            AskError::Connect(_, cause) if cause.kind() == ErrorKind::PermissionDenied => {
                exit::NO_PERMISSION
            }
            AskError::Connect(..) | AskError::Runtime(_) => exit::OS_ERROR,
            AskError::Http(..) | AskError::Question(_) | AskError::Silent(_) => exit::SOFTWARE,
        }
    }
}

impl Answer {
    pub(super) fn exit_code(&self) -> u8 {
        match self.status {
            StatusCode::OK => 0,
            StatusCode::ACCEPTED => exit::TEMPORARY,
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => exit::USAGE,
            StatusCode::NOT_FOUND => exit::NO_INPUT,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::METHOD_NOT_ALLOWED => exit::UNAVAILABLE,
            _ => exit::SOFTWARE,
        }
    }
}

impl Ask {
    pub(super) fn get(path: &str, json: bool) -> Ask {
        Ask {
            method: Method::GET,
            path: path.to_owned(),
            json,
            text: String::new(),
        }
    }

    pub(super) fn order(peer: &str, verb: &str, text: String) -> Ask {
        let path = format!("/bgp/peers/{}/{verb}", escaped(peer));
        Ask::order_to(Method::POST, path, text)
    }

    pub(super) fn order_to(method: Method, path: String, text: String) -> Ask {
        Ask {
            method,
            path,
            json: false,
            text,
        }
    }

    pub(super) fn answer(self, socket: &Path) -> Result<Answer, AskError> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().map_err(AskError::Runtime)?;
        runtime.block_on(async {
            let silent = || AskError::Silent(socket.to_owned());
            let answer = timeout(PATIENCE, self.exchange(socket));
            answer.await.map_err(|_| silent())?
        })
    }

    async fn exchange(self, socket: &Path) -> Result<Answer, AskError> {
        let http = |cause| AskError::Http(socket.to_owned(), cause);
        let stream = UnixStream::connect(socket).await.map_err(|cause| {
            let path = socket.to_owned();
            let gone = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
            if gone.contains(&cause.kind()) {
                AskError::NotRunning(path, cause)
            } else {
                AskError::Connect(path, cause)
            }
        })?;
        let accept = if self.json {
            "application/json"
        } else {
            "text/plain"
        };
        let request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, "localhost")
            .header(ACCEPT, accept)
            .body(Full::new(Bytes::from(self.text)))
            .map_err(AskError::Question)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let asking = async {
            let answer = sender.send_request(request).await.map_err(http)?;
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(http)?;
            let mut text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            if text.is_empty() {
                text = format!("{} answers with nothing but {status}", socket.display());
            }
            Ok(Answer { status, text })
        };
        tokio::pin!(asking);
        // The connection ends by itself once the answer is whole, or with the fault that the asking sees too.
        tokio::select! {
            answer = &mut asking => answer,
            _ = connection => asking.await,
        }
    }
}

/// A name as a part of a path (RFC 3986 section 3.3): all but letters, digits and a few signs is escaped.
pub(super) fn escaped(name: &str) -> String {
    let mut path = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b':' | b'-' | b'_' => {
                path.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(path, "%{byte:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths() {
        assert_eq!(escaped("10.0.0.1"), "10.0.0.1");
        assert_eq!(escaped("fe80::1%eth1"), "fe80::1%25eth1");
        assert_eq!(escaped("a b/../ü"), "a%20b%2F..%2F%C3%BC");
    }
}
