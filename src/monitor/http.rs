//! `http`: any request without a body, on a connection of its own, judged by the answer's status and body.

use bytes::Bytes;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::http::request::Builder;
use hyper::{Request, Uri};
use tokio::task::spawn_blocking;
use url::Position;

use super::connect::{Sends, open};
use super::exchange::{Answer, Ask, exchange};
use super::outcome::{Deadline, Failure, Outcome, Passed};
use super::tls::{Wanted, server_name};
use super::{Tools, proxy_protocol};
use crate::check::expect::Pattern;
use crate::check::{Check, Http, HttpVersion, LoadFrom};

pub(super) const AGENT: &str = concat!("plimsoll/", env!("CARGO_PKG_VERSION"));

/// What is searched at once, in bytes.
const SMALL_BODY: usize = 16 * 1024;

/// The largest body that a load is looked for in, as it is parsed at once and whole, in bytes.
const LARGEST_JSON: usize = 64 * 1024;

pub(super) async fn ask(check: &Check, probe: &Http, tools: &Tools, deadline: Deadline) -> Outcome {
    let ask = Ask {
        version: probe.version,
        request: request(probe)?,
        status: &probe.status,
        keep_body: probe.body.is_some() || matches!(load_from(check), Some(LoadFrom::Json(_))),
    };
    let https = probe.url.scheme() == "https";
    let name = https.then(|| server_name(&probe.tls, probe.url.host(), check));
    let name = name.transpose()?;
    // Such a request has no body: its head is all.
    let plain = probe.version == HttpVersion::Http1 && name.is_none();
    let sends = Sends::once_if(plain && probe.proxy_protocol.is_none());
    let mut stream = open(check, tools, sends, deadline).await?;
    proxy_protocol::send(&mut stream, probe.proxy_protocol, deadline).await?;
    let answer = match name {
        None => exchange(stream, ask, deadline).await?,
        Some(name) => {
            let wanted = Wanted {
                client: &probe.tls,
                name,
                http2: probe.version == HttpVersion::Http2,
            };
            let stream = tools.tls.handshake(check, stream, wanted, deadline).await?;
            exchange(stream, ask, deadline).await?
        }
    };
    judge(check, probe, answer, deadline).await
}

/// Its status is good.
async fn judge(check: &Check, probe: &Http, answer: Answer, deadline: Deadline) -> Outcome {
    let load = load_from(check).and_then(|from| load(from, &answer));
    if let Some(pattern) = &probe.body {
        let size = answer.body.len();
        let found = is_in(pattern, answer.body);
        if !deadline.limit("a search of the body", found).await? {
            return Err(Failure::Server(format!(
                "{pattern} is not in the body, {size} bytes"
            )));
        }
    }
    Ok(Passed { load })
}

fn load_from(check: &Check) -> Option<&LoadFrom> {
    check.monitor.load.as_ref().map(|load| &load.from)
}

/// The text that has the load in it, if it is there.
fn load(from: &LoadFrom, answer: &Answer) -> Option<String> {
    match from {
        LoadFrom::Output => None,
        LoadFrom::Header(name) => {
            let value = answer.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
        LoadFrom::Json(_) if answer.body.len() > LARGEST_JSON => None,
        LoadFrom::Json(_) => Some(String::from_utf8_lossy(&answer.body).into_owned()),
    }
}

/// An unlucky expression may search a large body for seconds: not on a thread that others wait for.
async fn is_in(pattern: &Pattern, body: Vec<u8>) -> bool {
    if body.len() <= SMALL_BODY {
        return pattern.is_in(&body);
    }
    let pattern = pattern.clone();
    let found = spawn_blocking(move || pattern.is_in(&body)).await;
    // It has not panicked, but the daemon is stopping.
    found.unwrap_or(false)
}

fn request(probe: &Http) -> Result<Request<Bytes>, Failure> {
    let url = &probe.url;
    let bad =
        |error: hyper::http::Error| Failure::Server(format!("can not ask for {url}: {error}"));
    let mut headers = probe.headers.clone();
    let host = headers.remove(HOST).map_or_else(
        || HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]),
        Ok,
    );
    let host = host.map_err(|error| bad(error.into()))?;
    headers
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(AGENT));
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let request = Builder::new().method(probe.method.clone());
    let request = match probe.version {
        HttpVersion::Http1 => {
            headers.insert(HOST, host);
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
            request.uri(path)
        }
        HttpVersion::Http2 => {
            // In place of Host (RFC 9113 section 8.3.1).
            let uri = Uri::builder()
                .scheme(url.scheme())
                .authority(host.as_bytes())
                .path_and_query(path);
            request.uri(uri.build().map_err(bad)?)
        }
    };
    let mut request = request.body(Bytes::new()).map_err(bad)?;
    *request.headers_mut() = headers;
    Ok(request)
}
