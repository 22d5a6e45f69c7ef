//! Saves incoming requests as seeds for the fuzzer (`fuzz/`): only with the feature `fuzzing`, which no release has,
//! and only if the variable `SAGAD_SEEDS` names a directory. `fuzz/seeds.sh` runs the tests with both.

use std::{env, fs, path::PathBuf};

use sha2::{Digest, Sha256};

/// Longer requests only make the fuzzer slow; what they add it finds by itself.
const SEED_BYTES: usize = 1024;

/// Saves a message in a directory named after its type. Errors are ignored, so that tests don't fail for them.
pub fn keep(request: &str, message: &[u8]) {
    let Some(directory) = env::var_os("SAGAD_SEEDS").map(PathBuf::from) else { return };
    if message.len() > SEED_BYTES {
        return;
    }
    let name: String = Sha256::digest(message)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let directory = directory.join(request);
    let _ = fs::create_dir_all(&directory).and_then(|()| fs::write(directory.join(name), message));
}
