//! The mirror's rules, told by what goes in and what comes out, and a plain map beside it for any sequence.

use proptest::prelude::*;

use super::super::news::MOST_KEYS;
use super::*;
use crate::conftool::{LARGEST, Lease, Node};
use crate::service::Host;

const HERE: Away = Away {
    age: Duration::from_secs(1),
    stale: false,
};
const LONG: Away = Away {
    age: Duration::from_secs(3600),
    stale: true,
};

fn mirror(pools: &[&str]) -> Mirror {
    let mut mirror = Mirror::default();
    let pools = pools.iter().map(|path| path.parse().unwrap()).collect();
    mirror.want("/pools", &pools);
    mirror
}

fn value(short: &str) -> Vec<u8> {
    let Some((weight, pooled)) = short.split_once(' ').filter(|_| !short.starts_with('{')) else {
        return short.as_bytes().to_vec();
    };
    format!(r#"{{"weight": {weight}, "pooled": "{pooled}"}}"#).into_bytes()
}

fn entries(all: &[(&str, &str, u64)]) -> BTreeMap<String, Entry> {
    let entry = |(key, short, modified): &(&str, &str, u64)| {
        ((*key).to_owned(), Entry::new(value(short), *modified))
    };
    all.iter().map(entry).collect()
}

fn all(revision: u64, pools: &[(&str, &str, u64)]) -> News {
    News::All {
        revision,
        pools: entries(pools),
        leases: BTreeMap::new(),
    }
}

fn changed(revision: u64, changes: &[(Tree, &str, &str)]) -> News {
    let change = |(tree, key, short): &(Tree, &str, &str)| Change {
        tree: *tree,
        key: (*key).to_owned(),
        entry: (*short != "gone").then(|| Entry::new(value(short), revision)),
    };
    News::Changed {
        revision,
        changes: changes.iter().map(change).collect(),
    }
}

/// `POOL REVISION[ catch-up| saved]: SERVERS[ | NOTES][ ! FAULTS]`, or `POOL failed: WHY`.
fn shown(told: &[(PoolPath, Told)]) -> Vec<String> {
    let show = |(path, told): &(PoolPath, Told)| match told {
        Told::Failed(why) => format!("{path} failed: {why}"),
        Told::List(list) => {
            let fresh = match list.freshness {
                Freshness::Current => "",
                Freshness::CatchUp => " catch-up",
                Freshness::Saved { .. } => " saved",
            };
            let revision = list.revision.unwrap();
            let mut text = format!("{path} {revision}{fresh}: {}", servers(list));
            for (host, note) in &list.notes {
                let (reason, until) = (note.reason.as_deref(), note.until.as_deref());
                let confirmed = if note.confirmed { "confirmed" } else { "" };
                let [reason, until] = [reason, until].map(Option::unwrap_or_default);
                text.push_str(&format!(" | {host} {reason} {until} {confirmed}"));
            }
            for (key, fault) in &list.faults {
                text.push_str(&format!(" ! {key}: {fault}"));
            }
            text
        }
    };
    told.iter().map(show).collect()
}

fn servers(list: &Listing) -> String {
    let server = |(host, listed): (&Host, &crate::service::Listed)| {
        let off = if listed.enabled { "" } else { "!" };
        format!("{off}{host}*{}", listed.weight)
    };
    let servers = list.servers.iter().map(server).collect::<Vec<_>>();
    servers.join(" ")
}

#[track_caller]
fn check(mirror: &mut Mirror, news: News, expected: &[&str]) {
    check_after(mirror, news, HERE, expected);
}

#[track_caller]
fn check_after(mirror: &mut Mirror, news: News, away: Away, expected: &[&str]) {
    let told = shown(&mirror.take(news, away));
    assert_eq!(told, expected);
}

use Tree::{Leases, Pools};

#[test]
fn a_first_read_and_what_changes_after_it() {
    let mut mirror = mirror(&["d/c/s", "d/c/t"]);
    let read = all(
        10,
        &[
            ("d/c/s/a", "1 yes", 3),
            ("d/c/s/b", "2 no", 4),
            ("d/c/s/c", "3 inactive", 5),
            ("d/c/t/a", "7 yes", 6),
            ("d/c/unwanted/a", "7 yes", 6),
        ],
    );
    check(&mut mirror, read, &["d/c/s 10: a*1 !b*2", "d/c/t 10: a*7"]);
    let change = changed(
        11,
        &[(Pools, "d/c/s/c", "3 yes"), (Pools, "d/c/s/a", "gone")],
    );
    check(&mut mirror, change, &["d/c/s 11: !b*2 c*3"]);
    // The same again: whoever waits for this revision sees it come.
    let again = changed(12, &[(Pools, "d/c/s/c", "3 yes")]);
    check(&mut mirror, again, &["d/c/s 12: !b*2 c*3"]);
    check(&mut mirror, News::Alive, &[]);
    let unwanted = changed(
        13,
        &[(Pools, "d/c/unwanted/a", "8 yes"), (Pools, "d/c", "x")],
    );
    check(&mut mirror, unwanted, &[]);
}

#[test]
fn a_transaction_is_told_at_once() {
    let mut mirror = mirror(&["d/c/s", "d/c/t"]);
    let read = all(1, &[("d/c/s/a", "1 yes", 1), ("d/c/t/a", "1 yes", 1)]);
    check(&mut mirror, read, &["d/c/s 1: a*1", "d/c/t 1: a*1"]);
    let change = changed(
        2,
        &[
            (Pools, "d/c/s/a", "1 no"),
            (Pools, "d/c/s/b", "1 yes"),
            (Pools, "d/c/t/a", "2 yes"),
        ],
    );
    check(&mut mirror, change, &["d/c/s 2: !a*1 b*1", "d/c/t 2: a*2"]);
}

#[test]
fn a_fresh_read_tells_only_what_was_written() {
    let mut mirror = mirror(&["d/c/s", "d/c/t"]);
    let read = |revision, modified| {
        let keys = [("d/c/s/a", "1 yes", 3), ("d/c/t/a", "1 yes", modified)];
        all(revision, &keys)
    };
    check(
        &mut mirror,
        read(10, 3),
        &["d/c/s 10: a*1", "d/c/t 10: a*1"],
    );
    check(&mut mirror, read(20, 3), &[]);
    check(&mut mirror, read(30, 25), &["d/c/t 30: a*1"]);
    // An older backup: its revisions are smaller, its values count all the same.
    let older = all(5, &[("d/c/s/a", "9 no", 2), ("d/c/t/a", "1 yes", 4)]);
    check(&mut mirror, older, &["d/c/s 5: !a*9", "d/c/t 5: a*1"]);
}

/// A restored cluster counts on from its backup, and comes to the same numbers with other writes.
#[test]
fn another_history_may_have_the_same_revisions() {
    let mut mirror = mirror(&["d/c/s", "d/c/t"]);
    let read = |value| all(20, &[("d/c/s/a", value, 12), ("d/c/t/a", "1 yes", 3)]);
    let both = ["d/c/s 20: a*1", "d/c/t 20: a*1"];
    check(&mut mirror, read("1 yes"), &both);
    check(&mut mirror, read("1 no"), &["d/c/s 20: !a*1"]);
}

/// Whoever waits for a write by its revision must not be told an older history's.
#[test]
fn a_revision_that_went_back_is_told_though_no_value_differs() {
    let mut mirror = mirror(&["d/c/s"]);
    let read = |revision| all(revision, &[("d/c/s/a", "1 yes", 3)]);
    check(&mut mirror, read(20), &["d/c/s 20: a*1"]);
    check(&mut mirror, read(10), &["d/c/s 10: a*1"]);
    check(&mut mirror, read(11), &[]);
    let stale = read(9);
    check_after(&mut mirror, stale, LONG, &["d/c/s 9: a*1"]);
}

#[test]
fn a_bad_value_keeps_the_last_good_one() {
    let mut mirror = mirror(&["d/c/s"]);
    let read = all(1, &[("d/c/s/a", "1 yes", 1), ("d/c/s/b", "x", 1)]);
    let fault = "/pools/d/c/s/b: not a JSON object: expected value at line 1 column 1; \
                 expected {\"weight\": 10, \"pooled\": \"yes|no|inactive\"}";
    check(&mut mirror, read, &[&format!("d/c/s 1: a*1 ! {fault}")]);
    let change = changed(
        2,
        &[(Pools, "d/c/s/a", "-1 yes"), (Pools, "d/c/s/b", "2 yes")],
    );
    let fault = "/pools/d/c/s/a: weight is -1; expected an integer from 0 to 2147483646";
    check(
        &mut mirror,
        change,
        &[&format!("d/c/s 2: a*1 b*2 ! {fault}")],
    );
    // A fresh read that finds it still bad has no better.
    let read = all(3, &[("d/c/s/a", "-1 yes", 2), ("d/c/s/b", "3 yes", 3)]);
    check(&mut mirror, read, &[&format!("d/c/s 3: a*1 b*3 ! {fault}")]);
    // What is deleted is forgotten.
    check(
        &mut mirror,
        changed(4, &[(Pools, "d/c/s/a", "gone")]),
        &["d/c/s 4: b*3"],
    );
    check(
        &mut mirror,
        changed(5, &[(Pools, "d/c/s/a", "-1 yes")]),
        &[&format!("d/c/s 5: b*3 ! {fault}")],
    );
}

#[test]
fn keys_that_name_no_server_are_faults() {
    let mut mirror = mirror(&["d/c/s"]);
    let read = all(
        1,
        &[
            ("d/c/s/a", "1 yes", 1),
            ("d/c/s/a/deep", "1 no", 1),
            ("d/c/s/", "1 yes", 1),
            ("d/c/s/ä b", "1 yes", 1),
        ],
    );
    let told = mirror.take(read, HERE);
    let [(_, Told::List(list))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(servers(list), "a*1");
    let faults: Vec<_> = list
        .faults
        .iter()
        .map(|(k, f)| format!("{k}: {f}"))
        .collect();
    let name = "a server's name must be 1 to 253 characters out of letters, digits";
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(
        faults[0].starts_with(&format!("/pools/d/c/s/: {name}")),
        "{faults:?}"
    );
    assert_eq!(
        faults[1],
        "/pools/d/c/s/a/deep: the key is one level too deep; a node's ends with its host"
    );
    assert!(
        faults[2].starts_with(&format!("/pools/d/c/s/ä b: {name}")),
        "{faults:?}"
    );
}

#[test]
fn a_value_too_long_is_not_kept() {
    let mut mirror = mirror(&["d/c/s"]);
    let long = "x".repeat(LARGEST + 7);
    let read = all(1, &[("d/c/s/a", "1 yes", 1), ("d/c/s/b", &long, 1)]);
    let News::All { pools, .. } = &read else {
        unreachable!()
    };
    assert!(pools["d/c/s/b"].value.is_err());
    let fault = "/pools/d/c/s/b: the value is 16391 bytes long; a node has less than 16384";
    check(&mut mirror, read, &[&format!("d/c/s 1: a*1 ! {fault}")]);
}

#[test]
fn an_empty_directory_keeps_the_last_list() {
    let mut mirror = mirror(&["d/c/s", "d/c/t"]);
    let t = ("d/c/t/a", "1 yes", 1);
    let empty = "d/c/s failed: /pools/d/c/s/ is empty or missing";
    check(&mut mirror, all(1, &[t]), &[empty, "d/c/t 1: a*1"]);
    check(&mut mirror, all(2, &[t]), &[]);
    let fills = changed(3, &[(Pools, "d/c/s/a", "1 yes")]);
    check(&mut mirror, fills, &["d/c/s 3: a*1"]);
    let path = "d/c/s".parse().unwrap();
    let good = mirror.good()[&path].clone();

    check(
        &mut mirror,
        changed(4, &[(Pools, "d/c/s/a", "gone")]),
        &[empty],
    );
    let inactive = changed(5, &[(Pools, "d/c/s/a", "1 inactive")]);
    let all_inactive = "d/c/s failed: /pools/d/c/s/: all servers are inactive (1)";
    check(&mut mirror, inactive, &[all_inactive]);
    let faulty = changed(6, &[(Pools, "d/c/s/a", "gone"), (Pools, "d/c/s/b", "{}")]);
    let told = shown(&mirror.take(faulty, HERE));
    let expected = "d/c/s failed: /pools/d/c/s/ has no usable server: 0 inactive, 1 at fault; \
                    /pools/d/c/s/b: weight is missing";
    assert!(told[0].starts_with(expected), "{told:?}");
    assert_eq!(
        mirror.good()[&path],
        good,
        "the last good list is remembered"
    );
    // The very list of before: the fault is gone, and that must be told.
    let mended = changed(
        7,
        &[(Pools, "d/c/s/b", "gone"), (Pools, "d/c/s/a", "1 yes")],
    );
    check(&mut mirror, mended, &["d/c/s 7: a*1"]);
}

#[test]
fn a_lease_counts_until_it_is_gone_or_the_node_is_written() {
    let mut mirror = mirror(&["d/c/s"]);
    let read = all(1, &[("d/c/s/a", "1 yes", 1), ("d/c/s/b", "1 yes", 1)]);
    check(&mut mirror, read, &["d/c/s 1: a*1 b*1"]);
    let lease = r#"{"weight": 1, "pooled": "no", "reason": "T1", "until": "2026-01-01"}"#;
    let leased = changed(2, &[(Leases, "d/c/s/a", lease)]);
    check(
        &mut mirror,
        leased,
        &["d/c/s 2: !a*1 b*1 | a T1 2026-01-01 "],
    );
    // A node's value that is none voids nothing.
    let bad = changed(3, &[(Pools, "d/c/s/a", "1 maybe")]);
    let fault = r#"/pools/d/c/s/a: pooled is "maybe"; expected "yes", "no" or "inactive""#;
    check(
        &mut mirror,
        bad,
        &[&format!("d/c/s 3: !a*1 b*1 | a T1 2026-01-01  ! {fault}")],
    );
    let over = changed(4, &[(Leases, "d/c/s/a", "gone")]);
    check(&mut mirror, over, &[&format!("d/c/s 4: a*1 b*1 ! {fault}")]);
    check(
        &mut mirror,
        changed(5, &[(Pools, "d/c/s/a", "2 yes")]),
        &["d/c/s 5: a*2 b*1"],
    );

    // A later write voids the lease, though it is still there.
    let leased = changed(6, &[(Leases, "d/c/s/a", lease)]);
    check(
        &mut mirror,
        leased,
        &["d/c/s 6: !a*1 b*1 | a T1 2026-01-01 "],
    );
    let written = changed(7, &[(Pools, "d/c/s/a", "3 yes")]);
    check(&mut mirror, written, &["d/c/s 7: a*3 b*1"]);
    let gone = changed(8, &[(Leases, "d/c/s/a", "gone")]);
    check(&mut mirror, gone, &["d/c/s 8: a*3 b*1"]);

    // A lease alone lists nobody; one that is none is a fault.
    let alone = changed(
        9,
        &[(Leases, "d/c/s/z", lease), (Leases, "d/c/s/b", "1 no")],
    );
    let fault = "/plimsoll/v1/leases/d/c/s/b: until is missing; \
                 expected {\"weight\": 10, \"pooled\": \"yes|no|inactive\"}";
    check(
        &mut mirror,
        alone,
        &[&format!("d/c/s 9: a*3 b*1 ! {fault}")],
    );
}

#[test]
fn operators_words_are_noted_even_of_servers_off_the_list() {
    let mut mirror = mirror(&["d/c/s"]);
    let b = r#"{"weight": 1, "pooled": "inactive", "reason": "T2"}"#;
    let c = r#"{"weight": 1, "pooled": "no", "confirmed": true}"#;
    let read = all(
        1,
        &[
            ("d/c/s/a", "1 yes", 1),
            ("d/c/s/b", b, 1),
            ("d/c/s/c", c, 1),
        ],
    );
    check(
        &mut mirror,
        read,
        &["d/c/s 1: a*1 !c*1 | b T2   | c   confirmed"],
    );
}

#[test]
fn what_changed_while_we_were_long_away_is_a_catch_up() {
    let mut mirror = mirror(&["d/c/s", "d/c/t", "d/c/u"]);
    let read = |revision, b| {
        let s = ("d/c/s/a", b, revision);
        all(revision, &[s, ("d/c/t/a", "1 yes", 1)])
    };
    // A first list has nothing to catch up with.
    let u = "d/c/u failed: /pools/d/c/u/ is empty or missing";
    let first = ["d/c/s 1: a*1", "d/c/t 1: a*1", u];
    check_after(&mut mirror, read(1, "1 yes"), LONG, &first);
    check_after(&mut mirror, read(2, "1 no"), HERE, &["d/c/s 2: !a*1"]);
    check_after(
        &mut mirror,
        read(3, "1 yes"),
        LONG,
        &["d/c/s 3 catch-up: a*1"],
    );
    // Written, but not changed.
    check_after(&mut mirror, read(4, "1 yes"), LONG, &["d/c/s 4: a*1"]);
    let change = changed(5, &[(Pools, "d/c/s/a", "1 no")]);
    check(&mut mirror, change, &["d/c/s 5: !a*1"]);
}

fn good(nodes: &[(&str, &str)]) -> Arc<Good> {
    let node =
        |(host, short): &(&str, &str)| (host.parse().unwrap(), Node::parse(&value(short)).unwrap());
    Arc::new(Good {
        revision: Some(1),
        nodes: nodes.iter().map(node).collect(),
        leases: BTreeMap::new(),
    })
}

#[test]
fn remembered_lists_are_told_once_and_confirmed() {
    let path: PoolPath = "d/c/s".parse().unwrap();
    let mut mirror = mirror(&["d/c/s", "d/c/t"]);
    mirror.remember(&path, good(&[("a", "1 yes"), ("b", "2 yes")]));
    assert_eq!(mirror.waiting().count(), 2);
    let age = Duration::from_secs(7);
    assert_eq!(shown(&mirror.remembered(age)), ["d/c/s 1 saved: a*1 b*2"]);
    assert!(mirror.remembered(age).is_empty());
    assert_eq!(mirror.waiting().count(), 1);
    // Nothing is different, but now it is etcd that says so.
    let keys = [
        ("d/c/s/a", "1 yes", 1),
        ("d/c/s/b", "2 yes", 1),
        ("d/c/t/a", "1 yes", 1),
    ];
    let told = ["d/c/s 9: a*1 b*2", "d/c/t 9: a*1"];
    check_after(&mut mirror, all(9, &keys), LONG, &told);
}

#[test]
fn a_catch_up_is_measured_by_what_was_remembered() {
    let path: PoolPath = "d/c/s".parse().unwrap();
    let begin = || {
        let mut mirror = mirror(&["d/c/s"]);
        mirror.remember(&path, good(&[("a", "1 yes"), ("b", "2 yes")]));
        mirror
    };
    let keys = [("d/c/s/a", "1 no", 5), ("d/c/s/b", "x", 6)];
    let fault = "/pools/d/c/s/b: not a JSON object: expected value at line 1 column 1; \
                 expected {\"weight\": 10, \"pooled\": \"yes|no|inactive\"}";
    // Its last good value is of an earlier process.
    let now = format!("d/c/s 9: !a*1 b*2 ! {fault}");
    check_after(&mut begin(), all(9, &keys), HERE, &[&now]);
    let now = format!("d/c/s 9 catch-up: !a*1 b*2 ! {fault}");
    let told = ["d/c/s 1 saved: a*1 b*2", &now];
    check_after(&mut begin(), all(9, &keys), LONG, &told);
}

#[test]
fn an_empty_directory_at_a_start_leaves_what_was_remembered() {
    let path: PoolPath = "d/c/s".parse().unwrap();
    let mut mirror = mirror(&["d/c/s"]);
    mirror.remember(&path, good(&[("a", "1 yes")]));
    let empty = "d/c/s failed: /pools/d/c/s/ is empty or missing";
    check(&mut mirror, all(9, &[]), &["d/c/s 1 saved: a*1", empty]);
    check(&mut mirror, all(9, &[]), &[]);
    assert_eq!(mirror.good()[&path], good(&[("a", "1 yes")]));
    let read = all(10, &[("d/c/s/a", "1 yes", 10)]);
    check(&mut mirror, read, &["d/c/s 10: a*1"]);
}

#[test]
fn a_remembered_lease_is_in_force_until_etcd_has_been_asked() {
    let path: PoolPath = "d/c/s".parse().unwrap();
    let mut mirror = mirror(&["d/c/s"]);
    let mut remembered = Good::clone(&good(&[("a", "1 yes")]));
    let lease = Lease {
        node: Node::parse(&value("1 no")).unwrap(),
        until: "2026".to_owned(),
    };
    remembered.leases.insert("a".parse().unwrap(), lease);
    mirror.remember(&path, Arc::new(remembered));
    let told = mirror.remembered(Duration::ZERO);
    assert_eq!(shown(&told), ["d/c/s 1 saved: !a*1 | a  2026 "]);
    let read = all(9, &[("d/c/s/a", "1 yes", 1)]);
    check(&mut mirror, read, &["d/c/s 9: a*1"]);
}

/// The node was written after the lease, and spoilt after that: a new start does not know the first of these.
#[test]
fn a_lease_that_was_void_stays_so_after_a_start() {
    let path: PoolPath = "d/c/s".parse().unwrap();
    for (remembered, leased, expected) in [(7, 6, "a*1"), (7, 8, "!a*1"), (90, 6, "!a*1")] {
        let mut mirror = mirror(&["d/c/s"]);
        let mut good = Good::clone(&good(&[("a", "1 yes")]));
        good.revision = Some(remembered);
        mirror.remember(&path, Arc::new(good));
        let lease = r#"{"weight": 1, "pooled": "no", "until": "2026"}"#;
        let read = News::All {
            revision: 9,
            pools: entries(&[("d/c/s/a", r#"{"weight": "x", "pooled": "yes"}"#, 9)]),
            leases: entries(&[("d/c/s/a", lease, leased)]),
        };
        let told = shown(&mirror.take(read, HERE));
        let told = told.last().unwrap();
        assert!(told.starts_with(&format!("d/c/s 9: {expected} ")), "{told}");
        assert!(told.contains("weight is \"x\""), "{told}");
    }
}

#[test]
fn a_pool_with_too_many_keys_is_refused_until_a_fresh_read() {
    let mut mirror = mirror(&["d/c/s"]);
    let keys: Vec<String> = (0..=MOST_KEYS).map(|n| format!("d/c/s/h{n:05}")).collect();
    let read = |revision, n: usize| {
        let entry = |key: &String| (key.clone(), Entry::new(value("1 yes"), 1));
        News::All {
            revision,
            pools: keys[..n].iter().map(entry).collect(),
            leases: BTreeMap::new(),
        }
    };
    let told = mirror.take(read(1, MOST_KEYS), HERE);
    let [(_, Told::List(list))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(list.servers.len(), MOST_KEYS);
    let refused = "d/c/s failed: /pools/d/c/s/ has more than 4096 keys";
    let change = changed(2, &[(Pools, &keys[MOST_KEYS], "1 yes")]);
    check(&mut mirror, change, &[refused]);
    assert!(mirror.lost_track());
    // Whatever comes now, we no longer know the rest.
    check(&mut mirror, changed(3, &[(Pools, &keys[0], "gone")]), &[]);
    check(&mut mirror, read(4, MOST_KEYS + 1), &[]);
    assert!(mirror.lost_track());
    let told = mirror.take(read(5, 2), HERE);
    assert_eq!(shown(&told), ["d/c/s 5: h00000*1 h00001*1"]);
    assert!(!mirror.lost_track());
}

#[test]
fn many_faults_are_not_all_told() {
    let mut mirror = mirror(&["d/c/s"]);
    let keys: Vec<String> = (0..300).map(|n| format!("d/c/s/h{n:03}")).collect();
    let mut keys: Vec<_> = keys.iter().map(|key| (key.as_str(), "x", 1)).collect();
    let long = format!("d/c/s/zz/{}", "ü".repeat(100_000));
    keys.push(("d/c/s/a", "1 yes", 1));
    keys.push((&long, "x", 1));
    let told = mirror.take(all(1, &keys), HERE);
    let [(_, Told::List(list))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(list.faults.len(), 101);
    assert_eq!(list.faults["/pools/d/c/s/"], "and 201 more");
    let told = changed(2, &[(Pools, "d/c/s/a", "gone")]);
    let told = shown(&mirror.take(told, HERE));
    assert!(told[0].len() < 2000, "{}", told[0].len());
}

#[test]
fn pools_that_stay_wanted_are_not_disturbed() {
    let mut mirror = mirror(&["d/c/s"]);
    let s = ("d/c/s/a", "1 yes", 1);
    check(&mut mirror, all(1, &[s]), &["d/c/s 1: a*1"]);
    let both = ["d/c/s", "d/c/t"].map(|path| path.parse().unwrap());
    mirror.want("/pools", &both.into());
    let read = all(2, &[s, ("d/c/t/a", "1 yes", 1)]);
    check(&mut mirror, read, &["d/c/t 2: a*1"]);
    mirror.want("/pools", &["d/c/t".parse().unwrap()].into());
    check(&mut mirror, changed(3, &[(Pools, "d/c/s/a", "2 yes")]), &[]);
    assert!(mirror.told(&"d/c/s".parse().unwrap()).is_none());
}

/// Whatever comes: the lists are those that a plain map of the keys would give, each pool is told when it was
/// written and else not, no list is empty, and one that stays is never a fault.
mod any_sequence {
    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(Vec<(Tree, usize, usize, usize)>),
        Delete(Vec<(Tree, usize, usize)>),
        Reread { stale: bool },
    }

    const PATHS: [&str; 2] = ["d/c/s", "d/c/t"];
    const HOSTS: [&str; 4] = ["a", "b", "c", "a/b"];
    const VALUES: [&str; 6] = [
        r#"{"weight": 1, "pooled": "yes"}"#,
        r#"{"weight": 2, "pooled": "no"}"#,
        r#"{"weight": 3, "pooled": "inactive"}"#,
        r#"{"weight": 4, "pooled": "no", "until": "then", "reason": "T"}"#,
        r#"{"weight": 5}"#,
        "garbage",
    ];

    fn step() -> impl Strategy<Value = Step> {
        let tree = prop_oneof![3 => Just(Pools), 1 => Just(Leases)];
        let key = (tree, 0..PATHS.len(), 0..HOSTS.len());
        let put = (key.clone(), 0..VALUES.len()).prop_map(|((t, p, h), v)| (t, p, h, v));
        prop_oneof![
            4 => prop::collection::vec(put, 1..4).prop_map(Step::Put),
            3 => prop::collection::vec(key, 1..4).prop_map(Step::Delete),
            1 => any::<bool>().prop_map(|stale| Step::Reread { stale }),
        ]
    }

    type Keys = BTreeMap<(Tree, String), (String, u64)>;

    /// etcd, and the last good value of each of its keys that was seen.
    #[derive(Default)]
    struct Plain {
        revision: u64,
        keys: Keys,
        good: Keys,
    }

    impl Plain {
        fn seen(&mut self) {
            self.good.retain(|key, _| self.keys.contains_key(key));
            for ((tree, key), (value, revision)) in &self.keys {
                let good = match tree {
                    Pools => Node::parse(value.as_bytes()).is_ok(),
                    Leases => Lease::parse(value.as_bytes()).is_ok(),
                };
                if good && !key.ends_with("a/b") {
                    let entry = (value.clone(), *revision);
                    self.good.insert((*tree, key.clone()), entry);
                }
            }
        }

        fn servers(&self, path: &str) -> String {
            let mut servers = Vec::new();
            for host in HOSTS {
                let key = format!("{path}/{host}");
                let Some((node, written)) = self.good.get(&(Pools, key.clone())) else {
                    continue;
                };
                let lease = self
                    .good
                    .get(&(Leases, key))
                    .filter(|lease| lease.1 > *written);
                let value = lease.map_or(node, |(lease, _)| lease);
                match Node::parse(value.as_bytes()).unwrap() {
                    node if node.pooled.name() == "yes" => {
                        servers.push(format!("{host}*{}", node.weight))
                    }
                    node if node.pooled.name() == "no" => {
                        servers.push(format!("!{host}*{}", node.weight))
                    }
                    _ => {}
                }
            }
            servers.join(" ")
        }

        fn all(&self) -> News {
            let tree = |wanted: Tree| {
                let keys = self.keys.iter().filter(|((tree, _), _)| *tree == wanted);
                let entry =
                    |(value, modified): &(String, u64)| Entry::new(value.as_bytes(), *modified);
                keys.map(|((_, key), value)| (key.clone(), entry(value)))
                    .collect()
            };
            News::All {
                revision: self.revision,
                pools: tree(Pools),
                leases: tree(Leases),
            }
        }

        /// Takes a step and gives what a connection brings of it, and which pools it touches.
        fn step(&mut self, step: &Step) -> (News, BTreeSet<String>) {
            self.revision += 1;
            let mut changes = BTreeMap::new();
            match step {
                Step::Reread { .. } => return (self.all(), BTreeSet::new()),
                Step::Put(puts) => {
                    for (tree, path, host, value) in puts {
                        let key = format!("{}/{}", PATHS[*path], HOSTS[*host]);
                        let written = (VALUES[*value].to_owned(), self.revision);
                        self.keys.insert((*tree, key.clone()), written);
                        let entry = Entry::new(VALUES[*value].as_bytes(), self.revision);
                        changes.insert((*tree, key), Some(entry));
                    }
                }
                Step::Delete(deletes) => {
                    for (tree, path, host) in deletes {
                        let key = format!("{}/{}", PATHS[*path], HOSTS[*host]);
                        // etcd tells of no deletion of what was not there.
                        if self.keys.remove(&(*tree, key.clone())).is_some() {
                            changes.insert((*tree, key), None);
                        }
                    }
                }
            }
            let pool = |(_, key): &(Tree, String)| key[..5].to_owned();
            let touched = changes.keys().map(pool).collect();
            let change = |((tree, key), entry)| Change { tree, key, entry };
            let changes = changes.into_iter().map(change).collect();
            let revision = self.revision;
            (News::Changed { revision, changes }, touched)
        }
    }

    proptest! {
        #[test]
        fn gives_what_a_map_gives(steps in prop::collection::vec((step(), any::<bool>()), 1..40)) {
            let mut mirror = mirror(&PATHS);
            let mut plain = Plain::default();
            let mut lists: BTreeMap<String, String> = BTreeMap::new();
            let mut missed = BTreeSet::new();
            mirror.take(plain.all(), HERE);
            for (step, heard) in steps {
                let (mut news, touched) = plain.step(&step);
                let mut away = HERE;
                if let Step::Reread { stale } = step {
                    away.stale = stale;
                } else if !heard {
                    // The connection is lost, and the next one begins with a read.
                    missed.extend(touched);
                    continue;
                } else if !missed.is_empty() {
                    news = plain.all();
                    missed.extend(touched);
                } else {
                    missed = touched;
                }
                plain.seen();
                for (path, told) in mirror.take(news, away) {
                    let path = path.to_string();
                    prop_assert!(missed.contains(&path), "{path} was not written");
                    match told {
                        Told::Failed(_) => prop_assert_eq!(plain.servers(&path), ""),
                        Told::List(list) => {
                            prop_assert!(!list.servers.is_empty());
                            prop_assert_eq!(list.revision, Some(plain.revision));
                            lists.insert(path, servers(&list));
                        }
                    }
                }
                missed.clear();
                for path in PATHS {
                    let expected = plain.servers(path);
                    if !expected.is_empty() {
                        prop_assert_eq!(lists.get(path), Some(&expected));
                        let told = mirror.told(&path.parse().unwrap());
                        prop_assert!(matches!(told, Some(Told::List(_))), "{:?}", told);
                    }
                }
            }
        }
    }
}
