//! SIGHUP's reading of the configuration: on a thread of its own, since the file may lie on a disk that hangs,
//! and signals, routers and servers must be heard meanwhile. What comes of it is the daemon's business.

use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::reader::Reader;
use crate::config::{Config, Mistakes};

/// A file that takes longer is told of.
const HUNG: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Reload {
    path: PathBuf,
    reader: Reader,
    reading: Option<JoinHandle<Result<Config, Mistakes>>>,
    /// When that is said to hang; `None`: it has been said.
    hangs: Option<Instant>,
    /// It was asked for again, and the file may have changed since it was opened.
    again: bool,
}

impl Reload {
    pub(super) fn new(path: PathBuf, reader: Reader) -> Reload {
        Reload {
            path,
            reader,
            reading: None,
            hangs: None,
            again: false,
        }
    }

    pub(super) fn start(&mut self) {
        if self.reading.is_some() {
            self.again = true;
            return;
        }
        let (path, reader) = (self.path.clone(), self.reader.clone());
        self.reading = Some(spawn_blocking(move || reader.read(&path)));
        self.hangs = Some(Instant::now() + HUNG);
    }

    /// What was read, or why there is nothing (yet), a mistake a line. Never, if nothing was started.
    pub(super) async fn outcome(&mut self) -> Result<Config, String> {
        let Some(reading) = &mut self.reading else {
            return pending().await;
        };
        let patience = async {
            match self.hangs {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let file = self.path.display();
        let read = tokio::select! {
            read = reading => read,
            () = patience => {
                self.hangs = None;
                return Err(format!("{file}: reading takes longer than {} s", HUNG.as_secs()));
            }
        };
        let read = match read {
            Ok(read) => read.map_err(|mistakes| mistakes.to_string()),
            Err(cause) => Err(format!("{file}: reading broke off: {cause}")),
        };
        self.reading = None;
        if std::mem::take(&mut self.again) {
            self.start();
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use nix::sys::stat::Mode;
    use tokio::time::timeout;

    use super::*;

    const SERVICE: &str = "[service.web]
address = \"192.0.2.1\"
port = 80
protocol = \"tcp\"
scheduler = \"rr\"
server = [{ host = \"192.0.2.2\" }]
";

    /// It is told once, heard all the same when it comes, and then read anew as was asked.
    #[tokio::test]
    async fn a_file_that_hangs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe.toml");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let mut reload = Reload::new(path.clone(), Reader::start());
        let moment = Duration::from_millis(20);
        assert!(timeout(moment, reload.outcome()).await.is_err());
        reload.start();
        reload.start();
        assert!(timeout(moment, reload.outcome()).await.is_err());
        // Time that stands still does not pass by itself while a thread reads.
        tokio::time::pause();
        tokio::time::advance(HUNG).await;
        let told = reload.outcome().await.unwrap_err();
        assert!(
            told.ends_with("pipe.toml: reading takes longer than 10 s"),
            "{told}"
        );
        tokio::time::resume();
        assert!(timeout(moment, reload.outcome()).await.is_err());

        // It opens once the other end does.
        let mut pipe = File::options().write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        pipe.write_all(SERVICE.as_bytes()).unwrap();
        drop(pipe);
        assert_eq!(reload.outcome().await.unwrap().services.len(), 1);
        let told = reload.outcome().await.unwrap_err();
        assert!(told.contains("service"), "{told}");
        assert!(timeout(moment, reload.outcome()).await.is_err());
    }
}
