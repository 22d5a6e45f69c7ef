//! Errors that `tonic` makes itself, before or beside a handler, get the form of all our errors.
//!
//! For a message that can't be decoded `tonic` returns `INTERNAL`, for one that is too large `OUT_OF_RANGE`. Both are the
//! client's fault; the contract has `INVALID_ARGUMENT` for them.

use tonic::{Code, Status};

use super::problem::Problem;

/// Completes the status in a response's headers. Only responses without a body have it there: refusals and `tonic`'s
/// errors.
pub(super) fn complete_response<Body>(mut response: http::Response<Body>) -> http::Response<Body> {
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != Code::Ok
        && status.details().is_empty()
    {
        // A status that can't be written as headers stays as it was.
        let _ = complete_status(&status).add_header(response.headers_mut());
    }
    response
}

/// Adds an `ErrorInfo` and the contract's code, unless the status has details.
pub fn complete_status(status: &Status) -> Status {
    if !status.details().is_empty() {
        return status.clone();
    }
    let message = status.message();
    let problem = match status.code() {
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument => malformed(message),
        code => Problem::new(code, reason(code), message),
    };
    problem.into()
}

fn malformed(message: &str) -> Problem {
    let mut problem =
        Problem::new(Code::InvalidArgument, "INVALID_ARGUMENT", format!("the request could not be read: {message}"));
    let field = field_path(message);
    if !field.is_empty() {
        problem = problem.with("field", &field);
    }
    problem.violations.push((field, super::problem::truncate(message.to_owned(), 400)));
    problem
}

/// The path of the field that could not be decoded, from `prost`'s message, which names the innermost field first:
/// `… message: B.c: A.b: why`.
fn field_path(message: &str) -> String {
    let Some((_, trail)) = message.split_once("message: ") else { return String::new() };
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let steps = trail.split(": ").map_while(|step| match step.split_once('.') {
        Some((message, field)) if is_word(message) && is_word(field) => Some((message, field)),
        Some(_) | None => None,
    });
    let steps: Vec<_> = steps.collect();
    let name = |place: usize| match (steps[place], place.checked_sub(1).and_then(|inner| steps.get(inner))) {
        // In a session item `prost` names the message of the call but not its field.
        (("SessionRequest", "call"), Some((call, _))) => snake_case(call.trim_end_matches("Request")),
        ((_, field), _) => field.to_owned(),
    };
    (0..steps.len()).rev().map(name).collect::<Vec<_>>().join(".")
}

/// `ClaimNext` becomes `claim_next`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for (place, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && place > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn reason(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "OUTCOME_UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "OVERLOADED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "STORE_UNAVAILABLE",
        Code::DataLoss => "CORRUPT",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tonic_types::StatusExt;

    use super::*;
    use crate::proto::CreateSagaRequest;

    fn completed(status: Status) -> (Code, String, Vec<String>) {
        let status = complete_status(&status);
        let details = status.get_error_details();
        let fields = details.bad_request().map(|bad| bad.field_violations.iter().map(|v| v.field.clone()).collect());
        (status.code(), details.error_info().unwrap().reason.clone(), fields.unwrap_or_default())
    }

    #[test]
    fn a_decoding_error_names_its_field() {
        // Field 11 is a policy; its field 5, a duration, is cut off.
        let error = CreateSagaRequest::decode(&[0x5a, 2, 0x2a, 9][..]).unwrap_err();
        let (code, reason, fields) = completed(Status::internal(error.to_string()));
        assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(fields, ["policy.retry_backoff"], "{error}");
    }

    #[test]
    fn a_decoding_error_in_a_session_item_names_the_field_of_the_call() {
        // Fields 2 and 3 are calls whose field 3 is not a valid length; then field 2 is cut off itself.
        for (bytes, field) in [
            (&[0x12, 3, 0x1a, 9, 0][..], "claim.ttl"),
            (&[0x1a, 1, 0x1d][..], "claim_next.ttl"),
            (&[0x12, 9][..], "call"),
        ] {
            let error = crate::proto::SessionRequest::decode(bytes).unwrap_err();
            let (_, _, fields) = completed(Status::internal(error.to_string()));
            assert_eq!(fields, [field], "{error}");
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_invalid_and_names_the_limit() {
        let text = "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes";
        let status = complete_status(&Status::out_of_range(text));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("limit is: 4 bytes"));
    }

    #[test]
    fn an_unknown_rpc_stays_unimplemented() {
        assert_eq!(completed(Status::unimplemented("")).0, Code::Unimplemented);
        assert_eq!(completed(Status::unimplemented("")).1, "UNIMPLEMENTED");
    }

    #[test]
    fn errors_of_the_handlers_are_not_changed() {
        let own: Status = Problem::overloaded("x", crate::domain::time::Span::ZERO).into();
        assert_eq!(complete_status(&own).code(), Code::ResourceExhausted);
        let mut response = http::Response::new(());
        Status::unimplemented("").add_header(response.headers_mut()).unwrap();
        let status = Status::from_header_map(complete_response(response).headers()).unwrap();
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "UNIMPLEMENTED");
    }
}
