//! A key or password: held in memory, never shown, in no core dump, overwritten when nobody needs it any more.
//!
//! What a reader of key files or a system call copies of it, the one who copies overwrites: see `zeroize`.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::sync::Arc;

use memmap2::{Advice, MmapMut};
use serde::{Serialize, Serializer};
use zeroize::Zeroize;

/// Cheap to clone. `Debug` and `Serialize` say only that there is one.
#[derive(Clone)]
pub struct Secret(Arc<Pages>);

/// Memory of its own: what the allocator hands out cannot be left out of a core dump.
struct Pages {
    memory: MmapMut,
    length: usize,
}

impl Secret {
    pub fn new(bytes: &[u8]) -> Secret {
        let length = bytes.len();
        let Ok(mut memory) = MmapMut::map_anon(length.max(1)) else {
            // As for any other memory that there is not.
            handle_alloc_error(Layout::for_value(bytes));
        };
        // Every Linux since 3.4 does. Where a sandbox does not, the key is still worth more than none.
        if let Err(error) = memory.advise(Advice::DontDump) {
            tracing::warn!(%error, "a key in memory cannot be left out of core dumps");
        }
        memory[..length].copy_from_slice(bytes);
        Secret(Arc::new(Pages { memory, length }))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0.memory[..self.0.length]
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.memory[..].zeroize();
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("(secret)")
    }
}

/// How often these bytes, each xored with 0x55, are in the memory that a core dump would have.
#[cfg(test)]
pub(crate) fn dumped(hidden: &[u8]) -> usize {
    use std::os::unix::fs::FileExt;

    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut found, mut range, mut readable) = (0, (0, 0), false);
    for line in maps.lines() {
        let mut words = line.split(' ');
        let ends = words.next().and_then(|word| word.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).ok();
        if let Some(ends) = ends.and_then(|(a, b)| number(a).zip(number(b))) {
            range = ends;
            readable = words.next().is_some_and(|rights| rights.starts_with("rw"));
        }
        let Some(flags) = line.strip_prefix("VmFlags:") else {
            continue;
        };
        if !readable || flags.contains(" dd") {
            continue;
        }
        let mut page = [0; 4096];
        for at in (range.0..range.1).step_by(page.len()) {
            if memory.read_exact_at(&mut page, at).is_ok() {
                found += page
                    .windows(hidden.len())
                    .filter(|window| window.iter().zip(hidden).all(|(a, b)| a ^ 0x55 == *b))
                    .count();
            }
        }
        page.zeroize();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_was_put_in_and_says_nothing() {
        for bytes in [&b""[..], b"k", &[7; 10_000]] {
            let secret = Secret::new(bytes);
            assert_eq!(secret.bytes(), bytes);
            assert_eq!(secret.clone(), Secret::new(bytes));
        }
        let secret = Secret::new(b"hunter2");
        assert_ne!(secret, Secret::new(b"hunter3"));
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"(secret)\"");
    }

    /// The kernel's own word for the memory that a byte is in: `dd` is "do not dump".
    fn is_dumped(byte: &u8) -> bool {
        let wanted = std::ptr::from_ref(byte) as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|word| word.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            if let Some((from, to)) = range.and_then(|(a, b)| number(a).zip(number(b))) {
                inside = (from..to).contains(&wanted);
            }
            if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return !flags.split_whitespace().any(|flag| flag == "dd");
            }
        }
        panic!("no mapping has this byte");
    }

    #[test]
    fn it_is_in_no_core_dump() {
        let (secret, plain) = (Secret::new(b"hunter2"), b"hunter2".to_vec());
        assert!(!is_dumped(&secret.bytes()[0]));
        assert!(is_dumped(&plain[0]), "other memory is");
    }
}
