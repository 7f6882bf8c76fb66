//! All HTTP routes. Each handler declares its route once, in `#[utoipa::path]`: method, path, action, schemas. The action
//! says who may use it ([`contract::Action::roles`]). The router, the checks in front of each route and the OpenAPI document follow from these declarations.

use axum::Router;
use axum::extract::FromRef;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use contract::{Action, Role};
use ops::Ops;
use serde_json::{Value, json};
use std::sync::LazyLock;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use crate::admin::{self, TickService};
use crate::caller::{self, Gate};
use crate::claims;
use crate::console;
use crate::deletions::switch::DeletionControlService;
use crate::deletions::{self, switch};
use crate::edge::{self, Edge};
use crate::events::{self, EventService};
use crate::executions;
use crate::fleet::{self, FleetService};
use crate::nodes;
use crate::openapi;
use crate::openapi::faults::OfOpen;
use crate::orders;
use crate::pools;
use crate::provisions;
use crate::records;
use crate::relay::Relay;
use crate::sandboxes;
use crate::templates;

/// One operation of the HTTP API, as its handler declares it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The method. `GET` includes `HEAD`.
    pub method: Method,
    /// The path; `{…}` stands for one segment.
    pub path: String,
    /// What it does; none of a route that is open to any caller.
    pub action: Option<Action>,
}

/// What the handlers need; each takes its part.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) relay: Relay,
    pub(crate) ticks: TickService,
    pub(crate) deletion_control: DeletionControlService,
    pub(crate) events: EventService,
    pub(crate) fleet: FleetService,
    pub(crate) ops: Ops,
}

/// In a declaration: the action, which says which roles may use the route.
const ACTION: &str = "x-action";
/// In the document: the route can be limited to the pools of a token. All other routes refuse a token with pools.
const POOL_SCOPE: &str = "x-pool-scope";

/// Every route, in the order of the document.
pub static ROUTES: LazyLock<Vec<Route>> =
    LazyLock::new(|| handlers().iter().filter_map(Route::declared_by).collect());

/// Every handler, with what it declares.
fn handlers() -> Vec<UtoipaMethodRouter<Parts>> {
    vec![
        routes!(sandboxes::allocate),
        routes!(sandboxes::mark_for_deletion),
        routes!(sandboxes::extend),
        routes!(sandboxes::get),
        routes!(executions::execute),
        routes!(claims::claim),
        routes!(claims::list_claims),
        routes!(claims::show_claim),
        routes!(claims::extend_claim),
        routes!(claims::release_claim),
        routes!(claims::replicate),
        routes!(claims::start_container),
        routes!(claims::stop_container),
        routes!(claims::restart_container),
        routes!(claims::pause_container),
        routes!(claims::resume_container),
        routes!(admin::stats),
        routes!(admin::sync),
        routes!(admin::expire),
        routes!(admin::cleanup),
        routes!(admin::census),
        routes!(admin::auto_delete_stale),
        routes!(admin::report),
        routes!(records::list_sandboxes),
        routes!(records::show_sandbox),
        routes!(records::bulk_delete),
        routes!(orders::release),
        routes!(orders::quarantine),
        routes!(orders::unquarantine),
        routes!(pools::list_pools),
        routes!(pools::show_pool),
        routes!(pools::put_pool),
        routes!(pools::drain_pool),
        routes!(pools::remove_pool),
        routes!(nodes::list_nodes),
        routes!(nodes::show_node),
        routes!(nodes::drain_node),
        routes!(nodes::activate_node),
        routes!(templates::list_templates),
        routes!(templates::create_template),
        routes!(templates::show_template),
        routes!(templates::put_template),
        routes!(templates::remove_template),
        routes!(templates::list_versions),
        routes!(switch::pause),
        routes!(switch::resume),
        routes!(deletions::list),
        routes!(deletions::parked),
        routes!(deletions::replay_all),
        routes!(deletions::show),
        routes!(deletions::remove),
        routes!(deletions::replay),
        routes!(provisions::replay_provisions),
        routes!(provisions::replay_provision),
        routes!(events::events),
        routes!(fleet::fleet),
        routes!(openapi::document),
        routes!(openapi::page),
        routes!(openapi::redoc),
        routes!(openapi::style),
        routes!(openapi::bundle),
        routes!(openapi::script),
        routes!(console::page),
        routes!(console::file),
        routes!(openapi::healthz),
        routes!(openapi::readyz),
        routes!(openapi::metrics),
        routes!(about),
    ]
}

/// Whether a route has this path.
pub(crate) fn is_path(path: &str) -> bool {
    ROUTES.iter().any(|route| {
        let (wanted, segments) = (route.path.split('/'), path.split('/'));
        let fits = |(wanted, segment): (&str, &str)| match wanted.starts_with('{') {
            true => !segment.is_empty(),
            false => wanted == segment,
        };
        wanted.clone().count() == segments.clone().count() && wanted.zip(segments).all(fits)
    })
}

/// The OpenAPI document: `base` with every route.
pub(crate) fn described(base: OpenApi) -> OpenApi {
    let router = OpenApiRouter::<Parts>::with_openapi(base);
    handlers().into_iter().fold(router, OpenApiRouter::routes).into_openapi()
}

/// Adds to each operation of the document who may use it, as its action says.
pub(crate) fn describe_access(document: &mut Value) {
    let items = document.get_mut("paths").and_then(Value::as_object_mut);
    let items = items.into_iter().flat_map(|items| items.values_mut()).filter_map(Value::as_object_mut);
    for operation in items.flat_map(|item| item.values_mut()).filter_map(Value::as_object_mut) {
        let Some(action) = operation.get(ACTION).and_then(Value::as_str).and_then(Action::parse) else {
            continue;
        };
        let security = action.roles().iter().map(|role| json!({ role.as_str(): [] })).collect();
        operation.insert("security".to_owned(), security);
        if action.can_be_limited() {
            operation.insert(POOL_SCOPE.to_owned(), true.into());
        }
    }
}

/// The router of all routes. `gate` checks the caller in front of each one; `edge` surrounds all.
pub(crate) fn router(parts: Parts, gate: &Gate, edge: Edge) -> Router {
    let mut router = Router::new();
    for handler in handlers() {
        let Some(route) = Route::declared_by(&handler) else { continue };
        let (_, _, endpoint) = handler;
        let gate = Gate { action: route.action, ..gate.clone() };
        router = router.route(&route.path, endpoint.route_layer(from_fn_with_state(gate, caller::admit)));
    }
    router
        .method_not_allowed_fallback(edge::no_such_method)
        .fallback(edge::no_such_path)
        .with_state(parts)
        .layer(from_fn_with_state(edge, edge::stand))
}

// === impl Route ===

impl Route {
    /// None of a declaration without a path or a method, which `#[utoipa::path]` does not make.
    fn declared_by((_, paths, _): &UtoipaMethodRouter<Parts>) -> Option<Self> {
        let (path, item) = paths.paths.iter().next()?;
        let item = serde_json::to_value(item).ok()?;
        let (method, operation) = item.as_object()?.iter().find(|(_, operation)| operation.is_object())?;
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).ok()?;
        let action = operation.get(ACTION).and_then(Value::as_str).and_then(Action::parse);
        Some(Self { method, path: path.clone(), action })
    }

    /// Whether a token with this role may use it.
    #[must_use]
    pub fn admits(&self, role: Role) -> bool {
        self.action.is_none_or(|action| action.roles().contains(&role))
    }

    /// Whether a token with pools may use it.
    #[must_use]
    pub fn is_limited_to_pools(&self) -> bool {
        self.action.is_some_and(Action::can_be_limited)
    }
}

// === impl Parts ===

impl FromRef<Parts> for Relay {
    fn from_ref(parts: &Parts) -> Self {
        parts.relay.clone()
    }
}

impl FromRef<Parts> for TickService {
    fn from_ref(parts: &Parts) -> Self {
        parts.ticks.clone()
    }
}

impl FromRef<Parts> for DeletionControlService {
    fn from_ref(parts: &Parts) -> Self {
        parts.deletion_control.clone()
    }
}

impl FromRef<Parts> for EventService {
    fn from_ref(parts: &Parts) -> Self {
        parts.events.clone()
    }
}

impl FromRef<Parts> for FleetService {
    fn from_ref(parts: &Parts) -> Self {
        parts.fleet.clone()
    }
}

impl FromRef<Parts> for Ops {
    fn from_ref(parts: &Parts) -> Self {
        parts.ops.clone()
    }
}

/// Name and version of the service.
#[utoipa::path(
    get, path = "/", tag = "open",
    responses(
        (status = 200, description = "name and version", body = serde_json::Value,
         example = json!({"service": "sandbox-broker", "version": "0.1.0"})),
        OfOpen
    )
)]
pub(crate) async fn about() -> Response {
    let about = serde_json::json!({"service": "sandbox-broker", "version": env!("CARGO_PKG_VERSION")});
    (StatusCode::OK, axum::Json(about)).into_response()
}
