//! RFC 4271 section 8.2.2, all of it: what each event does in each state.

use super::*;

/// A state a part, an event a line: the next state, the timers that run in it (ConnectRetry, Delay, Hold,
/// Keepalive, Idle) and the actions; `-`: nothing happens. Where it is not what the RFC says, `//` says why.
/// Everywhere but after a stop the IdleHoldTimer brings the session back (section 8.1.1, damping). Events 4, 7,
/// 8, 14, 15, 16 do not come, or come as another one; 20 is 19 while the DelayOpenTimer runs.
const TABLE: &str = "
# Idle
2 ManualStop: -
3 AutomaticStart: Connect C; connect
5 AutomaticStart, passive: Active // no ConnectRetryTimer: passive never connects
6 AutomaticStart, damped: Idle I
9 ConnectRetryTimer: -
10 HoldTimer: -
11 KeepaliveTimer: -
12 DelayOpenTimer: -
13 IdleHoldTimer: Connect C; connect
17 TcpConnectionConfirmed: -
18 TcpConnectionFails: -
18 refused: -
19 BGPOpen: -
19 BGPOpen, refused: -
21 BGPHeaderErr: -
22 BGPOpenMsgErr: -
23 OpenCollisionDump: -
24 NotifMsgVerErr: -
25 NotifMsg: -
26 KeepAliveMsg: -
27 UpdateMsg: -
28 UpdateMsgErr: -
29 SendHoldTimer: -
ROUTE-REFRESH: -
UPDATE sent: -

# Connect
2 ManualStop: Idle; close
3 AutomaticStart: -
5 AutomaticStart, passive: -
6 AutomaticStart, damped: -
9 ConnectRetryTimer: Connect C; fault, connect
10 HoldTimer: Idle I; close
11 KeepaliveTimer: Idle I; close
12 DelayOpenTimer: OpenSent H; OPEN
13 IdleHoldTimer: Idle I; close
17 TcpConnectionConfirmed: OpenSent H; OPEN
18 TcpConnectionFails: Idle I; close, fault
18 refused: Idle I; close, fault
19 BGPOpen: Idle I; close, fault
19 BGPOpen, refused: Idle I; close, fault
21 BGPHeaderErr: Idle I; close, fault
22 BGPOpenMsgErr: Idle I; close, fault
23 OpenCollisionDump: Idle I; close
24 NotifMsgVerErr: Idle I; close, fault
25 NotifMsg: Idle I; close, fault
26 KeepAliveMsg: Idle I; close, fault
27 UpdateMsg: Idle I; close, fault
28 UpdateMsgErr: Idle I; close, fault
29 SendHoldTimer: Idle I; close
ROUTE-REFRESH: Idle I; close, fault
UPDATE sent: -

# Connect, DelayOpenTimer running
2 ManualStop: Idle; 6/2 close // told why: SendNOTIFICATIONwithoutOPEN
3 AutomaticStart: -
5 AutomaticStart, passive: -
6 AutomaticStart, damped: -
9 ConnectRetryTimer: Connect C; close, connect
10 HoldTimer: Idle I; close
11 KeepaliveTimer: Idle I; close
12 DelayOpenTimer: OpenSent H; OPEN
13 IdleHoldTimer: Idle I; close
17 TcpConnectionConfirmed: - // the second one is the other session's
18 TcpConnectionFails: Active C; close, fault // counts as a failure, so that tries grow apart
18 refused: Active C; close, fault
19 BGPOpen: OpenConfirm H K; OPEN, KEEPALIVE
19 BGPOpen, refused: Idle I; 2/2 close, fault
21 BGPHeaderErr: Idle I; 1/2 close, fault
22 BGPOpenMsgErr: Idle I; 2/1 close, fault
23 OpenCollisionDump: Idle I; 6/7 close // told why: SendNOTIFICATIONwithoutOPEN
24 NotifMsgVerErr: Idle I; close, fault // counts as a failure: there is no other version to try
25 NotifMsg: Idle I; close, fault
26 KeepAliveMsg: Idle I; close, fault
27 UpdateMsg: Idle I; close, fault
28 UpdateMsgErr: Idle I; close, fault
29 SendHoldTimer: Idle I; close
ROUTE-REFRESH: Idle I; close, fault
UPDATE sent: -

# Active
2 ManualStop: Idle; close
3 AutomaticStart: -
5 AutomaticStart, passive: -
6 AutomaticStart, damped: -
9 ConnectRetryTimer: Connect C; connect
10 HoldTimer: Idle I; close
11 KeepaliveTimer: Idle I; close
12 DelayOpenTimer: OpenSent H; OPEN
13 IdleHoldTimer: Idle I; close
17 TcpConnectionConfirmed: OpenSent H; OPEN
18 TcpConnectionFails: Idle I; close, fault
18 refused: Idle I; close, fault
19 BGPOpen: Idle I; close, fault
19 BGPOpen, refused: Idle I; close, fault
21 BGPHeaderErr: Idle I; close, fault
22 BGPOpenMsgErr: Idle I; close, fault
23 OpenCollisionDump: Idle I; close
24 NotifMsgVerErr: Idle I; close, fault
25 NotifMsg: Idle I; close, fault
26 KeepAliveMsg: Idle I; close, fault
27 UpdateMsg: Idle I; close, fault
28 UpdateMsgErr: Idle I; close, fault
29 SendHoldTimer: Idle I; close
ROUTE-REFRESH: Idle I; close, fault
UPDATE sent: -

# Active, DelayOpenTimer running
2 ManualStop: Idle; 6/2 close // told why: SendNOTIFICATIONwithoutOPEN
3 AutomaticStart: -
5 AutomaticStart, passive: -
6 AutomaticStart, damped: -
9 ConnectRetryTimer: Connect C; close, connect
10 HoldTimer: Idle I; close
11 KeepaliveTimer: Idle I; close
12 DelayOpenTimer: OpenSent H; OPEN
13 IdleHoldTimer: Idle I; close
17 TcpConnectionConfirmed: - // the second one is the other session's
18 TcpConnectionFails: Idle I; close, fault
18 refused: Idle I; close, fault
19 BGPOpen: OpenConfirm H K; OPEN, KEEPALIVE
19 BGPOpen, refused: Idle I; 2/2 close, fault
21 BGPHeaderErr: Idle I; 1/2 close, fault
22 BGPOpenMsgErr: Idle I; 2/1 close, fault
23 OpenCollisionDump: Idle I; 6/7 close // told why: SendNOTIFICATIONwithoutOPEN
24 NotifMsgVerErr: Idle I; close, fault // counts as a failure: there is no other version to try
25 NotifMsg: Idle I; close, fault
26 KeepAliveMsg: Idle I; close, fault
27 UpdateMsg: Idle I; close, fault
28 UpdateMsgErr: Idle I; close, fault
29 SendHoldTimer: Idle I; close
ROUTE-REFRESH: Idle I; close, fault
UPDATE sent: -

# OpenSent
2 ManualStop: Idle; 6/2 close
3 AutomaticStart: -
5 AutomaticStart, passive: -
6 AutomaticStart, damped: -
9 ConnectRetryTimer: Idle I; 5/1 close, fault
10 HoldTimer: Idle I; 4/0 close, fault
11 KeepaliveTimer: Idle I; 5/1 close, fault
12 DelayOpenTimer: Idle I; 5/1 close, fault
13 IdleHoldTimer: Idle I; 5/1 close, fault
17 TcpConnectionConfirmed: Idle I; 5/1 close, fault // cannot be: the second one is the other session's
18 TcpConnectionFails: Active C; close, fault // counts as a failure, so that tries grow apart
18 refused: Active C; close, fault
19 BGPOpen: OpenConfirm H K; KEEPALIVE
19 BGPOpen, refused: Idle I; 2/2 close, fault
21 BGPHeaderErr: Idle I; 1/2 close, fault
22 BGPOpenMsgErr: Idle I; 2/1 close, fault
23 OpenCollisionDump: Idle I; 6/7 close
24 NotifMsgVerErr: Idle I; close, fault // counts as a failure: there is no other version to try
25 NotifMsg: Idle I; close, fault // no FSM error in answer: nobody is left to read it
26 KeepAliveMsg: Idle I; 5/1 (4) close, fault
27 UpdateMsg: Idle I; 5/1 (2) close, fault
28 UpdateMsgErr: Idle I; 5/1 (2) close, fault
29 SendHoldTimer: Idle I; 8/0 close, fault
ROUTE-REFRESH: Idle I; 5/1 (5) close, fault
UPDATE sent: -

# OpenConfirm
2 ManualStop: Idle; 6/2 close
3 AutomaticStart: -
5 AutomaticStart, passive: -
6 AutomaticStart, damped: -
9 ConnectRetryTimer: Idle I; 5/2 close, fault
10 HoldTimer: Idle I; 4/0 close, fault
11 KeepaliveTimer: OpenConfirm H K; KEEPALIVE
12 DelayOpenTimer: Idle I; 5/2 close, fault
13 IdleHoldTimer: Idle I; 5/2 close, fault
17 TcpConnectionConfirmed: Idle I; 5/2 close, fault // cannot be: the second one is the other session's
18 TcpConnectionFails: Idle I; close, fault
18 refused: Idle I; close, fault
19 BGPOpen: Idle I; 5/2 (1) close, fault // a second one on this connection; collisions are between two, see `peering`
19 BGPOpen, refused: Idle I; 5/2 (1) close, fault
21 BGPHeaderErr: Idle I; 1/2 close, fault
22 BGPOpenMsgErr: Idle I; 2/1 close, fault
23 OpenCollisionDump: Idle I; 6/7 close
24 NotifMsgVerErr: Idle I; close, fault // counts as a failure: there is no other version to try
25 NotifMsg: Idle I; close, fault
26 KeepAliveMsg: Established H K; established
27 UpdateMsg: Idle I; 5/2 (2) close, fault
28 UpdateMsgErr: Idle I; 5/2 (2) close, fault
29 SendHoldTimer: Idle I; 8/0 close, fault
ROUTE-REFRESH: Idle I; 5/2 (5) close, fault
UPDATE sent: -

# Established
2 ManualStop: Idle; 6/2 close
3 AutomaticStart: -
5 AutomaticStart, passive: -
6 AutomaticStart, damped: -
9 ConnectRetryTimer: Idle I; 5/3 close, fault
10 HoldTimer: Idle I; 4/0 close, fault
11 KeepaliveTimer: Established H K; KEEPALIVE
12 DelayOpenTimer: Idle I; 5/3 close, fault
13 IdleHoldTimer: Idle I; 5/3 close, fault
17 TcpConnectionConfirmed: Idle I; 5/3 close, fault // cannot be: the second one is the other session's
18 TcpConnectionFails: Idle I; close, fault
18 refused: Idle I; close, fault
19 BGPOpen: Idle I; 5/3 (1) close, fault
19 BGPOpen, refused: Idle I; 5/3 (1) close, fault
21 BGPHeaderErr: Idle I; 1/2 close, fault // section 6.1; section 8.2.2 forgets it here
22 BGPOpenMsgErr: Idle I; 2/1 close, fault // of an OPEN out of turn the fault is told, if it has one
23 OpenCollisionDump: Idle I; 6/7 close
24 NotifMsgVerErr: Idle I; close, fault
25 NotifMsg: Idle I; close, fault
26 KeepAliveMsg: Established H K
27 UpdateMsg: Established H K
28 UpdateMsgErr: Idle I; 3/1 close, fault
29 SendHoldTimer: Idle I; 8/0 close, fault
ROUTE-REFRESH: Established H K; refresh
UPDATE sent: Established H K
";

/// By the names that the table gives them.
fn states() -> Vec<(&'static str, Story)> {
    let waiting = |state| {
        let mut story = Story::of_in_state(delayed(), state);
        story.event(Event::Connected);
        story
    };
    vec![
        ("Idle", Story::new()),
        ("Connect", Story::in_state(SessionState::Connect)),
        (
            "Connect, DelayOpenTimer running",
            waiting(SessionState::Connect),
        ),
        ("Active", Story::in_state(SessionState::Active)),
        (
            "Active, DelayOpenTimer running",
            waiting(SessionState::Active),
        ),
        ("OpenSent", Story::in_state(SessionState::OpenSent)),
        ("OpenConfirm", Story::in_state(SessionState::OpenConfirm)),
        ("Established", Story::in_state(SessionState::Established)),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let told =
        |code, subcode| received(Message::Notification(Notification::new(code, subcode, [])));
    let malformed = |code, subcode| Event::Malformed(Notification::new(code, subcode, []));
    let refresh = Refresh {
        family: Some(Family::Ipv4),
        kind: RefreshKind::Request,
    };
    let bad_open = Open { asn: 1, ..theirs() };
    vec![
        ("2 ManualStop", Event::Stop(Notification::new(6, 2, []))),
        ("3 AutomaticStart", Event::Start),
        ("5 AutomaticStart, passive", Event::StartPassive),
        ("6 AutomaticStart, damped", Event::StartLater),
        ("9 ConnectRetryTimer", Event::ConnectRetryTimerExpires),
        ("10 HoldTimer", Event::HoldTimerExpires),
        ("11 KeepaliveTimer", Event::KeepaliveTimerExpires),
        ("12 DelayOpenTimer", Event::DelayOpenTimerExpires),
        ("13 IdleHoldTimer", Event::IdleHoldTimerExpires),
        ("17 TcpConnectionConfirmed", Event::Connected),
        (
            "18 TcpConnectionFails",
            Event::ConnectionFails("gone".into()),
        ),
        ("18 refused", Event::ConnectionRefused("no".into())),
        ("19 BGPOpen", received(Message::Open(theirs()))),
        ("19 BGPOpen, refused", received(Message::Open(bad_open))),
        ("21 BGPHeaderErr", malformed(1, 2)),
        ("22 BGPOpenMsgErr", malformed(2, 1)),
        ("23 OpenCollisionDump", Event::Collision),
        ("24 NotifMsgVerErr", told(2, 1)),
        ("25 NotifMsg", told(6, 4)),
        ("26 KeepAliveMsg", received(Message::Keepalive)),
        ("27 UpdateMsg", received(Message::Update(Update::default()))),
        ("28 UpdateMsgErr", malformed(3, 1)),
        ("29 SendHoldTimer", Event::SendHoldTimerExpires),
        ("ROUTE-REFRESH", received(Message::RouteRefresh(refresh))),
        ("UPDATE sent", Event::UpdateSent),
    ]
}

fn word(action: &Action) -> String {
    match action {
        Action::Connect => "connect".into(),
        Action::SendOpen(_) => "OPEN".into(),
        Action::SendKeepalive => "KEEPALIVE".into(),
        Action::Close(None) => "close".into(),
        // RFC 6608 section 4: with the type of the message.
        Action::Close(Some(n)) => match (n.code, &n.data[..]) {
            (5, [kind]) => format!("5/{} ({kind}) close", n.subcode),
            (code, _) => format!("{code}/{} close", n.subcode),
        },
        Action::Established(_) => "established".into(),
        Action::Refresh(_) => "refresh".into(),
        Action::Fault(_) => "fault".into(),
    }
}

fn line(mut story: Story, name: &str, event: Event) -> String {
    let before = (story.session.state(), story.session.timers);
    story.now += seconds(0.5);
    let actions = story.event(event);
    let Session { state, timers, .. } = story.session;
    if actions.is_empty() && before == (state, timers) {
        return format!("{name}: -");
    }
    let timers = [
        (timers.connect_retry, " C"),
        (timers.delay_open, " D"),
        (timers.hold, " H"),
        (timers.keepalive, " K"),
        (timers.idle_hold, " I"),
    ];
    let running: String = timers
        .into_iter()
        .filter(|t| t.0.is_some())
        .map(|t| t.1)
        .collect();
    let actions: Vec<String> = actions.iter().map(word).collect();
    format!("{name}: {state:?}{running}; {}", actions.join(", "))
        .trim_end_matches("; ")
        .into()
}

#[test]
fn all_states_and_all_events() {
    let wanted = TABLE
        .lines()
        .map(|line| line.split(" // ").next().unwrap().trim());
    let wanted: Vec<&str> = wanted.filter(|line| !line.is_empty()).collect();
    let mut found = Vec::new();
    for n in 0..states().len() {
        found.push(format!("# {}", states()[n].0));
        for (name, event) in events() {
            found.push(line(states().swap_remove(n).1, name, event));
        }
    }
    assert_eq!(found, wanted);
}
