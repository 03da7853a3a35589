//! One look at a list file: watches every directory on the way to it, then reads it.
//! Blocking; run where a hung disk hurts nobody.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::service::ServerList;

use super::list::{self, BadList};
use super::notices::{Interest, Round};

/// The longest file that is read.
const LONGEST: u64 = 16 << 20;
/// As many links as the kernel follows (path_resolution(7)).
const LINKS: usize = 40;
/// A broken file can make a fault's text as long as itself; no more of it goes on.
const LONGEST_FAULT: usize = 500;

/// What a look showed.
pub(super) struct Look {
    /// `None`: there is no file to be had.
    pub(super) stamp: Option<Stamp>,
    /// `None`: the file has the known stamp and was not read.
    pub(super) list: Option<Result<ServerList, String>>,
    /// Why inotify will not tell of every change from now on.
    pub(super) blind: Option<String>,
    /// The watches may have changed under the look: have another one.
    pub(super) again: bool,
}

impl Look {
    pub(super) fn failed(fault: String) -> Look {
        Look {
            stamp: None,
            list: Some(Err(fault)),
            blind: None,
            again: false,
        }
    }
}

/// What changes when a file does, as far as stat(2) can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is longer than {} MiB", LONGEST >> 20)]
    TooLong,
    #[error("{0}")]
    BadList(#[from] BadList),
}

/// Watches first and reads then, so that no change falls between the two.
pub(super) fn look(interest: &Interest, path: &Path, known: Option<Stamp>) -> Look {
    let mut round = interest.round();
    let blind = walk(&mut round, path).err().map(|error| error.to_string());
    let again = round.finish();
    let mut stamp = None;
    let list = match read(path, known, &mut stamp) {
        Ok(list) => list.map(Ok),
        Err(fault) => Some(Err(text(path, &fault))),
    };
    Look {
        stamp,
        list,
        blind,
        again,
    }
}

/// `None`: the file has the known stamp.
fn read(
    path: &Path,
    known: Option<Stamp>,
    stamp: &mut Option<Stamp>,
) -> Result<Option<ServerList>, Fault> {
    // Looked at before it is opened: to open a device may already do something.
    if !fs::metadata(path)?.is_file() {
        return Err(Fault::NotAFile);
    }
    // O_NONBLOCK: were it a fifo by now, opening it must not wait for a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Fault::NotAFile);
    }
    let now = *stamp.insert(Stamp::of(&metadata));
    if known == Some(now) {
        return Ok(None);
    }
    Ok(Some(list::parse(&contents(&mut file)?)?))
}

fn contents(file: &mut File) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text)?;
    // What was read, not what stat(2) said: the file may grow, and in /proc all have size 0.
    if text.len() as u64 > LONGEST {
        Err(Fault::TooLong)
    } else {
        Ok(text)
    }
}

fn text(path: &Path, fault: &Fault) -> String {
    let text = format!("{}: {fault}", path.display());
    let mut short: String = text
        .chars()
        .take(LONGEST_FAULT)
        .flat_map(printable)
        .collect();
    if short.len() < text.len() && text.chars().nth(LONGEST_FAULT).is_some() {
        short.push('…');
    }
    short
}

fn printable(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = escaped.is_none().then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

/// Goes the way that the kernel goes when it opens `path`, and watches in each directory the name that
/// it looks up there: whatever is renamed, re-linked, made or removed on the way is heard of.
/// Ends at the first name that is not there. An error says that a directory could not be watched.
fn walk(round: &mut Round<'_>, path: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    let mut here = PathBuf::from("/");
    let mut names = Vec::new();
    push(&mut names, path);
    let mut links = 0;
    while let Some(name) = names.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        match round.watch(&here, &name) {
            Ok(()) => {}
            // It was there a moment ago: its parent tells.
            Err(error) if gone(&error) => return outcome,
            Err(error) => outcome = outcome.and(Err(explained(&here, error))),
        }
        let next = here.join(&name);
        let Ok(metadata) = fs::symlink_metadata(&next) else {
            return outcome;
        };
        if !metadata.file_type().is_symlink() {
            here = next;
            continue;
        }
        links += 1;
        let Ok(target) = fs::read_link(&next) else {
            return outcome;
        };
        if links > LINKS {
            return outcome;
        }
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        push(&mut names, &target);
    }
    outcome
}

/// Puts a path's names on the stack, the first on top.
fn push(names: &mut Vec<OsString>, path: &Path) {
    let components = path.components().rev();
    names.extend(components.filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    }));
}

fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn explained(directory: &Path, error: io::Error) -> io::Error {
    let directory = directory.display();
    // inotify_add_watch(2): ENOSPC is about watches, not about the disk.
    let text = match error.raw_os_error() {
        Some(libc::ENOSPC) => {
            format!("{directory}: no inotify watches left, raise fs.inotify.max_user_watches")
        }
        Some(_) | None => format!("{directory}: {error}"),
    };
    io::Error::new(error.kind(), text)
}
