//! `idle-connection`: holds one TCP connection to the server and takes its loss for the server's.
//!
//! - Connected is up. Refused, reset, no answer is down, at once; then tries again with back-off.
//! - Closed cleanly by the server: one quick reconnect. If it works nothing has happened, else the server is down.
//! - A connection is *young* until it has lived for `timeout-clean-reconnect`. If one that a quick reconnect made
//!   is closed young, the server is down: one that accepts and closes at once is no server, and must not
//!   keep us busy.
//! - After a connection was lost young, the next must grow out of that age before it counts as up:
//!   a server that accepts and then drops everybody doesn't flap.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::connect::{ConnectError, connect, words};
use super::outcome::{Deadline, Failure, Passed};
use super::report::Report;
use crate::backoff::Backoff;
use crate::check::{Check, IdleConnection, Keepalive};

/// The first retry comes about so soon, the next ones double it.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The same where it was this host that could not: that says nothing of how soon the server is back.
const OUR_FAULT: Duration = Duration::from_secs(1);
/// However short `timeout-clean-reconnect` is, quick reconnects are no closer together.
const YOUNGEST: Duration = Duration::from_millis(100);
/// What a server may send within each [`PAUSE`]; the rest waits in the kernel, which stops the server.
const ALLOWANCE: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_secs(1);
/// The kernel's buffer for what the server sends, which nobody wants: `SO_RCVBUF`.
const RECEIVE_BUFFER: u32 = 8 * 1024;

/// Checks for ever.
pub(super) async fn run(
    check: &Check,
    options: &IdleConnection,
    report: &mut Report,
) -> Infallible {
    let mut backoff = Backoff::new(FIRST_RETRY, options.max_delay);
    let mut server = Server {
        target: check.target,
        options,
        on_probation: false,
    };
    loop {
        let error = match server.connect(check.monitor.timeout).await {
            Ok(connection) => {
                let lost = server.keep(connection, report).await;
                server.on_probation = lost.young;
                if !lost.young {
                    backoff.reset();
                }
                match lost.why {
                    Why::NoNewOne(error) => Some(error),
                    Why::Broken(error) => {
                        let lost = Failure::Server(words(&error));
                        report.take(Err(lost), None).await;
                        None
                    }
                    Why::ClosedYoung => {
                        let lost = Failure::server("closed by server at once");
                        report.take(Err(lost), None).await;
                        None
                    }
                }
            }
            Err(error) => Some(error),
        };
        let wait = match &error {
            Some(ConnectError::Unable(_)) => OUR_FAULT,
            Some(ConnectError::NoAnswer(_) | ConnectError::Failed(_)) | None => backoff.next(),
        };
        if let Some(error) = error {
            report.take(Err(error.into()), None).await;
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = report.up_again() => {}
        }
    }
}

struct Server<'a> {
    target: SocketAddr,
    options: &'a IdleConnection,
    /// The last connection was lost young: the next must prove itself.
    on_probation: bool,
}

struct Lost {
    why: Why,
    young: bool,
}

enum Why {
    /// It was closed cleanly and the quick reconnect failed.
    NoNewOne(ConnectError),
    Broken(io::Error),
    ClosedYoung,
}

/// How one connection ended.
enum End {
    Closed,
    Broken(io::Error),
}

impl Server<'_> {
    async fn connect(&self, limit: Duration) -> Result<TcpStream, ConnectError> {
        connect(self.target, Deadline::of(limit), |socket| {
            prepare(socket, self.options.keepalive)
        })
        .await
    }

    /// Holds the connection, and those that follow it by quick reconnects, until the server is lost.
    async fn keep(&self, mut connection: TcpStream, report: &mut Report) -> Lost {
        let grown_up = self.options.timeout_clean_reconnect.max(YOUNGEST);
        let mut proven = !self.on_probation;
        let mut quick = false;
        loop {
            let since = Instant::now();
            let end = if proven {
                report.take(Ok(Passed::default()), None).await;
                hold(&connection).await
            } else if let Ok(end) = timeout(grown_up, hold(&connection)).await {
                end
            } else {
                proven = true;
                report.take(Ok(Passed::default()), None).await;
                hold(&connection).await
            };
            let young = since.elapsed() < grown_up;
            match end {
                // It may be that this host stood still, and the server gave up waiting for it: then it is asked
                // once more, as after a clean close.
                End::Broken(error)
                    if quick || !report.doubts(&Err(Failure::Server(words(&error)))) =>
                {
                    return Lost {
                        why: Why::Broken(error),
                        young,
                    };
                }
                End::Broken(_) => {}
                End::Closed if young && (quick || !proven) => {
                    return Lost {
                        why: Why::ClosedYoung,
                        young,
                    };
                }
                End::Closed => {}
            }
            // First, so that the new one is not one descriptor too many.
            drop(connection);
            match self.connect(self.options.timeout_clean_reconnect).await {
                Ok(next) => (connection, quick) = (next, true),
                Err(error) => {
                    return Lost {
                        why: Why::NoNewOne(error),
                        young: false,
                    };
                }
            }
        }
    }
}

/// Until the connection ends, reads what the server sends and throws it away.
async fn hold(connection: &TcpStream) -> End {
    loop {
        let mut allowance = ALLOWANCE;
        while allowance > 0 {
            if let Err(error) = connection.readable().await {
                return End::Broken(error);
            }
            match throw_away(connection) {
                Ok(0) => return End::Closed,
                Ok(read) => allowance = allowance.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return End::Broken(error),
            }
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            error = broken(connection) => return End::Broken(error),
        }
    }
}

/// Not async, so that the buffer is on the stack and no part of the waiting task.
fn throw_away(connection: &TcpStream) -> io::Result<usize> {
    connection.try_read(&mut [0; 4096])
}

/// The connection's error, as soon as it has one, though what came before it has not been read.
async fn broken(connection: &TcpStream) -> io::Error {
    match connection
        .ready(Interest::ERROR)
        .await
        .and_then(|_| connection.take_error())
    {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => pending().await,
    }
}

fn prepare(socket: &TcpSocket, keepalive: Option<Keepalive>) -> io::Result<()> {
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    if let Some(keepalive) = keepalive {
        SockRef::from(socket).set_tcp_keepalive(&kernel_keepalive(keepalive))?;
    }
    Ok(())
}

/// Within the kernel's limits (`include/net/tcp.h`: `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`, `MAX_TCP_KEEPCNT`),
/// in whole seconds, rounded up.
fn kernel_keepalive(keepalive: Keepalive) -> TcpKeepalive {
    let seconds = |time: Duration| {
        Duration::from_secs(time.as_millis().div_ceil(1000).clamp(1, 32767) as u64)
    };
    TcpKeepalive::new()
        .with_time(seconds(keepalive.idle))
        .with_interval(seconds(keepalive.interval))
        .with_retries(keepalive.retries.clamp(1, 127))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_every_keepalive() {
        let longest = Duration::MAX;
        for (time, retries) in [
            (Duration::ZERO, 0),
            (Duration::from_millis(1), 3),
            (longest, u32::MAX),
        ] {
            let socket = TcpSocket::new_v4().unwrap();
            let keepalive = Keepalive {
                idle: time,
                interval: time,
                retries,
            };
            prepare(&socket, Some(keepalive)).unwrap();
            assert!(SockRef::from(&socket).keepalive().unwrap());
        }
        let socket = TcpSocket::new_v6().unwrap();
        let keepalive = Keepalive {
            idle: Duration::from_secs(10),
            interval: Duration::from_millis(29_001),
            retries: 3,
        };
        prepare(&socket, Some(keepalive)).unwrap();
        let socket = SockRef::from(&socket);
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(10)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(30)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    }
}
