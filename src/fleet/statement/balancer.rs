//! A snapshot → the balancer's own record.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::config::{self, Config, EtcdApi};
use crate::fleet::Me;
use crate::fleet::record::{Address, Balancer};
use crate::routing::PeerId;
use crate::routing::session::SessionState;
use crate::service::ServiceName;
use crate::snapshot::{Condition, Mode, Snapshot, Vip};

/// So much of the hash is told: enough for people, and for no accident to make two alike.
const HASH_BYTES: usize = 6;

pub(super) fn record(me: &Me, config: &str, snapshot: &Snapshot) -> Balancer {
    let addresses = snapshot.vips.iter();
    Balancer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: me.started.clone(),
        config: config.to_owned(),
        mode: match snapshot.mode {
            Mode::Real => "real",
            Mode::MemoryTable => "memory-table",
            Mode::DryRun => "dry-run",
        }
        .to_owned(),
        stopping: snapshot.stopping,
        addresses: addresses.map(|(ip, vip)| (*ip, address(vip))).collect(),
        peers: peers(snapshot),
    }
}

/// Whether the record of the one snapshot may differ from the other's.
pub(super) fn differs(before: &Snapshot, after: &Snapshot) -> bool {
    before.mode != after.mode
        || before.stopping != after.stopping
        || !Arc::ptr_eq(&before.config, &after.config)
        || !Arc::ptr_eq(&before.peers, &after.peers)
        || before.vips.diff(&after.vips).next().is_some()
}

fn address(vip: &Vip) -> Address {
    let condition = match vip.condition {
        Condition::Healthy => "healthy",
        Condition::Degraded => "degraded",
        Condition::Failed => "failed",
    };
    let announced = vip.announce.as_ref().ok();
    Address {
        condition: condition.to_owned(),
        med: announced.map(|announcement| announcement.attributes(None).med),
        refusal: vip
            .announce
            .as_ref()
            .err()
            .map(|refusal| refusal.to_string()),
    }
}

/// Each configured peer: `established` or `down`. The states in between follow each other for as long as a
/// router is away; they are shown by the balancer itself, and would have us write at each try.
fn peers(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let configured = snapshot.config.bgp.iter().flat_map(|bgp| bgp.peers.keys());
    let state = |peer: &PeerId| {
        let session = snapshot.peers.get(peer);
        match session.map(|session| session.state) {
            Some(SessionState::Established) => "established",
            Some(
                SessionState::Idle
                | SessionState::Connect
                | SessionState::Active
                | SessionState::OpenSent
                | SessionState::OpenConfirm,
            )
            | None => "down",
        }
    };
    configured
        .map(|peer| (peer.to_string(), state(peer).to_owned()))
        .collect()
}

/// What balancers that stand in for each other have in common, hashed: all of `[service.NAME]` but how good its
/// route is, and where in etcd the pools are. Not what differs from host to host by right: state directory, API,
/// `[bgp]`, MED, LOCAL_PREF and prepending (one of them makes the primary), etcd's endpoints and credentials. SHA-256 of its JSON, so that it is the
/// same in each process; a release that adds a setting changes it.
pub(super) fn hash(config: &Config) -> String {
    #[derive(Serialize)]
    struct Shared<'a> {
        pools: Option<(&'a str, EtcdApi)>,
        services: BTreeMap<&'a ServiceName, config::Service>,
    }
    let without_rank = |service: &config::Service| {
        let mut service = service.clone();
        let announce = Arc::make_mut(&mut service.announce);
        let policy = Arc::make_mut(&mut announce.policy);
        (policy.med, policy.local_pref, policy.prepend) = (None, None, None);
        service
    };
    let etcd = config.etcd.as_ref();
    let services = config.services.iter();
    let shared = Shared {
        pools: etcd.map(|etcd| (&*etcd.prefix, etcd.api)),
        services: services
            .map(|(name, service)| (name, without_rank(service)))
            .collect(),
    };
    let json = super::json(&shared);
    let hash = ring::digest::digest(&ring::digest::SHA256, json.as_bytes());
    let bytes = hash.as_ref().iter().take(HASH_BYTES);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Etcd, Threshold};
    use crate::routing::Policy;
    use crate::routing::session::Session;
    use crate::snapshot::Refusal;
    use crate::snapshot::sample::{self, ip};

    #[test]
    fn says_what_is_announced_and_to_whom() {
        let mut snapshot = sample::snapshot([]);
        snapshot.config = sample::bgp(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let session = |state| Session {
            state,
            ..Session::default()
        };
        snapshot.peers = Arc::new(BTreeMap::from([
            (ip("10.0.0.1").into(), session(SessionState::Established)),
            (ip("10.0.0.2").into(), session(SessionState::OpenSent)),
        ]));
        let (address, vip) = sample::vip("192.0.2.2", true, None);
        let mut refused = (*vip).clone();
        refused.announce = Err(Refusal::NothingPooled);
        refused.condition = Condition::Failed;
        snapshot.vips.insert(ip("192.0.2.1"), Arc::new(refused));
        snapshot.vips.insert(address, vip);
        let me = Me {
            hostname: "lvs1".to_owned(),
            started: "now".to_owned(),
        };
        let said = record(&me, "hash", &snapshot);
        let expected = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started": "now",
            "config": "hash",
            "mode": "real",
            "stopping": false,
            "addresses": {
                "192.0.2.1": {"condition": "failed", "med": null, "refusal": "a service has nothing pooled"},
                "192.0.2.2": {"condition": "healthy", "med": 10, "refusal": null},
            },
            "peers": {"10.0.0.1": "established", "10.0.0.2": "down", "10.0.0.3": "down"},
        });
        assert_eq!(serde_json::to_value(said).unwrap(), expected);
    }

    #[test]
    fn the_hash_is_of_what_balancers_have_in_common() {
        let config =
            || (*sample::snapshot([sample::service("web", 0.5, &["a up"])]).config).clone();
        let same = hash(&config());
        assert_eq!(same.len(), 2 * HASH_BYTES);
        let mut other = config();
        other.daemon.manage_addresses = false;
        other.bgp = sample::bgp(&["10.0.0.1"]).bgp.clone();
        let web = |config: &mut Config, change: fn(&mut config::Service)| {
            for service in config.services.values_mut() {
                change(Arc::make_mut(service));
            }
        };
        web(&mut other, |service| {
            Arc::make_mut(&mut service.announce).policy = Arc::new(Policy {
                local_pref: Some(200),
                prepend: Some(2),
                ..Policy::of_med(100)
            });
        });
        assert_eq!(hash(&other), same);
        web(&mut other, |service| {
            service.depool_threshold = Threshold::new(0.6).unwrap();
        });
        assert_ne!(hash(&other), same);
        let with_etcd = |prefix: &str, endpoint: &str| {
            let etcd = Etcd {
                endpoints: vec![endpoint.parse().unwrap()],
                prefix: prefix.to_owned(),
                api: EtcdApi::V3,
                ca: None,
                certificate: None,
                key: None,
                user: None,
                password_file: None,
                timeout: std::time::Duration::from_secs(1),
                stale_after: std::time::Duration::from_secs(1),
            };
            hash(&Config {
                etcd: Some(Arc::new(etcd)),
                ..config()
            })
        };
        assert_ne!(with_etcd("/a", "http://one:1"), same);
        assert_ne!(
            with_etcd("/a", "http://one:1"),
            with_etcd("/b", "http://one:1")
        );
        assert_eq!(
            with_etcd("/a", "http://one:1"),
            with_etcd("/a", "http://two:1")
        );
    }
}
