//! The last good lists on our own disk, for a start while etcd is away.
//!
//! The disk is somebody else's: reading and writing happen on threads for it, one at a time, and nothing waits
//! for a write.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};

use super::mirror::Good;
use crate::conftool::{Lease, Node, PoolPath, Pooled};
use crate::service::{Host, Weight};
use crate::state;

const FILE: &str = "etcd-lists.json";
const VERSION: u32 = 1;
/// How long reading may hold up the start.
const PATIENCE: Duration = Duration::from_secs(2);
/// A write that takes longer is told of.
const HUNG: Duration = Duration::from_secs(10);

pub(super) type Pools = BTreeMap<PoolPath, Arc<Good>>;

/// What the file said.
#[derive(Debug)]
pub(super) struct Remembered {
    /// How long ago etcd was heard of last; `Duration::MAX` if by the file that is yet to be.
    pub(super) age: Duration,
    pub(super) pools: Pools,
}

pub(super) struct Saved {
    /// `None`: nothing outlives the process.
    path: Option<PathBuf>,
    writing: Option<Writing>,
}

struct Writing {
    thread: JoinHandle<io::Result<()>>,
    /// When it is said to hang; `None`: it has been said.
    hangs: Option<Instant>,
}

impl Saved {
    pub(super) fn new(state_directory: Option<PathBuf>) -> Saved {
        Saved {
            path: state_directory.map(|directory| directory.join(FILE)),
            writing: None,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Reads the file; `None`: there is none. One that makes no sense is moved aside.
    pub(super) async fn load(&self) -> Result<Option<Remembered>, String> {
        let Some(path) = self.path.clone() else {
            return Ok(None);
        };
        let shown = path.display().to_string();
        match timeout(PATIENCE, spawn_blocking(move || read(&path))).await {
            Ok(Ok(read)) => read,
            Ok(Err(panic)) => Err(format!("{shown} cannot be read: {panic}")),
            Err(_) => Err(format!("reading {shown} hangs")),
        }
    }

    /// Whether [`Saved::save`] would do anything.
    pub(super) fn idle(&self) -> bool {
        self.path.is_some() && self.writing.is_none()
    }

    /// Begins to write. `ago`: how long ago etcd was heard of last.
    pub(super) fn save(&mut self, pools: Pools, ago: Duration) {
        if let (Some(path), None) = (self.path.clone(), &self.writing) {
            self.writing = Some(Writing {
                thread: spawn_blocking(move || write(&path, &pools, ago)),
                hangs: Some(Instant::now() + HUNG),
            });
        }
    }

    /// Comes back when a write is done, and once before that if it takes long; never if there is none.
    pub(super) async fn written(&mut self) -> Result<(), String> {
        let Some(writing) = &mut self.writing else {
            return std::future::pending().await;
        };
        let path = self.path.as_deref().unwrap_or(Path::new(FILE)).display();
        let patience = async {
            match writing.hangs {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            done = &mut writing.thread => done,
            () = patience => {
                writing.hangs = None;
                return Err(format!("writing {path} takes longer than {} s", HUNG.as_secs()));
            }
        };
        self.writing = None;
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(format!("cannot write {path}: {cause}")),
            Err(panic) => Err(format!("cannot write {path}: {panic}")),
        }
    }
}

/// The file's shape.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// When etcd was heard of last, RFC 3339.
    time: String,
    /// The newest of the pools' revisions.
    revision: Option<u64>,
    pools: BTreeMap<String, Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    revision: Option<u64>,
    servers: BTreeMap<String, ServerRow>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    leases: BTreeMap<String, ServerRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerRow {
    weight: u32,
    pooled: Pooled,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    confirmed: bool,
    /// A lease's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl ServerRow {
    fn of(node: &Node, until: Option<&str>) -> ServerRow {
        ServerRow {
            weight: node.weight.get(),
            pooled: node.pooled,
            reason: node.reason.clone(),
            confirmed: node.confirmed,
            until: until.map(str::to_owned),
        }
    }

    fn node(self) -> Result<Node, String> {
        Ok(Node {
            weight: Weight::new(self.weight).ok_or_else(|| format!("weight {}", self.weight))?,
            pooled: self.pooled,
            reason: self.reason,
            confirmed: self.confirmed,
        })
    }

    fn lease(self) -> Result<Lease, String> {
        let until = self.until.clone().unwrap_or_default();
        let node = self.node()?;
        Ok(Lease { node, until })
    }
}

fn read(path: &Path) -> Result<Option<Remembered>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(format!("{} cannot be read: {cause}", path.display())),
    };
    let content = serde_json::from_slice(&bytes)
        .map_err(|cause| state::set_aside(path, &cause.to_string()))?;
    let read = remembered(content).map_err(|fault| state::set_aside(path, &fault))?;
    Ok(Some(read))
}

fn remembered(content: Content) -> Result<Remembered, String> {
    if content.version != VERSION {
        return Err(format!("version {}, not {VERSION}", content.version));
    }
    let time = humantime::parse_rfc3339(&content.time).map_err(|cause| cause.to_string())?;
    let mut pools = Pools::new();
    for (path, row) in content.pools {
        let path = path
            .parse::<PoolPath>()
            .map_err(|cause| cause.to_string())?;
        let good = Good {
            revision: row.revision,
            nodes: hosts(row.servers, ServerRow::node)?,
            leases: hosts(row.leases, ServerRow::lease)?,
        };
        pools.insert(path, Arc::new(good));
    }
    let age = now().duration_since(time).unwrap_or(Duration::MAX);
    Ok(Remembered { age, pools })
}

fn hosts<T>(
    rows: BTreeMap<String, ServerRow>,
    read: impl Fn(ServerRow) -> Result<T, String>,
) -> Result<BTreeMap<Host, T>, String> {
    let host = |(host, row): (String, ServerRow)| {
        let host = host.parse::<Host>().map_err(|cause| cause.to_string())?;
        Ok((host, read(row)?))
    };
    rows.into_iter().map(host).collect()
}

fn write(path: &Path, pools: &Pools, ago: Duration) -> io::Result<()> {
    let row = |good: &Good| Row {
        revision: good.revision,
        servers: good
            .nodes
            .iter()
            .map(|(host, node)| (host.to_string(), ServerRow::of(node, None)))
            .collect(),
        leases: good
            .leases
            .iter()
            .map(|(host, lease)| {
                let row = ServerRow::of(&lease.node, Some(&lease.until));
                (host.to_string(), row)
            })
            .collect(),
    };
    let time = now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    let text = serde_json::to_vec_pretty(&Content {
        version: VERSION,
        time: humantime::format_rfc3339_millis(time).to_string(),
        revision: pools.values().filter_map(|good| good.revision).max(),
        pools: pools
            .iter()
            .map(|(path, good)| (path.to_string(), row(good)))
            .collect(),
    })?;
    state::write(path, &text)
}

#[expect(
    clippy::disallowed_methods,
    reason = "no other clock runs on from one process to the next"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn pools() -> Pools {
        let node = |text: &str| Node::parse(text.as_bytes()).unwrap();
        let lease =
            r#"{"weight": 1, "pooled": "no", "reason": "T1", "until": "2026-01-01T00:00:00Z"}"#;
        let good = Good {
            revision: Some(7),
            nodes: [
                ("a", r#"{"weight": 1, "pooled": "yes"}"#),
                (
                    "b",
                    r#"{"weight": 0, "pooled": "no", "reason": "\"x\"\n", "confirmed": true}"#,
                ),
                (
                    "2001:db8::1",
                    r#"{"weight": 2147483646, "pooled": "inactive"}"#,
                ),
            ]
            .map(|(host, text)| (host.parse().unwrap(), node(text)))
            .into(),
            leases: [(
                "a".parse().unwrap(),
                Lease::parse(lease.as_bytes()).unwrap(),
            )]
            .into(),
        };
        [("dc/c/s".parse().unwrap(), Arc::new(good))].into()
    }

    fn at(directory: &TempDir) -> Saved {
        Saved::new(Some(directory.path().join("not/there/yet")))
    }

    fn text(saved: &Saved) -> String {
        std::fs::read_to_string(saved.path().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn lists_outlive_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let mut saved = at(&directory);
        assert!(saved.load().await.unwrap().is_none());
        for pools in [pools(), Pools::new(), pools()] {
            saved.save(pools.clone(), Duration::from_secs(100));
            assert!(!saved.idle());
            saved.written().await.unwrap();
            let remembered = at(&directory).load().await.unwrap().unwrap();
            assert_eq!(remembered.pools, pools);
            let age = remembered.age.as_secs();
            assert!((99..200).contains(&age), "{age}");
        }
    }

    /// A pipe that nobody reads stands in for a disk that hangs.
    #[tokio::test]
    async fn a_write_that_hangs_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut saved = Saved::new(Some(directory.path().to_owned()));
        let pipe = directory.path().join("etcd-lists.json.new");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        saved.save(pools(), Duration::ZERO);
        // Time that stands still does not pass by itself while a thread writes.
        tokio::time::pause();
        tokio::time::advance(HUNG + Duration::from_secs(1)).await;
        let told = saved.written().await.unwrap_err();
        assert!(told.ends_with("takes longer than 10 s"), "{told}");
        assert!(!saved.idle());
        let mut reader = std::fs::File::open(&pipe).unwrap();
        let read = spawn_blocking(move || io::Read::read_to_end(&mut reader, &mut Vec::new()));
        let told = saved.written().await.unwrap_err();
        assert!(told.starts_with("cannot write"), "{told}");
        assert!(saved.idle());
        read.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_moved_aside() {
        let directory = tempfile::tempdir().unwrap();
        let mut saved = at(&directory);
        saved.save(pools(), Duration::ZERO);
        saved.written().await.unwrap();
        let good = text(&saved);
        for (part, in_its_place, why) in [
            ("    }\n  }\n}", "", "EOF"),
            ("\"version\": 1", "\"version\": 2", "version 2, not 1"),
            ("\"time\": \"2", "\"time\": \"x2", "timestamp"),
            ("2147483646", "2147483647", "weight 2147483647"),
            ("\"inactive\"", "\"maybe\"", "unknown variant `maybe`"),
            ("dc/c/s", "dc/c", "not a pool's directory"),
            ("2001:db8::1", "a b", "a server's name"),
            ("\"confirmed\"", "\"konfirmed\"", "unknown field"),
        ] {
            let broken = good.replace(part, in_its_place);
            assert_ne!(broken, good);
            std::fs::write(saved.path().unwrap(), broken).unwrap();
            let fault = saved.load().await.unwrap_err();
            assert!(fault.contains(why), "{fault}");
            assert!(fault.contains("etcd-lists.json.bad"), "{fault}");
            assert!(saved.load().await.unwrap().is_none(), "it is still there");
        }
    }

    #[tokio::test]
    async fn a_time_to_come_is_long_ago() {
        let directory = tempfile::tempdir().unwrap();
        let mut saved = at(&directory);
        saved.save(pools(), Duration::ZERO);
        saved.written().await.unwrap();
        let year = text(&saved).split("\"time\": \"").nth(1).unwrap()[..4].to_owned();
        let later = text(&saved).replace(&format!("\"time\": \"{year}"), "\"time\": \"2999");
        std::fs::write(saved.path().unwrap(), later).unwrap();
        let remembered = saved.load().await.unwrap().unwrap();
        assert_eq!(remembered.age, Duration::MAX);
        assert_eq!(remembered.pools, pools());
    }

    #[tokio::test]
    async fn a_write_that_fails_is_a_fault_and_leaves_what_was() {
        let directory = tempfile::tempdir().unwrap();
        let mut saved = at(&directory);
        saved.save(pools(), Duration::ZERO);
        saved.written().await.unwrap();
        // In the way of the file that is to be renamed.
        let new = saved.path().unwrap().with_extension("json.new");
        std::fs::create_dir(&new).unwrap();
        saved.save(Pools::new(), Duration::ZERO);
        let fault = saved.written().await.unwrap_err();
        assert!(fault.starts_with("cannot write "), "{fault}");
        assert_eq!(saved.load().await.unwrap().unwrap().pools, pools());
        std::fs::remove_dir(&new).unwrap();
        saved.save(Pools::new(), Duration::ZERO);
        saved.written().await.unwrap();
        assert!(saved.load().await.unwrap().unwrap().pools.is_empty());
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_not_waited_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let saved = Saved::new(Some(directory.path().to_owned()));
        // Opening a pipe for reading waits until somebody writes it.
        let pipe = saved.path().unwrap();
        nix::unistd::mkfifo(pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let fault = saved.load().await.unwrap_err();
        assert!(fault.ends_with("etcd-lists.json hangs"), "{fault}");
        // Lets the thread end, and with it the test's runtime.
        drop(std::fs::OpenOptions::new().write(true).open(pipe).unwrap());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_dry_run() {
        let mut saved = Saved::new(None);
        assert!(!saved.idle());
        saved.save(pools(), Duration::ZERO);
        assert!(saved.load().await.unwrap().is_none());
    }
}
