//! `http` against nginx: over HTTP/1.1 and 2, with TLS and without, with certificates of both sides, behind a PROXY
//! header; and what of the answer counts.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use plimsoll::check::expect::{Pattern, Statuses};
use plimsoll::check::tls::{Identity, TlsClient, Trust};
use plimsoll::check::{Http, HttpVersion, Probe, ProxyProtocol};
use plimsoll::event::Verdict;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::authority::{Authority, NAME};
use super::edge::PATIENCE;
use super::{asked, down, said};

/// Ports of one nginx, each of which serves the same in another way.
struct Nginx {
    plain: SocketAddr,
    h2c: SocketAddr,
    tls: SocketAddr,
    mutual: SocketAddr,
    proxied: SocketAddr,
    authority: Authority,
    _child: Child,
    _directory: TempDir,
}

async fn nginx(address: &str) -> Nginx {
    let authority = Authority::new();
    let signed = authority.sign(NAME);
    let directory = tempfile::tempdir().unwrap();
    let mut free = Vec::new();
    for _ in 0..5 {
        free.push(TcpListener::bind((address, 0)).await.unwrap());
    }
    let ports: Vec<SocketAddr> = free.iter().map(|l| l.local_addr().unwrap()).collect();
    drop(free);
    let [plain, h2c, tls, mutual, proxied] = ports[..] else {
        panic!("five ports")
    };
    let certificate = format!(
        "ssl_certificate {}; ssl_certificate_key {};",
        signed.certificate_file.display(),
        signed.key_file.display()
    );
    let ca = authority.file();
    let ca = ca.display();
    let pages = "
        location / { return 200 \"$request_method $host $server_protocol $http_x_check $ssl_server_name\\n\"; }
        location /busy { return 503; }
        location /moved { return 301 /; }
        location /empty { return 204; }
        location /large { root .; }
    ";
    let text = format!(
        "daemon off; master_process off; worker_processes 1; error_log stderr; pid nginx.pid;
        events {{ }}
        http {{
            access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
            uwsgi_temp_path t4; scgi_temp_path t5;
            server {{ listen {plain}; {pages} }}
            server {{ listen {h2c} http2; {pages} }}
            server {{ listen {tls} ssl http2; {certificate} {pages} }}
            server {{ listen {mutual} ssl http2; {certificate} ssl_client_certificate {ca}; ssl_verify_client on; {pages} }}
            server {{ listen {proxied} proxy_protocol; {pages} }}
        }}"
    );
    fs::write(directory.path().join("nginx.conf"), text).unwrap();
    fs::write(directory.path().join("large"), vec![b'x'; 3 << 20]).unwrap();
    let child = Command::new("nginx")
        .arg("-p")
        .arg(directory.path())
        .args(["-c", "nginx.conf", "-e", "stderr"])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nginx is installed");
    let up = async {
        while TcpStream::connect(proxied).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, up).await.expect("nginx listens");
    Nginx {
        plain,
        h2c,
        tls,
        mutual,
        proxied,
        authority,
        _child: child,
        _directory: directory,
    }
}

fn get(url: &str) -> Http {
    Http::get(url.parse().unwrap())
}

async fn verdict(server: SocketAddr, probe: Http) -> Verdict {
    said(server, asked(Probe::Http(Box::new(probe)))).await
}

fn text(text: &str) -> Option<Pattern> {
    Some(Pattern::substring(text).unwrap())
}

#[tokio::test]
async fn in_every_way() {
    for address in ["127.0.0.1", "::1"] {
        let nginx = nginx(address).await;
        let verifying = TlsClient {
            trust: Trust::Authorities(nginx.authority.file()),
            ..TlsClient::default()
        };
        let ours = nginx.authority.sign("balancer.example.org");
        let identity = TlsClient {
            identity: Some(Identity {
                certificate: ours.certificate_file.clone(),
                key: ours.key_file.clone(),
            }),
            ..verifying.clone()
        };
        let plain = "http://www.example.org/";
        let https = "https://www.example.org/";
        for version in [HttpVersion::Http1, HttpVersion::Http2] {
            let (cleartext, protocol) = match version {
                HttpVersion::Http1 => (nginx.plain, "HTTP/1.1"),
                HttpVersion::Http2 => (nginx.h2c, "HTTP/2.0"),
            };
            let probe = |url: &str, tls: &TlsClient, expected: &str| Http {
                version,
                tls: tls.clone(),
                body: text(&format!("GET {expected}\n")),
                ..get(url)
            };
            let none = TlsClient::default();
            let expected = format!("{NAME} {protocol}  ");
            assert_eq!(
                verdict(cleartext, probe(plain, &none, &expected)).await,
                Verdict::Up
            );
            let expected = format!("{NAME} {protocol}  {NAME}");
            for (server, client) in [
                (nginx.tls, &none),
                (nginx.tls, &verifying),
                (nginx.mutual, &identity),
            ] {
                assert_eq!(
                    verdict(server, probe(https, client, &expected)).await,
                    Verdict::Up
                );
            }
            // nginx answers who shows no certificate with a page of its own.
            assert_eq!(
                verdict(nginx.mutual, probe(https, &verifying, &expected)).await,
                down("400 Bad Request, expected 200")
            );
            // Host and SNI apart from the URL, and a header more.
            let mut apart = probe(https, &verifying, "a.example.net HTTP/");
            apart.body = text(&format!("GET a.example.net {protocol} yes {NAME}\n"));
            apart.url = "https://other.example.net:8443/".parse().unwrap();
            apart.tls.server_name = Some(NAME.into());
            for (name, value) in [("host", "a.example.net"), ("x-check", "yes")] {
                let name: hyper::header::HeaderName = name.parse().unwrap();
                apart.headers.insert(name, value.parse().unwrap());
            }
            assert_eq!(verdict(nginx.tls, apart).await, Verdict::Up);
        }
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let probe = Http {
                proxy_protocol: Some(version),
                ..get(plain)
            };
            assert_eq!(verdict(nginx.proxied, probe).await, Verdict::Up);
        }
        let Verdict::Down(reason) = verdict(nginx.proxied, get(plain)).await else {
            panic!("up without a PROXY header")
        };
        println!("without a PROXY header: {reason}");
        // Prior knowledge of a server that has none, and the reverse.
        let h2 = Http {
            version: HttpVersion::Http2,
            ..get(plain)
        };
        assert_eq!(
            verdict(nginx.plain, h2).await,
            down("not HTTP/2 (FRAME_SIZE_ERROR)")
        );
    }
}

#[tokio::test]
async fn status_and_body() {
    let nginx = nginx("127.0.0.1").await;
    for (version, server) in [
        (HttpVersion::Http1, nginx.plain),
        (HttpVersion::Http2, nginx.h2c),
    ] {
        let probe = |path: &str| Http {
            version,
            ..get(&format!("http://www.example.org/{path}"))
        };
        let status = |path: &str, ranges: &[(u16, u16)]| Http {
            status: Statuses::new(ranges.iter().map(|(a, b)| *a..=*b).collect()),
            ..probe(path)
        };
        let body = |path: &str, pattern: Option<Pattern>| Http {
            body: pattern,
            ..probe(path)
        };
        let regex = |text| Some(Pattern::regex(text).unwrap());
        let method = |method: &str, pattern| Http {
            method: method.parse().unwrap(),
            ..body("", pattern)
        };
        let busy = down("503 Service Unavailable, expected 200");
        for (probe, expected) in [
            (probe("busy"), busy),
            (status("busy", &[(500, 599)]), Verdict::Up),
            (
                status("busy", &[(200, 299), (404, 404)]),
                down("503 Service Unavailable, expected 200-299 or 404"),
            ),
            (status("empty", &[(200, 299)]), Verdict::Up),
            (status("moved", &[(301, 303)]), Verdict::Up),
            (probe("moved"), down("301 Moved Permanently, expected 200")),
            (body("", regex("^GET www")), Verdict::Up),
            (
                body("", regex("^POST")),
                down("/^POST/ is not in the body, 31 bytes"),
            ),
            (method("POST", regex("^POST www")), Verdict::Up),
            (method("HEAD", None), Verdict::Up),
            // The first MiB is looked at, the rest is not waited for.
            (body("large", text("xxxx")), Verdict::Up),
            (
                body("large", text("y")),
                down("\"y\" is not in the body, 1048576 bytes"),
            ),
        ] {
            let shown = format!("{version:?} {}", probe.url);
            assert_eq!(verdict(server, probe).await, expected, "{shown}");
        }
    }
}
