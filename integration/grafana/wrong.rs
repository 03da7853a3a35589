//! The API on snapshots in which all is wrong at once, so that each metric has a sample and each alert its cause: what
//! only a kernel, a store or a bad day would bring.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plimsoll::api;
use plimsoll::history::History;
use plimsoll::service::{Action, Forwarding, Override, Overruled};
use plimsoll::snapshot::traffic::{Counts, Reading, ServerTraffic};
use plimsoll::snapshot::{Guard, KeptDown, Repairs, Scaled, Snapshot, Source};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::lab::Lab;
use crate::sample;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Wrong {
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// All its sockets are in there.
    _runtime: Runtime,
}

impl Wrong {
    pub(crate) fn start(lab: &Lab, address: SocketAddr, snapshot: Snapshot) -> Wrong {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bind = || runtime.block_on(api::bind(&[address])).unwrap();
        let listeners = lab.inside(bind);
        let history = History::new(UNIX_EPOCH);
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        runtime.spawn(api::run(listeners, history, receiver));
        Wrong {
            snapshots,
            _runtime: runtime,
        }
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.snapshots.send_replace(Arc::new(snapshot));
    }
}

/// A balancer all of whose sessions are down.
pub(crate) fn without_sessions() -> Snapshot {
    let mut snapshot = sample::snapshot([]);
    snapshot.config = sample::bgp(&["10.0.0.1"]);
    snapshot
}

/// Every counter that counts mishaps stands at `count`.
pub(crate) fn all(count: u64) -> Snapshot {
    let mut snapshot = sample::snapshot([web(count)]);
    sample::sessions(&mut snapshot);
    snapshot.repairs = Arc::new(Repairs {
        host: [("sysctl", count)].into(),
        ..Repairs::default()
    });
    let overruled = Overruled {
        host: "a".parse().unwrap(),
        service: None,
    };
    let by = Override {
        action: Action::Depool,
        note: Arc::default(),
    };
    snapshot.overrides = Arc::new([(overruled, Arc::new(by))].into());
    snapshot.reload_refused = Some("plimsoll.toml:1: no such key".into());
    snapshot
}

type Named = (
    plimsoll::service::ServiceName,
    Arc<crate::snapshot::Service>,
);

fn web(count: u64) -> Named {
    let servers = ["a up pooled", "b held", "c disabled guarded", "d up", "e"];
    sample::edit(sample::service("web", 0.5, &servers), |service| {
        let now = sample::now();
        service.floor = 3;
        service.guard = Some(Guard { size: 5, line: 3 });
        service.counters.could_not_depool = count;
        service.counters.repaired = count;
        (service.revision, service.applied_revision) = (Some(12), Some(11));
        let fault = ("a/b/c/d".to_owned(), "no JSON".to_owned());
        service.list_faults = Arc::new([fault].into());
        service.source = Source::Saved {
            age: Duration::from_secs(60),
            read_at: now,
            fault: None,
        };
        Arc::make_mut(&mut service.config).delivery.forwarding = Forwarding::Masquerading;
        service.traffic.note(now, reading(count));
        let servers = Arc::make_mut(&mut service.servers);
        let e = servers.get_mut("e").unwrap();
        e.kept_down = Some(KeptDown::FlapHold { until: now + DAY });
        e.draining = Some(now + DAY);
        let a = servers.get_mut("a").unwrap();
        a.scaled = vec![Scaled::SlowStart { percent: 40 }];
        a.stuck = Some("10 connections in 1m 2s, 1.0 packets each".into());
        for server in servers.values_mut() {
            let monitor = &mut server.monitors[0];
            monitor.down_transitions = count;
            let figures = &monitor.figures;
            figures.note_load(None, Some("no load in the answer".into()));
            figures.late.store(count, SeqCst);
            let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + DAY;
            figures
                .certificate_expires
                .store(expires.as_secs() as i64, SeqCst);
            for result in (0..count).flat_map(|_| [Ok(()), Err("no answer")]) {
                figures.note(UNIX_EPOCH, result, Some(Duration::from_millis(2)));
            }
        }
    })
}

fn reading(count: u64) -> Arc<Reading> {
    let counts = Counts {
        connections: count,
        packets_in: 10 * count,
        packets_out: 10 * count,
        bytes_in: 1000 * count,
        bytes_out: 1000 * count,
        ..Counts::default()
    };
    let carried = ServerTraffic {
        active: 12,
        inactive: 30,
        persistent: 0,
        counts,
    };
    Arc::new(Reading {
        counts,
        servers: [("10.0.0.1:80".parse().unwrap(), carried)].into(),
    })
}
