//! A peering driven by the fuzzer's bytes: the first four say how the two ends are configured, the rest what
//! happens. What must hold, and how bytes become events, stands in `src/bgp/peering/drive.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll::{bgp, routing, service};

#[path = "../../../src/bgp/peering/drive.rs"]
mod drive;

fuzz_target!(|bytes: &[u8]| {
    if let Err(what) = drive::drive(bytes) {
        panic!("{what}");
    }
});
