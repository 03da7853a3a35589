//! The answers in text, byte for byte PyBal's, sorted by name.

use std::fmt::Write as _;

use crate::service::ServiceName;
use crate::snapshot::{Server, Service, Snapshot};

pub(super) fn pools(snapshot: &Snapshot) -> String {
    let names: Vec<&str> = snapshot.services.keys().map(ServiceName::as_str).collect();
    names.join("\n") + "\n"
}

pub(super) fn pool(service: &Service) -> String {
    let mut text = String::new();
    for (host, server) in &*service.servers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{host}:\t{server}");
    }
    text
}

pub(super) fn server(server: &Server) -> String {
    format!("{server}\n")
}

/// No line feed: PyBal sends none here, nor with what is not found.
pub(super) fn alerts(status: &str, message: &str) -> String {
    format!("{} - {message}", status.to_uppercase())
}

#[cfg(test)]
mod tests {
    use crate::snapshot::sample;

    use super::*;

    #[test]
    fn pybals_bytes() {
        let (_, web) = sample::service(
            "web",
            0.5,
            &[
                "b held",
                "a up pooled",
                "c",
                "d disabled",
                "e partially held",
                "f unknown held",
                "g disabled up guarded",
                "h gone up guarded",
                "2001:db8::1 up pooled",
            ],
        );
        assert_eq!(
            pool(&web),
            "2001:db8::1:\tenabled/up/pooled\n\
             a:\tenabled/up/pooled\n\
             b:\tenabled/down/pooled\n\
             c:\tenabled/down/not pooled\n\
             d:\tdisabled/down/not pooled\n\
             e:\tenabled/partially up/pooled\n\
             f:\tenabled/down/pooled\n\
             g:\tdisabled/up/pooled\n\
             h:\tdisabled/up/pooled\n"
        );
        assert_eq!(server(&web.servers["c"]), "enabled/down/not pooled\n");
        assert_eq!(pool(&sample::service("none", 0.5, &[]).1), "");

        let two = [
            sample::service("web", 0.5, &[]),
            sample::service("api", 0.5, &[]),
        ];
        assert_eq!(pools(&sample::snapshot(two)), "api\nweb\n");
        assert_eq!(pools(&sample::snapshot([])), "\n");
        assert_eq!(
            alerts("ok", "All pools are healthy"),
            "OK - All pools are healthy"
        );
    }
}
