//! A client of etcd's v3 API as `[etcd]` says: one endpoint, with TLS, user and deadlines.
//!
//! For whoever talks to etcd: the source of lists, the fleet's key, the command line. It retries nothing;
//! the caller goes on to the next endpoint, with `backoff` when all of them have failed. One endpoint at a
//! time, since the library's own balancing keeps giving requests to a member that hangs.

mod read;

pub use read::{LONGEST, Reader, RequestError, after, next};

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use url::Url;

use crate::config::Etcd;

/// How often an open connection is asked for a sign of life (HTTP/2 PING).
const PING: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot read [etcd] {key} {path}")]
    File {
        key: &'static str,
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("reading the files of [etcd] took longer than {0:?}")]
    FilesHang(Duration),
    #[error("cannot connect to {endpoint}: {}", words(cause))]
    Endpoint {
        endpoint: Url,
        cause: etcd_client::Error,
    },
    #[error("{endpoint} did not answer within {within:?}")]
    Silent { endpoint: Url, within: Duration },
}

/// Opens a connection to one endpoint and authenticates, all in at most twice `[etcd] timeout`. A new
/// connection reads certificates and password anew. An endpoint that is away may show only with the
/// first request. Requests are refused by a member that knows of no leader.
pub async fn connect(config: &Etcd, endpoint: &Url) -> Result<Client, ConnectError> {
    let within = config.timeout;
    let (files, tls) = (Files::of(config), endpoint.scheme() == "https");
    // On a disk that hangs the thread stays behind; the runtime has 512 of them and we wait for one.
    let reading = timeout(within, spawn_blocking(move || files.read(tls)));
    let options = match reading.await {
        Ok(Ok(read)) => read?,
        // The thread panicked or the runtime is ending.
        Ok(Err(_)) | Err(_) => return Err(ConnectError::FilesHang(within)),
    };
    let options = options
        .with_connect_timeout(within)
        .with_keep_alive(PING, within)
        .with_keep_alive_while_idle(true)
        // A token's end is no fault of the connection: the password still holds.
        .with_auto_token_refresh(true)
        .with_require_leader(true);
    let url = endpoint.as_str().trim_end_matches('/');
    match timeout(within, Client::connect([url], Some(options))).await {
        Ok(client) => client.map_err(|cause| ConnectError::Endpoint {
            endpoint: endpoint.clone(),
            cause,
        }),
        Err(_) => Err(ConnectError::Silent {
            endpoint: endpoint.clone(),
            within,
        }),
    }
}

/// What etcd or the way to it said. The library's own words carry a whole response's metadata with them.
pub fn words(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return error.to_string();
    };
    let mut text = match status.message() {
        "" => format!("{:?}", status.code()),
        message => message.to_owned(),
    };
    let mut cause = status.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        cause = error.source();
    }
    text
}

/// What `[etcd]` names on disk.
struct Files {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    user: Option<(String, PathBuf)>,
}

impl Files {
    fn of(config: &Etcd) -> Files {
        Files {
            ca: config.ca.clone(),
            identity: config.certificate.clone().zip(config.key.clone()),
            user: config.user.clone().zip(config.password_file.clone()),
        }
    }

    fn read(&self, tls: bool) -> Result<ConnectOptions, ConnectError> {
        let mut options = ConnectOptions::new();
        if let Some((user, path)) = &self.user {
            options = options.with_user(user, password(path)?);
        }
        if !tls {
            return Ok(options);
        }
        let mut tls = match &self.ca {
            Some(ca) => {
                TlsOptions::new().ca_certificate(Certificate::from_pem(contents("ca", ca)?))
            }
            None => TlsOptions::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            let certificate = contents("certificate", certificate)?;
            tls = tls.identity(Identity::from_pem(certificate, contents("key", key)?));
        }
        Ok(options.with_tls(tls))
    }
}

/// The first line of `[etcd] password-file`. Blocks, as files do.
pub fn password(path: &Path) -> Result<String, ConnectError> {
    let text = contents("password-file", path)?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec()).map_err(|_| ConnectError::File {
        key: "password-file",
        path: path.to_owned(),
        cause: std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8"),
    })
}

/// A file that `[etcd]` names under this key. Blocks, as files do.
pub fn contents(key: &'static str, path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|cause| ConnectError::File {
        key,
        path: path.to_owned(),
        cause,
    })
}
