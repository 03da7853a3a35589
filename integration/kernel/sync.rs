//! Connection synchronisation between two balancers, each with its daemon.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::netns::{Namespace, Process, run, until};
use super::vip::get;

const LIMIT: Duration = Duration::from_secs(30);
const VIP: &str = "192.0.2.1";

struct Balancer {
    host: Namespace,
    directory: tempfile::TempDir,
}

impl Balancer {
    fn new(label: &str) -> Balancer {
        Balancer {
            host: Namespace::new(label),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn configure(&self, sync: &str) {
        let directory = self.directory.path().display();
        let text = format!(
            "[daemon]\nstate-directory = \"{directory}\"\n[api]\ncontrol = \"{directory}/control.sock\"\n{sync}
[service.web]\naddress = \"{VIP}\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"rr\"\nvip-reachability = false
server = [{{ host = \"10.0.0.1\" }}]\n"
        );
        std::fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> Box<Path> {
        self.directory.path().join("plimsoll.toml").into()
    }

    fn start(&self) -> Process {
        let mut daemon = self.host.command(env!("CARGO_BIN_EXE_plimsoll"));
        daemon.arg("run").arg("--config").arg(&*self.file());
        Process::start(daemon.stdout(Stdio::null()))
    }

    fn sh(&self, script: &str) -> String {
        run(self.host.command("sh").args(["-ec", script]))
    }

    fn threads(&self) -> Vec<String> {
        let text = self.sh("ipvsadm -L --daemon");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn until_threads(&self, roles: &[&str]) {
        until(LIMIT, &format!("{roles:?}"), || {
            let threads = self.threads();
            let starts = |(thread, role): (&String, &&str)| thread.starts_with(*role);
            let all = threads.len() == roles.len() && threads.iter().zip(roles).all(starts);
            all.then_some(())
        });
    }
}

#[test]
fn a_connection_by_one_balancer_is_known_to_the_other() {
    let [one, other] = ["one", "other"].map(Balancer::new);
    one.host
        .cable("eth0", &["10.9.0.1/24"], &other.host, &["10.9.0.2/24"]);
    let client = Namespace::new("client");
    one.host
        .cable("eth1", &["10.8.0.1/24"], &client, &["10.8.0.2/24"]);
    client.ip(&format!("route add {VIP}/32 via 10.8.0.1"));
    // The server is the balancer itself: what matters here is the balancer's table.
    one.sh("ip address add 10.0.0.1/32 dev lo");
    let sync = "[ipvs.sync]\nrole = \"both\"\ninterface = \"eth0\"\nsync-id = 7\n";
    for balancer in [&one, &other] {
        balancer.configure(sync);
    }
    let daemon = one.start();
    let _second = other.start();
    for balancer in [&one, &other] {
        balancer.until_threads(&["master sync daemon", "backup sync daemon"]);
        until(LIMIT, "its service and address", || {
            let there = balancer.sh("ipvsadm -Sn; ip -o address show dev lo");
            (there.contains("-r 10.0.0.1:80") && there.contains(VIP)).then_some(())
        });
    }

    let vip: SocketAddr = format!("{VIP}:80").parse().unwrap();
    let (host, away) = (one.host.handle(), client.handle());
    let listen = move || {
        host.enter();
        TcpListener::bind(vip).unwrap()
    };
    let connect = move || {
        away.enter();
        let mut connection = TcpStream::connect_timeout(&vip, LIMIT).unwrap();
        // It is told of with the third packet: sync_threshold.
        connection.write_all(b"hello").unwrap();
        connection
    };
    let _listener = std::thread::spawn(listen).join().unwrap();
    let connection = std::thread::spawn(connect).join().unwrap();
    let from = connection.local_addr().unwrap().to_string();
    for (balancer, which) in [(&one, "one"), (&other, "other")] {
        let what = format!("a connection from {from} at {which}");
        until(LIMIT, &what, || {
            let connections = balancer.sh("ipvsadm -Lnc");
            let is = |line: &str| line.contains("ESTABLISHED") && line.contains(&from);
            connections.lines().any(is).then_some(())
        });
    }

    // Stopped by hand, and started otherwise.
    for by_hand in [
        "ipvsadm --stop-daemon master",
        "ipvsadm --stop-daemon backup
            ipvsadm --start-daemon backup --mcast-interface eth0 --syncid 8",
    ] {
        let repairs = || get(&one.host, "/repairs").lines().count();
        let before = repairs();
        one.sh(by_hand);
        until(LIMIT, "it is told of", || {
            (repairs() > before).then_some(())
        });
        one.until_threads(&["master sync daemon", "backup sync daemon"]);
        assert!(!one.sh("ipvsadm -L --daemon").contains("syncid=8"));
    }
    let told = get(&one.host, "/repairs");
    assert!(
        told.contains(
            "connection-sync: gone -> master on eth0, sync-id 7, group 224.0.0.81, port 8848, ttl 1"
        ),
        "{told}"
    );

    // Other roles, none, and none of ours.
    for (sync, roles) in [
        (
            sync.replace("both", "backup"),
            &["backup sync daemon"] as &[&str],
        ),
        (String::new(), &[]),
    ] {
        one.configure(&sync);
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        one.until_threads(roles);
    }
    one.sh("ipvsadm --start-daemon master --mcast-interface eth0 --syncid 9");
    std::thread::sleep(Duration::from_secs(5));
    one.until_threads(&["master sync daemon"]);

    // What cannot be done is told, and holds up nothing.
    one.configure("[ipvs.sync]\nrole = \"backup\"\ninterface = \"nosuch0\"\n");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    until(LIMIT, "an alert", || {
        let alerts = get(&one.host, "/alerts");
        let fault = "connection-sync: cannot start the backup on nosuch0";
        alerts.contains(fault).then_some(())
    });
}
