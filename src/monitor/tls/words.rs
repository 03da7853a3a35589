//! In what words TLS fails.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::certificate::wall_clock;
use crate::monitor::connect;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// So many of a certificate's names are told.
const MOST_NAMES: usize = 3;

/// An error of a handshake.
pub(super) fn handshake(error: &io::Error) -> String {
    match of(error) {
        Some(said) => said,
        None => format!("TLS: {}", connect::words(error)),
    }
}

/// If it is one of TLS.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "another crate's, and it grows: what has no words of ours has its own"
)]
pub(in crate::monitor) fn of(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "TLS: the server takes no HTTP/2 (ALPN)".into()
        }
        Error::AlertReceived(alert) => format!("TLS: refused by the server ({alert:?})"),
        Error::InvalidMessage(what) => format!("TLS: the server speaks something else ({what:?})"),
        other => format!("TLS: {other}"),
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "another crate's, and it grows: what has no words of ours has its own"
)]
fn certificate(error: &CertificateError) -> String {
    let now = wall_clock();
    let from_now = |time: u64| i64::try_from(time).unwrap_or(i64::MAX).saturating_sub(now);
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            let ago = roughly(from_now(not_after.as_secs()));
            format!("certificate expired {ago} ago")
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let to_come = roughly(from_now(not_before.as_secs()));
            format!("certificate is not valid for another {to_come}")
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            if presented.is_empty() {
                return format!("certificate is not for {expected}");
            }
            // Each with its kind around it: `DnsName("www.example.org")`.
            let plain = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
            let mut names: Vec<_> = presented.iter().take(MOST_NAMES).map(plain).collect();
            if presented.len() > names.len() {
                names.push("others".to_owned());
            }
            format!("certificate is not for {expected} but {}", names.join(", "))
        }
        CertificateError::UnknownIssuer => "certificate is by an unknown authority".into(),
        other => format!("certificate is bad: {other}"),
    }
}

/// As many whole days, or else hours, minutes, seconds, as there are in it; whatever its sign.
pub(super) fn roughly(seconds: i64) -> String {
    let seconds = seconds.saturating_abs();
    let (count, unit) = match seconds {
        DAY.. => (seconds / DAY, "day"),
        HOUR.. => (seconds / HOUR, "hour"),
        MINUTE.. => (seconds / MINUTE, "minute"),
        _ => (seconds, "second"),
    };
    let many = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{many}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_down() {
        for (seconds, said) in [
            (0, "0 seconds"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (-(2 * HOUR - 1), "1 hour"),
            (2 * DAY, "2 days"),
            (i64::MIN, "106751991167300 days"),
        ] {
            assert_eq!(roughly(seconds), said);
        }
    }
}
