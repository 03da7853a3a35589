//! Text files that an operator hands to a command.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A file's text, if it has at most so many bytes.
pub(super) fn read(path: &Path, largest: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(largest as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > largest {
        let text = format!("it is larger than {} KiB", largest / 1024);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}
