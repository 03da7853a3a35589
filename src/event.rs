//! What can happen to us: the core's whole input. Times come beside an event, never in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::config::{Config, Servers};
use crate::routing::PeerId;
use crate::routing::session::Session;
use crate::service::{
    Destinations, Family, Host, Listing, Override, Overrides, Overruled, ServiceName,
    VirtualService,
};
use crate::snapshot::ConfigFile;

#[derive(Clone, Debug, Serialize)]
pub enum Event {
    /// A configuration is in force from now on: at start and after each good reload.
    Configured(Arc<Config>),
    /// A reload was refused; the old configuration stays. The mistakes, a line each.
    ReloadRefused(String),
    /// How the configuration's file is now. Sent at first and at each change.
    ConfigFile(ConfigFile),
    /// A source read a good list, never an empty one.
    List {
        service: ServiceName,
        from: Servers,
        list: Arc<Listing>,
    },
    /// A source could not; the last good list stays.
    SourceFailed {
        service: ServiceName,
        from: Servers,
        fault: String,
    },
    /// All addresses of a name and family, sorted; sent at first and when they change, never empty.
    Resolved {
        host: Host,
        family: Family,
        addresses: Vec<IpAddr>,
    },
    /// A name does not resolve (now, or at all); addresses known before stay in use.
    Unresolved {
        host: Host,
        family: Family,
        fault: String,
    },
    /// A check's verdict: the first one, then at each change of it.
    Checked {
        service: ServiceName,
        check: CheckId,
        verdict: Verdict,
    },
    /// Which share of its weight a server is good for, by one check: the first one, then at changes of it that a
    /// weight can tell.
    Load {
        service: ServiceName,
        check: CheckId,
        /// 1 to 1000; 100 is the list's weight.
        percent: u32,
    },
    /// What the kernel held for these services when the IPVS sink first saw them, before it touched them.
    /// A service that the kernel does not have is there with no destinations.
    Found(BTreeMap<VirtualService, Destinations>),
    /// The kernel holds exactly this for the service; it was read back. These are the very destinations of a
    /// snapshot, by which the core knows what was wanted then.
    Applied {
        service: VirtualService,
        destinations: Arc<Destinations>,
    },
    /// The kernel refused. `holds`: whether it still has the service, with a destination that gets new connections.
    NotApplied {
        service: VirtualService,
        fault: String,
        holds: bool,
    },
    /// Servers whose last connections were waited for, and that have no more.
    Drained {
        service: VirtualService,
        backends: BTreeSet<SocketAddr>,
    },
    /// Someone else had changed the service or its destinations; they are as wanted again.
    Repaired {
        service: VirtualService,
        /// What it was, and what it is again.
        change: String,
    },
    /// Someone else had changed a part of this host that is kept as wanted, a setting of the kernel, say; it is as
    /// wanted again.
    RepairedHost { part: &'static str, change: String },
    /// A server of the service takes no connection up that IPVS gives it, by these figures; `None`: it does again,
    /// or gets none. Sent at each change.
    Stuck {
        service: VirtualService,
        backend: SocketAddr,
        why: Option<String>,
    },
    /// Which of the wanted VIPs are on this host, and why those that are not could not be put there.
    /// Sent at each change.
    Addresses {
        present: BTreeSet<IpAddr>,
        faults: BTreeMap<IpAddr, String>,
    },
    /// A BGP session changed, or what the peer has been told.
    Peer { peer: PeerId, session: Session },
    /// An operator's word on a peer, by the control socket.
    PeerOrder { peer: PeerId, order: PeerOrder },
    /// An operator's word on a server in place of its list's, by the control socket or kept from the last run.
    Override {
        overruled: Overruled,
        by: Override,
        /// How long it is in force from now on.
        left: Duration,
    },
    /// It ends before its time.
    OverrideEnded(Overruled),
    /// These very overrides of a snapshot are on the disk.
    OverridesKept(#[serde(skip)] Arc<Overrides>),
    /// The addresses that at least one peer has been told and not been told otherwise. Sent at each change.
    Announced(BTreeSet<IpAddr>),
    /// A part of ours could not do its work (the state file, say); `None`: it can again.
    Trouble {
        part: &'static str,
        fault: Option<String>,
    },
    /// What happened at once (a transaction of the store, say): no snapshot shows a part of it.
    Together(Vec<Event>),
    /// SIGTERM or SIGINT.
    Stop,
}

/// Names one run of one monitor against one server; never used twice in a process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CheckId(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    Up,
    /// Why, as an operator would say it: `connection refused`, `status 503, expected 200`.
    Down(String),
}

/// What an operator wants of a session. The text is what the peer is told (RFC 9003), at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PeerOrder {
    /// Cease / Administrative Shutdown, and down until it is enabled, whatever the configuration says.
    Disable(Option<Arc<str>>),
    Enable,
    /// Cease / Administrative Reset, and up again.
    Clear(Option<Arc<str>>),
}
