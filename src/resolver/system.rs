//! What this host's files say of names, read again when they change.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Files;
use super::dns::Dns;
use super::hosts::Hosts;

/// How often the files are looked at: a stat(2) each.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// One reading of both; what did not change is the same `Arc` as before.
pub(super) struct System {
    pub(super) hosts: Arc<Hosts>,
    pub(super) dns: Arc<Dns>,
}

/// Reads the files; the future keeps reading them, for ever.
pub(super) async fn open(
    files: Files,
) -> (
    watch::Receiver<Arc<System>>,
    impl Future<Output = ()> + Send + 'static,
) {
    let mut stamps = (stamp(&files.hosts).await, stamp(&files.resolv_conf).await);
    let first = System {
        hosts: Arc::new(read_hosts(&files.hosts).await.unwrap_or_default()),
        dns: Arc::new(read_resolv_conf(&files).await),
    };
    let (send, receive) = watch::channel(Arc::new(first));
    let keep_reading = async move {
        loop {
            sleep(LOOK_EVERY).await;
            let now = (stamp(&files.hosts).await, stamp(&files.resolv_conf).await);
            if now == stamps {
                continue;
            }
            let last = send.borrow().clone();
            let (mut hosts, mut dns) = (last.hosts.clone(), last.dns.clone());
            if now.0 != stamps.0
                && let Some(read) = read_hosts(&files.hosts).await
            {
                hosts = Arc::new(read);
            }
            if now.1 != stamps.1 {
                dns = Arc::new(read_resolv_conf(&files).await);
            }
            info!(hosts = %files.hosts.display(), resolv_conf = %files.resolv_conf.display(), "read again");
            stamps = now;
            send.send_replace(Arc::new(System { hosts, dns }));
        }
    };
    (receive, keep_reading)
}

/// Tells one state of a file from another; `None`: it can't be looked at.
/// Taken before the file is read, so that a change while it is read is seen next time.
#[derive(PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let data = tokio::fs::metadata(path).await.ok()?;
    Some(Stamp {
        file: (data.dev(), data.ino()),
        size: data.size(),
        changed: (data.ctime(), data.ctime_nsec()),
    })
}

/// No file is an empty one; `None`: it can't be read, so what was known stays.
async fn read_hosts(path: &Path) -> Option<Hosts> {
    match tokio::fs::read(path).await {
        Ok(text) => Some(Hosts::parse(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Hosts::default()),
        Err(error) => {
            warn!(path = %path.display(), %error, "can not read the hosts file");
            None
        }
    }
}

async fn read_resolv_conf(files: &Files) -> Dns {
    let path = files.resolv_conf.display();
    match tokio::fs::read(&files.resolv_conf).await {
        Ok(text) => Dns::by(&text, files.dns_port),
        Err(error) => {
            warn!(%path, %error, "can not read how DNS is to be asked");
            Dns::none(format!("{path}: {error}"))
        }
    }
}
