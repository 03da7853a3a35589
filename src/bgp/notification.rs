//! NOTIFICATION: why a session ends, as one side tells the other.

use std::fmt;

/// RFC 4271 section 4.5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notification {
    pub(crate) code: u8,
    pub(crate) subcode: u8,
    pub(crate) data: Vec<u8>,
}

impl Notification {
    pub(crate) fn new(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Notification {
        Notification {
            code,
            subcode,
            data: data.into(),
        }
    }

    /// RFC 4486.
    pub(crate) fn cease(why: Cease) -> Notification {
        Notification::new(6, why as u8, [])
    }
}

/// RFC 4486 section 3, those that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cease {
    AdministrativeShutdown = 2,
    PeerDeconfigured = 3,
    OtherConfigurationChange = 6,
    ConnectionCollision = 7,
}

/// The code's and the subcode's names (IANA, BGP Error Codes), and the numbers.
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.code, self.subcode) {
            (1, 1) => "connection not synchronized",
            (1, 2) => "bad message length",
            (1, 3) => "bad message type",
            (1, _) => "message header error",
            (2, 1) => "unsupported version number",
            (2, 2) => "bad peer AS",
            (2, 3) => "bad BGP identifier",
            (2, 4) => "unsupported optional parameter",
            (2, 6) => "unacceptable hold time",
            (2, 7) => "unsupported capability",
            (2, _) => "OPEN message error",
            (3, 1) => "malformed attribute list",
            (3, 10) => "invalid network field",
            (3, _) => "UPDATE message error",
            (4, _) => "hold timer expired",
            (5, _) => "finite state machine error",
            (6, 1) => "maximum number of prefixes reached",
            (6, 2) => "administrative shutdown",
            (6, 3) => "peer de-configured",
            (6, 4) => "administrative reset",
            (6, 5) => "connection rejected",
            (6, 6) => "other configuration change",
            (6, 7) => "connection collision resolution",
            (6, 8) => "out of resources",
            (6, 9) => "hard reset",
            (6, 10) => "BFD down",
            (6, _) => "cease",
            (7, _) => "ROUTE-REFRESH message error",
            (8, _) => "send hold timer expired",
            _ => "unknown error",
        };
        write!(f, "{name} ({}/{})", self.code, self.subcode)?;
        // RFC 9003 section 2: the length and the text of who shut it down.
        if let (6, 2 | 4, [length, text @ ..]) = (self.code, self.subcode, &self.data[..])
            && let Some(text) = text.get(..usize::from(*length))
            && !text.is_empty()
        {
            write!(f, ": {:?}", String::from_utf8_lossy(text))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(
            Notification::cease(Cease::PeerDeconfigured).to_string(),
            "peer de-configured (6/3)"
        );
        assert_eq!(
            Notification::new(99, 1, []).to_string(),
            "unknown error (99/1)"
        );
        assert_eq!(
            Notification::new(6, 2, *b"\x02hi").to_string(),
            "administrative shutdown (6/2): \"hi\""
        );
        // A length that is too long, a text that is no text.
        assert_eq!(
            Notification::new(6, 2, *b"\x09hi").to_string(),
            "administrative shutdown (6/2)"
        );
        assert_eq!(
            Notification::new(6, 4, [2, 0xff, b'\n']).to_string(),
            "administrative reset (6/4): \"\u{fffd}\\n\""
        );
    }
}
