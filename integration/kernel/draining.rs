//! Servers that are depooled while a connection to them is open, in the real kernel.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::traffic::{A, B, Lab, Service, Transport, VIPS};

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
    let option = match transport {
        Transport::Tcp => "-t",
        Transport::Udp => "-u",
    };
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
