//! Operators' routes: counts, and runs on demand.
//!
//! A run on demand publishes the same tick as the scheduler; the answer is the report of a run that began after it.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use contract::RunStatus;
use contract::{Action, Fault, FaultCode, RunReport, Target, TickKind, TickOrder, Verb, authorize};
use ports::bus::{BusError, TickReceipt, Ticks};
use ports::clock::Clock;
use runtime::policy::HOUR_SECONDS;
use runtime::telemetry::Chain;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

use crate::deletions::operator;
use crate::error::{Failure, json, pass_on, public_words};
use crate::openapi::faults::{OfForcedRun, OfReport, OfRun, ReadFaults};
use crate::query::{Asked, NoQuery};
use crate::relay::{Relay, millis};
use crate::request_id::Facts;

/// Operators' requests that may wait for a report at once; each holds a subscription.
pub const ADMIN_WAITERS_MAX: usize = 64;
/// Time-out of reading the last tick; after it, the answer is that there is no report yet.
const LAST_TICK_TIMEOUT: Duration = Duration::from_secs(1);
/// Reserved part of the time for a report, for what happens after it.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

/// Starts runs.
#[derive(Clone)]
pub(crate) struct TickService {
    pub(crate) ticks: Arc<dyn Ticks>,
    /// Longest time of a request.
    pub(crate) wait: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long stale sandboxes are kept.
    pub(crate) stale_kept: Duration,
    pub(crate) waiters: Arc<Semaphore>,
}

/// How long a sandbox has to be stale.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grace {
    grace_period_hours: Option<u64>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Accepted {
    status: &'static str,
    report_id: String,
}

#[derive(Serialize)]
struct NoFields {}

/// The query of a sync.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct How {
    force: Option<bool>,
}

/// Counts the sandboxes of all pools, and of each.
#[utoipa::path(
    get, path = "/v1/admin/stats", tag = "operators", extensions(("x-action" = json!(Action::Ask(Verb::Stats).as_str()))),
    responses(
        (status = 200, description = "counts of all pools, and of each", body = contract::StatsReply,
         example = json!({"total": 20, "available": 18, "allocated": 2, "pending_deletion": 0, "stale": 0, "deletion_failed": 0,
                          "quarantined": 0, "pools": {}, "labs": null, "counted": null, "deletions": null})), ReadFaults)
)]
pub(crate) async fn stats(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
) -> Result<Response, Failure> {
    let reply = relay.send(Verb::Stats, &facts, None, &NoFields {}).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Starts a sync, which compares the provider's listing with the table.
///
/// With `force=true` it follows any listing, and is refused while another sync waits.
#[utoipa::path(
    post, path = "/v1/admin/sync", tag = "operators", extensions(("x-action" = json!(Action::Run.as_str()))),
    params(
        ("force" = Option<bool>, Query, description = "follow an empty listing, and mark any number of sandboxes stale"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    responses(
        (status = 200, description = "the run's report", body = RunReport,
         example = json!({"kind": "sync", "tick": 17, "duration_ms": 100, "status": "completed"})),
        (status = 202, description = "it takes longer; ask for the report at `Location`", body = Accepted,
         example = json!({"status": "accepted", "report_id": "sync/17"})), OfForcedRun)
)]
pub(crate) async fn sync(
    State(service): State<TickService>,
    Extension(facts): Extension<Facts>,
    Asked(How { force }): Asked<How>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if force != Some(true) {
        return service.run(TickKind::SYNC, &headers, &facts).await;
    }
    let by = operator(&headers, &facts)?;
    tracing::warn!(request.id = facts.request_id.as_str(), %by, "{by} forces a sync");
    service.order(TickKind::SYNC, TickOrder::forced(by.as_str()), &facts).await
}

/// Starts an expiry run, which ends leases that are over.
#[utoipa::path(
    post, path = "/v1/admin/expire", tag = "operators", extensions(("x-action" = json!(Action::Run.as_str()))),
    params(("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "the run's report", body = RunReport,
         example = json!({"kind": "expiry", "tick": 17, "duration_ms": 100, "status": "completed"})),
        (status = 202, description = "it takes longer; ask for the report at `Location`", body = Accepted,
         example = json!({"status": "accepted", "report_id": "expiry/17"})), OfRun)
)]
pub(crate) async fn expire(
    State(service): State<TickService>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    service.run(TickKind::EXPIRY, &headers, &facts).await
}

/// Starts a sweep, which announces deletions whose messages were lost.
///
/// Reapers delete all the time and not in this run: `deleted` and `failed` count the deletions that ended during it.
#[utoipa::path(
    post, path = "/v1/admin/cleanup", tag = "operators", extensions(("x-action" = json!(Action::Run.as_str()))),
    params(("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "the run's report", body = RunReport,
         example = json!({"kind": "sweep", "tick": 17, "duration_ms": 100, "status": "completed", "pending": 3, "deleted": 1,
                          "failed": 0})),
        (status = 202, description = "it takes longer; ask for the report at `Location`", body = Accepted,
         example = json!({"status": "accepted", "report_id": "sweep/17"})), OfRun)
)]
pub(crate) async fn cleanup(
    State(service): State<TickService>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    service.run(TickKind::SWEEP, &headers, &facts).await
}

/// Starts a census, which counts the pools, and compares leases with claim items.
#[utoipa::path(
    post, path = "/v1/admin/census", tag = "operators", extensions(("x-action" = json!(Action::Run.as_str()))),
    params(("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    responses(
        (status = 200, description = "the run's report", body = RunReport,
         example = json!({"kind": "census", "tick": 17, "duration_ms": 100, "status": "completed"})),
        (status = 202, description = "it takes longer; ask for the report at `Location`", body = Accepted,
         example = json!({"status": "accepted", "report_id": "census/17"})), OfRun)
)]
pub(crate) async fn census(
    State(service): State<TickService>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    service.run(TickKind::CENSUS, &headers, &facts).await
}

/// Removes the records of sandboxes that the provider has not listed for long.
///
/// Another grace period than the set one is for this run only, and such a run is refused while an ordinary one waits. A
/// shorter one needs a token that may remove records (`admin`).
#[utoipa::path(
    post, path = "/v1/admin/auto-delete-stale", tag = "operators", extensions(("x-action" = json!(Action::Run.as_str()))),
    params(
        ("grace_period_hours" = Option<u64>, Query, description = "for how many hours a sandbox must be stale; `STALE_KEPT_HOURS` without it"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    responses(
        (status = 200, description = "the run's report", body = RunReport,
         example = json!({"kind": "stale", "tick": 17, "duration_ms": 100, "status": "completed", "grace_period_hours": 24,
                          "due": 2, "removed": 2, "deleted": 2, "raced": 0, "untold": 0, "unreadable": 0})),
        (status = 202, description = "it takes longer; ask for the report at `Location`", body = Accepted,
         example = json!({"status": "accepted", "report_id": "stale/17"})), OfForcedRun)
)]
pub(crate) async fn auto_delete_stale(
    State(service): State<TickService>,
    Extension(facts): Extension<Facts>,
    Asked(Grace { grace_period_hours }): Asked<Grace>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let set_hours = service.stale_kept.as_secs() / HOUR_SECONDS;
    let Some(hours) = grace_period_hours.filter(|hours| *hours != set_hours) else {
        return service.run(TickKind::STALE, &headers, &facts).await;
    };
    if hours < set_hours {
        may_remove_records(&facts)?;
    }
    let by = operator(&headers, &facts)?;
    tracing::warn!(request.id = facts.request_id.as_str(), %by, "{by} removes what was stale for {hours} h");
    service.order(TickKind::STALE, TickOrder::with_grace(hours, by.as_str()), &facts).await
}

/// Whether the caller may remove records that are not due: the right to remove them in bulk.
fn may_remove_records(facts: &Facts) -> Result<(), Fault> {
    let caller = facts.caller().ok_or_else(|| Fault::new(FaultCode::Forbidden, "this needs a token"))?;
    authorize(caller, Action::Ask(Verb::BulkDelete), Target { pool: None, owner: None })
}

/// Shows the report of a run.
#[utoipa::path(
    get, path = "/v1/admin/reports/{kind}/{tick}", tag = "operators", extensions(("x-action" = json!(Action::Report.as_str()))),
    params(("kind" = String, Path, description = "`sync`, `expiry`, `sweep`, `census` or `stale`"), ("tick" = u64, Path, description = "the sequence of the tick that the run must cover; 0 for any")),
    responses(
        (status = 200, description = "the report of a run for that tick or a later one", body = RunReport,
         example = json!({"kind": "sync", "tick": 17, "duration_ms": 100, "status": "completed"})),
        (status = 202, description = "there is no report yet", body = Accepted,
         example = json!({"status": "accepted", "report_id": "sync/17"})), OfReport)
)]
pub(crate) async fn report(
    State(service): State<TickService>,
    Extension(facts): Extension<Facts>,
    path: Result<Path<(String, String)>, PathRejection>,
    _: NoQuery,
) -> Result<Response, Failure> {
    let Path((kind, tick)) = path.map_err(|_| Fault::invalid("the report id", "in the path is not text"))?;
    let kind = TickKind::parse(&kind).ok_or_else(|| {
        let kinds = TickKind::names();
        Fault::new(FaultCode::NotFound, format!("there are reports of {kinds}, and of nothing else"))
    })?;
    let tick =
        tick.parse::<u64>().map_err(|_| Fault::invalid("the tick in the path", "must be a whole number"))?;
    let last = in_time(service.ticks.last_report(kind), service.wait, &*service.clock).await;
    let last = last.map_err(|error| unavailable(&error, &facts))?;
    // A later run covers the earlier tick as well.
    match last.filter(|report| report.tick >= tick) {
        Some(report) => show(&report),
        None if service.was_never_issued(tick).await => {
            Err(Fault::new(FaultCode::NotFound, format!("there was no tick {tick} yet")).into())
        }
        None => accepted(kind, tick),
    }
}

// === impl TickService ===

impl TickService {
    /// As [`Self::run`], with an order, which is refused while a tick without it waits, and not carried out after the
    /// caller has gone.
    async fn order(&self, kind: TickKind, order: TickOrder, facts: &Facts) -> Result<Response, Failure> {
        let order = order.until(self.clock.now_ms().saturating_add(millis(self.wait)));
        let (receipt, report) =
            self.wait(self.ticks.order_and_wait(kind, &order, self.timeout()), facts).await?;
        if report.is_none() && receipt.duplicate {
            let message = "an ordinary run waits to begin; repeat the request after that";
            return Err(Fault::new(FaultCode::Contended, message).into());
        }
        answer(kind, receipt, report.as_ref())
    }

    async fn run(&self, kind: TickKind, headers: &HeaderMap, facts: &Facts) -> Result<Response, Failure> {
        let by = operator(headers, facts)?;
        tracing::info!(
            request.id = facts.request_id.as_str(),
            tick.kind = kind.as_str(),
            %by,
            "{by} asks for a {} run",
            kind.as_str()
        );
        let (receipt, report) = self.wait(self.ticks.tick_and_wait(kind, self.timeout()), facts).await?;
        answer(kind, receipt, report.as_ref())
    }

    /// Whether no such tick was issued. If that is unknown, the caller waits for the report.
    async fn was_never_issued(&self, tick: u64) -> bool {
        let last = in_time(self.ticks.last_tick(), LAST_TICK_TIMEOUT, &*self.clock).await;
        matches!(last, Ok(Some(last)) if last < tick)
    }

    /// Time-out of the bus. It knows whether the tick was accepted, which would be lost if the request were cut off.
    fn timeout(&self) -> Duration {
        self.wait.saturating_sub(ANSWER_MARGIN)
    }

    /// Waits for a report unless too many requests do so already.
    async fn wait(
        &self,
        ticked: impl Future<Output = Result<(TickReceipt, Option<RunReport>), BusError>>,
        facts: &Facts,
    ) -> Result<(TickReceipt, Option<RunReport>), Fault> {
        let Ok(_permit) = self.waiters.try_acquire() else {
            return Err(Fault::new(FaultCode::NoWorkers, "too many requests wait for reports"));
        };
        in_time(ticked, self.wait, &*self.clock).await.map_err(|error| unavailable(&error, facts))
    }
}

/// The result of the bus, unless it takes longer than an operator's request may.
pub(crate) async fn in_time<T>(
    asked: impl Future<Output = Result<T, BusError>>,
    wait: Duration,
    clock: &dyn Clock,
) -> Result<T, BusError> {
    tokio::select! {
        biased;
        said = asked => said,
        () = clock.sleep(wait) => {
            Err(BusError { operation: "wait for the queue", source: "no answer in time".into() })
        }
    }
}

/// The report, or its URL.
fn answer(kind: TickKind, receipt: TickReceipt, report: Option<&RunReport>) -> Result<Response, Failure> {
    match report {
        Some(report) => show(report),
        None => accepted(kind, receipt.sequence),
    }
}

fn show(report: &RunReport) -> Result<Response, Failure> {
    let (status, reason) = (report.report.status(), report.report.reason());
    if status == RunStatus::Failed {
        let (kind, tick) = (report.kind().as_str(), report.tick);
        let reason = reason.map(|reason| format!(": {}", public_words(reason))).unwrap_or_default();
        let message = format!("the {kind} run for tick {tick} failed{reason}");
        return Err(Fault::new(FaultCode::UpstreamUnavailable, message).into());
    }
    written(StatusCode::OK, report)
}

fn accepted(kind: TickKind, tick: u64) -> Result<Response, Failure> {
    let report_id = format!("{}/{tick}", kind.as_str());
    let location = format!("/v1/admin/reports/{report_id}");
    let mut response = written(StatusCode::ACCEPTED, &Accepted { status: "accepted", report_id })?;
    // The path consists of letters and digits, which are valid in every header.
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response.into_response())
}

pub(crate) fn written<T: Serialize>(status: StatusCode, body: &T) -> Result<Response, Failure> {
    let body = serde_json::to_vec(body)
        .map_err(|_| Fault::new(FaultCode::InternalError, "the answer could not be written"))?;
    Ok(json(status, body.into()))
}

pub(crate) fn unavailable(error: &BusError, facts: &Facts) -> Fault {
    tracing::warn!(
        request.id = facts.request_id.as_str(),
        error = %Chain(error),
        "an operator's request did not get through"
    );
    Fault::new(FaultCode::UpstreamUnavailable, "the message queue is unavailable; try again shortly")
}
