//! The control socket: the status API over a Unix socket that only the daemon's own user can open, and the one
//! door by which operators' orders come in.
//!
//! It is wanted, not needed: what keeps it from being made is trouble for `/alerts`, and is tried again.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::warn;

use crate::chain::chain;
use crate::event::Event;
use crate::history::History;
use crate::snapshot::Snapshot;

use super::connections::Door;
use super::v1::Desk;
use super::{Limits, serve};

/// The part that [`Event::Trouble`] names.
const CONTROL: &str = "control";
/// How long until the next try to make the socket, and between two looks whether it is still there.
const PAUSE: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 128;

/// Listens at the path until it is dropped, then removes the socket. Whoever removes it before only has it made
/// again: a host that tidies up in /run must not cost the operator his orders.
pub async fn run(
    path: PathBuf,
    history: History,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    run_within(Limits::default(), path, history, snapshots, events).await;
}

/// [`run`] with other limits.
pub async fn run_within(
    limits: Limits,
    path: PathBuf,
    history: History,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let door = Door {
        snapshots,
        desk: Desk::new(history.clone()),
        history,
        orders: Some(events.clone()),
    };
    loop {
        let (listener, name) = made(&path, &events).await;
        let accept = |cx: &mut std::task::Context<'_>| {
            let accepted = listener.poll_accept(cx);
            accepted.map(|accepted| accepted.map(|(stream, _)| stream))
        };
        tokio::select! {
            () = serve(limits, door.clone(), accept) => {}
            () = name.lost() => {
                warn!(path = %path.display(), "the control socket was taken away, it is made again");
            }
        }
    }
}

/// Tries until it can be made.
async fn made(path: &Path, events: &mpsc::Sender<Event>) -> (UnixListener, Name) {
    let mut told = None;
    loop {
        let made = listen(path);
        let fault = made.as_ref().err().map(|fault| chain(fault));
        if fault != told {
            let event = Event::Trouble {
                part: CONTROL,
                fault: fault.clone(),
            };
            // The core ends only with the daemon.
            let _ = events.send(event).await;
            told = fault;
        }
        match made {
            Ok(made) => return made,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error("{0} is there and is no socket; move it away")]
    NoSocket(PathBuf),
    #[error("another process listens on {0}")]
    Taken(PathBuf),
    #[error("cannot {0} {1}")]
    System(&'static str, PathBuf, #[source] io::Error),
}

fn listen(path: &Path) -> Result<(UnixListener, Name), ListenError> {
    let failed = |what| move |cause| ListenError::System(what, path.to_owned(), cause);
    if let Some(directory) = path.parent() {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o755).create(directory);
        made.map_err(failed("make the directory of"))?;
    }
    remove_dead(path)?;
    let listener = bound(path).map_err(failed("listen on"))?;
    let name = Name::of(path).map_err(failed("look at"))?;
    Ok((listener, name))
}

/// A daemon that was killed leaves its socket behind; one that is alive answers on it.
fn remove_dead(path: &Path) -> Result<(), ListenError> {
    let failed = |what| move |cause| ListenError::System(what, path.to_owned(), cause);
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed("look at")(cause)),
    }
    match connected(path) {
        // Its queue is full, so somebody has one.
        Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
            Err(ListenError::Taken(path.to_owned()))
        }
        Err(cause) if cause.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the dead socket"))
        }
        Err(cause) => Err(failed("connect to")(cause)),
        Ok(()) => Err(ListenError::Taken(path.to_owned())),
    }
}

fn connected(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn bound(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Linux gives the name the mode of the socket, so there is no moment at which others can connect.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// The socket's name in the file system; removed when this is dropped, unless it has become another's.
struct Name {
    path: PathBuf,
    /// Device and inode.
    of: (u64, u64),
}

impl Name {
    fn of(path: &Path) -> io::Result<Name> {
        Ok(Name {
            path: path.to_owned(),
            of: identity(path)?,
        })
    }

    /// Until it is gone, or another's.
    async fn lost(&self) {
        while identity(&self.path).is_ok_and(|of| of == self.of) {
            sleep(PAUSE).await;
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|of| of == self.of) {
            // What stays is taken for a dead one by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}
