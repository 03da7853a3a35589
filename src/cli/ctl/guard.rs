//! The depool guard, reckoned before a change is sent: would a balancer hold what this depools? Pure; the
//! balancers' own records say what they have pooled and what they compare it with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::object::Object;
use crate::conftool::{Node, PoolPath, Pooled};
use crate::fleet::record::{Pool, PoolService};

/// What the balancers have said, by hostname and pool.
pub(super) type Records = BTreeMap<(String, PoolPath), Pool>;

/// What a command does to one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blow {
    /// Depooled or deleted.
    pub(super) out: BTreeSet<String>,
    /// Left in the pool, with weight 0.
    pub(super) drained: BTreeSet<String>,
    /// Those that are in the pool now with weight 0.
    pub(super) without_weight: BTreeSet<String>,
    /// By how many the list grows.
    pub(super) listed: usize,
}

/// One pool that a command would take below its guard on one balancer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pool: PoolPath,
    service: String,
    balancer: String,
    /// Other services or balancers that would say the same of this pool.
    others: usize,
    /// Those that get new connections: whom this command takes away, and how many are left.
    gone: Vec<String>,
    left: usize,
    /// Those in the pool that get none.
    idle: usize,
    line: usize,
    /// (size, threshold); `None`: the guard is `last`.
    floor: Option<(usize, f64)>,
}

/// One refusal a pool: the one that lacks most. Empty if every balancer would let all of them go.
pub(super) fn refusals(blows: &BTreeMap<PoolPath, Blow>, records: &Records) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (pool, blow) in blows {
        let services =
            records
                .iter()
                .filter(|((_, of), _)| of == pool)
                .flat_map(|((balancer, _), record)| {
                    record.services.iter().map(move |named| (balancer, named))
                });
        let refused = services.filter_map(|(balancer, (service, record))| {
            let mut refusal = reckon(pool, blow, record)?;
            refusal.balancer.clone_from(balancer);
            refusal.service.clone_from(service);
            Some(refusal)
        });
        let refused: Vec<Refusal> = refused.collect();
        let others = refused.len().saturating_sub(1);
        let worst = refused.into_iter().max_by_key(|r| r.line - r.left);
        refusals.extend(worst.map(|worst| Refusal { others, ..worst }));
    }
    refusals
}

/// The pools that lose a server and of which nobody says what is in force.
pub(super) fn unreckoned<'a>(
    blows: &'a BTreeMap<PoolPath, Blow>,
    records: &'a Records,
) -> impl Iterator<Item = &'a PoolPath> {
    let nobody = |pool: &PoolPath| {
        let mut of_pool = records.iter().filter(|((_, of), _)| of == pool);
        of_pool.all(|(_, record)| record.services.is_empty())
    };
    blows
        .iter()
        .filter(|(_, blow)| blow.takes_away())
        .map(|(pool, _)| pool)
        .filter(move |pool| nobody(pool))
}

/// As the balancer does: only those count that get new connections, so that drained servers are none, and
/// may go as they like.
fn reckon(pool: &PoolPath, blow: &Blow, record: &PoolService) -> Option<Refusal> {
    let pooled: BTreeSet<&String> = record.pooled.iter().collect();
    // The guard holds a drained server with the weight that it had.
    let guarded = |host: &String| {
        let why = record.held.get(host).map(String::as_str);
        matches!(why, Some("depool-guard" | "stale-catch-up"))
    };
    let works = |host: &&String| !blow.without_weight.contains(*host) || guarded(host);
    let (working, idle): (Vec<&String>, Vec<&String>) = pooled.into_iter().partition(works);
    let goes = |host: &&String| blow.out.contains(*host) || blow.drained.contains(*host);
    let (gone, left): (Vec<&String>, Vec<&String>) = working.into_iter().partition(goes);
    let (left, idle) = (left.len(), idle.len());
    let size = record.size + blow.listed;
    let (line, floor) = match record.depool_guard.as_str() {
        "floor" => {
            let threshold = record.depool_threshold;
            (least(size, threshold), Some((size, threshold)))
        }
        "last" => (1, None),
        // `off`, or one that we do not know: the balancer itself will hold what it holds.
        _ => return None,
    };
    (!gone.is_empty() && left < line).then(|| Refusal {
        pool: pool.clone(),
        service: String::new(),
        balancer: String::new(),
        others: 0,
        gone: gone.into_iter().cloned().collect(),
        left,
        idle,
        line,
        floor,
    })
}

/// The least number among `size` that is not below the threshold, compared as the balancers do.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a pool has far fewer than 2^53 servers and no threshold is negative"
)]
fn least(size: usize, threshold: f64) -> usize {
    (size as f64 * threshold).ceil() as usize
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal {
            pool,
            service,
            balancer,
            others,
            gone,
            left,
            idle,
            line,
            floor,
        } = self;
        let pooled = gone.len() + left;
        write!(f, "{pool}: of {pooled} pooled servers ")?;
        if *idle > 0 {
            write!(f, "({idle} more have weight 0) ")?;
        }
        write!(f, "{left} would be left without {}; ", Names(gone))?;
        write!(f, "service {service} on {balancer} ")?;
        if *others > 0 {
            write!(f, "(and {others} more) ")?;
        }
        match floor {
            Some((size, threshold)) => write!(
                f,
                "keeps at least {line} ({size} listed × depool-threshold {threshold})"
            ),
            None => f.write_str("keeps the last one (depool-guard = \"last\")"),
        }
    }
}

/// A few names, and how many there are beside.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let shown = &self.0[..self.0.len().min(SHOWN)];
        f.write_str(&shown.join(", "))?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Blow {
    pub(super) fn takes_away(&self) -> bool {
        !self.out.is_empty() || !self.drained.is_empty()
    }

    /// Adds what becomes of one object; `after`: what counts then, `None` if it is deleted. `says_pooled`
    /// and `says_weight`: whether the command names that member.
    pub(super) fn add(
        &mut self,
        object: &Object,
        after: Option<&Node>,
        says_pooled: bool,
        says_weight: bool,
    ) {
        let before = object.in_force().ok().map(|in_force| in_force.node);
        let enabled = |node: &Node| node.pooled == Pooled::Yes;
        let weight = |node: &Node| node.weight.get() > 0;
        let listed = |node: Option<&Node>| node.is_some_and(|node| node.pooled != Pooled::Inactive);
        let was = |what: fn(&Node) -> bool| before.as_ref().is_some_and(what);
        let out = match after {
            None => true,
            Some(after) => !enabled(after) && (says_pooled || was(enabled)),
        };
        if out {
            self.out.insert(object.name.clone());
        } else if after.is_some_and(|after| !weight(after) && (says_weight || was(weight))) {
            self.drained.insert(object.name.clone());
        }
        if listed(after) && !listed(before.as_ref()) {
            self.listed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn record(guard: &str, threshold: f64, size: usize, pooled: &[&str]) -> PoolService {
        PoolService {
            depool_threshold: threshold,
            depool_guard: guard.into(),
            size,
            pooled: names(pooled).into_iter().collect(),
            held: BTreeMap::new(),
        }
    }

    fn told(records: &[(&str, PoolService)], blow: Blow) -> Vec<String> {
        let pool: PoolPath = "eqiad/bar/foo".parse().unwrap();
        let records = records.iter().map(|(balancer, service)| {
            let services = [("text".to_owned(), service.clone())].into();
            let record = Pool {
                revision: 1,
                services,
            };
            (((*balancer).to_owned(), pool.clone()), record)
        });
        let records = records.collect();
        let refusals = refusals(&[(pool, blow)].into(), &records);
        refusals.iter().map(ToString::to_string).collect()
    }

    fn out(hosts: &[&str]) -> Blow {
        Blow {
            out: names(hosts),
            ..Blow::default()
        }
    }

    #[test]
    fn the_floor_is_kept() {
        let all = ["a", "b", "c", "d"];
        let lb1 = || [("lb1", record("floor", 0.5, 4, &all))];
        assert_eq!(told(&lb1(), out(&["a", "b"])), [""; 0]);
        assert_eq!(
            told(&lb1(), out(&["a", "b", "c"])),
            [
                "eqiad/bar/foo: of 4 pooled servers 1 would be left without a, b, c; \
                 service text on lb1 keeps at least 2 (4 listed × depool-threshold 0.5)"
            ]
        );
        // Others that are not in the pool do not matter.
        assert_eq!(told(&lb1(), out(&["e", "f"])), [""; 0]);
        assert_eq!(
            told(&[("lb1", record("off", 0.5, 4, &all))], out(&all)),
            [""; 0]
        );
        assert_eq!(told(&[], out(&all)), [""; 0]);
        // A pool that is below it already and loses nobody.
        let low = [("lb1", record("floor", 0.5, 8, &["a"]))];
        assert_eq!(told(&low, out(&["b"])), [""; 0]);
        assert_eq!(told(&low, out(&["a"])).len(), 1);
    }

    #[test]
    fn last_keeps_one() {
        let lb1 = || [("lb1", record("last", 0.5, 4, &["a", "b"]))];
        assert_eq!(told(&lb1(), out(&["a"])), [""; 0]);
        assert_eq!(
            told(&lb1(), out(&["a", "b"])),
            [
                "eqiad/bar/foo: of 2 pooled servers 0 would be left without a, b; \
                 service text on lb1 keeps the last one (depool-guard = \"last\")"
            ]
        );
    }

    #[test]
    fn the_strictest_balancer_speaks_for_all() {
        let records = [
            ("lb1", record("floor", 0.5, 4, &["a", "b", "c"])),
            ("lb2", record("floor", 0.5, 4, &["a", "b"])),
            ("lb3", record("off", 0.5, 4, &["a"])),
        ];
        let told = told(&records, out(&["a", "b"]));
        assert_eq!(told.len(), 1);
        assert!(
            told[0].contains("text on lb2 (and 1 more) keeps"),
            "{told:?}"
        );
    }

    #[test]
    fn a_drained_server_is_no_server() {
        let lb1 = || [("lb1", record("floor", 0.5, 4, &["a", "b", "c", "d"]))];
        let drain = |drained: &[&str], without: &[&str], out: &[&str]| Blow {
            out: names(out),
            drained: names(drained),
            without_weight: names(without),
            listed: 0,
        };
        assert_eq!(told(&lb1(), drain(&["a", "b"], &[], &[])), [""; 0]);
        assert_eq!(told(&lb1(), drain(&["a", "b", "c"], &[], &[])).len(), 1);
        // One after another is no way round it.
        let third = told(&lb1(), drain(&["c"], &["a", "b"], &[]));
        assert!(third[0].contains("of 2 pooled servers (2 more have weight 0) 1 would be left"));
        assert_eq!(told(&lb1(), drain(&[], &["a", "b"], &["c"])).len(), 1);
        // Those that are drained may go.
        assert_eq!(told(&lb1(), drain(&[], &["a", "b"], &["a", "b"])), [""; 0]);
        assert_eq!(told(&lb1(), drain(&["a"], &["a", "b", "c"], &[])), [""; 0]);
        // One that is drained in etcd, and that the guard holds with the weight that it had.
        let mut held = lb1();
        held[0].1.held = [("a".into(), "depool-guard".into())].into();
        let blow = drain(&[], &["a", "b", "c"], &["a"]);
        assert!(told(&held, blow)[0].contains("of 2 pooled servers (2 more have weight 0)"));
    }

    #[test]
    fn new_servers_raise_the_line() {
        let lb1 = [("lb1", record("floor", 0.5, 4, &["a", "b", "c"]))];
        let blow = |listed| Blow {
            out: names(&["a"]),
            listed,
            ..Blow::default()
        };
        assert_eq!(told(&lb1, blow(0)), [""; 0]);
        assert_eq!(told(&lb1, blow(1)).len(), 1);
    }

    #[test]
    fn a_change_is_a_blow_if_it_takes_a_server_away() {
        let object = |value: &str| Object {
            pool: "eqiad/bar/foo".parse().unwrap(),
            name: "srv1".into(),
            node: Some(super::super::object::Stored {
                value: value.as_bytes().to_vec(),
                revision: 1,
            }),
            lease: None,
        };
        let node = |value: &str| Node::parse(value.as_bytes()).unwrap();
        let (yes, no, gone, idle) = (
            r#"{"weight": 1, "pooled": "yes"}"#,
            r#"{"weight": 1, "pooled": "no"}"#,
            r#"{"weight": 1, "pooled": "inactive"}"#,
            r#"{"weight": 0, "pooled": "yes"}"#,
        );
        let check = |before: &str, after: Option<&str>, says: (bool, bool), expected: &str| {
            let mut blow = Blow::default();
            blow.add(&object(before), after.map(node).as_ref(), says.0, says.1);
            let found = match (blow.out.len(), blow.drained.len(), blow.listed) {
                (0, 0, 0) => "nothing",
                (1, 0, 0) => "out",
                (0, 1, 0) => "drained",
                (0, 0, 1) => "listed",
                (1, 0, 1) => "out, listed",
                _ => "confused",
            };
            assert_eq!(found, expected, "{before} {after:?}");
        };
        check(yes, Some(no), (true, false), "out");
        check(yes, None, (false, false), "out");
        check("broken", None, (false, false), "out");
        check(yes, Some(idle), (false, true), "drained");
        check(idle, Some(idle), (false, true), "drained");
        check(idle, Some(yes), (false, true), "nothing");
        // Said again of one that the guard holds.
        check(no, Some(no), (true, false), "out");
        check(no, Some(no), (false, true), "nothing");
        check(gone, Some(yes), (true, false), "listed");
        check(gone, Some(no), (true, false), "out, listed");
        check("broken", Some(yes), (true, true), "listed");
    }
}
