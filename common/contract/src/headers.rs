//! Header names on NATS messages. NATS header names are case-sensitive: write them exactly so.

/// The caller's request id; logs, faults and the HTTP answer carry the same one.
pub const REQUEST_ID: &str = "X-Request-ID";
/// Which request this is an attempt at. All attempts at a request have the same id, and no other request has it: it is
/// made afresh where the request begins, and is never the `X-Request-ID`, which a caller may use again.
pub const REQUEST_KEY: &str = "Sandbox-Request-Key";
/// Which attempt at the request this is, from 1. A caller that sends it no longer takes an answer to an earlier
/// attempt.
pub const ATTEMPT: &str = "Sandbox-Attempt";
/// How much longer the caller waits, in milliseconds from when it sent the request. With it, the deadline is not read.
pub const REMAINING_MS: &str = "Sandbox-Remaining-Ms";
/// When the request was sent at the latest, by the clock of NATS, in milliseconds since the Unix epoch; only from a
/// sender that has measured that clock.
pub const SENT_AT_MS: &str = "Sandbox-Sent-At-Ms";
/// When the caller stops waiting, in milliseconds since the Unix epoch; for callers that do not send the two above,
/// and for workers that do not know them.
pub const DEADLINE_MS: &str = "Sandbox-Deadline-Ms";
/// What makes a repeated claim the same claim; the body's own field says the same, or is left out.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The only pools that the request may concern ([`Scope`](crate::Scope)). A worker refuses one that it does not understand.
pub const SCOPE: &str = "Sandbox-Scope";
/// Who asks ([`Principal`](crate::Principal)). A worker refuses one that it does not understand.
pub const PRINCIPAL: &str = "Sandbox-Principal";
/// On the reply of a claim: `created` or `existing`.
pub const OUTCOME: &str = "Sandbox-Outcome";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// NATS service API (ADR-32): the description of a failure.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// NATS service API (ADR-32): the number of a failure; ours is the HTTP status.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// On a parked deletion: why it was parked.
pub const PARKED_REASON: &str = "Sandbox-Parked-Reason";
/// On a parked deletion: when, RFC 3339.
pub const PARKED_AT: &str = "Sandbox-Parked-At";
/// On a parked deletion: attempts made.
pub const ATTEMPTS: &str = "Sandbox-Attempts";
