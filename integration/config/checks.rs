//! `run-command`, `dns-query`, `udp`, `ping` and `[monitor]`: each rule with its message, and what is read of a good
//! one.

use std::time::Duration;

use plimsoll::check::{DnsQuery, DnsTransport, DnsType, Monitor, Probe, RunCommand, Udp, User};
use plimsoll::config::Config;

use super::{check, example_path, web};

/// A good service, then a monitor whose `lines` begin on line 8.
fn monitor(lines: &str) -> String {
    web(&format!("[[service.web.monitor]]\n{lines}"))
}

fn check_all(rules: &[(&str, &str)]) {
    for (lines, expected) in rules {
        check(&monitor(lines), expected);
    }
}

fn parsed(lines: &str) -> Monitor {
    let config = Config::parse(&monitor(lines), "FILE").expect("it is good");
    Monitor::clone(&config.services["web"].monitors[0])
}

fn nobody() -> User {
    let nobody = nix::unistd::User::from_name("nobody").ok().flatten();
    let nobody = nobody.expect("every Debian has it");
    User {
        name: nobody.name,
        uid: nobody.uid.as_raw(),
        gid: nobody.gid.as_raw(),
    }
}

#[test]
fn commands() {
    check_all(&[
        (
            r#"type = "run-command""#,
            r#"7: service.web.monitor[0].command: missing; write command = "/usr/lib/nagios/plugins/check_ssh", say"#,
        ),
        (
            "type = \"run-command\"\ncommand = \"check_ssh\"\narguments = [\"{hots}\", 1, \"{\", \"}\", \"{host\", \"a\\u0000\"]\nlog-output = \"no\"\nuser = \"no one\"",
            r#"9: service.web.monitor[0].command: "check_ssh" is not an absolute path; write one that begins with /
10: service.web.monitor[0].arguments[0]: "{hots}": {hots} stands for nothing; write {host}, {address}, {port} or {service}, and {{ for a brace
10: service.web.monitor[0].arguments[1]: expected an argument, found the integer 1; write it in quotes, like "--host={host}"
10: service.web.monitor[0].arguments[2]: "{": a { without its }; write {{ for a brace
10: service.web.monitor[0].arguments[3]: "}": a } without its {; write }} for a brace
10: service.web.monitor[0].arguments[4]: "{host": a { without its }; write {{ for a brace
10: service.web.monitor[0].arguments[5]: "a\0": a zero byte, which no argument can have; leave it out
11: service.web.monitor[0].log-output: expected true or false, found the string "no"; write false
12: service.web.monitor[0].user: there is no user "no one" on this host; write one that there is, like "nobody""#,
        ),
    ]);
    let words = "\"{host}\", \"{{{address}}}\", \"\"";
    let lines = format!(
        "type = \"run-command\"\ncommand = \"/bin/x\"\narguments = [{words}]\nlog-output = false\nuser = \"nobody\""
    );
    let run = RunCommand {
        command: "/bin/x".into(),
        arguments: ["{host}", "{{{address}}}", ""]
            .map(|text| text.parse().unwrap())
            .into(),
        log_output: false,
        user: Some(nobody()),
    };
    let seconds = Duration::from_secs;
    let expected = Monitor::new(Probe::RunCommand(run), seconds(60), seconds(20));
    assert_eq!(parsed(&lines), expected);
}

#[test]
fn what_holds_for_all_commands() {
    let rules = [
        (
            "command-user = \"no one\"\ncommands-at-once = 0",
            r#"8: monitor.command-user: there is no user "no one" on this host; write one that there is, like "nobody"
9: monitor.commands-at-once: the integer 0 is out of range; write 1 to 10000"#,
        ),
        (
            "command-user = 65534",
            r#"8: monitor.command-user: expected a user's name, found the integer 65534; write it in quotes, like "nobody""#,
        ),
        (
            "user = \"nobody\"",
            r#"8: monitor.user: unknown key "user"; allowed are command-user, commands-at-once"#,
        ),
    ];
    for (lines, expected) in rules {
        check(&web(&format!("[monitor]\n{lines}")), expected);
    }
    let said = |lines: &str| Config::parse(&web(lines), "FILE").unwrap().monitor;
    let nothing = said("");
    assert_eq!((nothing.command_user, nothing.commands_at_once), (None, 64));
    let all = said("[monitor]\ncommand-user = \"nobody\"\ncommands-at-once = 3");
    assert_eq!(
        (all.command_user, all.commands_at_once),
        (Some(nobody()), 3)
    );
}

#[test]
fn questions() {
    let long = "a".repeat(64);
    check_all(&[
        (
            r#"type = "dns-query""#,
            r#"7: service.web.monitor[0].hostnames: missing; write hostnames = ["www.example.com"], say"#,
        ),
        (
            "type = \"dns-query\"\nhostnames = []\ntypes = []\ntransport = \"tls\"\nfail-on-nxdomain = 1",
            r#"9: service.web.monitor[0].hostnames: no name; write ["www.example.com"], say
10: service.web.monitor[0].types: no type; write ["A", "AAAA"]
11: service.web.monitor[0].transport: unknown transport "tls"; allowed are udp, tcp
12: service.web.monitor[0].fail-on-nxdomain: expected true or false, found the integer 1; write true or false"#,
        ),
        (
            "type = \"dns-query\"\nhostnames = \"www.example.com\"\ntypes = [\"A\", \"MX\"]",
            r#"10: service.web.monitor[0].types[1]: unknown record type "MX"; allowed are A, AAAA"#,
        ),
    ]);
    for bad in [
        "",
        ".",
        "a..b",
        "a b",
        &long,
        &format!("{}com", "abcdefg.".repeat(32)),
    ] {
        let text = monitor(&format!("type = \"dns-query\"\nhostnames = [\"{bad}\"]"));
        let mistakes = Config::parse(&text, "FILE").expect_err(bad).to_string();
        let expected = "is no name that a name server could be asked for; write one like";
        assert!(mistakes.contains(expected), "{bad}: {mistakes}");
    }
    // Port 53, though the service's is 80.
    let query = |hostnames: &[&str], types: &[DnsType], transport, fail_on_nxdomain| {
        let seconds = Duration::from_secs;
        let query = DnsQuery {
            hostnames: hostnames.iter().map(|name| name.to_string()).collect(),
            types: types.to_vec(),
            transport,
            fail_on_nxdomain,
        };
        Monitor::new(Probe::DnsQuery(query), seconds(10), seconds(5))
    };
    let both = [DnsType::A, DnsType::Aaaa];
    let expected = Monitor {
        port: Some(53),
        ..query(&["www.example.com"], &both, DnsTransport::Udp, false)
    };
    let least = parsed("type = \"dns-query\"\nhostnames = \"www.example.com.\"");
    assert_eq!(least, expected);
    let all = parsed(
        "type = \"dns-query\"\nhostnames = [\"_a.b\", \"xn--x\"]\ntypes = \"AAAA\"\ntransport = \"tcp\"\nfail-on-nxdomain = true\nport = 5353",
    );
    let expected = Monitor {
        port: Some(5353),
        ..query(&["_a.b", "xn--x"], &both[1..], DnsTransport::Tcp, true)
    };
    assert_eq!(all, expected);
}

#[test]
fn datagrams_and_echoes() {
    check_all(&[
        (
            r#"type = "udp""#,
            "8: service.web.monitor[0].type: udp needs a UDP port, this service is TCP; write port = 53, say, or another monitor",
        ),
        (
            "type = \"udp\"\nport = 53\ninterval = \"20s\"",
            "10: service.web.monitor[0].interval: icmp-timeout is not longer than interval, 20s: the server would be up between any two datagrams; write twice as much",
        ),
        (
            "type = \"udp\"\nport = 53\ntimeout = \"1s\"",
            r#"10: service.web.monitor[0].timeout: unknown key "timeout"; allowed are type, port, depool, interval, icmp-timeout"#,
        ),
        (
            "type = \"ping\"\nport = 7",
            "9: service.web.monitor[0].port: of no use with ping, which goes to no port; leave it out",
        ),
    ]);
    let seconds = Duration::from_secs;
    let of_udp = monitor("type = \"udp\"").replace("\"tcp\"", "\"udp\"");
    let config = Config::parse(&of_udp, "FILE").unwrap();
    let udp = |interval, icmp_timeout, timeout| {
        let udp = Udp {
            interval: seconds(interval),
            icmp_timeout: seconds(icmp_timeout),
        };
        Monitor::new(Probe::Udp(udp), seconds(1), seconds(timeout))
    };
    assert_eq!(*config.services["web"].monitors[0], udp(10, 20, 4));
    let lines = "type = \"udp\"\nport = 53\ninterval = \"1s\"\nicmp-timeout = \"2s\"";
    let expected = Monitor {
        port: Some(53),
        ..udp(1, 2, 1)
    };
    assert_eq!(parsed(lines), expected);
    let expected = Monitor::new(Probe::Ping, seconds(10), seconds(2));
    assert_eq!(parsed("type = \"ping\""), expected);
}

#[test]
fn the_example_shows_the_defaults() {
    let example = Config::read(&example_path()).unwrap();
    let of = |service: &str, kind| {
        let monitors = &example.services[service].monitors;
        let found = monitors.iter().find(|monitor| monitor.probe.kind() == kind);
        Monitor::clone(found.expect(kind))
    };
    let command = "command = \"/usr/lib/nagios/plugins/check_ssh\"\narguments = [\"-p\", \"{port}\", \"{address}\"]";
    let run = parsed(&format!("type = \"run-command\"\n{command}"));
    assert_eq!(of("text", "run-command"), run);
    assert_eq!(of("text", "ping"), parsed("type = \"ping\""));
    let names = "[\"www.example.com\", \"www.example.org\"]";
    let query = parsed(&format!("type = \"dns-query\"\nhostnames = {names}"));
    assert_eq!(of("dns", "dns-query"), query);
    let udp = parsed("type = \"udp\"\nport = 1");
    assert_eq!(of("dns", "udp"), Monitor { port: None, ..udp });
    assert_eq!(example.monitor.commands_at_once, 64);
}
