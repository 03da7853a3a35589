//! `/repairs`: what was put right lately after someone else had changed it, the newest first.

use std::time::Instant;

use serde::Serialize;

use crate::snapshot::alert::{Age, Line};
use crate::snapshot::{Repair, Snapshot};

use super::accept::Form;
use super::json::json;

pub(super) fn repairs(snapshot: &Snapshot, form: Form, now: Instant) -> String {
    let last = snapshot.repairs.last.iter().rev();
    let age = |repair: &Repair| now.saturating_duration_since(repair.at);
    match form {
        Form::Json => {
            let shown = last.map(|repair| Shown {
                seconds_ago: age(repair).as_secs(),
                object: &repair.object,
                change: &repair.change,
            });
            json(&shown.collect::<Vec<_>>())
        }
        Form::Text => last
            .map(|repair| {
                let (ago, object) = (Age(age(repair)), &repair.object);
                format!("{ago} ago\t{object}: {}\n", Line(&repair.change))
            })
            .collect(),
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    seconds_ago: u64,
    object: &'a str,
    change: &'a str,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::snapshot::{Repairs, sample};

    use super::*;

    #[test]
    fn the_newest_first_and_not_all() {
        let mut snapshot = sample::snapshot([]);
        assert_eq!(repairs(&snapshot, Form::Text, sample::now()), "");
        assert_eq!(repairs(&snapshot, Form::Json, sample::now()), "[]");
        let mut all = Repairs::default();
        for number in 0..25 {
            all.remember(Repair {
                at: sample::now(),
                object: "web".into(),
                change: format!("server 10.0.0.{number}:80: -w 1 -> -w 10").into(),
            });
        }
        snapshot.repairs = Arc::new(all);
        let later = sample::now() + Duration::from_secs(7);
        let text = repairs(&snapshot, Form::Text, later);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), Repairs::KEPT);
        assert_eq!(lines[0], "7s ago\tweb: server 10.0.0.24:80: -w 1 -> -w 10");
        let json: serde_json::Value =
            serde_json::from_str(&repairs(&snapshot, Form::Json, later)).unwrap();
        assert_eq!(
            json[19],
            serde_json::json!({
                "seconds_ago": 7,
                "object": "web",
                "change": "server 10.0.0.5:80: -w 1 -> -w 10",
            })
        );
    }
}
