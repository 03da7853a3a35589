//! A file's text → [`Config`]: the document's sections in order, then what they must agree on.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeTable;

use super::mistake::Mistakes;
use super::reader::{Key, Node, Table, key, was};
use super::report::Report;
use super::service::Draft;
use super::{
    Api, Checks, Config, Daemon, Etcd, Metrics, agreement, bgp, etcd, ipvs, service, value,
};

const KEYS: &[Key] = &[
    key("daemon"),
    key("api"),
    key("monitor"),
    key("metrics"),
    key("ipvs"),
    key("bgp"),
    key("etcd"),
    key("service"),
];
const DAEMON_KEYS: &[Key] = &[key("state-directory"), key("manage-addresses")];
const API_KEYS: &[Key] = &[was("listen", "instrumentation_ips"), key("control")];
const METRICS_KEYS: &[Key] = &[key("pybal-names")];

const MONITOR_KEYS: &[Key] = &[key("command-user"), key("commands-at-once")];

/// The most bytes that a configuration may have.
pub const LARGEST: usize = 16 * 1024 * 1024;

/// In larger texts only the first error of TOML is told: the parser's own list of them has no limit.
const ALL_ERRORS_UP_TO: usize = 1024 * 1024;

/// PyBal's `instrumentation_port`.
const API_PORT: u16 = 9090;

/// Each is a process at least, and three descriptors.
const MOST_COMMANDS: u32 = 10_000;

const CONTROL: &str = "/run/plimsoll/control.sock";

impl Config {
    /// Reads a file of at most [`LARGEST`] bytes. Blocks, as files do.
    pub fn read(path: &Path) -> Result<Config, Mistakes> {
        let name = path.display().to_string();
        Config::parse(&text(path, &name)?, &name)
    }

    /// Only `[etcd]`: what a command needs that talks to etcd and not to the kernel. On a real server the file
    /// may consist of this section alone; on a balancer a mistake in another section is no reason that a
    /// server cannot be depooled. A text that is not TOML is refused, wherever that shows: who knows what
    /// else of it was read as it was not meant.
    pub fn read_etcd(path: &Path) -> Result<Arc<Etcd>, Mistakes> {
        let name = path.display().to_string();
        let text = text(path, &name)?;
        let report = Report::new(&text);
        let root = toml(&text, &report);
        let root = Table::root(&report, root.get_ref());
        let found = match root.get("etcd") {
            Some(node) => node.table(etcd::KEYS).and_then(|table| etcd::etcd(&table)),
            None => {
                root.place
                    .missing("etcd", format_args!("missing; write [etcd] with endpoints"));
                None
            }
        };
        report.into_result(&name)?;
        found.ok_or_else(|| unnoted(&name))
    }

    /// Only `[api]`: what a command needs that talks to the daemon, which runs on whatever else the file says now.
    pub fn read_api(path: &Path) -> Result<Api, Mistakes> {
        let name = path.display().to_string();
        let text = text(path, &name)?;
        let report = Report::new(&text);
        let root = toml(&text, &report);
        let root = Table::root(&report, root.get_ref());
        let found = api(section(&root, "api", API_KEYS).as_ref());
        report.into_result(&name)?;
        found.ok_or_else(|| unnoted(&name))
    }

    /// The same of a text; `file_name` is for the mistakes alone.
    pub fn parse(text: &str, file_name: &str) -> Result<Config, Mistakes> {
        if text.len() > LARGEST {
            return Err(Mistakes::of_file(file_name, None, too_large()));
        }
        let report = Report::new(text);
        let root = toml(text, &report);
        let config = config(&Table::root(&report, root.get_ref()));
        report.into_result(file_name)?;
        config.ok_or_else(|| unnoted(file_name))
    }
}

/// A part that is missing without a mistake noted is our fault, and no reason to go on or to panic.
fn unnoted(file_name: &str) -> Mistakes {
    let fault = "refused for a reason that was not noted; report this";
    Mistakes::of_file(file_name, None, fault.to_owned())
}

fn text(path: &Path, name: &str) -> Result<String, Mistakes> {
    let fault = |line, text| Mistakes::of_file(name, line, text);
    let bytes = contents(path).map_err(|error| fault(None, format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        fault(Some(line), "not UTF-8; save the file in UTF-8".to_owned())
    })
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LARGEST as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, too_large()));
    }
    Ok(bytes)
}

fn too_large() -> String {
    format!(
        "larger than {} MiB; move servers to lists of their own",
        LARGEST / 1024 / 1024
    )
}

fn toml<'a>(text: &'a str, report: &Report<'_>) -> Spanned<DeTable<'a>> {
    match DeTable::parse(text) {
        Ok(root) => root,
        Err(first) if text.len() > ALL_ERRORS_UP_TO => {
            report.not_toml(vec![first]);
            Spanned::new(0..0, DeTable::new())
        }
        Err(_) => {
            let (root, errors) = DeTable::parse_recoverable(text);
            report.not_toml(errors);
            root
        }
    }
}

/// `None` only if a mistake was noted.
fn config(root: &Table<'_>) -> Option<Config> {
    root.note_unknown_keys(KEYS);
    let daemon = daemon(section(root, "daemon", DAEMON_KEYS).as_ref());
    let api = api(section(root, "api", API_KEYS).as_ref());
    let metrics = metrics(section(root, "metrics", METRICS_KEYS).as_ref());
    let monitor = checks(section(root, "monitor", MONITOR_KEYS).as_ref());
    let bgp = section(root, "bgp", bgp::KEYS).map(bgp::bgp);
    let etcd_section = section(root, "etcd", etcd::KEYS);
    let etcd = etcd_section.as_ref().map(etcd::etcd);
    let without = bgp::announce::Base::default();
    let drafts = services(root, bgp.as_ref().map_or(&without, |bgp| &bgp.base));
    let schedulers = drafts
        .iter()
        .filter_map(|draft| Some(draft.service.as_ref()?.scheduling.scheduler));
    let ipvs = ipvs::ipvs(section(root, "ipvs", ipvs::KEYS).as_ref(), schedulers);
    agreement::check(&drafts, bgp.as_ref());
    if let Some(bgp) = &bgp {
        bgp::reach::check(&drafts, bgp);
    }
    if root.get("etcd").is_none() && root.place.is_toml() {
        agreement::no_etcd(&drafts);
    }
    let bgp = match bgp {
        None => None,
        Some(bgp) => Some(bgp.finish()?),
    };
    let etcd = match etcd {
        None => None,
        Some(etcd) => Some(etcd?),
    };
    let services = drafts.into_iter().map(|draft| {
        let service = draft.service?;
        Some((service.name.clone(), Arc::new(service)))
    });
    Some(Config {
        daemon: daemon?,
        api: api?,
        monitor: monitor?,
        metrics: metrics?,
        ipvs: ipvs?,
        bgp,
        etcd,
        services: services.collect::<Option<_>>()?,
    })
}

fn section<'a>(root: &Table<'a>, name: &str, keys: &'static [Key]) -> Option<Table<'a>> {
    root.get(name)?.table(keys)
}

fn daemon(section: Option<&Table<'_>>) -> Option<Daemon> {
    let default = Daemon {
        state_directory: PathBuf::from("/var/lib/plimsoll"),
        manage_addresses: true,
    };
    let Some(table) = section else {
        return Some(default);
    };
    let state_directory = table.or("state-directory", default.state_directory, value::path);
    let manage_addresses = table.or("manage-addresses", default.manage_addresses, Node::boolean);
    Some(Daemon {
        state_directory: state_directory?,
        manage_addresses: manage_addresses?,
    })
}

fn api(section: Option<&Table<'_>>) -> Option<Api> {
    let localhost: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let listen = localhost
        .map(|address| SocketAddr::new(address, API_PORT))
        .to_vec();
    let default = Api {
        listen,
        control: Some(PathBuf::from(CONTROL)),
    };
    let Some(table) = section else {
        return Some(default);
    };
    let listen = table.or("listen", default.listen, value::listen);
    let control = table.or("control", default.control, value::socket);
    Some(Api {
        listen: listen?,
        control: control?,
    })
}

fn metrics(section: Option<&Table<'_>>) -> Option<Metrics> {
    let Some(table) = section else {
        return Some(Metrics::default());
    };
    let pybal_names = table.or("pybal-names", false, Node::boolean)?;
    Some(Metrics { pybal_names })
}

fn checks(section: Option<&Table<'_>>) -> Option<Checks> {
    let default = Checks::default();
    let Some(table) = section else {
        return Some(default);
    };
    let command_user = table.optional("command-user", value::user);
    let commands_at_once = table.or("commands-at-once", default.commands_at_once, |node| {
        node.integer(1, MOST_COMMANDS)
    });
    Some(Checks {
        command_user: command_user?,
        commands_at_once: commands_at_once?,
    })
}

fn services<'a>(root: &Table<'a>, base: &bgp::announce::Base) -> Vec<Draft<'a>> {
    const RIGHT: &str = "[service.NAME] for each";
    let Some(node) = root.get("service") else {
        root.place
            .missing("service", format_args!("no service; write {RIGHT}"));
        return Vec::new();
    };
    let Some(table) = node.any_table(RIGHT) else {
        return Vec::new();
    };
    let entries = table.entries();
    if entries.is_empty() {
        table
            .place
            .mistake(format_args!("no service; write {RIGHT}"));
    }
    let draft = |(name, node): (&'a str, Node<'a>)| {
        let table = node.any_table(&format!("[{}]", node.place().path()))?;
        table.note_keys_not_in(&[service::KEYS, service::delivery::KEYS]);
        Some(service::service(name, &table, base))
    };
    entries.into_iter().filter_map(draft).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::Value;

    use super::super::{comeback, monitor, server};
    use super::*;

    const EXAMPLE: &str = include_str!("../../conf/plimsoll.toml");

    /// Every table of keys that a section is read by, and where in the document; `*` is a name.
    const SECTIONS: &[(&str, &[Key])] = &[
        ("", KEYS),
        (".daemon", DAEMON_KEYS),
        (".api", API_KEYS),
        (".monitor", MONITOR_KEYS),
        (".metrics", METRICS_KEYS),
        (".ipvs", ipvs::KEYS),
        (".ipvs.sysctl", ipvs::SYSCTL_KEYS),
        (".ipvs.sync", ipvs::SYNC_KEYS),
        (".etcd", etcd::KEYS),
        (".bgp", bgp::KEYS),
        (".bgp.condition", bgp::announce::CONDITION_KEYS),
        (".bgp.condition.*", bgp::policy::KEYS),
        (".bgp.peer", bgp::peer::KEYS),
        (".bgp.peer.tcp-ao", bgp::authentication::AO_KEYS),
        (".service.*", service::KEYS),
        (".service.*", service::delivery::KEYS),
        (".service.*.tunnel", service::delivery::TUNNEL_KEYS),
        (".service.*.flap-hold", comeback::FLAP_HOLD_KEYS),
        (".service.*.bgp", bgp::announce::KEYS),
        (".service.*.bgp.condition", bgp::announce::CONDITION_KEYS),
        (".service.*.server", server::KEYS),
        (".service.*.server", service::delivery::KEYS),
        (".service.*.monitor", monitor::KEYS),
        (".service.*.monitor", monitor::PERIODIC_KEYS),
        (".service.*.monitor.load", monitor::load::KEYS),
    ];

    fn sections() -> impl Iterator<Item = (&'static str, &'static [Key])> {
        let monitors = monitor::KINDS
            .iter()
            .flat_map(|kind| kind.keys)
            .map(|keys| (".service.*.monitor", *keys));
        SECTIONS.iter().copied().chain(monitors)
    }

    /// The example with the lines that are only in it to be shown: `#key = value`, without a blank. What they
    /// name, key files say, is not there.
    fn whole_example() -> Value {
        let shown = |line: &str| {
            let rest = line.strip_prefix('#').unwrap_or(line);
            let key = rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
            (if key { rest } else { line }).to_owned()
        };
        let text: Vec<_> = EXAMPLE.lines().map(shown).collect();
        Value::Table(text.join("\n").parse().unwrap())
    }

    /// Notes the path of each key below a value, those of list elements as if there were no list, and those of
    /// `[bgp.defaults]` as peers'.
    fn paths(path: &str, value: &Value, found: &mut BTreeSet<String>) {
        if let Some(list) = value.as_array() {
            list.iter().for_each(|element| paths(path, element, found));
        }
        for (name, value) in value.as_table().into_iter().flatten() {
            let key = match path {
                ".service" | ".bgp.condition" => "*",
                ".bgp" if name == "defaults" => "peer",
                _ => name,
            };
            found.insert(format!("{path}.{name}"));
            let path = format!("{path}.{key}");
            paths(&path, value, found);
            found.insert(path);
        }
    }

    #[test]
    fn the_example_has_every_key() {
        let mut found = BTreeSet::new();
        paths("", &whole_example(), &mut found);
        for (section, keys) in sections() {
            for key in keys {
                let path = format!("{section}.{}", key.name);
                assert!(found.contains(&path), "{path} is not in conf/plimsoll.toml");
            }
        }
    }

    #[test]
    fn the_example_names_pybals_keys() {
        for key in sections().flat_map(|(_, keys)| keys) {
            if let Some(pybal) = key.pybal {
                let says = |line: &str| {
                    line.starts_with('#') && line.contains("PyBal: ") && line.contains(pybal)
                };
                assert!(EXAMPLE.lines().any(says), "{}: PyBal's {pybal}", key.name);
            }
        }
    }
}
