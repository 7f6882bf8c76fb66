//! The API of the CSP.

use crate::accounts;
use crate::connection::Cut;
use crate::faults::Operation;
use crate::reply;
use crate::state::{Call, State};
use crate::world::{Deletion, Paging};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use runtime::telemetry::Chain;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// Most bytes of a request's body.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

const BAD_TOKEN: &str = "the token is missing or not valid";
const BAD_SESSION: &str = "the session is missing or has expired";

type Caller = ConnectInfo<Cut>;
type PagingQuery = Result<Query<WirePaging>, QueryRejection>;

/// The paging parameters, as the CSP spells them.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct WirePaging {
    #[serde(rename = "_limit")]
    limit: Option<u64>,
    #[serde(rename = "_offset")]
    offset: Option<u64>,
}

impl WirePaging {
    pub(crate) fn paging(self) -> Paging {
        let Self { limit, offset } = self;
        Paging { limit, offset: offset.unwrap_or(0) }
    }
}

/// The routes, under the paths of the real CSP.
pub(crate) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/v2/current_user/accounts", get(list))
        .route("/v2/sandbox/accounts/{uuid}", delete(delete_account))
        .route("/v2/session/users/sign_in", post(sign_in))
        .route("/v2/session/account_switch", post(account_switch))
        .route("/api/universalinfra/v1/universalservices", get(list_services))
        .route("/api/universalinfra/v1/universalservices/{id}", delete(delete_service))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

async fn list(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(cut): Caller,
    headers: HeaderMap,
    query: PagingQuery,
) -> Response {
    let Ok(Query(query)) = query else {
        return reply::error(400, "_limit and _offset must be whole numbers");
    };
    let call = state.token_call(Operation::List, &headers, None);
    state
        .serve(cut, call, move |state, fault| {
            let lag_ms = state.faults().list_shows_deleted_for_ms;
            reply::json(200, state.world().list(query.paging(), fault, state.clock.now_ms(), lag_ms))
        })
        .await
}

async fn delete_account(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(cut): Caller,
    headers: HeaderMap,
    Path(text): Path<String>,
) -> Response {
    let call = state.token_call(Operation::Delete, &headers, Some(text));
    let uuid = call.account;
    state
        .serve(cut, call, move |state, _fault| {
            let Some(uuid) = uuid else {
                return reply::error(400, "an account is named by its UUID");
            };
            let deletion = state.world().delete(uuid, state.clock.now_ms());
            match deletion {
                Deletion::Done => StatusCode::NO_CONTENT.into_response(),
                Deletion::NoSuchAccount => reply::error(404, "there is no such account"),
                Deletion::NoSandbox => reply::error(400, "the account is no active sandbox"),
                Deletion::Broken(error) => {
                    tracing::error!(error = %Chain(&error), "a deletion cannot be written down");
                    reply::error(500, "the deletion cannot be written down")
                }
            }
        })
        .await
}

async fn sign_in(Shared(state): Shared<Arc<State>>, ConnectInfo(cut): Caller, body: Bytes) -> Response {
    let call = Call { operation: Operation::SignIn, account_text: None, account: None, refused: None };
    state
        .serve(cut, call, move |state, _fault| {
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            // Any credentials are accepted: the simulator does not check them.
            let has =
                |field: &str| body.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
            if has("email") && has("password") {
                reply::json(200, json!({"jwt": state.begin_session(None)}))
            } else {
                reply::error(401, "email or password is not valid")
            }
        })
        .await
}

async fn account_switch(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(cut): Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let id = body.get("id").and_then(Value::as_str).unwrap_or_default();
    let uuid = id.strip_prefix("identity/accounts/").and_then(|uuid| Uuid::parse_str(uuid).ok());
    let call = Call {
        operation: Operation::AccountSwitch,
        account_text: uuid.map(|uuid| uuid.to_string()),
        account: uuid,
        refused: state.session(&headers).is_none().then_some(BAD_SESSION),
    };
    state
        .serve(cut, call, move |state, _fault| match uuid {
            None => reply::error(400, "id must be identity/accounts/<uuid>"),
            Some(uuid) if !state.world().exists(uuid) => reply::error(404, "there is no such account"),
            Some(uuid) => reply::json(200, json!({"jwt": state.begin_session(Some(uuid))})),
        })
        .await
}

async fn list_services(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(cut): Caller,
    headers: HeaderMap,
    query: PagingQuery,
) -> Response {
    let Ok(Query(query)) = query else {
        return reply::error(400, "_limit and _offset must be whole numbers");
    };
    let call = state.session_call(Operation::ListServices, &headers);
    let account = call.account;
    state
        .serve(cut, call, move |state, _fault| {
            let Some(account) = account else {
                return reply::error(403, "the session is inside no account");
            };
            let services = state.world().services(account);
            let total = services.len();
            let Paging { limit, offset } = query.paging();
            let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
            let results: Vec<Value> = (services.iter().skip(count(offset)))
                .take(limit.map_or(usize::MAX, count))
                .map(|service| json!({"id": format!("infra/service/{}", service.id), "name": service.name}))
                .collect();
            let size = results.len();
            let page = json!({"offset": offset, "size": size, "total": total});
            reply::json(200, json!({"results": results, "page": page}))
        })
        .await
}

async fn delete_service(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(cut): Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    let call = state.session_call(Operation::DeleteService, &headers);
    let account = call.account;
    state
        .serve(cut, call, move |state, _fault| {
            let (Some(account), Ok(service)) = (account, Uuid::parse_str(&id)) else {
                return reply::error(400, "the session is inside no account, or the id is no UUID");
            };
            let is_deleted = state.world().delete_service(account, service);
            if is_deleted {
                StatusCode::NO_CONTENT.into_response()
            } else {
                reply::error(404, "there is no such service")
            }
        })
        .await
}

impl State {
    /// Whether the request carries the CSP's token.
    pub(crate) fn has_token(&self, headers: &HeaderMap) -> bool {
        credentials(headers, "Token ") == Some(self.config.api_token.expose())
    }

    fn token_call(&self, operation: Operation, headers: &HeaderMap, account_text: Option<String>) -> Call {
        let account = account_text.as_deref().and_then(|text| Uuid::parse_str(text).ok());
        let refused = (!self.has_token(headers)).then_some(BAD_TOKEN);
        Call { operation, account_text, account, refused }
    }

    fn session_call(&self, operation: Operation, headers: &HeaderMap) -> Call {
        let session = self.session(headers);
        let refused = session.is_none().then_some(BAD_SESSION);
        let account = session.flatten();
        Call { operation, account_text: account.map(|uuid| uuid.to_string()), account, refused }
    }

    /// The account of the request's session, as returned by [`crate::sessions::Sessions::find`].
    fn session(&self, headers: &HeaderMap) -> Option<Option<Uuid>> {
        let lifetime_ms = self.faults().session_lifetime_ms;
        let now_ms = self.clock.now_ms();
        self.world().sessions.find(credentials(headers, "Bearer ")?, now_ms, lifetime_ms)
    }

    fn begin_session(&self, account: Option<Uuid>) -> String {
        let number = (self.random.below(usize::MAX) as u64, self.random.below(usize::MAX) as u64);
        let token = format!("sim.{}", accounts::seeded_uuid(number.0, number.1));
        let now_ms = self.clock.now_ms();
        self.world().sessions.begin(token.clone(), account, now_ms);
        token
    }
}

fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix(scheme)
}
