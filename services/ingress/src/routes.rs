//! All HTTP routes as one table. The router is built from it, and a test iterates over it.

use axum::Router;
use axum::extract::FromRef;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, on, on_service};
use ops::Ops;

use crate::admin::{self, TickService};
use crate::caller::{self, Gate, Role};
use crate::console;
use crate::deletions::{self, DeletionControlService};
use crate::edge::{self, Edge};
use crate::events::{self, EventService};
use crate::fleet::{self, FleetService};
use crate::openapi;
use crate::openapi::faults::OfOpen;
use crate::orders;
use crate::records;
use crate::relay::Relay;
use crate::sandboxes;
use crate::tokens::Scope;

/// One operation of the HTTP API.
#[derive(Debug)]
pub struct Route {
    /// The method. `GET` includes `HEAD`.
    pub method: Method,
    /// The path; `{…}` stands for one segment.
    pub path: &'static str,
    /// The required role.
    pub role: Role,
    endpoint: fn(MethodFilter, &Parts) -> MethodRouter<Parts>,
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

/// Every route.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/v1/allocate",
        role: Role::Lab,
        endpoint: |method, _| on(method, sandboxes::allocate),
    },
    Route {
        method: Method::POST,
        path: "/v1/sandboxes/{id}/mark-for-deletion",
        role: Role::Lab,
        endpoint: |method, _| on(method, sandboxes::mark_for_deletion),
    },
    Route {
        method: Method::POST,
        path: "/v1/sandboxes/{id}/extend",
        role: Role::Lab,
        endpoint: |method, _| on(method, sandboxes::extend),
    },
    Route {
        method: Method::GET,
        path: "/v1/sandboxes/{id}",
        role: Role::Lab,
        endpoint: |method, _| on(method, sandboxes::get),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/stats",
        role: Role::Admin,
        endpoint: |method, _| on(method, admin::stats),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/sync",
        role: Role::Admin,
        endpoint: |method, _| on(method, admin::sync),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/expire",
        role: Role::Admin,
        endpoint: |method, _| on(method, admin::expire),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/cleanup",
        role: Role::Admin,
        endpoint: |method, _| on(method, admin::cleanup),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/census",
        role: Role::Admin,
        endpoint: |method, _| on(method, admin::census),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/auto-delete-stale",
        role: Role::Admin,
        endpoint: |method, _| on(method, admin::auto_delete_stale),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/reports/{kind}/{tick}",
        role: Role::Admin,
        endpoint: |method, _| on(method, admin::report),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/sandboxes",
        role: Role::Admin,
        endpoint: |method, _| on(method, records::list_sandboxes),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/sandboxes/{id}",
        role: Role::Admin,
        endpoint: |method, _| on(method, records::show_sandbox),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/bulk-delete",
        role: Role::Admin,
        endpoint: |method, _| on(method, records::bulk_delete),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/sandboxes/{id}/release",
        role: Role::Admin,
        endpoint: |method, _| on(method, orders::release),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/sandboxes/{id}/quarantine",
        role: Role::Admin,
        endpoint: |method, _| on(method, orders::quarantine),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/sandboxes/{id}/unquarantine",
        role: Role::Admin,
        endpoint: |method, _| on(method, orders::unquarantine),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/deletions/pause",
        role: Role::Admin,
        endpoint: |method, _| on(method, deletions::pause),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/deletions/resume",
        role: Role::Admin,
        endpoint: |method, _| on(method, deletions::resume),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/deletions",
        role: Role::Admin,
        endpoint: |method, _| on(method, deletions::list),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/deletions/parked",
        role: Role::Admin,
        endpoint: |method, _| on(method, deletions::parked),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/deletions/replay",
        role: Role::Admin,
        endpoint: |method, _| on(method, deletions::replay_all),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/deletions/{id}",
        role: Role::Admin,
        endpoint: |method, _| on(method, deletions::show),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/admin/deletions/{id}",
        role: Role::Admin,
        endpoint: |method, _| on(method, deletions::remove),
    },
    Route {
        method: Method::POST,
        path: "/v1/admin/deletions/{id}/replay",
        role: Role::Admin,
        endpoint: |method, _| on(method, deletions::replay),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/events",
        role: Role::Admin,
        endpoint: |method, _| on(method, events::events),
    },
    Route {
        method: Method::GET,
        path: "/v1/admin/fleet",
        role: Role::Admin,
        endpoint: |method, _| on(method, fleet::fleet),
    },
    Route {
        method: Method::GET,
        path: "/v1/openapi.json",
        role: Role::None,
        endpoint: |method, _| on(method, openapi::document),
    },
    Route {
        method: Method::GET,
        path: "/v1/docs",
        role: Role::None,
        endpoint: |method, _| on(method, openapi::page),
    },
    Route {
        method: Method::GET,
        path: "/v1/docs/swagger-ui.css",
        role: Role::None,
        endpoint: |method, _| on(method, openapi::style),
    },
    Route {
        method: Method::GET,
        path: "/v1/docs/swagger-ui-bundle.js",
        role: Role::None,
        endpoint: |method, _| on(method, openapi::bundle),
    },
    Route {
        method: Method::GET,
        path: "/v1/docs/page.js",
        role: Role::None,
        endpoint: |method, _| on(method, openapi::script),
    },
    Route {
        method: Method::GET,
        path: "/console",
        role: Role::None,
        endpoint: |method, _| on(method, console::page),
    },
    Route {
        method: Method::GET,
        path: "/console/{file}",
        role: Role::None,
        endpoint: |method, _| on(method, console::file),
    },
    Route { method: Method::GET, path: "/healthz", role: Role::None, endpoint: ops },
    Route { method: Method::GET, path: "/readyz", role: Role::None, endpoint: ops },
    Route { method: Method::GET, path: "/metrics", role: Role::None, endpoint: ops },
    Route { method: Method::GET, path: "/", role: Role::None, endpoint: |method, _| on(method, about) },
];

/// Routes whose workers restrict requests to the pools of a token; all others refuse a token with pools.
const LIMITED_TO_POOLS: [&str; 4] = [
    "/v1/allocate",
    "/v1/sandboxes/{id}/mark-for-deletion",
    "/v1/sandboxes/{id}/extend",
    "/v1/sandboxes/{id}",
];

/// The router of all routes. `gate` checks the role in front of each one; `edge` surrounds all.
pub(crate) fn router(parts: Parts, gate: &Gate, edge: Edge) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let gate = Gate {
            role: route.role,
            is_read_only: caller::is_read_only(&route.method),
            is_limited_to_pools: route.is_limited_to_pools(),
            ..gate.clone()
        };
        let endpoint =
            (route.endpoint)(route.filter(), &parts).route_layer(from_fn_with_state(gate, caller::admit));
        router = router.route(route.path, endpoint);
    }
    router
        .method_not_allowed_fallback(edge::no_such_method)
        .fallback(edge::no_such_path)
        .with_state(parts)
        .layer(from_fn_with_state(edge, edge::stand))
}

// === impl Route ===

impl Route {
    /// Whether a token with this right may use it.
    #[must_use]
    pub fn admits(&self, scope: Scope) -> bool {
        self.role.admits(scope, &self.method)
    }

    /// Whether a token with pools may use it.
    #[must_use]
    pub fn is_limited_to_pools(&self) -> bool {
        LIMITED_TO_POOLS.contains(&self.path)
    }

    fn filter(&self) -> MethodFilter {
        // Every method of the table has a filter; a test requests each route.
        MethodFilter::try_from(self.method.clone()).unwrap_or(MethodFilter::GET)
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

// Other roles serve these three on the operations port; here they are ordinary routes.
fn ops(method: MethodFilter, parts: &Parts) -> MethodRouter<Parts> {
    on_service(method, parts.ops.clone().router())
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
