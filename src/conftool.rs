//! conftool's `node` objects: where one stands in etcd and what it says. Plain data and its text forms;
//! nothing here talks to etcd.
//!
//! A node is one server of one service: the key `PREFIX/DC/CLUSTER/SERVICE/HOST`, the value
//! `{"weight": 10, "pooled": "yes"}`. Plimsoll adds two members that conftool keeps and ignores:
//! `reason` (a text) and `confirmed` (true: the depool guard shall let it go).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::service::Weight;

/// A pool's directory below the prefix: `DC/CLUSTER/SERVICE`, each 1 to 128 characters, none of them
/// a slash, a blank or a control character.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolPath {
    whole: Arc<str>,
}

/// Why a text is no pool's directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pool's directory; write DC/CLUSTER/SERVICE, eqiad/cache_text/nginx, say")]
pub struct BadPath(String);

const LONGEST_TAG: usize = 128;

/// Whether a text may be a data centre's, a cluster's, a service's name in a key.
pub fn is_tag(text: &str) -> bool {
    (1..=LONGEST_TAG).contains(&text.len())
        && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
}

impl FromStr for PoolPath {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, BadPath> {
        let good = text.split('/').count() == 3 && text.split('/').all(is_tag);
        if good {
            Ok(PoolPath { whole: text.into() })
        } else {
            Err(BadPath(text.chars().take(4 * LONGEST_TAG).collect()))
        }
    }
}

impl PoolPath {
    /// `DC/CLUSTER/SERVICE`.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// conftool's tags, in its order: `dc`, `cluster`, `service`.
    pub fn tags(&self) -> [&str; 3] {
        let mut parts = self.whole.split('/');
        // There are three: that is what the constructor is for.
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }
}

impl fmt::Display for PoolPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl Serialize for PoolPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.whole)
    }
}

/// What may be said of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooled {
    Yes,
    /// Listed, but depooled.
    No,
    /// As if it were not listed; what conftool makes a new object.
    Inactive,
}

impl Pooled {
    pub const ALL: [Pooled; 3] = [Pooled::Yes, Pooled::No, Pooled::Inactive];

    pub fn name(self) -> &'static str {
        match self {
            Pooled::Yes => "yes",
            Pooled::No => "no",
            Pooled::Inactive => "inactive",
        }
    }
}

impl fmt::Display for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A node's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub weight: Weight,
    pub pooled: Pooled,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// The operator has said that the depool guard shall not hold this server.
    pub confirmed: bool,
}

/// Why a value is no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNode {
    #[error("the value is {length} bytes long; a node has less than {LARGEST}")]
    TooLong { length: usize },
    #[error("{fault}; expected {{\"weight\": 10, \"pooled\": \"yes|no|inactive\"}}")]
    Json { fault: String },
    #[error("{member} is missing; expected {{\"weight\": 10, \"pooled\": \"yes|no|inactive\"}}")]
    Missing { member: &'static str },
    #[error("weight is {found}; expected an integer from 0 to {max}", max = Weight::MAX)]
    Weight { found: String },
    #[error("pooled is {found}; expected \"yes\", \"no\" or \"inactive\"")]
    Pooled { found: String },
}

/// The most bytes that a node's value may have.
pub const LARGEST: usize = 16 * 1024;

impl Node {
    /// Reads a value. Members that conftool or others added are left out of account.
    pub fn parse(value: &[u8]) -> Result<Node, BadNode> {
        if value.len() > LARGEST {
            let length = value.len();
            return Err(BadNode::TooLong { length });
        }
        let json = |fault: serde_json::Error| BadNode::Json {
            fault: format!("not a JSON object: {fault}"),
        };
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(value).map_err(json)?;
        let member = |member| object.get(member).ok_or(BadNode::Missing { member });
        let (weight, pooled) = (member("weight")?, member("pooled")?);
        let good_weight = weight.as_u64().and_then(|n| u32::try_from(n).ok());
        let good_pooled = |found: &&Pooled| pooled.as_str() == Some(found.name());
        Ok(Node {
            weight: good_weight
                .and_then(Weight::new)
                .ok_or_else(|| BadNode::Weight {
                    found: shortened(weight),
                })?,
            pooled: *Pooled::ALL.iter().find(good_pooled).ok_or_else(|| {
                let found = shortened(pooled);
                BadNode::Pooled { found }
            })?,
            reason: object
                .get("reason")
                .and_then(|reason| reason.as_str())
                .map(str::to_owned),
            confirmed: object.get("confirmed") == Some(&true.into()),
        })
    }
}

/// As conftool writes it, byte for byte; what it does not know comes after.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node {
            weight,
            pooled,
            reason,
            confirmed,
        } = self;
        write!(f, "{{\"weight\": {weight}, \"pooled\": \"{pooled}\"")?;
        if let Some(reason) = reason {
            write!(f, ", \"reason\": {}", serde_json::Value::from(&**reason))?;
        }
        if *confirmed {
            f.write_str(", \"confirmed\": true")?;
        }
        f.write_str("}")
    }
}

/// Where the leases of `plimsoll ctl --for` stand; `DC/CLUSTER/SERVICE/HOST` follows. The key is under an
/// etcd lease, so that etcd itself ends it.
pub const LEASES: &str = "/plimsoll/v1/leases/";

/// What a node is for a time. It counts until it is gone, or until the node itself is written again
/// (its `mod_revision` is then the later one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub node: Node,
    /// When the etcd lease ends, RFC 3339 in UTC: to be read, not reckoned with.
    pub until: String,
}

impl Lease {
    /// Reads a value: a node's, with the member `until`.
    pub fn parse(value: &[u8]) -> Result<Lease, BadNode> {
        let node = Node::parse(value)?;
        let json = |fault: serde_json::Error| BadNode::Json {
            fault: fault.to_string(),
        };
        let value: serde_json::Value = serde_json::from_slice(value).map_err(json)?;
        let until = value.get("until").and_then(|until| until.as_str());
        let until = until
            .ok_or(BadNode::Missing { member: "until" })?
            .to_owned();
        Ok(Lease { node, until })
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node.to_string();
        // The node's text is an object's, and closes.
        let open = node.strip_suffix('}').unwrap_or(&node);
        let until = serde_json::Value::from(&*self.until);
        write!(f, "{open}, \"until\": {until}}}")
    }
}

fn shortened(value: &serde_json::Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_three_parts() {
        let path: PoolPath = "eqiad/cache_text/varnish-fe".parse().unwrap();
        assert_eq!(path.tags(), ["eqiad", "cache_text", "varnish-fe"]);
        assert_eq!(path.to_string(), "eqiad/cache_text/varnish-fe");
        for bad in [
            "", "a/b", "a/b/c/d", "a//c", "/a/b", "a/b/", "a b/c/d", "a/b/c\n",
        ] {
            assert!(bad.parse::<PoolPath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_conftool_writes_is_read_and_written() {
        for pooled in Pooled::ALL {
            let text = format!(r#"{{"weight": 7, "pooled": "{pooled}"}}"#);
            let node = Node::parse(text.as_bytes()).unwrap();
            assert_eq!((node.weight.get(), node.pooled), (7, pooled));
            assert_eq!(node.to_string(), text);
        }
        let text = r#"{"weight": 0, "pooled": "no", "reason": "T1 \"disk\"", "confirmed": true}"#;
        let node = Node::parse(text.as_bytes()).unwrap();
        assert_eq!(node.reason.as_deref(), Some("T1 \"disk\""));
        assert!(node.confirmed);
        assert_eq!(node.to_string(), text);
        assert!(Node::parse(br#"{"pooled": "yes", "weight": 1, "other": []}"#).is_ok());
    }

    #[test]
    fn a_lease_is_a_node_with_an_end() {
        let text =
            r#"{"weight": 1, "pooled": "no", "reason": "T2", "until": "2026-01-01T00:00:00Z"}"#;
        let lease = Lease::parse(text.as_bytes()).unwrap();
        assert_eq!(lease.until, "2026-01-01T00:00:00Z");
        assert_eq!(lease.to_string(), text);
        let fault = Lease::parse(br#"{"weight": 1, "pooled": "no"}"#).unwrap_err();
        assert!(fault.to_string().contains("until is missing"), "{fault}");
    }

    #[test]
    fn a_bad_value_is_told_what_is_wrong_with_it() {
        let check = |value: &str, expected: &str| {
            let fault = Node::parse(value.as_bytes()).unwrap_err().to_string();
            assert!(fault.contains(expected), "{value}: {fault}");
        };
        check("", "not a JSON object");
        check("yes", "not a JSON object");
        check("[]", "not a JSON object");
        check("{}", "weight is missing");
        check(r#"{"weight": 1}"#, "pooled is missing");
        check(r#"{"pooled": "yes"}"#, "weight is missing");
        for weight in [
            "-1",
            "1.0",
            "1.5",
            "\"10\"",
            "null",
            "true",
            "2147483647",
            "1e99",
        ] {
            let found = match weight {
                "1e99" => "1e+99",
                other => other,
            };
            check(
                &format!(r#"{{"weight": {weight}, "pooled": "yes"}}"#),
                &format!("weight is {found}; expected an integer from 0 to 2147483646"),
            );
        }
        for pooled in ["\"Yes\"", "true", "null", "\"\"", "\"maybe\""] {
            check(
                &format!(r#"{{"weight": 1, "pooled": {pooled}}}"#),
                &format!("pooled is {pooled}; expected \"yes\", \"no\" or \"inactive\""),
            );
        }
        check(&" ".repeat(LARGEST + 1), "16385 bytes long");
    }
}
