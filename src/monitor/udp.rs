//! `udp`: an empty datagram now and then, which a server need not answer; only ICMP can say that it is not there.
//!
//! The first verdict is up when the first datagram has been out for the monitor's timeout. Down is at once, and lasts
//! until ICMP has been silent for `icmp-timeout`.

use std::convert::Infallible;
use std::time::Duration;

use socket2::{Protocol, Type};
use tokio::time::{Instant, sleep, sleep_until};

use super::datagram::{Datagrams, Heard};
use super::outcome::{Failure, Passed};
use super::report::Report;
use crate::check::{Check, Udp};

/// After each datagram that comes.
const PAUSE: Duration = Duration::from_millis(10);

/// Checks for ever.
pub(super) async fn run(check: &Check, options: &Udp, report: &mut Report) -> Infallible {
    loop {
        let Err(failure) = watch(check, options, report).await;
        report.take(Err(failure), None).await;
        sleep(options.interval).await;
    }
}

/// Ends when a datagram cannot be sent, which may be for want of a route.
async fn watch(check: &Check, options: &Udp, report: &mut Report) -> Result<Infallible, Failure> {
    let socket = Datagrams::open(check.target, Type::DGRAM, Protocol::UDP)?;
    let mut next = Instant::now();
    // Not good before that, if it is not yet.
    let mut good_from = Some(next + check.monitor.timeout);
    let mut doubted = false;
    let mut ignored = [0; 1];
    loop {
        let wait = good_from.map_or(next, |good_from| good_from.min(next));
        tokio::select! {
            heard = socket.hear(&mut ignored) => match heard? {
                // Nobody asked for it; what a server sends too much of is lost in the kernel.
                Heard::Datagram(_) => sleep(PAUSE).await,
                Heard::Unreachable(why) => {
                    let outcome = Err(Failure::Server(why));
                    doubted = !doubted && report.doubts(&outcome);
                    if doubted {
                        socket.send(&[])?;
                    } else {
                        report.take(outcome, None).await;
                        good_from = Some(Instant::now() + options.icmp_timeout);
                    }
                }
            },
            () = sleep_until(wait) => {
                let now = Instant::now();
                if good_from.is_none_or(|good_from| good_from <= now) {
                    good_from = None;
                    report.take(Ok(Passed::default()), None).await;
                }
                if next <= now {
                    socket.send(&[])?;
                    doubted = false;
                    next = now + options.interval;
                }
            }
        }
    }
}
