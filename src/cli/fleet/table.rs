//! The facts as tables for people: plain text, columns as wide as what stands in them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::facts::{Address, Balancer, Facts};
use crate::fleet::record;
use crate::table::{Table, clean};

pub(super) fn text(facts: &Facts) -> String {
    let mut parts = vec![balancers(facts)];
    if !facts.addresses.is_empty() {
        parts.push(addresses(facts));
    }
    parts.push(behind(facts));
    if !facts.unreadable.is_empty() {
        parts.push(unreadable(facts));
    }
    parts.join("\n")
}

fn balancers(facts: &Facts) -> String {
    let number = facts.balancers.len();
    let mut text = match number {
        0 => "no balancer is alive\n".to_owned(),
        1 => "1 balancer\n".to_owned(),
        _ => format!("{number} balancers\n"),
    };
    if number == 0 {
        return text;
    }
    text.push('\n');
    let mut table = Table::new([
        "BALANCER", "VERSION", "UP SINCE", "MODE", "CONFIG", "SESSIONS", "",
    ]);
    for (hostname, balancer) in &facts.balancers {
        table.row([
            hostname,
            &balancer.version,
            &to_the_second(&balancer.started),
            &balancer.mode,
            &balancer.config,
            &format!("{}/{}", balancer.established, balancer.peers.len()),
            &remarks(balancer),
        ]);
    }
    text += &table.text();
    text += &differing(facts);
    text
}

fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

fn remarks(balancer: &Balancer) -> String {
    let down = balancer
        .peers
        .iter()
        .filter(|(_, state)| *state != "established");
    let down: Vec<String> = down.map(|(peer, _)| peer.to_string()).collect();
    let down = format!("no session with {}", down.join(", "));
    let remarks = [
        (balancer.stopping, "stopping"),
        (balancer.config_differs, "configuration differs"),
        (balancer.established < balancer.peers.len(), &down),
    ];
    let remarks = remarks.into_iter().filter(|(true_of_it, _)| *true_of_it);
    remarks.map(|(_, text)| text).collect::<Vec<_>>().join("; ")
}

/// What to make of configurations that differ.
fn differing(facts: &Facts) -> String {
    let balancers = || facts.balancers.values();
    if !balancers().any(|balancer| balancer.config_differs) {
        return String::new();
    }
    let mut text = "\n".to_owned();
    if balancers().all(|balancer| balancer.config_differs) {
        text += "no configuration is more frequent than the others\n";
    }
    let versions: BTreeSet<_> = balancers().map(|balancer| &balancer.version).collect();
    if versions.len() > 1 {
        text += "versions differ too, which is enough for configurations to differ\n";
    }
    if text == "\n" { String::new() } else { text }
}

fn addresses(facts: &Facts) -> String {
    let mut table = Table::new(["ADDRESS", "BALANCER", "CONDITION", "MED", ""]);
    for (ip, address) in &facts.addresses {
        let mut ip = ip.to_string();
        for (hostname, said) in &address.balancers {
            let med = said.med.map_or("-".to_owned(), |med| med.to_string());
            let role = role(facts, address, hostname, said);
            table.row([
                &std::mem::take(&mut ip),
                hostname,
                &said.condition,
                &med,
                &role,
            ]);
        }
    }
    table.text()
}

fn role(facts: &Facts, address: &Address, hostname: &String, said: &record::Address) -> String {
    if let Some(refusal) = &said.refusal {
        return format!("not announced: {refusal}");
    }
    let sessions = facts.balancers.get(hostname).map_or(0, |b| b.established);
    match (address.primary.contains(hostname), address.primary.len()) {
        _ if sessions == 0 => "not announced: no session".to_owned(),
        (true, 1) => "primary".to_owned(),
        (true, number) => format!("primary, one of {number}"),
        (false, _) => String::new(),
    }
}

fn behind(facts: &Facts) -> String {
    if facts.behind.is_empty() {
        return format!(
            "no balancer is behind of a pool, as of revision {}\n",
            facts.revision
        );
    }
    let mut table = Table::new(["POOL", "NEWEST", "BALANCER", "SERVES", "BEHIND"]);
    for (path, behind) in &facts.behind {
        let (mut path, mut newest) = (path.clone(), behind.newest.to_string());
        for (hostname, lag) in &behind.balancers {
            let serves = lag
                .revision
                .filter(|revision| *revision > 0)
                .map_or("nothing yet".to_owned(), |r| r.to_string());
            let by = match lag.changes {
                1 => "1 server".to_owned(),
                number => format!("{number} servers"),
            };
            table.row([
                &std::mem::take(&mut path),
                &std::mem::take(&mut newest),
                hostname,
                &serves,
                &by,
            ]);
        }
    }
    table.text()
}

fn unreadable(facts: &Facts) -> String {
    let mut text = String::new();
    for (key, why) in &facts.unreadable {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {}", clean(key), clean(why));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::fleet::read::Read;
    use crate::fleet::record::{Balancer, Pool};

    /// `MED` or why not, of each address; the peers' states; the revision of each pool.
    fn balancer(config: &str, addresses: &[(&str, Result<u32, &str>)], peers: &[&str]) -> Balancer {
        let address = |said: &Result<u32, &str>| record::Address {
            condition: if said.is_ok() { "healthy" } else { "failed" }.to_owned(),
            med: said.ok(),
            refusal: said.err().map(str::to_owned),
        };
        Balancer {
            version: "1.2.3".to_owned(),
            started: "2026-01-02T03:04:05.678Z".to_owned(),
            config: config.to_owned(),
            mode: "real".to_owned(),
            stopping: false,
            addresses: addresses
                .iter()
                .map(|(ip, said)| (ip.parse().unwrap(), address(said)))
                .collect(),
            peers: (1..)
                .zip(peers)
                .map(|(n, state)| (format!("10.0.0.{n}"), (*state).to_owned()))
                .collect(),
        }
    }

    fn applied(pools: &[(&str, u64)]) -> BTreeMap<crate::conftool::PoolPath, Pool> {
        let pool = |revision| Pool {
            revision,
            services: BTreeMap::new(),
        };
        pools
            .iter()
            .map(|(path, revision)| (path.parse().unwrap(), pool(*revision)))
            .collect()
    }

    #[test]
    fn three_of_which_each_has_something() {
        let up = ["established", "established"];
        let one = balancer("aaaa", &[("192.0.2.1", Ok(0)), ("192.0.2.2", Ok(5))], &up);
        let two = Balancer {
            stopping: true,
            ..balancer(
                "aaaa",
                &[("192.0.2.1", Ok(10)), ("192.0.2.2", Ok(5))],
                &["established", "down"],
            )
        };
        let failed = Err("a service has nothing pooled");
        let three = balancer(
            "bbbb",
            &[("192.0.2.1", failed), ("2001:db8::1", Ok(1))],
            &["down"],
        );
        let read = Read {
            revision: 99,
            balancers: [("lvs1", one), ("lvs2", two), ("lvs1003.example", three)]
                .map(|(hostname, balancer)| (hostname.to_owned(), balancer))
                .into(),
            applied: [
                ("lvs1", applied(&[("dc/web/text", 70), ("dc/web/dns", 9)])),
                ("lvs2", applied(&[("dc/web/text", 60)])),
                ("lvs1003.example", applied(&[("dc/web/dns", 90)])),
            ]
            .map(|(hostname, pools)| (hostname.to_owned(), pools))
            .into(),
            pools: [
                ("dc/web/text", vec![50, 61, 70]),
                ("dc/web/dns", vec![9]),
                ("dc/web/none", vec![98]),
            ]
            .map(|(path, written)| (path.parse().unwrap(), written))
            .into(),
            unreadable: [(
                "/plimsoll/v1/balancers/x\n".to_owned(),
                "no\u{1b}[2J JSON".to_owned(),
            )]
            .into(),
        };
        let expected = "\
3 balancers

BALANCER         VERSION  UP SINCE              MODE  CONFIG  SESSIONS
lvs1             1.2.3    2026-01-02T03:04:05Z  real  aaaa    2/2
lvs1003.example  1.2.3    2026-01-02T03:04:05Z  real  bbbb    0/1       configuration differs; no session with 10.0.0.1
lvs2             1.2.3    2026-01-02T03:04:05Z  real  aaaa    1/2       stopping; no session with 10.0.0.2

ADDRESS      BALANCER         CONDITION  MED
192.0.2.1    lvs1             healthy    0    primary
             lvs1003.example  failed     -    not announced: a service has nothing pooled
             lvs2             healthy    10
192.0.2.2    lvs1             healthy    5    primary, one of 2
             lvs2             healthy    5    primary, one of 2
2001:db8::1  lvs1003.example  healthy    1    not announced: no session

POOL         NEWEST  BALANCER  SERVES       BEHIND
dc/web/dns   9       lvs2      nothing yet  1 server
dc/web/text  70      lvs2      60           2 servers

/plimsoll/v1/balancers/x?: no?[2J JSON
";
        assert_eq!(text(&Facts::of(&read)), expected);
    }

    #[test]
    fn nobody_and_one() {
        let mut read = Read {
            revision: 7,
            ..Read::default()
        };
        let none = "no balancer is alive\n\nno balancer is behind of a pool, as of revision 7\n";
        assert_eq!(text(&Facts::of(&read)), none);
        read.balancers
            .insert("lvs1".to_owned(), balancer("aaaa", &[], &[]));
        let one = "\
1 balancer

BALANCER  VERSION  UP SINCE              MODE  CONFIG  SESSIONS
lvs1      1.2.3    2026-01-02T03:04:05Z  real  aaaa    0/0

no balancer is behind of a pool, as of revision 7
";
        assert_eq!(text(&Facts::of(&read)), one);
    }

    /// With two of each nobody is right; other versions may be why.
    #[test]
    fn a_tie_of_configurations() {
        let mut read = Read::default();
        for (hostname, config, version) in [("a", "1", "1.0"), ("b", "2", "2.0")] {
            let balancer = Balancer {
                version: version.to_owned(),
                ..balancer(config, &[], &[])
            };
            read.balancers.insert(hostname.to_owned(), balancer);
        }
        let text = text(&Facts::of(&read));
        assert_eq!(text.matches("configuration differs").count(), 2, "{text}");
        assert!(text.contains("no configuration is more frequent than the others\n"));
        assert!(text.contains("versions differ too"));
    }

    #[test]
    fn forty_balancers_and_a_thousand_pools() {
        let pools: Vec<String> = (0..1000).map(|n| format!("dc/web/pool{n}")).collect();
        let mut read = Read::default();
        for n in 0..40 {
            let revision = if n == 7 { 4 } else { 5 };
            let pools: Vec<_> = pools.iter().map(|path| (path.as_str(), revision)).collect();
            read.applied.insert(format!("lvs{n}"), applied(&pools));
            let balancer = balancer("aaaa", &[("192.0.2.1", Ok(n))], &["established"]);
            read.balancers.insert(format!("lvs{n}"), balancer);
        }
        read.pools = pools
            .iter()
            .map(|path| (path.parse().unwrap(), vec![1, 4]))
            .collect();
        assert!(text(&Facts::of(&read)).contains("no balancer is behind"));
        read.pools
            .insert("dc/web/pool77".parse().unwrap(), vec![5, 5]);
        let text = text(&Facts::of(&read));
        assert_eq!(text.matches("primary").count(), 1, "{text}");
        let last: Vec<_> = text.lines().rev().take(2).collect();
        assert!(
            last[0].starts_with("dc/web/pool77  5       lvs7      4       2 servers"),
            "{text}"
        );
        assert!(last[1].starts_with("POOL"), "{text}");
    }
}
