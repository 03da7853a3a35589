//! Real etcd for tests: a cluster of Debian's etcd on loopback, each member a process that can be killed,
//! frozen and started again. Gone when dropped.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a member may take to answer after its start.
const START: Duration = Duration::from_secs(30);

pub struct Cluster {
    members: Vec<Member>,
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    scheme: &'static str,
    /// NAME:PASSWORD for etcdctl.
    user: Option<String>,
}

struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Cluster {
    /// `size` members, v2 API included; returns when all of them answer.
    pub fn start(size: usize) -> Cluster {
        Cluster::start_with(size, "http", &[])
    }

    /// With more arguments for each member; `scheme` https if they are such that clients need TLS.
    pub fn start_with(size: usize, scheme: &'static str, arguments: &[&str]) -> Cluster {
        let ports = ports(2 * size);
        let mut cluster = Cluster {
            members: ports
                .chunks(2)
                .map(|pair| Member {
                    client: pair[0],
                    peer: pair[1],
                    process: None,
                })
                .collect(),
            directory: tempfile::tempdir().expect("a folder"),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            scheme,
            user: None,
        };
        for index in 0..size {
            cluster.spawn(index);
        }
        if scheme == "http" {
            cluster.wait_for_all();
        }
        cluster
    }

    /// Each member's URL for clients.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| format!("{}://127.0.0.1:{}", self.scheme, member.client))
            .collect()
    }

    /// `[etcd]` as a configuration has it.
    pub fn section(&self) -> String {
        format!("[etcd]\nendpoints = {:?}\n", self.endpoints())
    }

    /// A folder that lives as long as the cluster.
    pub fn folder(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Starts a member that was killed, with what it had on disk.
    pub fn spawn(&mut self, index: usize) {
        let everyone = self.everyone();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join(format!("m{index}.log")))
            .expect("a log");
        let data = self.data(index);
        let member = &mut self.members[index];
        let client = format!("{}://127.0.0.1:{}", self.scheme, member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let process = Command::new("etcd")
            .args(["--name", &format!("m{index}")])
            .args(["--data-dir".as_ref(), data.as_os_str()])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &everyone])
            .args(["--enable-v2=true", "--unsafe-no-fsync"])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("Debian's etcd-server is installed");
        member.process = Some(process);
    }

    /// `--initial-cluster`
    fn everyone(&self) -> String {
        let members = self.members.iter().enumerate();
        let members = members.map(|(i, member)| format!("m{i}=http://127.0.0.1:{}", member.peer));
        members.collect::<Vec<_>>().join(",")
    }

    /// Where a member keeps its data.
    pub fn data(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("m{index}"))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it ends");
        }
    }

    /// A member that was killed forgets all it had.
    pub fn wipe(&self, index: usize) {
        assert!(self.members[index].process.is_none(), "it runs");
        std::fs::remove_dir_all(self.data(index)).expect("its data");
    }

    /// A backup of what a member has now.
    pub fn save(&self, index: usize) -> PathBuf {
        let path = self.directory.path().join("backup");
        let endpoint = &self.endpoints()[index..=index];
        let name = path.to_str().expect("UTF-8");
        let run = self.try_etcdctl(endpoint, &["snapshot", "save", name]);
        run.unwrap_or_else(|error| panic!("snapshot save: {error}"));
        path
    }

    /// All members, which were killed, have what the backup has, and nothing else. To etcd it is a new
    /// cluster, of the same members; they are not started.
    pub fn restore(&self, backup: &std::path::Path) {
        let everyone = self.everyone();
        for (index, member) in self.members.iter().enumerate() {
            self.wipe(index);
            let (name, data) = (format!("m{index}"), self.data(index));
            let peer = format!("http://127.0.0.1:{}", member.peer);
            let mut arguments = vec!["snapshot", "restore", backup.to_str().expect("UTF-8")];
            arguments.extend(["--name", &name, "--initial-cluster", &everyone]);
            arguments.extend(["--initial-advertise-peer-urls", &peer]);
            arguments.extend(["--data-dir", data.to_str().expect("UTF-8")]);
            let run = self.try_etcdctl(&[], &arguments);
            run.unwrap_or_else(|error| panic!("snapshot restore: {error}"));
        }
    }

    /// From now on etcdctl runs as this user, `NAME:PASSWORD`.
    pub fn log_in(&mut self, user: &str) {
        self.user = Some(user.to_owned());
    }

    /// SIGSTOP: its connections stay open, and nothing answers.
    pub fn freeze(&self, index: usize) {
        self.signal(index, Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::SIGCONT);
    }

    fn signal(&self, index: usize, signal: Signal) {
        let process = self.members[index].process.as_ref().expect("it runs");
        let pid = i32::try_from(process.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// Runs `etcdctl` (v3) against all members and gives its output; panics if it fails.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let run = self.try_etcdctl(&self.endpoints(), arguments);
        run.unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    fn try_etcdctl(&self, endpoints: &[String], arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoints.join(",")])
            .args(["--command-timeout", "5s"])
            .args(self.user.iter().flat_map(|user| ["--user", user]))
            .args(arguments)
            .output()
            .expect("Debian's etcd-client is installed");
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).expect("UTF-8"))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// The member that leads, once there is one. Members that are not running are passed over.
    pub fn leader(&self) -> usize {
        let end = Instant::now() + START;
        loop {
            for (index, member) in self.members.iter().enumerate() {
                if member.process.is_some() && self.leads(index) {
                    return index;
                }
            }
            assert!(Instant::now() < end, "no leader");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn leads(&self, index: usize) -> bool {
        let endpoint = &self.endpoints()[index..=index];
        let Ok(text) = self.try_etcdctl(endpoint, &["endpoint", "status", "-w", "json"]) else {
            return false;
        };
        let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let status = &status[0]["Status"];
        status["leader"] == status["header"]["member_id"]
    }

    /// Waits until every running member answers.
    pub fn wait_for_all(&self) {
        let end = Instant::now() + START;
        for (index, member) in self.members.iter().enumerate() {
            let endpoint = &self.endpoints()[index..=index];
            while member.process.is_some() && self.try_etcdctl(endpoint, &["get", "none"]).is_err()
            {
                assert!(Instant::now() < end, "member {index} does not answer");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

/// Waits for it, for a minute at most.
pub fn until(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !there() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ports that are free now. None that the kernel gives to those who ask for any (ip(7),
/// `ip_local_port_range`): a connection could have it while its member is down.
fn ports(number: usize) -> Vec<u16> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    while listeners.len() < number {
        listeners.extend(TcpListener::bind((
            "127.0.0.1",
            fastrand::u16(10_000..32_000),
        )));
    }
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    listeners.iter().map(port).collect()
}
