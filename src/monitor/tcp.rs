//! `tcp`: a connection, and maybe a text sent and another expected.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::{Sends, Stream, open, words};
use super::outcome::{Deadline, Failure, Outcome, Passed};
use super::{Tools, proxy_protocol};
use crate::check::expect::Pattern;
use crate::check::{Check, Tcp};

/// So much of what the server sends is looked at, in bytes.
const LOOKED_AT: usize = 16 * 1024;

pub(super) async fn ask(check: &Check, probe: &Tcp, tools: &Tools, deadline: Deadline) -> Outcome {
    let sends = Sends::once_if(probe.proxy_protocol.is_none() || probe.send.is_none());
    let mut stream = open(check, tools, sends, deadline).await?;
    proxy_protocol::send(&mut stream, probe.proxy_protocol, deadline).await?;
    if let Some(text) = &probe.send {
        deadline
            .limit("the text to leave", stream.write_all(text.as_bytes()))
            .await?
            .map_err(|error| Failure::Server(words(&error)))?;
    }
    if let Some(pattern) = &probe.expect {
        expect(&mut stream, pattern, deadline).await?;
    }
    Ok(Passed::default())
}

/// Reads until the pattern is in what came.
async fn expect(stream: &mut Stream, pattern: &Pattern, deadline: Deadline) -> Result<(), Failure> {
    let mut came = Vec::new();
    loop {
        let read = deadline
            .limit("the expected text", stream.read_buf(&mut came))
            .await?;
        let why = match read {
            Ok(0) => "closed by server".into(),
            Ok(_) if pattern.is_in(&came) => return Ok(()),
            Ok(_) if came.len() >= LOOKED_AT => format!("{} KiB came", LOOKED_AT / 1024),
            Ok(_) => continue,
            Err(error) => words(&error),
        };
        return Err(Failure::Server(format!("{why} without {pattern}")));
    }
}
