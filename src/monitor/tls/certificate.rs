//! What a server's certificate says of itself, and the verifiers that look at it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::certificate::X509CertificateParser;
use x509_parser::nom::Parser;

use super::words::roughly;
use crate::check::figures::Figures;

/// In seconds since 1970; `None`: it is no certificate.
pub(super) fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    let (_, certificate) = parser.parse(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Why a certificate that expires then is no good, if `least` is the time that it must have left.
pub(super) fn too_soon(expires: i64, least: Duration, now: i64) -> Option<String> {
    let left = expires.saturating_sub(now);
    if left < 0 {
        return Some(format!("certificate expired {} ago", roughly(left)));
    }
    let least = i64::try_from(least.as_secs()).unwrap_or(i64::MAX);
    (left < least).then(|| {
        let (left, least) = (roughly(left), roughly(least));
        format!("certificate expires in {left}, expected {least} or more")
    })
}

/// Seconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "certificates name times of the wall clock"
)]
pub(super) fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Another verifier, before whose verdict the certificate's end is noted.
#[derive(Debug)]
pub(super) struct Noting {
    inner: Arc<dyn ServerCertVerifier>,
    figures: Arc<Figures>,
}

impl Noting {
    pub(super) fn new(inner: Arc<dyn ServerCertVerifier>, figures: Arc<Figures>) -> Noting {
        Noting { inner, figures }
    }
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(expires) = expiry(certificate) {
            self.figures.certificate_expires.store(expires, Relaxed);
        }
        self.inner
            .verify_server_cert(certificate, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes every certificate: a check asks whether the server answers, not who it is.
#[derive(Debug)]
pub(super) struct Anyone(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_certificate_must_last() {
        const DAY: i64 = 24 * 60 * 60;
        let now = 1_800_000_000;
        let check = |left: i64, expected: Option<&str>| {
            let least = Duration::from_secs(14 * 24 * 60 * 60);
            let why = too_soon(now + left, least, now);
            assert_eq!(why.as_deref(), expected, "{left}");
        };
        check(14 * DAY, None);
        check(
            14 * DAY - 1,
            Some("certificate expires in 13 days, expected 14 days or more"),
        );
        check(
            0,
            Some("certificate expires in 0 seconds, expected 14 days or more"),
        );
        check(-3 * DAY, Some("certificate expired 3 days ago"));
        assert_eq!(too_soon(now, Duration::ZERO, now), None);
        assert_eq!(
            too_soon(now - 1, Duration::ZERO, now).as_deref(),
            Some("certificate expired 1 second ago")
        );
        assert!(too_soon(i64::MIN, Duration::MAX, now).is_some());
        assert_eq!(expiry(&CertificateDer::from(vec![0x30; 2000])), None);
    }
}
