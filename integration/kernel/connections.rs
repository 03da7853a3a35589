//! `plimsoll connections`, on connections that the kernel really balances.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};

use serde_json::Value;

use super::lab::{in_namespace, sh};

fn connections(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.arg("connections");
    command.args(arguments.split_whitespace()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// One row is found, and it is from this client to this server.
fn expect_one(arguments: &str, client: &str, server: &str) {
    let found = connections(&format!("--json {arguments}"));
    assert_eq!(found.status.code(), Some(0), "{arguments}: {found:?}");
    let row: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(
        (&row["client"], &row["server"]),
        (&client.into(), &server.into()),
        "{arguments}"
    );
    assert_eq!(row["state"], "ESTABLISHED");
}

#[test]
fn says_which_server_has_a_connection() {
    in_namespace(async {
        for address in [
            "192.0.2.1/32",
            "10.0.0.1/32",
            "2001:db8::1/128 nodad",
            "2001:db8:1::1/128 nodad",
        ] {
            sh(&format!("ip address add {address} dev lo"));
        }
        sh("ipvsadm -A -t 192.0.2.1:80 -s rr && ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.1:80 -g");
        sh(
            "ipvsadm -A -t [2001:db8::1]:80 -s rr && ipvsadm -a -t [2001:db8::1]:80 -r [2001:db8:1::1]:80 -g",
        );
        let none = connections("");
        assert_eq!(
            (none.status.code(), text(&none.stdout)),
            (Some(1), String::new())
        );

        let _servers = [
            TcpListener::bind("192.0.2.1:80").unwrap(),
            TcpListener::bind("[2001:db8::1]:80").unwrap(),
        ];
        let four = TcpStream::connect("192.0.2.1:80").unwrap();
        let six = TcpStream::connect("[2001:db8::1]:80").unwrap();
        let (of_four, of_six) = (
            four.local_addr().unwrap().to_string(),
            six.local_addr().unwrap().to_string(),
        );

        expect_one("--client 192.0.2.1", &of_four, "10.0.0.1:80");
        expect_one(&format!("--client {of_six}"), &of_six, "[2001:db8:1::1]:80");
        expect_one("--client 2001:db8::/32", &of_six, "[2001:db8:1::1]:80");
        expect_one("--service tcp/192.0.2.1:80", &of_four, "10.0.0.1:80");
        expect_one("--server 2001:db8:1::1", &of_six, "[2001:db8:1::1]:80");
        assert_eq!(connections("--server 10.0.0.2").status.code(), Some(1));
        assert_eq!(
            connections("--service udp/192.0.2.1:80").status.code(),
            Some(1)
        );

        let all = text(&connections("").stdout);
        let rows: Vec<&str> = all.lines().collect();
        assert_eq!(rows.len(), 3, "{all}");
        assert_eq!(
            rows[0],
            "PROTOCOL  EXPIRES  STATE        CLIENT                 VIRTUAL                SERVER"
        );
        assert!(
            rows.iter()
                .any(|row| row.contains("192.0.2.1:80           10.0.0.1:80")),
            "{all}"
        );

        let named = tempfile::NamedTempFile::new().unwrap();
        let service =
            "address = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"rr\"\n";
        std::fs::write(
            &named,
            format!("[service.web]\n{service}servers = \"file:///x\"\n"),
        )
        .unwrap();
        let config = named.path().display();
        expect_one(
            &format!("--service web -c {config}"),
            &of_four,
            "10.0.0.1:80",
        );
        let unknown = connections(&format!("--service mail -c {config}"));
        assert_eq!(unknown.status.code(), Some(66));
        assert!(
            text(&unknown.stderr).starts_with("mail: no such service in "),
            "{unknown:?}"
        );
    });
}
