//! How soon a router follows the snapshot: from its publication to the route's end in the table of the
//! router's kernel, by the kernel's own word (a netlink event); and how soon many routes get through, both ways.
//!
//! ```text
//!  snapshot ─► speaker ══ wire ══ BIRD ─► its kernel's table ─netlink─► clock
//!  command ──► ExaBGP  ══ wire ══ BIRD ─► …
//! ```
//!
//! `cargo bench --bench bgp`, as root. In the same run, against a BIRD of the same configuration, the same is done
//! by ExaBGP's API, and by bytes that are written to a socket by nobody who thinks: the least that it can take.
//! The ratios are of our medians to theirs. What BIRD alone does with a million prefixes is what our own time
//! with them is compared to. Speaker, routers and clock share the machine's processors.
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark: what is not there ends it, with a trace"
)]

#[path = "bgp/bytes.rs"]
mod bytes;
#[path = "../bgp/fake.rs"]
#[expect(dead_code, reason = "tests do more with it")]
mod fake;
#[path = "../netns.rs"]
#[expect(dead_code, reason = "tests do more with it")]
mod netns;
#[path = "../routers.rs"]
#[expect(dead_code, reason = "tests do more with it")]
mod router;
#[path = "../bgp/speaker.rs"]
#[expect(dead_code, reason = "tests do more with it")]
mod speaker;
#[path = "../interop.d/table.rs"]
mod table;
#[path = "bgp/watch.rs"]
mod watch;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fake::{Fake, hello};
use netns::{Namespace, until};
use plimsoll::config::Bgp;
use plimsoll::routing::Policy;
use plimsoll::routing::session::SessionState;
use plimsoll::snapshot::{Condition, Vip};
use router::{Kind, Router, Settings};
use speaker::{Speaker, peer};
use table::table;
use watch::{Control, Kernel};

const LOCAL_AS: u32 = 4_200_000_001;
const ROUTER_AS: u32 = 65001;
const US: &str = "10.9.0.1";
const US_V6: &str = "fd00:9::1";
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// One by one: of ours, and of ExaBGP's, which takes its time.
const CHANGES: usize = 1000;
const EXABGP_CHANGES: usize = 100;
const ROUNDS: usize = 20;
const EXABGP_ROUNDS: usize = 3;
/// It takes half a minute for each.
const EXABGP_BEHIND: usize = 1;
const BEHIND: u32 = 100_000;
const MANY: u32 = 10_000;
const FULL_TABLE: u32 = 1_000_000;

fn main() {
    println!(
        "medians and 99th percentiles in ms; ratios are of the medians, ours to the other's\n"
    );
    println!(
        "{:<54} {:>9} {:>9} {:>6}   {:>9} {:>9} {:>6}   {:>9} {:>5} {:>7}",
        "", "ours", "p99", "n", "bytes", "p99", "ratio", "ExaBGP", "n", "ratio"
    );
    let (first, first6) = ("192.0.2.1", "2001:db8::1");
    {
        let mut all = (Ours::new(true), Bytes::new(true), ExaBgp::new(true));
        for (what, address) in [("IPv4", first), ("IPv6", first6)] {
            let ours = one_by_one(&mut all.0, address, CHANGES);
            let bytes = one_by_one(&mut all.1, address, CHANGES);
            let exabgp = one_by_one(&mut all.2, address, EXABGP_CHANGES);
            line(
                &format!("withdrawn → gone from the kernel, {what}"),
                [ours.0, bytes.0, exabgp.0],
            );
            line(
                &format!("announced → in the kernel, {what}"),
                [ours.1, bytes.1, exabgp.1],
            );
        }
    }
    for kernel in [false, true] {
        let table = if kernel { "BIRD and kernel" } else { "BIRD" };
        let mut all = (Ours::new(kernel), Bytes::new(kernel), ExaBgp::new(kernel));
        line(
            &format!("{MANY} announced → all in {table}"),
            [
                many(&mut all.0, ROUNDS),
                many(&mut all.1, ROUNDS),
                many(&mut all.2, EXABGP_ROUNDS),
            ],
        );
        line(
            &format!("one withdrawn behind {BEHIND} → gone from {table}"),
            [
                behind(&mut all.0, ROUNDS),
                behind(&mut all.1, ROUNDS),
                behind(&mut all.2, EXABGP_BEHIND),
            ],
        );
    }
    let (ours, bird) = (received(), received_by_bird());
    println!(
        "\n{FULL_TABLE} prefixes received → counted: {:.0} ms; by BIRD, into its table: {:.0} ms; ratio {:.2}",
        milliseconds(ours),
        milliseconds(bird),
        ours.as_secs_f64() / bird.as_secs_f64()
    );
}

/// Whoever announces.
trait Announcer {
    /// Hands the order over; what it has done by then is its own matter.
    fn announce(&mut self, addresses: &[IpAddr]);
    fn withdraw(&mut self, addresses: &[IpAddr]);
    fn router(&mut self) -> &mut Bird;
}

/// BIRD, and what sees into its tables.
struct Bird {
    _router: Router,
    control: Control,
    kernel: Option<Kernel>,
}

impl Bird {
    fn new(kernel: bool, namespace: Namespace) -> Bird {
        let watch = kernel.then(|| Kernel::watch(&namespace));
        let settings = Settings {
            kernel,
            quiet: true,
            hold_time: 240,
            neighbor_as: LOCAL_AS,
            ..Settings::default()
        };
        let router = Router::start(Kind::Bird, namespace, settings);
        let control = Control::connect(&router.control());
        Bird {
            _router: router,
            control,
            kernel: watch,
        }
    }

    /// When the address's route came or went: by the kernel's word, or by BIRD's if it has no kernel.
    fn until(&mut self, address: IpAddr, there: bool) -> Instant {
        if let Some(kernel) = &mut self.kernel {
            return kernel.until(address, there);
        }
        until_now(|| self.control.has(address) == there)
    }

    /// When it had so many routes from its neighbor, and the kernel, too.
    fn until_count(&mut self, count: u32) -> Instant {
        let mut at = until_now(|| self.control.count() == count);
        if let Some(kernel) = &mut self.kernel {
            at = kernel.until_count(count);
        }
        at
    }
}

/// Asks without a pause; answers take some ten microseconds.
fn until_now(mut holds: impl FnMut() -> bool) -> Instant {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it does not come");
    }
    Instant::now()
}

/// Two ends of a wire.
fn wire() -> (Namespace, Namespace) {
    let (ours, theirs) = (Namespace::new("lb"), Namespace::new("rt"));
    let addresses = [format!("{US}/24"), format!("{US_V6}/64")];
    let [v4, v6] = &addresses;
    ours.cable("wire", &[v4, v6], &theirs, &["10.9.0.2/24", "fd00:9::2/64"]);
    (ours, theirs)
}

struct Ours {
    speaker: Speaker,
    bird: Bird,
    _namespace: Namespace,
}

impl Ours {
    fn new(kernel: bool) -> Ours {
        let (namespace, theirs) = wire();
        let bird = Bird::new(kernel, theirs);
        let mut speaker = speaker(&namespace);
        speaker.until_state(ROUTER, SessionState::Established);
        Ours {
            speaker,
            bird,
            _namespace: namespace,
        }
    }
}

fn speaker(namespace: &Namespace) -> Speaker {
    let mut peer = peer(ROUTER, ROUTER_AS);
    peer.hold_time = Duration::from_secs(240);
    peer.maximum_prefixes = 2 * FULL_TABLE;
    let bgp = Bgp {
        local_as: LOCAL_AS,
        router_id: Ipv4Addr::new(10, 9, 0, 1),
        policy: Arc::default(),
        shutdown_text: None,
        listen: vec!["0.0.0.0:179".parse().unwrap()],
        peers: [(peer.id.clone(), Arc::new(peer))].into(),
    };
    Speaker::start(namespace, bgp)
}

impl Announcer for Ours {
    /// One snapshot; what it takes to make it counts.
    fn announce(&mut self, addresses: &[IpAddr]) {
        self.speaker.catch_up();
        let vip = Arc::new(healthy());
        self.speaker.publish(|snapshot| {
            for address in addresses {
                snapshot.vips.insert(*address, vip.clone());
            }
        });
    }

    fn withdraw(&mut self, addresses: &[IpAddr]) {
        self.speaker.publish(|snapshot| {
            for address in addresses {
                snapshot.vips.remove(address);
            }
        });
    }

    fn router(&mut self) -> &mut Bird {
        &mut self.bird
    }
}

fn healthy() -> Vip {
    Vip {
        services: Default::default(),
        present: true,
        fault: None,
        condition: Condition::Healthy,
        prefix: None,
        announce: Ok(Policy::of_med(10).into()),
    }
}

struct ExaBgp {
    exabgp: Router,
    bird: Bird,
}

impl ExaBgp {
    fn new(kernel: bool) -> ExaBgp {
        let (ours, theirs) = wire();
        let bird = Bird::new(kernel, theirs);
        let settings = Settings {
            asn: LOCAL_AS,
            router_id: Ipv4Addr::new(10, 9, 0, 1),
            address: US.into(),
            neighbor: ROUTER.to_string(),
            neighbor_as: ROUTER_AS,
            quiet: true,
            hold_time: 240,
            ..Settings::default()
        };
        let exabgp = Router::start(Kind::ExaBgp, ours, settings);
        until(PATIENCE, "ExaBGP's session", || {
            exabgp.established().then_some(())
        });
        ExaBgp { exabgp, bird }
    }

    /// One command for a thousand prefixes of a family: it reads no longer line.
    fn tell(&self, what: &str, addresses: &[IpAddr]) {
        for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let of_family: Vec<&IpAddr> = addresses.iter().filter(|a| family(a)).collect();
            for some in of_family.chunks(1000) {
                let next_hop = if some[0].is_ipv4() { US } else { US_V6 };
                let length = if some[0].is_ipv4() { 32 } else { 128 };
                let prefixes = some.iter().map(|address| format!(" {address}/{length}"));
                self.exabgp.tell(&format!(
                    "{what} attributes next-hop {next_hop} med 10 nlri{}",
                    prefixes.collect::<String>()
                ));
            }
        }
    }
}

impl Announcer for ExaBgp {
    fn announce(&mut self, addresses: &[IpAddr]) {
        self.tell("announce", addresses);
    }

    fn withdraw(&mut self, addresses: &[IpAddr]) {
        self.tell("withdraw", addresses);
    }

    fn router(&mut self) -> &mut Bird {
        &mut self.bird
    }
}

/// UPDATEs as they are, from a thread that does nothing else.
struct Bytes {
    fake: Fake,
    bird: Bird,
    _namespace: Namespace,
}

impl Bytes {
    fn new(kernel: bool) -> Bytes {
        let (namespace, theirs) = wire();
        let bird = Bird::new(kernel, theirs);
        let fake = table::connect(&namespace, ROUTER, LOCAL_AS, Ipv4Addr::new(10, 9, 0, 1));
        fake.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Bytes {
            fake,
            bird,
            _namespace: namespace,
        }
    }
}

impl Announcer for Bytes {
    fn announce(&mut self, addresses: &[IpAddr]) {
        let updates = bytes::announce(
            addresses,
            LOCAL_AS,
            US.parse().unwrap(),
            US_V6.parse().unwrap(),
        );
        self.fake.send(&updates);
    }

    fn withdraw(&mut self, addresses: &[IpAddr]) {
        self.fake.send(&bytes::withdraw(addresses));
    }

    fn router(&mut self) -> &mut Bird {
        &mut self.bird
    }
}

/// Withdrawn and announced again, each until the kernel follows: what withdrawals took, and announcements.
fn one_by_one(who: &mut impl Announcer, address: &str, times: usize) -> (Times, Times) {
    let address: IpAddr = address.parse().unwrap();
    let (mut withdrawn, mut announced) = (Times::default(), Times::default());
    // The first ones, of cold caches, do not count.
    for round in 0..times + times / 20 {
        let start = Instant::now();
        who.announce(&[address]);
        let came = who.router().until(address, true) - start;
        let start = Instant::now();
        who.withdraw(&[address]);
        let went = who.router().until(address, false) - start;
        if round >= times / 20 {
            announced.0.push(came);
            withdrawn.0.push(went);
        }
    }
    (withdrawn, announced)
}

fn many(who: &mut impl Announcer, times: usize) -> Times {
    let addresses = addresses(MANY);
    let mut all = Times::default();
    for _ in 0..times {
        let start = Instant::now();
        who.announce(&addresses);
        all.0.push(who.router().until_count(MANY) - start);
        who.withdraw(&addresses);
        who.router().until_count(0);
    }
    all
}

/// From the withdrawal, which follows at once.
fn behind(who: &mut impl Announcer, times: usize) -> Times {
    let addresses = addresses(BEHIND);
    let one = IpAddr::from([192, 0, 2, 1]);
    let mut all = Times::default();
    for _ in 0..times {
        who.announce(&[one]);
        who.router().until(one, true);
        who.announce(&addresses);
        let start = Instant::now();
        who.withdraw(&[one]);
        all.0.push(who.router().until(one, false) - start);
        who.router().until_count(BEHIND);
        who.withdraw(&addresses);
        who.router().until_count(0);
    }
    all
}

fn addresses(count: u32) -> Vec<IpAddr> {
    let address = |n| IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + n));
    (0..count).map(address).collect()
}

/// From the first byte of the stream until the last prefix is counted.
fn received() -> Duration {
    let (ours, theirs) = wire();
    let mut speaker = speaker(&ours);
    let mut fake = Fake::established(&theirs, &hello().message());
    speaker.until_state(ROUTER, SessionState::Established);
    let bytes = table(FULL_TABLE, ROUTER_AS, Ipv4Addr::new(10, 9, 0, 2));
    let figures = speaker.peers[&ROUTER.into()].figures.clone();
    fake.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let start = Instant::now();
    fake.send(&bytes);
    until_now(|| {
        std::thread::sleep(Duration::from_millis(1));
        figures.prefixes[0].load(Relaxed) == u64::from(FULL_TABLE)
    }) - start
}

/// The same stream, into BIRD's table.
fn received_by_bird() -> Duration {
    let (ours, theirs) = wire();
    let mut bird = Bird::new(false, theirs);
    let mut fake = table::connect(&ours, ROUTER, LOCAL_AS, Ipv4Addr::new(10, 9, 0, 1));
    let bytes = table(FULL_TABLE, LOCAL_AS, Ipv4Addr::new(10, 9, 0, 1));
    fake.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let start = Instant::now();
    fake.send(&bytes);
    until_now(|| {
        std::thread::sleep(Duration::from_millis(1));
        bird.control.count() == FULL_TABLE
    }) - start
}

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn quantile(&mut self, part: usize) -> f64 {
        self.0.sort();
        milliseconds(self.0[(self.0.len() * part).div_ceil(100) - 1])
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn line(what: &str, [mut ours, mut bytes, mut exabgp]: [Times; 3]) {
    let [median, least, other] =
        [&mut ours, &mut bytes, &mut exabgp].map(|times| times.quantile(50));
    println!(
        "{what:<54} {median:>9.3} {:>9.3} {:>6}   {least:>9.3} {:>9.3} {:>6.2}   {other:>9.3} {:>5} {:>7.4}",
        ours.quantile(99),
        ours.0.len(),
        bytes.quantile(99),
        median / least,
        exabgp.0.len(),
        median / other
    );
}
