//! Operators' routes for deletions: the queue, parked deletions, a single deletion, replays.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::deletions::unreadable_sequence;
use contract::{
    Action, DeletionRequest, DeletionsRequest, Fault, FaultCode, KeyRequest, ParkedRequest, ReplayAllReply,
    ReplayAllRequest, SandboxStatus, Verb,
};
use domain::Actor;
use domain::ids::HEADER_ID_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

use crate::admin::written;
use crate::error::{Failure, pass_on};
use crate::openapi::faults::{OfOrder, ReadFaults, ReadOneFaults};
use crate::query::{Asked, NoQuery};
use crate::relay::Relay;
use crate::request_id::Facts;
use crate::sandboxes::{only_text, sandbox_in_path};
use crate::tokens::TOKEN_NAME_BYTES_MAX;

pub(crate) mod switch;

pub(crate) use switch::DeletionControlService;

/// The person who uses a shared token, for the history.
pub const OPERATOR_HEADER: &str = "X-Operator";
/// Longest name in [`OPERATOR_HEADER`], in bytes: together with the name of any token it is still a valid actor.
pub const OPERATOR_BYTES_MAX: usize = HEADER_ID_BYTES_MAX - TOKEN_NAME_BYTES_MAX - 1;
/// Pages of one request to replay all; the rest has a cursor.
const PAGES_MAX: usize = 100;

/// The filter for the queue.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Queued {
    pool: Option<String>,
    status: Option<SandboxStatus>,
    cursor: Option<String>,
    limit: Option<u32>,
}

/// The filter for parked deletions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    pool: Option<String>,
    reason: Option<String>,
    cursor: Option<u64>,
    limit: Option<u32>,
}

/// The parked deletions to replay.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Again {
    pool: Option<String>,
    reason: Option<String>,
    cursor: Option<u64>,
    /// Most replays of this call; all by default.
    limit: Option<u32>,
    /// Required, so that no caller replays all by forgetting a parameter.
    all: Option<bool>,
}

type PathKey = Result<Path<String>, PathRejection>;

/// Lists the deletions that are not finished.
#[utoipa::path(
    get, path = "/v1/admin/deletions", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Deletions).as_str()))),
    params(
        ("pool" = Option<String>, Query, description = "of this pool only"),
        ("status" = Option<String>, Query, description = "`pending_deletion` or `deletion_failed` only"),
        ("cursor" = Option<String>, Query, description = "the cursor of the last page"),
        ("limit" = Option<u32>, Query, description = "entries of a page, 1 to 100")
    ),
    responses(
        (status = 200, description = "the queue of deletions", body = contract::DeletionsReply), ReadFaults)
)]
pub(crate) async fn list(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(Queued { pool, status, cursor, limit }): Asked<Queued>,
) -> Result<Response, Failure> {
    let request = DeletionsRequest { pool, status, cursor, limit };
    let reply = relay.send(Verb::Deletions, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Lists parked deletions.
#[utoipa::path(
    get, path = "/v1/admin/deletions/parked", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Parked).as_str()))),
    params(("pool" = Option<String>, Query, description = "of this pool only"), ("reason" = Option<String>, Query, description = "whose reason contains this text"), ("cursor" = Option<u64>, Query, description = "the cursor of the last page"), ("limit" = Option<u32>, Query, description = "entries of a page, 1 to 100; 50 without it")),
    responses(
        (status = 200, description = "a page of parked deletions", body = contract::ParkedReply,
         example = json!({"parked": [], "count": 0, "cursor": null})), ReadFaults)
)]
pub(crate) async fn parked(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(Which { pool, reason, cursor, limit }): Asked<Which>,
) -> Result<Response, Failure> {
    let request = ParkedRequest { pool, reason, cursor, limit };
    let reply = relay.send(Verb::Parked, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Shows a deletion.
#[utoipa::path(
    get, path = "/v1/admin/deletions/{id}", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Deletion).as_str()))),
    params(("id" = String, Path, description = "the sandbox, or the key of a message that no worker can read")),
    responses(
        (status = 200, description = "one deletion", body = contract::DeletionView), ReadOneFaults)
)]
pub(crate) async fn show(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathKey,
    _: NoQuery,
) -> Result<Response, Failure> {
    let request = DeletionRequest { sandbox_id: key(path, &facts)? };
    let reply = relay.send(Verb::Deletion, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Replays a parked deletion.
#[utoipa::path(
    post, path = "/v1/admin/deletions/{id}/replay", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Replay).as_str()))),
    params(("id" = String, Path, description = "the sandbox, or the key of a message that no worker can read"), ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "the outcome", body = contract::ReplayReply,
         example = json!({"key": "2000018", "outcome": "replayed"})), OfOrder)
)]
pub(crate) async fn replay(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathKey,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let request = KeyRequest { key: key(path, &facts)?, by: Some(operator(&headers, &facts)?.to_string()) };
    let reply = relay.send(Verb::Replay, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Removes a parked message that no worker can read.
#[utoipa::path(
    delete, path = "/v1/admin/deletions/{id}", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Remove).as_str()))),
    params(("id" = String, Path, description = "the sandbox, or the key of a message that no worker can read"), ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "whether the message existed", body = contract::RemoveReply,
         example = json!({"key": "_unreadable.7", "removed": true})), OfOrder)
)]
pub(crate) async fn remove(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathKey,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let request = KeyRequest { key: key(path, &facts)?, by: Some(operator(&headers, &facts)?.to_string()) };
    let reply = relay.send(Verb::Remove, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Replays all parked deletions.
///
/// One page of `limit`; without it page after page, until the last one or the deadline. Every page is a separate
/// request to the workers; a page whose answer is lost is the last.
#[utoipa::path(
    post, path = "/v1/admin/deletions/replay", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::ReplayAll).as_str()))),
    params(("all" = bool, Query, description = "has to be true"), ("pool" = Option<String>, Query, description = "of this pool only"), ("reason" = Option<String>, Query, description = "whose reason contains this text"), ("cursor" = Option<u64>, Query, description = "the cursor of the last call, with the same filters"), ("limit" = Option<u32>, Query, description = "number of deletions to process in this call, 1 to 100; without it as many as there is time for"), ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "the outcomes", body = ReplayAllReply,
         example = json!({"replayed": 7, "already_on_the_way": 0, "gone": 0, "unreadable": 0, "failed": 0, "cursor": null})), ReadFaults)
)]
pub(crate) async fn replay_all(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(again): Asked<Again>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Again { pool, reason, cursor, limit, all } = again;
    must_be_all(all, "deletion")?;
    let by = operator(&headers, &facts)?.to_string();
    let which = ParkedRequest { pool, reason, cursor, limit };
    let mut request = ReplayAllRequest::new(which, Some(by));
    let mut total = ReplayAllReply { cursor: request.cursor, ..ReplayAllReply::default() };
    let add = |request: &mut ReplayAllRequest, page: ReplayAllReply| {
        total.add(&page);
        request.cursor = total.cursor;
        total.cursor.is_some()
    };
    let is_one = limit.is_some();
    match each_page(&relay, Verb::ReplayAll, &facts, is_one, &mut request, add).await? {
        Some(fault) => Ok(fault),
        None => written(StatusCode::OK, &total),
    }
}

/// Refuses to replay more than one without the parameter that says so.
pub(crate) fn must_be_all(all: Option<bool>, what: &str) -> Result<(), Fault> {
    match all {
        Some(true) => Ok(()),
        _ => Err(Fault::invalid("all", format!("must be true to replay more than one {what}"))),
    }
}

/// Sends the request for one page, or for page after page until the last one or the deadline. `add` takes each reply, moves
/// the request to the next page, and says whether there is one. Returns the fault of the first page, if that failed: the
/// results so far are worth more than the failure of a later page, which the next request will meet.
pub(crate) async fn each_page<Q: Serialize, R: DeserializeOwned>(
    relay: &Relay,
    verb: Verb,
    facts: &Facts,
    is_one: bool,
    request: &mut Q,
    mut add: impl FnMut(&mut Q, R) -> bool,
) -> Result<Option<Response>, Failure> {
    let until_ms = relay.deadline_ms();
    let pages_max = if is_one { 1 } else { PAGES_MAX };
    for page in 0..pages_max {
        let reply = match relay.send(verb, facts, None, request).await {
            Ok(reply) if !reply.is_fault => reply,
            Ok(_) | Err(_) if page > 0 => break,
            Ok(reply) => return Ok(Some(pass_on(reply, StatusCode::OK))),
            Err(fault) => return Err(fault.into()),
        };
        let counts = serde_json::from_slice(&reply.body)
            .map_err(|_| Fault::new(FaultCode::InternalError, "a worker's answer could not be read"))?;
        if !add(request, counts) || relay.is_past(until_ms) {
            break;
        }
    }
    Ok(None)
}

/// A sandbox, or the key of an unreadable message.
fn key(path: PathKey, facts: &Facts) -> Result<String, Fault> {
    match path {
        Ok(Path(key)) if unreadable_sequence(&key).is_some() => Ok(key),
        path => {
            let sandbox = sandbox_in_path(path)?;
            facts.note_sandbox(&sandbox);
            Ok(sandbox.to_string())
        }
    }
}

/// The actor for the history: the name of the token, followed by the name that the caller states.
pub(crate) fn operator(headers: &HeaderMap, facts: &Facts) -> Result<Actor, Fault> {
    let named = operator_name(headers)?;
    let invalid = |problem| Fault::invalid(OPERATOR_HEADER, problem);
    let by = Actor::parse(&facts.actor(named.as_deref())).map_err(invalid)?;
    if let Some(person) = named {
        facts.note_person(&Actor::parse(&person).map_err(invalid)?);
    }
    Ok(by)
}

/// The name that the caller states, if any.
fn operator_name(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Fault> {
    let named = only_text(headers, OPERATOR_HEADER)?.filter(|name| !name.is_empty());
    if named.as_ref().is_some_and(|name| name.len() > OPERATOR_BYTES_MAX) {
        return Err(Fault::invalid(OPERATOR_HEADER, format!("may have at most {OPERATOR_BYTES_MAX} bytes")));
    }
    Ok(named)
}
