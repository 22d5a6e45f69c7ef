//! What people and clients write otherwise: command lines, lines of `create --from`, `--server` addresses, and the
//! `grpc-timeout` of a call.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use sagad::{
    cli::{Cli, fuzzing},
    client::Client,
    domain::bounds::WAIT_MAX,
    grpc::fuzzing::bounded_wait,
};
use tokio::runtime::Runtime;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

/// A channel has to be made within one, though it connects to nothing here.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime that does nothing"));

fn line(text: &str) {
    match fuzzing::line(text) {
        Ok(request) => {
            // What has no JSON form, such as a length beyond its bounds, is the coordinator's to refuse.
            if let Some(rendered) = fuzzing::rendered(&request) {
                assert_eq!(fuzzing::line(&rendered), Ok(request), "{rendered}");
            }
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// Words behind `sagad`, one a line.
fn command(words: &str) {
    if let Err(error) = Cli::try_parse_from(std::iter::once("sagad").chain(words.split('\n'))) {
        assert!(!error.to_string().is_empty());
    }
}

fn server(address: &str) {
    let _inside = RUNTIME.enter();
    if let Err(error) = Client::new(address, Duration::from_secs(1)) {
        // What may have a password in it is not told again.
        assert!(address.contains('@') || error.to_string().contains(address));
    }
}

/// The header of a call that would wait for a minute.
fn timeout(value: &[u8]) {
    let mut metadata = MetadataMap::new();
    if let Ok(value) = AsciiMetadataValue::try_from(value) {
        metadata.insert("grpc-timeout", value);
    }
    assert!(bounded_wait(WAIT_MAX, &metadata) <= WAIT_MAX, "no deadline makes a wait longer");
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let text = std::str::from_utf8(rest);
    match (kind % 4, text) {
        (0, Ok(text)) => line(text),
        (1, Ok(text)) => command(text),
        (2, Ok(text)) => server(text),
        (3, _) => timeout(rest),
        (_, _) => {}
    }
});
