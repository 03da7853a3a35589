//! Reads keys page by page, since a message is limited, and all as of one revision.

use std::time::Duration;

use etcd_client::{Client, Error, GetOptions, GetResponse, KeyValue, KvClient};
use tokio::time::timeout;

use super::words;

/// Keys a page, at first; halved while a page is too long for a message.
const PAGE: i64 = 2000;
/// A message may be so long. etcd takes requests of up to 1.5 MiB, and a transaction comes in one message.
pub const LONGEST: usize = 16 * 1024 * 1024;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("{}", words(.0))]
    Refused(Error),
    /// The revision that is read is no longer kept.
    #[error("it was compacted while it was read")]
    Compacted,
    #[error("an answer has no header")]
    Headless,
}

/// A read, from the first page to the last.
pub struct Reader {
    kv: KvClient,
    /// How long each page may take.
    within: Duration,
    page: i64,
    /// The first page's; all others are of it too.
    revision: Option<i64>,
}

impl Reader {
    pub fn new(client: &Client, within: Duration) -> Reader {
        Reader {
            kv: client.kv_client().max_decoding_message_size(LONGEST),
            within,
            page: PAGE,
            revision: None,
        }
    }

    /// As of which revision all is that was read, once there is a page.
    pub fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// The next page is a first one again.
    pub fn start_over(&mut self) {
        self.revision = None;
    }

    /// The first keys from `from` on; the options say where the range ends.
    pub async fn page(
        &mut self,
        from: &[u8],
        options: &GetOptions,
    ) -> Result<GetResponse, RequestError> {
        loop {
            let options = options.clone().with_limit(self.page);
            let options = options.with_revision(self.revision.unwrap_or(0));
            let answer = timeout(self.within, self.kv.get(from, Some(options))).await;
            match answer.map_err(|_| RequestError::Silent(self.within))? {
                Ok(page) => {
                    let header = page.header().ok_or(RequestError::Headless)?;
                    self.revision.get_or_insert(header.revision());
                    return Ok(page);
                }
                Err(cause) => match trouble(&cause) {
                    Trouble::Compacted if self.revision.is_some() => {
                        return Err(RequestError::Compacted);
                    }
                    Trouble::TooLong if self.page > 1 => self.page /= 2,
                    Trouble::Compacted | Trouble::TooLong | Trouble::Other => {
                        return Err(RequestError::Refused(cause));
                    }
                },
            }
        }
    }

    /// All keys that begin with this, which ends with a slash.
    pub async fn below(
        &mut self,
        directory: &str,
        options: GetOptions,
    ) -> Result<Vec<KeyValue>, RequestError> {
        let options = options.with_range(after(directory));
        let mut from = directory.as_bytes().to_vec();
        let mut found = Vec::new();
        loop {
            let mut page = self.page(&from, &options).await?;
            let more = page.more();
            found.append(&mut page.take_kvs());
            match found.last() {
                Some(last) if more => from = next(last.key()),
                Some(_) | None => return Ok(found),
            }
        }
    }
}

/// The first key after this one.
pub fn next(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The first text after all that begin with this one, which ends with a slash.
pub fn after(directory: &str) -> String {
    let open = directory.strip_suffix('/').unwrap_or(directory);
    // The byte after '/' in ASCII.
    format!("{open}0")
}

enum Trouble {
    Compacted,
    /// For the limit of a message.
    TooLong,
    Other,
}

/// Both have the code OUT_OF_RANGE; only the words differ.
fn trouble(error: &Error) -> Trouble {
    let Error::GRpcStatus(status) = error else {
        return Trouble::Other;
    };
    let says = |words| status.message().contains(words);
    if says("revision has been compacted") {
        Trouble::Compacted
    } else if says("message length too large") || says("message larger than max") {
        Trouble::TooLong
    } else {
        Trouble::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directorys_keys_end_before_what_comes_after_it() {
        assert_eq!(after("d/c/s/"), "d/c/s0");
        let end = after("d/c/s/").into_bytes();
        assert!(b"d/c/s/\xff\xff".to_vec() < end && b"d/c/s-2/".to_vec() < end);
        assert!(b"d/c/s0".to_vec() >= end);
    }
}
