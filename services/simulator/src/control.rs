//! The controls over HTTP, with the same token as the CSP's API:
//!
//! | call | does |
//! |---|---|
//! | `GET`, `PUT /simulator/faults` | shows, replaces faults and latencies ([`crate::Faults`] as JSON) |
//! | `DELETE /simulator/faults` | resets faults and latencies to the configuration |
//! | `GET /simulator/accounts` | counts, and a page of accounts (`_limit` 1,000, `_offset`) |
//! | `POST /simulator/accounts` | `{"count": n, "name_prefix"?: "…"}` adds accounts |
//! | `PUT /simulator/services` | `{"id": "identity/accounts/…", "names": […]}` replaces the services inside one |
//! | `DELETE /simulator/sessions` | ends every session |
//! | `GET`, `DELETE /simulator/log` | shows, clears the log of calls |

use crate::api::{BODY_BYTES_MAX, WirePaging};
use crate::faults::Faults;
use crate::handle::{SERVICES_MAX, SimulatorHandle};
use crate::reply;
use crate::state::State;
use crate::world::Paging;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State as Shared};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, put};
use axum::{Json, Router};
use domain::{ExternalId, NamePrefix};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::Arc;

/// Most accounts that one call adds.
const ADD_MAX: usize = 100_000;
/// Accounts on one page by default.
const PAGE_SIZE: u64 = 1_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddAccounts {
    count: usize,
    name_prefix: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetServices {
    id: String,
    names: Vec<String>,
}

/// The controls.
pub(crate) fn router(state: Arc<State>) -> Router {
    let handle = SimulatorHandle::new(Arc::clone(&state));
    Router::new()
        .route("/simulator/faults", get(show_faults).put(set_faults).delete(clear_faults))
        .route("/simulator/accounts", get(show_accounts).post(add_accounts))
        .route("/simulator/services", put(set_services))
        .route("/simulator/sessions", delete(expire_sessions))
        .route("/simulator/log", get(show_log).delete(clear_log))
        .route_layer(middleware::from_fn_with_state(state, require_token))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(handle)
}

async fn require_token(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    if state.has_token(request.headers()) {
        next.run(request).await
    } else {
        reply::error(401, "the token is missing or not valid")
    }
}

async fn show_faults(Shared(handle): Shared<SimulatorHandle>) -> Response {
    Json(handle.faults()).into_response()
}

async fn set_faults(Shared(handle): Shared<SimulatorHandle>, body: Bytes) -> Response {
    match read::<Faults>(&body).and_then(|faults| handle.set_faults(faults)) {
        Ok(()) => {
            tracing::info!("the faults of the simulated CSP were replaced");
            Json(handle.faults()).into_response()
        }
        Err(problem) => reply::error(400, &problem),
    }
}

async fn clear_faults(Shared(handle): Shared<SimulatorHandle>) -> StatusCode {
    handle.clear_faults();
    StatusCode::NO_CONTENT
}

async fn show_accounts(
    Shared(handle): Shared<SimulatorHandle>,
    query: Result<Query<WirePaging>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return reply::error(400, "_limit and _offset must be whole numbers");
    };
    let Paging { limit, offset } = query.paging();
    let accounts = handle.page(Paging { limit: Some(limit.unwrap_or(PAGE_SIZE)), offset });
    reply::json(200, json!({"census": handle.census(), "accounts": accounts}))
}

async fn add_accounts(Shared(handle): Shared<SimulatorHandle>, body: Bytes) -> Response {
    let wanted = read::<AddAccounts>(&body).and_then(|AddAccounts { count, name_prefix }| {
        if !(1..=ADD_MAX).contains(&count) {
            return Err(format!("count must be from 1 to {ADD_MAX}"));
        }
        let name_prefix = name_prefix.as_deref().map(NamePrefix::parse).transpose();
        Ok((count, name_prefix.map_err(|problem| format!("name_prefix {problem}"))?))
    });
    let (count, name_prefix) = match wanted {
        Ok(wanted) => wanted,
        Err(problem) => return reply::error(400, &problem),
    };
    match handle.add_accounts(count, name_prefix.as_ref()) {
        Ok(added) => {
            let csp_id = |account: Option<&crate::AccountView>| account.map(|account| account.csp_id);
            let body = json!({
                "added": added.len(),
                "first_csp_id": csp_id(added.first()),
                "last_csp_id": csp_id(added.last()),
            });
            reply::json(201, body)
        }
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            reply::error(400, &error.to_string())
        }
        Err(error) => {
            tracing::error!(%error, "new accounts cannot be written down");
            reply::error(500, "new accounts cannot be written down")
        }
    }
}

async fn set_services(Shared(handle): Shared<SimulatorHandle>, body: Bytes) -> Response {
    let wanted = read::<SetServices>(&body).and_then(|SetServices { id, names }| {
        if names.len() > SERVICES_MAX {
            return Err(format!("names must be at most {SERVICES_MAX}"));
        }
        Ok((ExternalId::parse(&id).map_err(|problem| format!("id {problem}"))?, names))
    });
    match wanted {
        Ok((id, names)) if handle.set_services(&id, &names) => StatusCode::NO_CONTENT.into_response(),
        Ok(_) => reply::error(404, "there is no such account"),
        Err(problem) => reply::error(400, &problem),
    }
}

async fn expire_sessions(Shared(handle): Shared<SimulatorHandle>) -> Response {
    reply::json(200, json!({"expired": handle.expire_sessions()}))
}

async fn show_log(Shared(handle): Shared<SimulatorHandle>) -> Response {
    reply::json(200, json!({"calls": handle.log(), "dropped": handle.log_dropped()}))
}

async fn clear_log(Shared(handle): Shared<SimulatorHandle>) -> StatusCode {
    handle.clear_log();
    StatusCode::NO_CONTENT
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}
