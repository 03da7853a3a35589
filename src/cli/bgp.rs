//! `plimsoll bgp`: the sessions with the routers, as the running daemon tells of them on its control socket, and
//! orders to it. What it shows is the daemon's own text.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::ask::{self, Ask};
use super::running::Daemon;

/// The sessions with the routers: who they are and what each has been told, and orders to them.
///
/// Exit codes: 0 done; 64 the command line, or a text of more than 255 bytes; 66 no such peer; 69 no daemon
/// runs, or it takes no orders; 70 it does not answer as it should; 71 something else of the system; 75 ordered,
/// but not done within 5 s; 77 not permitted to open the socket; 78 configuration.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bgp {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all peers, or one in full.
    Show(Show),
    /// Show our addresses: who has been told of each, and who else announces it.
    Addresses(Json),
    /// End a peer's session, and keep it down until it is enabled.
    Disable(Order),
    /// Let a peer's session come up again, whatever the configuration says.
    Enable(Peer),
    /// End a peer's session; it comes up again by itself.
    Clear(Order),
}

#[derive(Debug, Args)]
struct Show {
    /// The router's address, ADDRESS%INTERFACE or INTERFACE, as in the configuration.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    peer: Option<String>,
    /// What the peer has been told of each address, and why not of others.
    #[arg(long, requires = "peer")]
    routes: bool,
    #[command(flatten)]
    form: Json,
}

#[derive(Debug, Args)]
struct Json {
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Peer {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    peer: String,
}

#[derive(Debug, Args)]
struct Order {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    peer: String,
    /// What the router is told with it (RFC 9003): at most 255 bytes.
    text: Vec<String>,
}

impl Bgp {
    pub(super) fn main(self) -> ExitCode {
        self.daemon.tell(self.ask())
    }

    fn ask(&self) -> Ask {
        match &self.action {
            None => self.show.ask(),
            Some(Action::Show(show)) => show.ask(),
            Some(Action::Addresses(form)) => Ask::get("/bgp/addresses", form.json),
            Some(Action::Disable(order)) => order.ask("disable"),
            Some(Action::Enable(Peer { peer })) => Ask::order(peer, "enable", String::new()),
            Some(Action::Clear(order)) => order.ask("clear"),
        }
    }
}

impl Show {
    fn ask(&self) -> Ask {
        match &self.peer {
            None => Ask::get("/bgp", self.form.json),
            Some(peer) => {
                let routes = if self.routes { "/routes" } else { "" };
                let path = format!("/bgp/peers/{}{routes}", ask::escaped(peer));
                Ask::get(&path, self.form.json)
            }
        }
    }
}

impl Order {
    fn ask(&self, verb: &str) -> Ask {
        Ask::order(&self.peer, verb, self.text.join(" "))
    }
}
