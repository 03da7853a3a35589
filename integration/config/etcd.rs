//! `[etcd]` and `servers = "etcd:…"`: each rule with its message, what is read of a good one, and what
//! a command reads that wants nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll::config::{Config, Etcd, EtcdApi, LARGEST, Servers};

use super::{check, example_path, mistakes, web};

/// A good service, then `[etcd]` on line 7 with good endpoints on line 8 and `lines` from line 9 on.
fn etcd(lines: &str) -> String {
    web(&format!(
        "[etcd]\nendpoints = [\"https://etcd1.example.com:2379\"]\n{lines}"
    ))
}

fn check_all(rules: &[(&str, &str)]) {
    for (lines, expected) in rules {
        check(&etcd(lines), expected);
    }
}

fn parsed(text: &str) -> Etcd {
    let config = Config::parse(text, "FILE").expect("it is good");
    Etcd::clone(&config.etcd.expect("there is one"))
}

#[test]
fn endpoints() {
    let rules = [
        (
            "",
            r#"7: etcd.endpoints: missing; write endpoints = ["https://etcd1.example.com:2379"], say"#,
        ),
        (
            "endpoints = []",
            r#"8: etcd.endpoints: no endpoint; write at least one, like "https://etcd1.example.com:2379""#,
        ),
        (
            "endpoints = 2379",
            r#"8: etcd.endpoints: expected an endpoint's URL, found the integer 2379; write it in quotes, like "https://etcd1.example.com:2379""#,
        ),
        (
            "endpoints = [\n  \"http://a:2379\",\n  true]",
            r#"10: etcd.endpoints[1]: expected an endpoint's URL, found true; write "https://etcd1.example.com:2379""#,
        ),
        (
            "endpoints = [\n  \"http://a:2379\",\n  \"http://b:2379\",\n  \"http://A:2379/\"]",
            "11: etcd.endpoints[2]: http://a:2379/ stands in the list twice; leave one of them out",
        ),
        (
            r#"endpoints = "etcd1.example.com:2379""#,
            r#"8: etcd.endpoints: "etcd1.example.com:2379" is not an endpoint's URL; write one like "https://etcd1.example.com:2379""#,
        ),
        (
            r#"endpoints = ["etcd1"]"#,
            r#"8: etcd.endpoints[0]: "etcd1" is not an endpoint's URL; write one like "https://etcd1.example.com:2379""#,
        ),
        (
            r#"endpoints = ["unix:///run/etcd"]"#,
            r#"8: etcd.endpoints[0]: "unix:///run/etcd" is not an endpoint's URL; write one like "https://etcd1.example.com:2379""#,
        ),
        (
            r#"endpoints = ["https://a:66000"]"#,
            r#"8: etcd.endpoints[0]: "https://a:66000" is not an endpoint's URL; write one like "https://etcd1.example.com:2379""#,
        ),
        (
            r#"endpoints = ["https://etcd1.example.com", "https://10.0.0.1", "http://[2001:db8::1]/", "http://a:"]"#,
            r#"8: etcd.endpoints[0]: "https://etcd1.example.com" has no port; etcd's is 2379 as a rule
8: etcd.endpoints[1]: "https://10.0.0.1" has no port; etcd's is 2379 as a rule
8: etcd.endpoints[2]: "http://[2001:db8::1]/" has no port; etcd's is 2379 as a rule
8: etcd.endpoints[3]: "http://a:" has no port; etcd's is 2379 as a rule"#,
        ),
        (
            r#"endpoints = ["https://a:0"]"#,
            r#"8: etcd.endpoints[0]: "https://a:0" has the port 0; etcd's is 2379 as a rule"#,
        ),
        (
            r#"endpoints = ["https://a:2379/v2/keys", "https://a:2379?x", "https://a:2379#x"]"#,
            r#"8: etcd.endpoints[0]: "https://a:2379/v2/keys" has a path; write scheme, host and port alone
8: etcd.endpoints[1]: "https://a:2379?x" has a path; write scheme, host and port alone
8: etcd.endpoints[2]: "https://a:2379#x" has a path; write scheme, host and port alone"#,
        ),
        (
            r#"endpoints = ["https://root@a:2379", "https://root:x@b:2379", "https://:x@c:2379"]"#,
            r#"8: etcd.endpoints[0]: "https://root@a:2379" has a user in it; write user and password-file
8: etcd.endpoints[1]: "https://root:x@b:2379" has a user in it; write user and password-file
8: etcd.endpoints[2]: "https://:x@c:2379" has a user in it; write user and password-file"#,
        ),
        (r#"endpoints = "https://a:2379""#, ""),
        (
            r#"endpoints = ["http://127.0.0.1:2379/", "https://[2001:db8::1]:443", "http://a:80"]"#,
            "",
        ),
    ];
    for (lines, expected) in rules {
        check(&web(&format!("[etcd]\n{lines}")), expected);
    }
}

#[test]
fn prefix_and_api() {
    check_all(&[
        (
            r#"prefix = "conftool/v1/pools""#,
            r#"9: etcd.prefix: "conftool/v1/pools" is not a directory in etcd; write one like "/conftool/v1/pools""#,
        ),
        (
            r#"prefix = """#,
            r#"9: etcd.prefix: "" is not a directory in etcd; write one like "/conftool/v1/pools""#,
        ),
        (
            r#"prefix = "/""#,
            r#"9: etcd.prefix: "/" is not a directory in etcd; write one like "/conftool/v1/pools""#,
        ),
        (
            r#"prefix = "/conftool//pools""#,
            r#"9: etcd.prefix: "/conftool//pools" is not a directory in etcd; write one like "/conftool/v1/pools""#,
        ),
        (
            r#"prefix = "/my pools""#,
            r#"9: etcd.prefix: "/my pools" is not a directory in etcd; write one like "/conftool/v1/pools""#,
        ),
        (
            "prefix = [\"/a\"]",
            r#"9: etcd.prefix: expected a directory in etcd, found a list; write "/conftool/v1/pools""#,
        ),
        (
            r#"prefix = "/plimsoll/v1/leases/""#,
            r#"9: etcd.prefix: "/plimsoll/v1/leases/" is where Plimsoll keeps its own keys; write one like "/conftool/v1/pools""#,
        ),
        (
            r#"prefix = "/plimsoll""#,
            r#"9: etcd.prefix: "/plimsoll" is where Plimsoll keeps its own keys; write one like "/conftool/v1/pools""#,
        ),
        (r#"prefix = "/plimsolls""#, ""),
        (r#"prefix = "/conftool/v1/pools/""#, ""),
        (
            r#"api = "v4""#,
            r#"9: etcd.api: unknown version of etcd's API "v4"; allowed are v3, v2"#,
        ),
        (
            r#"api = "grpc""#,
            r#"9: etcd.api: unknown version of etcd's API "grpc"; allowed are v3, v2"#,
        ),
        (
            "api = 3",
            "9: etcd.api: expected a version of etcd's API, found the integer 3; write one of v3, v2, in quotes",
        ),
        (r#"api = "v2""#, ""),
        (r#"api = "v3""#, ""),
    ]);
}

#[test]
fn certificates_and_users() {
    check_all(&[
        (
            r#"ca = "ca.pem""#,
            r#"9: etcd.ca: "ca.pem" is not an absolute path; write one that begins with /"#,
        ),
        (
            r#"certificate = "/c.pem""#,
            "7: etcd.key: missing, but there is certificate; write both or none",
        ),
        (
            r#"key = "/k.pem""#,
            "7: etcd.certificate: missing, but there is key; write both or none",
        ),
        (
            r#"user = "plimsoll""#,
            "7: etcd.password-file: missing, but there is user; write both or none",
        ),
        (
            r#"password-file = "/p""#,
            "7: etcd.user: missing, but there is password-file; write both or none",
        ),
        (
            "user = \"a:b\"\npassword-file = \"p\"",
            r#"9: etcd.user: "a:b" is no user's name; write one without colons
10: etcd.password-file: "p" is not an absolute path; write one that begins with /"#,
        ),
        (
            "user = \"\"\npassword-file = \"/p\"",
            r#"9: etcd.user: "" is no user's name; leave it out if etcd asks for none"#,
        ),
        (
            "user = 5\npassword-file = \"/p\"",
            r#"9: etcd.user: expected a user's name, found the integer 5; write it in quotes, like "plimsoll""#,
        ),
        (
            r#"password = "secret""#,
            r#"9: etcd.password: unknown key "password"; did you mean "password-file"?"#,
        ),
        (
            "ca = \"/ca.pem\"\ncertificate = \"/c.pem\"\nkey = \"/k.pem\"\nuser = \"u\"\npassword-file = \"/p\"",
            "",
        ),
    ]);
    let plain = |lines: &str| web(&format!("[etcd]\nendpoints = \"http://a:2379\"\n{lines}"));
    check(
        &plain(r#"ca = "/ca.pem""#),
        "9: etcd.ca: is for https, and no endpoint is; write https:// or leave it out",
    );
    check(
        &plain("key = \"/k.pem\"\ncertificate = \"/c.pem\""),
        "10: etcd.certificate: is for https, and no endpoint is; write https:// or leave it out",
    );
    check(&plain("user = \"u\"\npassword-file = \"/p\""), "");
    check(
        &web("[etcd]\nendpoints = [\"http://a:2379\", \"https://b:2379\"]\nca = \"/ca.pem\""),
        "",
    );
}

#[test]
fn times() {
    check_all(&[
        (
            r#"timeout = "9ms""#,
            r#"9: etcd.timeout: "9ms" is out of range; write 10ms to 1m"#,
        ),
        (
            r#"timeout = "61s""#,
            r#"9: etcd.timeout: "61s" is out of range; write 10ms to 1m"#,
        ),
        (
            "timeout = 5",
            r#"9: etcd.timeout: expected a duration, found the integer 5; write "5s" if seconds are meant"#,
        ),
        (
            r#"timeout = "soon""#,
            r#"9: etcd.timeout: "soon" is not a duration; write a number and a unit, like "5s""#,
        ),
        (
            r#"stale-after = "999ms""#,
            r#"9: etcd.stale-after: "999ms" is out of range; write 1s to 30days"#,
        ),
        (
            r#"stale-after = "31days""#,
            r#"9: etcd.stale-after: "31days" is out of range; write 1s to 30days"#,
        ),
        (
            r#"stale-after = "60""#,
            r#"9: etcd.stale-after: "60" is not a duration; write "60s" if seconds are meant"#,
        ),
        ("timeout = \"10ms\"\nstale-after = \"1s\"", ""),
        ("timeout = \"1m\"\nstale-after = \"30days\"", ""),
    ]);
}

#[test]
fn unknown_keys() {
    check_all(&[
        (
            r#"endpoint = "http://a:1""#,
            r#"9: etcd.endpoint: unknown key "endpoint"; did you mean "endpoints"?"#,
        ),
        (
            r#"cert = "/c""#,
            r#"9: etcd.cert: unknown key "cert"; did you mean "certificate"?"#,
        ),
        (
            r#"colour = "blue""#,
            r#"9: etcd.colour: unknown key "colour"; allowed are endpoints, prefix, api, ca, certificate, key, user, password-file, timeout, stale-after"#,
        ),
    ]);
    check(
        &web("[etc]\nendpoints = \"http://a:1\""),
        r#"7: etc: unknown key "etc"; did you mean "etcd"?"#,
    );
    check(
        &format!("etcd = \"http://a:1\"\n{}", web("")),
        r#"1: etcd: expected a table, found the string "http://a:1"; write [etcd]"#,
    );
}

#[test]
fn lists_in_etcd() {
    let servers = |text: &str| {
        web(&format!(
            "servers = {text:?}\n[etcd]\nendpoints = \"http://a:1\""
        ))
    };
    for bad in [
        "etcd:",
        "etcd:a/b",
        "etcd:a/b/c/d",
        "etcd:/a/b/c",
        "etcd:a//c",
        "etcd:a b/c/d",
    ] {
        let expected = format!(
            r#"7: service.web.servers: {bad:?} is not etcd:DC/CLUSTER/SERVICE; write one like "etcd:eqiad/cache_text/nginx""#
        );
        check(&servers(bad), &expected);
    }
    check(&servers("etcd:eqiad/cache_text/varnish-fe"), "");
    check(
        &web("servers = \"etcd:a/b/c\""),
        "7: service.web.servers: there is no [etcd]; write one with endpoints",
    );
    // Where the file is not TOML, [etcd] may be in what could not be read.
    let broken = mistakes(&web(
        "servers = \"etcd:a/b/c\"\n[etcd\nendpoints = \"http://a:1\"",
    ));
    assert!(!broken.contains("there is no [etcd]"), "{broken}");
    // A mistake in [etcd] is told once, not again by each service.
    check(
        &web("servers = \"etcd:a/b/c\"\n[etcd]\nendpoints = []"),
        r#"9: etcd.endpoints: no endpoint; write at least one, like "https://etcd1.example.com:2379""#,
    );
}

#[test]
fn what_is_read() {
    let least = parsed(&web("[etcd]\nendpoints = \"http://a:2379\""));
    let expected = Etcd {
        endpoints: vec!["http://a:2379".parse().unwrap()],
        prefix: "/conftool/v1/pools".to_owned(),
        api: EtcdApi::V3,
        ca: None,
        certificate: None,
        key: None,
        user: None,
        password_file: None,
        timeout: Duration::from_secs(5),
        stale_after: Duration::from_secs(60),
    };
    assert_eq!(least, expected);
    let all = parsed(&web(r#"[etcd]
endpoints = ["https://b:1", "https://a:443"]
prefix = "/x/y/"
api = "v2"
ca = "/ca"
certificate = "/c"
key = "/k"
user = "u"
password-file = "/p"
timeout = "250ms"
stale-after = "2min"
"#));
    let expected = Etcd {
        // In the file's order: they are tried in it.
        endpoints: vec!["https://b:1".parse().unwrap(), "https://a".parse().unwrap()],
        prefix: "/x/y".to_owned(),
        api: EtcdApi::V2,
        ca: Some(PathBuf::from("/ca")),
        certificate: Some(PathBuf::from("/c")),
        key: Some(PathBuf::from("/k")),
        user: Some("u".to_owned()),
        password_file: Some(PathBuf::from("/p")),
        timeout: Duration::from_millis(250),
        stale_after: Duration::from_secs(120),
    };
    assert_eq!(all, expected);
    assert_eq!(Config::parse(&web(""), "FILE").unwrap().etcd, None);
    let text = web("servers = \"etcd:a/b/c\"\n[etcd]\nendpoints = \"http://a:1\"");
    let config = Config::parse(&text, "FILE").unwrap();
    let path = "a/b/c".parse().unwrap();
    assert_eq!(
        config.services.values().next().unwrap().servers,
        Servers::Etcd(path)
    );
}

/// What [`Config::read_etcd`] says of a file, without the file's name.
fn alone(text: &str) -> Result<Etcd, String> {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("plimsoll.toml");
    fs::write(&path, text).expect("a file");
    match Config::read_etcd(&path) {
        Ok(etcd) => Ok(Etcd::clone(&etcd)),
        Err(mistakes) => Err(mistakes
            .to_string()
            .replace(&format!("{}:", path.display()), "")),
    }
}

/// On a real server there are no services.
#[test]
fn etcd_alone_is_enough_for_commands() {
    let text = "[etcd]\nendpoints = \"http://a:2379\"\n";
    let etcd = alone(text).unwrap();
    assert_eq!(etcd, parsed(&web(text)));
    let whole = Config::read(&example_path()).unwrap();
    let part = Config::read_etcd(&example_path()).unwrap();
    assert_eq!(whole.etcd, Some(part));
}

/// On a balancer a mistake elsewhere must not keep anyone from depooling a server.
#[test]
fn mistakes_elsewhere_do_not_matter_to_commands() {
    let good = "[etcd]\nendpoints = \"http://a:2379\"\n";
    let expected = alone(good).unwrap();
    for rest in [
        "[service.web]\nport = 0\nservers = \"etcd:a\"\n",
        "[bgp]\nlocal-as = 0\n",
        "[colour]\nblue = true\n",
    ] {
        assert_ne!(mistakes(&format!("{good}{rest}")), "", "{rest}");
        assert_eq!(
            alone(&format!("{good}{rest}")),
            Ok(expected.clone()),
            "{rest}"
        );
    }
}

#[test]
fn what_commands_refuse() {
    for (text, expected) in [
        ("", "1: etcd: missing; write [etcd] with endpoints"),
        (
            "[service.web]\n",
            "1: etcd: missing; write [etcd] with endpoints",
        ),
        (
            "etcd = 1\n",
            "1: etcd: expected a table, found the integer 1; write [etcd]",
        ),
        (
            "[etcd]\nendpoint = \"http://a:1\"\n",
            "1: etcd.endpoints: missing; write endpoints = [\"https://etcd1.example.com:2379\"], say
2: etcd.endpoint: unknown key \"endpoint\"; did you mean \"endpoints\"?",
        ),
    ] {
        assert_eq!(alone(text), Err(expected.to_owned()), "{text}");
    }
    // Not TOML somewhere: it may have been [etcd] that was meant.
    let broken = alone("[etcd]\nendpoints = \"http://a:1\"\n[service.web\nport = 80\n");
    let said = broken.unwrap_err();
    assert!(said.starts_with("3:13: not TOML"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(alone("[etcd\n").unwrap_err().contains("not TOML"));
    let large = format!(
        "# {}\n[etcd]\nendpoints = \"http://a:1\"\n",
        "x".repeat(LARGEST)
    );
    assert!(alone(&large).unwrap_err().contains("larger than 16 MiB"));
    let missing = Config::read_etcd(Path::new("/none/plimsoll.toml")).unwrap_err();
    let text = "/none/plimsoll.toml: cannot be read: No such file or directory (os error 2)";
    assert_eq!(missing.to_string(), text);
}
