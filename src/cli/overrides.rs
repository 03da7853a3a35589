//! `plimsoll override`: a server's pooling and weight in place of what its list says, for a while, on this balancer.

use std::process::ExitCode;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::ask::{self, Ask};
use super::running::Daemon;
use super::say::Say;
use crate::table::Table;

/// Pool, depool or weigh a server in place of what its list says, for a while, on this balancer alone: for the day that
/// etcd is away. Kept over restarts, shown in /alerts, and it ends by itself.
///
/// Checks decide as ever whether a pooled server gets connections, and the depool guard holds what would take a pool
/// below its line, unless --confirm is given.
///
/// Exit codes: 0 done; 64 the command line; 66 no such server, or no such override; 69 no daemon runs, or it takes no
/// orders; 70 it does not answer as it should; 71 something else of the system; 75 ordered, but not done within 5 s;
/// 77 not permitted to open the socket; 78 configuration.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: plimsoll override depool cp1065.example.com --for 2h --reason 'T123: bad disk'"
)]
pub(super) struct Overrides {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Take a server out though its list enables it.
    Depool(Order),
    /// Take a server in though its list disables it.
    Pool(Order),
    /// Give a server another weight than its list does.
    Weight {
        #[command(flatten)]
        order: Order,
        /// 0 gives it no new connections.
        #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(0..=2_147_483_646))]
        to: u32,
    },
    /// End an override before its time.
    End(Whose),
    /// Show all that are in force.
    List {
        /// One JSON document instead of text.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Whose {
    /// The server, as its list names it.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    host: String,
    /// In this service alone; else wherever it is listed.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

#[derive(Debug, Args)]
struct Order {
    #[command(flatten)]
    whose: Whose,
    /// For how long: 30m, 2h, 1day; 31 days at most.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Why, for those who come after.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    /// Do it even if the depool guard stands against it.
    #[arg(long)]
    confirm: bool,
}

impl Overrides {
    pub(super) fn main(self) -> ExitCode {
        let ask = match self.action {
            Action::Depool(order) => order.ask("depool", None),
            Action::Pool(order) => order.ask("pool", None),
            Action::Weight { order, to } => order.ask("weight", Some(to)),
            Action::End(whose) => Ask::order_to(Method::DELETE, whose.path(), String::new()),
            Action::List { json: true } => Ask::get(PATH, true),
            Action::List { json: false } => return self.daemon.show(Ask::get(PATH, true), list),
        };
        self.daemon.tell(ask)
    }
}

const PATH: &str = "/api/v1/overrides";

impl Whose {
    fn path(&self) -> String {
        let host = ask::escaped(&self.host);
        let service = self.service.as_deref().map(ask::escaped);
        match service {
            Some(service) => format!("{PATH}?host={host}&service={service}"),
            None => format!("{PATH}?host={host}"),
        }
    }
}

impl Order {
    fn ask(&self, action: &str, weight: Option<u32>) -> Ask {
        let order = json!({
            "host": self.whose.host,
            "service": self.whose.service,
            "action": action,
            "weight": weight,
            "for_seconds": self.time.as_secs(),
            "reason": self.reason,
            "confirmed": self.confirm,
        });
        Ask::order_to(Method::POST, PATH.to_owned(), order.to_string())
    }
}

fn list(answer: &Value, say: &mut Say) {
    let all = answer["overrides"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        return say.line("no override is in force");
    }
    let mut table = Table::new(["HOST", "SERVICE", "ACTION", "UNTIL", "", "REASON"]);
    for one in all {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        let action = match one["weight"].as_u64() {
            Some(weight) => format!("weight {weight}"),
            None => text("action").to_owned(),
        };
        table.row([
            text("host"),
            one["service"].as_str().unwrap_or("all"),
            &action,
            text("until"),
            if one["confirmed"] == true {
                "confirmed"
            } else {
                ""
            },
            text("reason"),
        ]);
    }
    say.line(table.text().trim_end());
}
