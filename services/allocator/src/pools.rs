//! Operators' requests about pools. The items of the table are the truth; every process follows them within seconds.

use crate::{Allocator, decode, parse_operator, store_fault};
use contract::pools::{
    LeaseSettings, PoolOrder, PoolRequest, PoolSettings, PoolStatus, PoolView, PoolsReply, PutPoolRequest,
};
use contract::{Census, Fault, FaultCode, PoolStats};
use domain::{
    Actor, InvalidPool, LeaseOverrides, POOLS_MAX, PoolName, PoolSpec, PoolState, Pools, StateName,
    TemplateHead, TemplateId, TemplateVersion,
};
use ports::bus::Request;
use ports::store::{SortRange, StateQuery};
use strum::IntoEnumIterator as _;

/// Attempts of one change; each further one means that another operator changed the pool in between.
const TRIES_MAX: usize = 4;

/// What a change makes of a pool.
enum Change {
    /// Nothing: it is so already.
    None,
    Write(Box<PoolSpec>),
    Remove,
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn pools(&self, request: &Request) -> Result<PoolsReply, Fault> {
        self.follow_pools(request).await?;
        let every = self.every_pool().await.map_err(|error| store_fault(request, &error))?;
        let (pools, census) = (self.ports.pools.current(), self.last_census().await);
        Ok(PoolsReply {
            pools: every.iter().map(|pool| view(&pools, pool, census.as_ref())).collect(),
            counted_at: census.map(|census| census.taken_at),
        })
    }

    pub(crate) async fn pool(&self, request: &Request) -> Result<PoolView, Fault> {
        let PoolRequest { pool } = decode(&request.body)?;
        let pool = parse_pool(&pool)?;
        self.follow_pools(request).await?;
        self.view_of(request, &pool).await
    }

    pub(crate) async fn put_pool(&self, request: &Request) -> Result<PoolView, Fault> {
        let PutPoolRequest { pool, settings, version, by } = decode(&request.body)?;
        let (pool, by) = (parse_pool(&pool)?, parse_operator(request, by.as_deref())?);
        let refused = |mistake: InvalidPool| Fault::invalid(mistake.field, &mistake.problem);
        let wanted = settings.spec(&pool).map_err(refused)?;
        wanted.check_provider(&self.ports.provider_names).map_err(refused)?;
        self.check_template(request, &wanted).await?;
        self.follow_pools(request).await?;
        let others = self.ports.pools.current();
        others.check_beside(&wanted).map_err(refused)?;
        if !others.contains(&pool) {
            if others.specs().len() >= POOLS_MAX {
                let problem = format!("would be one more than {POOLS_MAX}; remove another one first");
                return Err(Fault::invalid("pool", problem));
            }
            self.refuse_foreign_sandboxes(request, &wanted).await?;
        }
        self.change_pool(request, &pool, version, &by, |seen| match seen {
            Some(seen) if seen.provider != wanted.provider || seen.kind != wanted.kind => {
                Err(Fault::invalid("provider", "and kind of a pool cannot be changed; make another pool"))
            }
            Some(seen) if seen.says(&wanted) => Ok(Change::None),
            Some(seen) => {
                Ok(Change::Write(Box::new(PoolSpec { version: seen.version + 1, ..wanted.clone() })))
            }
            None => Ok(Change::Write(Box::new(wanted.clone()))),
        })
        .await
    }

    pub(crate) async fn drain_pool(&self, request: &Request) -> Result<PoolView, Fault> {
        let PoolOrder { pool, version, by } = decode(&request.body)?;
        let (pool, by) = (parse_pool(&pool)?, parse_operator(request, by.as_deref())?);
        self.change_pool(request, &pool, version, &by, |seen| match seen {
            Some(seen) if !seen.is_active() => Ok(Change::None),
            Some(seen) => Ok(Change::Write(Box::new(PoolSpec {
                state: PoolState::Draining,
                version: seen.version + 1,
                ..seen.clone()
            }))),
            None => Err(no_such_pool()),
        })
        .await
    }

    /// Removes a pool that is drained. Its free sandboxes stay in the table and are handed out again if the pool is made
    /// again.
    pub(crate) async fn remove_pool(&self, request: &Request) -> Result<PoolView, Fault> {
        let PoolOrder { pool, version, by } = decode(&request.body)?;
        let (pool, by) = (parse_pool(&pool)?, parse_operator(request, by.as_deref())?);
        let stats = self.pool_stats(&pool).await.map_err(|error| store_fault(request, &error))?;
        let PoolStats { allocated, pending_deletion, deletion_failed, quarantined, .. } = stats;
        let creations = stats.provisioning + stats.provision_failed;
        // Free ones that were created are given up while it drains, and need its spec until they are deleted.
        let is_created = self.ports.pools.current().is_created(&pool);
        let free = if is_created { stats.available } else { 0 };
        let left = allocated + pending_deletion + deletion_failed + quarantined + creations + free;
        self.change_pool(request, &pool, version, &by, |seen| match seen {
            None => Ok(Change::None),
            Some(seen) if seen.is_active() => {
                Err(Fault::new(FaultCode::InvalidState, "drain the pool before you remove it"))
            }
            Some(_) if left > 0 => {
                let message = format!(
                    "{left} sandboxes of the pool are leased, created, being deleted, or quarantined"
                );
                Err(Fault::new(FaultCode::InvalidState, message))
            }
            Some(_) => Ok(Change::Remove),
        })
        .await
    }

    /// Refuses a pool whose template cannot be used, or is not allowed in it.
    async fn check_template(&self, request: &Request, wanted: &PoolSpec) -> Result<(), Fault> {
        let Some(Ok(id)) = wanted.template.as_deref().map(TemplateId::parse) else { return Ok(()) };
        let head = self.ports.store.template_head(&id).await;
        let head = head.map_err(|error| store_fault(request, &error))?.filter(TemplateHead::is_live);
        let missing = || Fault::invalid("template", format!("names no template; write {id} first"));
        let head = head.ok_or_else(missing)?;
        if !wanted.restricts_templates() {
            return Ok(());
        }
        let version = TemplateVersion::of(&id, head.version);
        let template = self.template_at(request, &version).await?.ok_or_else(missing)?;
        wanted.restrict(&template.spec).map(|_| ()).map_err(|mistake| {
            let problem = format!(
                "{version} is not allowed in this pool: its {mistake}; write another version of it, or change images, \
                 runtime or untrusted of the pool"
            );
            Fault::invalid("template", problem)
        })
    }

    /// A pool that was removed may have left sandboxes, which belong to the provider that it had.
    async fn refuse_foreign_sandboxes(&self, request: &Request, wanted: &PoolSpec) -> Result<(), Fault> {
        let failed = |error| store_fault(request, &error);
        let shards = self.ports.store.shards().await.map_err(failed)?;
        for state in StateName::iter().filter(|state| *state != StateName::Deleted) {
            for shard in 0..shards {
                let query = StateQuery { pool: wanted.name.clone(), state, shard, range: SortRange::All };
                let page = self.ports.store.page(&query, None, 1).await.map_err(failed)?;
                if let Some(left) =
                    page.sandboxes.iter().find(|left| !left.external_id.is_of(&wanted.provider))
                {
                    let of = left.external_id.provider();
                    let problem = format!("must be {of}: the pool of that name still has sandboxes of it");
                    return Err(Fault::invalid("provider", problem));
                }
            }
        }
        Ok(())
    }

    /// Changes a pool by a conditional write; repeats it if another writer was faster.
    async fn change_pool(
        &self,
        request: &Request,
        pool: &PoolName,
        expected: Option<u64>,
        by: &Actor,
        change: impl Fn(Option<&PoolSpec>) -> Result<Change, Fault> + Send + Sync,
    ) -> Result<PoolView, Fault> {
        let store = &self.ports.store;
        let failed = |error| store_fault(request, &error);
        for _ in 0..TRIES_MAX {
            let seen = store.pool_spec(pool).await.map_err(failed)?;
            let version = seen.as_ref().map(|seen| seen.version);
            let change = change(seen.as_ref())?;
            if !matches!(change, Change::None)
                && expected.is_some_and(|expected| expected != version.unwrap_or(0))
            {
                let message = format!("the pool has version {}; look at it again", version.unwrap_or(0));
                return Err(Fault::new(FaultCode::InvalidState, message));
            }
            let is_done = match &change {
                Change::None => true,
                Change::Write(next) => store.write_pool(version, next).await.map_err(failed)?,
                Change::Remove => store.remove_pool(pool, version.unwrap_or(0)).await.map_err(failed)?,
            };
            if !is_done {
                continue;
            }
            if !matches!(change, Change::None) {
                tracing::warn!(
                    request.id = request.context.request_id,
                    pool.name = pool.as_str(),
                    by = by.as_str(),
                    "{by} changed pool {pool}"
                );
            }
            self.follow_pools(request).await?;
            return self.view_of(request, pool).await;
        }
        Err(Fault::new(FaultCode::Contended, "others are changing the pool; repeat the same request"))
    }

    async fn view_of(&self, request: &Request, pool: &PoolName) -> Result<PoolView, Fault> {
        let every = self.every_pool().await.map_err(|error| store_fault(request, &error))?;
        if !every.contains(pool) {
            return Err(no_such_pool());
        }
        Ok(view(&self.ports.pools.current(), pool, self.last_census().await.as_ref()))
    }

    pub(crate) async fn follow_pools(&self, request: &Request) -> Result<(), Fault> {
        let followed = self.ports.pools.refresh(self.ports.store.as_ref()).await;
        followed.map_err(|error| store_fault(request, &error))
    }
}

fn parse_pool(pool: &str) -> Result<PoolName, Fault> {
    PoolName::parse(pool).map_err(|problem| Fault::invalid("pool", problem))
}

fn no_such_pool() -> Fault {
    Fault::new(FaultCode::NotFound, "there is no such pool")
}

fn view(pools: &Pools, pool: &PoolName, census: Option<&Census>) -> PoolView {
    let (spec, leases) = (pools.get(pool), pools.leases_of(pool));
    let lease = LeaseOverrides {
        duration: Some(leases.duration),
        duration_max: Some(leases.duration_max),
        total_max: Some(leases.total_max),
        grace: Some(leases.grace),
        idle: spec.and_then(|spec| spec.leases.idle),
    };
    PoolView {
        pool: pool.to_string(),
        state: PoolStatus::from(spec.map(|spec| spec.state)).into(),
        version: spec.map_or(0, |spec| spec.version),
        settings: spec.map(PoolSettings::of).unwrap_or_default(),
        lease: LeaseSettings::of(&lease),
        is_default: pools.default_pool() == Some(pool),
        counts: census.and_then(|census| census.pools.get(pool.as_str())).copied(),
    }
}

#[cfg(test)]
mod tests;
