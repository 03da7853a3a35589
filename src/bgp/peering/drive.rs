//! A peering driven by whatever a string of bytes says: connections, messages, time, orders. Checks after each
//! step what must always hold. For a property test here, and for the fuzz target `session`, which reads this
//! very file.

use std::time::Duration;

use tokio::time::Instant;

use crate::bgp::message::{self, Message, Open};
use crate::bgp::notification::Notification;
use crate::bgp::peering::{Actions, Peering, Side};
use crate::bgp::session::{Action, At, Ends, Event};
use crate::routing::Role;
use crate::routing::session::SessionState;
use crate::service::Family;

/// No call gives more actions than this.
const ACTIONS_MAX: usize = 12;

/// What has passed over one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    sent_open: bool,
    sent_keepalive: bool,
    heard_open: bool,
    heard_keepalive: bool,
}

struct World {
    peering: Peering,
    theirs: Open,
    now: Instant,
    connecting: bool,
    links: [Option<Link>; 2],
}

/// The first four bytes say how the two ends are configured, the rest what happens. `Err`: what does not hold.
pub(crate) fn drive(script: &[u8]) -> Result<(), String> {
    let Some(([mine, my_delay, theirs, their_delay], script)) = script.split_first_chunk() else {
        return Ok(());
    };
    let mut world = World {
        peering: Peering::new(ends(1, *mine, *my_delay)),
        theirs: Open {
            graceful_restart: (their_delay & 2 != 0).then(|| [Family::Ipv4].into()),
            ..ends(2, *theirs, *their_delay).open()
        },
        now: Instant::now(),
        connecting: false,
        links: [None; 2],
    };
    let mut script = script.iter().copied();
    while let (Some(what), Some(how)) = (script.next(), script.next()) {
        world.step(what, how, &mut script)?;
        world.check()?;
    }
    Ok(())
}

/// Of two that expect each other; whether they agree on more hangs on the bits.
fn ends(local: u8, bits: u8, delay: u8) -> Ends {
    let roles = [
        None,
        Some(Role::Customer),
        Some(Role::Provider),
        Some(Role::Peer),
    ];
    let families: &[Family] = match bits / 4 % 4 {
        0 => &[Family::Ipv4],
        1 => &[Family::Ipv6],
        _ => &[Family::Ipv4, Family::Ipv6],
    };
    Ends {
        local_as: u32::from(local),
        identifier: [10, delay & 2, 0, local].into(),
        hold_time: 9,
        peer_as: u32::from(3 - local),
        families: families.iter().copied().collect(),
        extended_next_hop: delay & 1 != 0,
        extended_messages: delay & 1 != 0,
        role: roles[usize::from(bits % 4)],
        role_strict: bits & 16 != 0,
        passive: bits & 96 == 0,
        delay_open_time: (bits >= 128).then(|| Duration::from_millis(u64::from(delay) * 40)),
        connect_retry_time: Duration::from_secs(30),
    }
}

impl World {
    fn step(
        &mut self,
        what: u8,
        how: u8,
        more: &mut impl Iterator<Item = u8>,
    ) -> Result<(), String> {
        let at = At::new(self.now, f64::from(how) / 255.0);
        let why = Notification::new(6, how % 9, []);
        let side = Side::BOTH[usize::from(how % 2)];
        match what % 16 {
            0 if self.peering.furthest() == SessionState::Idle => {
                let actions = self.peering.start(at);
                self.apply(actions)
            }
            0 => Ok(()),
            1 => {
                let actions = self.peering.stop(&why, at);
                self.apply(actions)
            }
            2 => {
                let ends = self.peering.ends().clone();
                let actions = self.peering.restart(ends, &why, at);
                self.apply(actions)
            }
            3 => self.accept(at),
            4 | 5 => self.connect(how, at),
            6 => self.fail(side, at),
            7 | 8 => self.hear(side, Message::Open(self.theirs.clone()), at),
            9 | 10 => self.hear(side, Message::Keepalive, at),
            11 => self.hear(side, Message::Notification(why), at),
            12 => self.sleep(how),
            13 => {
                let event = match how / 2 % 3 {
                    0 => Event::UpdateSent,
                    1 => Event::SendHoldTimerExpires,
                    _ => Event::Malformed(Notification::new(1 + how / 8 % 3, 1, [])),
                };
                self.event(side, event, at)
            }
            _ => self.frame(side, how, more, at),
        }
    }

    /// The peer connects.
    fn accept(&mut self, at: At) -> Result<(), String> {
        let Ok(actions) = self.peering.admit(at) else {
            return Ok(());
        };
        self.apply(actions)?;
        if self.links[Side::In as usize].is_some() {
            return Err("a third connection is admitted".into());
        }
        self.links[Side::In as usize] = Some(Link::default());
        let actions = self.peering.handle(Side::In, Event::Connected, at);
        self.apply(actions)
    }

    /// Our own attempt ends.
    fn connect(&mut self, how: u8, at: At) -> Result<(), String> {
        if !std::mem::take(&mut self.connecting) {
            return Ok(());
        }
        let event = match how % 4 {
            0 => Event::ConnectionFails("unreachable".into()),
            1 => Event::ConnectionRefused("refused".into()),
            _ => {
                self.links[Side::Out as usize] = Some(Link::default());
                Event::Connected
            }
        };
        let actions = self.peering.handle(Side::Out, event, at);
        self.apply(actions)
    }

    fn fail(&mut self, side: Side, at: At) -> Result<(), String> {
        self.event(side, Event::ConnectionFails("reset".into()), at)
    }

    fn hear(&mut self, side: Side, message: Message, at: At) -> Result<(), String> {
        if let Some(link) = &mut self.links[side as usize] {
            link.heard_open |= matches!(message, Message::Open(_));
            link.heard_keepalive |= message == Message::Keepalive;
        }
        self.event(side, Event::Received(message), at)
    }

    /// Bytes from the wire, behind a header that is nearly always good.
    fn frame(
        &mut self,
        side: Side,
        how: u8,
        more: &mut impl Iterator<Item = u8>,
        at: At,
    ) -> Result<(), String> {
        let kind = more.next().map_or(4, |byte| byte % 7);
        let body: Vec<u8> = more.take(usize::from(how) / 2).collect();
        let mut frame = vec![0xff; 16];
        frame.extend(((message::HEADER + body.len()) as u16).to_be_bytes());
        frame.push(kind);
        frame.extend(body);
        let sender = message::Sender {
            internal: false,
            four_octet_as: true,
        };
        let header = frame.first_chunk().ok_or("a header")?;
        let decoded = message::frame_length(header, message::LONGEST_EXTENDED)
            .and_then(|_| message::decode(&frame, sender));
        match decoded {
            Ok(message) => self.hear(side, message, at),
            Err(notification) => self.event(side, Event::Malformed(notification), at),
        }
    }

    /// Time goes on, timer by timer.
    fn sleep(&mut self, how: u8) -> Result<(), String> {
        let until = self.now + Duration::from_millis(u64::from(how) * u64::from(how) * 5);
        // Keepalives alone are a timer each second at most.
        for _ in 0..1000 {
            let Some(next) = self.peering.next_timer().filter(|next| *next <= until) else {
                self.now = until;
                return Ok(());
            };
            if next < self.now {
                return Err(format!("a timer in the past: {:?}", self.peering));
            }
            self.now = next;
            let actions = self.peering.due(At::new(next, f64::from(how) / 255.0));
            self.apply(actions)?;
            self.check()?;
        }
        Err("timers that never end".into())
    }

    /// What cannot happen without a connection does not.
    fn event(&mut self, side: Side, event: Event, at: At) -> Result<(), String> {
        if self.links[side as usize].is_none() {
            return Ok(());
        }
        let actions = self.peering.handle(side, event, at);
        self.apply(actions)
    }

    fn apply(&mut self, actions: Actions) -> Result<(), String> {
        if actions.len() > ACTIONS_MAX {
            return Err(format!("so many actions: {actions:?}"));
        }
        for (side, action) in actions {
            let wrong = format!("{action:?} at {side:?} of {:?}", self.links);
            let link = &mut self.links[side as usize];
            let good = match (action, link) {
                (Action::Connect, link) => {
                    self.connecting = true;
                    side == Side::Out && link.is_none()
                }
                (Action::SendOpen(_), Some(link)) => {
                    let first = !link.sent_open;
                    link.sent_open = true;
                    first
                }
                (Action::SendKeepalive, Some(link)) => {
                    link.sent_keepalive = true;
                    link.sent_open && link.heard_open
                }
                // A NOTIFICATION and the close are one action: neither comes without the other.
                (Action::Close(last), link) => {
                    self.connecting &= side != Side::Out;
                    link.take().is_some() || last.is_none()
                }
                (Action::Established(_), Some(link)) => {
                    let sent = link.sent_open && link.sent_keepalive;
                    sent && link.heard_open && link.heard_keepalive
                }
                (Action::Refresh(_), Some(_)) => {
                    self.peering.state(side) == SessionState::Established
                }
                (Action::Fault(fault), _) => !fault.is_empty(),
                (
                    Action::SendOpen(_)
                    | Action::SendKeepalive
                    | Action::Established(_)
                    | Action::Refresh(_),
                    None,
                ) => false,
            };
            if !good {
                return Err(wrong);
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        self.peering.check()?;
        for side in Side::BOTH {
            let link = self.links[side as usize].is_some();
            let connecting = side == Side::Out && self.connecting;
            let good = match self.peering.state(side) {
                SessionState::Idle => !link && !connecting,
                SessionState::Connect => link != connecting,
                SessionState::Active => !connecting,
                SessionState::OpenSent | SessionState::OpenConfirm | SessionState::Established => {
                    link && !connecting
                }
            };
            if !good {
                let state = self.peering.state(side);
                return Err(format!("{side:?} is {state:?} with {:?}", self.links));
            }
        }
        Ok(())
    }
}
