//! `vip-reachability` and `path = "vip"`, in network namespaces: a balancer and a server at the two ends of a cable,
//! whose kernels know nothing of the checks.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto};
use nix::sys::time::TimeValLike;
use plimsoll::check::{Check, Monitor, Path, Probe};
use plimsoll::event::{CheckId, Event, Verdict};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::edge::{Edge, PATIENCE};
use super::netns::{Namespace, run};
use super::server::{Server, head};
use super::{check, down, fetch, list, start};

/// Balancer, server, VIP: of each family.
const US: [&str; 2] = ["10.9.0.1", "fd00:9::1"];
const SERVER: [&str; 2] = ["10.9.0.2", "fd00:9::2"];
const VIP: [&str; 2] = ["10.100.0.1", "fd00:100::1"];
const LENGTH: [&str; 2] = ["24", "64"];
const URL: &str = "http://www.example.org/";

/// A balancer, a server, and the cable `eth1`. The VIPs are on the server's `lo`.
struct Lab {
    balancer: Namespace,
    server: Namespace,
}

impl Lab {
    fn new() -> Lab {
        let (balancer, server) = (Namespace::new("lb"), Namespace::new("srv"));
        // Else the kernel asks for no IPv6 neighbour before it is sure of its own link-local address, which takes a second.
        for host in [&balancer, &server] {
            no_dad(host);
        }
        let with_length = |ours: [&str; 2]| [0, 1].map(|n| format!("{}/{}", ours[n], LENGTH[n]));
        let (near, far) = (with_length(US), with_length(SERVER));
        balancer.cable("eth1", &[&near[0], &near[1]], &server, &[&far[0], &far[1]]);
        for address in SERVER {
            answers(&balancer, address);
        }
        let lab = Lab { balancer, server };
        lab.bind(&lab.server);
        lab
    }

    /// Puts the VIPs on its `lo`.
    fn bind(&self, host: &Namespace) {
        for address in VIP {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            host.ip(&format!("address add {address} dev lo{nodad}"));
        }
    }

    fn unbind(&self, host: &Namespace) {
        host.ip(&format!("address del {}/32 dev lo", VIP[0]));
        host.ip(&format!("address del {}/128 dev lo", VIP[1]));
    }

    /// What of TCP there is at the server beside its listening sockets.
    fn left_at_server(&self) -> String {
        run(self
            .server
            .command("ss")
            .args(["-tanH", "exclude", "listening"]))
    }

    async fn until_nothing_is_left(&self) {
        let since = Instant::now();
        while !self.left_at_server().is_empty() {
            let left = self.left_at_server();
            assert!(since.elapsed() < PATIENCE, "left at the server:\n{left}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs the test on a thread of its own, at the balancer.
    fn at_balancer<T: Send>(&self, test: impl AsyncFnOnce() -> T + Send) -> T {
        let balancer = self.balancer.handle();
        let run = || {
            balancer.enter();
            runtime().block_on(test())
        };
        std::thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A key of sysctl(8) below `net`.
fn set(host: &Namespace, setting: &str) {
    run(host
        .command("sysctl")
        .args(["-qw", &format!("net.{setting}")]));
}

/// Waits until the address answers: a kernel loses the first packets on a cable that is new.
fn answers(host: &Namespace, address: &str) {
    let handle = host.handle();
    let address = SocketAddr::new(address.parse().unwrap(), 9);
    let connect = move || {
        handle.enter();
        TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.kind())
    };
    let connected = std::thread::spawn(connect).join().unwrap();
    assert_eq!(connected.err(), Some(ErrorKind::ConnectionRefused));
}

/// No duplicate address detection on interfaces that are still to come.
fn no_dad(host: &Namespace) {
    set(host, "ipv6.conf.all.accept_dad=0");
    set(host, "ipv6.conf.default.accept_dad=0");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A web server at the server, until it is dropped.
struct Web {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Its pages have so many bytes.
    fn start(lab: &Lab, address: SocketAddr, size: usize) -> Web {
        let (end, ended) = oneshot::channel();
        let (ready, started) = std_mpsc::channel();
        let server = lab.server.handle();
        let serve = move || {
            server.enter();
            runtime().block_on(async {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{}",
                    "x".repeat(size)
                );
                let _server = Server::start(&address.to_string(), move |mut stream| {
                    let answer = answer.clone();
                    async move {
                        head(&mut stream).await?;
                        stream.write_all(answer.as_bytes()).await
                    }
                })
                .await;
                ready.send(()).unwrap();
                let _ = ended.await;
            });
        };
        let thread = std::thread::spawn(serve);
        started.recv().unwrap();
        Web {
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.end.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn reachability() -> Monitor {
    Monitor::new(
        Probe::VipReachability,
        Duration::from_millis(100),
        Duration::from_millis(600),
    )
}

/// `proxy-fetch` on the true path.
fn fetch_at_vip() -> Monitor {
    Monitor {
        path: Path::Vip,
        timeout: Duration::from_secs(2),
        ..fetch(URL)
    }
}

fn both() -> [Monitor; 2] {
    [reachability(), fetch_at_vip()]
}

/// A check of this server, for the VIP of its family, at port 80.
fn at(server: IpAddr, monitor: Monitor) -> std::sync::Arc<Check> {
    let vip = VIP[usize::from(server.is_ipv6())].parse().unwrap();
    let mut check = Check::clone(&check(SocketAddr::new(server, 80), monitor));
    check.vip = vip;
    check.into()
}

async fn first_verdict(server: &str, monitor: Monitor) -> Verdict {
    super::verdict(&mut watch(server, monitor)).await
}

fn watch(server: &str, monitor: Monitor) -> Edge {
    let edge = start();
    list(&edge, [(1, at(server.parse().unwrap(), monitor))]);
    edge
}

fn web_at(vip: &str) -> SocketAddr {
    SocketAddr::new(vip.parse().unwrap(), 80)
}

fn silent(vip: &str) -> Verdict {
    down(&format!(
        "does not answer for VIP {vip} port 80: is it bound on lo?"
    ))
}

fn refused(vip: &str) -> Verdict {
    down(&format!("connection refused at VIP {vip} port 80"))
}

/// Good, without a listener, without the VIP: each is known for what it is, and nothing is left at the server.
fn tells_servers_apart(bound_here: bool, rp_filter: u8) {
    let lab = Lab::new();
    if bound_here {
        lab.bind(&lab.balancer);
    }
    for of in ["all", "default", "eth1"] {
        set(
            &lab.balancer,
            &format!("ipv4.conf.{of}.rp_filter={rp_filter}"),
        );
    }
    lab.at_balancer(async || {
        for (server, vip) in SERVER.into_iter().zip(VIP) {
            let web = Web::start(&lab, web_at(vip), 100);
            for monitor in both() {
                assert_eq!(first_verdict(server, monitor).await, Verdict::Up, "{vip}");
            }
            lab.until_nothing_is_left().await;
            drop(web);
            for monitor in both() {
                assert_eq!(first_verdict(server, monitor).await, refused(vip));
            }
        }
        lab.unbind(&lab.server);
        for (server, vip) in SERVER.into_iter().zip(VIP) {
            // At the server's own address there is somebody, as there may well be in earnest.
            let _web = Web::start(&lab, SocketAddr::new(server.parse().unwrap(), 80), 100);
            for monitor in both() {
                assert_eq!(first_verdict(server, monitor).await, silent(vip));
            }
            assert_eq!(first_verdict(server, fetch(URL)).await, Verdict::Up);
        }
    });
}

#[test]
fn servers_are_told_apart_with_the_vip_on_this_host() {
    for rp_filter in 0..=2 {
        tells_servers_apart(true, rp_filter);
    }
}

#[test]
fn servers_are_told_apart_with_the_vip_elsewhere() {
    for rp_filter in 0..=2 {
        tells_servers_apart(false, rp_filter);
    }
}

#[test]
fn a_server_is_found_within_an_interval_and_comes_back() {
    let lab = Lab::new();
    lab.bind(&lab.balancer);
    lab.at_balancer(async || {
        for (server, vip) in SERVER.into_iter().zip(VIP) {
            let _web = Web::start(&lab, web_at(vip), 100);
            let mut edge = watch(server, reachability());
            assert_eq!(super::verdict(&mut edge).await, Verdict::Up);
            lab.unbind(&lab.server);
            let since = Instant::now();
            assert_eq!(super::verdict(&mut edge).await, silent(vip));
            // An interval, a timeout, and some patience with a machine that is busy.
            assert!(since.elapsed() < Duration::from_secs(2), "{since:?}");
            lab.bind(&lab.server);
            assert_eq!(super::verdict(&mut edge).await, Verdict::Up);
        }
    });
}

#[test]
fn a_whole_page_comes_over_the_true_path() {
    let lab = Lab::new();
    lab.bind(&lab.balancer);
    lab.at_balancer(async || {
        for (server, vip) in SERVER.into_iter().zip(VIP) {
            let _web = Web::start(&lab, web_at(vip), 700_000);
            assert_eq!(first_verdict(server, fetch_at_vip()).await, Verdict::Up);
        }
        lab.until_nothing_is_left().await;
    });
}

#[test]
fn many_checks_at_once_leave_nothing_behind() {
    let lab = Lab::new();
    lab.bind(&lab.balancer);
    lab.at_balancer(async || {
        let _webs = VIP.map(|vip| Web::start(&lab, web_at(vip), 100));
        let mut edge = start();
        let checks = (0..200u64).map(|id| {
            let server = SERVER[id as usize % 2].parse().unwrap();
            let monitor = both()[id as usize / 2 % 2].clone();
            let often = Monitor {
                timeout: PATIENCE,
                ..monitor
            };
            (id, at(server, often))
        });
        list(&edge, checks);
        let mut up = BTreeSet::new();
        while up.len() < 200 {
            let Event::Checked { check, verdict, .. } = edge.event().await else {
                continue;
            };
            assert_eq!(verdict, Verdict::Up, "{check:?}");
            up.insert(check);
        }
        // They go on and stay up.
        edge.silent(Duration::from_secs(2)).await;
        drop(edge);
        lab.until_nothing_is_left().await;
        let balancer = run(lab.balancer.command("ss").args(["-tanH"]));
        assert_eq!(balancer, "", "nothing is left here");
    });
}

#[test]
fn a_thousand_checks_a_second_are_cheap() {
    let lab = Lab::new();
    lab.bind(&lab.balancer);
    lab.at_balancer(async || {
        let _webs = VIP.map(|vip| Web::start(&lab, web_at(vip), 100));
        let mut edge = start();
        let each_second = Monitor {
            interval: Duration::from_secs(1),
            timeout: PATIENCE,
            ..reachability()
        };
        let checks = (0..1000u64).map(|id| {
            let server = SERVER[id as usize % 2].parse().unwrap();
            (id, at(server, each_second.clone()))
        });
        list(&edge, checks);
        for _ in 0..1000 {
            let event = edge.event().await;
            let Event::Checked { verdict, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!(verdict, Verdict::Up);
        }
        let (before, since) = (cpu_time(), Instant::now());
        edge.silent(Duration::from_secs(5)).await;
        let share = (cpu_time() - before).as_secs_f64() / since.elapsed().as_secs_f64();
        println!(
            "1,000 checks a second take {:.1} % of a processor",
            share * 100.0
        );
        // Without the compiler's optimizations, and with what the server's kernel does for them.
        assert!(share < 0.5, "{share}");
    });
}

/// Of this thread, on which all checks run, and of the kernel for it.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let sum = usage.user_time() + usage.system_time();
    Duration::from_micros(u64::try_from(sum.num_microseconds()).unwrap())
}

#[test]
fn neighbours_come_and_go() {
    let lab = Lab::new();
    lab.bind(&lab.balancer);
    for setting in [
        "ipv4.conf.eth1.arp_notify=1",
        "ipv6.conf.eth1.ndisc_notify=1",
    ] {
        set(&lab.server, setting);
    }
    lab.at_balancer(async || {
        for (server, vip) in SERVER.into_iter().zip(VIP) {
            let _web = Web::start(&lab, web_at(vip), 100);
            for monitor in both() {
                let patient = Monitor {
                    timeout: Duration::from_secs(6),
                    ..monitor
                };
                let mut edge = watch(server, patient.clone());
                assert_eq!(super::verdict(&mut edge).await, Verdict::Up);
                lab.balancer.ip("neighbour flush dev eth1");
                edge.silent(Duration::from_millis(500)).await;
                // One that knows nothing of the server has the kernel find it.
                lab.balancer.ip("neighbour flush dev eth1");
                assert_eq!(first_verdict(server, patient).await, Verdict::Up);
                // The server says that it has another address, and a check that runs sees it.
                let address = format!("02:00:00:00:00:{:02x}", fastrand::u8(..));
                lab.server.ip(&format!("link set eth1 address {address}"));
                edge.silent(Duration::from_secs(3)).await;
            }
        }
    });
}

#[test]
fn a_server_behind_a_router_is_asked_through_it() {
    let lab = Lab::new();
    let (far, router) = (Namespace::new("far"), &lab.server);
    no_dad(&far);
    let [v4, v6] = ["10.8.0.1/24", "fd00:8::1/64"];
    router.cable("eth2", &[v4, v6], &far, &["10.8.0.2/24", "fd00:8::2/64"]);
    for address in ["10.8.0.2", "fd00:8::2"] {
        answers(router, address);
    }
    lab.unbind(router);
    lab.bind(&far);
    for setting in ["ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1"] {
        set(router, setting);
    }
    for n in [0, 1] {
        let far_away = ["10.8.0.2", "fd00:8::2"][n];
        lab.balancer
            .ip(&format!("route add {far_away} via {}", SERVER[n]));
        router.ip(&format!("route add {} via {far_away}", VIP[n]));
        far.ip(&format!(
            "route add {} via {}",
            US[n],
            ["10.8.0.1", "fd00:8::1"][n]
        ));
    }
    let lab = Lab {
        balancer: lab.balancer,
        server: far,
    };
    lab.at_balancer(async || {
        for (server, vip) in ["10.8.0.2", "fd00:8::2"].into_iter().zip(VIP) {
            let _web = Web::start(&lab, web_at(vip), 100);
            for monitor in both() {
                assert_eq!(first_verdict(server, monitor).await, Verdict::Up);
            }
        }
    });
}

#[test]
fn what_is_wrong_before_the_server() {
    let lab = Lab::new();
    lab.at_balancer(async || {
        for monitor in both() {
            for (server, reason) in [
                ("10.9.0.77", "no neighbour (ARP) answer from 10.9.0.77"),
                ("fd00:9::77", "no neighbour (ND) answer from fd00:9::77"),
                ("10.77.0.1", "no route to 10.77.0.1"),
                ("fd00:77::1", "no route to fd00:77::1"),
            ] {
                assert_eq!(first_verdict(server, monitor.clone()).await, down(reason));
            }
        }
        // The balancer itself takes what is for the VIP.
        for server in US {
            assert_eq!(first_verdict(server, reachability()).await, Verdict::Up);
        }
        // The cable is pulled in the middle.
        let _web = Web::start(&lab, web_at(VIP[0]), 100);
        let mut edge = watch(SERVER[0], reachability());
        assert_eq!(super::verdict(&mut edge).await, Verdict::Up);
        lab.balancer.ip("link set eth1 down");
        let Verdict::Down(why) = super::verdict(&mut edge).await else {
            panic!("up without a cable");
        };
        println!("without a cable: {why}");
        lab.balancer.ip("link set eth1 up");
        assert_eq!(super::verdict(&mut edge).await, Verdict::Up);
    });
}

/// A segment to the check, from the VIP.
#[derive(Clone, Copy)]
struct Answer {
    control: TcpControl,
    /// Beyond the SYN's sequence number; `None`: no ACK.
    acknowledged: Option<i32>,
}

const RIGHT: Answer = Answer {
    control: TcpControl::Syn,
    acknowledged: Some(1),
};

/// The bytes of an answer to this packet, whose segment is `tcp`.
fn bytes(ip: &Ipv4Packet<&[u8]>, tcp: &TcpRepr<'_>, answer: Answer) -> Vec<u8> {
    let (from, to) = (
        IpAddress::from(ip.dst_addr()),
        IpAddress::from(ip.src_addr()),
    );
    let answer = TcpRepr {
        src_port: tcp.dst_port,
        dst_port: tcp.src_port,
        control: answer.control,
        seq_number: TcpSeqNumber(7000),
        ack_number: answer
            .acknowledged
            .map(|ahead| TcpSeqNumber(tcp.seq_number.0.wrapping_add(ahead))),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let all = ChecksumCapabilities::default();
    let ip = IpRepr::new(from, to, IpProtocol::Tcp, answer.buffer_len(), 64);
    let mut bytes = vec![0; ip.buffer_len()];
    ip.emit(&mut bytes, &all);
    let payload = &mut bytes[ip.header_len()..];
    answer.emit(&mut TcpPacket::new_unchecked(payload), &from, &to, &all);
    bytes
}

/// What may come in place of an answer, or before it.
fn garbage(ip: &Ipv4Packet<&[u8]>, tcp: &TcpRepr<'_>) -> Vec<Vec<u8>> {
    let answer = |control, acknowledged| {
        let answer = Answer {
            control,
            acknowledged,
        };
        bytes(ip, tcp, answer)
    };
    let right = bytes(ip, tcp, RIGHT);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = right.clone();
        change(&mut bytes);
        bytes
    };
    let with_header = |change: &dyn Fn(&mut Ipv4Packet<&mut Vec<u8>>)| {
        changed(&|bytes| {
            let mut ip = Ipv4Packet::new_unchecked(bytes);
            change(&mut ip);
            ip.fill_checksum();
        })
    };
    vec![
        answer(TcpControl::Syn, Some(2)),
        answer(TcpControl::Syn, Some(0)),
        answer(TcpControl::Syn, Some(i32::MIN)),
        answer(TcpControl::Syn, None),
        answer(TcpControl::None, Some(1)),
        answer(TcpControl::Fin, Some(1)),
        answer(TcpControl::Rst, Some(0)),
        answer(TcpControl::Rst, Some(2)),
        answer(TcpControl::Rst, None),
        // Checksums.
        changed(&|bytes| bytes[36] ^= 0x55),
        changed(&|bytes| bytes[10] ^= 0x55),
        // Fragments, cut off, too long, with headers that lie.
        with_header(&|ip| ip.set_more_frags(true)),
        with_header(&|ip| ip.set_frag_offset(8)),
        with_header(&|ip| ip.set_total_len(60)),
        with_header(&|ip| ip.set_total_len(30)),
        with_header(&|ip| ip.set_total_len(0)),
        changed(&|bytes| bytes[0] = 0x4f),
        changed(&|bytes| bytes[0] = 0x41),
        changed(&|bytes| bytes[32] = 0xf0),
        changed(&|bytes| bytes[32] = 0x10),
        changed(&|bytes| bytes[0] = 0x65),
        right[..39].to_vec(),
        right[..21].to_vec(),
        right[..20].to_vec(),
        vec![0x45; 600],
        // Of somebody else.
        with_header(&|ip| ip.set_src_addr("10.100.0.2".parse().unwrap())),
    ]
}

/// The server's side of things by hand, without its kernel, which does not have the VIP: each SYN and each reset is
/// answered by these packets. Gives the sequence numbers of the resets without an acknowledgment that come, each less
/// the SYN's, until all tests are over.
struct ByHand {
    resets: std_mpsc::Receiver<i32>,
}

impl ByHand {
    fn start(
        lab: &Lab,
        mut answers: impl FnMut(&Ipv4Packet<&[u8]>, &TcpRepr<'_>) -> Vec<Vec<u8>> + Send + 'static,
    ) -> ByHand {
        lab.unbind(&lab.server);
        let (send, resets) = std_mpsc::channel();
        let (ready, started) = std_mpsc::channel();
        let server = lab.server.handle();
        std::thread::spawn(move || {
            server.enter();
            let protocol = Protocol::from(i32::from((libc::ETH_P_IP as u16).to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap();
            ready.send(()).unwrap();
            let mut last = 0;
            let mut buffer = [0; 2000];
            loop {
                let (length, from) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer).unwrap();
                let ip = Ipv4Packet::new_checked(&buffer[..length]).unwrap();
                let Ok(tcp) = TcpPacket::new_checked(ip.payload()) else {
                    continue;
                };
                let all = ChecksumCapabilities::default();
                let (source, to) = (ip.src_addr().into(), ip.dst_addr().into());
                let tcp = TcpRepr::parse(&tcp, &source, &to, &all).expect("right checksums");
                match tcp.control {
                    // A server that has sent nothing yet takes no notice of one that acknowledges something.
                    TcpControl::Rst if tcp.ack_number.is_some() => continue,
                    TcpControl::Rst => {
                        if send.send(tcp.seq_number.0.wrapping_sub(last)).is_err() {
                            return;
                        }
                    }
                    TcpControl::Syn => last = tcp.seq_number.0,
                    TcpControl::None | TcpControl::Psh | TcpControl::Fin => continue,
                }
                for answer in answers(&ip, &tcp) {
                    let to = from.as_ref().unwrap();
                    let sent = sendto(socket.as_raw_fd(), &answer, to, MsgFlags::empty());
                    assert_eq!(sent, Ok(answer.len()));
                }
            }
        });
        started.recv().unwrap();
        ByHand { resets }
    }
}

#[test]
fn garbage_neither_fools_nor_kills_a_check() {
    for monitor in both() {
        let lab = Lab::new();
        lab.bind(&lab.balancer);
        let _server = ByHand::start(&lab, |ip, tcp| match tcp.control {
            TcpControl::Rst => Vec::new(),
            TcpControl::Syn | TcpControl::None | TcpControl::Psh | TcpControl::Fin => {
                garbage(ip, tcp)
            }
        });
        lab.at_balancer(async || {
            let verdict = first_verdict(SERVER[0], monitor.clone()).await;
            assert_eq!(verdict, silent(VIP[0]));
        });
    }
    // And right after it comes an answer.
    for (answer, verdict) in [
        (RIGHT, Verdict::Up),
        (
            Answer {
                control: TcpControl::Rst,
                acknowledged: Some(1),
            },
            refused(VIP[0]),
        ),
    ] {
        let lab = Lab::new();
        lab.bind(&lab.balancer);
        let server = ByHand::start(&lab, move |ip, tcp| {
            if tcp.control == TcpControl::Rst {
                return Vec::new();
            }
            let mut all = garbage(ip, tcp);
            // More than wait for a check at once, all of them, are not what is tried here.
            all.truncate(12);
            all.push(bytes(ip, tcp, answer));
            all
        });
        lab.at_balancer(async || {
            assert_eq!(first_verdict(SERVER[0], reachability()).await, verdict);
        });
        // Connections that are not ours are reset where they say they are (RFC 9293 section 3.10.7.3).
        let resets: Vec<i32> = server.resets.try_iter().collect();
        assert!(resets.contains(&2), "{resets:?}");
    }
}

#[test]
fn a_reset_that_was_lost_is_sent_again() {
    let lab = Lab::new();
    lab.bind(&lab.balancer);
    // As if the first two resets had not come.
    let mut lost = 0;
    let server = ByHand::start(&lab, move |ip, tcp| {
        let acknowledged = match tcp.control {
            TcpControl::Rst if lost == 2 => return Vec::new(),
            TcpControl::Rst => Some(0),
            TcpControl::Syn | TcpControl::None | TcpControl::Psh | TcpControl::Fin => Some(1),
        };
        lost += i32::from(tcp.control == TcpControl::Rst);
        let again = Answer {
            acknowledged,
            ..RIGHT
        };
        vec![bytes(ip, tcp, again)]
    });
    lab.at_balancer(async || {
        let slow = Monitor {
            interval: Duration::from_secs(3600),
            ..reachability()
        };
        let mut edge = watch(SERVER[0], slow);
        assert_eq!(super::verdict(&mut edge).await, Verdict::Up);
        edge.silent(Duration::from_millis(200)).await;
    });
    for _ in 0..3 {
        assert_eq!(server.resets.recv_timeout(PATIENCE), Ok(1));
    }
}

/// Run by itself once more without a capability.
const WITHOUT: &str = "PLIMSOLL_TEST_WITHOUT";

#[test]
fn without_a_capability_there_is_one_alert_and_no_verdict() {
    if let Ok(capability) = std::env::var(WITHOUT) {
        return runtime().block_on(without(&capability));
    }
    let lab = Lab::new();
    for capability in ["net_raw", "net_admin"] {
        lab.balancer.ip("neighbour flush dev eth1");
        let mut again = lab.balancer.command("setpriv");
        again
            .args([&format!("--bounding-set=-{capability}"), "--"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "vip::without_a_capability_there_is_one_alert_and_no_verdict",
                "--nocapture",
            ])
            .env(WITHOUT, capability);
        assert!(run(&mut again).contains("1 passed"));
    }
}

async fn without(capability: &str) {
    let reason = format!("checks at the VIP need CAP_{}", capability.to_uppercase());
    let mut edge = start();
    let told = Monitor {
        depool: false,
        ..reachability()
    };
    let server = SERVER[0].parse().unwrap();
    list(&edge, (0..20).map(|id| (id, at(server, told.clone()))));
    let Event::Trouble { part, fault } = edge.event().await else {
        panic!("no trouble")
    };
    assert_eq!((part, fault), ("monitor", Some(reason.clone())));
    edge.silent(Duration::from_secs(1)).await;
    // One that depools has to say something at its first check.
    list(&edge, [(100, at(server, reachability()))]);
    let event = timeout(PATIENCE, edge.event()).await.unwrap();
    let Event::Checked { check, verdict, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!((check, verdict), (CheckId(100), down(&reason)));
}

/// A server that has the SYN and has not answered yet forgets it.
#[test]
fn a_check_that_ends_before_the_answer_leaves_nothing_half_open() {
    for monitor in both() {
        let lab = Lab::new();
        lab.bind(&lab.balancer);
        let server = ByHand::start(&lab, |_, _| Vec::new());
        lab.at_balancer(async || {
            let verdict = first_verdict(SERVER[0], monitor.clone()).await;
            assert_eq!(verdict, silent(VIP[0]));
        });
        let limit = Duration::from_secs(10);
        let found = std::iter::from_fn(|| server.resets.recv_timeout(limit).ok());
        let mut found = found.take(2);
        assert!(found.any(|behind| behind == 1));
    }
}
