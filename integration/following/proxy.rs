//! What stands between the daemon and one member: it passes bytes on, refuses, hangs, delays and cuts.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Gone, with all its connections, when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mode: Mode,
    delay: Duration,
    /// So many bytes from the member still pass; then a connection is cut, in the middle of whatever that is.
    left: Option<usize>,
    /// The two ends of each connection.
    open: BTreeMap<u64, [TcpStream; 2]>,
    next: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Who connects is sent away at once.
    Refuse,
    /// Connections are accepted and stay, and nothing passes.
    Hang,
    End,
}

impl Proxy {
    pub(crate) fn to(member: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    mode: Mode::Pass,
                    delay: Duration::ZERO,
                    left: None,
                    open: BTreeMap::new(),
                    next: 0,
                }),
                changed: Condvar::new(),
            }),
        };
        let shared = proxy.shared.clone();
        thread::spawn(move || shared.accept(&listener, member));
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// As if nothing were between.
    pub(crate) fn pass(&self) {
        self.set(|state| {
            state.mode = Mode::Pass;
            state.delay = Duration::ZERO;
            state.left = None;
        });
    }

    /// Cuts what is open and lets nobody in.
    pub(crate) fn refuse(&self) {
        self.set(|state| {
            state.mode = Mode::Refuse;
            state.cut();
        });
    }

    /// What is open stays open, and nothing passes any more; new connections fare no better.
    pub(crate) fn hang(&self) {
        self.set(|state| state.mode = Mode::Hang);
    }

    /// Ends what is open.
    pub(crate) fn cut(&self) {
        self.set(State::cut);
    }

    /// Ends one connection after so many more bytes from the member.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.set(|state| state.left = Some(bytes));
    }

    /// Whatever comes waits so long before it passes.
    pub(crate) fn delay(&self, delay: Duration) {
        self.set(|state| state.delay = delay);
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(|state| {
            state.mode = Mode::End;
            state.cut();
        });
        // The thread that accepts takes note of it.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn cut(&mut self) {
        for end in std::mem::take(&mut self.open).into_values().flatten() {
            drop(end.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn accept(self: Arc<Shared>, listener: &TcpListener, member: SocketAddr) {
        for client in listener.incoming() {
            let mode = self.lock().mode;
            match (mode, client) {
                (Mode::End, _) => return,
                (Mode::Refuse, _) | (_, Err(_)) => {}
                (Mode::Pass | Mode::Hang, Ok(client)) => {
                    // A member that is down: the client is sent away as if we were.
                    if let Ok(server) = TcpStream::connect(member) {
                        self.carry(client, server);
                    }
                }
            }
        }
    }

    fn carry(self: &Arc<Shared>, client: TcpStream, server: TcpStream) {
        for end in [&client, &server] {
            end.set_nodelay(true).unwrap();
        }
        let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
        let number = {
            let mut state = self.lock();
            if !matches!(state.mode, Mode::Pass | Mode::Hang) {
                return;
            }
            let number = state.next;
            state.next += 1;
            state.open.insert(number, ends);
            number
        };
        let up = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let down = (server, client);
        for ((from, to), counted) in [(up, false), (down, true)] {
            let shared = self.clone();
            thread::spawn(move || {
                shared.pump(from, to, counted);
                if let Some(ends) = shared.lock().open.remove(&number) {
                    for end in ends {
                        drop(end.shutdown(Shutdown::Both));
                    }
                }
            });
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, counted: bool) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let size = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let Some(passes) = self.admit(size, counted) else {
                return;
            };
            let written = to.write_all(&buffer[..passes]);
            if written.is_err() || passes < size {
                return;
            }
        }
    }

    /// How many of so many bytes may pass, once they may; `None`: it is over.
    fn admit(&self, size: usize, counted: bool) -> Option<usize> {
        let delay = self.lock().delay;
        thread::sleep(delay);
        let state = self.lock();
        let hangs = |state: &mut State| state.mode == Mode::Hang;
        let mut state = self.changed.wait_while(state, hangs).unwrap();
        if matches!(state.mode, Mode::Refuse | Mode::End) {
            return None;
        }
        match state.left {
            Some(left) if counted && size > left => {
                state.left = None;
                Some(left)
            }
            Some(left) if counted => {
                state.left = Some(left - size);
                Some(size)
            }
            Some(_) | None => Some(size),
        }
    }
}
