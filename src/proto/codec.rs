//! [`BoundedCodec`]: bounds the memory of decoded messages, with buffers no larger than most messages need.
//!
//! An empty element of a repeated field is two bytes on the wire and up to five hundred when decoded, so a request of
//! 4 MiB could become a gigabyte before any rule is checked. So the fields of a request are counted before it is
//! decoded. Answers are not counted: a client trusts its coordinator.

use prost::{
    Message, Name,
    bytes::Buf,
    encoding::{decode_key, decode_varint, wire_type::WireType},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstDecoder, ProstEncoder};

use super::SessionRequest;
use crate::domain::bounds::{BATCH_SAGAS, COMPENSATIONS, LABELS};

/// Most fields of a request, counting each element of repeated ones: the largest batch, and room for the rest.
const MAX_FIELDS: usize = BATCH_SAGAS + 200;
/// Most fields of all messages within a request: the largest batch with every bound reached in each saga.
const MAX_INNER_FIELDS: usize = BATCH_SAGAS * (COMPENSATIONS + LABELS + 32);

/// The initial buffer for a message of a unary call; most are smaller. It grows as needed.
pub const MESSAGE_BUFFER: usize = 512;
/// The initial buffer for the messages of a stream, which come by the hundred.
pub const STREAM_BUFFER: usize = 8 << 10;
/// The most bytes of a stream that are sent at once.
pub const STREAM_PIECE: usize = 32 << 10;
/// Prefixes of the names of stream messages.
const STREAM_MESSAGES: [&str; 2] = ["Session", "KeepAlive"];

/// The codec of the generated code: prost's, with the fields counted first.
#[derive(Clone, Copy, Debug)]
pub struct BoundedCodec<T, U>(std::marker::PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(std::marker::PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Name + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers(T::NAME))
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::new(buffers(U::NAME)))
    }
}

fn buffers(message: &str) -> BufferSettings {
    let is_streamed = STREAM_MESSAGES.iter().any(|name| message.starts_with(name));
    BufferSettings::new(if is_streamed { STREAM_BUFFER } else { MESSAGE_BUFFER }, STREAM_PIECE)
}

/// A decoder that refuses requests with too many fields.
#[derive(Clone, Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        check::<U>(buffer.chunk())?;
        self.0.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Decodes a message as [`BoundedCodec`] does, with the same errors.
///
/// # Errors
/// It is malformed, or a request with too many fields.
pub fn decode<M: Message + Name + Default>(message: &[u8]) -> Result<M, Status> {
    check::<M>(message)?;
    M::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// Refuses a request with too many fields.
fn check<M: Name>(message: &[u8]) -> Result<(), Status> {
    if !M::NAME.ends_with("Request") {
        return Ok(());
    }
    #[cfg(feature = "fuzzing")]
    super::seeds::keep(M::NAME, message);
    // The call in a session item is a request itself.
    let (fields, inner) = if M::NAME == SessionRequest::NAME { count_within(message) } else { count(message) };
    if fields > MAX_FIELDS || inner > MAX_INNER_FIELDS {
        return Err(Status::invalid_argument(format!(
            "the request holds {fields} fields and {inner} in them; at most {MAX_FIELDS} and {MAX_INNER_FIELDS} are read"
        )));
    }
    Ok(())
}

/// Counts a message's fields, and the fields of what may be messages in it. Malformed data ends the count; the decoder
/// reports it.
fn count(message: &[u8]) -> (usize, usize) {
    let (mut fields, mut inner) = (0, 0);
    for content in Fields(message) {
        fields += 1;
        inner += Fields(content).count();
        if fields > MAX_FIELDS || inner > MAX_INNER_FIELDS {
            break;
        }
    }
    (fields, inner)
}

/// Counts the fields of what may be messages in a message, and the fields within them.
fn count_within(message: &[u8]) -> (usize, usize) {
    let counts = Fields(message).map(count);
    counts.fold((0, 0), |(fields, inner), (more, more_inner)| (fields + more, inner + more_inner))
}

/// Iterates over the contents of a message's fields; empty for numbers.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let (_, wire_type) = decode_key(&mut self.0).ok()?;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(&mut self.0).ok()?;
                return Some(&[]);
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut self.0).ok()?).ok()?,
            // Groups are obsolete; the contract has none.
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let (content, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::{
        BatchCreateSagasRequest, CompensationSpec, CreateSagaRequest, Policy, RegisterCompensationRequest,
        session_request::Call,
    };

    #[test]
    fn fields_are_counted_on_two_levels() {
        let request = CreateSagaRequest {
            task_id: "t".into(),
            priority: 7,
            compensations: vec![CompensationSpec { kind: "k".into(), target: "t".into(), reason: "r".into() }; 3],
            policy: Some(Policy { max_attempts: 3, ..Policy::default() }),
            ..CreateSagaRequest::default()
        };
        // "t" is 0x74, the key of a group's end: no field.
        assert_eq!(count(&request.encode_to_vec()), (6, 3 * 3 + 1));
    }

    #[test]
    fn the_largest_valid_batch_is_accepted() {
        let spec = CompensationSpec { kind: "k".into(), ..CompensationSpec::default() };
        let request = CreateSagaRequest { compensations: vec![spec; COMPENSATIONS], ..CreateSagaRequest::default() };
        let batch = BatchCreateSagasRequest { requests: vec![request; BATCH_SAGAS], request_id: "x".into() };
        let (fields, inner) = count(&batch.encode_to_vec());
        assert!(fields <= MAX_FIELDS && inner <= MAX_INNER_FIELDS, "{fields} {inner}");
    }

    #[test]
    fn p10_a_call_in_a_session_has_the_limits_of_a_unary_request() {
        let compensations = vec![CompensationSpec::default(); MAX_FIELDS + 1];
        let call = RegisterCompensationRequest { task_id: "t".into(), compensations, ..Default::default() };
        let refused = count(&call.encode_to_vec());
        let item = SessionRequest { call_id: 7, call: Some(Call::RegisterCompensation(call)), timeout: None };
        assert_eq!(count_within(&item.encode_to_vec()), refused);
        assert!(refused.0 > MAX_FIELDS);
        // A field that is repeated is merged by the decoder.
        let twice = [item.encode_to_vec(), item.encode_to_vec()].concat();
        assert_eq!(count_within(&twice).0, 2 * refused.0);
    }

    #[test]
    fn p10_counting_empty_elements_stops_at_the_limit() {
        let empty =
            BatchCreateSagasRequest { requests: vec![CreateSagaRequest::default(); 100_000], ..Default::default() };
        assert_eq!(count(&empty.encode_to_vec()).0, MAX_FIELDS + 1);
    }

    proptest! {
        #[test]
        fn p12_no_input_makes_the_codec_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            count(&bytes);
            count_within(&bytes);
        }
    }
}
