//! `run-command`: a program's exit status; 0 is up.
//!
//! That it cannot be started says nothing about the server. What it writes is read to the end, so that it does not
//! wait for us; [`KEPT`] bytes of each stream are kept.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::info;

use super::Tools;
use super::command::{Program, Running};
use super::outcome::{Deadline, Failure, Outcome, Passed};
use crate::check::{Check, RunCommand};

/// Bytes, half of them from the beginning of what a program writes, half from its end.
const KEPT: usize = 4096;
/// What is read of a program's output at once; then others have their turn.
const GULP: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(1);

/// One run; `began`: set to when its time began, as waiting for a turn does not count.
pub(super) async fn ask(
    check: &Check,
    probe: &RunCommand,
    tools: &Tools,
    began: &mut Instant,
) -> Outcome {
    let Check {
        service,
        host,
        target,
        monitor,
        ..
    } = check;
    let turn = tools.commands.turn(monitor.interval).await;
    *began = Instant::now();
    let deadline = Deadline::of(monitor.timeout);
    let after = humantime::format_duration(deadline.after);
    let fill = probe.arguments.iter();
    let program = Program {
        path: probe.command.clone(),
        arguments: fill.map(|it| it.fill(service, host, *target)).collect(),
        user: probe.user.clone(),
    };
    let start = tools.commands.start(program, turn?);
    let command = probe.command.display();
    let mut running = timeout_at(deadline.at, start)
        .await
        .map_err(|_| Failure::Unable(format!("{command} could not be started within {after}")))??;
    let (mut stdout, mut stderr) = (Kept::default(), Kept::default());
    let ended = {
        let Running {
            group,
            stdout: out,
            stderr: err,
        } = &mut running;
        tokio::select! {
            ended = timeout_at(deadline.at, group.ended()) => ended,
            never = read(out, &mut stdout) => match never {},
            never = read(err, &mut stderr) => match never {},
        }
    };
    // What it wrote last.
    gulp(&running.stdout, &mut stdout);
    gulp(&running.stderr, &mut stderr);
    drop(running);
    if probe.log_output && !(stdout.is_empty() && stderr.is_empty()) {
        let (stdout, stderr) = (stdout.text(), stderr.text());
        info!(%service, %host, %command, ?stdout, ?stderr, "output of a command");
    }
    let Ok(ended) = ended else {
        return Err(Failure::Server(format!("timed out after {after}")));
    };
    let ended = ended.map_err(|error| Failure::Unable(format!("{command}: {error}")))?;
    if ended.leftovers {
        info!(%service, %host, %command, "a command left processes behind, which were killed");
    }
    judge(ended.status, &stdout, &stderr)
}

/// `exit status 2: last line`, say.
fn judge(status: ExitStatus, stdout: &Kept, stderr: &Kept) -> Outcome {
    if status.success() {
        let load = stdout.first_line();
        return Ok(Passed { load });
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => status.to_string(),
    };
    // Most programs say on standard error why they fail; plugins in the manner of Nagios on standard output.
    let line = stderr.last_line().or_else(|| stdout.last_line());
    Err(Failure::Server(match line {
        Some(line) => format!("{how}: {line}"),
        None => how,
    }))
}

/// Reads as long as there is something; then, for ever, nothing.
async fn read(from: &pipe::Receiver, kept: &mut Kept) -> Infallible {
    while from.readable().await.is_ok() && gulp(from, kept) {
        sleep(PAUSE).await;
    }
    pending().await
}

/// What there is to read, up to [`GULP`]; `false`: it was closed.
fn gulp(from: &pipe::Receiver, kept: &mut Kept) -> bool {
    let mut bytes = [0; 4096];
    for _ in 0..GULP / bytes.len() {
        match from.try_read(&mut bytes) {
            Ok(0) => return false,
            Ok(read) => kept.take(&bytes[..read]),
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// How something begins and ends.
#[derive(Default)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        const HALF: usize = KEPT / 2;
        let room = HALF - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let more = self.tail.len().saturating_sub(HALF);
        self.tail.drain(..more);
        self.left_out += more as u64;
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// With what is missing in the middle.
    fn text(&self) -> String {
        let (head, tail) = self.parts();
        let text = match self.left_out {
            0 => self.whole(),
            bytes => format!("{head}\n[{bytes} bytes left out]\n{tail}"),
        };
        text.trim_end().to_owned()
    }

    fn first_line(&self) -> Option<String> {
        let text = match self.left_out {
            0 => self.whole(),
            _ => self.parts().0,
        };
        text.lines().next().map(str::to_owned)
    }

    /// That has something in it.
    fn last_line(&self) -> Option<String> {
        let text = match self.left_out {
            0 => self.whole(),
            _ => self.parts().1,
        };
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        line.map(str::to_owned)
    }

    fn whole(&self) -> String {
        let bytes: Vec<u8> = self.head.iter().chain(&self.tail).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn parts(&self) -> (String, String) {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&self.head), text(&tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(written: &[&[u8]]) -> Kept {
        let mut kept = Kept::default();
        written.iter().for_each(|bytes| kept.take(bytes));
        kept
    }

    #[test]
    fn what_is_kept_of_an_output() {
        let nothing = kept(&[]);
        assert!(nothing.is_empty());
        assert_eq!((nothing.text(), nothing.last_line()), (String::new(), None));
        let two = kept(&[b"one\ntw", b"o \x1b[31m\xff\n\n \n"]);
        assert_eq!(two.text(), "one\ntwo \u{1b}[31m\u{fffd}");
        assert_eq!(two.last_line().as_deref(), Some("two \u{1b}[31m\u{fffd}"));
        // As much as is kept, and a byte more.
        let all = kept(&[&[b'a'; KEPT]]);
        assert_eq!(all.text(), "a".repeat(KEPT));
        let more = kept(&[&[b'a'; KEPT - 1], b"\n", b"z\n"]);
        let (head, tail) = ("a".repeat(KEPT / 2), "a".repeat(KEPT / 2 - 3));
        let expected = format!("{head}\n[2 bytes left out]\n{tail}\nz");
        assert_eq!(more.text(), expected);
        assert_eq!(more.last_line().as_deref(), Some("z"));
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut flooded = Kept::default();
        for _ in 0..1000 {
            flooded.take(&[b'x'; 10_000]);
        }
        assert_eq!(flooded.head.len() + flooded.tail.len(), KEPT);
        assert_eq!(flooded.left_out, 10_000_000 - KEPT as u64);
        assert!(flooded.tail.capacity() < 32 * 1024);
    }

    #[test]
    fn ends_in_words() {
        let check = |raw, stdout: &[u8], stderr: &[u8], expected: &str| {
            let (stdout, stderr) = (kept(&[stdout]), kept(&[stderr]));
            let why = judge(ExitStatus::from_raw(raw), &stdout, &stderr);
            assert_eq!(why.unwrap_err().into_reason(), expected);
        };
        check(0x0200, b"", b"", "exit status 2");
        check(
            0x0200,
            b"CRITICAL - down\n",
            b"",
            "exit status 2: CRITICAL - down",
        );
        check(0xff00, b"out\n", b"a\nb\n", "exit status 255: b");
        check(libc::SIGSEGV, b"", b"", "killed by SIGSEGV");
        check(40, b"", b"", "killed by signal 40");
    }
}
