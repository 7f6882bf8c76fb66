//! `GET /v1/admin/fleet`: the live workers.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use contract::{Action, FleetReply};
use ports::bus::{BusError, Discovery};
use std::sync::Arc;
use std::time::Duration;

use crate::admin::{unavailable, written};
use crate::error::Failure;
use crate::openapi::faults::OfSwitch;
use crate::query::NoQuery;
use crate::request_id::Facts;

/// Time-out of discovery; workers answer within milliseconds, and a short silence ends it sooner.
pub const ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Discovers workers.
#[derive(Clone)]
pub(crate) struct FleetService {
    pub(crate) discovery: Arc<dyn Discovery>,
}

/// Lists the live workers of every role.
#[utoipa::path(
    get, path = "/v1/admin/fleet", tag = "operators", extensions(("x-action" = json!(Action::Fleet.as_str()))),
    responses(
        (status = 200, description = "the live workers", body = FleetReply,
         example = json!({"roles": {"ingress": 1, "allocator": 0, "registry": 0, "reaper": 0, "reconciler": 0, "scheduler": 0},
                          "workers": [{"role": "ingress", "id": "01a1fbf8-5833-72d7-9905-4df296534c67", "version": "0.1.0",
                                       "started_at": 1_800_000_000, "in_flight": 1,
                                       "work": {"work": {"requests": 17, "errors": 0, "mean_us": 0, "last_error": null}},
                                       "numbers": {"status_200": 17}}],
                          "drift": {"LAB_DURATION_HOURS": ["4", "8"]}})), OfSwitch)
)]
pub(crate) async fn fleet(
    State(service): State<FleetService>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
) -> Result<Response, Failure> {
    let workers = service.discovery.workers(ANSWERS_TIMEOUT).await;
    let workers = workers.map_err(|error| unavailable(&error, &facts))?;
    // This ingress answers as well; if not even its own answer arrives, the bus does not work and nothing is known.
    if workers.is_empty() {
        let silence =
            BusError { operation: "ask who works", source: "no process answers, not even this one".into() };
        return Err(unavailable(&silence, &facts).into());
    }
    written(StatusCode::OK, &FleetReply::of(workers))
}
