//! TLS for checks: the client's configurations, a handshake, and in what words it failed.
//!
//! Configurations are shared by all checks that want the same; what of them is in files follows the files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::warn;
use url::Host;

use super::outcome::{Deadline, Failure};
use crate::check::Check;
use crate::check::tls::{BadFile, Identity, TlsClient, Trust, authorities};
use certificate::{Anyone, Noting, expiry, too_soon, wall_clock};

mod certificate;
pub(super) mod words;

/// How often files are looked at for changes, at most.
const REREAD: Duration = Duration::from_secs(10);
/// RFC 9113 section 3.2.
const HTTP2: &[u8] = b"h2";

pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    any: Base,
    /// Made when the first check asks for it, and again when the files have changed. Checks wait while one of them
    /// reads.
    others: std::sync::Mutex<BTreeMap<Key, Arc<Mutex<Option<Kept>>>>>,
}

/// What a configuration is made from.
type Key = (Trust, Option<Identity>);

/// A configuration, and what it verifies by.
#[derive(Clone)]
struct Base {
    config: Arc<ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
}

#[derive(Clone)]
struct Kept {
    base: Base,
    files: Vec<Mark>,
    looked: Instant,
}

/// What changes with a file: its number, size and time of change; `None` while there is no such file.
type Mark = Option<(u64, u64, i64, i64)>;

/// What a handshake is to be.
pub(super) struct Wanted<'a> {
    pub(super) client: &'a TlsClient,
    pub(super) name: ServerName<'static>,
    /// The server must speak HTTP/2 (RFC 7301).
    pub(super) http2: bool,
}

impl Tls {
    pub(super) fn new() -> Tls {
        let provider = Arc::new(ring::default_provider());
        let anyone: Arc<dyn ServerCertVerifier> = Arc::new(Anyone(provider.clone()));
        Tls {
            any: base(&provider, anyone, None),
            provider,
            others: Default::default(),
        }
    }

    /// Notes in the check's figures when the server's certificate expires, whatever else is wrong with it.
    pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        check: &Check,
        stream: S,
        wanted: Wanted<'_>,
        deadline: Deadline,
    ) -> Result<TlsStream<S>, Failure> {
        let Base { config, verifier } = self.base(wanted.client, deadline).await?;
        let mut config = (*config).clone();
        let noting = Noting::new(verifier, check.figures.clone());
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(noting));
        if wanted.http2 {
            config.alpn_protocols = vec![HTTP2.to_vec()];
        }
        let connector = TlsConnector::from(Arc::new(config));
        let stream = deadline
            .limit("the TLS handshake", connector.connect(wanted.name, stream))
            .await?
            .map_err(|error| Failure::Server(words::handshake(&error)))?;
        let (_, session) = stream.get_ref();
        if let Some(least) = wanted.client.expires_in {
            let certificate = session.peer_certificates().and_then(<[_]>::first);
            let expires = certificate.and_then(expiry);
            let expires = expires.ok_or_else(|| Failure::server("certificate cannot be read"))?;
            if let Some(why) = too_soon(expires, least, wall_clock()) {
                return Err(Failure::Server(why));
            }
        }
        if wanted.http2 && session.alpn_protocol() != Some(HTTP2) {
            return Err(Failure::server("TLS: the server takes no HTTP/2 (ALPN)"));
        }
        Ok(stream)
    }

    async fn base(&self, client: &TlsClient, deadline: Deadline) -> Result<Base, Failure> {
        if client.trust == Trust::Anyone && client.identity.is_none() {
            return Ok(self.any.clone());
        }
        let key = (client.trust.clone(), client.identity.clone());
        let entry = {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            others.entry(key.clone()).or_default().clone()
        };
        let provider = self.provider.clone();
        let read = async {
            let mut kept = entry.lock().await;
            if let Some(kept) = &*kept
                && kept.looked.elapsed() < REREAD
            {
                return Ok(kept.base.clone());
            }
            let known = kept.clone();
            let read = spawn_blocking(move || reread(&provider, &key, known)).await;
            let read = read.map_err(|error| error.to_string())??;
            Ok(kept.insert(read).base.clone())
        };
        timeout_at(deadline.at, read)
            .await
            .unwrap_or_else(|_| Err("the files for TLS could not be read in time".into()))
            .map_err(Failure::Unable)
    }
}

/// Files that have become bad are no reason to stop: somebody may be at them just now.
fn reread(provider: &Arc<CryptoProvider>, key: &Key, known: Option<Kept>) -> Result<Kept, String> {
    let files = marks(key);
    let base = match known {
        None => load(provider, key)?,
        Some(known) if known.files == files => known.base,
        Some(known) => load(provider, key).unwrap_or_else(|error| {
            warn!(error, "checks go on with what was in the file before");
            known.base
        }),
    };
    Ok(Kept {
        base,
        files,
        looked: Instant::now(),
    })
}

/// The name that a server is asked for in TLS, and that its certificate must be for.
pub(super) fn server_name(
    client: &TlsClient,
    host: Option<Host<&str>>,
    check: &Check,
) -> Result<ServerName<'static>, Failure> {
    let name = match (&client.server_name, host) {
        (Some(name), _) => name.clone(),
        (None, Some(Host::Domain(name))) => name.to_owned(),
        (None, Some(Host::Ipv4(address))) => address.to_string(),
        (None, Some(Host::Ipv6(address))) => address.to_string(),
        (None, None) => check.host.as_str().to_owned(),
    };
    let bad = || Failure::Server(format!("{name} can not be named in TLS"));
    ServerName::try_from(name.clone()).map_err(|_| bad())
}

fn marks((trust, identity): &Key) -> Vec<Mark> {
    let mark = |path: &Path| -> Mark {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
    };
    let authorities = match trust {
        Trust::Anyone | Trust::System => None,
        Trust::Authorities(file) => Some(file),
    };
    let identity = identity.iter();
    let identity = identity.flat_map(|Identity { certificate, key }| [certificate, key]);
    authorities
        .into_iter()
        .chain(identity)
        .map(|path| mark(path))
        .collect()
}

fn load(provider: &Arc<CryptoProvider>, (trust, identity): &Key) -> Result<Base, String> {
    let bad = |error: BadFile| error.to_string();
    let roots = match trust {
        Trust::Anyone => None,
        Trust::System => Some(native_roots()?),
        Trust::Authorities(file) => Some(authorities(file).map_err(bad)?),
    };
    let verifier: Arc<dyn ServerCertVerifier> = match roots {
        None => Arc::new(Anyone(provider.clone())),
        Some(roots) => {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| error.to_string())?
        }
    };
    let identity: Option<Arc<dyn ResolvesClientCert>> = match identity {
        None => None,
        Some(identity) => Some(identity.read().map_err(bad)?),
    };
    Ok(base(provider, verifier, identity))
}

fn base(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<Arc<dyn ResolvesClientCert>>,
) -> Base {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        // It fails only for a provider that has no cipher for TLS 1.2 or 1.3; ring's has them for both.
        .expect("ring's cipher suites serve the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone());
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(identity),
    };
    // A check is to try the whole handshake, and one server's ticket means nothing to its neighbour.
    config.resumption = Resumption::disabled();
    Base {
        config: Arc::new(config),
        verifier,
    }
}

fn native_roots() -> Result<RootCertStore, String> {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        warn!(%error, "can not read all of this host's certificate authorities");
    }
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(loaded.certs);
    if taken == 0 {
        return Err("this host has no certificate authorities".into());
    }
    Ok(roots)
}
