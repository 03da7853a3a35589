//! Reads how a peer is authenticated, and the files that hold the keys. Their contents are in no message.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::super::reader::{Key, Node, Table, key};
use super::super::value;
use super::super::{Ao, AoAlgorithm, Authentication};
use crate::secret::Secret;

pub(in crate::config) const AO_KEYS: &[Key] = &[
    key("key-file"),
    key("send-id"),
    key("receive-id"),
    key("algorithm"),
];

/// `TCP_MD5SIG_MAXKEYLEN` and `TCP_AO_MAXKEYLEN` of `linux/tcp.h`.
const LONGEST: usize = 80;

/// Some editors put it first in a file in UTF-8. No router's key begins so, nor has any the zeros of UTF-16.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Whoever may read the key may speak for the router; whoever may write it may choose it.
const OTHERS: u32 = 0o006;

/// Puts what the table says in the place of what was there before. `false`: something was wrong, and has been
/// noted.
pub(super) fn lay(table: &Table<'_>, to: &mut Option<Authentication>) -> bool {
    if let (Some(password), Some(ao)) = (table.get("password-file"), table.get("tcp-ao")) {
        password.mistake(format_args!(
            "there is tcp-ao too, on line {}; leave out one of the two",
            ao.place().line()
        ));
        return false;
    }
    table.put_some("password-file", to, |node| {
        key_file(node).map(Authentication::Md5)
    }) & table.put_some("tcp-ao", to, |node| ao(node).map(Authentication::Ao))
}

fn ao(node: &Node<'_>) -> Option<Ao> {
    let table = node.table(AO_KEYS)?;
    let key = table.required(
        "key-file",
        "key-file = \"/etc/plimsoll/bgp/router1.key\", say",
        key_file,
    );
    let id = |name, example| table.required(name, example, |node| node.integer(0, u8::MAX.into()));
    let send_id = id("send-id", "the KeyID that we send, 0 to 255");
    let receive_id = id("receive-id", "the KeyID that the router sends, 0 to 255");
    let algorithm = table.or("algorithm", AoAlgorithm::HmacSha1, |node| {
        node.choice(
            "algorithm",
            [
                ("hmac-sha-1-96", AoAlgorithm::HmacSha1),
                ("aes-128-cmac-96", AoAlgorithm::Aes128Cmac),
            ],
        )
    });
    Some(Ao {
        key: key?,
        send_id: u8::try_from(send_id?).ok()?,
        receive_id: u8::try_from(receive_id?).ok()?,
        algorithm: algorithm?,
    })
}

/// The first line of a file that not everyone can read. Blocks, as files do.
fn key_file(node: &Node<'_>) -> Option<Secret> {
    let path = value::path(node)?;
    let found = path.display();
    let (mode, line) = match first_line(&path) {
        Ok(read) => read,
        Err(error) => {
            node.mistake(format_args!(
                "{found} cannot be read: {error}; write a file whose first line is the key"
            ));
            return None;
        }
    };
    if mode & OTHERS != 0 {
        node.mistake(format_args!(
            "{found} is open to everyone (mode {:04o}); chmod 600, or 640 with a group of its own",
            mode & 0o7777
        ));
    } else if line.is_empty() {
        node.mistake(format_args!(
            "{found} has an empty first line; write the key there, 1 to {LONGEST} bytes"
        ));
    } else if line.len() > LONGEST {
        node.mistake(format_args!(
            "{found} has a first line of more than {LONGEST} bytes; a key has 1 to {LONGEST}"
        ));
    } else if line.contains(&0) || line.starts_with(BYTE_ORDER_MARK) {
        node.mistake(format_args!(
            "{found} is not plain text; save it in ASCII or UTF-8, without a byte order mark"
        ));
    } else {
        return Some(Secret::new(&line));
    }
    None
}

/// The file's mode and its first line, or as much of it as tells that it is too long.
fn first_line(path: &Path) -> io::Result<(u32, Zeroizing<Vec<u8>>)> {
    // A pipe would be waited for, and to open a device may do something.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let mode = file.metadata()?.permissions().mode();
    // With room to spare: what grows leaves a copy behind.
    let mut start = Zeroizing::new(Vec::with_capacity(2 * LONGEST));
    file.take(LONGEST as u64 + 3).read_to_end(&mut start)?;
    let mut line = start.split(|byte| *byte == b'\n').next().unwrap_or(&start);
    line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok((mode, Zeroizing::new(line.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::dumped;

    #[test]
    fn a_key_that_was_read_is_not_in_what_a_core_dump_has() {
        // Of what is freed the allocator overwrites the first bytes; the test is about the others.
        let hidden: Vec<u8> = (0..32).map(|_| fastrand::u8(0x80..)).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let mut clear = Zeroizing::new(vec![b'k'; LONGEST]);
        for (byte, hidden) in clear[LONGEST - 32..].iter_mut().zip(&hidden) {
            *byte = hidden ^ 0x55;
        }
        fs::write(&path, &*clear).unwrap();
        assert!(dumped(&hidden) > 0, "the search finds it");
        let (_, line) = first_line(&path).unwrap();
        assert!(*line == *clear);
        let secret = Secret::new(&line);
        drop((line, clear));
        assert_eq!(dumped(&hidden), 0);
        assert_eq!(secret.bytes().len(), LONGEST);
    }
}
