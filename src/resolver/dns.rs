//! Questions to DNS, as `resolv.conf` says they are to be asked, and answers in our words.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::time::timeout;

use crate::service::{Family, Host};

/// The longest that one name may take, all its search domains and servers included.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest that one server is waited for before the next is asked, if `resolv.conf` asks for no less.
const SERVER_LIMIT: Duration = Duration::from_secs(2);
/// However short or long DNS says an answer is good, it is asked again no sooner and no later.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
const LONGEST_TTL: Duration = Duration::from_secs(60 * 60);

pub(super) struct Dns {
    /// Or why there is none.
    resolver: Result<TokioResolver, String>,
}

/// What DNS said: addresses, sorted, at least one, and for how long.
pub(super) struct Answer {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

impl Dns {
    /// By the text of a `resolv.conf` (resolv.conf(5)).
    pub(super) fn by(resolv_conf: &[u8], port: u16) -> Dns {
        Dns {
            resolver: resolver(resolv_conf, port).map_err(|error| error.to_string()),
        }
    }

    pub(super) fn none(why: String) -> Dns {
        Dns { resolver: Err(why) }
    }

    /// The error is in an operator's words, the same ones for the same fault.
    pub(super) async fn ask(&self, host: &Host, family: Family) -> Result<Answer, String> {
        let resolver = self.resolver.as_ref().map_err(String::clone)?;
        // A final dot makes it absolute: no search domains.
        let name = Name::from_ascii(host.as_str()).map_err(|_| "not a name for DNS".to_owned())?;
        let record_type = match family {
            Family::Ipv4 => RecordType::A,
            Family::Ipv6 => RecordType::AAAA,
        };
        let answer = timeout(LIMIT, resolver.lookup(name, record_type))
            .await
            .map_err(|_| no_answer())?
            .map_err(|error| words(&error, family))?;
        // With CNAMEs in it: an answer is as good as the shortest-lived record on its way.
        let ttl = answer
            .answers()
            .iter()
            .map(|record| record.ttl)
            .min()
            .unwrap_or(0);
        let usable = |address: &IpAddr| {
            Family::of(*address) == family && !address.is_unspecified() && !address.is_multicast()
        };
        let records = answer.answers().iter();
        let mut addresses: Vec<IpAddr> = records
            .filter_map(|record| record.data.ip_addr())
            .filter(usable)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(no_address(family));
        }
        let ttl = Duration::from_secs(ttl.into()).clamp(SHORTEST_TTL, LONGEST_TTL);
        Ok(Answer { addresses, ttl })
    }
}

fn resolver(resolv_conf: &[u8], port: u16) -> Result<TokioResolver, NetError> {
    let (config, mut options) = parse_resolv_conf(resolv_conf)?;
    let (domain, search, mut servers) = config.into_parts();
    // The last of `domain` and `search` holds; this host's own domain only if there is neither.
    let domain = domain.filter(|_| search.is_empty());
    for connection in servers
        .iter_mut()
        .flat_map(|server| &mut server.connections)
    {
        connection.port = port;
    }
    options.timeout = options.timeout.min(SERVER_LIMIT);
    options.use_hosts_file = ResolveHosts::Never;
    // We ask when the TTL is over and no sooner; an error is to be asked again when we retry.
    options.cache_size = 0;
    let config = ResolverConfig::from_parts(domain, search, servers);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
}

fn words(error: &NetError, family: Family) -> String {
    if error.is_nx_domain() {
        return "no such name in DNS".into();
    }
    if error.is_no_records_found() {
        return no_address(family);
    }
    if let NetError::Dns(DnsError::ResponseCode(code)) = error {
        return format!("DNS says {}", code.to_str());
    }
    if let NetError::Timeout = error {
        return no_answer();
    }
    error
        .to_string()
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

fn no_answer() -> String {
    "no answer from DNS".into()
}

fn no_address(family: Family) -> String {
    format!("no {family} address in DNS")
}
