//! A configuration → the hash by which balancers, and people, see whether two of them mean the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Config, EtcdApi, Service};
use crate::service::ServiceName;

/// So much of the hash is told: enough for people, and for no accident to make two alike.
const HASH_BYTES: usize = 6;

impl Config {
    /// What balancers that stand in for each other have in common, hashed: all of `[service.NAME]` but how good its
    /// route is, and where in etcd the pools are. Not what differs from host to host by right: state directory, API,
    /// `[bgp]`, MED, LOCAL_PREF and prepending (one of them makes the primary), etcd's endpoints and credentials.
    /// SHA-256 of its JSON, so that it is the same in each process; a release that adds a setting changes it.
    pub fn hash(&self) -> String {
        #[derive(Serialize)]
        struct Shared<'a> {
            pools: Option<(&'a str, EtcdApi)>,
            services: BTreeMap<&'a ServiceName, Service>,
        }
        let without_rank = |service: &Service| {
            let mut service = service.clone();
            let announce = Arc::make_mut(&mut service.announce);
            let policy = Arc::make_mut(&mut announce.policy);
            (policy.med, policy.local_pref, policy.prepend) = (None, None, None);
            service
        };
        let etcd = self.etcd.as_ref();
        let services = self.services.iter();
        let shared = Shared {
            pools: etcd.map(|etcd| (&*etcd.prefix, etcd.api)),
            services: services
                .map(|(name, service)| (name, without_rank(service)))
                .collect(),
        };
        // Cannot fail: all keys are strings or addresses, and nothing serializes by code of its own.
        let json = serde_json::to_string(&shared).expect("plain data is JSON");
        let hash = ring::digest::digest(&ring::digest::SHA256, json.as_bytes());
        let bytes = hash.as_ref().iter().take(HASH_BYTES);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Etcd, Threshold};
    use crate::routing::Policy;
    use crate::snapshot::sample;

    #[test]
    fn the_hash_is_of_what_balancers_have_in_common() {
        let config =
            || (*sample::snapshot([sample::service("web", 0.5, &["a up"])]).config).clone();
        let same = config().hash();
        assert_eq!(same.len(), 2 * HASH_BYTES);
        let mut other = config();
        other.daemon.manage_addresses = false;
        other.bgp = sample::bgp(&["10.0.0.1"]).bgp.clone();
        let web = |config: &mut Config, change: fn(&mut Service)| {
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
        assert_eq!(other.hash(), same);
        web(&mut other, |service| {
            service.depool_threshold = Threshold::new(0.6).unwrap();
        });
        assert_ne!(other.hash(), same);
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
            Config {
                etcd: Some(Arc::new(etcd)),
                ..config()
            }
            .hash()
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
