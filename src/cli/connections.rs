//! `plimsoll connections`: which server has this connection? A row each, as they are read from the kernel; nothing
//! is kept, so a table of millions costs no more memory than one of ten.

use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use ipnet::IpNet;

use super::say::Say;
use super::{CONFIG, exit};
use crate::chain::chain;
use crate::config::{Config, Mistakes};
use crate::ipvs::connections::{self, Connection, Target, Unreadable};
use crate::service::Protocol;
use crate::table::clean;

/// The connections that the kernel balances, and which server has each.
///
/// A client with port 0 is no connection but persistence: where the client's next one goes.
///
/// Exit codes: 0 some; 1 none; 64 command line; 66 no such service or server; 69 the kernel has no IPVS;
/// 71 something else of the system; 77 not permitted; 78 configuration.
#[derive(Debug, Args)]
pub(super) struct Connections {
    /// Only of these clients: ADDRESS, ADDRESS:PORT or ADDRESS/LENGTH.
    #[arg(long, value_name = "CLIENT")]
    client: Option<Client>,
    /// Only to this service: its name in the configuration, ADDRESS:PORT or PROTOCOL/ADDRESS:PORT.
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only those that this server has: its name or ADDRESS.
    #[arg(long, value_name = "SERVER")]
    server: Option<String>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Where services have their names [default: /etc/plimsoll/plimsoll.toml].
    #[arg(short, long, value_name = "FILE", default_value = CONFIG, hide_default_value = true)]
    config: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Within(IpNet),
    At(SocketAddr),
}

impl FromStr for Client {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Client, Self::Err> {
        let within = |_| text.parse::<IpNet>().map(Client::Within);
        let address = text
            .parse()
            .map(|address: IpAddr| Client::Within(address.into()));
        address
            .or_else(within)
            .or_else(|_| text.parse().map(Client::At))
            .map_err(
                |_| "neither ADDRESS nor ADDRESS:PORT ([ADDRESS]:PORT for IPv6) nor ADDRESS/LENGTH",
            )
    }
}

impl Client {
    fn is(self, client: SocketAddr) -> bool {
        match self {
            Client::Within(prefix) => prefix.contains(&client.ip()),
            Client::At(address) => address == client,
        }
    }
}

/// What clients connected to. Without a protocol: any; port 0: all ports.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Service {
    protocol: Option<Protocol>,
    at: SocketAddr,
}

impl Service {
    /// `None`: it is no address, so perhaps a name.
    fn of(text: &str) -> Option<Service> {
        let (protocol, at) = match text.split_once('/') {
            None => (None, text),
            Some(("tcp", at)) => (Some(Protocol::Tcp), at),
            Some(("udp", at)) => (Some(Protocol::Udp), at),
            Some(("sctp", at)) => (Some(Protocol::Sctp), at),
            Some(_) => return None,
        };
        let at = at.parse().ok()?;
        Some(Service { protocol, at })
    }

    fn is(self, connection: &Connection<'_>) -> bool {
        let Target::Address(to) = connection.to else {
            return false;
        };
        let is_of = |protocol: Protocol| {
            connection
                .protocol
                .eq_ignore_ascii_case(&protocol.to_string())
        };
        self.protocol.is_none_or(is_of)
            && to.ip() == self.at.ip()
            && (self.at.port() == 0 || to.port() == self.at.port())
    }
}

/// Which connections are asked for.
#[derive(Debug, Default)]
struct Filter {
    client: Option<Client>,
    service: Option<Service>,
    /// `None`: any.
    server: Option<Vec<IpAddr>>,
}

impl Filter {
    fn lets(&self, connection: &Connection<'_>) -> bool {
        let server = connection.server.ip();
        self.client
            .is_none_or(|client| client.is(connection.client))
            && self.service.is_none_or(|service| service.is(connection))
            && self.server.as_ref().is_none_or(|of| of.contains(&server))
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Config(Mistakes),
    #[error(
        "{0}: no such service in {1}, and it is no ADDRESS:PORT ([ADDRESS]:PORT for IPv6), with tcp/ or udp/ before it"
    )]
    NoService(String, PathBuf),
    #[error("{0}: it is no address, and as a name it has none")]
    NoServer(String, #[source] io::Error),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("cannot write the answer")]
    Write(#[source] io::Error),
}

impl Failed {
    fn exit_code(&self) -> u8 {
        match self {
            Failed::Config(_) => exit::CONFIG,
            Failed::NoService(..) | Failed::NoServer(..) => exit::NO_INPUT,
            Failed::Unreadable(Unreadable::NoIpvs) => exit::UNAVAILABLE,
            Failed::Unreadable(Unreadable::NotPermitted) => exit::NO_PERMISSION,
            Failed::Unreadable(Unreadable::Io(_)) | Failed::Write(_) => exit::OS_ERROR,
        }
    }
}

impl Connections {
    pub(super) fn main(self) -> ExitCode {
        let say = Say::new(false);
        match self.show(&say) {
            Ok(0) => ExitCode::from(exit::NOT_CONFIRMED),
            Ok(_) => ExitCode::SUCCESS,
            // `| head` has seen enough.
            Err(Failed::Write(gone)) if gone.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Err(failed) => {
                say.fault(&chain(&failed));
                ExitCode::from(failed.exit_code())
            }
        }
    }

    /// So many there were.
    fn show(&self, say: &Say) -> Result<u64, Failed> {
        let filter = self.filter()?;
        let mut all = connections::open()?;
        let mut out = BufWriter::new(io::stdout().lock());
        let mut rows = 0;
        while let Some(connection) = all.following()? {
            if filter.lets(&connection) {
                rows += 1;
                self.row(&connection, rows == 1, &mut out)
                    .map_err(Failed::Write)?;
            }
        }
        out.flush().map_err(Failed::Write)?;
        match all.garbled() {
            0 => {}
            garbled => say.fault(&format!(
                "{}: {garbled} lines are not understood",
                connections::PATH
            )),
        }
        Ok(rows)
    }

    fn row(
        &self,
        connection: &Connection<'_>,
        first: bool,
        out: &mut impl Write,
    ) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut *out, connection)?;
            return writeln!(out);
        }
        if first {
            line(
                out,
                [
                    "PROTOCOL", "EXPIRES", "STATE", "CLIENT", "VIRTUAL", "SERVER",
                ],
            )?;
        }
        let (minutes, seconds) = (connection.expires / 60, connection.expires % 60);
        let mut server = connection.server.to_string();
        if let Some((engine, data)) = connection.engine {
            server += &format!("  {engine} {}", clean(data));
        }
        let cells = [
            &connection.protocol.to_ascii_lowercase(),
            &format!("{minutes:02}:{seconds:02}"),
            connection.state,
            &connection.client.to_string(),
            &connection.to.to_string(),
            &server,
        ];
        line(out, cells)
    }

    fn filter(&self) -> Result<Filter, Failed> {
        Ok(Filter {
            client: self.client,
            service: self
                .service
                .as_deref()
                .map(|text| self.service(text))
                .transpose()?,
            server: self.server.as_deref().map(servers).transpose()?,
        })
    }

    fn service(&self, text: &str) -> Result<Service, Failed> {
        if let Some(service) = Service::of(text) {
            return Ok(service);
        }
        let config = Config::read(&self.config).map_err(Failed::Config)?;
        let service = config.services.get(text);
        let service =
            service.ok_or_else(|| Failed::NoService(text.to_owned(), self.config.clone()))?;
        // Of a firewall mark the kernel says with which address, not that it is of the mark.
        Ok(Service {
            protocol: service.key.protocol(),
            at: SocketAddr::new(service.address, service.key.port().unwrap_or(0)),
        })
    }
}

/// Rows come one by one, so columns are as wide as an IPv4 address and its port, or wider where they must.
fn line(
    out: &mut impl Write,
    [protocol, expires, state, client, to, server]: [&str; 6],
) -> io::Result<()> {
    writeln!(
        out,
        "{protocol:<8}  {expires:<7}  {state:<11}  {client:<21}  {to:<21}  {server}"
    )
}

/// All addresses of a name, as the system's resolver gives them.
fn servers(text: &str) -> Result<Vec<IpAddr>, Failed> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let found = (text, 0).to_socket_addrs();
    let found = found.map_err(|error| Failed::NoServer(text.to_owned(), error))?;
    Ok(found.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
TCP 0A09000A D194 0A640001 0050 0A090002 0050 ESTABLISHED     855
UDP 0A09000B CBAF 0A640001 0050 0A090003 0050 UDP             297
TCP 2001:0db8:0009:0000:0000:0000:0000:0010 8FDE 2001:0db8:0100:0000:0000:0000:0000:0001 0050 2001:0db8:0009:0000:0000:0000:0000:0002 0050 SYN_RECV         57
IP  0A090001 0000 00000007 0000 0A090002 0000 NONE             97
";

    /// The servers' addresses of those that are let through.
    fn check(filter: Filter, expected: &[&str]) {
        let mut all = connections::Connections::of(LIST.as_bytes());
        let mut found = Vec::new();
        while let Some(connection) = all.following().unwrap() {
            if filter.lets(&connection) {
                found.push(connection.server.ip().to_string());
            }
        }
        assert_eq!(found, expected, "{filter:?}");
    }

    #[test]
    fn filters() {
        let of_client = |text: &str| Filter {
            client: Some(text.parse().unwrap()),
            ..Filter::default()
        };
        check(
            Filter::default(),
            &["10.9.0.2", "10.9.0.3", "2001:db8:9::2", "10.9.0.2"],
        );
        check(of_client("10.9.0.10"), &["10.9.0.2"]);
        check(of_client("10.9.0.10:53652"), &["10.9.0.2"]);
        check(of_client("10.9.0.10:1"), &[]);
        check(of_client("10.9.0.8/29"), &["10.9.0.2", "10.9.0.3"]);
        check(of_client("2001:db8:9::10"), &["2001:db8:9::2"]);
        check(of_client("[2001:db8:9::10]:36830"), &["2001:db8:9::2"]);
        assert!("web1".parse::<Client>().is_err());

        let of_service = |text: &str| Filter {
            service: Some(Service::of(text).unwrap()),
            ..Filter::default()
        };
        check(of_service("10.100.0.1:80"), &["10.9.0.2", "10.9.0.3"]);
        check(of_service("udp/10.100.0.1:80"), &["10.9.0.3"]);
        check(of_service("tcp/10.100.0.1:0"), &["10.9.0.2"]);
        check(of_service("tcp/[2001:db8:100::1]:80"), &["2001:db8:9::2"]);
        check(of_service("10.100.0.1:81"), &[]);
        assert_eq!(Service::of("web"), None);
        assert_eq!(Service::of("icmp/10.100.0.1:80"), None);

        let of_server = |text: &str| Filter {
            server: Some(servers(text).unwrap()),
            ..Filter::default()
        };
        check(of_server("10.9.0.2"), &["10.9.0.2", "10.9.0.2"]);
        check(of_server("localhost"), &[]);
        assert!(servers("no such name").is_err());
    }
}
