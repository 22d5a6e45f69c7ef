//! [`Rpc`]: any rpc of the contract, called by its path with encoded messages.

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use prost_reflect::DescriptorPool;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Passes encoded messages through.
#[derive(Clone, Copy, Default)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = BytesCodec;
    type Decoder = BytesCodec;

    fn encoder(&mut self) -> BytesCodec {
        BytesCodec
    }

    fn decoder(&mut self) -> BytesCodec {
        BytesCodec
    }
}

impl Encoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
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

/// All rpcs, from the descriptors.
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

/// Calls it with these `authorization` headers and reads the first message of the answer.
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
        let mut answers = client.streaming(request, path, BytesCodec).await?.into_inner();
        answers.message().await?;
        Ok(())
    } else {
        client.client_streaming(request, path, BytesCodec).await.map(drop)
    }
}
