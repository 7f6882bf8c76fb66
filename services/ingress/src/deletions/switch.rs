//! The operators' switch of all deletions. An allocator changes it in the table; reapers read its copy in the bucket.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use contract::{Action, Fault, Pause, PauseRequest, Verb};
use ports::bus::DeletionControl;
use ports::clock::Clock;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::{in_time, unavailable, written};
use crate::deletions::{OPERATOR_HEADER, operator};
use crate::error::Failure;
use crate::openapi::faults::OfSwitch;
use crate::query::{NoQuery, json_object};
use crate::request_id::Facts;

/// Changes the switch.
#[derive(Clone)]
pub(crate) struct DeletionControlService {
    pub(crate) control: Arc<dyn DeletionControl>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Longest time of a change.
    pub(crate) wait: Duration,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Paused {
    status: &'static str,
    paused: Pause,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Resumed {
    status: &'static str,
    was_paused: Option<Pause>,
}

/// Pauses all deletions.
#[utoipa::path(
    post, path = "/v1/admin/deletions/pause", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Pause).as_str()))),
    params(("X-Operator" = Option<String>, Header, description = "the operator, if several share the token; `by` in the body has the same meaning")),
    request_body(content = PauseRequest, example = json!({"until_seconds": 600, "reason": "maintenance"})),
    responses(
        (status = 200, description = "no deletion begins", body = Paused,
         example = json!({"status": "paused", "paused": {"by": "admin", "since": 1763683200, "until": null, "reason": null}})), OfSwitch)
)]
pub(crate) async fn pause(
    State(service): State<DeletionControlService>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let mut request = if body.is_empty() { PauseRequest::default() } else { json_object(&body)? };
    let by = paused_by(&headers, request.by.as_deref(), &facts)?;
    request.by = Some(by.clone());
    let paused =
        request.at(service.clock.now(), &by).map_err(|(field, problem)| Fault::invalid(field, problem))?;
    let turned = in_time(service.control.pause(&paused), service.wait, &*service.clock).await;
    turned.map_err(|error| unavailable(&error, &facts))?;
    tracing::warn!(
        request.id = facts.request_id.as_str(),
        reason = paused.reason,
        "deletions are paused by {}",
        paused.by
    );
    written(StatusCode::OK, &Paused { status: "paused", paused })
}

/// Resumes deletions.
#[utoipa::path(
    post, path = "/v1/admin/deletions/resume", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Resume).as_str()))),
    params(("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "deletions continue", body = Resumed, example = json!({"status": "running", "was_paused": null})), OfSwitch)
)]
pub(crate) async fn resume(
    State(service): State<DeletionControlService>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let by = operator(&headers, &facts)?;
    let turned = in_time(service.control.resume(by.as_str()), service.wait, &*service.clock).await;
    let was_paused = turned.map_err(|error| unavailable(&error, &facts))?;
    tracing::warn!(request.id = facts.request_id.as_str(), %by, "deletions are resumed by {by}");
    written(StatusCode::OK, &Resumed { status: "running", was_paused })
}

/// The actor of the pause. The body may name it as well as the header; two different names are refused.
fn paused_by(headers: &HeaderMap, in_body: Option<&str>, facts: &Facts) -> Result<String, Fault> {
    let by_header = operator(headers, facts)?.to_string();
    let Some(named) = in_body.map(str::trim).filter(|by| !by.is_empty()) else { return Ok(by_header) };
    let by_body = facts.actor(Some(named));
    if by_header != by_body && by_header != facts.actor(None) {
        return Err(Fault::invalid("by", format!("and {OPERATOR_HEADER} say two names: send one of them")));
    }
    Ok(by_body)
}
