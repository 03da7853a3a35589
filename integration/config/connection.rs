//! The monitors that speak over a connection: `tcp`, `tls`, `http`, `grpc`. What is read of good ones, and each rule
//! with its message.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use plimsoll::check::expect::{Pattern, Statuses};
use plimsoll::check::tls::{Identity, TlsClient, Trust};
use plimsoll::check::{Grpc, Http, HttpVersion, Monitor, Probe, ProxyProtocol, Tcp, Tls};
use plimsoll::config::Config;

use super::{check, web};

/// A service whose one monitor is on lines 7 and 8, `lines` from line 9 on.
fn monitor(kind: &str, lines: &str) -> String {
    web(&format!(
        "[[service.web.monitor]]\ntype = \"{kind}\"\n{lines}"
    ))
}

fn reads(kind: &str, lines: &str, expected: Probe) {
    let config = Config::parse(&monitor(kind, lines), "FILE").expect("it is good");
    let seconds = Duration::from_secs;
    let expected = Monitor::new(expected, seconds(10), seconds(5));
    assert_eq!(*config.services["web"].monitors[0], expected, "{lines}");
}

#[test]
fn good_ones() {
    reads("tcp", "", Probe::Tcp(Tcp::default()));
    let tcp = Tcp {
        send: Some("PING\r\n".into()),
        expect: Some(Pattern::substring("+PONG").unwrap()),
        proxy_protocol: Some(ProxyProtocol::V1),
    };
    let lines = "send = \"PING\\r\\n\"\nexpect = \"+PONG\"\nproxy-protocol = 1";
    reads("tcp", lines, Probe::Tcp(tcp));
    reads("tls", "", Probe::Tls(Tls::default()));
    let tls = Tls {
        tls: TlsClient {
            server_name: Some("www.example.org".into()),
            trust: Trust::System,
            identity: None,
            expires_in: Some(Duration::from_secs(14 * 24 * 60 * 60)),
        },
        proxy_protocol: Some(ProxyProtocol::V2),
    };
    let lines = "server-name = \"www.example.org\"\nverify-certificate = true\nexpires-in = \"14d\"\nproxy-protocol = 2";
    reads("tls", lines, Probe::Tls(tls));
    let url = "https://www.example.com/healthz";
    let http = Http::get(url.parse().unwrap());
    let line = format!("url = \"{url}\"");
    reads("http", &line, Probe::Http(Box::new(http.clone())));
    let lines = format!(
        "{line}\nmethod = \"POST\"\nheaders = {{ host = \"a.example.org:8443\", X-Check = \"yes\" }}\nhttp-version = \"2\"\nstatus = [\"200-299\", 404]\nmatches = \"^ok$\""
    );
    let headers = [("host", "a.example.org:8443"), ("x-check", "yes")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let http = Http {
        method: "POST".parse().unwrap(),
        headers: headers.into_iter().collect(),
        version: HttpVersion::Http2,
        status: Statuses::new(vec![200..=299, 404..=404]),
        body: Some(Pattern::regex("^ok$").unwrap()),
        ..http
    };
    reads("http", &lines, Probe::Http(Box::new(http)));
    reads("grpc", "", Probe::Grpc(Grpc::default()));
    let grpc = Grpc {
        service: "example.v1.Shop".into(),
        authority: Some("shop.example.com".into()),
        tls: Some(TlsClient::default()),
        proxy_protocol: None,
    };
    let lines = "service = \"example.v1.Shop\"\nauthority = \"shop.example.com\"\ntls = true";
    reads("grpc", lines, Probe::Grpc(grpc));
}

#[test]
fn a_header_is_not_shown() {
    let lines =
        "url = \"http://x/\"\nheaders = { Authorization = \"Bearer hidden\", Host = \"hidden\" }";
    let config = Config::parse(&monitor("http", lines), "FILE").expect("it is good");
    let monitor = &config.services["web"].monitors[0];
    let shown = format!("{monitor:?} {}", serde_json::to_string(monitor).unwrap());
    assert!(!shown.contains("hidden"), "{shown}");
    assert!(shown.contains("authorization"), "{shown}");
}

#[test]
fn what_is_wrong() {
    let url = "url = \"http://x/\"\n";
    for (kind, lines, expected) in [
        (
            "tcp",
            "send = \"\"",
            "9: service.web.monitor[0].send: empty; write a text, or leave it out",
        ),
        (
            "tcp",
            "expect = \"\"",
            "9: service.web.monitor[0].expect: empty, which is in everything; write a text, or leave it out",
        ),
        (
            "tcp",
            "expect = \"a\"\nmatches = \"b\"",
            "10: service.web.monitor[0].matches: there is expect too; leave out one of the two",
        ),
        (
            "tcp",
            "matches = \"(\"",
            r#"9: service.web.monitor[0].matches: "(" is no regular expression: unclosed group; write one in the syntax of Rust's regex"#,
        ),
        (
            "tcp",
            "matches = '(\\w{100}){100}'",
            r#"9: service.web.monitor[0].matches: "(\\w{100}){100}" is too large when compiled; write one that takes less than 1048576 bytes"#,
        ),
        (
            "tcp",
            "proxy-protocol = 3",
            "9: service.web.monitor[0].proxy-protocol: the integer 3 is out of range; write 1 to 2",
        ),
        (
            "tls",
            "server-name = \"a b\"",
            r#"9: service.web.monitor[0].server-name: "a b" is no name of a server; write one like "www.example.com""#,
        ),
        (
            "tls",
            "expires-in = 14",
            r#"9: service.web.monitor[0].expires-in: expected a duration, found the integer 14; write "14s" if seconds are meant"#,
        ),
        (
            "tls",
            "verify-certificate = true\nca-file = \"ca.pem\"",
            r#"10: service.web.monitor[0].ca-file: "ca.pem" is not an absolute path; write one that begins with /"#,
        ),
        (
            "tls",
            "certificate = \"/a.pem\"",
            "9: service.web.monitor[0].certificate: there is no key; write both or none",
        ),
        (
            "tls",
            "key = \"/a.key\"",
            "9: service.web.monitor[0].key: there is no certificate; write both or none",
        ),
        (
            "http",
            "",
            "7: service.web.monitor[0].url: missing; write url = \"https://www.example.com/healthz\", say",
        ),
        (
            "http",
            &format!("{url}method = \"GE T\""),
            r#"10: service.web.monitor[0].method: "GE T" is no method of HTTP; write GET, say"#,
        ),
        (
            "http",
            &format!("{url}method = \"HEAD\"\ncontains = \"ok\""),
            "11: service.web.monitor[0].contains: an answer to HEAD has no body; write another method, or leave it out",
        ),
        (
            "http",
            &format!("{url}http-version = \"3\""),
            r#"10: service.web.monitor[0].http-version: unknown version of HTTP "3"; allowed are 1.1, 2"#,
        ),
        (
            "http",
            &format!("{url}status = \"299-200\""),
            r#"10: service.web.monitor[0].status: "299-200" is no range of statuses; write one like "200-299", within 100 to 599"#,
        ),
        (
            "http",
            &format!("{url}headers = {{ Connection = \"close\" }}"),
            "10: service.web.monitor[0].headers.Connection: is the check's own to say; leave it out",
        ),
        (
            "http",
            &format!("{url}headers = {{ Host = \"a b\" }}"),
            r#"10: service.web.monitor[0].headers.Host: "a b" is no host; write one like "www.example.com""#,
        ),
        (
            "http",
            &format!("{url}headers = {{ X = \"a\\r\\nb\" }}"),
            "10: service.web.monitor[0].headers.X: control characters cannot be in a header; leave them out",
        ),
        (
            "http",
            &format!("{url}headers = {{ \"a b\" = \"c\" }}"),
            r#"10: service.web.monitor[0].headers."a b": "a b" is no name of a header; write one like "X-Check""#,
        ),
        (
            "http",
            &format!("{url}expires-in = \"1d\""),
            "10: service.web.monitor[0].expires-in: is for TLS; write a URL of https, or leave it out",
        ),
        (
            "grpc",
            "server-name = \"a\"",
            "9: service.web.monitor[0].server-name: is for TLS; write tls = true, or leave it out",
        ),
        (
            "grpc",
            "authority = \"a b\"",
            r#"9: service.web.monitor[0].authority: "a b" is no host; write one like "shop.example.com""#,
        ),
    ] {
        check(&monitor(kind, lines), expected);
    }
}

/// What is wrong with the files, each said at its key.
#[test]
fn files_are_read_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str, mode: u32| {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec!["a.example.org".into()]).unwrap();
        write(&format!("{name}.pem"), &made.cert.pem(), 0o644);
        write(
            &format!("{name}.key"),
            &made.signing_key.serialize_pem(),
            0o600,
        );
    }
    write("empty", "no PEM\n", 0o600);
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    write("broken", broken, 0o600);
    fs::copy(path("a.key"), path("open.key")).unwrap();
    fs::set_permissions(path("open.key"), fs::Permissions::from_mode(0o644)).unwrap();

    let identity = Identity {
        certificate: path("a.pem"),
        key: path("a.key"),
    };
    let tls = TlsClient {
        trust: Trust::Authorities(path("a.pem")),
        identity: Some(identity.clone()),
        ..TlsClient::default()
    };
    let show = |path: &Path| path.display().to_string();
    let lines = format!(
        "verify-certificate = true\nca-file = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"",
        show(&path("a.pem")),
        show(&path("a.pem")),
        show(&path("a.key")),
    );
    let good = Tls {
        tls,
        proxy_protocol: None,
    };
    reads("tls", &lines, Probe::Tls(good));

    let ca = |name: &str, why: &str| {
        let file = show(&path(name));
        let text = monitor(
            "tls",
            &format!("verify-certificate = true\nca-file = \"{file}\""),
        );
        check(
            &text,
            &format!(
                "10: service.web.monitor[0].ca-file: {file} {why}; write the path of a file in PEM"
            ),
        );
    };
    ca(
        "none",
        "cannot be read: No such file or directory (os error 2)",
    );
    ca("", "cannot be read: not a file");
    ca("empty", "has no certificate in PEM");
    ca(
        "broken",
        "has a certificate that cannot be used: invalid peer certificate: BadEncoding",
    );
    let file = show(&path("a.pem"));
    check(
        &monitor("tls", &format!("ca-file = \"{file}\"")),
        "9: service.web.monitor[0].ca-file: of no use without verify-certificate = true, which looks at certificates",
    );
    let pair = |certificate: &str, key: &str, expected: &str| {
        let [certificate, key] = [certificate, key].map(|name| show(&path(name)));
        let text = monitor(
            "tls",
            &format!("certificate = \"{certificate}\"\nkey = \"{key}\""),
        );
        let expected = expected.replace("CERTIFICATE", &certificate);
        check(&text, &expected.replace("KEY", &key));
    };
    pair(
        "none",
        "a.key",
        "9: service.web.monitor[0].certificate: CERTIFICATE cannot be read: No such file or directory (os error 2); write the path of a file in PEM",
    );
    pair(
        "a.pem",
        "empty",
        "10: service.web.monitor[0].key: KEY has no private key in PEM; write the path of a file in PEM",
    );
    pair(
        "a.pem",
        "b.key",
        "10: service.web.monitor[0].key: KEY is not the key of CERTIFICATE; write the two that belong together",
    );
    pair(
        "a.pem",
        "open.key",
        "10: service.web.monitor[0].key: KEY is open to everyone (mode 0644); chmod 600, or 640 with a group of its own",
    );
}
