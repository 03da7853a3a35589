//! Our own addresses: who has been told of each, and who else announces it, as the routers show it to us.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::api::accept::Form;
use crate::api::json::json;
use crate::routing::PeerId;
use crate::routing::session::{Foreign, Route};
use crate::snapshot::{Condition, Refusal, Snapshot};
use crate::table::Table;

use super::{Known, words};

pub(super) fn addresses(snapshot: &Snapshot, form: Form) -> String {
    let all = of(snapshot);
    match form {
        Form::Json => json(&all),
        Form::Text => text(&all),
    }
}

#[derive(Serialize)]
struct Address<'a> {
    /// What it is announced as.
    prefix: IpNet,
    condition: Condition,
    /// Why it is announced to nobody.
    refusal: Option<Refusal>,
    told: Vec<&'a PeerId>,
    /// As each peer announces it to us.
    heard: BTreeMap<&'a PeerId, &'a Foreign>,
}

fn of(snapshot: &Snapshot) -> BTreeMap<IpAddr, Address<'_>> {
    let vips = snapshot.vips.iter();
    let mut all: BTreeMap<IpAddr, Address<'_>> = vips
        .map(|(&ip, vip)| {
            let address = Address {
                prefix: vip.prefix_of(ip),
                condition: vip.condition,
                refusal: vip.announce.as_ref().err().copied(),
                told: Vec::new(),
                heard: BTreeMap::new(),
            };
            (ip, address)
        })
        .collect();
    for known in Known::all(snapshot) {
        let Some(session) = known.session else {
            continue;
        };
        for (prefix, route) in &session.routes {
            let route: &Arc<Route> = route;
            let address = all.get_mut(&route.address(prefix));
            // It has two prefixes while one takes the other's place.
            if let Some(address) = address.filter(|it| it.told.last() != Some(&known.id)) {
                address.told.push(known.id);
            }
        }
        for address in all.values_mut() {
            if let Some(foreign) = session.foreign.get(&address.prefix) {
                address.heard.insert(known.id, &**foreign);
            }
        }
    }
    all
}

fn text(all: &BTreeMap<IpAddr, Address<'_>>) -> String {
    let mut ours = Table::new(["ADDRESS", "PREFIX", "CONDITION", "TOLD TO", ""]);
    let mut others = Table::new([
        "ADDRESS",
        "HEARD FROM",
        "NEXT HOP",
        "AS PATH",
        "MED",
        "LOCAL-PREF",
        "COMMUNITIES",
        "",
    ]);
    let mut heard = false;
    for (ip, address) in all {
        let refusal = address.refusal.map(|why| format!("not announced: {why}"));
        ours.row([
            &ip.to_string(),
            &address.prefix.to_string(),
            condition(address.condition),
            &words::or_dash(Some(words::list(&address.told, ", ")).filter(|told| !told.is_empty())),
            &refusal.unwrap_or_default(),
        ]);
        for (peer, foreign) in &address.heard {
            heard = true;
            others.row([
                &ip.to_string(),
                &peer.to_string(),
                &words::or_dash(foreign.next_hop),
                &foreign.as_path,
                &words::or_dash(foreign.med),
                &words::or_dash(foreign.local_pref),
                &words::list(&foreign.communities, " "),
                if foreign.ours {
                    "our own, returned"
                } else {
                    ""
                },
            ]);
        }
    }
    let others = if heard {
        others.text()
    } else {
        "nobody else is heard to announce any of them\n".to_owned()
    };
    format!("{}\n{others}", ours.text())
}

fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Healthy => "healthy",
        Condition::Degraded => "degraded",
        Condition::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::snapshot::sample;

    use super::*;

    #[test]
    fn who_else_announces_them() {
        let mut snapshot = sample::snapshot([]);
        sample::sessions(&mut snapshot);
        assert_eq!(
            addresses(&snapshot, Form::Text),
            "\
ADDRESS      PREFIX           CONDITION  TOLD TO
192.0.2.1    192.0.2.1/32     healthy    10.0.0.1
192.0.2.2    192.0.2.2/32     failed     10.0.0.1
192.0.2.3    192.0.2.3/32     failed     -         not announced: a service has nothing pooled
2001:db8::7  2001:db8::7/128  healthy    -

ADDRESS    HEARD FROM  NEXT HOP   AS PATH      MED  LOCAL-PREF  COMMUNITIES
192.0.2.1  10.0.0.1    10.0.0.98  14907 64600  20   -           64600:7
192.0.2.2  10.0.0.1    10.0.0.99  64600        -    -                        our own, returned
"
        );
        let answer: Value = serde_json::from_str(&addresses(&snapshot, Form::Json)).unwrap();
        assert_eq!(
            answer["192.0.2.1"],
            json!({
                "prefix": "192.0.2.1/32", "condition": "healthy", "refusal": null, "told": ["10.0.0.1"],
                "heard": {"10.0.0.1": {
                    "ours": false, "next_hop": "10.0.0.98", "as_path": "14907 64600",
                    "med": 20, "local_pref": null, "communities": ["64600:7"],
                }},
            })
        );
        assert_eq!(answer["192.0.2.3"]["refusal"], "nothing-pooled");
        let quiet = addresses(&sample::snapshot([]), Form::Text);
        assert!(
            quiet.ends_with("nobody else is heard to announce any of them\n"),
            "{quiet}"
        );
    }
}
