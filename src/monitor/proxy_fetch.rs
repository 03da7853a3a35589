//! `proxy-fetch`: a GET of one of its URLs, or of each, on connections of their own.

use futures_util::future::join_all;
use url::Url;

use super::outcome::{Deadline, Failure, Outcome, Passed};
use super::{Tools, http};
use crate::check::tls::{TlsClient, Trust};
use crate::check::{Check, Http, ProxyFetch};

/// One GET of one URL, picked at random, or of each.
pub(super) async fn ask(
    check: &Check,
    probe: &ProxyFetch,
    tools: &Tools,
    deadline: Deadline,
) -> Outcome {
    let fetch = async |url: &Url| {
        let request = request(url, probe);
        http::ask(check, &request, tools, deadline).await
    };
    let Some(may_fail) = probe.check_all else {
        let url = fastrand::choice(&probe.url);
        return fetch(url.ok_or_else(|| Failure::server("no url to fetch"))?).await;
    };
    let all = join_all(probe.url.iter().map(fetch)).await;
    let mut failed = Vec::new();
    for (outcome, url) in all.into_iter().zip(&probe.url) {
        match outcome {
            Ok(Passed { .. }) => {}
            Err(unable @ Failure::Unable(_)) => return Err(unable),
            Err(failure) => failed.push(format!("{url}: {failure}")),
        }
    }
    if u32::try_from(failed.len()).is_ok_and(|failed| failed <= may_fail) {
        return Ok(Passed::default());
    }
    let (failed, first) = (failed.len(), failed.swap_remove(0));
    let all = probe.url.len();
    Err(Failure::Server(format!(
        "{failed} of {all} failed, {first}"
    )))
}

fn request(url: &Url, probe: &ProxyFetch) -> Http {
    let trust = if probe.verify_certificate {
        Trust::System
    } else {
        Trust::Anyone
    };
    Http {
        status: probe.status.clone(),
        tls: TlsClient {
            trust,
            ..TlsClient::default()
        },
        ..Http::get(url.clone())
    }
}
