//! BIRD.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use plimsoll::routing::Community;

use super::{Driver, FEEDER_AS, OWN_LOCAL_PREF, Route, Router, Settings};
use super::{large, numbers, origin, standard};
use crate::netns::until;

const LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Bird;

impl Driver for Bird {
    fn command(&self, router: &Router) -> Command {
        let text = configuration(&router.settings, &router.path("log"));
        let mut command = router.namespace.command("bird");
        command.arg("-f").arg("-c").arg(router.write("conf", &text));
        command.arg("-s").arg(router.file("control"));
        command.arg("-P").arg(router.file("pid"));
        command
    }

    fn client(&self, router: &Router, question: &str) -> Command {
        let mut command = router.namespace.command("birdc");
        command.arg("-s").arg(router.file("control"));
        command.args(question.split(' '));
        command
    }

    fn answers(&self, router: &Router) -> bool {
        router.says("show status")
    }

    fn routes(&self, router: &Router) -> BTreeMap<String, Route> {
        routes(&router.ask("show route all where proto ~ \"lb*\""))
    }

    fn knows(&self, router: &Router, prefix: &str) -> bool {
        // To ask for what is not there is an error.
        router.says(&format!("show route {prefix} protocol lb"))
    }

    fn established(&self, router: &Router) -> bool {
        let answer = router.ask("show protocols lb");
        answer.split_whitespace().last() == Some("Established")
    }

    // BIRD's own "since" is computed anew each time and may differ by a millisecond.
    fn changes(&self, router: &Router) -> String {
        // What it answers and what it has logged are a moment apart.
        until(LIMIT, "the log tells how BIRD's session is", || {
            let established = self.established(router);
            let log = router.log();
            let times = |words| log.matches(words).count();
            let (ups, downs) = (
                times("BGP session established"),
                times("BGP session closed"),
            );
            (established == (ups > downs))
                .then(|| format!("{established}, {ups} times up, {downs} times down"))
        })
    }

    fn reload(&self, router: &Router) {
        let text = configuration(&router.settings, &router.path("log"));
        router.write("conf", &text);
        let answer = router.ask("configure");
        assert!(answer.contains("Reconfigur"), "{answer}");
    }

    fn clear(&self, router: &Router) {
        router.ask("restart lb");
    }

    fn refresh(&self, router: &Router) {
        router.ask("reload in lb");
    }

    fn shut(&self, router: &Router, text: &str) -> bool {
        let mut command = self.client(router, "disable lb");
        crate::netns::run(command.arg(format!("\"{text}\"")));
        true
    }
}

fn configuration(settings: &Settings, log: &str) -> String {
    let Settings {
        asn,
        router_id,
        address,
        neighbor,
        neighbor_as,
        hold_time,
        ..
    } = settings;
    let on = |on| if on { "on" } else { "off" };
    let passive = on(settings.passive || settings.unnumbered.is_some());
    let next_hop = if address.contains(':') {
        ""
    } else {
        "next hop address fd00:9::fe;"
    };
    let ends = match settings.unnumbered {
        None => format!("local {address} as {asn}; neighbor {neighbor} as {neighbor_as};"),
        // Whoever comes; and it tells the wire of itself, as routers do.
        Some(interface) => format!(
            "local as {asn}; neighbor range fe80::/10 as {neighbor_as};
             interface \"{interface}\"; dynamic name \"lb\";"
        ),
    };
    let advertisements = match settings.unnumbered {
        None => String::new(),
        Some(interface) => format!(
            "protocol radv {{ interface \"{interface}\" {{ min ra interval 3; max ra interval 4; }}; }}"
        ),
    };
    let mut more = settings.lines.clone();
    if let Some(password) = &settings.password {
        more += &format!("password \"{password}\"; ");
    }
    if settings.graceful_restart {
        more += "graceful restart on; ";
    }
    if let Some(role) = settings.role {
        more += &format!("local role {role}; ");
    }
    let statics = settings.networks(|prefix| format!("route {prefix} blackhole;\n"));
    let feeder = match &settings.feeder {
        None => String::new(),
        Some(feeder) => format!(
            "protocol bgp feeder {{
               local as {asn}; neighbor {feeder} as {FEEDER_AS}; passive on;
               hold time 240; ipv4 {{ import all; export none; }};
             }}"
        ),
    };
    let kernel = if settings.kernel {
        "protocol kernel { ipv4 { export where source = RTS_BGP; }; }
         protocol kernel { ipv6 { export where source = RTS_BGP; }; }"
    } else {
        ""
    };
    format!(
        "log \"{log}\" all;
         router id {router_id};
         protocol device {{ }}
         {kernel}
         {advertisements}
         {feeder}
         protocol static {{
           ipv4; route 203.0.113.0/24 blackhole; route 0.0.0.0/0 blackhole; {statics}
         }}
         protocol bgp lb {{
           debug {{ {debug} }};
           {ends}
           hold time {hold_time}; connect delay time 1; connect retry time 1; error wait time 1, 2;
           passive {passive}; direct; default bgp_local_pref {OWN_LOCAL_PREF};
           ttl security {gtsm}; enable extended messages {extended}; {more}
           ipv4 {{ import all; export all; extended next hop {next_hop_v6}; }};
           ipv6 {{ import all; export none; {next_hop} }};
         }}\n",
        debug = if settings.quiet {
            "states, events"
        } else {
            "states, routes, events, packets"
        },
        gtsm = on(settings.ttl_security),
        extended = on(settings.extended_messages),
        next_hop_v6 = on(settings.extended_next_hop),
    )
}

/// `show route all`: a line with the prefix, then indented lines.
fn routes(text: &str) -> BTreeMap<String, Route> {
    let mut routes: BTreeMap<String, Route> = BTreeMap::new();
    let mut prefix = String::new();
    for line in text.lines() {
        if line.contains(" unicast [") {
            line.split(' ').next().unwrap().clone_into(&mut prefix);
            routes.insert(prefix.clone(), Route::default());
        }
        let Some((name, value)) = line.trim().split_once(':') else {
            continue;
        };
        let (Some(route), value) = (routes.get_mut(&prefix), value.trim()) else {
            continue;
        };
        match name {
            "BGP.next_hop" => value.clone_into(&mut route.next_hop),
            "BGP.med" => route.med = value.parse().unwrap(),
            "BGP.as_path" => value.clone_into(&mut route.as_path),
            "BGP.origin" => route.origin = origin(value),
            "BGP.local_pref" => {
                let number = value.parse().unwrap();
                route.local_pref = Some(number).filter(|number| *number != OWN_LOCAL_PREF);
            }
            "BGP.community" => {
                let pairs = tuples(value);
                route.communities.extend(pairs.map(|pair| {
                    let pair: Vec<String> = numbers(pair).iter().map(u32::to_string).collect();
                    standard(&pair.join(":"))
                }));
            }
            "BGP.large_community" => route.communities.extend(tuples(value).map(large)),
            "BGP.ext_community" => route.communities.extend(tuples(value).map(extended)),
            _ => {}
        }
    }
    routes
}

/// `(1, 2) (3, 4)`
fn tuples(text: &str) -> impl Iterator<Item = &str> {
    text.split(')')
        .map(|part| part.trim_start_matches([' ', '(']))
        .filter(|part| !part.is_empty())
}

/// `rt, 64512, 100`, `generic, 0x43000000, 0x1`
fn extended(text: &str) -> Community {
    if text.starts_with("rt") {
        return super::route_target(text);
    }
    let words: Vec<u32> = text
        .split(", 0x")
        .skip(1)
        .map(|word| u32::from_str_radix(word, 16).unwrap())
        .collect();
    Community::Extended((u64::from(words[0]) << 32 | u64::from(words[1])).to_be_bytes())
}
