//! GETs to one endpoint over HTTP/1.1, with TLS and user as `[etcd]` says; each bounded in time and size.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use crate::config;
use crate::etcd::{self, ConnectError};

/// The most that is read of one answer. A tree of 100,000 servers has some 25 MB.
const LARGEST: usize = 64 * 1024 * 1024;
/// The largest head of an answer.
const LARGEST_HEAD: usize = 64 * 1024;
/// How long an answer may take that comes at all.
const LONGEST: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("plimsoll/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::source::etcd) enum HttpError {
    #[error(transparent)]
    File(ConnectError),
    #[error("[etcd] {key} {path}: {fault}")]
    Tls {
        key: &'static str,
        path: PathBuf,
        fault: String,
    },
    #[error("this host has no certificate authorities, and [etcd] names no ca")]
    NoRoots,
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("no answer to {what} within {within:?}")]
    Silent {
        what: &'static str,
        within: Duration,
    },
    #[error("{what} broke off")]
    Broken {
        what: &'static str,
        #[source]
        cause: hyper::Error,
    },
    #[error("the answer to {what} is longer than {} MiB", LARGEST >> 20)]
    TooLarge { what: &'static str },
}

/// An endpoint, and what a connection to it needs.
pub(super) struct Client {
    endpoint: Url,
    tls: Option<TlsConnector>,
    authorization: Option<HeaderValue>,
    within: Duration,
}

/// A kept-alive connection.
pub(super) struct Wire<'a> {
    client: &'a Client,
    sender: SendRequest<Empty<Bytes>>,
    /// Moves the bytes; ends with this value.
    _driver: JoinSet<()>,
}

/// What etcd tells with every answer.
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// `X-Etcd-Index`: the index of the last change of any key. Refusals have none.
    pub(super) index: Option<u64>,
    /// `X-Etcd-Cluster-Id`
    pub(super) cluster: Option<HeaderValue>,
}

/// A question: what to GET, and the words for it in an error.
pub(super) struct Question {
    pub(super) what: &'static str,
    /// The key, from its slash on.
    pub(super) key: String,
    pub(super) query: String,
}

impl Client {
    /// Reads certificates and password, and makes no connection yet.
    pub(super) async fn new(config: &config::Etcd, endpoint: &Url) -> Result<Client, HttpError> {
        let within = config.timeout;
        let (files, https) = (config.clone(), endpoint.scheme() == "https");
        // On a disk that hangs the thread stays behind, as in `etcd::connect`.
        let read = timeout(within, spawn_blocking(move || read(&files, https))).await;
        let Ok(Ok(read)) = read else {
            return Err(HttpError::File(ConnectError::FilesHang(within)));
        };
        let (tls, authorization) = read?;
        Ok(Client {
            endpoint: endpoint.clone(),
            tls,
            authorization,
            within,
        })
    }

    pub(super) async fn connect(&self) -> Result<Wire<'_>, HttpError> {
        let deadline = Instant::now() + self.within;
        let connected = timeout_at(deadline, self.stream()).await;
        let (sender, driver) = connected
            .map_err(|_| self.silent("a connection"))?
            .map_err(HttpError::Connect)?;
        Ok(Wire {
            client: self,
            sender,
            _driver: driver,
        })
    }

    async fn stream(&self) -> io::Result<(SendRequest<Empty<Bytes>>, JoinSet<()>)> {
        let port = self.endpoint.port_or_known_default().unwrap_or_default();
        let (stream, name) = match self.endpoint.host() {
            Some(Host::Domain(name)) => {
                let server = ServerName::try_from(name.to_owned());
                (TcpStream::connect((name, port)).await?, server)
            }
            Some(Host::Ipv4(ip)) => (
                TcpStream::connect((ip, port)).await?,
                Ok(std::net::IpAddr::from(ip).into()),
            ),
            Some(Host::Ipv6(ip)) => (
                TcpStream::connect((ip, port)).await?,
                Ok(std::net::IpAddr::from(ip).into()),
            ),
            None => return Err(io::ErrorKind::InvalidInput.into()),
        };
        // On loopback a connect to a port where nobody listens can meet itself (RFC 9293 section 3.5).
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        // A poll may be quiet for long: whether its packets still arrive, the kernel asks.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(2))
            .with_interval(Duration::from_secs(1))
            .with_retries(3);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        match &self.tls {
            None => handshake(stream).await,
            Some(tls) => {
                let name = name.map_err(io::Error::other)?;
                handshake(tls.connect(name, stream).await?).await
            }
        }
    }

    fn request(&self, question: &Question) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let mut url = self.endpoint.clone();
        // An endpoint is http or https, and such a URL has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(["v2", "keys"]);
            path.extend(question.key.split('/').skip(1));
        }
        url.set_query(Some(&question.query));
        let mut request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
            .header(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Empty::new())
    }

    fn silent(&self, what: &'static str) -> HttpError {
        let within = self.within;
        HttpError::Silent { what, within }
    }
}

impl Wire<'_> {
    /// Whether another question can go this way; waits until hyper is done with the answer before.
    pub(super) async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Question and answer, all of it in time.
    pub(super) async fn get(&mut self, question: &Question) -> Result<(Head, Vec<u8>), HttpError> {
        let client = self.client;
        let asked = timeout(client.within, self.ask(question)).await;
        let (head, mut body) = asked.map_err(|_| client.silent(question.what))??;
        match timeout(LONGEST, body.read(Some(client.within))).await {
            Ok(read) => Ok((head, read?)),
            Err(_) => Err(HttpError::Silent {
                what: question.what,
                within: LONGEST,
            }),
        }
    }

    /// Asks, and waits for the head of the answer as long as the caller does.
    pub(super) async fn ask(&mut self, question: &Question) -> Result<(Head, Body<'_>), HttpError> {
        let (client, what) = (self.client, question.what);
        let request = client.request(question);
        let request = request.map_err(|cause| HttpError::Connect(io::Error::other(cause)))?;
        let sent = self.sender.send_request(request).await;
        let answer = sent.map_err(|cause| HttpError::Broken { what, cause })?;
        let head = head(&answer);
        let body = Body {
            client,
            what,
            incoming: answer.into_body(),
        };
        Ok((head, body))
    }
}

/// The rest of an answer.
pub(super) struct Body<'a> {
    client: &'a Client,
    what: &'static str,
    incoming: Incoming,
}

impl Body<'_> {
    /// All of it; `within`: how long each piece may take.
    pub(super) async fn read(&mut self, within: Option<Duration>) -> Result<Vec<u8>, HttpError> {
        let (client, what) = (self.client, self.what);
        let mut all = Vec::new();
        loop {
            let frame = match within {
                None => self.incoming.frame().await,
                Some(within) => timeout(within, self.incoming.frame())
                    .await
                    .map_err(|_| client.silent(what))?,
            };
            let Some(frame) = frame else { return Ok(all) };
            let frame = frame.map_err(|cause| HttpError::Broken { what, cause })?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if all.len() + data.len() > LARGEST {
                return Err(HttpError::TooLarge { what });
            }
            all.extend_from_slice(data);
        }
    }
}

fn head(answer: &Response<Incoming>) -> Head {
    let headers = answer.headers();
    let index = headers.get("X-Etcd-Index");
    Head {
        status: answer.status(),
        index: index.and_then(|index| index.to_str().ok()?.parse().ok()),
        cluster: headers.get("X-Etcd-Cluster-Id").cloned(),
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<(SendRequest<Empty<Bytes>>, JoinSet<()>)> {
    let mut http = http1::Builder::new();
    http.max_buf_size(LARGEST_HEAD);
    let shaken = http.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(io::Error::other)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Whoever waits for an answer is told the same by the sender.
        drop(connection.await);
    });
    Ok((sender, driver))
}

type Credentials = (Option<TlsConnector>, Option<HeaderValue>);

/// Blocks, as files do.
fn read(config: &config::Etcd, https: bool) -> Result<Credentials, HttpError> {
    let authorization = match (&config.user, &config.password_file) {
        (Some(user), Some(path)) => Some(basic(user, path)?),
        (None, _) | (_, None) => None,
    };
    let tls = if https { Some(tls(config)?) } else { None };
    Ok((tls, authorization))
}

/// RFC 7617.
fn basic(user: &str, path: &Path) -> Result<HeaderValue, HttpError> {
    let password = etcd::password(path).map_err(HttpError::File)?;
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    // base64 has only letters that a header may have.
    let mut value = HeaderValue::try_from(text).expect("base64 in a header");
    value.set_sensitive(true);
    Ok(value)
}

fn tls(config: &config::Etcd) -> Result<TlsConnector, HttpError> {
    let roots = match &config.ca {
        None => native_roots()?,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("ca", path)? {
                let added = roots.add(certificate);
                added.map_err(|error| bad_file("ca", path, error.to_string()))?;
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        // It fails only for a provider that has no cipher for TLS 1.2 or 1.3; ring's has them for both.
        .expect("ring's cipher suites serve the default protocol versions")
        .with_root_certificates(roots);
    let mut client = match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("certificate", certificate)?;
            let pem = etcd::contents("key", key).map_err(HttpError::File)?;
            let parsed = PrivateKeyDer::from_pem_slice(&pem);
            let parsed = parsed.map_err(|error| bad_file("key", key, error.to_string()))?;
            let built = builder.with_client_auth_cert(chain, parsed);
            built.map_err(|error| bad_file("certificate", certificate, error.to_string()))?
        }
        (None, _) | (_, None) => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(client)))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let pem = etcd::contents(key, path).map_err(HttpError::File)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match parsed {
        Ok(certificates) if certificates.is_empty() => {
            Err(bad_file(key, path, "no certificate in it".to_owned()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(bad_file(key, path, error.to_string())),
    }
}

fn bad_file(key: &'static str, path: &Path, fault: String) -> HttpError {
    HttpError::Tls {
        key,
        path: path.to_owned(),
        fault,
    }
}

fn native_roots() -> Result<RootCertStore, HttpError> {
    let mut roots = RootCertStore::empty();
    let (taken, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if taken == 0 {
        return Err(HttpError::NoRoots);
    }
    Ok(roots)
}
