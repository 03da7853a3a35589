//! `plimsoll realserver` on a server of its own: a network namespace with a neighbour on a cable. What it makes is
//! read back with ip(8), sysctl(8) and nft(8), and asked for from the neighbour's side by ARP, Neighbour Solicitations
//! and TCP. Tunnel devices are in `kernel/realserver.rs`: not every kernel has them.

#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "what is waited for is no task's")]

#[path = "netns.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod netns;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use netns::{Namespace, Process, run, until};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
const VIPS: [&str; 2] = ["192.0.2.11", "2001:db8::11"];

struct Lab {
    server: Namespace,
    neighbour: Namespace,
    files: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let (server, neighbour) = (Namespace::new("server"), Namespace::new("neighbour"));
        neighbour.cable(
            "eth0",
            &["192.0.2.1/24", "2001:db8::1/64"],
            &server,
            &["192.0.2.21/24", "2001:db8::21/64"],
        );
        Lab {
            server,
            neighbour,
            files: tempfile::tempdir().unwrap(),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.server.command(env!("CARGO_BIN_EXE_plimsoll"));
        command
            .arg("realserver")
            .args(words)
            .arg("--state-directory")
            .arg(self.files.path().join("state"));
        command
    }

    /// The exit code and what was said, on either way.
    fn says(&self, words: &[&str]) -> (i32, String) {
        let output = self.command(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(text).unwrap(),
        )
    }

    fn expect(&self, words: &[&str], code: i32) -> String {
        let (is, text) = self.says(words);
        assert_eq!(is, code, "{words:?}:\n{text}");
        text
    }

    /// With VIPs and options.
    fn once(&self, words: &[&str]) {
        self.expect(&[words, &["--once"]].concat(), 0);
    }

    fn start(&self, words: &[&str]) -> Process {
        let process = Process::start(self.command(words).stderr(Stdio::null()));
        until(SOON, "it is set up", || {
            (self.says(&[words, &["--check"]].concat()).0 == 0).then_some(())
        });
        process
    }

    fn sh(&self, command: &str) -> String {
        run(self.server.command("sh").args(["-c", command]))
    }

    /// All that may have been changed.
    fn facts(&self) -> String {
        self.sh("ip -o address show | grep -v fe80:; sysctl net.ipv4.conf | grep -e arp_ -e promote -e rp_filter")
    }

    /// `INTERFACE ADDRESS/LENGTH` for each place of this address.
    fn places(&self, address: &str) -> Vec<String> {
        let all = self.sh("ip -o address show");
        let places = all.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {}", words[1], words[3])
        });
        places
            .filter(|place| place.contains(&format!(" {address}/")))
            .collect()
    }

    fn setting(&self, name: &str) -> String {
        self.sh(&format!("sysctl -n {name}")).trim().to_owned()
    }

    /// Whether the neighbour gets an answer to ARP for it.
    fn answers_arp(&self, address: &str) -> bool {
        let ask = [
            "arping", "-q", "-f", "-c", "2", "-w", "2", "-I", "eth0", address,
        ];
        self.neighbour
            .command("busybox")
            .args(ask)
            .status()
            .unwrap()
            .success()
    }

    /// Whether the neighbour gets an answer to an echo request on its own wire, which needs one to a Neighbour
    /// Solicitation.
    fn answers_solicitations(&self, address: &str) -> bool {
        let ask = ["ping", "-6", "-q", "-c", "1", "-W", "2", address];
        self.neighbour
            .command("busybox")
            .args(ask)
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    /// The segments that a client on the neighbour's side may send to this address of the server's.
    fn segment(&self, address: &str) -> i32 {
        let address = SocketAddr::new(address.parse().unwrap(), 80);
        let (listens, listening) = mpsc::channel();
        let server = self.server.handle();
        let serve = std::thread::spawn(move || {
            server.enter();
            let listener = TcpListener::bind(address).unwrap();
            listens.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            drop(stream.read(&mut [0]));
        });
        listening.recv().unwrap();
        let client = self.neighbour.handle();
        let connect = std::thread::spawn(move || {
            client.enter();
            let stream = TcpStream::connect_timeout(&address, SOON).unwrap();
            let mut size: libc::c_int = 0;
            let mut length = size_of::<libc::c_int>() as libc::socklen_t;
            #[expect(
                unsafe_code,
                reason = "nix has no getsockopt for TCP_MAXSEG on this type"
            )]
            // SAFETY: both pointers are to values of the sizes that are told, and live longer than the call.
            let asked = unsafe {
                libc::getsockopt(
                    stream.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    libc::TCP_MAXSEG,
                    (&raw mut size).cast(),
                    &raw mut length,
                )
            };
            assert_eq!(asked, 0);
            size
        });
        let size = connect.join().unwrap();
        serve.join().unwrap();
        size
    }
}

#[test]
fn sets_up_from_nothing_and_undoes_it() {
    let lab = Lab::new();
    lab.server.ip("address add 203.0.113.1/32 dev lo");
    lab.server
        .ip("address add 203.0.113.2/32 dev lo label lo:LVS");
    lab.server.ip("address add 2001:db8:f::1/128 dev lo");
    let before = lab.facts();

    let said = lab.expect(&["192.0.2.11", "2001:db8::11", "--check"], 2);
    for line in [
        "net.ipv4.conf.all.arp_ignore: is 0; should be 1\n",
        "192.0.2.11: is not there; should be on lo as 192.0.2.11/32 with label lo:LVS",
        "2001:db8::11: is not there; should be on lo as 2001:db8::11/128, deprecated\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(lab.facts(), before, "it only looked");

    lab.once(&VIPS);
    let lines = lab.sh("ip -o address show dev lo");
    let line = |vip| lines.lines().find(|line| line.contains(vip)).unwrap();
    assert!(
        line("192.0.2.11/32").contains("scope host lo:LVS"),
        "{lines}"
    );
    assert!(line("2001:db8::11/128").contains("deprecated"), "{lines}");
    for name in ["all", "lo"] {
        assert_eq!(
            lab.setting(&format!("net.ipv4.conf.{name}.arp_ignore")),
            "1"
        );
        assert_eq!(
            lab.setting(&format!("net.ipv4.conf.{name}.arp_announce")),
            "2"
        );
    }
    assert_eq!(
        lab.expect(&["192.0.2.11", "2001:db8::11", "--check"], 0),
        ""
    );
    // Said again it changes nothing.
    let set_up = lab.facts();
    lab.once(&VIPS);
    assert_eq!(lab.facts(), set_up);

    // One less is one less.
    lab.once(&["2001:db8::11"]);
    assert_eq!(lab.places("192.0.2.11"), Vec::<String>::new());
    lab.once(&VIPS);

    lab.expect(&["--remove"], 0);
    assert_eq!(lab.facts(), before);
    lab.expect(&["--remove"], 0);
}

#[test]
fn takes_over_what_was_bound_otherwise() {
    let lab = Lab::new();
    for address in [
        // The first of its network, with another of it behind: that must not go with it.
        "198.51.100.11/24 dev eth0",
        "198.51.100.99/24 dev eth0",
        "192.0.2.12/24 dev eth0",
        "192.0.2.13/32 dev lo",
        "192.0.2.14/30 dev lo",
        "192.0.2.15/32 dev lo label lo:0",
        "192.0.2.16/32 dev lo label lo:LVS",
        "2001:db8::11/64 dev eth0 nodad",
        "2001:db8::12/128 dev lo",
        "2001:db8::13/64 dev lo",
    ] {
        lab.server.ip(&format!("address add {address}"));
    }
    let vips = [
        "198.51.100.11",
        "192.0.2.12",
        "192.0.2.13",
        "192.0.2.14",
        "192.0.2.15",
        "192.0.2.16",
        "2001:db8::11",
        "2001:db8::12",
        "2001:db8::13",
    ];
    let said = lab.expect(&[&vips[..], &["--check"]].concat(), 2);
    for line in [
        "198.51.100.11: is on eth0 as 198.51.100.11/24, where ARP for it is answered;",
        "192.0.2.13: is on lo as 192.0.2.13/32 without label;",
        "192.0.2.15: is on lo as 192.0.2.15/32 with label lo:0;",
        "2001:db8::12: is on lo as 2001:db8::12/128, a source for this host's own connections;",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!said.contains("192.0.2.16"), "{said}");
    let said = lab.expect(&[&vips[..], &["--once"]].concat(), 0);
    let moved =
        "<4>put right what=\"198.51.100.11 on eth0\" was=\"on eth0 as 198.51.100.11/24, where ARP";
    assert!(said.contains(moved), "{said}");
    for vip in vips {
        let length = if vip.contains(':') { 128 } else { 32 };
        assert_eq!(lab.places(vip), [format!("lo {vip}/{length}")]);
    }
    let labelled = lab.sh("ip -o address show label lo:LVS");
    assert_eq!(labelled.lines().count(), 6, "{labelled}");
    assert_eq!(lab.places("198.51.100.99"), ["eth0 198.51.100.99/24"]);
    assert_eq!(lab.setting("net.ipv4.conf.eth0.promote_secondaries"), "0");
    assert_eq!(lab.places("192.0.2.21"), ["eth0 192.0.2.21/24"]);

    // What was right before us is not ours.
    lab.expect(&["--remove"], 0);
    assert_eq!(lab.places("192.0.2.16"), ["lo 192.0.2.16/32"]);
    assert_eq!(lab.places("192.0.2.13"), Vec::<String>::new());
}

#[test]
fn a_servers_own_address_is_not_taken_for_a_vip() {
    let lab = Lab::new();
    lab.server
        .ip("address add 2001:db8::99/64 dev eth0 nodad valid_lft 3600 preferred_lft 3600");
    let said = lab.expect(&["192.0.2.21", "2001:db8::99", "--once"], 2);
    assert!(
        said.contains("192.0.2.21 on eth0: is on eth0 as 192.0.2.21/24"),
        "{said}"
    );
    assert!(
        said.contains("eth0 has no other IPv4 address, this may be the server's own"),
        "{said}"
    );
    assert!(
        said.contains("it comes by DHCP or router advertisements"),
        "{said}"
    );
    assert!(
        lab.places("192.0.2.21")
            .contains(&"eth0 192.0.2.21/24".to_owned())
    );
    assert!(
        lab.places("2001:db8::99")
            .contains(&"eth0 2001:db8::99/64".to_owned())
    );
}

#[test]
fn neighbours_get_no_answer_for_vips() {
    let lab = Lab::new();
    // As a server without this would have them.
    lab.server.ip("address add 192.0.2.11/32 dev lo");
    lab.server.ip("address add 2001:db8::11/64 dev eth0 nodad");
    assert!(lab.answers_arp("192.0.2.11"));
    assert!(lab.answers_solicitations("2001:db8::11"));
    lab.once(&VIPS);
    lab.neighbour.ip("neighbour flush all");
    assert!(!lab.answers_arp("192.0.2.11"));
    assert!(!lab.answers_solicitations("2001:db8::11"));
    // It is not gone from the wire.
    assert!(lab.answers_arp("192.0.2.21"));
    assert!(lab.answers_solicitations("2001:db8::21"));
    // lo's own setting is not what does it.
    lab.sh("sysctl -q net.ipv4.conf.all.arp_ignore=0");
    assert!(lab.answers_arp("192.0.2.11"));
}

#[test]
fn no_vip_where_arp_would_be_answered() {
    let lab = Lab::new();
    // Where its settings can't be written.
    let read_only = "mount -t proc proc /proc && mount -o remount,ro,bind /proc && exec \"$@\"";
    let command = lab.command(&["192.0.2.11", "2001:db8::11", "--once"]);
    let mut words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    // After `netns exec NAME`.
    let program = words.split_off(3);
    let output = Command::new("ip")
        .args(words)
        .args(["unshare", "-m", "sh", "-c", read_only, "sh"])
        .args(program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(2),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("cannot write net.ipv4.conf.all.arp_ignore: /proc/sys is mounted read-only"),
        "{said}"
    );
    assert!(
        said.contains("not before net.ipv4.conf.all.arp_ignore is right"),
        "{said}"
    );
    assert_eq!(lab.places("192.0.2.11"), Vec::<String>::new());
    // What does not need it is done.
    assert_eq!(lab.places("2001:db8::11"), ["lo 2001:db8::11/128"]);
}

#[test]
fn keeps_it_so_and_leaves_it_so() {
    let lab = Lab::new();
    let mut process = lab.start(&VIPS);
    let set_up = lab.facts();
    for by_hand in [
        "ip address del 192.0.2.11/32 dev lo",
        "ip address del 2001:db8::11/128 dev lo",
        "ip address flush dev lo label lo:LVS",
        "sysctl -q net.ipv4.conf.all.arp_ignore=0",
        "sysctl -q net.ipv4.conf.all.arp_announce=1",
        "ip address add 192.0.2.11/24 dev eth0",
    ] {
        lab.sh(by_hand);
        until(SOON, by_hand, || {
            let same = lab.facts() == set_up;
            (same && lab.places("192.0.2.11").len() == 1).then_some(())
        });
    }
    // Another one would undo its work.
    let said = lab.expect(&["192.0.2.12", "--once"], 1);
    assert!(
        said.contains("another plimsoll realserver works here"),
        "{said}"
    );
    lab.expect(&["--remove"], 1);

    process.signal(Signal::SIGTERM);
    until(SOON, "it ends", || process.ended().then_some(()));
    assert_eq!(lab.facts(), set_up);
    let mut process = lab.start(&["192.0.2.12", "2001:db8::11"]);
    assert_eq!(lab.places("192.0.2.11"), Vec::<String>::new());
    process.signal(Signal::SIGTERM);
    until(SOON, "it ends", || process.ended().then_some(()));
    lab.expect(&["--remove"], 0);
    // As it was before the first of them.
    assert_eq!(lab.setting("net.ipv4.conf.all.arp_ignore"), "0");
    assert_eq!(lab.setting("net.ipv4.conf.all.arp_announce"), "0");
}

#[test]
fn settings_of_somebody_else_are_left() {
    let lab = Lab::new();
    lab.sh("sysctl -q net.ipv4.conf.all.arp_ignore=2");
    lab.once(&VIPS);
    assert_eq!(lab.setting("net.ipv4.conf.all.arp_ignore"), "2");
    lab.sh("sysctl -q net.ipv4.conf.lo.arp_announce=1");
    lab.expect(&["--remove"], 0);
    assert_eq!(lab.setting("net.ipv4.conf.all.arp_ignore"), "2");
    assert_eq!(lab.setting("net.ipv4.conf.lo.arp_announce"), "1");
    assert_eq!(lab.setting("net.ipv4.conf.all.arp_announce"), "0");

    // Without what it has written down they are left, and it says so.
    lab.once(&VIPS);
    std::fs::remove_dir_all(lab.files.path().join("state")).unwrap();
    let said = lab.expect(&["--remove"], 0);
    assert!(
        said.contains("does not say what settings were before"),
        "{said}"
    );
    assert_eq!(lab.setting("net.ipv4.conf.all.arp_announce"), "2");
    assert_eq!(lab.places("192.0.2.11"), Vec::<String>::new());
}

#[test]
fn vips_of_the_balancers_configuration() {
    let lab = Lab::new();
    let file = lab.files.path().join("plimsoll.toml");
    let path = file.to_str().unwrap();
    let service = |name: &str, address: &str| {
        format!(
            "[service.{name}]\naddress = \"{address}\"\nport = 80\nprotocol = \"tcp\"\n\
             scheduler = \"wrr\"\nservers = \"file:///x\"\n"
        )
    };
    let (web, six) = (service("web", "192.0.2.11"), service("six", "2001:db8::11"));
    std::fs::write(&file, format!("{web}{six}")).unwrap();
    lab.once(&["--config", path, "--service", "six"]);
    assert_eq!(lab.places("192.0.2.11"), Vec::<String>::new());
    assert_eq!(lab.places("2001:db8::11").len(), 1);
    let said = lab.expect(&["--config", path, "--service", "nine", "--check"], 78);
    assert!(
        said.contains("there is no service nine; there are six, web"),
        "{said}"
    );

    let process = lab.start(&["--config", path]);
    std::fs::write(&file, &six).unwrap();
    process.signal(Signal::SIGHUP);
    until(SOON, "the one that is gone goes", || {
        lab.places("192.0.2.11").is_empty().then_some(())
    });
    // What can't be read changes nothing.
    std::fs::write(&file, "[service.web]\n").unwrap();
    process.signal(Signal::SIGHUP);
    lab.sh("ip address del 2001:db8::11/128 dev lo");
    until(SOON, "it is kept", || {
        (lab.places("2001:db8::11").len() == 1).then_some(())
    });
}

/// The kernel may have no device for it: the rest is done all the same.
#[test]
fn clients_of_a_tunnelled_vip_send_smaller_segments() {
    let lab = Lab::new();
    lab.sh("nft add table inet somebody");
    lab.once(&VIPS);
    // The VIPs' way from the neighbour, as a balancer would send them.
    lab.neighbour.ip("route add 192.0.2.11/32 via 192.0.2.21");
    lab.neighbour
        .ip("route add 2001:db8::11/128 via 2001:db8::21");
    // Without the 12 bytes of TCP's timestamps.
    let segments = || VIPS.map(|vip| lab.segment(vip) + 12);
    assert_eq!(segments(), [1460, 1440]);
    for (options, expected) in [
        (&["--tunnel", "ipip"][..], [1440, 1400]),
        (&["--tunnel", "gre"], [1436, 1396]),
        (&["--tunnel", "gre:checksum"], [1432, 1392]),
        (&["--tunnel", "gue:6080"], [1428, 1388]),
        (&["--tunnel", "ipip", "--over-ipv6"], [1420, 1400]),
        (&["--tunnel", "ipip", "--mtu", "1400"], [1340, 1300]),
        (&["--tunnel", "ipip", "--mtu", "9000"], [1460, 1440]),
    ] {
        lab.says(&[&VIPS, options, &["--once"]].concat());
        assert_eq!(segments(), expected, "{options:?}");
    }
    // The server's own addresses are not meant.
    assert_eq!(lab.segment("192.0.2.21") + 12, 1460);

    lab.says(&[&VIPS[..], &["--tunnel", "ipip", "--once"]].concat());
    let right = lab.sh("nft list table inet plimsoll");
    let by_hand = "nft add rule inet plimsoll output counter";
    lab.sh(by_hand);
    let said = lab
        .says(&[&VIPS[..], &["--tunnel", "ipip", "--check"]].concat())
        .1;
    assert!(
        said.contains("table inet plimsoll: is another one than ours"),
        "{said}"
    );
    lab.says(&[&VIPS[..], &["--tunnel", "ipip", "--once"]].concat());
    assert_eq!(lab.sh("nft list table inet plimsoll"), right);
    lab.expect(&["--remove"], 0);
    assert_eq!(lab.sh("nft list tables"), "table inet somebody\n");
}

#[test]
fn what_the_command_line_may_not_be() {
    let lab = Lab::new();
    for (words, expected) in [
        (&[][..], "required"),
        (&["192.0.2.11/32"], "without a length"),
        (&["127.0.0.1"], "no address that clients could reach"),
        (&["fe80::1"], "no address that clients could reach"),
        (&["192.0.2.11", "--tunnel", "gue"], "gue needs its UDP port"),
        (
            &["192.0.2.11", "--tunnel", "gue:0"],
            "gue needs its UDP port",
        ),
        (
            &["192.0.2.11", "--tunnel", "vxlan"],
            "write ipip, gre, gre:checksum or gue:PORT",
        ),
        (&["192.0.2.11", "--remove"], "cannot be used with"),
        (&["192.0.2.11", "--check", "--once"], "cannot be used with"),
    ] {
        let said = lab.expect(words, 64);
        assert!(said.contains(expected), "{words:?}: {said}");
    }
}

#[test]
fn as_json() {
    let lab = Lab::new();
    let said = lab.expect(&["2001:db8::11", "--check", "--json"], 2);
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    let expected = serde_json::json!({
        "differences": [{
            "what": "2001:db8::11",
            "is": "not there",
            "should-be": "on lo as 2001:db8::11/128, deprecated",
        }],
        "faults": [],
    });
    assert_eq!(json, expected);
}
