//! A request's path → what it names. Slashes are read as PyBal's server reads them: more than one
//! between two names, or at the end, mean one; and whatever follows a leaf is not looked at.

/// What a path names; the names in it may be unknown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Pools,
    Pool(String),
    Server {
        pool: String,
        host: String,
    },
    /// The same three in our own words.
    Services,
    Service(String),
    ServiceServer {
        service: String,
        host: String,
    },
    Alerts,
    Metrics,
    Healthz,
    Unknown,
}

impl Resource {
    pub(super) fn of(path: &str) -> Resource {
        let mut names = path
            .strip_prefix('/')
            .unwrap_or(path)
            .split('/')
            .map(decoded);
        let own_words = match names.next().as_deref() {
            Some("pools") => false,
            Some("services") => true,
            Some("alerts") => return Resource::Alerts,
            Some("metrics") => return Resource::Metrics,
            Some("healthz") => return Resource::Healthz,
            Some(_) | None => return Resource::Unknown,
        };
        let mut names = names.filter(|name| !name.is_empty());
        match (names.next(), names.next()) {
            (None, _) if own_words => Resource::Services,
            (Some(service), None) if own_words => Resource::Service(service),
            (Some(service), Some(host)) if own_words => Resource::ServiceServer { service, host },
            (None, _) => Resource::Pools,
            (Some(pool), None) => Resource::Pool(pool),
            (Some(pool), Some(host)) => Resource::Server { pool, host },
        }
    }
}

/// `%2E` → `.`; a `%` that stands for nothing stays. What is not UTF-8 then is no name of ours.
fn decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.first_chunk().filter(|_| first == b'%').and_then(byte);
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Two hexadecimal digits (RFC 3986 section 2.1).
fn byte(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let pool = |name: &str| Resource::Pool(name.into());
        let server = |pool: &str, host: &str| {
            let (pool, host) = (pool.into(), host.into());
            Resource::Server { pool, host }
        };
        for (path, expected) in [
            ("/pools", Resource::Pools),
            ("/pools/", Resource::Pools),
            ("/pools//", Resource::Pools),
            ("/pools/web", pool("web")),
            ("/pools/web/", pool("web")),
            ("/pools//web", pool("web")),
            ("/pools/web/cp1", server("web", "cp1")),
            ("/pools/web/cp1/", server("web", "cp1")),
            ("/pools/web/cp1/more", server("web", "cp1")),
            (
                "/%70ools/a%2eb/2001%3Adb8%3A%3a1",
                server("a.b", "2001:db8::1"),
            ),
            ("/pools/100%/%4", server("100%", "%4")),
            ("/pools/%zz%ff", pool("%zz\u{fffd}")),
            ("/pools/a%2Fb", pool("a/b")),
            ("/services", Resource::Services),
            ("/services//", Resource::Services),
            ("/services/web/", Resource::Service("web".into())),
            (
                "/services/web/cp1/more",
                Resource::ServiceServer {
                    service: "web".into(),
                    host: "cp1".into(),
                },
            ),
            ("/alerts", Resource::Alerts),
            ("/alerts/", Resource::Alerts),
            ("/metrics", Resource::Metrics),
            ("/healthz", Resource::Healthz),
            ("/", Resource::Unknown),
            ("", Resource::Unknown),
            ("*", Resource::Unknown),
            ("//pools", Resource::Unknown),
            ("/Pools", Resource::Unknown),
            ("/poolsweb", Resource::Unknown),
        ] {
            assert_eq!(Resource::of(path), expected, "{path}");
        }
    }
}
