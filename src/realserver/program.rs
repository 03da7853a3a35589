//! The programs that we use: nft for the rules, ip for fou's ports, which rtnetlink doesn't know, modprobe for its
//! module.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// What it writes to standard output; else the first line of what it complains of.
pub(super) async fn run(words: &[&str], input: &str) -> Result<String, String> {
    let (program, arguments) = words.split_first().expect("a program");
    let work = async {
        let mut child = Command::new(program)
            .args(arguments)
            // What it says is read by a program.
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that does not read to the end says why itself.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        output
    };
    match timeout(PATIENCE, work).await {
        Ok(Ok(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(Ok(output)) => Err(complaint(words, &output)),
        Ok(Err(cause)) if cause.kind() == io::ErrorKind::NotFound => Err(format!(
            "there is no program {program}: {}",
            package(program)
        )),
        Ok(Err(cause)) => Err(format!("cannot run {program}: {cause}")),
        Err(_) => Err(format!(
            "{}: no end in {} s",
            words.join(" "),
            PATIENCE.as_secs()
        )),
    }
}

fn package(program: &str) -> &'static str {
    match program {
        "nft" => "install nftables",
        "ip" => "install iproute2",
        _ => "install it",
    }
}

fn complaint(words: &[&str], output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().find(|line| !line.trim().is_empty());
    let first = first.unwrap_or("it does not say why").trim();
    let line: String = first
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect();
    format!("{}: {line}", words.join(" "))
}
