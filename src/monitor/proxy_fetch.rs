//! `proxy-fetch`: a GET, on a connection of its own.
//!
//! Whatever the server sends, a check ends at its timeout and reads no more than a [`Stream`](super::connect::Stream)
//! lets it, of which hyper holds [`LARGEST_HEAD`] at once.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING, USER_AGENT};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;
use url::{Host, Position, Url};

use super::Tools;
use super::connect::{TooMuch, open, words};
use super::outcome::{Deadline, Failure, Outcome, Passed};
use crate::check::{Check, ProxyFetch};

/// The largest head of an answer.
const LARGEST_HEAD: usize = 64 * 1024;
const AGENT: &str = concat!("plimsoll/", env!("CARGO_PKG_VERSION"));

/// One GET of one URL, picked at random, or of each.
pub(super) async fn ask(
    check: &Check,
    probe: &ProxyFetch,
    tools: &Tools,
    deadline: Deadline,
) -> Outcome {
    let fetch = |url| fetch(check, url, probe, tools, deadline);
    let Some(may_fail) = probe.check_all else {
        let url = fastrand::choice(&probe.url);
        return fetch(url.ok_or_else(|| Failure::server("no url to fetch"))?).await;
    };
    let all = join_all(probe.url.iter().map(fetch)).await;
    let mut failed = Vec::new();
    for (outcome, url) in all.into_iter().zip(&probe.url) {
        match outcome {
            Ok(Passed { .. }) => {}
            Err(unable @ Failure::Unable(_)) => return Err(unable),
            Err(failure) => failed.push(format!("{url}: {failure}")),
        }
    }
    if u32::try_from(failed.len()).is_ok_and(|failed| failed <= may_fail) {
        return Ok(Passed::default());
    }
    let (failed, first) = (failed.len(), failed.swap_remove(0));
    let all = probe.url.len();
    Err(Failure::Server(format!(
        "{failed} of {all} failed, {first}"
    )))
}

async fn fetch(
    check: &Check,
    url: &Url,
    probe: &ProxyFetch,
    tools: &Tools,
    deadline: Deadline,
) -> Outcome {
    let request = request(url)?;
    let stream = open(check, tools, deadline).await?;
    if url.scheme() != "https" {
        return exchange(stream, request, probe, deadline).await;
    }
    let connector = tools.tls.connector(probe.verify_certificate).await;
    let name = server_name(url)?;
    let stream = deadline
        .limit("the TLS handshake", connector.connect(name, stream))
        .await?
        .map_err(|error| Failure::Server(format!("TLS: {}", words(&error))))?;
    exchange(stream, request, probe, deadline).await
}

fn request(url: &Url) -> Result<Request<Empty<Bytes>>, Failure> {
    Request::get(&url[Position::BeforePath..Position::AfterQuery])
        .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Failure::Server(format!("can not ask for {url}: {error}")))
}

fn server_name(url: &Url) -> Result<ServerName<'static>, Failure> {
    let bad = || Failure::Server(format!("{url} can not be named in TLS"));
    match url.host().ok_or_else(bad)? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).map_err(|_| bad()),
        Host::Ipv4(address) => Ok(ServerName::from(std::net::IpAddr::from(address))),
        Host::Ipv6(address) => Ok(ServerName::from(std::net::IpAddr::from(address))),
    }
}

/// Asks, and judges the answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    probe: &ProxyFetch,
    deadline: Deadline,
) -> Outcome {
    let mut http = http1::Builder::new();
    http.max_buf_size(LARGEST_HEAD);
    let (mut sender, connection) = http
        .handshake(TokioIo::new(stream))
        .await
        .map_err(bad_head)?;
    let ask = async {
        let answer = deadline
            .limit("headers", sender.send_request(request))
            .await?;
        let answer = answer.map_err(bad_head)?;
        let got = answer.status().as_u16();
        if !probe.status.contains(&got) {
            let expected = list(&probe.status);
            return Err(Failure::Server(format!(
                "status {got}, expected {expected}"
            )));
        }
        let sized = is_sized(answer.headers());
        deadline
            .limit("the body", read(answer.into_body(), sized))
            .await??;
        Ok(Passed::default())
    };
    // The connection moves what `ask` waits for, in the same task: if either stops, both do.
    let drive = async {
        if let Err(error) = connection.await {
            debug!(%error, "connection ended");
        }
        pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        passed = ask => passed,
        never = drive => match never {},
    }
}

/// Reads the body to its end or to the limit, after which nothing in it matters, and throws it away.
async fn read(mut body: Incoming, sized: bool) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        let Err(error) = frame else { continue };
        let socket = find::<io::Error>(&error);
        if socket.is_some_and(is_too_much) {
            return Ok(());
        }
        // Many servers end such a body by closing TCP, without TLS's own farewell (RFC 8446 section 6.1).
        if !sized && socket.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            return Ok(());
        }
        return Err(Failure::Server(format!("body: {}", http_words(&error))));
    }
    Ok(())
}

/// Whether the body says where it ends (RFC 9112 section 6.3); else it ends with the connection.
fn is_sized(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
}

fn bad_head(error: hyper::Error) -> Failure {
    Failure::Server(format!("headers: {}", http_words(&error)))
}

fn http_words(error: &hyper::Error) -> String {
    if let Some(error) = find::<io::Error>(error) {
        return words(error);
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return "closed by server".into();
    }
    if error.is_parse_too_large() {
        return format!("more than {} KiB", LARGEST_HEAD / 1024);
    }
    if error.is_parse() {
        return format!("not HTTP ({error})");
    }
    error.to_string()
}

fn find<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

fn list(statuses: &[u16]) -> String {
    let texts: Vec<String> = statuses.iter().map(u16::to_string).collect();
    texts.join(" or ")
}

fn is_too_much(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TooMuch>())
}
