//! A TCP connection to a server, and in what words it failed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout_at;

use super::outcome::{Deadline, Failure};
use super::{Tools, tls, vip};
use crate::check::{Check, Path};

/// The most that a check reads of one connection, TLS and all.
const MOST_READ: usize = 1280 * 1024;

/// Descriptors that checks leave to routers, server lists, names and the API: with more servers than descriptors
/// the rest of the daemon must go on, and say so.
const SPARED: u64 = 512;

/// How often what a check sends leaves, with nothing heard in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sends {
    Once,
    /// What leaves later must not wait until the server has acknowledged what left before (RFC 9293 section 3.7.4).
    Often,
}

impl Sends {
    pub(super) fn once_if(once: bool) -> Sends {
        if once { Sends::Once } else { Sends::Often }
    }
}

/// The way of a check to its server, of whatever protocol what follows is.
pub(super) async fn open(
    check: &Check,
    tools: &Tools,
    sends: Sends,
    deadline: Deadline,
) -> Result<Stream, Failure> {
    Ok(Stream {
        inner: way(check, tools, sends, deadline).await?,
        left: MOST_READ,
    })
}

async fn way(
    check: &Check,
    tools: &Tools,
    sends: Sends,
    deadline: Deadline,
) -> Result<Box<dyn Duplex>, Failure> {
    if check.monitor.path == Path::Vip
        && let Some(stream) = vip::connect(check, &tools.vip, deadline).await?
    {
        return Ok(Box::new(stream));
    }
    let prepare = |socket: &TcpSocket| match sends {
        Sends::Once => Ok(()),
        Sends::Often => socket.set_nodelay(true),
    };
    Ok(Box::new(connect(check.target, deadline, prepare).await?))
}

/// One check's connection. Reading ends in [`TooMuch`] after [`MOST_READ`] bytes, whatever the server sends.
pub(super) struct Stream {
    inner: Box<dyn Duplex>,
    left: usize,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl AsyncRead for Stream {
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

impl AsyncWrite for Stream {
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

    /// A check that shuts down closes at once, which tells the server the same: so it costs no call of its own.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The server sent more than [`MOST_READ`].
#[derive(Debug, thiserror::Error)]
#[error("more than {} KiB", MOST_READ / 1024)]
struct TooMuch;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no answer in {}", humantime::format_duration(*.0))]
    NoAnswer(Duration),
    #[error("{}", words(.0))]
    Failed(io::Error),
    /// Says nothing about the server.
    #[error("{}", words(.0))]
    Unable(io::Error),
}

/// Connects by a socket of the kernel's; `prepare` sets options before the first packet leaves.
pub(super) async fn connect(
    target: SocketAddr,
    deadline: Deadline,
    prepare: impl FnOnce(&TcpSocket) -> io::Result<()>,
) -> Result<TcpStream, ConnectError> {
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(sort)?;
    spare(&socket)?;
    prepare(&socket).map_err(sort)?;
    let stream = match timeout_at(deadline.at, socket.connect(target)).await {
        Err(_) => return Err(ConnectError::NoAnswer(deadline.after)),
        Ok(connected) => connected.map_err(sort)?,
    };
    // A port of our own host where nobody listens can connect to itself, if the kernel picks that very port
    // for our side (RFC 9293 section 3.5, simultaneous open).
    if stream.local_addr().map_err(sort)? == target {
        return Err(ConnectError::Failed(
            io::ErrorKind::ConnectionRefused.into(),
        ));
    }
    Ok(stream)
}

/// Refuses a descriptor of the last ones.
pub(super) fn spare(socket: &impl AsRawFd) -> Result<(), ConnectError> {
    if u64::try_from(socket.as_raw_fd()).is_ok_and(|fd| fd >= *CEILING) {
        let none_left = io::Error::from_raw_os_error(libc::EMFILE);
        return Err(ConnectError::Unable(none_left));
    }
    Ok(())
}

/// The kernel gives out the lowest free descriptor, so one from here on tells that few are left. The daemon raises
/// its limit before the first check and never again.
static CEILING: LazyLock<u64> = LazyLock::new(|| {
    // It fails for no reason that getrlimit(2) knows; then the kernel's own refusal is the limit.
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    limit - SPARED.min(limit / 4)
});

pub(super) fn sort(error: io::Error) -> ConnectError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            ConnectError::Unable(error)
        }
        Some(_) | None => ConnectError::Failed(error),
    }
}

/// A socket's error as an operator would say it.
pub(super) fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "connection refused".into(),
        Some(libc::ECONNRESET | libc::EPIPE) => "connection reset by server".into(),
        Some(libc::ETIMEDOUT) => "no answer".into(),
        Some(libc::EHOSTUNREACH) => "no route to host".into(),
        Some(libc::ENETUNREACH) => "no route to network".into(),
        Some(libc::EPERM | libc::EACCES) => "not permitted by this host's firewall".into(),
        Some(code) => {
            let text = error.to_string();
            let number = format!(" (os error {code})");
            text.strip_suffix(&number).unwrap_or(&text).to_lowercase()
        }
        None => tls::words::of(error).unwrap_or_else(|| words_of(error)),
    }
}

/// Of an error that has no number, or has lost it on its way through a library.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "another crate's, and it grows: what has no words of ours has its own"
)]
fn words_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by server".into(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => "closed by server".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_words() {
        let words = |code| words(&io::Error::from_raw_os_error(code));
        assert_eq!(words(libc::EHOSTUNREACH), "no route to host");
        assert_eq!(words(libc::EMFILE), "too many open files");
        assert_eq!(
            words(libc::EADDRNOTAVAIL),
            "cannot assign requested address"
        );
    }

    #[test]
    fn our_own_want_is_told_from_the_servers_fault() {
        let sort = |code| sort(io::Error::from_raw_os_error(code));
        assert!(matches!(sort(libc::EMFILE), ConnectError::Unable(_)));
        assert!(matches!(sort(libc::ECONNREFUSED), ConnectError::Failed(_)));
        assert!(matches!(sort(libc::ENETUNREACH), ConnectError::Failed(_)));
    }
}
