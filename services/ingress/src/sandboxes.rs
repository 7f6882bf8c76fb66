//! The routes of labs: convert headers and path to a request of the contract, and return the worker's reply.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::bounds::Bounded;
use contract::{
    Action, AllocateRequest, ExtendRequest, Fault, FaultCode, LabDuration, Outcome, ReleaseRequest,
    SandboxRequest, Target, Verb, authorize,
};
use domain::{IdempotencyKey, InvalidId, LabId, NamePrefix, OwnerId, PoolName, SandboxId};
use serde::Deserialize;
use std::borrow::Cow;

use crate::error::{Failure, pass_on};
use crate::openapi::faults::{OfClaim, OfExtend, OfRelease, OwnReadFaults};
use crate::relay::Relay;
use crate::request_id::Facts;

/// The owner (Instruqt participant id).
pub const OWNER_HEADER: &str = "X-Instruqt-Sandbox-ID";
/// The owner in older lab scripts; used only without [`OWNER_HEADER`].
pub const LEGACY_OWNER_HEADER: &str = "X-Track-ID";
/// The lab (Instruqt track slug).
pub const LAB_HEADER: &str = "X-Instruqt-Track-ID";
/// Only sandboxes whose name has this prefix.
pub const NAME_PREFIX_HEADER: &str = "X-Sandbox-Name-Prefix";
/// The pool.
pub const POOL_HEADER: &str = "X-Sandbox-Pool";
/// In a pool of containers: `prefer`, `require` or `never` a free one.
pub const WARM_HEADER: &str = "X-Sandbox-Warm";
/// The idempotency key.
pub const IDEMPOTENCY_KEY_HEADER: &str = "Idempotency-Key";
/// The epoch of the lease.
pub const LEASE_EPOCH_HEADER: &str = "X-Lease-Epoch";
/// Length of the lease: hours (`4`, `4h`), minutes (`90m`) or both (`1h30m`).
pub const LAB_DURATION_HEADER: &str = "X-Lab-Duration";

type PathId = Result<Path<String>, PathRejection>;

/// Allocates a sandbox, or returns the one that this owner and key have already.
#[utoipa::path(
    post, path = "/v1/allocate", tag = "labs", extensions(("x-action" = json!(Action::Ask(Verb::Allocate).as_str()))),
    params(
        ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner (Instruqt participant id); older scripts send `X-Track-ID`"),
        ("X-Instruqt-Track-ID" = Option<String>, Header, description = "the lab (Instruqt track slug)"),
        ("X-Sandbox-Name-Prefix" = Option<String>, Header, description = "only sandboxes whose name has this prefix"),
        ("X-Sandbox-Pool" = Option<String>, Header, description = "the pool; the default one without it"),
        ("X-Sandbox-Warm" = Option<String>, Header, description = "in a pool of containers: `prefer` a free one (the default), `require` one, or `never` take one, so that one is created"),
        ("Idempotency-Key" = Option<String>, Header, description = "the idempotency key; the owner without it"),
        ("X-Lab-Duration" = Option<String>, Header, description = "length of the lease, within the set maximum: hours (`4`, `4h`), minutes (`90m`) or both (`1h30m`)")
    ),
    responses(
        (status = 201, description = "a new lease", body = contract::Allocation, example = json!({"sandbox_id": "2000018", "name": "lab-00018", "external_id": "6f1b7a52-3a55-4f0e-9c55-0d6f6f0f2a11",
                         "allocated_at": 1763683200, "expires_at": 1763697600, "sfdc_account_id": null, "lease_epoch": 1})),
        (status = 200, description = "the lease that this owner and key have already", body = contract::Allocation), OfClaim)
)]
pub(crate) async fn allocate(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?;
    let duration = lab_duration(&headers)?;
    let request = AllocateRequest {
        owner: owner.to_string(),
        lab: id(&headers, LAB_HEADER, LabId::parse)?.map(|lab| lab.to_string()),
        idempotency_key: id(&headers, IDEMPOTENCY_KEY_HEADER, IdempotencyKey::parse)?
            .map(|key| key.to_string()),
        pool: pool(&headers, &facts)?.map(|pool| pool.to_string()),
        name_prefix: id(&headers, NAME_PREFIX_HEADER, NamePrefix::parse)?.map(|prefix| prefix.to_string()),
        lab_duration_hours: duration.map(|duration| duration.hours),
        lab_duration_minutes: duration.and_then(|duration| duration.minutes),
        warm: only_text(&headers, WARM_HEADER)?.filter(|warm| !warm.is_empty()).map(Cow::into_owned),
        by: whose_token(&facts),
        ..AllocateRequest::default()
    };
    let key = request.idempotency_key.clone();
    let reply = relay.send(Verb::Allocate, &facts, key.as_deref(), &bounded(request, &facts)).await?;
    if let Some(sandbox) = sandbox_named_in(&reply.body).filter(|_| !reply.is_fault) {
        facts.note_sandbox(&sandbox);
    }
    let success = match reply.outcome {
        Some(Outcome::Created) => StatusCode::CREATED,
        // An older worker does not state the outcome; lab scripts accept either status.
        Some(Outcome::Existing) | None => StatusCode::OK,
    };
    Ok(pass_on(reply, success))
}

/// Gives a sandbox back: its lease ends, and it is deleted.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/mark-for-deletion", tag = "labs", extensions(("x-action" = json!(Action::Ask(Verb::Release).as_str()))),
    params(("id" = String, Path, description = "the sandbox"), ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner (Instruqt participant id); older scripts send `X-Track-ID`"),
        ("X-Lease-Epoch" = Option<u64>, Header, description = "the epoch of the lease")),
    responses(
        (status = 200, description = "its deletion is wanted; a repeat has the same answer", body = contract::ReleaseReply,
         example = json!({"sandbox_id": "2000018", "status": "pending_deletion", "deletion_requested_at": 1763690000})), OfRelease)
)]
pub(crate) async fn mark_for_deletion(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?;
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let request = ReleaseRequest {
        sandbox_id: sandbox.to_string(),
        owner: owner.to_string(),
        lease_epoch: lease_epoch(&headers)?,
        by: whose_token(&facts),
    };
    let reply = relay.send(Verb::Release, &facts, None, &bounded(request, &facts)).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Extends the lease of a sandbox.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/extend", tag = "labs", extensions(("x-action" = json!(Action::Ask(Verb::Extend).as_str()))),
    params(("id" = String, Path, description = "the sandbox"), ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner (Instruqt participant id); older scripts send `X-Track-ID`"),
        ("X-Lab-Duration" = String, Header, description = "total length of the lease: hours (`4`, `4h`), minutes (`90m`) or both (`1h30m`)"),
        ("X-Lease-Epoch" = Option<u64>, Header, description = "the epoch of the lease")),
    responses(
        (status = 200, description = "the lease with its new end", body = contract::Allocation, example = json!({"sandbox_id": "2000018", "name": "lab-00018", "external_id": "6f1b7a52-3a55-4f0e-9c55-0d6f6f0f2a11",
                         "allocated_at": 1763683200, "expires_at": 1763697600, "sfdc_account_id": null, "lease_epoch": 1})), OfExtend)
)]
pub(crate) async fn extend(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?;
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let duration = lab_duration(&headers)?.ok_or_else(|| {
        Fault::invalid(LAB_DURATION_HEADER, "has to say how long the lease is to last in all")
    })?;
    let request = ExtendRequest {
        sandbox_id: sandbox.to_string(),
        owner: owner.to_string(),
        lab_duration_hours: Some(duration.hours),
        lab_duration_minutes: duration.minutes,
        lease_epoch: lease_epoch(&headers)?,
        by: whose_token(&facts),
    };
    let reply = relay.send(Verb::Extend, &facts, None, &bounded(request, &facts)).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Shows a sandbox to its owner.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}", tag = "labs", extensions(("x-action" = json!(Action::Ask(Verb::Get).as_str()))),
    params(("id" = String, Path, description = "the sandbox"), ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner (Instruqt participant id); older scripts send `X-Track-ID`")),
    responses(
        (status = 200, description = "the owner's sandbox", body = contract::SandboxView,
         example = json!({"sandbox_id": "2000018", "name": "lab-00018", "external_id": "6f1b7a52-3a55-4f0e-9c55-0d6f6f0f2a11",
                          "status": "allocated", "allocated_to_track": "student-1", "allocated_at": 1763683200,
                          "expires_at": 1763697600, "track_name": "dns-basics", "sfdc_account_id": null})), OwnReadFaults)
)]
pub(crate) async fn get(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?;
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    // Reads are not in the history, so no actor is needed.
    let request = SandboxRequest { sandbox_id: sandbox.to_string(), owner: owner.to_string(), by: None };
    let reply = relay.send(Verb::Get, &facts, None, &bounded(request, &facts)).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// The name of the token, for the history of workers that do not know the header of the principal.
pub(crate) fn whose_token(facts: &Facts) -> Option<String> {
    facts.caller().map(|caller| caller.name.to_string())
}

/// The request, restricted to the pools of the caller's token.
pub(crate) fn bounded<T>(request: T, facts: &Facts) -> Bounded<T> {
    let pools = facts.caller().map_or(&[][..], |caller| caller.scope.pools());
    Bounded { request, pools: pools.iter().map(ToString::to_string).collect() }
}

fn pool(headers: &HeaderMap, facts: &Facts) -> Result<Option<PoolName>, Fault> {
    usual_pool(id(headers, POOL_HEADER, PoolName::parse)?, facts)
}

/// The pool that the body of a claim names, or the one that it is for without a name.
pub(crate) fn token_pool(named: Option<String>, facts: &Facts) -> Result<Option<String>, Fault> {
    let named = named.map(|name| PoolName::parse(&name)).transpose();
    let named = named.map_err(|problem| Fault::invalid("pool", problem))?;
    Ok(usual_pool(named, facts)?.map(|pool| pool.to_string()))
}

// Without a name, the default of a token with pools is its first pool.
fn usual_pool(named: Option<PoolName>, facts: &Facts) -> Result<Option<PoolName>, Fault> {
    let Some(caller) = facts.caller() else { return Ok(named) };
    let pool = named.or_else(|| caller.scope.pools().first().cloned());
    authorize(caller, Action::Ask(Verb::Allocate), Target { pool: pool.as_ref(), owner: None })?;
    Ok(pool)
}

pub(crate) fn owner(headers: &HeaderMap, facts: &Facts) -> Result<OwnerId, Fault> {
    let owner = owner_in(headers)?;
    facts.note_owner(&owner);
    Ok(owner)
}

/// The owner in the headers.
pub(crate) fn owner_in(headers: &HeaderMap) -> Result<OwnerId, Fault> {
    match id(headers, OWNER_HEADER, OwnerId::parse)? {
        Some(owner) => Ok(owner),
        None => id(headers, LEGACY_OWNER_HEADER, OwnerId::parse)?.ok_or_else(|| {
            Fault::new(
                FaultCode::MissingSandboxId,
                format!("{OWNER_HEADER} (or the older {LEGACY_OWNER_HEADER}) has to name the owner"),
            )
        }),
    }
}

pub(crate) fn sandbox_in_path(path: PathId) -> Result<SandboxId, Fault> {
    let Path(text) = path.map_err(|_| Fault::invalid("the sandbox id", "in the path is not text"))?;
    SandboxId::parse(&text).map_err(|problem| Fault::invalid("the sandbox id in the path", problem))
}

/// The id in a header; none if the header is absent or blank.
fn id<T>(
    headers: &HeaderMap,
    name: &'static str,
    parse: fn(&str) -> Result<T, InvalidId>,
) -> Result<Option<T>, Fault> {
    let Some(text) = only_text(headers, name)? else { return Ok(None) };
    match parse(&text) {
        Ok(id) => Ok(Some(id)),
        Err(InvalidId::Empty) => Ok(None),
        Err(problem) => Err(Fault::invalid(name, problem)),
    }
}

// Of two values, a proxy might choose another one than the broker, so both are refused.
// Clients send other characters as UTF-8 (curl) or as Latin-1 (Python's `requests`).
pub(crate) fn only_text<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<Cow<'a, str>>, Fault> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Fault::invalid(name, "was sent more than once"));
    }
    Ok(Some(match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Cow::Borrowed(text.trim()),
        Err(_) => Cow::Owned(value.as_bytes().iter().copied().map(char::from).collect()),
    }))
}

fn lab_duration(headers: &HeaderMap) -> Result<Option<LabDuration>, Fault> {
    let Some(text) = only_text(headers, LAB_DURATION_HEADER)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match LabDuration::parse(&text) {
        Some(duration) => Ok(Some(duration)),
        None => Err(Fault::invalid(
            LAB_DURATION_HEADER,
            "must be whole hours (4 or 4h), minutes (90m) or both (1h30m), at least one minute",
        )),
    }
}

pub(crate) fn lease_epoch(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let Some(text) = only_text(headers, LEASE_EPOCH_HEADER)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match digits(&text) {
        Some(epoch) => Ok(Some(epoch)),
        None => Err(Fault::invalid(LEASE_EPOCH_HEADER, "must be a whole number")),
    }
}

// `parse` alone would accept a sign.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

// For the log line only; the body is passed on unread.
fn sandbox_named_in(body: &[u8]) -> Option<SandboxId> {
    #[derive(Deserialize)]
    struct Named {
        sandbox_id: String,
    }
    let Named { sandbox_id } = serde_json::from_slice(body).ok()?;
    SandboxId::parse(&sandbox_id).ok()
}
