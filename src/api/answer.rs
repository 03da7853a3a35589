//! Request and snapshot → response. Pure but for what the body does later.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bytes::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use crate::snapshot::Snapshot;
use crate::snapshot::alert::{Alert, Severity};

use super::accept::Form;
use super::body::{Answer, Content};
use super::metrics::{self, Pages};
use super::resource::Resource;
use super::{Now, bgp, detail, json, repairs, text};

/// PyBal's words for what is not there.
const NOT_FOUND: &str = "The desired url was not found";
const NOT_ALLOWED: &str = "Only GET and HEAD are allowed";
const POST_ALONE: &str = "This is an order: only POST is allowed";
const NO_ORDERS_HERE: &str =
    "Orders are taken on the control socket alone ([api] control): plimsoll bgp --help";

/// To whoever only looks: the body of the request is not looked at.
pub(super) fn answer<B>(
    request: &Request<B>,
    snapshot: Arc<Snapshot>,
    now: Now,
    busy: Arc<AtomicBool>,
) -> Response<Answer> {
    let form = Form::wanted(request.headers());
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    let resource = Resource::of(request.uri().path());
    let refused = match (&resource, looks) {
        (Resource::Order { .. }, true) => Some((POST_ALONE, "POST")),
        (Resource::Order { .. }, false) => Some((NO_ORDERS_HERE, "")),
        (_, false) => Some((NOT_ALLOWED, "GET, HEAD")),
        (_, true) => None,
    };
    if let Some((text, allowed)) = refused {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut response = worded(status, form, error(text, form), busy);
        let allowed = HeaderValue::from_static(allowed);
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    if resource == Resource::Metrics {
        let pages = Content::Metrics {
            pages: Pages::new(snapshot, now.monotonic),
            pause: false,
        };
        return response(
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            Answer::new(pages, busy),
        );
    }
    let found = if let Resource::Bgp(resource) = &resource {
        bgp::found(resource, &snapshot, form, now)
    } else {
        found(&resource, &snapshot, form, now.monotonic).ok_or(NOT_FOUND.to_owned())
    };
    match found {
        Ok(text) => worded(StatusCode::OK, form, text, busy),
        Err(text) => worded(StatusCode::NOT_FOUND, form, error(&text, form), busy),
    }
}

pub(super) fn worded(
    status: StatusCode,
    form: Form,
    text: String,
    busy: Arc<AtomicBool>,
) -> Response<Answer> {
    let content_type = match form {
        Form::Text => "text/plain",
        Form::Json => "application/json",
    };
    response(
        status,
        content_type,
        Answer::new(Content::Text(Bytes::from(text)), busy),
    )
}

pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: Answer,
) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `None`: there is no such thing.
fn found(resource: &Resource, snapshot: &Snapshot, form: Form, now: Instant) -> Option<String> {
    match resource {
        Resource::Pools => Some(match form {
            Form::Text => text::pools(snapshot),
            Form::Json => json::pools(snapshot),
        }),
        Resource::Pool(pool) => {
            let service = snapshot.services.get(pool.as_str())?;
            Some(match form {
                Form::Text => text::pool(service),
                Form::Json => json::pool(service),
            })
        }
        Resource::Server { pool, host } => {
            let service = snapshot.services.get(pool.as_str())?;
            let (host, server) = service.servers.get_key_value(host.as_str())?;
            Some(match form {
                Form::Text => text::server(server),
                Form::Json => json::server(service, host, server),
            })
        }
        Resource::Services => Some(detail::services(snapshot, form, now)),
        Resource::Service(name) => {
            let service = snapshot.services.get(name.as_str())?;
            Some(detail::service(service, form, now))
        }
        Resource::ServiceServer { service, host } => {
            let service = snapshot.services.get(service.as_str())?;
            let (host, server) = service.servers.get_key_value(host.as_str())?;
            Some(detail::server(service, host, server, form, now))
        }
        Resource::Repairs => Some(repairs::repairs(snapshot, form, now)),
        Resource::Alerts => {
            let (status, message) = summary(&snapshot.alerts(now));
            Some(match form {
                Form::Text => text::alerts(status, &message),
                Form::Json => json::alerts(status, &message),
            })
        }
        // That this is answered is the answer.
        Resource::Healthz => Some(match form {
            Form::Text => "ok\n".to_owned(),
            Form::Json => json::healthy(),
        }),
        Resource::Bgp(_) | Resource::Order { .. } | Resource::Metrics | Resource::Unknown => None,
    }
}

pub(super) fn error(text: &str, form: Form) -> String {
    match form {
        Form::Text => text.to_owned(),
        Form::Json => json::error(text),
    }
}

/// PyBal's status word and message. With its own alerts alone they are its very bytes: the critical ones
/// joined by `; `, or else each warning followed by `. `. Ours stand among them in the same way. Once
/// something is critical PyBal leaves out that a pool is too small, and so do we.
fn summary(alerts: &[Alert]) -> (&'static str, String) {
    match alerts.iter().map(Alert::severity).max() {
        None => ("ok", "All pools are healthy".to_owned()),
        Some(Severity::Warning) => (
            "warning",
            alerts.iter().map(|alert| format!("{alert}. ")).collect(),
        ),
        Some(Severity::Critical) => {
            let told = alerts
                .iter()
                .filter(|alert| !matches!(alert, Alert::TooSmall { .. }));
            let told: Vec<String> = told.map(Alert::to_string).collect();
            ("critical", told.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::sample::{now, service, snapshot};

    use super::*;

    #[test]
    fn pybals_alerts_and_ours_among_them() {
        let check = |snapshot: &Snapshot, expected: &str| {
            let (status, message) = summary(&snapshot.alerts(now()));
            assert_eq!(text::alerts(status, &message), expected);
        };
        let healthy = || service("ok", 0.5, &["a up pooled", "b up pooled", "c up pooled"]);
        let small = |name| service(name, 1.0, &["a up pooled", "b up pooled"]);
        let held = |name| service(name, 0.5, &["mw2 held", "mw1 held", "mw3 down"]);
        check(&snapshot([healthy()]), "OK - All pools are healthy");
        check(
            &snapshot([healthy(), small("y"), small("x")]),
            "WARNING - Pool x is too small to allow depooling. \
             Pool y is too small to allow depooling. ",
        );
        check(
            &snapshot([held("y"), small("z"), held("x")]),
            "CRITICAL - x: Servers mw1, mw2 are marked down but pooled; \
             y: Servers mw1, mw2 are marked down but pooled",
        );

        let mut ours = snapshot([small("x"), held("y")]);
        ours.reload_refused = Some("line 1".into());
        check(
            &ours,
            "CRITICAL - y: Servers mw1, mw2 are marked down but pooled; \
             reload: Refused, the old configuration stays: line 1",
        );
        ours.services.remove("y");
        check(
            &ours,
            "WARNING - Pool x is too small to allow depooling. \
             reload: Refused, the old configuration stays: line 1. ",
        );
    }
}
