//! Any rpc by its path, with bytes for messages.

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use prost_reflect::DescriptorPool;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
pub struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// An rpc of the contract.
#[derive(Clone, Debug)]
pub struct Rpc {
    pub path: String,
    pub name: String,
    pub streams: bool,
}

/// All of them, off the descriptors.
pub fn contract() -> Vec<Rpc> {
    let pool = DescriptorPool::decode(sagad::proto::DESCRIPTORS).unwrap();
    let services: Vec<_> = pool.services().collect();
    let rpcs = services.iter().flat_map(|service| service.methods());
    rpcs.map(|rpc| Rpc {
        path: format!("/{}/{}", rpc.parent_service().full_name(), rpc.name()),
        name: rpc.name().to_owned(),
        streams: rpc.is_server_streaming() || rpc.is_client_streaming(),
    })
    .collect()
}

/// Calls it with these values of the `authorization` header; of a stream, reads what comes first.
pub async fn call(
    channel: &Channel,
    path: &str,
    streams: bool,
    message: Vec<u8>,
    headers: &[&str],
) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path: PathAndQuery = path.parse().unwrap();
    let mut request = Request::new(futures::stream::iter([message]));
    for header in headers {
        request.metadata_mut().append("authorization", header.parse().unwrap());
    }
    request.set_timeout(std::time::Duration::from_secs(20));
    if streams {
        let mut answers = client.streaming(request, path, Bytes).await?.into_inner();
        answers.message().await?;
        Ok(())
    } else {
        client.client_streaming(request, path, Bytes).await.map(drop)
    }
}
