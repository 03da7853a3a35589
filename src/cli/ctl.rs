//! `plimsoll ctl`: confctl's grammar for conftool's `node` objects, on etcd's v3 API.
//!
//! ```text
//! arguments ─► selector, action ─► perform ─┬─► object   what is in force, what a change makes of it
//!                                           ├─► guard    whether a balancer would hold it
//!                                           ├─► store    what is read and written
//!                                           └─► wait     until the balancers have it in their kernels
//! ```
//!
//! Everything that the command line says is understood before anything is read, and everything that can
//! be refused is refused before the first write.
//!
//! Where it is stricter than confctl: an expression is anchored as a whole (`a|b` is `a` or `b`, not what
//! begins with `a`); a tag or a member that is said twice, an empty expression, a weight that is no decimal
//! integer from 0 on are refused; so is a selector that matches nothing. `--hostname` is a name, not an
//! expression. Expressions are those of the crate `regex`: Python's, without look-around, back-references
//! and comments, and with `\z` for `\Z`. A command stops at its first action that fails.

mod action;
mod answer;
mod confirm;
mod edit;
mod failure;
mod guard;
mod hostname;
mod object;
mod perform;
mod plan;
mod selector;
mod store;
mod wait;
mod yaml;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use action::{Action, Assignment};
use failure::Failure;
use perform::{Performer, Target, Work};
use selector::{Names, Selector};
use store::Store;
use wait::Awaited;

use super::say::Say;
use super::{CONFIG, etcd};
use crate::chain::chain;

/// etcd's shortest lease is about this long.
const SHORTEST_LEASE: Duration = Duration::from_secs(5);
/// Longer is a mistake: in a duration, `M` is a month.
const LONGEST_LEASE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);
const LONGEST_REASON: usize = 1024;

const NOT_BY_V2: &str = "plimsoll ctl changes objects by etcd's v3 API, which does not see those of v2; \
    go on with confctl until they have been moved, then write api = \"v3\"";

const HELP: &str = "\
SELECTOR is tag=REGEX[,tag=REGEX]; tags are dc, cluster, service, name; a value has to match as a whole.
ACTION is get, set/MEMBER=VALUE[:MEMBER=VALUE] (members are weight and pooled, which is yes, no or
inactive), set/@FILE (the same in YAML), delete, edit (in $EDITOR).

A set without --for ends a lease that is over the object, and takes the old reason away.

Exit codes:
   0  done
   1  the question was not answered with yes; nothing was changed
  64  the command line is wrong, or several objects are meant and nobody is there to ask; nothing was changed
  65  an object's value or the text that was edited is not as it should be
  66  nothing matches
  69  etcd refused, or did not answer: then the change may have been made all the same
  71  the system refused something
  73  others kept changing the same object
  75  --wait: not all balancers have applied it in time; the change is in etcd
  77  the depool guard: nothing was changed; or, with --wait, a balancer holds a server back
  78  the configuration is wrong, or says api = \"v2\"";

/// Show and change servers in etcd, as confctl does.
#[derive(Debug, Args)]
#[command(infer_long_args = true, arg_required_else_help = true, after_help = HELP)]
pub(super) struct Ctl {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Args)]
struct Options {
    /// The configuration; its etcd section is enough.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        default_value = CONFIG
    )]
    config: PathBuf,
    /// What kind of objects: `node` is the only one.
    #[arg(long, global = true, value_name = "TYPE", default_value = "node")]
    object_type: String,
    /// Lists are YAML: that of `tags … --action get all`, those that are to be confirmed.
    #[arg(long, global = true)]
    yaml: bool,
    /// Several objects of one and the same host need no confirmation.
    #[arg(long, global = true)]
    host: bool,
    /// Nothing on standard error but what went wrong.
    #[arg(long, global = true)]
    quiet: bool,
    /// Why: kept with the change, shown in status, API and page.
    #[arg(short, long, global = true, value_name = "TEXT", value_parser = check_reason)]
    reason: Option<String>,
    /// Change several objects, or more than half of a pool, without asking.
    #[arg(long, global = true)]
    yes: bool,
    /// Depool what the depool guard would hold.
    #[arg(long, global = true)]
    force: bool,
    /// The change ends by itself after this time (5s to 30d), by etcd's clock: 30m, say. Later if etcd
    /// changes its leader meanwhile.
    #[arg(long = "for", global = true, value_name = "TIME", value_parser = lease)]
    lease: Option<Duration>,
    /// Return once every balancer alive that serves a changed pool has the change in its kernel.
    #[arg(long, global = true)]
    wait: bool,
    /// How long --wait waits.
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = patience)]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Objects by expressions for their tags.
    Select {
        selector: String,
        #[arg(required = true, value_name = "ACTION")]
        actions: Vec<String>,
    },
    /// Objects of one pool by name.
    Tags {
        /// dc=DC,cluster=CLUSTER,service=SERVICE
        #[arg(value_name = "TAGLIST")]
        tags: String,
        /// What to do, and with whom: a name, `all`, or `re:REGEX`, which has to match a name's beginning.
        #[arg(long, required = true, num_args = 2, value_names = ["ACTION", "NAME"])]
        action: Vec<String>,
    },
    /// set/pooled=yes for a host.
    Pool(OfHost),
    /// set/pooled=no for a host.
    Depool(OfHost),
    /// set/weight=0 for a host: no new connections.
    Drain(OfHost),
    /// set/pooled=inactive for a host: as if it were not listed.
    Decommission(OfHost),
}

#[derive(Debug, Args)]
struct OfHost {
    /// Only in services that match this expression.
    #[arg(long, value_name = "REGEX")]
    service: Option<String>,
    /// The object's name, as it stands; this host's fully qualified name if it is left out.
    #[arg(long, value_name = "HOST")]
    hostname: Option<String>,
}

/// confctl still takes `--tags` for `tags`, and scripts are old.
pub(super) fn as_confctl(
    arguments: impl IntoIterator<Item = OsString>,
) -> impl Iterator<Item = OsString> {
    let mut is_ctl = false;
    arguments
        .into_iter()
        .enumerate()
        .map(move |(index, argument)| {
            is_ctl |= index == 1 && argument == "ctl";
            match is_ctl && argument == "--tags" {
                true => "tags".into(),
                false => argument,
            }
        })
}

impl Ctl {
    pub(super) fn main(self) -> ExitCode {
        let mut say = Say::new(self.options.quiet);
        let mut code = 0;
        if let Err(failure) = self.run(&mut say) {
            say.fault(&chain(&failure));
            code = failure.exit_code();
        }
        say.exit(code)
    }

    fn run(self, say: &mut Say) -> Result<(), Failure> {
        let work = self.mode.work()?;
        self.options.check(&work)?;
        let etcd = etcd::configured(&self.options.config, NOT_BY_V2)?;
        let mut performer = Performer {
            options: &self.options,
            store: Store::new(etcd),
            say,
            awaited: Awaited::default(),
        };
        etcd::block_on(performer.perform(&work))?
    }
}

impl Options {
    /// What clap cannot tell, since these options may stand before and after the subcommand.
    fn check(&self, work: &[Work]) -> Result<(), Failure> {
        if self.object_type != "node" {
            return Err(Failure::ObjectType(self.object_type.clone()));
        }
        let sets = |work: &Work| matches!(work.action, Action::Set(_));
        if self.lease.is_some() && !work.iter().all(sets) {
            return Err(Failure::Option(
                "for TIME is for a set, pool, depool, drain or decommission",
            ));
        }
        if self.wait && !work.iter().any(|work| work.action.changes()) {
            return Err(Failure::Option(
                "wait waits for a change, and there is none",
            ));
        }
        Ok(())
    }
}

impl Mode {
    fn work(&self) -> Result<Vec<Work>, Failure> {
        match self {
            Mode::Select { selector, actions } => {
                let target = Target::Select {
                    text: selector.clone(),
                    selector: Selector::parse(selector)?,
                    confirm: true,
                };
                let work = |action: &String| {
                    Ok(Work {
                        target: target.clone(),
                        action: Action::parse(action)?,
                    })
                };
                actions.iter().map(work).collect()
            }
            Mode::Tags { tags, action } => {
                let pool = selector::pool(tags)?;
                let work = |pair: &[String]| {
                    Ok(Work {
                        action: Action::parse(&pair[0])?,
                        target: Target::Tags {
                            pool: pool.clone(),
                            names: Names::parse(&pair[1])?,
                            text: pair[1].clone(),
                        },
                    })
                };
                action.chunks_exact(2).map(work).collect()
            }
            Mode::Pool(host) => host.work(Assignment::POOL),
            Mode::Depool(host) => host.work(Assignment::DEPOOL),
            Mode::Drain(host) => host.work(Assignment::drain()),
            Mode::Decommission(host) => host.work(Assignment::DECOMMISSION),
        }
    }
}

impl OfHost {
    fn work(&self, assignment: Assignment) -> Result<Vec<Work>, Failure> {
        let hostname = match &self.hostname {
            Some(hostname) => hostname.clone(),
            None => hostname::fully_qualified().map_err(Failure::Hostname)?,
        };
        let service = self.service.as_deref();
        let also = service.map(|service| format!(",service={service}"));
        Ok(vec![Work {
            target: Target::Select {
                text: format!("name={hostname}{}", also.unwrap_or_default()),
                selector: Selector::of_host(&hostname, service)?,
                confirm: false,
            },
            action: Action::Set(vec![assignment]),
        }])
    }
}

fn check_reason(text: &str) -> Result<String, String> {
    if text.len() > LONGEST_REASON || text.contains(char::is_control) {
        return Err(format!(
            "expected one line of at most {LONGEST_REASON} bytes"
        ));
    }
    Ok(text.to_owned())
}

fn lease(text: &str) -> Result<Duration, String> {
    within(text, SHORTEST_LEASE, LONGEST_LEASE)
}

fn patience(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(1), LONGEST_WAIT)
}

fn within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|fault| fault.to_string())?;
    if (least..=most).contains(&time) {
        return Ok(time);
    }
    let (least, most) = (
        humantime::format_duration(least),
        humantime::format_duration(most),
    );
    Err(format!("expected {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> Result<Ctl, String> {
        let words = ["plimsoll", "ctl"]
            .into_iter()
            .chain(line.split_whitespace());
        let words = as_confctl(words.map(OsString::from));
        match Cli::try_parse_from(words) {
            Ok(Cli {
                command: Command::Ctl(ctl),
            }) => Ok(ctl),
            Ok(_) => panic!("{line}: not ctl"),
            Err(refused) => Err(refused.to_string()),
        }
    }

    #[test]
    fn options_stand_before_and_after() {
        for line in [
            "--config f --quiet --host -r why --for 30m --yes select name=a set/pooled=no",
            "select name=a set/pooled=no --config f --quiet --host -r why --for 30m --yes",
            "--quiet --host --reason why select --config f name=a --for 30m set/pooled=no --yes",
            "--conf f --qui --host --rea why --for 30m --yes select name=a set/pooled=no",
        ] {
            let options = parse(line).unwrap().options;
            assert_eq!(options.config, PathBuf::from("f"), "{line}");
            assert!(options.quiet && options.host && options.yes, "{line}");
            assert_eq!(options.reason.as_deref(), Some("why"), "{line}");
            assert_eq!(options.lease, Some(Duration::from_secs(1800)), "{line}");
        }
        let options = parse("select name=a get").unwrap().options;
        assert_eq!(options.timeout, Duration::from_secs(30));
        assert_eq!(options.config, PathBuf::from("/etc/plimsoll/plimsoll.toml"));
    }

    #[test]
    fn all_of_confctls_modes() {
        let number = |line: &str| parse(line).unwrap().mode.work().unwrap().len();
        assert_eq!(number("select name=a get"), 1);
        assert_eq!(number("select name=a set/pooled=no get"), 2);
        let tags = "dc=a,cluster=b,service=c";
        assert_eq!(number(&format!("tags {tags} --action get all")), 1);
        assert_eq!(number(&format!("--tags {tags} --action get all")), 1);
        let two = format!("tags --action set/pooled=no x {tags} --action get re:x");
        assert_eq!(number(&two), 2);
        for mode in ["pool", "depool", "drain", "decommission"] {
            let line = format!("{mode} --hostname srv1 --service web");
            let work = parse(&line).unwrap().mode.work().unwrap();
            assert!(matches!(&work[0].action, Action::Set(a) if a.len() == 1));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "select",
            "select name=a",
            "tags dc=a,cluster=b,service=c",
            "tags dc=a,cluster=b,service=c --action get",
            "pool srv1",
            "walk",
            "select name=a get --for 4s",
            "select name=a get --for 1M",
            "select name=a get --for soon",
            "select name=a get --timeout 0s",
            "select name=a get --schema f",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let refused = |line: &str| {
            let ctl = parse(line).unwrap();
            let work = ctl.mode.work()?;
            ctl.options.check(&work)
        };
        for line in [
            "select host=a get",
            "select name=a get set/pooled=maybe",
            "tags dc=a,cluster=b --action get all",
            "select name=a get --for 30s",
            "select name=a delete --for 30s",
            "select name=a get --wait",
            "--object-type service select name=a get",
        ] {
            let failure = refused(line).expect_err(line);
            assert_eq!(failure.exit_code(), crate::cli::exit::USAGE, "{line}");
        }
        assert!(refused("select name=a get set/pooled=no --wait").is_ok());
    }

    #[test]
    fn a_reason_is_one_line() {
        assert!(check_reason("T1234: new disk").is_ok());
        assert!(check_reason("a\nb").is_err());
        assert!(check_reason(&"x".repeat(LONGEST_REASON + 1)).is_err());
    }
}
