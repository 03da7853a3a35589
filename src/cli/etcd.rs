//! etcd for commands: `[etcd]` of a configuration, a runtime, and requests that go to one endpoint after the
//! other until one answers, each answer in bounded time. What is asked for is the command's own business.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error, GetOptions, KeyValue, Txn, TxnResponse};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::exit;
use crate::backoff::Backoff;
use crate::chain::chain;
use crate::config::{Config, Etcd, EtcdApi, Mistakes};
use crate::etcd::{ConnectError, Reader, RequestError, connect};

/// Objects of one transaction: each has two comparisons and two operations at most, and etcd takes 128 of
/// either.
pub(super) const BATCH: usize = 60;

/// Why etcd did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum EtcdError {
    #[error(transparent)]
    Config(Mistakes),
    #[error("{}: [etcd] api = \"v2\": {why}", path.display())]
    V2 { path: PathBuf, why: &'static str },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// What each of them said; one alone if the others would say the same.
    #[error("no endpoint of etcd {what}{}", lines(each))]
    Nobody {
        what: &'static str,
        each: Vec<Fault>,
    },
    #[error("etcd's answer lacks {0}")]
    Answer(&'static str),
}

/// Why one endpoint did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{}", chain(.0))]
    Connect(ConnectError),
    #[error("{endpoint}: {cause}")]
    Request { endpoint: Url, cause: RequestError },
}

/// `[etcd]` of a configuration, if it is of the v3 API; `why` it has to be.
pub(super) fn configured(path: &Path, why: &'static str) -> Result<Arc<Etcd>, EtcdError> {
    let etcd = Config::read_etcd(path).map_err(EtcdError::Config)?;
    match etcd.api {
        EtcdApi::V3 => Ok(etcd),
        EtcdApi::V2 => Err(EtcdError::V2 {
            path: path.to_owned(),
            why,
        }),
    }
}

/// Runs it to its end. Connections live on a thread of their own, so that they outlast a question and an
/// editor.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, EtcdError> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(EtcdError::Runtime)?;
    let done = runtime.block_on(work);
    // File reads that hang on their own threads are not waited for.
    runtime.shutdown_background();
    Ok(done)
}

/// All endpoints, of which one is asked.
pub(super) struct Endpoints {
    config: Arc<Etcd>,
    next: usize,
    connected: Option<Endpoint>,
}

/// A connection to one endpoint.
#[derive(Clone)]
pub(super) struct Endpoint {
    client: Client,
    url: Url,
    within: Duration,
}

/// A read of several directories as of one revision.
pub(super) struct Reading<'a> {
    endpoint: &'a Endpoint,
    reader: Reader,
}

impl Endpoints {
    pub(super) fn new(config: Arc<Etcd>) -> Endpoints {
        Endpoints {
            config,
            next: 0,
            connected: None,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// Asks each endpoint in turn; when all have failed, again, as long as twice the timeout is not over:
    /// a cluster that elects a leader refuses for a second or two.
    pub(super) async fn request<T>(
        &mut self,
        what: &'static str,
        mut ask: impl AsyncFnMut(&Endpoint) -> Result<T, Fault>,
    ) -> Result<T, EtcdError> {
        let end = Instant::now() + 2 * self.config.timeout;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            let mut each = Vec::new();
            for _ in 0..self.config.endpoints.len() {
                let fault = match self.endpoint().await {
                    Ok(endpoint) => match ask(&endpoint).await {
                        Ok(answer) => return Ok(answer),
                        Err(fault) => fault,
                    },
                    Err(fault) => fault,
                };
                if fault.is_last_word() {
                    let each = vec![fault];
                    return Err(EtcdError::Nobody { what, each });
                }
                each.push(fault);
                self.leave();
            }
            if Instant::now() >= end {
                return Err(EtcdError::Nobody { what, each });
            }
            sleep(backoff.next()).await;
        }
    }

    /// One request, one answer.
    pub(super) async fn ask<T>(
        &mut self,
        what: &'static str,
        mut ask: impl AsyncFnMut(Client) -> Result<T, Error>,
    ) -> Result<T, EtcdError> {
        let answer = self.request(what, async |endpoint: &Endpoint| {
            endpoint.ask(&mut ask).await
        });
        answer.await
    }

    /// A transaction, and whether an earlier try of it had no answer: then what it finds may be its own work.
    pub(super) async fn transact(
        &mut self,
        what: &'static str,
        transaction: &Txn,
    ) -> Result<(TxnResponse, bool), EtcdError> {
        let mut tries = 0_u32;
        let answer = self.ask(what, async |mut client: Client| {
            tries += 1;
            client.txn(transaction.clone()).await
        });
        let answer = answer.await?;
        Ok((answer, tries > 1))
    }

    /// The endpoint that is asked now has failed: the next one is asked from here on.
    pub(super) fn leave(&mut self) {
        self.connected = None;
        self.next += 1;
    }

    async fn endpoint(&mut self) -> Result<Endpoint, Fault> {
        if let Some(endpoint) = &self.connected {
            return Ok(endpoint.clone());
        }
        // There is at least one, as the configuration says.
        let url = &self.config.endpoints[self.next % self.config.endpoints.len()];
        let client = connect(&self.config, url).await;
        let endpoint = Endpoint {
            client: client.map_err(Fault::Connect)?,
            url: url.clone(),
            within: self.config.timeout,
        };
        Ok(self.connected.insert(endpoint).clone())
    }
}

impl Endpoint {
    async fn ask<T>(
        &self,
        request: impl AsyncFnOnce(Client) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let answer = timeout(self.within, request(self.client.clone())).await;
        answer
            .map_err(|_| RequestError::Silent(self.within))
            .and_then(|answer| answer.map_err(RequestError::Refused))
            .map_err(|cause| self.fault(cause))
    }

    pub(super) fn reading(&self) -> Reading<'_> {
        Reading {
            endpoint: self,
            reader: Reader::new(&self.client, self.within),
        }
    }

    fn fault(&self, cause: RequestError) -> Fault {
        let endpoint = self.url.clone();
        Fault::Request { endpoint, cause }
    }
}

impl Reading<'_> {
    /// All keys that begin with this, which ends with a slash.
    pub(super) async fn below(
        &mut self,
        directory: &str,
        options: GetOptions,
    ) -> Result<Vec<KeyValue>, Fault> {
        let found = self.reader.below(directory, options).await;
        found.map_err(|cause| self.endpoint.fault(cause))
    }

    pub(super) fn revision(&self) -> i64 {
        self.reader.revision().unwrap_or(0)
    }
}

impl EtcdError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            EtcdError::Config(_) | EtcdError::V2 { .. } => exit::CONFIG,
            EtcdError::Runtime(_) => exit::OS_ERROR,
            EtcdError::Nobody { .. } | EtcdError::Answer(_) => exit::UNAVAILABLE,
        }
    }
}

impl Fault {
    /// Whether another endpoint would say the same: what was asked is wrong or not allowed.
    fn is_last_word(&self) -> bool {
        /// INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION
        /// (gRPC's doc/statuscodes.md).
        const LAST_WORDS: [i32; 5] = [3, 5, 7, 8, 9];
        let refused = match self {
            Fault::Connect(ConnectError::File { .. }) => return true,
            Fault::Request {
                cause: RequestError::Refused(error),
                ..
            } => error,
            Fault::Connect(_) | Fault::Request { .. } => return false,
        };
        matches!(refused, Error::GRpcStatus(status) if LAST_WORDS.contains(&(status.code() as i32)))
    }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}
