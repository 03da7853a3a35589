//! One node by the place of its key below the prefix: `DC/CLUSTER/SERVICE/HOST`.

use std::fmt;

use crate::conftool::PoolPath;
use crate::service::Host;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object(String);

impl Object {
    pub(super) fn new(pool: &PoolPath, host: &Host) -> Object {
        Object(format!("{pool}/{host}"))
    }

    /// What follows the prefix and a slash in a key that etcd has; `None` if it is not a node's. That its
    /// parts are good names is not asked: what should never have been made can be removed.
    pub(super) fn found(text: &str) -> Option<Object> {
        let good = text.split('/').count() == 4 && text.split('/').all(|part| !part.is_empty());
        good.then(|| Object(text.to_owned()))
    }

    /// `DC/CLUSTER/SERVICE`.
    pub(super) fn pool(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(pool, _)| pool)
    }

    pub(super) fn host(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(_, host)| host)
    }
}

/// As confctl names an object.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_parts() {
        let object = Object::found("a/b/c/d").unwrap();
        assert_eq!((object.pool(), object.host()), ("a/b/c", "d"));
        let made = Object::new(&"a/b/c".parse().unwrap(), &"d".parse().unwrap());
        assert_eq!(made, object);
        for other in ["", "a/b/c", "a/b/c/d/e", "a//c/d", "a/b/c/"] {
            assert_eq!(Object::found(other), None, "{other}");
        }
    }
}
