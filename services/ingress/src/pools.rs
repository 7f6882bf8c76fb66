//! Operators' routes for pools: show, change, drain and remove them.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use contract::pools::{PoolOrder, PoolRequest, PoolSettings, PoolView, PoolsReply, PutPoolRequest};
use contract::{Action, Fault, Verb};
use domain::PoolName;
use serde::Deserialize;

use crate::deletions::operator;
use crate::error::{Failure, pass_on};
use crate::openapi::faults::{OfPoolOrder, OfPutPool, ReadFaults, ReadOneFaults};
use crate::query::{Asked, NoQuery, json_object};
use crate::relay::Relay;
use crate::request_id::Facts;

/// The version that a pool must have.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expected {
    version: Option<u64>,
}

type PathPool = Result<Path<String>, PathRejection>;

/// Lists the pools with their settings and counts.
#[utoipa::path(
    get, path = "/v1/pools", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Pools).as_str()))),
    responses(
        (status = 200, description = "every pool with its settings, its lease policy and its counts", body = PoolsReply), ReadFaults)
)]
pub(crate) async fn list_pools(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
) -> Result<Response, Failure> {
    let reply = relay.send(Verb::Pools, &facts, None, &serde_json::json!({})).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Shows a pool.
#[utoipa::path(
    get, path = "/v1/pools/{name}", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Pool).as_str()))),
    params(("name" = String, Path, description = "the pool")),
    responses(
        (status = 200, description = "the pool", body = PoolView), ReadOneFaults)
)]
pub(crate) async fn show_pool(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathPool,
    _: NoQuery,
) -> Result<Response, Failure> {
    let request = PoolRequest { pool: pool_in_path(path)?.to_string() };
    let reply = relay.send(Verb::Pool, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Creates a pool, or changes its settings.
#[utoipa::path(
    put, path = "/v1/pools/{name}", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::PutPool).as_str()))),
    params(
        ("name" = String, Path, description = "the pool"),
        ("version" = Option<u64>, Query, description = "the version that the pool must have, 0 if it must be new"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    request_body(content = PoolSettings, example = json!({"name_prefix": "lab-", "lease": {"duration_minutes": 240}})),
    responses(
        (status = 200, description = "the pool has these settings and is active; every worker follows within seconds", body = PoolView), OfPutPool)
)]
pub(crate) async fn put_pool(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathPool,
    Asked(Expected { version }): Asked<Expected>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let pool = pool_in_path(path)?.to_string();
    let by = Some(operator(&headers, &facts)?.to_string());
    let request = PutPoolRequest { pool, settings: json_object::<PoolSettings>(&body)?, version, by };
    let reply = relay.send(Verb::PutPool, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Drains a pool: it grants no more leases and gets no new sandboxes.
#[utoipa::path(
    post, path = "/v1/pools/{name}/drain", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::DrainPool).as_str()))),
    params(
        ("name" = String, Path, description = "the pool"),
        ("version" = Option<u64>, Query, description = "the version that the pool must have"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    responses(
        (status = 200, description = "the pool grants no more leases and gets no new sandboxes", body = PoolView), OfPoolOrder)
)]
pub(crate) async fn drain_pool(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathPool,
    Asked(expected): Asked<Expected>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    order(Verb::DrainPool, &relay, &facts, path, expected, &headers).await
}

/// Removes a drained pool.
#[utoipa::path(
    delete, path = "/v1/pools/{name}", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::RemovePool).as_str()))),
    params(
        ("name" = String, Path, description = "the pool"),
        ("version" = Option<u64>, Query, description = "the version that the pool must have"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    responses(
        (status = 200, description = "the pool, which was drained, is no more; its free sandboxes stay in the table", body = PoolView), OfPoolOrder)
)]
pub(crate) async fn remove_pool(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathPool,
    Asked(expected): Asked<Expected>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    order(Verb::RemovePool, &relay, &facts, path, expected, &headers).await
}

async fn order(
    verb: Verb,
    relay: &Relay,
    facts: &Facts,
    path: PathPool,
    Expected { version }: Expected,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let pool = pool_in_path(path)?.to_string();
    let by = Some(operator(headers, facts)?.to_string());
    let reply = relay.send(verb, facts, None, &PoolOrder { pool, version, by }).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

fn pool_in_path(path: PathPool) -> Result<PoolName, Fault> {
    let Path(name) = path.map_err(|rejection| Fault::invalid("name", rejection.body_text()))?;
    PoolName::parse(&name).map_err(|problem| Fault::invalid("name", problem))
}
