//! The contract's messages, servers and clients as generated from `proto/sagad/v1/`.
//! Used by [`crate::grpc`] on the daemon's side and by `client` and `cli` on the other; nothing else sees these types.
#![allow(clippy::all)]

pub mod codec;
pub mod json;
#[cfg(feature = "fuzzing")]
mod seeds;

tonic::include_proto!("sagad.v1");

/// The encoded `FileDescriptorSet` of the contract and of what it imports: served by reflection, and used to
/// render messages in the proto3 JSON form.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
