//! Which servers take connections that come to nothing: they refuse them or lack the VIP, and no check tells.
//! Pure: what the table held at each look → whose verdict changed.
//!
//! With masquerading the kernel sees the answers: it is stuck whose answers are nothing but bare TCP headers.
//! Else only the clients' packets pass. Then a connection that a server takes up is afterwards either open, thus
//! active, or ended by its client, thus inactive for minutes. One that it does not take up is active too, from the
//! client's first packet on, and 60 s after the last one it is gone, never having been inactive. (So it is with Linux
//! 6.1. Old runbooks show few active connections of a stuck server and many inactive ones: kernels of their time
//! counted otherwise.)
//! So it is stuck who has, over one to two minutes,
//! - hardly any inactive connections against its peers', by weight,
//! - a few packets a connection: the first one, sent again,
//! - and fewer connections than it was given.
//!
//! How many connections are open, and for how long, says nothing. Nobody is stuck while no peer is seen to serve:
//! what befalls all of them is not a server's fault. Only TCP may be judged so.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::table::{Backend, Destination, Held, MASQUERADING};
use crate::snapshot::traffic::{Counts, ServerTraffic};

/// No verdict by fewer new connections.
const LEAST: u64 = 10;
/// No verdict in a shorter time: what is not taken up is active for so long.
const SHORTEST: Duration = Duration::from_secs(60);
/// Nor in a longer one: what was taken up and ended is inactive for so long.
const LONGEST: Duration = Duration::from_secs(120);
/// A verdict that fewer than [`LEAST`] new connections bear out is taken back after so long.
const UNPROVED: Duration = Duration::from_secs(600);
/// A peer that was seen to serve so recently does.
const RECENTLY: Duration = Duration::from_secs(30);
/// Looks in a row that show life before a verdict is taken back.
const LOOKS_TO_TAKE_BACK: u32 = 5;
/// As often may a client send its first packet: Linux does 7 times.
const PACKETS_PER_CONNECTION: u64 = 8;

/// What is known of one service's servers.
#[derive(Debug, Default)]
pub(super) struct Watch {
    servers: BTreeMap<Backend, Suspect>,
}

/// `Some`: it is stuck, and by which figures. `None`: it no longer is, or is not there any more.
pub(super) type Verdict = (Backend, Option<String>);

/// A server that gets connections.
#[derive(Debug)]
struct Suspect {
    weight: u32,
    /// Since when nothing has shown that it serves, and what was counted then.
    since: Instant,
    from: ServerTraffic,
    served_at: Option<Instant>,
    stuck: bool,
    /// While it is stuck: looks in a row that show life.
    lively: u32,
}

impl Suspect {
    fn new(weight: u32, now: Instant, traffic: &ServerTraffic) -> Suspect {
        Suspect {
            weight,
            since: now,
            from: *traffic,
            served_at: None,
            stuck: false,
            lively: 0,
        }
    }

    fn begin_anew(&mut self, now: Instant, traffic: &ServerTraffic) {
        (self.since, self.from) = (now, *traffic);
    }
}

impl Watch {
    pub(super) fn look(&mut self, now: Instant, held: &Held) -> Vec<Verdict> {
        let mut verdicts = self.drop_those_gone(held);
        let servers = serving(held);
        for &(backend, to, traffic) in &servers {
            let suspect = self.servers.entry(backend);
            let suspect = suspect.or_insert_with(|| Suspect::new(to.weight, now, traffic));
            // Its share changes, or somebody has set its counters back.
            if suspect.weight != to.weight || since(&suspect.from.counts, &traffic.counts).is_none()
            {
                suspect.weight = to.weight;
                suspect.begin_anew(now, traffic);
            }
        }
        let shares = Shares::of(&servers);
        let mut signs = Vec::new();
        for &(backend, to, traffic) in &servers {
            let Some(suspect) = self.servers.get_mut(&backend) else {
                continue;
            };
            let sign = Sign::of(suspect, backend, to, traffic, &shares);
            if sign == Sign::Serves {
                suspect.served_at = Some(now);
            }
            signs.push((backend, traffic, sign));
        }
        let serves = |suspect: &Suspect| suspect.served_at.is_some_and(|at| now - at <= RECENTLY);
        let serving = self.servers.values().filter(|s| serves(s)).count();
        for (backend, traffic, sign) in signs {
            if let Some(suspect) = self.servers.get_mut(&backend)
                && let peers = serving - usize::from(serves(suspect))
                && let Some(verdict) = suspect.judge(now, traffic, sign, peers > 0)
            {
                verdicts.push((backend, verdict));
            }
        }
        verdicts
    }

    /// Those that get no connections any more are forgotten.
    fn drop_those_gone(&mut self, held: &Held) -> Vec<Verdict> {
        let there = |backend: &Backend| {
            let to = held.destinations.get(backend);
            to.is_some_and(|to| to.weight > 0)
        };
        let gone = self.servers.iter().filter(|(backend, _)| !there(backend));
        let verdicts = gone
            .filter(|(_, suspect)| suspect.stuck)
            .map(|(backend, _)| (*backend, None))
            .collect();
        self.servers.retain(|backend, _| there(backend));
        verdicts
    }
}

/// What the figures of one server say at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Serves,
    /// Nothing is known: too few connections, or a time too short.
    Unknown,
    /// All of these new connections, with so many packets, came to nothing.
    ComesToNothing {
        connections: u64,
        packets: u64,
    },
}

impl Sign {
    fn of(
        suspect: &Suspect,
        backend: Backend,
        to: &Destination,
        traffic: &ServerTraffic,
        shares: &Shares,
    ) -> Sign {
        let Some(new) = since(&suspect.from.counts, &traffic.counts) else {
            return Sign::Unknown;
        };
        let nothing = Sign::ComesToNothing {
            connections: new.connections,
            packets: new.packets_in,
        };
        if to.forward == MASQUERADING {
            return match new.bytes_out > bare(backend) * new.packets_out {
                true => Sign::Serves,
                false if new.connections >= LEAST => nothing,
                false => Sign::Unknown,
            };
        }
        // Clients of connections that are older may still try, too.
        let older = u64::from(suspect.from.active);
        let most = |connections| PACKETS_PER_CONNECTION * connections;
        let left = u64::from(traffic.active) + u64::from(traffic.inactive);
        let inactive = share(to, traffic);
        if new.packets_in > most(new.connections + older)
            || inactive > shares.median_without(inactive) / 20.0
        {
            Sign::Serves
        } else if new.connections >= LEAST
            && new.packets_in <= most(new.connections)
            && left * 4 <= new.connections * 3
        {
            nothing
        } else {
            Sign::Unknown
        }
    }
}

impl Suspect {
    /// `Some`: its verdict changed.
    fn judge(
        &mut self,
        now: Instant,
        traffic: &ServerTraffic,
        sign: Sign,
        peers_serve: bool,
    ) -> Option<Option<String>> {
        let time = now - self.since;
        match (self.stuck, sign) {
            (false, Sign::Serves) => self.begin_anew(now, traffic),
            (false, _) if !peers_serve || time > LONGEST => self.begin_anew(now, traffic),
            (
                false,
                Sign::ComesToNothing {
                    connections,
                    packets,
                },
            ) if time >= SHORTEST => {
                self.begin_anew(now, traffic);
                (self.stuck, self.lively) = (true, 0);
                return Some(Some(words(connections, packets, time)));
            }
            (false, Sign::ComesToNothing { .. } | Sign::Unknown) => {}
            (true, Sign::Serves) => {
                self.lively += 1;
                if self.lively == LOOKS_TO_TAKE_BACK {
                    return self.take_back(now, traffic);
                }
            }
            (true, Sign::ComesToNothing { .. }) => {
                self.lively = 0;
                if time >= SHORTEST {
                    self.begin_anew(now, traffic);
                }
            }
            (true, Sign::Unknown) => {
                self.lively = 0;
                if time > UNPROVED {
                    return self.take_back(now, traffic);
                }
            }
        }
        None
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is a change of the verdict")]
    fn take_back(&mut self, now: Instant, traffic: &ServerTraffic) -> Option<Option<String>> {
        self.begin_anew(now, traffic);
        self.stuck = false;
        Some(None)
    }
}

/// `46 connections in 1m 22s, 1.0 packets each`
#[expect(clippy::cast_precision_loss, reason = "it is for people to read")]
fn words(connections: u64, packets: u64, time: Duration) -> String {
    let each = packets as f64 / connections as f64;
    let time = humantime::format_duration(Duration::from_secs(time.as_secs()));
    format!("{connections} connections in {time}, {each:.1} packets each")
}

/// Those that get connections.
fn serving(held: &Held) -> Vec<(Backend, &Destination, &ServerTraffic)> {
    let weighted = held.destinations.iter().filter(|(_, to)| to.weight > 0);
    weighted
        .filter_map(|(backend, to)| Some((*backend, to, held.traffic.servers.get(backend)?)))
        .collect()
}

/// Inactive connections by a unit of weight, which is not 0.
fn share(to: &Destination, traffic: &ServerTraffic) -> f64 {
    f64::from(traffic.inactive) / f64::from(to.weight)
}

/// Those of all servers, sorted.
struct Shares(Vec<f64>);

impl Shares {
    fn of(servers: &[(Backend, &Destination, &ServerTraffic)]) -> Shares {
        let shares = servers.iter().map(|(_, to, traffic)| share(to, traffic));
        let mut shares: Vec<f64> = shares.collect();
        shares.sort_by(f64::total_cmp);
        Shares(shares)
    }

    /// The median of the others. `own`: one of them.
    fn median_without(&self, own: f64) -> f64 {
        let at = self.0.partition_point(|share| *share < own);
        let middle = self.0.len().saturating_sub(1) / 2;
        let middle = if middle < at { middle } else { middle + 1 };
        self.0.get(middle).copied().unwrap_or(0.0)
    }
}

/// The bytes of a packet that has an IP and a TCP header without options, as a reset has. A connection that is taken
/// up begins with a larger one.
fn bare(backend: Backend) -> u64 {
    match backend {
        Backend::V4(_) => 40,
        Backend::V6(_) => 60,
    }
}

/// `None`: they were set back.
fn since(from: &Counts, to: &Counts) -> Option<Counts> {
    Some(Counts {
        connections: to.connections.checked_sub(from.connections)?,
        packets_in: to.packets_in.checked_sub(from.packets_in)?,
        packets_out: to.packets_out.checked_sub(from.packets_out)?,
        bytes_out: to.bytes_out.checked_sub(from.bytes_out)?,
        ..Counts::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::table::Settings;
    use super::*;
    use crate::service::{Family, Scheduler};
    use crate::snapshot::traffic::Reading;

    /// How a server treats its clients.
    #[derive(Clone, Copy, Debug)]
    enum Manner {
        /// So many packets of the client, all at once; after so many seconds the client ends it.
        Serves { packets: u64, seconds: u64 },
        /// The client is told at once, and says no more.
        Refuses,
        /// The client tries until it has so many times.
        Silent { tries: u32 },
    }

    #[derive(Clone, Debug)]
    struct Server {
        weight: u32,
        manner: Manner,
        masqueraded: bool,
        traffic: ServerTraffic,
        /// When each that is active ends, and whether it is inactive for 2 minutes then.
        active: Vec<(u64, bool)>,
        /// Until when each is inactive.
        inactive: Vec<u64>,
        /// When clients try again.
        tries: Vec<u64>,
    }

    fn server(weight: u32, manner: Manner) -> Server {
        Server {
            weight,
            manner,
            masqueraded: false,
            traffic: ServerTraffic::default(),
            active: Vec::new(),
            inactive: Vec::new(),
            tries: Vec::new(),
        }
    }

    const SECOND: Manner = Manner::Serves {
        packets: 6,
        seconds: 1,
    };

    impl Server {
        fn take(&mut self, now: u64) {
            let counts = &mut self.traffic.counts;
            counts.connections += 1;
            counts.packets_in += 1;
            match self.manner {
                Manner::Serves { packets, seconds } => {
                    counts.packets_in += packets - 1;
                    counts.packets_out += packets;
                    counts.bytes_out += 60 * packets;
                    self.active.push((now + seconds, true));
                }
                // As of today the kernel sees a reset, if it sees it, as an end.
                Manner::Refuses if self.masqueraded => {
                    counts.packets_out += 1;
                    counts.bytes_out += 40;
                    self.inactive.push(now + 10);
                }
                Manner::Refuses => self.active.push((now + 60, false)),
                Manner::Silent { tries } => {
                    let again = (1..tries).map(|n| now + 2u64.pow(n) - 1);
                    let last = again.clone().next_back().unwrap_or(now);
                    self.tries.extend(again);
                    self.active.push((last + 60, false));
                }
            }
        }

        fn pass(&mut self, now: u64) {
            let tried = self.tries.iter().filter(|at| **at <= now).count();
            self.traffic.counts.packets_in += tried as u64;
            self.tries.retain(|at| *at > now);
            let ended = self.active.iter().filter(|(at, fin)| *at <= now && *fin);
            self.inactive.extend(ended.map(|(at, _)| at + 120));
            self.active.retain(|(at, _)| *at > now);
            self.inactive.retain(|at| *at > now);
            self.traffic.active = self.active.len().try_into().unwrap();
            self.traffic.inactive = self.inactive.len().try_into().unwrap();
        }

        /// What the kernel's `wlc` compares.
        fn overhead(&self) -> usize {
            let busy = self.active.len() * 256 + self.inactive.len();
            busy * 1_000_000 / self.weight as usize
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum By {
        LeastConnections,
        Turns,
    }

    /// A pool whose figures are as the kernel's would be.
    struct Pool {
        servers: Vec<Server>,
        by: By,
        turn: usize,
        now: u64,
        start: Instant,
        watch: Watch,
        stuck: BTreeSet<usize>,
        words: Vec<String>,
    }

    fn pool(by: By, servers: &[Server]) -> Pool {
        Pool {
            servers: servers.to_vec(),
            by,
            turn: 0,
            now: 0,
            start: Instant::now(),
            watch: Watch::default(),
            stuck: BTreeSet::new(),
            words: Vec::new(),
        }
    }

    fn backend(n: usize) -> Backend {
        SocketAddr::from(([10, 0, 0, 1], 1000 + u16::try_from(n).unwrap()))
    }

    impl Pool {
        fn give(&mut self) {
            let weighted = (0..self.servers.len()).filter(|n| self.servers[*n].weight > 0);
            let to = match self.by {
                By::LeastConnections => weighted.min_by_key(|n| self.servers[*n].overhead()),
                By::Turns => {
                    let weights = self.servers.iter().map(|s| s.weight as usize);
                    let turns = weights.enumerate().flat_map(|(n, w)| vec![n; w]);
                    let turns: Vec<usize> = turns.collect();
                    self.turn += 1;
                    // A prime, so that all of them have their turns.
                    Some(turns[self.turn * 7919 % turns.len()])
                }
            };
            let now = self.now;
            if let Some(to) = to {
                self.servers[to].take(now);
            }
        }

        /// Two seconds with so many new connections, and a look.
        fn look(&mut self, connections: u32) {
            for second in 0..2 {
                for n in 0..connections {
                    if n % 2 == second {
                        self.give();
                    }
                }
                self.now += 1;
                let now = self.now;
                self.servers.iter_mut().for_each(|server| server.pass(now));
            }
            let mut held = Held {
                settings: Settings::new(Family::Ipv4, &Scheduler::Wlc.into()),
                destinations: BTreeMap::new(),
                traffic: Arc::default(),
            };
            let mut reading = Reading::default();
            for (n, server) in self.servers.iter().enumerate() {
                let mut to = Destination::direct(server.weight);
                if server.masqueraded {
                    to.forward = MASQUERADING;
                }
                held.destinations.insert(backend(n), to);
                reading.servers.insert(backend(n), server.traffic);
            }
            held.traffic = Arc::new(reading);
            let now = self.start + Duration::from_secs(self.now);
            for (backend, why) in self.watch.look(now, &held) {
                let n = usize::from(backend.port() - 1000);
                let news = match why {
                    Some(why) => {
                        self.words.push(why);
                        self.stuck.insert(n)
                    }
                    None => self.stuck.remove(&n),
                };
                assert!(news, "{n} is said to be what it was");
            }
        }

        /// The seconds until these are stuck and no others; `None`: not in ten minutes.
        fn until(&mut self, connections: u32, stuck: &[usize]) -> Option<u64> {
            let began = self.now;
            for _ in 0..300 {
                self.look(connections);
                if self.stuck.iter().eq(stuck) {
                    return Some(self.now - began);
                }
            }
            None
        }

        fn stays(&mut self, connections: u32, stuck: &[usize]) {
            for _ in 0..300 {
                self.look(connections);
                let expected = self.stuck.iter().eq(stuck);
                assert!(
                    expected,
                    "{:?} at {}: {:?}",
                    self.stuck, self.now, self.words
                );
            }
        }
    }

    /// Both kinds of stuck servers, by both kinds of schedulers, are found and let go, however long connections last.
    #[test]
    fn who_takes_nothing_up_is_found() {
        for by in [By::LeastConnections, By::Turns] {
            for seconds in [5, 100] {
                for manner in [Manner::Refuses, Manner::Silent { tries: 5 }] {
                    let serves = Manner::Serves {
                        packets: 6,
                        seconds,
                    };
                    let good = server(10, serves);
                    let mut pool = pool(by, &[good.clone(), good.clone(), server(10, manner)]);
                    let found = pool.until(40, &[2]);
                    assert!(
                        found.is_some_and(|time| (60..=240).contains(&time)),
                        "{found:?} {manner:?} {by:?} {seconds}"
                    );
                    pool.stays(40, &[2]);
                    pool.servers[2].manner = serves;
                    let mended = pool.until(40, &[]);
                    // Its connections must have ended to be seen to.
                    assert!(
                        mended.is_some_and(|time| time <= seconds + 80),
                        "{mended:?} {manner:?} {by:?} {seconds}"
                    );
                    pool.stays(40, &[]);
                }
            }
        }
    }

    #[test]
    fn who_stops_taking_up_is_found_when_what_it_served_is_forgotten() {
        let mut pool = pool(By::LeastConnections, &vec![server(10, SECOND); 2]);
        pool.stays(40, &[]);
        pool.servers[1].manner = Manner::Refuses;
        // Under wlc it is left alone: it gets its ten connections in two minutes, and few more.
        let found = pool.until(400, &[1]);
        assert!(found.is_some_and(|time| time <= 300), "{found:?}");
        let words = pool.words.last().unwrap();
        assert!(words.ends_with(", 1.0 packets each"), "{words}");
    }

    #[test]
    fn no_verdict_without_traffic_or_a_peer_that_serves() {
        let good = server(10, SECOND);
        let bad = server(10, Manner::Refuses);
        pool(By::Turns, &[good.clone(), bad.clone()]).stays(0, &[]);
        let mut rare = pool(By::Turns, &[good, bad.clone()]);
        for _ in 0..50 {
            // At most eight in two minutes for one of them.
            (0..64).for_each(|n| rare.look(u32::from(n % 8 == 0)));
        }
        assert_eq!(rare.stuck, BTreeSet::new());
        // A flood, or a line that is cut.
        pool(By::Turns, &vec![bad; 4]).stays(100, &[]);
    }

    #[test]
    fn all_servers_but_one() {
        let bad = server(10, Manner::Silent { tries: 4 });
        let servers = [server(10, SECOND), bad.clone(), bad.clone(), bad];
        assert!(pool(By::Turns, &servers).until(40, &[1, 2, 3]).is_some());
    }

    #[test]
    fn a_line_that_is_cut_behind_the_balancer_is_no_servers_fault() {
        let mut pool = pool(By::LeastConnections, &vec![server(10, SECOND); 5]);
        pool.stays(40, &[]);
        for server in &mut pool.servers {
            server.manner = Manner::Silent { tries: 6 };
        }
        pool.stays(40, &[]);
    }

    #[test]
    fn who_leaves_or_drains_is_no_longer_said_to_be_stuck() {
        let mut pool = pool(
            By::Turns,
            &[server(10, SECOND), server(10, Manner::Refuses)],
        );
        assert!(pool.until(40, &[1]).is_some());
        pool.servers[1].weight = 0;
        pool.look(40);
        assert_eq!(pool.stuck, BTreeSet::new());
        pool.stays(40, &[]);
        pool.servers[1].weight = 1;
        let again = pool.until(40, &[1]);
        assert!(again.is_some_and(|time| time >= 60), "{again:?}");
        pool.servers.pop();
        pool.look(40);
        assert_eq!(pool.stuck, BTreeSet::new());
    }

    #[test]
    fn counters_that_are_set_back_begin_anew() {
        let mut pool = pool(
            By::Turns,
            &[server(10, SECOND), server(10, Manner::Refuses)],
        );
        for _ in 0..20 {
            (0..30).for_each(|_| pool.look(40));
            pool.servers[1].traffic.counts = Counts::default();
        }
        assert_eq!(pool.stuck, BTreeSet::new());
        assert!(pool.until(40, &[1]).is_some());
    }

    #[test]
    fn masqueraded_servers_are_judged_by_their_answers() {
        for manner in [Manner::Refuses, Manner::Silent { tries: 5 }] {
            let mut servers = [server(10, SECOND), server(10, manner)];
            servers
                .iter_mut()
                .for_each(|server| server.masqueraded = true);
            let mut pool = pool(By::LeastConnections, &servers);
            assert!(pool.until(40, &[1]).is_some(), "{manner:?}");
            pool.servers[1].manner = SECOND;
            assert!(pool.until(40, &[]).is_some(), "{manner:?}");
            pool.stays(40, &[]);
        }
    }

    #[test]
    fn the_median_is_the_others() {
        let shares = Shares(vec![1.0, 2.0, 2.0, 5.0]);
        let median = |own| shares.median_without(own);
        assert_eq!([median(1.0), median(2.0), median(5.0)], [2.0, 2.0, 2.0]);
        assert_eq!(Shares(vec![0.0, 9.0]).median_without(0.0), 9.0);
        assert_eq!(Shares(vec![0.0, 9.0]).median_without(9.0), 0.0);
        assert_eq!(Shares(vec![3.0]).median_without(3.0), 0.0);
    }

    fn by() -> impl Strategy<Value = By> {
        prop::sample::select(vec![By::LeastConnections, By::Turns])
    }

    /// From short ones to those that stay open and say nothing, each server in its own way.
    fn good() -> impl Strategy<Value = Server> {
        let seconds = prop::sample::select(vec![0u64, 1, 30, 90, 200, 1000]);
        (1u32..20, 3u64..30, seconds).prop_map(|(weight, packets, seconds)| {
            server(weight, Manner::Serves { packets, seconds })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn who_serves_is_never_stuck(
            by in by(),
            servers in prop::collection::vec(good(), 1..6),
            late in good(),
            rates in prop::collection::vec(0u32..60, 1..20),
        ) {
            let mut pool = pool(by, &servers);
            for n in 0..300 {
                if n == 100 {
                    // Under wlc it gets all that come for a while.
                    pool.servers.push(late.clone());
                }
                if n == 200 {
                    pool.servers[0].weight *= 10;
                }
                pool.look(rates[n / 15 % rates.len()]);
                prop_assert!(pool.stuck.is_empty(), "{:?} at {}: {:?}", pool.stuck, pool.now, pool.words);
            }
        }

        #[test]
        fn who_does_not_serve_is_found_by_turns(
            servers in prop::collection::vec(good(), 2..6),
            manner in prop_oneof![Just(Manner::Refuses), (1u32..6).prop_map(|tries| Manner::Silent { tries })],
            weight in 1u32..20,
        ) {
            let mut pool = pool(By::Turns, &servers);
            // Somebody's connections must have ended.
            pool.servers[0].manner = SECOND;
            pool.servers.push(server(weight, manner));
            let bad = pool.servers.len() - 1;
            let total: u32 = pool.servers.iter().map(|server| server.weight).sum();
            // Some 20 connections a minute for it.
            let rate = (total / weight).max(1);
            prop_assert!(pool.until(rate, &[bad]).is_some());
        }
    }
}
