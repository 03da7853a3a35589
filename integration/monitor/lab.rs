//! Two hosts with a wire between them.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use plimsoll::check::Monitor;
use plimsoll::event::Verdict;
use tokio::runtime::Runtime;

use super::edge::PATIENCE;
use super::netns::{Namespace, run, until};
use super::{verdict, watch};

/// The balancer's host and a server's, with a wire between: `192.0.2.1` and `2001:db8::1` at our end, `.2` and `::2` at
/// theirs.
pub(crate) struct Lab {
    pub(crate) balancer: Namespace,
    pub(crate) server: Namespace,
}

pub(crate) const SERVER: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

impl Lab {
    pub(crate) fn new() -> Lab {
        let (balancer, server) = (Namespace::new("balancer"), Namespace::new("server"));
        let ours = ["192.0.2.1/24", "2001:db8::1/64"];
        let theirs = ["192.0.2.2/24", "2001:db8::2/64"];
        balancer.cable("wire", &ours, &server, &theirs);
        let lab = Lab { balancer, server };
        // For a moment after the wire is up IPv6 goes nowhere. Then nobody listens on port 1.
        for server in SERVER {
            let refused = move || {
                let address = SocketAddr::new(server.parse().unwrap(), 1);
                TcpStream::connect_timeout(&address, Duration::from_millis(500))
                    .map_err(|e| e.kind())
            };
            until(PATIENCE, "a wire", || {
                match lab.inside(async move || refused()) {
                    Err(ErrorKind::ConnectionRefused) => Some(()),
                    Ok(_) | Err(_) => None,
                }
            });
        }
        lab
    }

    /// Runs what is `asked` in the balancer's network, a runtime's threads and all.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        asked: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> T {
        let handle = self.balancer.handle();
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            handle.enter();
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime: Runtime = runtime.enable_all().build().unwrap();
            let _ = send.send(runtime.block_on(asked()));
        });
        receive.recv().expect("it went well")
    }

    /// The first verdict on this address.
    pub(crate) fn told(&self, server: &str, monitor: fn() -> Monitor) -> Verdict {
        let target = SocketAddr::new(server.parse().unwrap(), 80);
        self.inside(async move || verdict(&mut watch(target, monitor())).await)
    }

    /// Who may open the sockets that ping needs no capability for, by group.
    pub(crate) fn group_range(&self, range: &str) {
        let script = format!("echo {range} > /proc/sys/net/ipv4/ping_group_range");
        run(self.balancer.command("sh").args(["-c", &script]));
    }
}
