//! `tls`, by rustls's own server and by OpenSSL's: whose certificates are good, for how long, and in what words one
//! is not; files that change.

use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, UNIX_EPOCH};

use plimsoll::check::tls::{Identity, TlsClient, Trust};
use plimsoll::check::{Check, Http, Monitor, Probe, ProxyProtocol, Tls};
use plimsoll::event::Verdict;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::authority::{Authority, DAY, NAME, Signed, now};
use super::edge::{Edge, PATIENCE};
use super::server::{OK, Server};
use super::{BOTH, asked, check, checked, down, list, other, said, start};

pub(crate) fn tls(tls: TlsClient) -> Monitor {
    asked(Probe::Tls(Tls {
        tls,
        proxy_protocol: None,
    }))
}

/// Verifies by this authority that it is [`NAME`].
fn verifying(authority: &Authority) -> TlsClient {
    TlsClient {
        server_name: Some(NAME.into()),
        trust: Trust::Authorities(authority.file()),
        ..TlsClient::default()
    }
}

/// Shakes hands, and waits until the client has gone.
pub(crate) async fn shaking_hands(at: &str, signed: &Signed) -> Server {
    let acceptor = signed.acceptor();
    Server::start(at, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            stream.read_to_end(&mut Vec::new()).await?;
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn a_good_certificate() {
    let authority = Authority::new();
    for at in BOTH {
        let server = shaking_hands(at, &authority.sign(NAME)).await;
        for client in [TlsClient::default(), verifying(&authority)] {
            let verdict = said(server.address, tls(client)).await;
            assert_eq!(verdict, Verdict::Up);
        }
    }
}

#[tokio::test]
async fn bad_certificates() {
    let (authority, other) = (Authority::new(), Authority::new());
    let now = now();
    for (signed, reason) in [
        (other.sign(NAME), "certificate is by an unknown authority"),
        (
            authority.sign("other.example.net"),
            "certificate is not for www.example.org but other.example.net",
        ),
        (
            authority.sign_for(NAME, now - 30 * DAY, now - 3 * DAY - DAY / 2),
            "certificate expired 3 days ago",
        ),
        (
            authority.sign_for(NAME, now + 2 * DAY + DAY / 2, now + 30 * DAY),
            "certificate is not valid for another 2 days",
        ),
    ] {
        let server = shaking_hands("127.0.0.1:0", &signed).await;
        let verdict = said(server.address, tls(verifying(&authority))).await;
        assert_eq!(verdict, down(reason));
        // Nobody looks.
        let verdict = said(server.address, tls(TlsClient::default())).await;
        assert_eq!(verdict, Verdict::Up);
    }
    // By the host's own authorities, if it has any.
    let server = shaking_hands("127.0.0.1:0", &authority.sign(NAME)).await;
    let client = TlsClient {
        trust: Trust::System,
        ..TlsClient::default()
    };
    let verdict = said(server.address, tls(client)).await;
    let unknown = down("certificate is by an unknown authority");
    let none = down("this host has no certificate authorities");
    assert!(verdict == unknown || verdict == none, "{verdict:?}");
}

/// Verified or not; and the figure is there whatever else is wrong.
#[tokio::test]
async fn the_days_of_a_certificate() {
    let authority = Authority::new();
    let now = now();
    let ends = now + 10 * DAY + DAY / 2;
    let server = shaking_hands("127.0.0.1:0", &authority.sign_for(NAME, now - DAY, ends)).await;
    let expired = now - 3 * DAY - DAY / 2;
    let past = authority.sign_for(NAME, now - 30 * DAY, expired);
    let past = shaking_hands("127.0.0.1:0", &past).await;
    let least = |days: u32| TlsClient {
        expires_in: Some(days * DAY),
        ..TlsClient::default()
    };
    let soon = "certificate expires in 10 days, expected 14 days or more";
    let strange = TlsClient {
        server_name: Some("strange.example.org".into()),
        ..verifying(&authority)
    };
    let strange_reason = "certificate is not for strange.example.org but www.example.org";
    let ago = "certificate expired 3 days ago";
    for (server, client, expected, expires) in [
        (&server, TlsClient::default(), Verdict::Up, ends),
        (&server, least(10), Verdict::Up, ends),
        (&server, least(14), down(soon), ends),
        (&server, strange, down(strange_reason), ends),
        (&past, TlsClient::default(), Verdict::Up, expired),
        (&past, least(0), down(ago), expired),
        (&past, verifying(&authority), down(ago), expired),
    ] {
        // Another service asks the same of the same server: one handshake, two figures.
        let check = check(server.address, tls(client));
        let twin = Arc::new(Check {
            figures: Arc::default(),
            ..Check::clone(&check)
        });
        let mut edge = start();
        list(&edge, [(1, check.clone()), (2, twin.clone())]);
        let expires = expires.duration_since(UNIX_EPOCH).unwrap().as_secs();
        for _ in 0..2 {
            assert_eq!(checked(&mut edge).await.1, expected);
        }
        for check in [check, twin] {
            let figure = check.figures.certificate_expires.load(SeqCst);
            assert_eq!(figure, i64::try_from(expires).unwrap());
        }
    }
}

/// Our own certificate, and its files: there at first, gone, changed.
#[tokio::test]
async fn files_are_followed() {
    let authority = Authority::new();
    let ours = authority.sign("balancer.example.org");
    let acceptor = authority.strict(&authority.sign(NAME));
    let server = Server::start("127.0.0.1:0", move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            super::server::head(&mut stream).await?;
            tokio::io::AsyncWriteExt::write_all(&mut stream, OK.as_bytes()).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await
        }
    })
    .await;
    let with = |identity: Option<Identity>| Http {
        tls: TlsClient {
            identity,
            ..verifying(&authority)
        },
        ..Http::get("https://www.example.org/".parse().unwrap())
    };
    let identity = Identity {
        certificate: ours.certificate_file.clone(),
        key: ours.key_file.clone(),
    };
    let ask = async |edge: &mut Edge, identity: &Option<Identity>, id: u64| {
        let probe = Probe::Http(Box::new(with(identity.clone())));
        // Each time another host, so that it is asked anew.
        list(edge, [other(&check(server.address, asked(probe)), id)]);
        checked(edge).await.1
    };
    let mut edge = start();
    let refused = down("headers: TLS: refused by the server (CertificateRequired)");
    assert_eq!(ask(&mut edge, &None, 1).await, refused);
    let identity = Some(identity);
    fs::rename(&ours.key_file, ours.key_file.with_extension("away")).unwrap();
    let missing = format!(
        "{} cannot be read: No such file or directory (os error 2)",
        ours.key_file.display()
    );
    assert_eq!(ask(&mut edge, &identity, 2).await, down(&missing));
    let event = edge.event().await;
    let plimsoll::event::Event::Trouble { fault, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(fault, Some(missing), "it is our own want");
    fs::rename(ours.key_file.with_extension("away"), &ours.key_file).unwrap();
    assert_eq!(ask(&mut edge, &identity, 3).await, Verdict::Up);
    // They are not looked at again for a while; then what is of no use is not taken.
    fs::write(&ours.key_file, "half of a key").unwrap();
    for (id, wait) in [(4, Duration::ZERO), (5, Duration::from_secs(11))] {
        tokio::time::pause();
        tokio::time::advance(wait).await;
        tokio::time::resume();
        assert_eq!(ask(&mut edge, &identity, id).await, Verdict::Up);
    }
    // A certificate of somebody else's takes its place.
    let others = Authority::new();
    let stranger = others.sign("balancer.example.org");
    fs::copy(&stranger.certificate_file, &ours.certificate_file).unwrap();
    fs::copy(&stranger.key_file, &ours.key_file).unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    let Verdict::Down(reason) = ask(&mut edge, &identity, 6).await else {
        panic!("it is up")
    };
    assert!(
        reason.starts_with("headers: TLS: refused by the server ("),
        "{reason}"
    );
}

/// `openssl s_server` with these arguments, listening.
async fn openssl(signed: &Signed, arguments: &[&str]) -> (Child, std::net::SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let child = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &address.to_string()])
        .arg("-cert")
        .arg(&signed.certificate_file)
        .arg("-key")
        .arg(&signed.key_file)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let up = async {
        while TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, up).await.expect("openssl listens");
    (child, address)
}

#[tokio::test]
async fn openssls_server() {
    let authority = Authority::new();
    let signed = authority.sign(NAME);
    let old = "TLS: refused by the server (ProtocolVersion)";
    for (arguments, expected) in [
        (&["-tls1_3"][..], Verdict::Up),
        (&["-tls1_2"], Verdict::Up),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], down(old)),
    ] {
        let (_child, address) = openssl(&signed, arguments).await;
        let verdict = said(address, tls(verifying(&authority))).await;
        assert_eq!(verdict, expected, "{arguments:?}");
    }
}

/// A PROXY header goes before the handshake.
#[tokio::test]
async fn behind_the_proxy_header() {
    let authority = Authority::new();
    let acceptor = authority.sign(NAME).acceptor();
    let server = Server::start("127.0.0.1:0", move |mut stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut header = [0; 16];
            stream.read_exact(&mut header).await?;
            assert_eq!(header[12..], [0x20, 0, 0, 0]);
            let mut stream = acceptor.accept(stream).await?;
            stream.read_to_end(&mut Vec::new()).await?;
            Ok(())
        }
    })
    .await;
    let probe = Probe::Tls(Tls {
        tls: verifying(&authority),
        proxy_protocol: Some(ProxyProtocol::V2),
    });
    assert_eq!(said(server.address, asked(probe)).await, Verdict::Up);
}
