//! Operators' routes for parked creations: replays. Their list is that of sandboxes in the state `provision_failed`.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::{Action, ReplayProvisionRequest, ReplayProvisionsReply, ReplayProvisionsRequest, Verb};
use serde::Deserialize;

use crate::admin::written;
use crate::deletions::{each_page, must_be_all, operator};
use crate::error::{Failure, pass_on};
use crate::openapi::faults::{OfOrder, ReadFaults};
use crate::query::{Asked, NoQuery};
use crate::relay::Relay;
use crate::request_id::Facts;
use crate::sandboxes::sandbox_in_path;

/// The parked creations to replay.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Again {
    pool: Option<String>,
    reason: Option<String>,
    cursor: Option<String>,
    /// Most creations of this call; all by default.
    limit: Option<u32>,
    /// Required, so that no caller replays all by forgetting a parameter.
    all: Option<bool>,
}

/// Replays a parked creation.
#[utoipa::path(
    post, path = "/v1/admin/provisions/{id}/replay", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::ReplayProvision).as_str()))),
    params(("id" = String, Path, description = "the sandbox"), ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "the outcome", body = contract::ReplayReply,
         example = json!({"key": "ctr_01a1fbf8-5833-72d7-9905-4df296534c67", "outcome": "replayed"})), OfOrder)
)]
pub(crate) async fn replay_provision(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: Result<Path<String>, PathRejection>,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let by = Some(operator(&headers, &facts)?.to_string());
    let request = ReplayProvisionRequest { sandbox_id: sandbox.to_string(), by };
    let reply = relay.send(Verb::ReplayProvision, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Replays all parked creations.
///
/// One page of `limit`; without it page after page, until the last one or the deadline. Every page is a separate
/// request to the workers; a page whose answer is lost is the last.
#[utoipa::path(
    post, path = "/v1/admin/provisions/replay", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::ReplayProvisions).as_str()))),
    params(("all" = bool, Query, description = "has to be true"), ("pool" = Option<String>, Query, description = "of this pool only"), ("reason" = Option<String>, Query, description = "whose last error contains this text"), ("cursor" = Option<String>, Query, description = "the cursor of the last call, with the same filters"), ("limit" = Option<u32>, Query, description = "number of creations to process in this call, 1 to 100; without it as many as there is time for"), ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "the outcomes", body = ReplayProvisionsReply,
         example = json!({"replayed": 7, "already_on_the_way": 0, "gone": 0, "failed": 0, "cursor": null})), ReadFaults)
)]
pub(crate) async fn replay_provisions(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(again): Asked<Again>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Again { pool, reason, cursor, limit, all } = again;
    must_be_all(all, "creation")?;
    let by = Some(operator(&headers, &facts)?.to_string());
    let mut total = ReplayProvisionsReply { cursor: cursor.clone(), ..ReplayProvisionsReply::default() };
    let mut request = ReplayProvisionsRequest { pool, reason, cursor, limit, by };
    let add = |request: &mut ReplayProvisionsRequest, page: ReplayProvisionsReply| {
        total.add(page);
        request.cursor.clone_from(&total.cursor);
        total.cursor.is_some()
    };
    let is_one = limit.is_some();
    match each_page(&relay, Verb::ReplayProvisions, &facts, is_one, &mut request, add).await? {
        Some(fault) => Ok(fault),
        None => written(StatusCode::OK, &total),
    }
}
