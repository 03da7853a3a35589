//! How TLS is spoken to a server, and the files that it takes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde::Serialize;
use zeroize::Zeroizing;

/// The largest file of certificates; all authorities that browsers trust take a quarter of a MiB.
const LARGEST: u64 = 4 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsClient {
    /// SNI, and whom the certificate must be for if it is verified; `None`: the URL's host, else the server's name.
    pub server_name: Option<String>,
    pub trust: Trust,
    /// Our own certificate.
    pub identity: Option<Identity>,
    /// Down if the server's certificate expires sooner.
    pub expires_in: Option<Duration>,
}

/// Whose certificates are good.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// Not looked into.
    #[default]
    Anyone,
    /// Those of this host's authorities.
    System,
    /// `ca-file`: those of these authorities.
    Authorities(PathBuf),
}

/// `certificate`, with its chain, and `key`: PEM files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    #[error("{} has no {} in PEM", .0.display(), .1)]
    Empty(PathBuf, &'static str),
    #[error("{} has a {} that cannot be used: {}", .0.display(), .1, .2)]
    Bad(PathBuf, &'static str, String),
    #[error("{} is not the key of {}", .0.display(), .1.display())]
    OfAnother(PathBuf, PathBuf),
    #[error("{} is open to everyone (mode {:04o})", .0.display(), .1)]
    Open(PathBuf, u32),
}

impl BadFile {
    /// The file that is bad.
    pub fn path(&self) -> &Path {
        match self {
            BadFile::Unreadable(path, _)
            | BadFile::Empty(path, _)
            | BadFile::Bad(path, _, _)
            | BadFile::OfAnother(path, _)
            | BadFile::Open(path, _) => path,
        }
    }
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";
/// Whoever may read the key may be taken for us; whoever may write it may choose it.
const OTHERS: u32 = 0o006;

/// The authorities in a `ca-file`, at least one. Blocks, as files do.
pub fn authorities(file: &Path) -> Result<RootCertStore, BadFile> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| BadFile::Bad(file.into(), CERTIFICATE, error.to_string()))?;
    }
    Ok(roots)
}

/// The certificates of a file, at least one. Blocks, as files do.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let bad = |error: pem::Error| BadFile::Bad(file.into(), CERTIFICATE, error.to_string());
    let (_, text) = read(file)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(bad)?;
    if found.is_empty() {
        return Err(BadFile::Empty(file.into(), CERTIFICATE));
    }
    Ok(found)
}

impl Identity {
    /// Blocks, as files do.
    pub fn read(&self) -> Result<Arc<SingleCertAndKey>, BadFile> {
        let Identity { certificate, key } = self;
        let bad = |what, error: &dyn ToString| BadFile::Bad(key.clone(), what, error.to_string());
        let chain = certificates(certificate)?;
        let (mode, text) = read(key)?;
        if mode & OTHERS != 0 {
            return Err(BadFile::Open(key.clone(), mode & 0o7777));
        }
        let parsed = match PrivateKeyDer::from_pem_slice(&text) {
            Ok(parsed) => parsed,
            Err(pem::Error::NoItemsFound) => return Err(BadFile::Empty(key.clone(), KEY)),
            Err(error) => return Err(bad(KEY, &error)),
        };
        let signer = ring::sign::any_supported_type(&parsed).map_err(|error| bad(KEY, &error))?;
        let identity = CertifiedKey::new(chain, signer);
        match identity.keys_match() {
            Ok(()) => Ok(Arc::new(SingleCertAndKey::from(identity))),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(BadFile::OfAnother(key.clone(), certificate.clone()))
            }
            Err(error) => Err(BadFile::Bad(
                certificate.clone(),
                CERTIFICATE,
                error.to_string(),
            )),
        }
    }
}

/// A file's mode and text.
fn read(path: &Path) -> Result<(u32, Zeroizing<Vec<u8>>), BadFile> {
    let unreadable = |error| BadFile::Unreadable(path.into(), error);
    // A pipe would be waited for, and to open a device may do something.
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(unreadable(io::Error::other("not a file")));
    }
    if meta.len() > LARGEST {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    // With room to spare: what grows leaves a copy behind.
    let room = usize::try_from(meta.len()).unwrap_or_default() + 1024;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    file.take(LARGEST)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    Ok((mode, text))
}
