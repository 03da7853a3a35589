//! A balancer and one router, with a wire between them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use plimsoll::config::{Bgp, Peer};
use plimsoll::routing::PeerId;
use plimsoll::routing::session::{Session, SessionState};

use crate::netns::{Namespace, run, until};
use crate::router::{Kind, Route, Router, Settings};
use crate::speaker::{Speaker, peer};
use crate::{LOCAL_AS, ROUTER_AS, US, US_V6};

/// Long enough for the slowest, which waits for 30 s after an error before it tries again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// For what an operator waits for.
const SOON: Duration = Duration::from_secs(10);

/// For many prefixes, on a machine that has other things to do.
pub(crate) const PATIENCE_FOR_MANY: Duration = Duration::from_secs(240);

/// How both ends are configured.
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) peer: Peer,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) listen: bool,
    /// Whether the wire has IPv4 addresses, and global IPv6 addresses.
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

pub(crate) struct Lab {
    pub(crate) balancer: Namespace,
    pub(crate) router: Router,
    pub(crate) speaker: Speaker,
    pub(crate) peer: PeerId,
}

/// The router's end of the wire; ours is called `wire`.
pub(crate) const PORT: &str = "eth1";

/// The wire's fixed link-local addresses.
pub(crate) const OUR_LINK_LOCAL: &str = "fe80::a:1";
pub(crate) const THEIR_LINK_LOCAL: &str = "fe80::a:2";

impl Lab {
    /// Both have been started, and nothing is announced yet.
    pub(crate) fn start(kind: Kind, change: impl FnOnce(&mut Plan)) -> Lab {
        let mut plan = Plan {
            settings: Settings::default(),
            peer: peer(IpAddr::from([10, 9, 0, 2]), ROUTER_AS),
            router_id: Ipv4Addr::new(10, 9, 0, 1),
            listen: true,
            ipv4: true,
            ipv6: true,
        };
        plan.peer.connect_retry_time = Duration::from_secs(2);
        change(&mut plan);
        let (balancer, namespace) = (Namespace::new("lb"), Namespace::new("rt"));
        let (ours, theirs) = addresses(&plan);
        let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
        for namespace in [&balancer, &namespace] {
            // Link-local addresses are ours to give.
            let file = "/proc/sys/net/ipv6/conf/default/addr_gen_mode";
            let order = format!("echo 1 >{file}");
            run(namespace.command("sh").args(["-c", &order]));
        }
        // A bridge at our end: unplugged from it the router still has a link, and an answer from nobody.
        balancer.ip("link add wire type bridge");
        for address in &ours {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            balancer.ip(&format!("address add {address} dev wire{nodad}"));
        }
        balancer.ip("link set wire up");
        balancer.cable(PORT, &[], &namespace, &theirs);
        balancer.ip(&format!("link set {PORT} master wire"));
        let router = Router::start(kind, namespace, plan.settings);
        let id = plan.peer.id.clone();
        let listen = ["0.0.0.0:179", "[::]:179"];
        let listen = listen.iter().map(|socket| socket.parse().unwrap());
        let bgp = Bgp {
            local_as: LOCAL_AS,
            router_id: plan.router_id,
            policy: Arc::default(),
            shutdown_text: None,
            listen: listen.filter(|_| plan.listen).collect(),
            peers: [(id.clone(), Arc::new(plan.peer))].into(),
        };
        Lab {
            speaker: Speaker::start(&balancer, bgp),
            balancer,
            router,
            peer: id,
        }
    }

    /// And 192.0.2.1 and 2001:db8::1 have come to the router.
    pub(crate) fn up(kind: Kind, change: impl FnOnce(&mut Plan)) -> Lab {
        let mut lab = Lab::start(kind, change);
        lab.speaker.announce("192.0.2.1", 10);
        lab.speaker.announce("2001:db8::1", 20);
        lab.back();
        lab
    }

    /// The session is up (again), and the router has both.
    #[track_caller]
    pub(crate) fn back(&mut self) {
        self.until_state(SessionState::Established);
        self.router.expect(&both());
    }

    #[track_caller]
    pub(crate) fn until_state(&mut self, state: SessionState) {
        self.speaker.until_state(self.peer.clone(), state);
    }

    /// Waits until this holds of the session.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Session) -> bool) {
        let peer = self.peer.clone();
        self.speaker.until(PATIENCE, what, |speaker| {
            speaker.peers.get(&peer).is_some_and(&holds)
        });
    }

    /// Within the time in which an operator who looks at it is to see it.
    #[track_caller]
    pub(crate) fn until_soon(&mut self, what: &str, holds: impl Fn(&Session) -> bool) {
        let peer = self.peer.clone();
        self.speaker.until(SOON, what, |speaker| {
            speaker.peers.get(&peer).is_some_and(&holds)
        });
    }

    /// Waits until this holds of its figures, of which no event tells.
    #[track_caller]
    pub(crate) fn until_figures(&mut self, what: &str, holds: impl Fn(&Session) -> bool) {
        until(PATIENCE_FOR_MANY, what, || {
            self.speaker.catch_up();
            holds(self.session()).then_some(())
        });
    }

    pub(crate) fn session(&self) -> &Session {
        &self.speaker.peers[&self.peer]
    }

    /// How often the session has come up.
    pub(crate) fn times_up(&mut self) -> usize {
        self.speaker.catch_up();
        let states = self.speaker.history.iter();
        states
            .filter(|(_, state)| *state == SessionState::Established)
            .count()
    }
}

/// Of the two ends of the wire, with their lengths.
fn addresses(plan: &Plan) -> (Vec<String>, Vec<String>) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    if plan.ipv4 {
        ours.push(format!("{US}/24"));
        theirs.push("10.9.0.2/24".into());
    }
    if plan.ipv6 {
        ours.push(format!("{US_V6}/64"));
        theirs.push("fd00:9::2/64".into());
    }
    ours.push(format!("{OUR_LINK_LOCAL}/64"));
    theirs.push(format!("{THEIR_LINK_LOCAL}/64"));
    (ours, theirs)
}

/// What a router of another AS has of 192.0.2.1 and 2001:db8::1.
pub(crate) fn both() -> [(String, Route); 2] {
    [v4("192.0.2.1", 10), v6("2001:db8::1", 20)]
}

pub(crate) fn v4(address: &str, med: u32) -> (String, Route) {
    (format!("{address}/32"), route(US, med))
}

pub(crate) fn v6(address: &str, med: u32) -> (String, Route) {
    (format!("{address}/128"), route(US_V6, med))
}

pub(crate) fn route(next_hop: &str, med: u32) -> Route {
    Route {
        next_hop: next_hop.into(),
        med,
        as_path: LOCAL_AS.to_string(),
        ..Route::default()
    }
}

/// A session over IPv6.
pub(crate) fn over_ipv6(plan: &mut Plan) {
    plan.settings.address = "fd00:9::2".into();
    plan.settings.neighbor = US_V6.into();
    let theirs: IpAddr = "fd00:9::2".parse().unwrap();
    plan.peer.id = theirs.into();
}
