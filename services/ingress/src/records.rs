//! Operators' routes for all sandboxes: the list, one record, and the bulk removal of records.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::{
    Action, BulkDeleteReply, BulkDeleteRequest, RecordRequest, SandboxStatus, SandboxesRequest, Verb,
};
use serde::Deserialize;

use crate::deletions::operator;
use crate::error::{Failure, pass_on};
use crate::openapi::faults::{OfBulkDelete, ReadFaults, ReadOneFaults};
use crate::query::{Asked, NoQuery};
use crate::relay::Relay;
use crate::request_id::Facts;
use crate::sandboxes::sandbox_in_path;

/// The filter of a list. Unknown parameters are refused, because without the intended filter the list would be wrong.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    status: Option<SandboxStatus>,
    pool: Option<String>,
    lab: Option<String>,
    owner: Option<String>,
    name_prefix: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

/// The records to remove. Unknown parameters are refused, or a misspelled `dry_run` would be ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkDeleteQuery {
    status: Option<SandboxStatus>,
    pool: Option<String>,
    #[serde(default)]
    dry_run: bool,
    cursor: Option<String>,
    limit: Option<u32>,
}

/// Lists sandboxes, page by page.
#[utoipa::path(
    get, path = "/v1/admin/sandboxes", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Sandboxes).as_str()))),
    params(
        ("status" = Option<String>, Query, description = "in this state only; without it all but `deleted`, whose list reads the whole table"),
        ("pool" = Option<String>, Query, description = "of this pool only"),
        ("lab" = Option<String>, Query, description = "whose live or last lease is for this lab"),
        ("owner" = Option<String>, Query, description = "that this owner holds, or was the last to hold"),
        ("name_prefix" = Option<String>, Query, description = "whose name has this prefix"),
        ("limit" = Option<u32>, Query, description = "sandboxes of a page, 1 to 100; 50 without it"),
        ("cursor" = Option<String>, Query, description = "the cursor of the last page, with the same filters")
    ),
    responses(
        (status = 200, description = "a page; it may hold fewer than `limit`, and the last one has no cursor",
         body = contract::SandboxesReply,
         example = json!({"sandboxes": [{"sandbox_id": "2000018", "name": "lab-00018",
             "external_id": "6f1b7a52-3a55-4f0e-9c55-0d6f6f0f2a11", "status": "allocated",
             "allocated_to_track": "student-1", "allocated_at": 1_763_683_200, "expires_at": 1_763_697_600,
             "track_name": "dns-basics", "sfdc_account_id": null, "pool": "main", "version": 2, "epoch": 1,
             "changed_at": 1_763_683_200}], "count": 1, "cursor": null})), ReadFaults)
)]
pub(crate) async fn list_sandboxes(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(which): Asked<Which>,
) -> Result<Response, Failure> {
    let Which { status, pool, lab, owner, name_prefix, cursor, limit } = which;
    let request = SandboxesRequest { status, pool, lab, owner, name_prefix, cursor, limit };
    let reply = relay.send(Verb::Sandboxes, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Shows everything about a sandbox, with its history.
#[utoipa::path(
    get, path = "/v1/admin/sandboxes/{id}", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Sandbox).as_str()))),
    params(("id" = String, Path, description = "the sandbox")),
    responses(
        (status = 200, description = "everything about it, with its history, by a consistent read; also of a deleted one",
         body = contract::RecordView,
         example = json!({"sandbox_id": "2000018", "name": "lab-00018",
             "external_id": "6f1b7a52-3a55-4f0e-9c55-0d6f6f0f2a11", "status": "allocated",
             "allocated_to_track": "student-1", "allocated_at": 1_763_683_200, "expires_at": 1_763_697_600,
             "track_name": "dns-basics", "sfdc_account_id": null, "pool": "main", "version": 2, "epoch": 1,
             "changed_at": 1_763_683_200, "provider_id": "identity/accounts/6f1b7a52-3a55-4f0e-9c55-0d6f6f0f2a11",
             "since": null, "quarantine_reason": null,
             "lease": {"owner": "student-1", "lab": "dns-basics", "epoch": 1, "claimed_version": 1,
                 "granted_at": 1_763_683_200, "expires_at": 1_763_697_600, "is_live": true},
             "deletion": null, "tombstone": null,
             "history": [{"version": 1, "epoch": 0, "status": "available", "cause": "listed", "at": 1_763_600_000},
                 {"version": 2, "epoch": 1, "status": "allocated", "cause": "claimed", "at": 1_763_683_200}]})),
        ReadOneFaults)
)]
pub(crate) async fn show_sandbox(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: Result<Path<String>, PathRejection>,
    _: NoQuery,
) -> Result<Response, Failure> {
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let request = RecordRequest { sandbox_id: sandbox.to_string() };
    let reply = relay.send(Verb::Sandbox, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Removes the records of stale sandboxes, one page in each call.
#[utoipa::path(
    post, path = "/v1/admin/bulk-delete", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::BulkDelete).as_str()))),
    params(
        ("status" = String, Query, description = "`stale`, or `deletion_failed`, which are only counted: replay them"),
        ("pool" = Option<String>, Query, description = "of this pool only"),
        ("dry_run" = Option<bool>, Query, description = "`true` shows what would be done, and does nothing"),
        ("limit" = Option<u32>, Query, description = "records of a call, 1 to 100; 50 without it"),
        ("cursor" = Option<String>, Query, description = "the cursor of the last call, with the same filters"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    responses(
        (status = 200, description = "the outcome for each record; continue with the cursor while there is more", body = BulkDeleteReply,
         example = json!({"status": "stale", "dry_run": false, "removed": 1, "refused": 0, "raced": 0, "failed": 0,
             "untold": 0, "reason": null, "sandboxes": [{"sandbox_id": "2000018", "name": "lab-00018", "pool": "main",
             "outcome": "removed"}], "more": false, "cursor": null})), OfBulkDelete)
)]
pub(crate) async fn bulk_delete(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(query): Asked<BulkDeleteQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let BulkDeleteQuery { status, pool, dry_run, cursor, limit } = query;
    let by = Some(operator(&headers, &facts)?.to_string());
    let request = BulkDeleteRequest { status, pool, dry_run, cursor, limit, by };
    let reply = relay.send(Verb::BulkDelete, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}
