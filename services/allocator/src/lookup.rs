//! Read-only requests: one's own sandbox, the counts of the pools, and the health of this worker.

use crate::{Allocator, decode, store_fault};
use contract::{
    Action, Census, Counted, CountedBy, DeletionsStatus, Fault, FaultCode, HealthReply, LabDuration,
    PoolStats, SandboxRequest, SandboxView, StatsReply, Target, authorize,
};
use domain::{OwnerId, PoolName, Sandbox, SandboxId, StateName};
use ports::bus::Request;
use ports::store::{SortRange, StateQuery, StoreError};
use runtime::requests::parse_sandbox;
use runtime::telemetry::Chain;
use std::time::Duration;

/// Time-out of the deletion status and of the census.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// The fault for a length of lease that is not allowed.
pub(crate) fn bad_duration(wanted: Option<LabDuration>, longest: Duration) -> Fault {
    let minutes_max = longest.as_secs() / 60;
    match wanted.and_then(|wanted| wanted.minutes) {
        Some(_) => Fault::invalid("lab_duration_minutes", format!("must be from 1 to {minutes_max}")),
        None => Fault::invalid("lab_duration_hours", format!("must be from 1 to {}", minutes_max / 60)),
    }
}

/// The fault for a caller that names another lease than the live one.
pub(crate) fn other_lease() -> Fault {
    Fault::new(FaultCode::InvalidState, "the lease of that epoch is not the one that is live")
}

/// The fault for a caller that does not hold the sandbox.
pub(crate) fn not_owner() -> Fault {
    Fault::new(FaultCode::NotSandboxOwner, "this sandbox is not allocated to you")
}

/// The fault for a sandbox that should have a lease and has none.
pub(crate) fn no_lease() -> Fault {
    Fault::new(FaultCode::InternalError, "the sandbox has no lease")
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn get(&self, request: &Request) -> Result<SandboxView, Fault> {
        let SandboxRequest { sandbox_id, owner, by: _ } = decode(&request.body)?;
        let (id, owner) = parse_target(request, &sandbox_id, &owner)?;
        Ok(SandboxView::of(&self.own_sandbox(request, id.as_str(), &owner).await?))
    }

    /// The sandbox of that id if `owner` is its live or last holder.
    pub(crate) async fn own_sandbox(
        &self,
        request: &Request,
        id: &str,
        owner: &OwnerId,
    ) -> Result<Sandbox, Fault> {
        let sandbox = self.sandbox_of(request, id).await?;
        if sandbox.belongs_to(owner) { Ok(sandbox) } else { Err(not_owner()) }
    }

    /// The counts of the last census if it is recent enough; otherwise counts every index shard, which reads the whole
    /// index.
    pub(crate) async fn stats(&self, request: &Request) -> Result<StatsReply, Fault> {
        let (census, deletions) = tokio::join!(self.young_census(), self.deletions_status());
        let mut reply = match census {
            Some(reply) => reply,
            None => self.count_index().await.map_err(|error| store_fault(request, &error))?,
        };
        reply.deletions = deletions;
        let pools = self.ports.pools.current();
        let is_configured = |name: &str| pools.names().any(|pool| pool.as_str() == name);
        reply.not_configured = reply.pools.keys().filter(|name| !is_configured(name)).cloned().collect();
        Ok(reply)
    }

    async fn young_census(&self) -> Option<StatsReply> {
        let age_max = self.config.census_age_max;
        if age_max.is_zero() {
            return None;
        }
        let census = self.last_census().await?;
        let age_seconds = self.ports.clock.now().get().saturating_sub(census.taken_at);
        let knows_pools =
            self.ports.pools.current().names().all(|pool| census.pools.contains_key(pool.as_str()));
        // A census without one of our pools was taken by a reconciler with other settings.
        if age_seconds > age_max.as_secs() || !knows_pools {
            return None;
        }
        let Census { taken_at, all, pools, labs, labs_left_out: _, violations: _, oldest_deletions: _ } =
            census;
        let counted = Counted { by: CountedBy::Census.into(), at: taken_at, age_seconds };
        let labs = Some(labs);
        Some(StatsReply { all, pools, labs, counted: Some(counted), ..StatsReply::default() })
    }

    /// The last census, whatever its age; none if it cannot be read in time.
    pub(crate) async fn last_census(&self) -> Option<Census> {
        let census = tokio::select! {
            census = self.ports.census.last_census() => census,
            () = self.ports.clock.sleep(STATUS_TIMEOUT) => return None,
        };
        census.inspect_err(|error| tracing::warn!(error = %Chain(error), "the census cannot be read")).ok()?
    }

    async fn count_index(&self) -> Result<StatsReply, StoreError> {
        let at = self.ports.clock.now().get();
        let counted = Counted { by: CountedBy::Index.into(), at, age_seconds: 0 };
        let mut reply = StatsReply { counted: Some(counted), ..StatsReply::default() };
        for pool in &self.every_pool().await? {
            let stats = self.pool_stats(pool).await?;
            if stats.total == 0 && !self.ports.pools.current().contains(pool) {
                continue;
            }
            reply.all.add(&stats);
            reply.pools.insert(pool.to_string(), stats);
        }
        Ok(reply)
    }

    /// The state of deletions; none if the queue does not answer in time, because the counts alone are useful.
    pub(crate) async fn deletions_status(&self) -> Option<DeletionsStatus> {
        let status = tokio::select! {
            status = self.ports.deletion_control.status() => status,
            () = self.ports.clock.sleep(STATUS_TIMEOUT) => return None,
        };
        status
            .inspect_err(|error| tracing::warn!(error = %Chain(error), "the state of deletions is unknown"))
            .ok()
    }

    pub(crate) async fn health(&self, request: &Request) -> Result<HealthReply, Fault> {
        let store = match self.ports.store.ping().await {
            Ok(()) => "ok",
            Err(StoreError::Disk { .. }) => "the table takes no writes: its disk is full or fails",
            Err(error) => return Err(store_fault(request, &error)),
        };
        Ok(HealthReply { store: store.to_owned() })
    }

    pub(crate) async fn pool_stats(&self, pool: &PoolName) -> Result<PoolStats, StoreError> {
        let mut stats = PoolStats::default();
        let shards = self.ports.store.shards().await?;
        for &state in StateName::indexed(self.ports.pools.current().kind_of(pool)) {
            let Some(count) = stats.of_mut(state) else { continue };
            for shard in 0..shards {
                let query = StateQuery { pool: pool.clone(), state, shard, range: SortRange::All };
                *count += self.ports.store.count(&query).await?;
            }
            let counted = *count;
            stats.total += counted;
        }
        Ok(stats)
    }
}

/// The owner of a request: the one in the body, or the principal. Validated and authorized.
pub(crate) fn parse_owner(request: &Request, owner: &str) -> Result<OwnerId, Fault> {
    let principal = &request.context.principal;
    let owner = match owner.trim() {
        "" if principal.is_named() => principal.name.as_str(),
        "" => return Err(Fault::new(FaultCode::MissingSandboxId, "no owner was named")),
        owner => owner,
    };
    let owner = OwnerId::parse(owner).map_err(|problem| Fault::invalid("owner", problem))?;
    authorize(principal, Action::Ask(request.verb), Target { pool: None, owner: Some(&owner) })?;
    Ok(owner)
}

/// Validates the sandbox and the owner of a request.
pub(crate) fn parse_target(
    request: &Request,
    sandbox_id: &str,
    owner: &str,
) -> Result<(SandboxId, OwnerId), Fault> {
    let owner = parse_owner(request, owner)?;
    // Not "no such sandbox": a caller that releases may take that as success, and a misspelled field would look like
    // it.
    Ok((parse_sandbox(sandbox_id)?, owner))
}
