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
    Bgp(Bgp),
    /// What an operator wants of a peer's session.
    Order {
        peer: String,
        verb: Verb,
    },
    Repairs,
    Alerts,
    Metrics,
    Healthz,
    Unknown,
}

/// Below `/bgp`; a peer may be unknown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bgp {
    Peers,
    Peer(String),
    Routes(String),
    Addresses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Disable,
    Enable,
    Clear,
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
            Some("bgp") => return bgp(names),
            Some("repairs") => return Resource::Repairs,
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

fn bgp(names: impl Iterator<Item = String>) -> Resource {
    let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let order = |peer: &str, verb| Resource::Order {
        peer: peer.to_owned(),
        verb,
    };
    match names.as_slice() {
        [] | ["peers"] => Resource::Bgp(Bgp::Peers),
        ["addresses"] => Resource::Bgp(Bgp::Addresses),
        ["peers", peer] => Resource::Bgp(Bgp::Peer((*peer).to_owned())),
        ["peers", peer, "routes"] => Resource::Bgp(Bgp::Routes((*peer).to_owned())),
        ["peers", peer, "disable"] => order(peer, Verb::Disable),
        ["peers", peer, "enable"] => order(peer, Verb::Enable),
        ["peers", peer, "clear"] => order(peer, Verb::Clear),
        _ => Resource::Unknown,
    }
}

/// `%2E` → `.`; a `%` that stands for nothing stays. What is not UTF-8 then is no name of ours.
pub(super) fn decoded(name: &str) -> String {
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
        let peer = |name: &str| Resource::Bgp(Bgp::Peer(name.into()));
        let order = |name: &str, verb| Resource::Order {
            peer: name.into(),
            verb,
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
            ("/bgp", Resource::Bgp(Bgp::Peers)),
            ("/bgp/peers/", Resource::Bgp(Bgp::Peers)),
            ("/bgp//addresses/", Resource::Bgp(Bgp::Addresses)),
            ("/bgp/peers/fe80::1%25eth1", peer("fe80::1%eth1")),
            ("/bgp/peers/fe80::1%eth1", peer("fe80::1%eth1")),
            ("/bgp/peers/2001%3Adb8::1/", peer("2001:db8::1")),
            (
                "/bgp/peers/eth1/routes",
                Resource::Bgp(Bgp::Routes("eth1".into())),
            ),
            ("/bgp/peers/eth1/disable", order("eth1", Verb::Disable)),
            ("/bgp/peers/eth1/enable/", order("eth1", Verb::Enable)),
            ("/bgp/peers/eth1/clear", order("eth1", Verb::Clear)),
            ("/bgp/peers/eth1/clear/x", Resource::Unknown),
            ("/bgp/peers/eth1/start", Resource::Unknown),
            ("/bgp/eth1", Resource::Unknown),
            ("/repairs", Resource::Repairs),
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
