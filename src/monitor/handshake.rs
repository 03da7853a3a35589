//! `tls`: a handshake, in which the certificate is looked at.

use tokio::io::AsyncWriteExt;
use tracing::debug;

use super::connect::{Sends, open};
use super::outcome::{Deadline, Outcome, Passed};
use super::tls::{Wanted, server_name};
use super::{Tools, proxy_protocol};
use crate::check::{Check, Tls};

pub(super) async fn ask(check: &Check, probe: &Tls, tools: &Tools, deadline: Deadline) -> Outcome {
    let wanted = Wanted {
        client: &probe.tls,
        name: server_name(&probe.tls, None, check)?,
        http2: false,
    };
    let mut stream = open(check, tools, Sends::Often, deadline).await?;
    proxy_protocol::send(&mut stream, probe.proxy_protocol, deadline).await?;
    let mut stream = tools.tls.handshake(check, stream, wanted, deadline).await?;
    // A farewell (RFC 8446 section 6.1), for the server's log. The server has passed.
    let farewell = deadline.limit("the farewell", stream.shutdown()).await;
    debug!(?farewell, "closed");
    Ok(Passed::default())
}
