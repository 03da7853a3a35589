//! How a server's checks went, under `/services`: what each monitor made of them, and the last result.

use std::fmt;

use serde::Serialize;

use crate::check::figures::LastLoad;
use crate::snapshot::MonitorState;
use crate::snapshot::alert::Line;

#[derive(Serialize)]
pub(super) struct CheckState<'a> {
    monitor: &'static str,
    /// `None`: no result yet.
    up: Option<bool>,
    /// Why it is not up.
    reason: Option<&'a str>,
    /// Whether the server is down if it is.
    depool: bool,
    /// `None`: it does not look at the load, or has not yet.
    load: Option<Load>,
    last: Option<Last>,
}

/// What its answers say of the server's load.
#[derive(Serialize)]
struct Load {
    /// The share of its weight that the server gets for it; `None`: nothing is known yet.
    percent: Option<u32>,
    /// Why the last answer said nothing of it.
    fault: Option<String>,
}

/// The last result, which need not be what the monitor makes of it.
#[derive(Serialize)]
struct Last {
    at: String,
    passed: bool,
    reason: Option<String>,
    /// `None`: of a monitor that is at it all the time.
    seconds: Option<f64>,
}

impl CheckState<'_> {
    pub(super) fn of(monitor: &MonitorState) -> CheckState<'_> {
        let last = monitor.figures.last().map(|last| Last {
            at: humantime::format_rfc3339_millis(last.at).to_string(),
            passed: last.result.is_ok(),
            reason: last.result.err().map(|why| why.to_string()),
            seconds: last.took.map(|took| took.as_secs_f64()),
        });
        let LastLoad { percent, fault } = monitor.figures.load();
        let fault = fault.map(|why| why.to_string());
        CheckState {
            monitor: monitor.kind,
            up: monitor.result.as_ref().map(Result::is_ok),
            reason: match &monitor.result {
                Some(Err(why)) => Some(why),
                Some(Ok(())) | None => None,
            },
            depool: monitor.depool,
            load: (percent.is_some() || fault.is_some()).then_some(Load { percent, fault }),
            last,
        }
    }

    /// Its name and reason, if it is down.
    pub(super) fn failing(&self) -> Option<(&'static str, &str)> {
        self.reason.map(|reason| (self.monitor, reason))
    }
}

/// `proxy-fetch: down, status 503, expected 200; last 2026-01-01T00:00:00.000Z in 0.002 s`
impl fmt::Display for CheckState<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.up {
            Some(true) => "up",
            Some(false) => "down",
            None => "unknown",
        };
        write!(f, "{}:\t{verdict}", self.monitor)?;
        if let Some(reason) = self.reason {
            write!(f, ", {}", Line(reason))?;
        }
        if !self.depool {
            f.write_str(", depools nobody")?;
        }
        if let Some(Load { percent, fault }) = &self.load {
            if let Some(percent) = percent {
                write!(f, ", load {percent} %")?;
            }
            if let Some(fault) = fault {
                write!(f, ", {}", Line(fault))?;
            }
        }
        let Some(last) = &self.last else {
            return Ok(());
        };
        write!(f, "; last {}", last.at)?;
        if let Some(seconds) = last.seconds {
            write!(f, " in {seconds:.3} s")?;
        }
        // What is said above is of when it went down.
        match last.reason.as_deref() {
            Some(reason) if self.reason != Some(reason) => write!(f, ": {}", Line(reason)),
            None if self.up == Some(false) => f.write_str(": passed"),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use serde_json::json;

    use super::*;
    use crate::check::figures::Figures;

    fn monitor(
        result: Option<Result<(), &str>>,
        last: &[(Result<(), &str>, Option<u64>)],
    ) -> MonitorState {
        let figures = Arc::new(Figures::default());
        for (result, took) in last {
            let took = took.map(Duration::from_millis);
            figures.note(SystemTime::UNIX_EPOCH, *result, took);
        }
        MonitorState {
            kind: "proxy-fetch",
            result: result.map(|result| result.map_err(Arc::from)),
            depool: true,
            up_transitions: 0,
            down_transitions: 0,
            figures,
        }
    }

    #[test]
    fn in_text_and_json() {
        let text = |state: &MonitorState| CheckState::of(state).to_string();
        assert_eq!(text(&monitor(None, &[])), "proxy-fetch:\tunknown");
        let at = "1970-01-01T00:00:00.000Z";
        let up = monitor(Some(Ok(())), &[(Ok(()), None)]);
        assert_eq!(text(&up), format!("proxy-fetch:\tup; last {at}"));
        assert_eq!(CheckState::of(&up).failing(), None);
        let doubted = monitor(Some(Ok(())), &[(Err("no\nanswer"), Some(5000))]);
        let expected = format!("proxy-fetch:\tup; last {at} in 5.000 s: no, answer");
        assert_eq!(text(&doubted), expected);
        let back = monitor(Some(Err("refused")), &[(Ok(()), Some(2))]);
        let expected = format!("proxy-fetch:\tdown, refused; last {at} in 0.002 s: passed");
        assert_eq!(text(&back), expected);
        let mut down = monitor(Some(Err("refused")), &[(Err("refused"), Some(2))]);
        down.depool = false;
        let expected = format!("proxy-fetch:\tdown, refused, depools nobody; last {at} in 0.002 s");
        assert_eq!(text(&down), expected);
        let state = CheckState::of(&down);
        assert_eq!(state.failing(), Some(("proxy-fetch", "refused")));
        let expected = json!({
            "monitor": "proxy-fetch", "up": false, "reason": "refused", "depool": false,
            "load": null,
            "last": { "at": at, "passed": false, "reason": "refused", "seconds": 0.002 },
        });
        assert_eq!(serde_json::to_value(&state).unwrap(), expected);
    }

    #[test]
    fn what_is_known_of_the_load() {
        let state = monitor(Some(Ok(())), &[]);
        let check = |percent, fault: Option<&str>, text: &str, begins| {
            let news = state.figures.note_load(percent, fault.map(Arc::from));
            assert_eq!(news, begins);
            let seen = CheckState::of(&state);
            assert_eq!(seen.to_string(), format!("proxy-fetch:\tup{text}"));
            let expected = json!({ "percent": percent, "fault": fault });
            assert_eq!(serde_json::to_value(&seen).unwrap()["load"], expected);
        };
        check(Some(70), None, ", load 70 %", false);
        check(Some(70), Some("none"), ", load 70 %, none", true);
        check(Some(80), Some("none"), ", load 80 %, none", false);
        check(None, Some("none"), ", none", false);
        check(Some(100), None, ", load 100 %", false);
    }
}
