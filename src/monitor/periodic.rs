//! Monitors that ask once an interval: when the next check is, and what is asked.

use std::convert::Infallible;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::outcome::{Deadline, Failure, Outcome};
use super::report::Report;
use super::{
    Tools, dns_query, grpc, handshake, http, ping, proxy_fetch, run_command, tcp, vip_reachability,
};
use crate::check::{Check, Probe};

/// A check that begins so long after it was due, or ends so long after its time was up, says that this task was not
/// run when it should have been.
const LATE: Duration = Duration::from_millis(250);
/// For so long a check that this host is too slow for is made again before its silence counts. Not for ever: a dead
/// server must not live by our being slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Checks begin at multiples of this, so that a thread wakes up for several at once: that costs a third less than one
/// by one. Longer steps would show in what checks take, as they wait for each other.
const STEP: Duration = Duration::from_millis(50);

/// Checks for ever.
pub(super) async fn run(check: &Check, tools: &Tools, report: &mut Report) -> Infallible {
    let monitor = &check.monitor;
    let mut due = Instant::now();
    loop {
        let (outcome, took, ended) = believed(check, tools, report).await;
        report.take(outcome, Some(took)).await;
        let fast = monitor.fast_interval.filter(|_| report.is_in_doubt());
        let interval = fast.unwrap_or(monitor.interval);
        due = next(due, interval, ended);
        let begin = step(due, interval);
        sleep_until(begin).await;
        if begin.elapsed() > LATE {
            report.late();
        }
    }
}

/// The result of a check that is made again while it may be this host that fails: once if the server said something,
/// and as long as it is us who are late if nobody heard anything. With it, how long it took and when it came.
async fn believed(
    check: &Check,
    tools: &Tools,
    report: &mut Report,
) -> (Outcome, Duration, Instant) {
    let first = Instant::now();
    let (mut began, mut repeated) = (first, false);
    loop {
        let outcome = ask(check, tools, &mut began).await;
        let ended = Instant::now();
        let took = ended - began;
        let late = outcome.is_err() && took > check.monitor.timeout + LATE;
        let doubted = if repeated {
            let slow = late || tools.pulse.is_doubtful();
            slow && is_silence(&outcome) && ended - first < PATIENCE
        } else {
            report.doubts(&outcome) || late
        };
        if !doubted {
            return (outcome, took, ended);
        }
        (began, repeated) = (ended, true);
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

/// When a check that is due at `due` begins: at the next of the steps that a thread wakes up for. All count from one
/// moment. An interval has 20 of them at least, so this is no more than the jitter.
fn step(due: Instant, interval: Duration) -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let step = (interval / 20).min(STEP).as_nanos().max(1);
    let into = due.saturating_duration_since(*FIRST).as_nanos() % step;
    let wait = (step - into) % step;
    due + Duration::from_nanos(u64::try_from(wait).unwrap_or(0))
}

/// One check. Each kind in a box of its own: in place they would make every check as large as the largest.
/// `began`: now; one that has to wait for its turn sets it to when that came.
async fn ask(check: &Check, tools: &Tools, began: &mut Instant) -> Outcome {
    let after = check.monitor.timeout;
    let deadline = Deadline {
        after,
        at: *began + after,
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_begin_together_but_never_early_and_never_much_later() {
        let later = Instant::now() + Duration::from_secs(3600);
        let first = step(later, Duration::from_secs(1));
        for (interval, most) in [(10_000, 50), (1000, 50), (200, 10), (1, 1)] {
            let interval = Duration::from_millis(interval);
            for after in (0..500).map(|n| Duration::from_micros(n * 317)) {
                let late = step(first + after, interval) - (first + after);
                assert!(late < Duration::from_millis(most), "{interval:?} {late:?}");
            }
        }
        let second = Duration::from_secs(1);
        let begins = |after| step(first + Duration::from_millis(after), second) - first;
        assert_eq!(
            [0, 1, 49, 50, 51].map(|after| begins(after).as_millis()),
            [0, 50, 50, 50, 100]
        );
    }

    #[test]
    fn an_interval_of_nothing_has_no_steps() {
        let due = Instant::now();
        assert_eq!(step(due, Duration::ZERO), due);
    }
}
