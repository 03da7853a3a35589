//! Who checks: the daemon, or keepalived with the same to do.

use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::SERVERS;
use crate::netns::{Namespace, Process};
use crate::server::PORT;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Plimsoll,
    Keepalived,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Plimsoll => "plimsoll",
            Kind::Keepalived => "keepalived",
        })
    }
}

pub(crate) fn has_ipvs() -> bool {
    Path::new("/proc/net/ip_vs").exists()
}

pub(crate) struct Balancer {
    process: Process,
    folder: TempDir,
}

impl Balancer {
    pub(crate) fn start(kind: Kind, namespace: &Namespace, servers: usize) -> Balancer {
        let folder = tempfile::tempdir().unwrap();
        let mut command = match kind {
            Kind::Plimsoll => plimsoll(namespace, folder.path(), servers),
            Kind::Keepalived => keepalived(namespace, folder.path(), servers),
        };
        let log = fs::File::create(folder.path().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Balancer {
            process: Process::start(&mut command),
            folder,
        }
    }

    /// Ends the benchmark with its log if it did not last.
    pub(crate) fn expect_running(&mut self) {
        if self.process.ended() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
            panic!("it has ended:\n{log}");
        }
    }

    /// Processor time of it and its children, so far.
    pub(crate) fn busy(&self) -> Duration {
        let ticks: u64 = self.family().iter().map(|pid| ticks(*pid)).sum();
        // USER_HZ is 100 on all of Linux's architectures that have it in /proc.
        Duration::from_millis(ticks * 10)
    }

    /// Resident, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.family().iter().map(|pid| resident(*pid)).sum()
    }

    fn family(&self) -> Vec<u32> {
        let own = self.process.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        children.chain([own]).collect()
    }
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // proc_pid_stat(5): utime and stime are the 14th and 15th, the second is a name in brackets.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// By service: its VIP and its servers.
fn services(servers: usize) -> impl Iterator<Item = (usize, String, Vec<String>)> {
    (0..servers.div_ceil(SERVERS)).map(move |service| {
        let first = service * SERVERS;
        let hosts = first..servers.min(first + SERVERS);
        let host = |n: usize| format!("127.{}.{}.{}", 1 + n / 60_000, n / 250 % 240, 1 + n % 250);
        let vip = format!("198.18.{}.{}", service / 250, 1 + service % 250);
        (service, vip, hosts.map(host).collect())
    })
}

fn plimsoll(namespace: &Namespace, folder: &Path, servers: usize) -> Command {
    let state = folder.join("state");
    let mut text = format!(
        "[daemon]\nstate-directory = {state:?}\nmanage-addresses = false\n[api]\ncontrol = {:?}\n",
        folder.join("control")
    );
    for (n, vip, hosts) in services(servers) {
        let _ = write!(
            text,
            "[service.s{n}]\naddress = \"{vip}\"\nport = {PORT}\nvip-reachability = false\nprotocol = \"tcp\"\nscheduler = \"wrr\"\n\
             [[service.s{n}.monitor]]\ntype = \"proxy-fetch\"\nurl = \"http://www.example.org/\"\n\
             interval = \"1s\"\ntimeout = \"5s\"\n\
             [[service.s{n}.monitor]]\ntype = \"tcp\"\ninterval = \"1s\"\ntimeout = \"5s\"\n"
        );
        for host in hosts {
            let _ = write!(text, "[[service.s{n}.server]]\nhost = \"{host}\"\n");
        }
    }
    let file = folder.join("plimsoll.toml");
    fs::write(&file, text).unwrap();
    let mut command = namespace.command(env!("CARGO_BIN_EXE_plimsoll"));
    let table = if has_ipvs() { "kernel" } else { "memory" };
    command.args(["run", "--ipvs", table, "-c"]).arg(file);
    command
}

fn keepalived(namespace: &Namespace, folder: &Path, servers: usize) -> Command {
    let mut text = String::from("global_defs {\n script_user root\n}\n");
    for (_, vip, hosts) in services(servers) {
        let _ = write!(
            text,
            "virtual_server {vip} {PORT} {{\n delay_loop 1\n lb_algo wrr\n lb_kind DR\n protocol TCP\n"
        );
        for host in hosts {
            let _ = write!(
                text,
                " real_server {host} {PORT} {{\n  weight 10\n\
                 \x20 HTTP_GET {{\n   url {{\n    path /\n    status_code 200\n   }}\n   connect_timeout 5\n  }}\n\
                 \x20 TCP_CHECK {{\n   connect_timeout 5\n  }}\n }}\n"
            );
        }
        text += "}\n";
    }
    let file = folder.join("keepalived.conf");
    fs::write(&file, text).unwrap();
    let mut command = namespace.command("keepalived");
    if !has_ipvs() {
        command.env("LD_PRELOAD", no_ipvs(folder));
    }
    // In the foreground, only the checkers, quietly.
    command.args(["--dont-fork", "--log-console", "--check", "--use-file"]);
    command.arg(file);
    for (option, name) in [("--pid", "pid"), ("--checkers_pid", "checkers")] {
        command.arg(option).arg(folder.join(name));
    }
    command
}

/// A library that stands for IPVS, so that keepalived checks without it.
fn no_ipvs(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("no_ipvs.c"), folder.join("no_ipvs.so"));
    fs::write(&source, include_str!("no_ipvs.c")).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]);
    let compiled = compile.arg(&library).arg(&source).status().unwrap();
    assert!(compiled.success(), "{compile:?}");
    library
}
