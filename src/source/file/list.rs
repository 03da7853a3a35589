//! PyBal's JSON, `{"HOST": {"enabled": BOOL, "weight": INT}}` → [`ServerList`]. Taken whole or refused
//! whole: a list with one bad server in it is not the list that somebody meant.

use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};

use crate::service::{Host, Listed, ServerList, Weight};

const SHAPE: &str = r#"an object like {"HOST": {"enabled": true, "weight": 10}}"#;

/// Why a text is not a server list.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadList {
    #[error("the file is empty, expected {SHAPE}")]
    Nothing,
    #[error("the list names no server, expected {SHAPE}")]
    NoServer,
    /// With line, column, and the server's name where there is one.
    #[error("{0}")]
    Json(serde_json::Error),
}

/// The list, never an empty one.
pub(super) fn parse(text: &[u8]) -> Result<ServerList, BadList> {
    if text.trim_ascii().is_empty() {
        return Err(BadList::Nothing);
    }
    let Whole(list) = serde_json::from_slice(text).map_err(BadList::Json)?;
    if list.is_empty() {
        Err(BadList::NoServer)
    } else {
        Ok(list)
    }
}

struct Whole(ServerList);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WholeVisitor).map(Whole)
    }
}

struct WholeVisitor;

impl<'de> Visitor<'de> for WholeVisitor {
    type Value = ServerList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHAPE)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ServerList, A::Error> {
        let mut list = ServerList::new();
        while let Some(host) = map.next_key::<String>()? {
            let host: Host = host.parse().map_err(A::Error::custom)?;
            let Entry::Vacant(entry) = list.entry(host) else {
                let again = "a server is listed twice; each name may stand once";
                return Err(A::Error::custom(again));
            };
            let server: OneServer = map.next_value().map_err(|error| {
                A::Error::custom(format_args!("server {}: {error}", entry.key()))
            })?;
            entry.insert(Listed {
                enabled: server.enabled,
                weight: server.weight.0,
            });
        }
        Ok(list)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct OneServer {
    #[serde(default = "enabled")]
    enabled: bool,
    #[serde(default)]
    weight: OneWeight,
}

fn enabled() -> bool {
    true
}

struct OneWeight(Weight);

impl Default for OneWeight {
    fn default() -> Self {
        OneWeight(Weight::DEFAULT)
    }
}

impl<'de> Deserialize<'de> for OneWeight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u32(WeightVisitor).map(OneWeight)
    }
}

struct WeightVisitor;

impl Visitor<'_> for WeightVisitor {
    type Value = Weight;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a weight, an integer from 0 to {}", Weight::MAX)
    }

    fn visit_u64<E: Error>(self, weight: u64) -> Result<Weight, E> {
        let good = u32::try_from(weight).ok().and_then(Weight::new);
        good.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(weight), &self))
    }

    fn visit_i64<E: Error>(self, weight: i64) -> Result<Weight, E> {
        Err(E::invalid_value(Unexpected::Signed(weight), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pybals_shape() {
        let text = br#" {"cp1": {"enabled": true, "weight": 7}, "10.0.0.1": {}, "2001:db8::1":
            {"enabled": false}, "cp3": {"weight": 0}} "#;
        let listed = |enabled, weight| Listed {
            enabled,
            weight: Weight::new(weight).unwrap(),
        };
        let expected = [
            ("cp1", listed(true, 7)),
            ("10.0.0.1", listed(true, 10)),
            ("2001:db8::1", listed(false, 10)),
            ("cp3", listed(true, 0)),
        ];
        let expected = expected
            .map(|(host, listed)| (host.parse().unwrap(), listed))
            .into();
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn refused_whole_with_the_reason() {
        let check = |text: &str, parts: &[&str]| {
            let fault = parse(text.as_bytes()).unwrap_err().to_string();
            for part in parts {
                assert!(fault.contains(part), "{text}: {fault:?} lacks {part:?}");
            }
        };
        check("", &["is empty", r#"{"enabled": true, "weight": 10}"#]);
        check(" \n", &["is empty"]);
        check("{}", &["names no server"]);
        check(
            "[]",
            &[
                "invalid type: sequence",
                "expected an object like",
                "line 1 column 0",
            ],
        );
        check(r#"{"a": {}"#, &["EOF", "line 1 column 8"]);
        check(
            r#"{"a": {}} x"#,
            &["trailing characters", "line 1 column 11"],
        );
        check(
            "{\n\"a\": {},\n\"b\": {\"weigth\": 1}}",
            &[
                "server b: unknown field `weigth`",
                "expected `enabled` or `weight`",
                "line 3 column",
            ],
        );
        check(
            r#"{"a": {}, "a": {}}"#,
            &["listed twice", "line 1 column 13"],
        );
        check(
            r#"{"a": {"weight": 1, "weight": 1}}"#,
            &["server a: duplicate field `weight`"],
        );
        check(
            r#"{"a b": {}}"#,
            &["a server's name must be", "\"a b\"", "line 1 column"],
        );
        check(r#"{"": {}}"#, &["a server's name must be"]);
        check(r#"{"a": null}"#, &["server a: invalid type: null"]);
        check(
            r#"{"a": {"enabled": "yes"}}"#,
            &["server a: invalid type: string", "a boolean"],
        );
        check(
            r#"{"a": {"enabled": 1}}"#,
            &["server a: invalid type: integer `1`"],
        );
        for weight in [
            "-1",
            "10.0",
            "2147483647",
            "1e3",
            "\"10\"",
            "null",
            "99999999999999999999",
        ] {
            let text = format!(r#"{{"a": {{"weight": {weight}}}}}"#);
            check(
                &text,
                &["server a: invalid", "an integer from 0 to 2147483646"],
            );
        }
        check(
            &format!(r#"{{"a": {}"#, "[".repeat(100_000)),
            &["server a: invalid type: sequence"],
        );
    }
}
