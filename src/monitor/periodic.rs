//! Monitors that ask once an interval: when the next check is, and what is asked.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::outcome::{Deadline, Failure, Outcome};
use super::report::Report;
use super::{
    Tools, dns_query, grpc, handshake, http, ping, proxy_fetch, run_command, tcp, vip_reachability,
};
use crate::check::{Check, Probe};

/// A check that ends so long after its time was up says that this task was not run when it was due.
const LATE: Duration = Duration::from_millis(250);
/// For so long a check that this host is too slow for is made again before its silence counts. Not for ever: a dead
/// server must not live by our being slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks for ever.
pub(super) async fn run(check: &Check, tools: &Tools, report: &mut Report) -> Infallible {
    let monitor = &check.monitor;
    let mut due = Instant::now();
    loop {
        let (outcome, took) = believed(check, tools, report).await;
        report.take(outcome, Some(took)).await;
        let fast = monitor.fast_interval.filter(|_| report.is_in_doubt());
        let interval = fast.unwrap_or(monitor.interval);
        due = next(due, interval, Instant::now());
        sleep_until(due).await;
    }
}

/// The result of a check that is made again while it may be this host that fails: once if the server said something,
/// and as long as it is us who are late if nobody heard anything.
async fn believed(check: &Check, tools: &Tools, report: &mut Report) -> (Outcome, Duration) {
    let first = Instant::now();
    let mut repeated = false;
    loop {
        let mut began = Instant::now();
        let outcome = ask(check, tools, &mut began).await;
        let took = began.elapsed();
        let late = outcome.is_err() && took > check.monitor.timeout + LATE;
        let doubted = if repeated {
            let slow = late || tools.pulse.is_doubtful();
            slow && is_silence(&outcome) && first.elapsed() < PATIENCE
        } else {
            report.doubts(&outcome) || late
        };
        if !doubted {
            return (outcome, took);
        }
        repeated = true;
    }
}

fn is_silence(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Err(Failure::NoAnswer(_) | Failure::TimedOut { .. })
    )
}

/// When the check after the one that was due at `due` is: an interval later, give or take a twentieth so that
/// checks don't fall into step, or now, if that is over. So lateness is made up by one check, not by many.
fn next(due: Instant, interval: Duration, now: Instant) -> Instant {
    (due + interval.mul_f64(0.95 + fastrand::f64() / 10.0)).max(now)
}

/// One check. Each kind in a box of its own: in place they would make every check as large as the largest.
/// `began`: now; one that has to wait for its turn sets it to when that came.
async fn ask(check: &Check, tools: &Tools, began: &mut Instant) -> Outcome {
    let deadline = Deadline::of(check.monitor.timeout);
    match &check.monitor.probe {
        Probe::ProxyFetch(probe) => Box::pin(proxy_fetch::ask(check, probe, tools, deadline)).await,
        Probe::Tcp(probe) => Box::pin(tcp::ask(check, probe, tools, deadline)).await,
        Probe::Tls(probe) => Box::pin(handshake::ask(check, probe, tools, deadline)).await,
        Probe::Http(probe) => Box::pin(http::ask(check, probe, tools, deadline)).await,
        Probe::Grpc(probe) => Box::pin(grpc::ask(check, probe, tools, deadline)).await,
        Probe::VipReachability => {
            Box::pin(vip_reachability::ask(check, &tools.vip, deadline)).await
        }
        Probe::RunCommand(probe) => Box::pin(run_command::ask(check, probe, tools, began)).await,
        Probe::DnsQuery(probe) => Box::pin(dns_query::ask(check, probe, deadline)).await,
        Probe::Ping => Box::pin(ping::ask(check, deadline)).await,
        // They have no rhythm: they are run by themselves.
        Probe::IdleConnection(_) | Probe::Udp(_) => std::future::pending().await,
    }
}
