//! NOTIFICATION: why a session ends, as one side tells the other.

use std::fmt;

/// RFC 4271 section 4.5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

impl Notification {
    pub fn new(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Notification {
        Notification {
            code,
            subcode,
            data: data.into(),
        }
    }

    /// RFC 4486.
    pub fn cease(why: Cease) -> Notification {
        Notification::new(CEASE, why as u8, [])
    }

    /// The same with the operator's words, for those two that carry them (RFC 9003 section 2): an
    /// Administrative Shutdown or Reset. Beyond 255 bytes they are cut off between two characters.
    pub fn cease_because(why: Cease, text: Option<&str>) -> Notification {
        let text = text.unwrap_or_default();
        let text = &text[..text.floor_char_boundary(u8::MAX.into())];
        let mut data = Vec::new();
        if !text.is_empty() {
            data.push(text.len() as u8);
            data.extend(text.as_bytes());
        }
        Notification::new(CEASE, why as u8, data)
    }
}

/// RFC 4486 section 3, those that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cease {
    MaximumPrefixes = 1,
    AdministrativeShutdown = 2,
    PeerDeconfigured = 3,
    AdministrativeReset = 4,
    ConnectionRejected = 5,
    OtherConfigurationChange = 6,
    ConnectionCollision = 7,
    OutOfResources = 8,
}

const CEASE: u8 = 6;
const SHUTDOWN: u8 = Cease::AdministrativeShutdown as u8;
const RESET: u8 = Cease::AdministrativeReset as u8;
/// RFC 8538.
const HARD_RESET: u8 = 9;

/// The code's and the subcode's names (IANA, BGP Error Codes), the numbers, and what the data has in words:
/// the operator's text (RFC 9003 section 2) in quotes, or what a hard reset wraps (RFC 8538 section 3.1).
///
/// The text comes from outside: what is no printable character stands there escaped, what is no UTF-8 as
/// U+FFFD, and if that or the length is wrong, it says so (RFC 9003 section 4).
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flat(f)?;
        // What is wrapped is not unwrapped again: that could go on for as long as the message is.
        if let (CEASE, HARD_RESET, [code, subcode, data @ ..]) =
            (self.code, self.subcode, &self.data[..])
        {
            f.write_str(": ")?;
            Notification::new(*code, *subcode, data).flat(f)?;
        }
        Ok(())
    }
}

impl Notification {
    fn flat(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, code, subcode) = (name(self.code, self.subcode), self.code, self.subcode);
        write!(f, "{name} ({code}/{subcode})")?;
        if let (CEASE, SHUTDOWN | RESET, [length, rest @ ..]) = (code, subcode, &self.data[..]) {
            write_text(f, usize::from(*length), rest)?;
        }
        Ok(())
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, length: usize, rest: &[u8]) -> fmt::Result {
    let bytes = rest.get(..length).unwrap_or(rest);
    let text = String::from_utf8_lossy(bytes);
    if !text.is_empty() {
        write!(f, ": {text:?}")?;
    }
    match length == rest.len() && std::str::from_utf8(bytes).is_ok() {
        true => Ok(()),
        false => f.write_str(" (malformed)"),
    }
}

fn name(code: u8, subcode: u8) -> &'static str {
    match (code, subcode) {
        (1, 1) => "connection not synchronized",
        (1, 2) => "bad message length",
        (1, 3) => "bad message type",
        (1, _) => "message header error",
        (2, 1) => "unsupported version number",
        (2, 2) => "bad peer AS",
        (2, 3) => "bad BGP identifier",
        (2, 4) => "unsupported optional parameter",
        (2, 5) => "authentication failure",
        (2, 6) => "unacceptable hold time",
        (2, 7) => "unsupported capability",
        // RFC 9234.
        (2, 11) => "role mismatch",
        (2, _) => "OPEN message error",
        (3, 1) => "malformed attribute list",
        (3, 2) => "unrecognized well-known attribute",
        (3, 3) => "missing well-known attribute",
        (3, 4) => "attribute flags error",
        (3, 5) => "attribute length error",
        (3, 6) => "invalid ORIGIN attribute",
        (3, 7) => "AS routing loop",
        (3, 8) => "invalid NEXT_HOP attribute",
        (3, 9) => "optional attribute error",
        (3, 10) => "invalid network field",
        (3, 11) => "malformed AS_PATH",
        (3, _) => "UPDATE message error",
        (4, _) => "hold timer expired",
        // RFC 6608.
        (5, 1) => "unexpected message in OpenSent",
        (5, 2) => "unexpected message in OpenConfirm",
        (5, 3) => "unexpected message in Established",
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
        // RFC 9384.
        (6, 10) => "BFD down",
        (6, _) => "cease",
        // RFC 7313.
        (7, 1) => "invalid ROUTE-REFRESH message length",
        (7, _) => "ROUTE-REFRESH message error",
        // RFC 9687.
        (8, _) => "send hold timer expired",
        _ => "unknown error",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(code: u8, subcode: u8, data: &[u8], words: &str) {
        assert_eq!(Notification::new(code, subcode, data).to_string(), words);
    }

    #[test]
    fn words() {
        let cease = Notification::cease(Cease::PeerDeconfigured);
        assert_eq!(cease.to_string(), "peer de-configured (6/3)");
        check(99, 1, &[], "unknown error (99/1)");
        check(2, 11, &[], "role mismatch (2/11)");
        check(5, 3, &[], "unexpected message in Established (5/3)");
        check(8, 0, &[], "send hold timer expired (8/0)");
        check(7, 1, &[0xff], "invalid ROUTE-REFRESH message length (7/1)");
    }

    #[test]
    fn what_a_hard_reset_wraps() {
        check(6, 9, &[], "hard reset (6/9)");
        check(6, 9, &[6], "hard reset (6/9)");
        check(
            6,
            9,
            b"\x06\x02\x02hi",
            "hard reset (6/9): administrative shutdown (6/2): \"hi\"",
        );
        check(
            6,
            9,
            &[6, 9].repeat(2000),
            "hard reset (6/9): hard reset (6/9)",
        );
    }

    #[test]
    fn texts_of_others() {
        check(6, 2, b"\x02hi", "administrative shutdown (6/2): \"hi\"");
        check(6, 4, &[0], "administrative reset (6/4)");
        check(6, 3, b"\x02hi", "peer de-configured (6/3)");
        // Too long a length, too short a one, one without a text.
        let malformed = "administrative shutdown (6/2): \"hi\" (malformed)";
        check(6, 2, b"\x09hi", malformed);
        check(6, 2, b"\x02hiho", malformed);
        check(6, 2, &[9], "administrative shutdown (6/2) (malformed)");
        // No UTF-8; what would move a terminal's cursor, or turn the line around.
        check(
            6,
            4,
            &[2, 0xff, b'\n'],
            "administrative reset (6/4): \"\u{fffd}\\n\" (malformed)",
        );
        let turned =
            Notification::cease_because(Cease::AdministrativeReset, Some("\u{1b}[2J\u{202e}\"é"));
        assert_eq!(
            turned.to_string(),
            "administrative reset (6/4): \"\\u{1b}[2J\\u{202e}\\\"é\""
        );
    }

    #[test]
    fn our_own_texts() {
        assert_eq!(
            Notification::cease_because(Cease::AdministrativeShutdown, Some("hi")),
            Notification::new(6, 2, *b"\x02hi")
        );
        assert_eq!(
            Notification::cease_because(Cease::AdministrativeShutdown, Some("")),
            Notification::new(6, 2, [])
        );
        // 127 letters of two bytes fit, half a letter does not.
        let long = Notification::cease_because(Cease::AdministrativeReset, Some(&"é".repeat(200)));
        assert_eq!((long.data[0], long.data.len()), (254, 255));
        let longest =
            Notification::cease_because(Cease::AdministrativeReset, Some(&"e".repeat(300)));
        assert_eq!((longest.data[0], longest.data.len()), (255, 256));
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_moves_a_terminal(code in 0u8..9, subcode in 0u8..12, data: Vec<u8>) {
            let text = Notification::new(code, subcode, data).to_string();
            prop_assert!(!text.contains(char::is_control), "{}", text);
        }

        #[test]
        fn our_texts_read_back(text: String) {
            let told = Notification::cease_because(Cease::AdministrativeShutdown, Some(&text));
            prop_assert!(told.data.len() <= 256);
            prop_assert!(!told.to_string().ends_with("(malformed)"));
        }
    }
}
