//! Servers that are depooled while a connection to them is open, in the real kernel.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::traffic::{A, B, LIMIT, Lab, Service, Transport, VIPS, inside};
use crate::netns::{Process, until};

/// The connection goes both ways: the server sends back what it is sent.
fn expect_alive(stream: &mut TcpStream) {
    stream.write_all(b"more").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"more");
}

fn expect_dead(stream: &mut TcpStream) {
    let alive = |stream: &mut TcpStream| -> io::Result<()> {
        stream.write_all(b"more")?;
        stream.read_exact(&mut [0; 4])
    };
    assert!(alive(stream).is_err());
}

/// Of each family's VIP; `first` is how server a is listed.
fn services(transport: Transport, port: u16, drain: &str, first: &str) -> [Service; 2] {
    [0, 1].map(|n| {
        let a = format!("host = \"{}\"\n{first}", A[n]);
        let keys = format!("drain-timeout = \"{drain}\"");
        let at = (VIPS[n], port, transport);
        Service::new(&format!("web{n}"), at, &keys, &[&a, B[n]])
    })
}

fn at(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

/// Waits until IPVS has server a so, `None` for not at all, and b as ever.
fn expect(lab: &Lab, transport: Transport, n: usize, port: u16, a: Option<u32>) {
    let option = transport.option();
    let b = format!("{} -g -w 10", at(B[n], port));
    let a = a.map(|weight| format!("{} -g -w {weight}", at(A[n], port)));
    let both: Vec<_> = a.iter().chain([&b]).map(String::as_str).collect();
    lab.until_destinations(&format!("{option} {}", at(VIPS[n], port)), &both);
}

/// One that server a has.
fn open(lab: &Lab, to: (&str, u16)) -> TcpStream {
    let mut both = [lab.open(to), lab.open(to)];
    both.sort_by(|one, other| one.0.cmp(&other.0));
    let [(name, stream), _] = both;
    assert_eq!(name, "a");
    stream
}

#[test]
fn a_connection_outlives_the_depool_of_its_server() {
    let tcp = Transport::Tcp;
    let mut lab = Lab::new();
    lab.serve_vips(4500);
    for n in [0, 1] {
        let to = (VIPS[n], 4500);
        lab.run(&services(tcp, 4500, "5m", ""));
        expect(&lab, tcp, n, 4500, Some(10));
        let mut stream = open(&lab, to);

        lab.run(&services(tcp, 4500, "5m", "enabled = false"));
        expect(&lab, tcp, n, 4500, Some(0));
        assert_eq!(lab.asks(tcp, to, 4), ["b"; 4]);
        expect_alive(&mut stream);

        // Pooled again in between it has new connections, and the old one.
        lab.run(&services(tcp, 4500, "5m", ""));
        expect(&lab, tcp, n, 4500, Some(10));
        expect_alive(&mut stream);
        let names = lab.asks(tcp, to, 4);
        assert!(names.iter().any(|name| name == "a"), "{names:?}");

        lab.run(&services(tcp, 4500, "5m", "enabled = false"));
        expect(&lab, tcp, n, 4500, Some(0));
        expect_alive(&mut stream);
        drop(stream);
        expect(&lab, tcp, n, 4500, None);
    }
}

#[test]
fn until_its_time_is_over() {
    let tcp = Transport::Tcp;
    let mut lab = Lab::new();
    lab.serve_vips(4501);
    for n in [0, 1] {
        lab.run(&services(tcp, 4501, "4s", ""));
        expect(&lab, tcp, n, 4501, Some(10));
        let mut stream = open(&lab, (VIPS[n], 4501));
        lab.run(&services(tcp, 4501, "4s", "enabled = false"));
        expect(&lab, tcp, n, 4501, Some(0));
        expect_alive(&mut stream);
        expect(&lab, tcp, n, 4501, None);
        expect_dead(&mut stream);
    }
}

#[test]
fn a_udp_server_does_not_drain() {
    let udp = Transport::Udp;
    let mut lab = Lab::new();
    lab.serve_vips(4502);
    lab.run(&services(udp, 4502, "5m", ""));
    for n in [0, 1] {
        expect(&lab, udp, n, 4502, Some(10));
        assert!(lab.ask(udp, (VIPS[n], 4502)).is_ok());
    }
    lab.run(&services(udp, 4502, "5m", "enabled = false"));
    for n in [0, 1] {
        expect(&lab, udp, n, 4502, None);
    }
}

const WEB: u16 = 4503;

/// nginx on server `name`, which says so in each answer.
fn web(lab: &Lab, name: &str, files: &Path) -> Process {
    let own = files.join(name);
    std::fs::create_dir(&own).unwrap();
    let (own, files, [v4, v6]) = (own.display(), files.display(), VIPS);
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        temporary += &format!("{kind}_temp_path {own}/{kind}; ");
    }
    let text = format!(
        "user root; daemon off; master_process off; pid {own}/pid; error_log {own}/log; events {{ }}
http {{
  access_log off; {temporary}
  server {{ listen {v4}:{WEB}; listen [{v6}]:{WEB}; root {files}; add_header Server-Name {name}; }}
}}"
    );
    let configuration = format!("{own}/conf");
    std::fs::write(&configuration, text).unwrap();
    let mut nginx = lab.server(name).command("nginx");
    Process::start(nginx.args(["-c", &configuration, "-e", &format!("{own}/log")]))
}

/// A file that is asked for of the VIP, after the header of the answer: who sends it, and what is still to be read.
/// Little of it is in the client's kernel: what the client does not read stays with the server.
fn download(lab: &Lab, vip: &str, file: &str) -> io::Result<(String, BufReader<TcpStream>)> {
    let (to, file) = (SocketAddr::new(vip.parse().unwrap(), WEB), file.to_owned());
    inside(&lab.client, move || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_recv_buffer_size(64 * 1024)?;
        socket.connect_timeout(&to.into(), LIMIT)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(format!("GET /{file} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = BufReader::new(stream);
        let mut header = String::new();
        while !header.ends_with("\r\n\r\n") {
            assert_ne!(answer.read_line(&mut header)?, 0, "{header}");
        }
        assert!(header.starts_with("HTTP/1.1 200 OK\r\n"), "{header}");
        let name = header
            .lines()
            .find_map(|line| line.strip_prefix("Server-Name: "));
        Ok((name.expect("a server's name").to_owned(), answer))
    })
}

/// Of the family's VIP, with the server of this name depooled.
fn downloads(n: usize, depooled: Option<&str>) -> Service {
    let server = |(name, addresses): (&str, [&str; 2])| {
        let enabled = depooled != Some(name);
        format!("host = \"{}\"\nenabled = {enabled}", addresses[n])
    };
    let [a, b] = [("a", A), ("b", B)].map(server);
    let at = (VIPS[n], WEB, Transport::Tcp);
    Service::new("downloads", at, "drain-timeout = \"5m\"", &[&a, &b])
}

/// Waits until IPVS has these servers, with these weights.
fn expect_weights(lab: &Lab, n: usize, weights: &[([&str; 2], u32)]) {
    let shown =
        |(server, weight): &([&str; 2], u32)| format!("{} -g -w {weight}", at(server[n], WEB));
    let shown: Vec<_> = weights.iter().map(shown).collect();
    let shown: Vec<_> = shown.iter().map(String::as_str).collect();
    lab.until_destinations(&format!("-t {}", at(VIPS[n], WEB)), &shown);
}

/// Its body, read to the end by a client that takes its time, while the server drains.
fn read_slowly(mut from: BufReader<TcpStream>, size: usize, drains: impl Fn()) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..16 {
        let read = body.len();
        body.resize(read + size / 16, 0);
        from.read_exact(&mut body[read..]).unwrap();
        drains();
        // Longer in all than it takes the balancer to look at the server's connections a few times.
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(from.read(&mut [0]).unwrap(), 0, "that was all of it");
    body
}

#[test]
fn a_long_download_outlives_the_depool_of_its_server() {
    let mut lab = Lab::new();
    let files = tempfile::tempdir().unwrap();
    // 16 MiB, more than both kernels hold of a connection, and each place in it is like no other.
    let whole: String = (0..1 << 21).map(|line| format!("{line:07}\n")).collect();
    std::fs::write(files.path().join("long"), &whole).unwrap();
    std::fs::write(files.path().join("short"), "").unwrap();
    let _servers = ["a", "b"].map(|name| web(&lab, name, files.path()));
    for (n, vip) in VIPS.into_iter().enumerate() {
        lab.run(&[downloads(n, None)]);
        expect_weights(&lab, n, &[(A, 10), (B, 10)]);
        until(LIMIT, "both servers answer", || {
            let name = || download(&lab, vip, "short").map(|(name, _)| name).ok();
            (name()? != name()?).then_some(())
        });
        let (name, body) = download(&lab, vip, "long").unwrap();
        let (left, kept) = if name == "a" { (A, B) } else { (B, A) };

        lab.run(&[downloads(n, Some(&name))]);
        let draining = [(left, 0), (kept, 10)];
        expect_weights(&lab, n, &draining);
        for _ in 0..2 {
            assert_ne!(download(&lab, vip, "short").unwrap().0, name);
        }
        let body = read_slowly(body, whole.len(), || expect_weights(&lab, n, &draining));
        assert!(body == whole.as_bytes(), "some of it is not what was sent");
        expect_weights(&lab, n, &[(kept, 10)]);
    }
}
