//! Files of the state directory: what one process leaves to the next. What is in them is their owners' business.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Makes this the file's content. After a crash at any moment the old or the new one is there, whole.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(directory)?;
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    // The rename itself lasts only once the directory is on the disk.
    File::open(directory)?.sync_all()
}

/// Keeps what we can't read for someone who can, and says so.
pub fn set_aside(path: &Path, why: &str) -> String {
    let bad = path.with_extension("json.bad");
    let moved = match std::fs::rename(path, &bad) {
        Ok(()) => format!("moved to {}", bad.display()),
        Err(cause) => format!("cannot be moved aside: {cause}"),
    };
    format!("{} cannot be read: {why}; {moved}", path.display())
}
