//! The hosts file (hosts(5)): names with their addresses. Reads text; opens nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::service::{Family, Host};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(BTreeMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Takes every line that is one, and skips what isn't, as the C library does.
    pub(super) fn parse(text: &str) -> Hosts {
        let mut hosts: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse) else {
                continue;
            };
            for name in words {
                hosts.entry(canonical(name)).or_default().push(address);
            }
        }
        for addresses in hosts.values_mut() {
            addresses.sort_unstable();
            addresses.dedup();
        }
        Hosts(hosts)
    }

    /// The name's addresses of this family, sorted; `None` if there are none.
    pub(super) fn get(&self, host: &Host, family: Family) -> Option<Vec<IpAddr>> {
        let all = self.0.get(&canonical(host.as_str()))?;
        let of_family: Vec<IpAddr> = all
            .iter()
            .copied()
            .filter(|address| Family::of(*address) == family)
            .collect();
        (!of_family.is_empty()).then_some(of_family)
    }
}

/// Case doesn't matter (RFC 4343), nor does the dot of the root.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_aliases_families() {
        let hosts = Hosts::parse(
            "\u{feff}127.0.0.9 lost\n\
             127.0.0.1\tlocalhost\n\
             ::1 localhost ip6-localhost # a comment\n\
             #10.0.0.1 commented\n\
             10.0.0.2 cp1.example.org cp1\n\
             10.0.0.1   CP1\n\
             10.0.0.1 cp1\n\
             fe80::1%lo scoped\n\
             garbage\n\
             10.0.0.3",
        );
        let get = |name: &str, family| hosts.get(&name.parse().unwrap(), family);
        let v4 = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(get("localhost", Family::Ipv4), Some(vec![v4("127.0.0.1")]));
        assert_eq!(get("localhost", Family::Ipv6), Some(vec![v4("::1")]));
        assert_eq!(
            get("Cp1", Family::Ipv4),
            Some(vec![v4("10.0.0.1"), v4("10.0.0.2")])
        );
        assert_eq!(get("cp1", Family::Ipv6), None);
        assert_eq!(
            get("cp1.example.org.", Family::Ipv4),
            Some(vec![v4("10.0.0.2")])
        );
        for none in ["commented", "scoped", "garbage", "a"] {
            assert_eq!(get(none, Family::Ipv4), None, "{none}");
        }
    }
}
