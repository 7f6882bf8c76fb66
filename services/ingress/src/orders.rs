//! Operators' routes for one sandbox: quarantine it, return it to use, have it deleted.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use contract::{Action, Fault, OrderRequest, Verb};
use domain::Reason;
use serde::Deserialize;

use crate::deletions::operator;
use crate::error::{Failure, pass_on};
use crate::openapi::faults::OfOrder;
use crate::query::{NoQuery, json_object};
use crate::relay::Relay;
use crate::request_id::Facts;
use crate::sandboxes::sandbox_in_path;

/// The body of an operator action.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
pub(crate) struct Why {
    #[serde(default)]
    reason: String,
}

type PathId = Result<Path<String>, PathRejection>;

/// Takes a sandbox out of use; its lease ends.
#[utoipa::path(
    post, path = "/v1/admin/sandboxes/{id}/quarantine", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Quarantine).as_str()))),
    params(("id" = String, Path, description = "the sandbox"), ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    request_body(content = Why, example = json!({"reason": "smoke in it"})),
    responses(
        (status = 200, description = "it is quarantined", body = contract::OrderReply), OfOrder)
)]
pub(crate) async fn quarantine(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    _: NoQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    order(Verb::Quarantine, &relay, &facts, path, &headers, &body).await
}

/// Ends a quarantine: a sandbox that was never held is available again, and any other one is deleted.
#[utoipa::path(
    post, path = "/v1/admin/sandboxes/{id}/unquarantine", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Unquarantine).as_str()))),
    params(("id" = String, Path, description = "the sandbox"), ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    request_body(content = Why, example = json!({"reason": "smoke in it"})),
    responses(
        (status = 200, description = "it is available again, or its deletion is wanted: `status` says which", body = contract::OrderReply), OfOrder)
)]
pub(crate) async fn unquarantine(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    _: NoQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    order(Verb::Unquarantine, &relay, &facts, path, &headers, &body).await
}

/// Ends the lease or the quarantine of a sandbox, and has it deleted.
#[utoipa::path(
    post, path = "/v1/admin/sandboxes/{id}/release", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::ForceRelease).as_str()))),
    params(("id" = String, Path, description = "the sandbox"), ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    request_body(content = Why, example = json!({"reason": "smoke in it"})),
    responses(
        (status = 200, description = "its deletion is wanted", body = contract::OrderReply), OfOrder)
)]
pub(crate) async fn release(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    _: NoQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    order(Verb::ForceRelease, &relay, &facts, path, &headers, &body).await
}

async fn order(
    verb: Verb,
    relay: &Relay,
    facts: &Facts,
    path: PathId,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Failure> {
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let by = operator(headers, facts)?;
    let request = OrderRequest {
        sandbox_id: sandbox.to_string(),
        reason: reason(body)?.to_string(),
        by: Some(by.to_string()),
    };
    let reply = relay.send(verb, facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

fn reason(body: &Bytes) -> Result<Reason, Fault> {
    let Why { reason } = if body.is_empty() { Why::default() } else { json_object(body)? };
    Reason::parse(&reason).map_err(|problem| Fault::invalid("reason", problem))
}
