//! The identity of a request: its id and its trace context. Both go into the log, the error body and the NATS message.

use axum::http::HeaderMap;
use contract::Principal;
use domain::{Actor, OwnerId, SandboxId};
use ports::random::Random;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The header that carries the id, both ways.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// Longest request id that is accepted from a caller, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

const TRACEPARENT_HEADER: &str = "traceparent";

/// The id of a request: the caller's if it is valid, otherwise a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(String);

/// Facts about a request in progress. Handlers add to them; the log line contains them even if the handler fails.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) request_id: RequestId,
    pub(crate) traceparent: Option<String>,
    notes: Arc<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    caller: OnceLock<Arc<Principal>>,
    person: OnceLock<Actor>,
    owner: OnceLock<OwnerId>,
    sandbox: OnceLock<SandboxId>,
}

// === impl RequestId ===

impl RequestId {
    /// The facts of a request with these headers.
    pub(crate) fn of(headers: &HeaderMap, random: &dyn Random) -> Self {
        let sent = only_value(headers, REQUEST_ID_HEADER).filter(|id| {
            (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        });
        Self(sent.map_or_else(|| random.fresh_id(), str::to_owned))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

// === impl Facts ===

impl Facts {
    pub(crate) fn of(headers: &HeaderMap, random: &dyn Random) -> Self {
        Self {
            request_id: RequestId::of(headers, random),
            traceparent: only_value(headers, TRACEPARENT_HEADER)
                .filter(|value| is_traceparent(value))
                .map(str::to_owned),
            notes: Arc::default(),
        }
    }

    /// Records the token; the first call counts.
    pub(crate) fn note_caller(&self, caller: &Arc<Principal>) {
        self.notes.caller.get_or_init(|| Arc::clone(caller));
    }

    /// Records the owner; the first call counts.
    pub(crate) fn note_owner(&self, owner: &OwnerId) {
        self.notes.owner.get_or_init(|| owner.clone());
    }

    /// Records the sandbox; the first call counts.
    pub(crate) fn note_sandbox(&self, sandbox: &SandboxId) {
        self.notes.sandbox.get_or_init(|| sandbox.clone());
    }

    /// Records who uses the token, as the caller says; the first call counts.
    pub(crate) fn note_person(&self, person: &Actor) {
        self.notes.person.get_or_init(|| person.clone());
    }

    /// The principal that the workers get.
    pub(crate) fn principal(&self) -> Principal {
        let caller = self.caller().cloned().unwrap_or_default();
        Principal { person: self.notes.person.get().cloned(), ..caller }
    }

    pub(crate) fn caller(&self) -> Option<&Principal> {
        self.notes.caller.get().map(AsRef::as_ref)
    }

    /// The actor of an operator action: the name of the token, and the name that the caller states. The first is
    /// authenticated and always present, the second is not.
    pub(crate) fn actor(&self, named: Option<&str>) -> String {
        let proved = self.caller().map_or("nobody", |caller| caller.name.as_str());
        named.map_or_else(|| proved.to_owned(), |named| format!("{proved}/{named}"))
    }

    pub(crate) fn owner(&self) -> Option<&OwnerId> {
        self.notes.owner.get()
    }

    pub(crate) fn sandbox(&self) -> Option<&SandboxId> {
        self.notes.sandbox.get()
    }
}

fn only_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

// W3C Trace Context, version 00: two, 32, 16 and two lower-case hexadecimal digits. Checked here so that workers can
// trust it.
fn is_traceparent(value: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = value.split('-');
    let lengths = [2, 32, 16, 2];
    let fits =
        lengths.iter().all(|length| parts.next().is_some_and(|part| part.len() == *length && is_hex(part)));
    fits && parts.next().is_none() && value.starts_with("00-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use ports::random::Rng;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn valid_caller_id_is_kept_and_others_are_replaced() {
        let rng = Rng::seeded(1);
        let longest = "x".repeat(128);
        for sane in ["a", "run-7/step:3", longest.as_str()] {
            assert_eq!(RequestId::of(&headers(&[(REQUEST_ID_HEADER, sane)]), &rng).as_str(), sane);
        }
        let too_long = "x".repeat(129);
        for odd in ["", "a b", "größe", "a\tb", too_long.as_str()] {
            let id = RequestId::of(&headers(&[(REQUEST_ID_HEADER, odd)]), &rng);
            assert_eq!(id.as_str().len(), 36, "{odd:?} became {id}");
        }
        let twice = headers(&[(REQUEST_ID_HEADER, "a"), (REQUEST_ID_HEADER, "a")]);
        assert_eq!(RequestId::of(&twice, &rng).as_str().len(), 36);
    }

    #[test]
    fn only_a_well_formed_trace_is_passed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let facts = |value: &str| Facts::of(&headers(&[("traceparent", value)]), &Rng::seeded(1));
        assert_eq!(facts(good).traceparent.as_deref(), Some(good));
        for bad in ["", "00", &good.to_uppercase(), &format!("{good}-x"), &good.replacen("00", "01", 1)] {
            assert_eq!(facts(bad).traceparent, None, "{bad}");
        }
    }
}
