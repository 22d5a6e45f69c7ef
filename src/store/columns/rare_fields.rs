//! [`RareFields`]: fields that few sagas in flight have. They are JSON in one column of the table `work` (`more` in
//! SQLite, `rare` in PostgreSQL), so that changes of other fields don't write them.

use serde_json::{Map, Value};

use crate::domain::{
    bounds::STORED_TIME_MAX,
    ids::OwnerId,
    lease::Standing,
    saga::{CancelRequest, Reservation, Saga},
    text::{Actor, Text},
    time::Timestamp,
};

/// The column's value for a saga; none if the saga has none of the fields.
pub fn of(saga: &Saga) -> Option<String> {
    let expired_at = match saga.lease.as_ref().map(|lease| lease.standing) {
        Some(Standing::Expired { at, .. }) => Some(at),
        Some(Standing::Held | Standing::EndedByHolder(_) | Standing::EndedByOther) | None => None,
    };
    let has_none = saga.expirations == 0
        && saga.failures == 0
        && saga.reservation.is_none()
        && saga.cancel.is_none()
        && [saga.not_before, saga.settle_until, saga.idle_since, expired_at].iter().all(Option::is_none);
    if has_none {
        return None;
    }
    let mut all = Map::new();
    for (name, count) in [("expirations", saga.expirations), ("failures", saga.failures)] {
        if count > 0 {
            all.insert(name.to_owned(), count.into());
        }
    }
    let times = [
        ("not_before", saga.not_before),
        ("settle_until", saga.settle_until),
        ("idle_since", saga.idle_since),
        ("expired_at", expired_at),
        ("reserved_until", saga.reservation.as_ref().map(|reservation| reservation.expire_time)),
    ];
    for (name, time) in times {
        all.extend(time.map(|time| (name.to_owned(), time.micros().into())));
    }
    let texts = [
        ("assignee", saga.reservation.as_ref().map(|reservation| reservation.assignee.as_str())),
        ("cancel_actor", saga.cancel.as_ref().map(|cancel| cancel.actor.as_str())),
        ("cancel_reason", saga.cancel.as_ref().map(|cancel| cancel.reason.as_str())),
    ];
    for (name, text) in texts {
        all.extend(text.map(|text| (name.to_owned(), text.into())));
    }
    Some(Value::Object(all).to_string())
}

/// The fields of the column.
#[derive(Debug, Default, PartialEq)]
pub struct RareFields {
    pub expirations: u32,
    pub failures: u32,
    pub not_before: Option<Timestamp>,
    pub settle_until: Option<Timestamp>,
    pub idle_since: Option<Timestamp>,
    pub expired_at: Option<Timestamp>,
    pub reservation: Option<Reservation>,
    pub cancel: Option<CancelRequest>,
}

impl RareFields {
    /// Parses the column. The error says what is wrong with it.
    pub fn parse(column: Option<&str>) -> Result<Self, String> {
        let Some(json) = column else { return Ok(RareFields::default()) };
        let all: Map<String, Value> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let time = |name: &str| match all.get(name) {
            None => Ok(None),
            Some(value) => match value.as_i64().filter(|micros| (0..=STORED_TIME_MAX).contains(micros)) {
                Some(micros) => Ok(Some(Timestamp::from_micros(micros))),
                None => Err(format!("{name} is {value}, which is no time between 1970 and 8000")),
            },
        };
        let count = |name: &str| match all.get(name) {
            None => Ok(0),
            Some(value) => value
                .as_u64()
                .and_then(|count| u32::try_from(count).ok())
                .ok_or_else(|| format!("{name} is {value}, which is no count")),
        };
        let text = |name: &str| match all.get(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| format!("{name} is {value}, which is no text")),
        };
        let assignee = text("assignee")?.map(OwnerId::parse).transpose().map_err(|e| format!("assignee: {}", e.0))?;
        let reservation = assignee.zip(time("reserved_until")?);
        let actor =
            text("cancel_actor")?.map(Actor::stored).transpose().map_err(|e| format!("cancel_actor: {}", e.0))?;
        let reason = text("cancel_reason")?.map(Text::stored).transpose();
        let reason = reason.map_err(|e| format!("cancel_reason: {}", e.0))?;
        Ok(RareFields {
            expirations: count("expirations")?,
            failures: count("failures")?,
            not_before: time("not_before")?,
            settle_until: time("settle_until")?,
            idle_since: time("idle_since")?,
            expired_at: time("expired_at")?,
            reservation: reservation.map(|(assignee, expire_time)| Reservation { assignee, expire_time }),
            cancel: actor.zip(reason).map(|(actor, reason)| CancelRequest { actor, reason }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_fields_are_named_in_the_error() {
        assert_eq!(RareFields::parse(None), Ok(RareFields::default()));
        assert_eq!(
            RareFields::parse(Some(r#"{"failures":2}"#)),
            Ok(RareFields { failures: 2, ..RareFields::default() })
        );
        for (json, expected) in [
            ("{", "EOF"),
            ("[]", "invalid type"),
            (r#"{"failures":-1}"#, "failures is -1"),
            (r#"{"failures":4294967296}"#, "failures is 4294967296"),
            (r#"{"not_before":-1}"#, "not_before is -1"),
            (r#"{"idle_since":"x"}"#, "idle_since is \"x\""),
            (r#"{"expired_at":9223372036854775807}"#, "no time between"),
            (r#"{"assignee":"","reserved_until":1}"#, "assignee: "),
            (r#"{"cancel_actor":7,"cancel_reason":""}"#, "cancel_actor is 7"),
        ] {
            let told = RareFields::parse(Some(json)).unwrap_err();
            assert!(told.contains(expected), "{json}: {told}");
        }
    }
}
