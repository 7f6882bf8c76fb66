//! A message of the contract: what is in it, what its headers say, and examples of it.

use super::schemas::{Schemas, parsed};
use contract::limits::REQUEST_ID_BYTES_MAX;
use contract::{PRINCIPAL_BYTES_MAX, headers};
use domain::ids::{HEADER_ID_BYTES_MAX, REQUEST_KEY_BYTES_MAX};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// A header that a message may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    RequestId,
    RequestKey,
    Attempt,
    RemainingMs,
    SentAtMs,
    DeadlineMs,
    Traceparent,
    IdempotencyKey,
    Principal,
    Scope,
    Outcome,
    ServiceError,
    ServiceErrorCode,
    ParkedReason,
    ParkedAt,
    Attempts,
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// Its name, which is that of its schema's file as well.
    pub(super) name: String,
    /// What it says, in a few words.
    pub(super) summary: String,
    /// Its schema, with references to those of the components.
    pub(super) payload: Value,
    /// Its headers.
    pub(super) headers: Value,
    /// Examples of its body.
    pub(super) examples: Vec<Value>,
    /// What else the document says of it.
    pub(super) more: Map<String, Value>,
}

// === impl Header ===

impl Header {
    const fn name(self) -> &'static str {
        match self {
            Self::RequestId => headers::REQUEST_ID,
            Self::RequestKey => headers::REQUEST_KEY,
            Self::Attempt => headers::ATTEMPT,
            Self::RemainingMs => headers::REMAINING_MS,
            Self::SentAtMs => headers::SENT_AT_MS,
            Self::DeadlineMs => headers::DEADLINE_MS,
            Self::Traceparent => headers::TRACEPARENT,
            Self::IdempotencyKey => headers::IDEMPOTENCY_KEY,
            Self::Principal => headers::PRINCIPAL,
            Self::Scope => headers::SCOPE,
            Self::Outcome => headers::OUTCOME,
            Self::ServiceError => headers::SERVICE_ERROR,
            Self::ServiceErrorCode => headers::SERVICE_ERROR_CODE,
            Self::ParkedReason => headers::PARKED_REASON,
            Self::ParkedAt => headers::PARKED_AT,
            Self::Attempts => headers::ATTEMPTS,
        }
    }

    fn schema(self) -> Value {
        let digits = "^[0-9]+$";
        match self {
            Self::RequestId => json!({
                "description": "what this request is called in logs and faults; a fresh one takes the place of a bad one",
                "minLength": 1, "maxLength": REQUEST_ID_BYTES_MAX, "pattern": "^[!-~]+$",
            }),
            Self::RequestKey => json!({
                "description": "which request this is an attempt at: the same for all attempts at it, and for no other request",
                "minLength": 1, "maxLength": REQUEST_KEY_BYTES_MAX, "pattern": "^[!-~]+$",
            }),
            Self::Attempt => json!({
                "description": "the number of the attempt, from 1; no answer to an earlier one is taken any more",
                "pattern": digits,
            }),
            Self::RemainingMs => json!({
                "description": "how much longer the caller waits, in milliseconds from the sending", "pattern": digits,
            }),
            Self::SentAtMs => json!({
                "description": "when it was sent at the latest, by the clock of NATS, in milliseconds since the Unix epoch; \
                    left out by a caller that has not measured that clock",
                "pattern": digits,
            }),
            Self::DeadlineMs => json!({
                "description": "when the caller stops waiting, in milliseconds since the Unix epoch; not read beside \
                    `Sandbox-Remaining-Ms`",
                "pattern": digits,
            }),
            Self::Traceparent => json!({ "description": "W3C trace context" }),
            Self::IdempotencyKey => json!({
                "description": "the same as the body's `idempotency_key`, which may then be left out",
                "minLength": 1, "maxLength": HEADER_ID_BYTES_MAX, "pattern": "^[!-~]+$",
            }),
            Self::Principal => json!({
                "description": "who asks; absent for a direct caller, whom the permissions of its NATS user admit. A worker \
                    answers `FORBIDDEN` to a principal that it does not understand",
                "maxLength": PRINCIPAL_BYTES_MAX,
                "pattern": "^v1 name=[!-.0-~]+ tenant=[A-Za-z0-9_-]+ roles=[a-z-]+(,[a-z-]+)*( person=[!-~]+)?$",
            }),
            Self::Scope => json!({
                "description": "the only pools that the request may concern; absent for all. A worker answers `FORBIDDEN` to a \
                    scope that it does not understand",
                "pattern": "^v1 pools=[A-Za-z0-9_-]+(,[A-Za-z0-9_-]+)*$",
            }),
            Self::Outcome => json!({
                "description": "`created`: a new lease; `existing`: the one that this owner and key had",
                "enum": ["created", "existing"],
            }),
            Self::ServiceError => json!({ "description": "the message of the failure, on one line" }),
            Self::ServiceErrorCode => {
                json!({ "description": "the HTTP status of the code", "pattern": digits })
            }
            Self::ParkedReason => json!({ "description": "why it was given up" }),
            Self::ParkedAt => json!({ "description": "when, RFC 3339", "format": "date-time" }),
            Self::Attempts => json!({ "description": "attempts made", "pattern": digits }),
        }
    }
}

/// A schema of headers; `always` are those that every such message has. NATS header values are text.
pub(super) fn headers_of(headers: &[Header], always: &[Header]) -> Value {
    let property = |header: &Header| {
        let mut schema = header.schema();
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("type".to_owned(), "string".into());
        }
        (header.name().to_owned(), schema)
    };
    let properties: Map<_, _> = headers.iter().chain(always).map(property).collect();
    let required: Vec<_> = always.iter().map(|header| header.name()).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

// === impl Message ===

impl Message {
    /// A message whose body is a `T`.
    ///
    /// # Errors
    /// When its schema or an example is no JSON.
    pub(super) fn of<T: ToSchema>(
        name: impl Into<String>,
        summary: impl Into<String>,
        examples: &[&str],
        schemas: &mut Schemas,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.into(),
            summary: summary.into(),
            payload: schemas.take::<T>()?,
            headers: headers_of(&[], &[]),
            examples: examples.iter().map(|text| parsed(text)).collect::<anyhow::Result<_>>()?,
            more: Map::new(),
        })
    }

    /// The same with headers.
    pub(super) fn with_headers(mut self, headers: &[Header], always: &[Header]) -> Self {
        self.headers = headers_of(headers, always);
        self
    }

    /// As it stands among the components.
    pub(super) fn in_document(&self) -> Value {
        let Self { name, summary, payload, headers, examples, more } = self;
        let examples: Vec<_> = examples.iter().map(|body| json!({ "payload": body })).collect();
        let mut message = json!({
            "name": name, "title": name, "summary": summary, "contentType": "application/json",
            "payload": payload, "headers": headers, "examples": examples,
        });
        if let Some(fields) = message.as_object_mut() {
            fields.extend(more.clone());
        }
        message
    }
}
