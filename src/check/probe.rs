//! What is asked: each kind of monitor with its options.

use std::path::PathBuf;
use std::time::Duration;

use hyper::{HeaderMap, Method};
use serde::{Serialize, Serializer};
use url::Url;

use super::Argument;
use super::expect::{Pattern, Statuses};
use super::tls::TlsClient;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Probe {
    IdleConnection(IdleConnection),
    ProxyFetch(ProxyFetch),
    Tcp(Tcp),
    Tls(Tls),
    Http(Box<Http>),
    Grpc(Grpc),
    RunCommand(RunCommand),
    DnsQuery(DnsQuery),
    Udp(Udp),
    Ping,
    /// `type = "vip-reachability"`: whether the server takes connections to the VIP, as IPVS would hand them to it.
    VipReachability,
}

impl Probe {
    pub(crate) const VIP_REACHABILITY: &str = "vip-reachability";

    /// Whether it is another one for another service that has the same server.
    pub fn names_service(&self) -> bool {
        match self {
            Probe::RunCommand(command) => command.arguments.iter().any(Argument::names_service),
            Probe::IdleConnection(_)
            | Probe::ProxyFetch(_)
            | Probe::Tcp(_)
            | Probe::Tls(_)
            | Probe::Http(_)
            | Probe::Grpc(_)
            | Probe::DnsQuery(_)
            | Probe::Udp(_)
            | Probe::Ping
            | Probe::VipReachability => false,
        }
    }

    /// `type` in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Probe::IdleConnection(_) => "idle-connection",
            Probe::ProxyFetch(_) => "proxy-fetch",
            Probe::Tcp(_) => "tcp",
            Probe::Tls(_) => "tls",
            Probe::Http(_) => "http",
            Probe::Grpc(_) => "grpc",
            Probe::RunCommand(_) => "run-command",
            Probe::DnsQuery(_) => "dns-query",
            Probe::Udp(_) => "udp",
            Probe::Ping => "ping",
            Probe::VipReachability => Probe::VIP_REACHABILITY,
        }
    }
}

/// `type = "idle-connection"`: holds one TCP connection to the server; PyBal's IdleConnection. Its timeout is a
/// connect's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdleConnection {
    /// How long the one quick reconnect after a clean close may take (PyBal: `timeout-clean-reconnect`, 3 s).
    pub timeout_clean_reconnect: Duration,
    /// Longest wait between two reconnects (PyBal: `max-delay`, 300 s).
    pub max_delay: Duration,
    /// TCP keepalive (PyBal: `keepalive*`: on, 10 s idle, 30 s interval, 3 retries).
    pub keepalive: Option<Keepalive>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub retries: u32,
}

/// `type = "proxy-fetch"`: a GET; PyBal's ProxyFetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyFetch {
    /// At least one; http or https. Host and path are the request's; it goes to the server's address
    /// and the monitor's port, whatever host and port the URL names.
    pub url: Vec<Url>,
    /// Those that are good. Redirects are not followed.
    pub status: Statuses,
    /// All URLs are fetched, not one at random, and so many of them may fail (PyBal: `check_all`, `max_failures`).
    pub check_all: Option<u32>,
    /// Whether https certificates are verified (default: no, as in PyBal).
    pub verify_certificate: bool,
}

/// `type = "run-command"`: a program that ends with status 0; PyBal's RunCommand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunCommand {
    /// An absolute path. No shell is between.
    pub command: PathBuf,
    pub arguments: Vec<Argument>,
    /// What it writes goes into the log (PyBal: `log-output`, true).
    pub log_output: bool,
    /// Whom it runs as if we are root; `None`: as `[monitor]` says.
    pub user: Option<User>,
}

/// Who a program runs as: this user and its own group, no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// `type = "dns-query"`: a question to a name server; PyBal's DNSQuery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsQuery {
    /// At least one; one of them is asked for, picked at random. Absolute names, without the dot at their end.
    pub hostnames: Vec<String>,
    /// At least one; one of them, picked at random (PyBal: A and AAAA).
    pub types: Vec<DnsType>,
    pub transport: DnsTransport,
    /// Whether "there is no such name" is bad (PyBal: `fail-on-nxdomain`, false).
    pub fail_on_nxdomain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DnsType {
    A,
    Aaaa,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsTransport {
    Udp,
    Tcp,
}

/// `type = "udp"`: an empty datagram now and then, which ICMP must not call unreachable; PyBal's UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Udp {
    /// From one datagram to the next (PyBal: `interval`, 10 s).
    pub interval: Duration,
    /// So long after the last ICMP message the server is good again (PyBal: `icmp-timeout`, 20 s). Longer than
    /// `interval`.
    pub icmp_timeout: Duration,
}

/// `type = "tcp"`: a connection, and maybe a word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tcp {
    /// Sent once it is connected.
    pub send: Option<String>,
    /// Must come within what the server sends.
    pub expect: Option<Pattern>,
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// `type = "tls"`: a handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    pub tls: TlsClient,
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// `type = "http"`: any request without a body, judged by the answer's status and body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Http {
    /// http or https; as in [`ProxyFetch`] it goes to the server, whatever host and port it names.
    pub url: Url,
    #[serde(serialize_with = "in_words")]
    pub method: Method,
    /// `Host` among them overrules the URL's.
    #[serde(serialize_with = "names")]
    pub headers: HeaderMap,
    pub version: HttpVersion,
    pub status: Statuses,
    /// Must be in the body.
    pub body: Option<Pattern>,
    /// For https.
    pub tls: TlsClient,
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Http {
    /// A GET, and the answer is good if its status is 200.
    pub fn get(url: Url) -> Http {
        Http {
            url,
            method: Method::GET,
            headers: HeaderMap::new(),
            version: HttpVersion::Http1,
            status: [200].as_slice().into(),
            body: None,
            tls: TlsClient::default(),
            proxy_protocol: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum HttpVersion {
    #[serde(rename = "1.1")]
    Http1,
    /// By ALPN over TLS, at once (RFC 9113 section 3.3) without.
    #[serde(rename = "2")]
    Http2,
}

/// `type = "grpc"`: `Check` of `grpc.health.v1`; SERVING is up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grpc {
    /// Whose health is asked for; empty: the server's as a whole.
    pub service: String,
    /// `:authority`; `None`: the server's name.
    pub authority: Option<String>,
    /// `None`: without TLS.
    pub tls: Option<TlsClient>,
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// A header before everything else, HAProxy's PROXY protocol, that says that the connection is not a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyProtocol {
    #[serde(rename = "1")]
    V1,
    #[serde(rename = "2")]
    V2,
}

fn in_words<S: Serializer>(method: &Method, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(method)
}

/// The values may be passwords.
fn names<S: Serializer>(headers: &HeaderMap, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.keys().map(|name| name.as_str()))
}
