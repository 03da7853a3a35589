//! A table in memory that takes and refuses what the kernel's would. It forwards no packet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use super::table::{Change, Held, Listed, Outcome, Refusal};
use crate::service::VirtualService;
#[cfg(test)]
use crate::snapshot::traffic::Reading;

/// Clones share one table, so that someone else can change it, as ipvsadm(8) can change the kernel's.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<VirtualService, Held>>>);

impl Memory {
    pub(super) fn change(&self, key: VirtualService, changes: &[Change]) -> Outcome {
        let mut services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut refusals = Vec::new();
        for change in changes {
            if let Err(errno) = apply(&mut services, key, change) {
                refusals.push(Refusal {
                    change: change.clone(),
                    errno,
                });
            }
        }
        Outcome {
            refusals,
            held: services.get(&key).cloned(),
        }
    }

    /// As if packets had come.
    #[cfg(test)]
    pub(super) fn carry(&self, key: VirtualService, traffic: Reading) {
        let mut services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = services.get_mut(&key) {
            held.traffic = Arc::new(traffic);
        }
    }

    pub(super) fn list(&self) -> BTreeSet<Listed> {
        let services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        services.keys().copied().map(Listed::Service).collect()
    }
}

/// The errors are those of ip_vs_genl_set_cmd() in net/netfilter/ipvs/ip_vs_ctl.c.
fn apply(
    services: &mut BTreeMap<VirtualService, Held>,
    key: VirtualService,
    change: &Change,
) -> Result<(), Errno> {
    if let Change::AddService(settings) = change {
        if services.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        services.insert(
            key,
            Held {
                settings: settings.clone(),
                destinations: BTreeMap::new(),
                traffic: Arc::default(),
            },
        );
        return Ok(());
    }
    let held = services.get_mut(&key).ok_or(Errno::ESRCH)?;
    match change {
        Change::AddService(_) => {}
        Change::EditService(settings) => held.settings = settings.clone(),
        Change::RemoveService => {
            services.remove(&key);
        }
        Change::AddDestination(backend, to) => {
            if held.destinations.contains_key(backend) {
                return Err(Errno::EEXIST);
            }
            held.destinations.insert(*backend, to.clone());
        }
        Change::EditDestination(backend, to) => {
            *held.destinations.get_mut(backend).ok_or(Errno::ENOENT)? = to.clone();
        }
        Change::RemoveDestination(backend) => {
            held.destinations.remove(backend).ok_or(Errno::ENOENT)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::{Destination, Settings};
    use super::*;
    use crate::service::Protocol;

    #[test]
    fn refuses_as_the_kernel_does() {
        let memory = Memory::default();
        let key = VirtualService::Address {
            protocol: Protocol::Udp,
            address: "2001:db8::1".parse().unwrap(),
            port: 53,
        };
        let backend = "[2001:db8::2]:53".parse().unwrap();
        let settings = Settings {
            scheduler: "wrr".into(),
            flags: 0,
            timeout: 0,
            netmask: u32::MAX,
            engine: None,
        };
        let to = Destination::direct(1);
        let errno = |change: Change| {
            memory
                .change(key, &[change])
                .refusals
                .first()
                .map(|refusal| refusal.errno)
        };

        for without_service in [
            Change::EditService(settings.clone()),
            Change::RemoveService,
            Change::AddDestination(backend, to.clone()),
            Change::EditDestination(backend, to.clone()),
            Change::RemoveDestination(backend),
        ] {
            assert_eq!(errno(without_service), Some(Errno::ESRCH));
        }
        assert_eq!(errno(Change::AddService(settings.clone())), None);
        assert_eq!(errno(Change::AddService(settings)), Some(Errno::EEXIST));
        assert_eq!(
            errno(Change::EditDestination(backend, to.clone())),
            Some(Errno::ENOENT)
        );
        assert_eq!(
            errno(Change::RemoveDestination(backend)),
            Some(Errno::ENOENT)
        );
        assert_eq!(errno(Change::AddDestination(backend, to.clone())), None);
        assert_eq!(
            errno(Change::AddDestination(backend, to)),
            Some(Errno::EEXIST)
        );
        assert_eq!(memory.list(), BTreeSet::from([Listed::Service(key)]));
        assert_eq!(errno(Change::RemoveService), None);
        assert!(memory.list().is_empty());
    }
}
