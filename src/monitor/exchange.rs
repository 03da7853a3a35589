//! One HTTP request and its answer, over HTTP/1.1 or HTTP/2: what all that ask by HTTP share.
//!
//! Whatever the server sends, an exchange ends at its deadline and reads no more than a
//! [`Stream`](super::connect::Stream) lets it. The connection is driven by whoever asks: it is no task of its own.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending};
use std::io;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::connect::words;
use super::outcome::{Deadline, Failure};
use crate::check::HttpVersion;
use crate::check::expect::Statuses;

/// The largest head of an answer.
const LARGEST_HEAD: usize = 64 * 1024;
/// The largest body; what comes after it doesn't matter.
const LARGEST_BODY: usize = 1024 * 1024;
/// What may be on its way to us at once by HTTP/2 (RFC 9113 section 6.9).
const WINDOW: u32 = 64 * 1024 - 1;

/// What is asked, and what of the answer is wanted.
pub(super) struct Ask<'a> {
    pub(super) version: HttpVersion,
    pub(super) request: Request<Bytes>,
    /// With another status the body is not waited for.
    pub(super) status: &'a Statuses,
    /// The body must come whole; but is it of use?
    pub(super) keep_body: bool,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    /// As much as was kept of it.
    pub(super) body: Vec<u8>,
    pub(super) trailers: HeaderMap,
}

/// Asks, and waits for the whole answer.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    ask: Ask<'_>,
    deadline: Deadline,
) -> Result<Answer, Failure> {
    match ask.version {
        HttpVersion::Http1 => http1(stream, ask, deadline).await,
        HttpVersion::Http2 => http2(stream, ask, deadline).await,
    }
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    ask: Ask<'_>,
    deadline: Deadline,
) -> Result<Answer, Failure> {
    let bad_head = |error| Failure::Server(format!("headers: {}", http1_words(&error)));
    let mut http = http1::Builder::new();
    http.max_buf_size(LARGEST_HEAD);
    let (mut sender, connection) = http
        .handshake(TokioIo::new(stream))
        .await
        .map_err(bad_head)?;
    let request = ask.request.map(Full::new);
    let exchange = async {
        let answer = deadline
            .limit("headers", sender.send_request(request))
            .await?
            .map_err(bad_head)?;
        let (head, body) = answer.into_parts();
        expect(head.status, ask.status)?;
        let mut answer = Answer::new(head.headers);
        let read = read_http1(&mut answer, body, ask.keep_body);
        deadline.limit("the body", read).await??;
        Ok(answer)
    };
    driven(exchange, connection).await
}

/// Reads the body to its end or to the limit.
async fn read_http1(answer: &mut Answer, mut body: Incoming, keep: bool) -> Result<(), Failure> {
    // Whether the body says where it ends (RFC 9112 section 6.3); else it ends with the connection.
    let headers = &answer.headers;
    let sized = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    let mut left = LARGEST_BODY;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                if !answer.take(&data, &mut left, keep) {
                    return Ok(());
                }
            }
            // Many servers end such a body by closing TCP, without TLS's own farewell (RFC 8446 section 6.1).
            Err(error) if !sized && find::<io::Error>(&error).is_some_and(is_end) => {
                return Ok(());
            }
            Err(error) => {
                let why = http1_words(&error);
                return Err(Failure::Server(format!("body: {why}")));
            }
        }
    }
    Ok(())
}

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    ask: Ask<'_>,
    deadline: Deadline,
) -> Result<Answer, Failure> {
    let bad = |error| Failure::Server(http2_words(&error));
    let mut http = h2::client::Builder::new();
    http.enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(LARGEST_HEAD.try_into().unwrap_or(u32::MAX));
    let (sender, mut connection) = deadline
        .limit("HTTP/2 to begin", http.handshake(stream))
        .await?
        .map_err(bad)?;
    let (head, body) = ask.request.into_parts();
    let request = Request::from_parts(head, ());
    let exchange = async {
        let mut sender = deadline
            .limit("HTTP/2 to begin", sender.ready())
            .await?
            .map_err(bad)?;
        let (answer, mut send) = sender.send_request(request, body.is_empty()).map_err(bad)?;
        if !body.is_empty() {
            send.send_data(body, true).map_err(bad)?;
        }
        let answer = deadline.limit("headers", answer).await?;
        let (head, body) = answer.map_err(bad)?.into_parts();
        expect(head.status, ask.status)?;
        let mut answer = Answer::new(head.headers);
        let read = read_http2(&mut answer, body, ask.keep_body);
        deadline.limit("the body", read).await??;
        Ok(answer)
    };
    let answer = driven(exchange, &mut connection).await;
    // What is left to say is a GOAWAY (RFC 9113 section 6.8), if the socket takes it at once.
    drop(connection.now_or_never());
    answer
}

async fn read_http2(
    answer: &mut Answer,
    mut body: h2::RecvStream,
    keep: bool,
) -> Result<(), Failure> {
    let bad = |error| Failure::Server(format!("body: {}", http2_words(&error)));
    let mut left = LARGEST_BODY;
    while let Some(data) = body.data().await {
        let data = data.map_err(bad)?;
        body.flow_control()
            .release_capacity(data.len())
            .map_err(bad)?;
        if !answer.take(&data, &mut left, keep) {
            return Ok(());
        }
    }
    answer.trailers = body.trailers().await.map_err(bad)?.unwrap_or_default();
    Ok(())
}

/// The connection moves what the exchange waits for, in the same task: if either stops, both do. It comes first: who
/// is late to look must not find that the time is up while the answer lies in the socket.
async fn driven<T, E: Error>(
    exchange: impl Future<Output = Result<T, Failure>>,
    connection: impl Future<Output = Result<(), E>>,
) -> Result<T, Failure> {
    let drive = async {
        if let Err(error) = connection.await {
            debug!(%error, "connection ended");
        }
        pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        never = drive => match never {},
        answer = exchange => answer,
    }
}

impl Answer {
    fn new(headers: HeaderMap) -> Answer {
        Answer {
            headers,
            body: Vec::new(),
            trailers: HeaderMap::new(),
        }
    }

    /// Whether more is wanted.
    fn take(&mut self, data: &[u8], left: &mut usize, keep: bool) -> bool {
        let taken = data.len().min(*left);
        *left -= taken;
        if keep {
            self.body.extend_from_slice(&data[..taken]);
        }
        *left > 0
    }
}

fn expect(got: StatusCode, expected: &Statuses) -> Result<(), Failure> {
    if expected.contains(got.as_u16()) {
        return Ok(());
    }
    let got = match got.canonical_reason() {
        Some(reason) => format!("{} {reason}", got.as_str()),
        None => got.as_str().to_owned(),
    };
    Err(Failure::Server(format!("{got}, expected {expected}")))
}

fn http1_words(error: &hyper::Error) -> String {
    if let Some(error) = find::<io::Error>(error) {
        return words(error);
    }
    // What cancelled it says more.
    if error.is_canceled()
        && let Some(error) = find::<hyper::Error>(error)
    {
        return http1_words(error);
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

fn http2_words(error: &h2::Error) -> String {
    if let Some(error) = error.get_io() {
        return words(error);
    }
    match error.reason() {
        Some(reason) if error.is_remote() && error.is_go_away() => {
            format!("HTTP/2: the server sent GOAWAY {reason:?}")
        }
        Some(reason) if error.is_remote() => {
            format!("HTTP/2: the server reset the stream, {reason:?}")
        }
        Some(reason) => format!("not HTTP/2 ({reason:?})"),
        None => format!("HTTP/2: {error}"),
    }
}

fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
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
