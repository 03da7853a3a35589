//! `grpc`: asks a server for its own health, by `Check` of `grpc.health.v1`.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, over
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use bytes::{BufMut, Bytes, BytesMut};
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, Uri};
use percent_encoding::percent_decode_str;
use prost::Message;

use super::connect::{Sends, open};
use super::exchange::{Answer, Ask, exchange};
use super::http::AGENT;
use super::outcome::{Deadline, Failure, Outcome, Passed};
use super::tls::{Wanted, server_name};
use super::{Tools, proxy_protocol};
use crate::check::expect::Statuses;
use crate::check::{Check, Grpc, HttpVersion};

const PATH: &str = "/grpc.health.v1.Health/Check";
const TYPE: &str = "application/grpc";
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

pub(super) async fn ask(check: &Check, probe: &Grpc, tools: &Tools, deadline: Deadline) -> Outcome {
    let ok = Statuses::from([200].as_slice());
    let ask = Ask {
        version: HttpVersion::Http2,
        request: request(check, probe, deadline)?,
        status: &ok,
        keep_body: true,
    };
    let tls = probe.tls.as_ref();
    let name = tls.map(|tls| server_name(tls, None, check)).transpose()?;
    let mut stream = open(check, tools, Sends::Often, deadline).await?;
    proxy_protocol::send(&mut stream, probe.proxy_protocol, deadline).await?;
    let answer = match tls.zip(name) {
        None => exchange(stream, ask, deadline).await?,
        Some((client, name)) => {
            let wanted = Wanted {
                client,
                name,
                http2: true,
            };
            let stream = tools.tls.handshake(check, stream, wanted, deadline).await?;
            exchange(stream, ask, deadline).await?
        }
    };
    judge(&answer).map_err(Failure::Server)
}

fn request(check: &Check, probe: &Grpc, deadline: Deadline) -> Result<Request<Bytes>, Failure> {
    let authority = match &probe.authority {
        Some(authority) => authority.clone(),
        None if check.host.as_str().contains(':') => format!("[{}]", check.host),
        None => check.host.to_string(),
    };
    let bad = |error: hyper::http::Error| {
        Failure::Server(format!("can not ask {authority} by gRPC: {error}"))
    };
    let scheme = if probe.tls.is_some() { "https" } else { "http" };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority.as_str())
        .path_and_query(PATH);
    Request::post(uri.build().map_err(bad)?)
        .header(CONTENT_TYPE, TYPE)
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        // Eight digits at most; a check takes no more than a day.
        .header("grpc-timeout", format!("{}m", deadline.after.as_millis()))
        .body(message(&probe.service))
        .map_err(bad)
}

fn message(service: &str) -> Bytes {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let length = request.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.extend_from_slice(&request.encode_to_vec());
    bytes.freeze()
}

fn judge(answer: &Answer) -> Result<Passed, String> {
    let kind = answer.headers.get(CONTENT_TYPE);
    let kind = kind.map_or("", |kind| kind.to_str().unwrap_or("?"));
    if !kind.starts_with(TYPE) {
        return Err(format!("not gRPC: content-type {kind:?}, expected {TYPE}"));
    }
    // An answer without a message has its trailers in its head.
    let ended = [&answer.trailers, &answer.headers]
        .into_iter()
        .find_map(status);
    match ended {
        None => return Err("gRPC: no grpc-status".into()),
        Some(Status { code: "0", .. }) => {}
        Some(Status { code, message }) => return Err(format!("gRPC: {}{message}", name(code))),
    }
    let status = serving_status(&answer.body).map_err(|why| format!("gRPC: {why}"))?;
    match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => Ok(Passed::default()),
        Ok(status) => Err(status.name().to_owned()),
        Err(_) => Err(format!("unknown serving status {status}")),
    }
}

/// How a call ended.
struct Status<'a> {
    code: &'a str,
    /// With what goes before it; or empty.
    message: String,
}

fn status(headers: &HeaderMap) -> Option<Status<'_>> {
    let code = headers.get("grpc-status")?.to_str().ok()?;
    // Percent-encoded, so that it is ASCII.
    let message = headers
        .get("grpc-message")
        .and_then(|text| text.to_str().ok());
    let message = message.map_or(String::new(), |text| {
        let text = percent_decode_str(text).decode_utf8_lossy();
        format!(", {text}")
    });
    Some(Status { code, message })
}

fn serving_status(body: &[u8]) -> Result<i32, String> {
    let Some((prefix, rest)) = body.split_first_chunk::<PREFIX>() else {
        return Err("no message".into());
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err("the message is compressed, which was not asked for".into());
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if rest.len() != length {
        let came = rest.len();
        return Err(format!("a message of {length} bytes, {came} came"));
    }
    let response = HealthCheckResponse::decode(rest)
        .map_err(|error| format!("the message is not a health check's ({error})"))?;
    Ok(response.status)
}

impl ServingStatus {
    fn name(self) -> &'static str {
        match self {
            ServingStatus::Unknown => "UNKNOWN",
            ServingStatus::Serving => "SERVING",
            ServingStatus::NotServing => "NOT_SERVING",
            ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// <https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>
fn name(code: &str) -> &str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let number = code.parse::<usize>().ok();
    number
        .and_then(|number| NAMES.get(number).copied())
        .unwrap_or(code)
}
