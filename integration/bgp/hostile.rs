//! Peers that are broken or mean, and strangers. Each time the speaker says what is wrong, and then
//! gets along with BIRD as if nothing had been.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use plimsoll::routing::session::SessionState;

use crate::entry;
use crate::fake::{
    Fake, KEEPALIVE, MP_IPV4, MP_IPV6, NOTIFICATION, OPEN, UPDATE, hello, keepalive, listen,
    message,
};
use crate::netns::{Namespace, run, until};
use crate::router::Kind;
use crate::speaker::{Speaker, peer};
use crate::{FIRST, LOCAL_AS, Lab, ROUTER_AS, SECOND, US, bgp, v4, v6};

/// BIRD's machine without BIRD: a place for somebody else.
struct Stage {
    lab: Lab,
    speaker: Speaker,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(false)
    }

    fn with(passive: bool) -> Stage {
        let mut lab = Lab::new(&[Kind::Bird], |settings| settings.passive = passive);
        lab.routers[0].kill();
        let mut bgp = bgp(&[FIRST]);
        // The router has the smaller identifier.
        bgp.router_id = Ipv4Addr::new(10, 250, 0, 1);
        let speaker = Speaker::start(&lab.balancer, bgp);
        speaker.announce("192.0.2.1", 10);
        speaker.announce("2001:db8::1", 20);
        Stage { lab, speaker }
    }

    fn router(&self) -> &Namespace {
        self.lab.routers[0].namespace()
    }

    /// BIRD comes and all is well.
    fn all_is_well(mut self) {
        self.lab.routers[0].run();
        self.speaker.until_state(FIRST, SessionState::Established);
        self.lab.routers[0].expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
        self.speaker.until_announced(&["192.0.2.1", "2001:db8::1"]);
    }
}

/// The speaker's connections that still have a file descriptor; those of the listener are none.
fn sockets(namespace: &Namespace) -> usize {
    let mut command = namespace.command("ss");
    run(command.args(["-Htnp"]))
        .lines()
        .filter(|line| line.contains("users:"))
        .count()
}

const CONNECTED: [SessionState; 3] = [
    SessionState::OpenSent,
    SessionState::OpenConfirm,
    SessionState::Established,
];

fn in_state(namespace: &Namespace, state: SessionState) -> Fake {
    let open = hello().message();
    match state {
        SessionState::OpenSent => Fake::open_sent(namespace),
        SessionState::OpenConfirm => Fake::open_confirm(namespace, &open),
        SessionState::Established => Fake::established(namespace, &open),
        SessionState::Idle | SessionState::Connect | SessionState::Active => {
            panic!("there is no connection in {state:?}")
        }
    }
}

/// RFC 4271 section 6.1: a bad header, in every state.
#[test]
fn headers_that_cannot_be() {
    let stage = Stage::new();
    // Else messages of up to 65,535 bytes are good ones (RFC 8654).
    let offer_nothing_longer = |peer: &mut plimsoll::config::Peer| peer.extended_messages = false;
    stage.speaker.configure_peer(FIRST, offer_nothing_longer);
    let header = |length: u16, kind: u8| {
        let mut header = vec![0xff; 16];
        header.extend(length.to_be_bytes());
        header.push(kind);
        header
    };
    let mut marker = keepalive();
    marker[7] = 0;
    let table: [(Vec<u8>, &[u8]); 9] = [
        (marker, &[1, 1]),
        (vec![0; 4096], &[1, 1]),
        (header(18, KEEPALIVE), &[1, 2, 0, 18]),
        (header(0, UPDATE), &[1, 2, 0, 0]),
        (header(4097, UPDATE), &[1, 2, 0x10, 0x01]),
        (header(65535, UPDATE), &[1, 2, 0xff, 0xff]),
        (message(KEEPALIVE, &[0]), &[1, 2, 0, 20]),
        (message(0, &[]), &[1, 3, 0]),
        (message(77, &[0; 500]), &[1, 3, 77]),
    ];
    for state in CONNECTED {
        for (bytes, told) in &table {
            let mut fake = in_state(stage.router(), state);
            fake.send(bytes);
            let last = fake.last_words();
            assert_eq!(last.as_deref(), Some(*told), "{state:?} {bytes:?}");
        }
    }
    stage.all_is_well();
}

/// Sections 6.2, 6.3, 6.6: what each state refuses.
#[test]
fn messages_that_are_wrong() {
    use SessionState::{Established, OpenConfirm, OpenSent};
    let stage = Stage::new();
    let good = hello();
    let with = |change: &dyn Fn(&mut crate::fake::Hello)| {
        let mut hello = good.clone();
        change(&mut hello);
        hello.message()
    };
    let other_as = with(&|hello| {
        hello.asn = 65002;
        hello.capabilities.truncate(12);
    });
    let large_as = with(&|hello| hello.capabilities[14] = 1);
    let parameter = message(OPEN, &[4, 0xfd, 0xe9, 0, 90, 10, 9, 0, 2, 4, 1, 2, 0, 0]);
    let table: Vec<(SessionState, Vec<u8>, &[u8])> = vec![
        (OpenSent, other_as, &[2, 2]),
        (OpenSent, large_as, &[2, 2]),
        (OpenSent, with(&|h| h.version = 3), &[2, 1, 0, 4]),
        (OpenSent, with(&|h| h.version = 5), &[2, 1, 0, 4]),
        (OpenSent, with(&|h| h.identifier = [0; 4].into()), &[2, 3]),
        (OpenSent, with(&|h| h.hold_time = 1), &[2, 6]),
        (OpenSent, with(&|h| h.hold_time = 2), &[2, 6]),
        (OpenSent, parameter, &[2, 4]),
        (OpenSent, with(&|h| h.capabilities[13] = 40), &[2, 0]),
        (OpenSent, keepalive(), &[5, 1, KEEPALIVE]),
        (OpenSent, message(UPDATE, &[0; 4]), &[5, 1, UPDATE]),
        (OpenConfirm, message(UPDATE, &[0; 4]), &[5, 2, UPDATE]),
        (OpenConfirm, good.message(), &[5, 2, OPEN]),
        (Established, good.message(), &[5, 3, OPEN]),
        (Established, message(UPDATE, &[0xff; 4]), &[3, 1]),
        (
            Established,
            message(UPDATE, &[0, 0, 0, 0, 33, 1, 2, 3, 4, 5]),
            &[3, 10],
        ),
    ];
    for (state, bytes, told) in &table {
        let mut fake = in_state(stage.router(), *state);
        fake.send(bytes);
        let last = fake.last_words();
        assert_eq!(last.as_deref(), Some(*told), "{state:?} {bytes:?}");
    }
    // Our own identifier is another AS's own affair (RFC 6286).
    let ours = with(&|hello| hello.identifier = [10, 250, 0, 1].into());
    Fake::established(stage.router(), &ours).expect(UPDATE);
    stage.all_is_well();
}

/// A NOTIFICATION, an end, a half message and then an end, a reset: in every state.
#[test]
fn ends_in_every_state() {
    let mut stage = Stage::new();
    for state in CONNECTED {
        let mut fake = in_state(stage.router(), state);
        fake.send(&message(NOTIFICATION, &[6, 4]));
        assert_eq!(fake.last_words(), None, "it is not answered in {state:?}");
        let told = "the peer says: administrative reset (6/4)";
        stage
            .speaker
            .until(Duration::from_secs(5), told, |speaker| {
                speaker.fault(FIRST) == told
            });

        drop(in_state(stage.router(), state));

        let mut fake = in_state(stage.router(), state);
        fake.send(&good_part());
        fake.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(fake.last_words(), None, "{state:?}");

        in_state(stage.router(), state).reset();
    }
    stage.all_is_well();
}

fn good_part() -> Vec<u8> {
    hello().message()[..25].to_vec()
}

/// One byte a second is nothing, and so the hold timer says.
#[test]
fn one_byte_a_second() {
    let stage = Stage::new();
    let mut fake = Fake::established(stage.router(), &hello().message());
    let begun = Instant::now();
    let bytes = message(UPDATE, &[0; 40]);
    fake.stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut drip = fake.stream.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        for byte in bytes {
            if drip.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    assert_eq!(fake.last_words().as_deref(), Some(&[4, 0][..]));
    let lasted = begun.elapsed().as_secs_f64();
    assert!((2.5..4.5).contains(&lasted), "hold time 3 s: {lasted}");
    drop(fake);
    dripping.join().unwrap();
    stage.all_is_well();
}

/// Random bytes, connections that end at once, resets: as fast as it goes.
#[test]
fn noise() {
    let stage = Stage::new();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..600 {
        let mut fake = Fake::connect(stage.router());
        // One connection too many is closed without a word.
        if round % 4 == 0 && fake.read().is_some_and(|(kind, _)| kind == OPEN) {
            drop(
                fake.stream
                    .write_all(&[hello().message(), keepalive()].concat()),
            );
        }
        let mut noise = vec![0; random.usize(1..5000)];
        random.fill(&mut noise);
        if round % 3 > 0 {
            // With a good header it is read further.
            noise.truncate(4000);
            let kind = random.u8(1..6);
            noise = message(kind, &noise);
        }
        // It may be cut short.
        drop(fake.stream.write_all(&noise));
        if round % 5 == 0 {
            fake.reset();
        }
    }
    for _ in 0..2000 {
        drop(Fake::connect(stage.router()));
        Fake::connect(stage.router()).reset();
    }
    until(Duration::from_secs(5), "all is closed", || {
        (sockets(&stage.lab.balancer) == 0).then_some(())
    });
    stage.all_is_well();
}

/// The router and BIRD beside it: the n-th is as in [`Lab`].
fn beside_bird() -> (Lab, Speaker, String) {
    let mut lab = Lab::new(&[Kind::Bird, Kind::Bird], |_| {});
    lab.routers[0].kill();
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST, SECOND]));
    speaker.announce("192.0.2.1", 10);
    speaker.until_state(SECOND, SessionState::Established);
    lab.routers[1].expect(&[v4("192.0.2.1", 10)]);
    let session = lab.routers[1].session();
    (lab, speaker, session)
}

/// Millions of prefixes as fast as they go: keepalives come in time, for both peers, and withdrawals.
#[test]
fn a_flood_of_updates() {
    let (lab, mut speaker, session) = beside_bird();
    let open = hello();
    let short = crate::fake::Hello {
        hold_time: 3,
        ..open
    };
    let mut fake = Fake::established(lab.routers[0].namespace(), &short.message());
    speaker.until_state(FIRST, SessionState::Established);
    let mut writer = fake.stream.try_clone().unwrap();
    let flooding = std::thread::spawn(move || {
        let begun = Instant::now();
        let attributes = [
            [0x40, 1, 1, 0].to_vec(),
            [0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9].to_vec(),
            [0x40, 3, 4, 10, 9, 0, 2].to_vec(),
        ]
        .concat();
        let mut sent = 0;
        while sent < 1_000_000 || begun.elapsed() < Duration::from_secs(7) {
            let mut body = vec![0, 0];
            body.extend((attributes.len() as u16).to_be_bytes());
            body.extend(&attributes);
            for n in sent..sent + 800 {
                body.push(32);
                body.extend((0x0b00_0000 + n as u32).to_be_bytes());
            }
            writer.write_all(&message(UPDATE, &body)).unwrap();
            sent += 800;
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    let mut withdrawn = false;
    while let Some((kind, body)) = fake.read() {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        assert!(kind == KEEPALIVE || kind == UPDATE, "{kind} {body:?}");
        if kind == KEEPALIVE && !std::mem::replace(&mut withdrawn, true) {
            speaker.withdraw("192.0.2.1");
            lab.routers[1].expect(&[]);
        }
    }
    flooding.join().unwrap();
    // A router would end the session after its hold time.
    assert!(
        withdrawn && longest < Duration::from_secs(short.hold_time.into()),
        "silent for {longest:?}"
    );
    assert_eq!(lab.routers[1].session(), session);
}

/// While a session is established the peer opens thousands of other connections and keeps them.
#[test]
fn a_peer_with_too_many_connections() {
    let stage = Stage::new();
    let mut fake = Fake::established(stage.router(), &hello().message());
    let mut most = 0;
    let mut kept = Vec::new();
    for round in 0..3000 {
        kept.push(Fake::connect(stage.router()));
        if round % 100 == 99 {
            most = most.max(sockets(&stage.lab.balancer));
            fake.send(&keepalive());
        }
    }
    drop(kept);
    fake.send(&message(5, &[0, 1, 0, 1]));
    while fake.read().is_some_and(|(kind, _)| kind != UPDATE) {}
    drop(fake);
    assert!(most < 100, "{most} sockets");
    stage.all_is_well();
}

/// Somebody else opens connections as fast as it goes; the router's session stays, and a second one comes.
#[test]
fn strangers_in_thousands() {
    let (mut lab, mut speaker, session) = beside_bird();
    let stranger = Namespace::new("xx");
    lab.balancer
        .cable("vethx", &[], &stranger, &["10.9.0.77/24"]);
    lab.balancer.ip("link set vethx master wire");
    let handle = stranger.handle();
    let end = Instant::now() + Duration::from_secs(6);
    let knocking = std::thread::spawn(move || {
        handle.enter();
        let to = SocketAddr::new(US.parse().unwrap(), 179);
        let (mut kept, mut count) = (std::collections::VecDeque::new(), 0);
        while Instant::now() < end {
            if let Ok(stream) = TcpStream::connect_timeout(&to, Duration::from_millis(20)) {
                kept.push_back(stream);
                count += 1;
            }
            if kept.len() > 500 {
                kept.pop_front();
            }
        }
        count
    });
    lab.routers[0].run();
    speaker.until_state(FIRST, SessionState::Established);
    lab.routers[0].expect(&[v4("192.0.2.1", 10)]);
    speaker.announce("192.0.2.2", 1);
    lab.routers[1].expect(&[v4("192.0.2.1", 10), v4("192.0.2.2", 1)]);
    let count = knocking.join().unwrap();
    assert!(count > 1000, "{count} are no thousands");
    assert_eq!(lab.routers[1].session(), session);
}

/// The router's system answers, its BGP hangs before its OPEN; then its power fails. It comes back soon.
fn goes_before_its_open(passive: bool) {
    let stage = Stage::with(passive);
    let listener = listen(stage.router(), FIRST);
    let (stream, _) = listener.accept().unwrap();
    let mut fake = Fake::new(stream);
    fake.expect(OPEN);
    // With anything on its way TCP would find out by itself.
    until(Duration::from_secs(5), "all is acknowledged", || {
        let mut command = stage.lab.balancer.command("ss");
        let queues = run(command.args(["-Htn", "state", "established"]));
        (queues.split_whitespace().nth(1) == Some("0")).then_some(())
    });
    let away = format!("blackhole {US}/32");
    stage.router().ip(&format!("route add {away}"));
    fake.reset();
    drop(listener);
    stage.router().ip(&format!("route del {away}"));
    stage.all_is_well();
}

#[test]
fn a_router_that_goes_before_its_open_and_connects() {
    goes_before_its_open(false);
}

#[test]
fn a_router_that_goes_before_its_open_and_waits() {
    goes_before_its_open(true);
}

/// Something takes connections to the router's port and says nothing; the router's own are good.
#[test]
fn a_router_that_is_mute_where_we_connect() {
    let stage = Stage::new();
    let listener = listen(stage.router(), FIRST);
    let (_kept, _) = listener.accept().unwrap();
    until(Duration::from_secs(20), "a session", || {
        let mut fake = Fake::open_sent(stage.router());
        fake.send(&[hello().message(), keepalive()].concat());
        while let Some((kind, _)) = fake.read() {
            if kind == UPDATE {
                return Some(());
            }
        }
        None
    });
    drop(listener);
    stage.all_is_well();
}

/// Told to stop, it says so to whoever listens, and is through.
#[test]
fn stops_in_every_state() {
    // Nobody is there.
    let lab = Lab::new(&[], |_| {});
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.until_state(FIRST, SessionState::Connect);
    speaker.stop();
    speaker.until_state(FIRST, SessionState::Idle);
    let mut stage = Stage::new();
    let router = stage.lab.routers.remove(0);
    for state in CONNECTED {
        stage.speaker = Speaker::start(&stage.lab.balancer, bgp(&[FIRST]));
        stage.speaker.announce("192.0.2.1", 10);
        let mut fake = in_state(router.namespace(), state);
        stage.speaker.until_state(FIRST, state);
        stage.speaker.stop();
        assert_eq!(fake.last_words().as_deref(), Some(&[6, 2][..]), "{state:?}");
        drop(fake);
        stage.speaker.until_state(FIRST, SessionState::Idle);
        stage.speaker.until_announced(&[]);
    }
}

/// A peer sends keepalives and reads nothing. What was announced to it counts as announced, though it
/// is withdrawn, until the session ends; and a stop does not wait for it for long.
#[test]
fn stops_though_a_peer_does_not_read() {
    let mut stage = Stage::new();
    let buffers = [
        "-w",
        "net.ipv4.tcp_wmem=4096 16384 16384",
        "net.ipv4.tcp_rmem=4096 16384 16384",
    ];
    for namespace in [stage.router(), &stage.lab.balancer] {
        run(namespace.command("sysctl").args(buffers));
    }
    let fake = in_state(stage.router(), SessionState::Established);
    stage.speaker.until_announced(&["192.0.2.1", "2001:db8::1"]);
    let mut alive = fake.stream.try_clone().unwrap();
    let living = std::thread::spawn(move || {
        while alive.write_all(&keepalive()).is_ok() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    stage.speaker.publish(|snapshot| {
        let vip = snapshot.vips[&IpAddr::from([192, 0, 2, 1])].clone();
        for n in 0..50_000u32 {
            let address = Ipv4Addr::from_bits(0xc612_0000 + n);
            snapshot.vips.insert(address.into(), vip.clone());
        }
    });
    let limit = Duration::from_secs(10);
    stage.speaker.until(limit, "some of it is sent", |speaker| {
        speaker.announced.len() > 1000
    });
    let begun = Instant::now();
    stage.speaker.stop();
    stage
        .speaker
        .until(limit, "the end", |speaker| speaker.announced.is_empty());
    let lasted = begun.elapsed().as_secs_f64();
    assert!((2.5..7.0).contains(&lasted), "through in {lasted} s");
    stage.speaker.until_state(FIRST, SessionState::Idle);
    drop(fake);
    living.join().unwrap();
}

/// The peer's AS is changed, the peer is removed and there again: in every state.
#[test]
fn reloads_in_every_state() {
    let mut stage = Stage::new();
    for state in CONNECTED {
        let mut fake = in_state(stage.router(), state);
        stage.speaker.configure(|bgp| {
            bgp.peers.extend([entry(peer(FIRST, 65099))]);
        });
        assert_eq!(fake.last_words().as_deref(), Some(&[6, 6][..]), "{state:?}");
        let mut fake = Fake::open_sent(stage.router());
        fake.send(&hello().message());
        assert_eq!(fake.last_words().as_deref(), Some(&[2, 2][..]), "{state:?}");
        stage.speaker.configure(|bgp| {
            bgp.peers.extend([entry(peer(FIRST, ROUTER_AS))]);
        });

        let mut fake = in_state(stage.router(), state);
        stage.speaker.configure(|bgp| bgp.peers.clear());
        assert_eq!(fake.last_words().as_deref(), Some(&[6, 3][..]), "{state:?}");
        stage.speaker.until_state(FIRST, SessionState::Idle);
        stage.speaker.configure(|bgp| {
            bgp.peers.extend([entry(peer(FIRST, ROUTER_AS))]);
        });
        for _ in 0..50 {
            stage.speaker.configure(|bgp| bgp.peers.clear());
            stage.speaker.configure(|bgp| {
                bgp.peers.extend([entry(peer(FIRST, ROUTER_AS))]);
            });
        }
        stage.speaker.catch_up();
    }
    stage.all_is_well();
}

/// What the UPDATEs say up to the End-of-RIB markers, to a peer with these capabilities.
fn told(stage: &Stage, capabilities: &[u8], marks: usize) -> Vec<Vec<u8>> {
    let mut hello = hello();
    hello.capabilities = capabilities.to_vec();
    let mut fake = Fake::established(stage.router(), &hello.message());
    let mut updates = Vec::new();
    let mut seen = 0;
    while seen < marks {
        let update = fake.expect(UPDATE);
        seen += usize::from(matches!(update.len(), 4 | 11));
        updates.push(update);
    }
    fake.send(&message(NOTIFICATION, &[6, 4]));
    assert_eq!(fake.last_words(), None);
    updates
}

/// Who lacks 4-byte AS numbers or a family gets what is left.
#[test]
fn peers_that_know_less() {
    let stage = Stage::new();
    let origin = [0x40, 1, 1, 0];
    let trans = [0x40, 2, 4, 2, 1, 0x5b, 0xa0];
    let med = |med: u8| [0x80, 4, 4, 0, 0, 0, med];
    let next_hop = [0x40, 3, 4, 10, 9, 0, 1];
    let as4 = [&[0xc0, 17, 6, 2, 1][..], &LOCAL_AS.to_be_bytes()].concat();
    let two = [
        &[0, 0, 0, 34][..],
        &origin,
        &trans,
        &next_hop,
        &med(10),
        &as4,
    ]
    .concat();
    let two = [&two[..], &[32, 192, 0, 2, 1]].concat();
    let end_v4 = vec![0; 4];
    let end_v6 = vec![0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1];
    // No capability: IPv4 alone.
    assert_eq!(told(&stage, &[], 1), [two.clone(), end_v4.clone()]);
    assert_eq!(told(&stage, &MP_IPV4, 1), [two, end_v4]);
    let six = told(&stage, &MP_IPV6, 1);
    let mut reach = vec![0x90, 14, 0, 38, 0, 2, 1, 16];
    let us: Ipv6Addr = crate::US_V6.parse().unwrap();
    let vip: Ipv6Addr = "2001:db8::1".parse().unwrap();
    reach.extend(us.octets());
    reach.extend([0, 128]);
    reach.extend(vip.octets());
    let attributes = [&reach[..], &origin, &trans, &med(20), &as4].concat();
    let length = (attributes.len() as u16).to_be_bytes();
    let v6 = [&[0, 0][..], &length, &attributes].concat();
    assert_eq!(six, [v6, end_v6]);
    stage.all_is_well();
}
