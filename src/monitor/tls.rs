//! TLS for checks: two client configurations, shared by all of them.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tracing::warn;

pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    any: TlsConnector,
    /// Made when the first check asks for it: reading the host's certificates takes a while.
    verified: OnceCell<TlsConnector>,
}

impl Tls {
    pub(super) fn new() -> Tls {
        let provider = Arc::new(ring::default_provider());
        let anyone = Arc::new(Anyone(provider.clone()));
        let any = builder(&provider)
            .dangerous()
            .with_custom_certificate_verifier(anyone)
            .with_no_client_auth();
        Tls {
            provider,
            any: connector(any),
            verified: OnceCell::new(),
        }
    }

    /// `verify`: whether the server's certificate must be good for its name by the host's authorities.
    pub(super) async fn connector(&self, verify: bool) -> &TlsConnector {
        if !verify {
            return &self.any;
        }
        let load = || async {
            let roots = tokio::task::spawn_blocking(native_roots).await;
            verifying(
                &self.provider,
                roots.unwrap_or_else(|_| RootCertStore::empty()),
            )
        };
        self.verified.get_or_init(load).await
    }
}

fn verifying(provider: &Arc<CryptoProvider>, roots: RootCertStore) -> TlsConnector {
    connector(
        builder(provider)
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

fn builder(
    provider: &Arc<CryptoProvider>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        // It fails only for a provider that has no cipher for TLS 1.2 or 1.3; ring's has them for both.
        .expect("ring's cipher suites serve the default protocol versions")
}

fn connector(mut config: ClientConfig) -> TlsConnector {
    // A check is to try the whole handshake, and one server's ticket means nothing to its neighbour.
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

fn native_roots() -> RootCertStore {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        warn!(%error, "can not read all of this host's certificate authorities");
    }
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(loaded.certs);
    if taken == 0 {
        warn!("this host has no certificate authorities: no certificate will be good");
    }
    roots
}

/// Takes every certificate: a check asks whether the server answers, not who it is.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
