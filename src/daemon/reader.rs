//! The thread that reads the configuration, at each reload and each look at the file: malloc(3) gives every thread
//! memory of its own, and that of a large configuration, some fifty times its text, shall serve the next reading too.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use tracing::warn;

use crate::config::{Config, Mistakes};

/// Clones share one thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Reader(Option<Sender<Asked>>);

#[derive(Debug)]
struct Asked {
    path: PathBuf,
    answer: Sender<Result<Config, Mistakes>>,
}

impl Reader {
    pub(super) fn start() -> Reader {
        let (ask, asked) = channel::<Asked>();
        let started = thread::Builder::new().name("config".into()).spawn(move || {
            for Asked { path, answer } in asked {
                // Whoever asked may be gone.
                let _ = answer.send(Config::read(&path));
            }
        });
        match started {
            Ok(_) => Reader(Some(ask)),
            Err(error) => {
                warn!(%error, "there can be no thread that reads the configuration");
                Reader(None)
            }
        }
    }

    /// Waits, as long as the disk takes, and whoever came before. Without the thread it reads by itself.
    pub(super) fn read(&self, path: &Path) -> Result<Config, Mistakes> {
        let answered = self.0.as_ref().and_then(|ask| {
            let (answer, answered) = channel();
            let path = path.to_owned();
            ask.send(Asked { path, answer }).ok()?;
            answered.recv().ok()
        });
        answered.unwrap_or_else(|| Config::read(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_its_thread_and_without_it_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plimsoll.toml");
        let text = "[service.web]\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\n\
            scheduler = \"rr\"\nserver = [{ host = \"192.0.2.2\" }]\n";
        let (ask, dead) = channel();
        drop(dead);
        for reader in [Reader::start(), Reader(None), Reader(Some(ask))] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(reader.read(&path).unwrap().services.len(), 1);
            std::fs::write(&path, "port = ").unwrap();
            assert!(reader.read(&path).is_err());
        }
    }
}
