//! What operators say of servers in place of their lists.

use schemars::JsonSchema;
use serde::Serialize;

use crate::service::{ServiceName, Weight};

use super::View;

pub(super) fn all(view: &View<'_>) -> String {
    let overrides = view.snapshot.overrides.iter();
    super::body(&Overrides {
        overrides: overrides
            .map(|(overruled, by)| Overridden {
                host: overruled.host.as_str(),
                service: overruled.service.as_ref().map(ServiceName::as_str),
                action: by.action.name(),
                weight: by.action.weight().map(Weight::get),
                reason: by.note.reason.as_deref(),
                until: by.note.until.as_deref(),
                confirmed: by.note.confirmed,
            })
            .collect(),
    })
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Overrides<'a> {
    overrides: Vec<Overridden<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Override")]
struct Overridden<'a> {
    host: &'a str,
    /// Null: wherever it is listed.
    service: Option<&'a str>,
    action: &'static str,
    /// Of action `weight`.
    weight: Option<u32>,
    reason: Option<&'a str>,
    /// It ends by itself then.
    until: Option<&'a str>,
    /// The depool guard lets it go.
    confirmed: bool,
}
