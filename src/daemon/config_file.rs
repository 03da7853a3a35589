//! Looks at the configuration's file now and then, so that an operator is shown whether it still says what is in
//! force and, if not, whether a reload would take it. It only looks: a reload is asked for by SIGHUP.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::reader::Reader;
use crate::config::{Config, Mistakes};
use crate::event::Event;
use crate::snapshot::{ConfigFile, OnDisk, Snapshot};

/// How long a change of the file may go unseen.
const LOOK: Duration = Duration::from_secs(5);

/// For ever. A disk that hangs delays nothing but the next look.
pub(super) async fn run(
    path: PathBuf,
    reader: Reader,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let mut in_force = snapshots.borrow().config.clone();
    let mut loaded = now();
    let mut seen = None;
    let mut on_disk = OnDisk::InForce;
    let mut told = None;
    loop {
        let (file, reader, config) = (path.clone(), reader.clone(), in_force.clone());
        let looked = spawn_blocking(move || look(&file, &reader, &config, seen)).await;
        if let Ok(Some((stamp, found))) = looked {
            (seen, on_disk) = (stamp, found);
        }
        let file = ConfigFile {
            path: path.clone(),
            loaded,
            on_disk: on_disk.clone(),
        };
        if told.as_ref() != Some(&file) {
            // The core ends only with the daemon.
            let _ = events.send(Event::ConfigFile(file.clone())).await;
            told = Some(file);
        }
        let reloaded = snapshots.wait_for(|snapshot| !Arc::ptr_eq(&snapshot.config, &in_force));
        if let Ok(Ok(snapshot)) = timeout(LOOK, reloaded).await {
            (in_force, loaded, seen) = (snapshot.config.clone(), now(), None);
        }
    }
}

/// What a file that is written anew, or put in the old one's place, has another of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let found = std::fs::metadata(path)?;
        Ok(Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// `None`: it is the file that was seen. One that cannot be looked at has no stamp, and is read each time.
fn look(
    path: &Path,
    reader: &Reader,
    in_force: &Config,
    seen: Option<Stamp>,
) -> Option<(Option<Stamp>, OnDisk)> {
    // Before it is read: what is written meanwhile has another one.
    let stamp = Stamp::of(path).ok();
    if stamp.is_some() && stamp == seen {
        return None;
    }
    let on_disk = match reader.read(path) {
        Ok(config) if config == *in_force => OnDisk::InForce,
        Ok(_) => OnDisk::Differs,
        Err(mistakes) => OnDisk::Bad(told(&mistakes)),
    };
    Some((stamp, on_disk))
}

fn told(mistakes: &Mistakes) -> Arc<str> {
    mistakes.to_string().trim_end().into()
}

#[expect(
    clippy::disallowed_methods,
    reason = "since when it is in force is told by the calendar; nothing is decided by it"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use crate::snapshot::sample;

    use super::*;

    fn text(port: u16) -> String {
        format!(
            "[service.web]\naddress = \"192.0.2.1\"\nport = {port}\nprotocol = \"tcp\"\n\
             scheduler = \"rr\"\nserver = [{{ host = \"192.0.2.2\" }}]\n"
        )
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_is_told_of_as_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plimsoll.toml");
        let write = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        write(&text(80));
        let mut snapshot = sample::snapshot([]);
        snapshot.config = Arc::new(Config::read(&path).unwrap());
        let (publish, snapshots) = watch::channel(Arc::new(snapshot.clone()));
        let (events, mut inbox) = mpsc::channel(8);
        let mut part = JoinSet::new();
        part.spawn(run(path.clone(), Reader::start(), snapshots, events));
        let mut next = async || match inbox.recv().await {
            Some(Event::ConfigFile(file)) => file,
            other => panic!("{other:?}"),
        };

        let first = next().await;
        assert_eq!(first.on_disk, OnDisk::InForce);
        // A remark is no other configuration: nothing is said of it.
        write(&(text(80) + "# the same\n"));
        tokio::time::sleep(2 * LOOK).await;
        write(&text(81));
        let differs = next().await;
        assert_eq!(differs.on_disk, OnDisk::Differs);
        assert_eq!(differs.loaded, first.loaded);
        write("port = ");
        let OnDisk::Bad(mistakes) = next().await.on_disk else {
            panic!("it is taken for a good one");
        };
        assert!(mistakes.contains("plimsoll.toml"), "{mistakes}");
        std::fs::remove_file(&path).unwrap();
        let OnDisk::Bad(gone) = next().await.on_disk else {
            panic!("it is not there");
        };
        assert_ne!(gone, mistakes);
        write(&text(81));
        assert_eq!(next().await.on_disk, OnDisk::Differs);

        // A reload takes it.
        snapshot.config = Arc::new(Config::read(&path).unwrap());
        publish.send_replace(Arc::new(snapshot));
        let reloaded = next().await;
        assert_eq!(reloaded.on_disk, OnDisk::InForce);
        assert!(reloaded.loaded >= first.loaded);
    }
}
