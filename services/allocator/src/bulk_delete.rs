//! Removes records in bulk, one page per request, where nothing can be left at the provider
//! (`docs/decisions/0030-only-stale-records-are-removed-in-bulk.md`).
//!
//! Only stale records are removed: two listings of the provider agreed that the sandbox does not exist, and it never
//! had a holder. Each removal is the conditional write of the stale run, so a sandbox that a sync finds again at that
//! moment stays. A parked deletion always stays: its sandbox was used, and only the provider's answer to a replay can
//! show that it is gone.

use crate::listing::Which;
use crate::{Allocator, decode, page_limit, parse_operator};
use contract::{
    BulkDeleteOutcome, BulkDeleteReply, BulkDeleteRequest, Fault, FaultCode, SandboxStatus, Scope,
};
use domain::{Actor, Sandbox, StateName};
use futures_util::{StreamExt as _, stream};
use ports::bus::{BusError, Request};
use ports::store::StoreError;
use runtime::telemetry::Chain;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinError;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

mod remover;

use remover::Remover;

/// Concurrent removals of one request.
const REMOVALS_AT_ONCE_MAX: usize = 8;
/// Why a record with a parked deletion stays.
const USED: &str = "these sandboxes were used and may still be at the provider; replay their deletions, and those that \
                    are gone there become tombstones";

/// Why a record was not removed.
#[derive(Debug, thiserror::Error)]
enum RemovalError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the event log failed")]
    EventLog(#[from] BusError),
    #[error("the time of the request is up")]
    TimeIsUp(#[from] Elapsed),
    #[error("the removal broke off")]
    Broken(#[from] JoinError),
}

/// How long one request continues: until its deadline, or until table or event log fail once, because each further
/// record would wait for them as long.
struct TimeBudget {
    until: Instant,
    is_over: AtomicBool,
}

/// The result for one record.
struct Removal {
    sandbox: Sandbox,
    outcome: BulkDeleteOutcome,
    is_unpublished: bool,
}

// === impl TimeBudget ===

impl TimeBudget {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || Instant::now() >= self.until
    }

    fn give_up(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn bulk_delete(
        &self,
        scope: &Scope,
        request: &Request,
    ) -> Result<BulkDeleteReply, Fault> {
        let BulkDeleteRequest { status, pool, dry_run, cursor, limit, by } = decode(&request.body)?;
        let status = removable(status.as_ref())?;
        let by = parse_operator(request, by.as_deref())?;
        let (pools, is_narrowed) = self.pools_of(request, pool.as_deref(), scope).await?;
        let which = Which {
            purpose: if dry_run { "bulk-delete, dry" } else { "bulk-delete" },
            states: vec![status],
            pools,
            is_narrowed,
            lab: None,
            owner: None,
            prefix: None,
            cursor,
            limit: page_limit(limit)?,
        };
        let (page, cursor) = self.page_of_sandboxes(&which, request).await?;
        let mut reply = BulkDeleteReply {
            status: status.into(),
            dry_run,
            more: cursor.is_some(),
            cursor,
            ..BulkDeleteReply::default()
        };
        let (by, is_stale) = (&by, status == StateName::Stale);
        let budget =
            &TimeBudget { until: self.deadline_of(request).at().into(), is_over: AtomicBool::new(false) };
        let removals = page.into_iter().map(|sandbox| async move {
            let (outcome, is_unpublished) = match (is_stale, dry_run) {
                (false, _) => (BulkDeleteOutcome::Refused, false),
                (true, true) => (BulkDeleteOutcome::Removed, false),
                (true, false) => self.remove_record(&sandbox, by, budget, request).await,
            };
            Removal { sandbox, outcome, is_unpublished }
        });
        let removals: Vec<_> = removals.collect();
        let mut removals = stream::iter(removals).buffered(REMOVALS_AT_ONCE_MAX);
        while let Some(Removal { sandbox, outcome, is_unpublished }) = removals.next().await {
            reply.add(&sandbox, outcome);
            reply.untold += u64::from(is_unpublished);
            if !dry_run {
                self.metrics.bulk_deleted(outcome);
            }
        }
        reply.reason = (reply.refused > 0).then(|| USED.to_owned());
        if !dry_run {
            log(&reply, by, request);
        }
        Ok(reply)
    }

    async fn remove_record(
        &self,
        sandbox: &Sandbox,
        by: &Actor,
        budget: &TimeBudget,
        request: &Request,
    ) -> (BulkDeleteOutcome, bool) {
        if budget.is_over() {
            return (BulkDeleteOutcome::Failed, false);
        }
        match self.try_remove_record(sandbox, by, budget, request).await {
            Ok(removed) => removed,
            Err(error) => {
                budget.give_up();
                tracing::warn!(
                    request.id = request.context.request_id,
                    sandbox.id = sandbox.id.as_str(),
                    error = %Chain(&error),
                    "the record of {} was not seen to be removed",
                    sandbox.id,
                );
                (BulkDeleteOutcome::Failed, false)
            }
        }
    }

    /// The result for one record, and whether its event still has to be published.
    async fn try_remove_record(
        &self,
        seen: &Sandbox,
        by: &Actor,
        budget: &TimeBudget,
        request: &Request,
    ) -> Result<(BulkDeleteOutcome, bool), RemovalError> {
        // A tombstone is in no index, so no sweep would fill a gap before it. An event log that does not accept these
        // events would not accept that of the removal either.
        timeout_at(budget.until, self.ports.recorder.complete(seen)).await??;
        if budget.is_over() {
            return Ok((BulkDeleteOutcome::Failed, false));
        }
        let request_id = request.context.request_id.clone();
        let writing = Remover::of(self).begin(seen.clone(), by.clone(), request_id);
        let Some(publishing) = timeout_at(budget.until, writing).await??? else {
            return Ok((BulkDeleteOutcome::Raced, false));
        };
        let is_published = matches!(timeout_at(budget.until, publishing).await, Ok(Ok(true)));
        Ok((BulkDeleteOutcome::Removed, !is_published))
    }
}

/// The state in a request, if its records may be removed at all.
fn removable(status: Option<&SandboxStatus>) -> Result<StateName, Fault> {
    let Some(status) = status else {
        return Err(Fault::invalid("status", "has to be said: stale or deletion_failed"));
    };
    match status.known() {
        Some(status @ (StateName::Stale | StateName::DeletionFailed)) => Ok(status),
        Some(status) => {
            let message = format!("records of sandboxes that are {status} are never removed in bulk");
            Err(Fault::new(FaultCode::InvalidState, message))
        }
        None => Err(Fault::invalid("status", "must be stale or deletion_failed")),
    }
}

fn log(reply: &BulkDeleteReply, by: &Actor, request: &Request) {
    tracing::warn!(
        request.id = request.context.request_id,
        %by,
        status = reply.status.as_str(),
        removed = reply.removed,
        refused = reply.refused,
        raced = reply.raced,
        failed = reply.failed,
        untold = reply.untold,
        "{} records of {} sandboxes removed by order of {by}",
        reply.removed,
        reply.status,
    );
}

#[cfg(test)]
mod tests;
