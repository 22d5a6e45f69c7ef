//! Compiles `proto/` with a protobuf compiler written in Rust, so that no `protoc` has to be installed.
//! The descriptor set that comes out serves reflection and the JSON form of messages.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 3] = ["sagad/v1/saga.proto", "sagad/v1/saga_service.proto", "sagad/v1/admin_service.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut names = prost_build::Config::new();
    // A message's name tells the codec whether it is a request.
    names.enable_type_names();
    tonic_prost_build::configure()
        // Ordered maps make the encoding of a message, and so the digest of a repeated request, the same each time.
        .btree_map(".")
        .bytes(".")
        .extern_path(".google.rpc.Status", "::tonic_types::pb::Status")
        .codec_path("crate::proto::codec::BoundedCodec")
        .compile_fds_with_config(descriptors, names)?;
    Ok(())
}
