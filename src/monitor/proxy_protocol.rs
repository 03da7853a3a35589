//! The PROXY protocol's header (HAProxy, `doc/proxy-protocol.txt`): that this connection is not a client's but the
//! proxy's own.

use tokio::io::AsyncWriteExt;

use super::connect::{Stream, words};
use super::outcome::{Deadline, Failure};
use crate::check::ProxyProtocol;

/// Section 2.1.
const V1: &[u8] = b"PROXY UNKNOWN\r\n";
/// Section 2.2: the signature, version 2 with the command LOCAL, no address family, no addresses.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The first bytes of the connection, if the check wants any.
pub(super) async fn send(
    stream: &mut Stream,
    version: Option<ProxyProtocol>,
    deadline: Deadline,
) -> Result<(), Failure> {
    let header = match version {
        None => return Ok(()),
        Some(ProxyProtocol::V1) => V1,
        Some(ProxyProtocol::V2) => V2,
    };
    deadline
        .limit("the PROXY header to leave", stream.write_all(header))
        .await?
        .map_err(|error| Failure::Server(words(&error)))
}
