//! This host: what is there now, and the doing of one step.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use netlink_packet_route::address::AddressHeaderFlags;
use nix::errno::Errno;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use tracing::warn;

use super::address::MARK;
use super::saved::{self, Clamp, Port, Saved, Setting};
use super::step::{Action, Step};
use super::tunnel::DUMMY;
use super::{Fault, Report, Wanted, address, clamp, program, setting, tunnel};
use crate::rtnl::{Assigned, Failure, Link, Lost, Route, alone, on_lo};
use crate::sysctl::{self, SysctlError, of_interface};

pub(super) struct Host {
    directory: PathBuf,
    /// `None`: only for looking.
    _lock: Option<File>,
    saved: Saved,
    route: Route,
}

/// All that there is, as far as it matters.
pub(super) struct Seen<'a> {
    pub(super) addresses: Vec<Assigned>,
    pub(super) links: Vec<Link>,
    pub(super) settings: BTreeMap<String, Result<String, SysctlError>>,
    /// fou's, and whether they are for GUE.
    pub(super) ports: Result<BTreeMap<Port, bool>, String>,
    /// Our table of nftables.
    pub(super) rules: Result<Option<String>, String>,
    pub(super) saved: &'a Saved,
}

impl Seen<'_> {
    /// An interface's.
    pub(super) fn name(&self, index: u32) -> &str {
        let link = self.links.iter().find(|link| link.index == index);
        link.map_or("an interface that is gone", |link| &link.name)
    }
}

pub(super) struct Found {
    pub(super) steps: Vec<Step>,
    faults: Vec<String>,
}

impl Found {
    /// `failed`: what went wrong with steps, by what they are for.
    pub(super) fn report(self, failed: &BTreeMap<String, String>) -> Report {
        let differences = self.steps.into_iter().map(|step| {
            let mut difference = step.difference;
            if let Some(why) = failed.get(&difference.what) {
                difference.hindrance = Some(why.clone());
            }
            difference
        });
        Report {
            differences: differences.collect(),
            faults: self.faults,
        }
    }
}

impl Host {
    pub(super) fn look_only(directory: &Path) -> Result<Host, Fault> {
        Host::new(directory, None)
    }

    /// For us alone.
    pub(super) fn take(directory: &Path) -> Result<Host, Fault> {
        let lock = saved::lock(directory)?;
        Host::new(directory, Some(lock))
    }

    fn new(directory: &Path, lock: Option<File>) -> Result<Host, Fault> {
        Ok(Host {
            directory: directory.to_owned(),
            _lock: lock,
            saved: Saved::read(directory),
            route: Route::open()?,
        })
    }

    pub(super) fn reconnect(&mut self) -> Result<(), Lost> {
        self.route = Route::open()?;
        Ok(())
    }

    pub(super) async fn look(&mut self, wanted: &Wanted) -> Result<Found, Lost> {
        let addresses = self.route.addresses().await?;
        let links = self.route.links().await?;
        let names = setting::names(&links, &self.saved);
        let settings = names.into_iter().map(|name| {
            let value = sysctl::read(&name);
            (name, value)
        });
        let settings = settings.collect();
        // Two programs less where there are no tunnels.
        let undo = wanted.vips.is_empty();
        let ports = if tunnel::ports(wanted).is_empty() && self.saved.ports.is_empty() {
            Ok(BTreeMap::new())
        } else {
            open_ports().await
        };
        let rules = if wanted.tunnels.is_empty() && self.saved.clamp.is_none() && !undo {
            Ok(None)
        } else {
            clamp::show().await
        };
        let seen = Seen {
            addresses,
            links,
            settings,
            ports,
            rules,
            saved: &self.saved,
        };
        let mut steps = setting::steps(wanted, &seen);
        steps.extend(tunnel::steps(wanted, &seen));
        steps.extend(clamp::steps(wanted, &seen));
        steps.extend(address::steps(wanted, &seen));
        let faults = faults(&seen, wanted);
        Ok(Found { steps, faults })
    }

    /// An error in words if it was refused.
    pub(super) async fn perform(&mut self, action: &Action) -> Result<Result<(), String>, Lost> {
        let refused = match action {
            Action::Bind(vip) => self.route.add(on_lo(*vip, &MARK)).await,
            Action::Rebind(vip, old) => match self.route.remove(old).await {
                Ok(()) | Err(Failure::Refused(Errno::EADDRNOTAVAIL)) => {
                    self.route.add(on_lo(*vip, &MARK)).await
                }
                other => other,
            },
            Action::Unbind(place) => match self.unbind(place).await {
                // Somebody was faster.
                Err(Failure::Refused(Errno::EADDRNOTAVAIL)) => Ok(()),
                other => other,
            },
            Action::Number(index) => self.route.add(alone(*index, DUMMY, MARK.protocol)).await,
            Action::MakeDevice(device) => {
                let (name, kind, data) = (device.name(), device.kind(), device.data());
                self.route.add_link(name, kind, data).await
            }
            Action::SetUp(link) => self.route.set_up(link).await,
            Action::RemoveDevice(link) => self.route.remove_link(link).await,
            Action::Set { name, value } => return Ok(self.set(name, value)),
            Action::PutBack { name, value } => return Ok(self.put_back(name, value)),
            Action::OpenPort(port) => return Ok(self.open_port(*port).await),
            Action::ClosePort(port) => return Ok(self.close_port(*port).await),
            Action::Clamp(script) => return Ok(self.clamp(script.as_deref()).await),
        };
        match refused {
            Ok(()) => Ok(Ok(())),
            Err(Failure::Refused(errno)) => Ok(Err(words(action, errno))),
            Err(Failure::Lost(lost)) => Err(lost),
        }
    }

    /// The value as it was is written down first: it is not lost if we end in between.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let is = sysctl::read(name).map_err(|fault| fault.to_string())?;
        let before = match self.saved.settings.get(name) {
            Some(saved) => saved.before.clone(),
            None => is,
        };
        let setting = Setting {
            before,
            set: value.to_owned(),
        };
        self.saved.settings.insert(name.to_owned(), setting);
        self.saved.write(&self.directory)?;
        sysctl::write(name, value).map_err(|fault| fault.to_string())
    }

    fn put_back(&mut self, name: &str, value: &str) -> Result<(), String> {
        sysctl::write(name, value).map_err(|fault| fault.to_string())?;
        self.saved.settings.remove(name);
        self.saved.write(&self.directory)
    }

    async fn open_port(&mut self, port: Port) -> Result<(), String> {
        if let Err(why) = fou(port, "add").await {
            // Unlike devices' modules, the kernel does not load this one when it is asked for.
            let modprobe = sysctl::read("kernel.modprobe").map_err(|fault| fault.to_string())?;
            program::run(&[&modprobe, "-q", "fou"], "")
                .await
                .map_err(|cause| format!("{why}; and the module fou can't be loaded: {cause}"))?;
            fou(port, "add").await?;
        }
        self.saved.ports.insert(port);
        self.saved.write(&self.directory)
    }

    async fn close_port(&mut self, port: Port) -> Result<(), String> {
        fou(port, "del").await?;
        self.saved.ports.remove(&port);
        self.saved.write(&self.directory)
    }

    async fn clamp(&mut self, script: Option<&str>) -> Result<(), String> {
        clamp::load(script).await?;
        let shown = clamp::show().await?;
        self.saved.clamp = script.zip(shown).map(|(script, shown)| Clamp {
            script: script.to_owned(),
            shown,
        });
        self.saved.write(&self.directory)
    }

    /// The kernel removes the other addresses of a network along with its first one, unless it is told not to.
    async fn unbind(&mut self, place: &Assigned) -> Result<(), Failure> {
        let is_first = place.address.is_ipv4()
            && place.prefix_length < 32
            && !place.has(AddressHeaderFlags::Secondary);
        let setting = match self.route.links().await {
            Ok(links) if is_first => {
                let link = links.into_iter().find(|link| link.index == place.index);
                link.map(|link| of_interface("ipv4", &link.name, "promote_secondaries"))
            }
            Ok(_) => None,
            Err(lost) => return Err(Failure::Lost(lost)),
        };
        let before = setting.and_then(|name| {
            let before = sysctl::read(&name).ok()?;
            sysctl::write(&name, "1").ok()?;
            Some((name, before))
        });
        let removed = self.route.remove(place).await;
        if let Some((name, before)) = before
            && let Err(fault) = sysctl::write(&name, &before)
        {
            warn!(%fault, "a setting that was changed for a moment stays changed");
        }
        removed
    }
}

async fn fou(port: Port, verb: &str) -> Result<(), String> {
    let family = if port.ipv6 { "-6" } else { "-4" };
    let number = port.port.to_string();
    let mut words = vec!["ip", family, "fou", verb, "port", &number];
    if verb == "add" {
        words.push("gue");
    }
    program::run(&words, "").await.map(|_| ())
}

#[derive(Deserialize)]
struct Shown {
    port: u16,
    family: String,
    /// There, and null, if it is.
    #[serde(default, deserialize_with = "is_there")]
    gue: bool,
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

async fn open_ports() -> Result<BTreeMap<Port, bool>, String> {
    // Without its module there are none, and ip fails.
    if !Path::new("/sys/module/fou").exists() {
        return Ok(BTreeMap::new());
    }
    let text = program::run(&["ip", "-j", "fou", "show"], "").await?;
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let shown: Vec<Shown> = serde_json::from_str(&text)
        .map_err(|cause| format!("ip -j fou show says what we can't read: {cause}"))?;
    let port = |shown: Shown| {
        let port = Port {
            ipv6: shown.family == "inet6",
            port: shown.port,
        };
        (port, shown.gue)
    };
    Ok(shown.into_iter().map(port).collect())
}

/// What could not be looked at.
fn faults(seen: &Seen<'_>, wanted: &Wanted) -> Vec<String> {
    let settings = setting::needed(wanted, seen);
    let settings = settings.keys().filter_map(|name| {
        let fault = seen.settings.get(name)?.as_ref().err()?;
        Some(fault.to_string())
    });
    // Without the program there is nothing of ours to remove.
    let rules = seen
        .rules
        .as_ref()
        .err()
        .filter(|_| !wanted.tunnels.is_empty() || seen.saved.clamp.is_some());
    settings
        .chain(seen.ports.as_ref().err().cloned())
        .chain(rules.cloned())
        .collect()
}

/// In an operator's words, with what he can do.
fn words(action: &Action, errno: Errno) -> String {
    match (errno, action) {
        (Errno::EPERM, _) => {
            "the kernel does not permit it: root or CAP_NET_ADMIN is needed".to_owned()
        }
        (Errno::EOPNOTSUPP, Action::MakeDevice(device)) => {
            format!("this kernel has no devices of kind {}", device.kind())
        }
        (Errno::EEXIST, Action::MakeDevice(_)) => {
            "somebody else has such a device, which is down or only for some addresses".to_owned()
        }
        (
            Errno::EACCES | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT,
            Action::Bind(vip) | Action::Rebind(vip, _),
        ) if vip.is_ipv6() => {
            "IPv6 is off in this kernel or on lo (ipv6.disable, net.ipv6.conf.lo.disable_ipv6)"
                .to_owned()
        }
        (errno, _) => format!("the kernel refuses: {}", errno.desc()),
    }
}
