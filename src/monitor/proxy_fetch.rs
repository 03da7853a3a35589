//! `proxy-fetch`: one GET each interval, each on a connection of its own.
//!
//! Whatever the server sends, a check ends at its timeout and reads no more than [`MOST_READ`] bytes,
//! of which hyper holds [`LARGEST_HEAD`] at once.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING, USER_AGENT};
use hyper::{Request, http};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;
use url::{Host, Position, Url};

use super::Report;
use super::connect::{ConnectError, connect, words};
use super::tls::Tls;
use crate::config::ProxyFetch;

/// The largest head of an answer.
const LARGEST_HEAD: usize = 64 * 1024;
/// The most that is read of one answer, TLS and all; what comes after it in a body doesn't matter.
const MOST_READ: usize = 1024 * 1024;
/// A timeout that is noticed so long after it was due says that this host was suspended, or has too much to do.
const LATE: Duration = Duration::from_millis(250);
const AGENT: &str = concat!("plimsoll/", env!("CARGO_PKG_VERSION"));

/// Checks for ever.
pub(super) async fn run(
    target: SocketAddr,
    options: &ProxyFetch,
    tls: &Tls,
    report: &mut Report,
) -> Infallible {
    let mut due = Instant::now();
    loop {
        let began = Instant::now();
        let mut fetched = fetch(target, options, tls).await;
        if is_late(&fetched) && began.elapsed() > options.timeout + LATE {
            // It was us who slept, not the server. But once is enough: a dead one must not live by our being slow.
            fetched = fetch(target, options, tls).await;
        }
        match fetched {
            Ok(()) => report.up().await,
            Err(error @ FetchError::Connect(ConnectError::Unable(_))) => {
                report.unable(&error.to_string()).await;
            }
            Err(error) => report.down(&error.to_string()).await,
        }
        due = next(due, options.interval, Instant::now());
        sleep_until(due).await;
    }
}

/// Whether the time was up before the answer was there.
fn is_late(fetched: &Result<(), FetchError>) -> bool {
    matches!(
        fetched,
        Err(FetchError::TimedOut { .. } | FetchError::Connect(ConnectError::NoAnswer(_)))
    )
}

/// When the check after the one that was due at `due` is: an interval later, give or take a twentieth so that
/// checks don't fall into step, or now, if that is over. So lateness is made up by one check, not by many.
fn next(due: Instant, interval: Duration, now: Instant) -> Instant {
    (due + interval.mul_f64(0.95 + fastrand::f64() / 10.0)).max(now)
}

/// Why a server did not pass.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no url to fetch")]
    NoUrl,
    #[error("can not ask for {url}: {source}")]
    BadUrl { url: Url, source: http::Error },
    #[error("{0} can not be named in TLS")]
    BadName(Url),
    #[error(transparent)]
    Connect(ConnectError),
    #[error("timed out after {} waiting for {stage}", humantime::format_duration(*.after))]
    TimedOut {
        after: Duration,
        stage: &'static str,
    },
    #[error("TLS: {}", words(.0))]
    Tls(io::Error),
    #[error("headers: {}", http_words(.0))]
    Head(hyper::Error),
    #[error("status {got}, expected {}", list(.expected))]
    Status { got: u16, expected: Vec<u16> },
    #[error("body: {}", http_words(.0))]
    Body(hyper::Error),
}

/// When the whole check must be over.
#[derive(Clone, Copy)]
struct Deadline {
    after: Duration,
    at: Instant,
}

impl Deadline {
    async fn limit<T>(
        self,
        stage: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, FetchError> {
        timeout_at(self.at, work)
            .await
            .map_err(|_| FetchError::TimedOut {
                after: self.after,
                stage,
            })
    }
}

/// One GET of one url, picked at random.
async fn fetch(target: SocketAddr, options: &ProxyFetch, tls: &Tls) -> Result<(), FetchError> {
    let url = fastrand::choice(&options.url).ok_or(FetchError::NoUrl)?;
    let deadline = Deadline {
        after: options.timeout,
        at: Instant::now() + options.timeout,
    };
    let request = request(url)?;
    let stream = connect(target, options.timeout, |socket| socket.set_nodelay(true))
        .await
        .map_err(FetchError::Connect)?;
    let stream = Metered {
        inner: stream,
        left: MOST_READ,
    };
    if url.scheme() != "https" {
        return exchange(stream, request, options, deadline).await;
    }
    let connector = tls.connector(options.verify_certificate).await;
    let name = server_name(url)?;
    let stream = deadline
        .limit("the TLS handshake", connector.connect(name, stream))
        .await?
        .map_err(FetchError::Tls)?;
    exchange(stream, request, options, deadline).await
}

fn request(url: &Url) -> Result<Request<Empty<Bytes>>, FetchError> {
    Request::get(&url[Position::BeforePath..Position::AfterQuery])
        .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|source| FetchError::BadUrl {
            url: url.clone(),
            source,
        })
}

fn server_name(url: &Url) -> Result<ServerName<'static>, FetchError> {
    let bad = || FetchError::BadName(url.clone());
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
    options: &ProxyFetch,
    deadline: Deadline,
) -> Result<(), FetchError> {
    let mut http = http1::Builder::new();
    http.max_buf_size(LARGEST_HEAD);
    let (mut sender, connection) = http
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Head)?;
    let ask = async {
        let answer = deadline
            .limit("headers", sender.send_request(request))
            .await?;
        let answer = answer.map_err(FetchError::Head)?;
        let got = answer.status().as_u16();
        if !options.status.contains(&got) {
            return Err(FetchError::Status {
                got,
                expected: options.status.clone(),
            });
        }
        let sized = is_sized(answer.headers());
        deadline
            .limit("the body", read(answer.into_body(), sized))
            .await?
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

/// Reads the body to its end or to the limit, and throws it away.
async fn read(mut body: Incoming, sized: bool) -> Result<(), FetchError> {
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
        return Err(FetchError::Body(error));
    }
    Ok(())
}

/// Whether the body says where it ends (RFC 9112 section 6.3); else it ends with the connection.
fn is_sized(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
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

/// The server sent more than [`MOST_READ`].
#[derive(Debug, thiserror::Error)]
#[error("more than {} KiB", MOST_READ / 1024)]
struct TooMuch;

fn is_too_much(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TooMuch>())
}

/// A stream that ends in [`TooMuch`] when `left` bytes have been read.
struct Metered<S> {
    inner: S,
    left: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(TooMuch)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.left = self.left.saturating_sub(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
