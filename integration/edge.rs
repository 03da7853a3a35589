//! An edge under test: its snapshots go in, its events come out, and it ends with the value.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use plimsoll::check::Check;
use plimsoll::config::{self, Announce, Api, Config, Daemon, Servers};
use plimsoll::event::{CheckId, Event};
use plimsoll::service::{Host, Protocol, ServiceName, VirtualService};
use plimsoll::snapshot::{Applied, Condition, Counters, Mode, Service, Snapshot, Source};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longer than anything here takes on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Edge {
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) events: mpsc::Receiver<Event>,
    _run: JoinSet<()>,
}

impl Edge {
    pub(crate) fn start<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(watch::Receiver<Arc<Snapshot>>, mpsc::Sender<Event>) -> F,
    ) -> Edge {
        let (snapshots, receive) = watch::channel(Arc::new(empty()));
        let (send, events) = mpsc::channel(10_000);
        let mut set = JoinSet::new();
        set.spawn(run(receive, send));
        Edge {
            snapshots,
            events,
            _run: set,
        }
    }

    /// The next snapshot has this in place of the service of that name, or without it.
    pub(crate) fn set(&self, name: &str, service: Option<Service>) {
        let name: ServiceName = name.parse().unwrap();
        self.snapshots.send_modify(|snapshot| {
            let snapshot = Arc::make_mut(snapshot);
            match service {
                Some(service) => snapshot.services.insert(name, Arc::new(service)),
                None => snapshot.services.remove(&name),
            };
        });
    }

    pub(crate) async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .expect("the edge runs")
    }

    /// Nothing is said for so long.
    pub(crate) async fn silent(&mut self, time: Duration) {
        if let Ok(event) = timeout(time, self.events.recv()).await {
            panic!("{event:?}");
        }
    }
}

fn empty() -> Snapshot {
    Snapshot {
        mode: Mode::Real,
        config: Arc::new(Config {
            daemon: Daemon {
                state_directory: "/nowhere".into(),
                manage_addresses: false,
            },
            monitor: Default::default(),
            metrics: Default::default(),
            ipvs: Default::default(),
            api: Api {
                listen: Vec::new(),
                control: None,
            },
            bgp: None,
            etcd: None,
            services: BTreeMap::new(),
        }),
        services: imbl::OrdMap::new(),
        retiring: imbl::OrdMap::new(),
        vips: imbl::OrdMap::new(),
        peers: Arc::default(),
        peer_orders: Default::default(),
        overrides: Default::default(),
        overrides_kept: true,
        troubles: Arc::default(),
        repairs: Arc::default(),
        reload_refused: None,
        config_file: None,
        stopping: false,
    }
}

/// A service on this address with these checks and names.
pub(crate) fn service(
    name: &str,
    address: &str,
    checks: BTreeMap<CheckId, Arc<Check>>,
    names: BTreeSet<Host>,
) -> Service {
    let address = address.parse().unwrap();
    let config = config::Service {
        announce: Arc::new(Announce {
            announce: false,
            ..Announce::default()
        }),
        ..config::Service::new(
            name.parse().unwrap(),
            address,
            VirtualService::Address {
                protocol: Protocol::Tcp,
                address,
                port: 80,
            },
            Servers::File("/nowhere".into()),
        )
    };
    Service {
        config: Arc::new(config),
        servers: Arc::default(),
        destinations: None,
        draining: Arc::default(),
        applied: Applied::NotYet,
        checks: Arc::new(checks),
        names: Arc::new(names),
        source: Source::Waiting,
        list_faults: Arc::default(),
        revision: None,
        applied_revision: None,
        guard: None,
        size: 0,
        floor: 0,
        condition: Condition::Failed,
        refusal: None,
        newcomer: false,
        counters: Counters::default(),
        traffic: Arc::default(),
    }
}
