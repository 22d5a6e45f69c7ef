//! Bytes as any request: no panic, each error names a field that is there, what is let in is within the bounds. The
//! first byte chooses the rpc.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sagad_fuzz::requests::{RPCS, assert_complete};

fuzz_target!(init: assert_complete(), |bytes: &[u8]| {
    if let Some((chosen, message)) = bytes.split_first() {
        (RPCS[usize::from(*chosen) % RPCS.len()].run)(message);
    }
});
