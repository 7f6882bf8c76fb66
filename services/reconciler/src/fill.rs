//! Fill: keeps the wanted number of free sandboxes in pools whose sandboxes are created, and gives up what is too many, of
//! an older version of its template, or was never created.
//!
//! Only sandboxes that no owner ever held are given up, each by a write that depends on it. A new version of a template
//! replaces the old ones as its sandboxes become free.

use crate::Reconciler;
use crate::listing::Skipped;
use contract::{DeletionWork, FillReport, ProvisionWork, RunStatus};
use domain::{
    Cause, Descriptor, NewSandbox, PoolSpec, Sandbox, SandboxId, StateName, TemplateVersion, UnixSeconds,
    WarmSizes,
};
use ports::store::{Insert, StoreError, Write};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::time::Duration;

mod demand;
mod plan;

pub(crate) use demand::Demand;
use plan::{Plan, Stock};

/// Age of a creation from which its work is announced again; most creations take less than a second.
const REANNOUNCE_AFTER: Duration = Duration::from_secs(5);
/// Age of a creation without any attempt from which no node seems to take the work of its pool.
const UNTAKEN_AFTER: Duration = Duration::from_secs(30);
/// Most sandboxes that one run gives up in one pool, so that a run stays short.
const RETIRED_MAX: usize = 100;

/// What became of a sandbox that should be given up.
pub(crate) enum GivenUp {
    /// It will be deleted.
    Done {
        /// Whether the deletion has a message; if not, the sweep announces it.
        is_announced: bool,
    },
    /// It has changed since it was read.
    Raced,
    /// Its record cannot be read by this build.
    Unreadable,
}

// === impl Reconciler ===

impl Reconciler {
    pub(crate) async fn fill(&self) -> FillReport {
        let mut report = FillReport::default();
        let mut skipped = Skipped::default();
        let ended = self.try_fill(&mut report, &mut skipped).await;
        report.unreadable = skipped.count();
        if let Err(error) = &ended {
            tracing::error!(error = %Chain(error), "the fill did not complete");
        }
        report.status = if ended.is_ok() { RunStatus::Completed } else { RunStatus::Failed };
        if report.created + report.retired > 0 {
            tracing::info!(
                created = report.created,
                retired = report.retired,
                "{} free sandboxes asked for, {} given up",
                report.created,
                report.retired,
            );
        }
        report
    }

    async fn try_fill(&self, report: &mut FillReport, skipped: &mut Skipped) -> Result<(), StoreError> {
        let pools = self.ports.pools.current();
        for spec in pools.specs().iter().filter(|spec| pools.is_created(&spec.name)) {
            let refusal = pools.refusal_of(&spec.name);
            let template = pools.template_of(&spec.name).filter(|_| refusal.is_none());
            self.fill_pool(spec, template, refusal, report, skipped).await?;
        }
        Ok(())
    }

    async fn fill_pool(
        &self,
        spec: &PoolSpec,
        template: Option<&TemplateVersion>,
        refusal: Option<&str>,
        report: &mut FillReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        let stock = self.stock_of(spec, template, skipped).await?;
        let now = self.ports.clock.now();
        self.reannounce(&stock, now, report).await;
        let (demand, success) = self.demand.note(&spec.name, &stock, self.ports.clock.monotonic(), now);
        let target = match (spec.is_active(), spec.warm) {
            (true, Some(WarmSizes { min, max })) => demand.clamp(min.into(), max.max(min).into()),
            _ => 0,
        };
        let target = usize::try_from(target).unwrap_or(usize::MAX);
        let Plan { create, retire, missing, degraded } =
            stock.plan(target, self.config.fill_burst, now, success);
        let pool = spec.name.as_str();
        if missing > 0 {
            report.missing.insert(pool.to_owned(), u64::try_from(missing).unwrap_or(u64::MAX));
        }
        let degraded = degraded.or_else(|| stock.untaken(now, UNTAKEN_AFTER));
        let degraded = match template {
            None if target > 0 => {
                Some(refusal.unwrap_or("its template is not known, or was removed").to_owned())
            }
            _ => degraded,
        };
        if let Some(reason) = degraded {
            tracing::warn!(pool.name = pool, reason, "pool {pool} gets no sandboxes: {reason}");
            report.degraded.insert(pool.to_owned(), reason);
        }
        for sandbox in retire.into_iter().take(RETIRED_MAX) {
            self.retire(sandbox, report, skipped).await?;
        }
        let Some(template) = template else { return Ok(()) };
        for _ in 0..create {
            self.ask_for(spec, template, now, report).await?;
        }
        Ok(())
    }

    /// What there is of a pool.
    async fn stock_of(
        &self,
        spec: &PoolSpec,
        template: Option<&TemplateVersion>,
        skipped: &mut Skipped,
    ) -> Result<Stock, StoreError> {
        // What is created becomes free, never the other way: one that does so during the walk is met twice and not missed,
        // and counts as it was met last.
        let states = [StateName::Provisioning, StateName::ProvisionFailed, StateName::Available];
        let mut walk = self.walk_pool(&spec.name, &states).await?;
        let mut latest = BTreeMap::new();
        while let Some(batch) = walk.next(skipped).await? {
            latest.extend(batch.into_iter().map(|sandbox| (sandbox.id.clone(), sandbox)));
        }
        let mut stock = Stock::default();
        for sandbox in latest.into_values() {
            let version = sandbox.descriptor.get(Descriptor::TEMPLATE);
            let is_current = template.is_none_or(|current| version == Some(current.as_str()));
            stock.take(sandbox, is_current);
        }
        stock.sort();
        Ok(stock)
    }

    /// Announces creations that are not finished, in case their message was lost; one that has a message gets no second.
    async fn reannounce(&self, stock: &Stock, now: UnixSeconds, report: &mut FillReport) {
        let since = now.before(REANNOUNCE_AFTER);
        let late = stock
            .creations()
            .filter(|sandbox| sandbox.provision().is_some_and(|provision| provision.requested_at <= since));
        for work in late.filter_map(ProvisionWork::of) {
            match self.ports.provisions.announce(&work).await {
                Ok(ports::bus::Announced::Queued) => report.reannounced += 1,
                Ok(ports::bus::Announced::AlreadyQueued) => {}
                Err(error) => {
                    report.unannounced += 1;
                    tracing::warn!(sandbox.id = work.sandbox_id, error = %Chain(&error), "not announced yet");
                }
            }
        }
    }

    async fn ask_for(
        &self,
        spec: &PoolSpec,
        template: &TemplateVersion,
        now: UnixSeconds,
        report: &mut FillReport,
    ) -> Result<(), StoreError> {
        let prefix = spec.kind.id_prefix().unwrap_or_default();
        let id = SandboxId::parse(&format!("{prefix}{}", self.ports.random.fresh_id())).ok();
        let new =
            id.and_then(|id| NewSandbox::to_create(id, spec.name.clone(), &spec.provider, Some(template)));
        let Some(new) = new else { return Ok(()) };
        let Insert::Inserted(sandbox) = self.ports.store.create(&new.provision(None, now)).await? else {
            report.raced += 1;
            return Ok(());
        };
        report.created += 1;
        self.demand.ask(&sandbox, now);
        self.ports.recorder.note(&sandbox, None);
        let Some(work) = ProvisionWork::of(&sandbox) else { return Ok(()) };
        if let Err(error) = self.ports.provisions.announce(&work).await {
            report.unannounced += 1;
            tracing::warn!(sandbox.id = work.sandbox_id, error = %Chain(&error), "not announced yet");
        }
        Ok(())
    }

    async fn retire(
        &self,
        sandbox: &Sandbox,
        report: &mut FillReport,
        skipped: &mut Skipped,
    ) -> Result<(), StoreError> {
        match self.give_up_free(sandbox, skipped).await? {
            GivenUp::Done { is_announced } => {
                report.retired += 1;
                report.unannounced += u64::from(!is_announced);
            }
            GivenUp::Raced => report.raced += 1,
            GivenUp::Unreadable => {}
        }
        Ok(())
    }

    /// Has a sandbox deleted that no owner ever held, if it is still as it was read.
    pub(crate) async fn give_up_free(
        &self,
        sandbox: &Sandbox,
        skipped: &mut Skipped,
    ) -> Result<GivenUp, StoreError> {
        let write = self.ports.store.retire(sandbox, self.ports.clock.now()).await;
        let retired = match skipped.unless_unreadable(write)? {
            Some(Write::Done(retired)) => retired,
            Some(Write::Lost(_)) => return Ok(GivenUp::Raced),
            None => return Ok(GivenUp::Unreadable),
        };
        self.demand.forget(&retired);
        self.ports.recorder.note(&retired, None);
        let Some(work) = DeletionWork::of(&retired) else { return Ok(GivenUp::Done { is_announced: true }) };
        let announced = self.ports.deletions.announce(&work).await;
        if let Err(error) = &announced {
            tracing::warn!(sandbox.id = work.sandbox_id, error = %Chain(error), "not announced yet");
        }
        Ok(GivenUp::Done { is_announced: announced.is_ok() })
    }
}

/// When a sandbox became free after its creation; none if its history does not say.
fn provisioned_at(sandbox: &Sandbox) -> Option<UnixSeconds> {
    sandbox.history.iter().rev().find(|entry| entry.cause == Cause::Provisioned).map(|entry| entry.at)
}

/// How long the creation of a free sandbox took.
fn creation_time(sandbox: &Sandbox) -> Option<Duration> {
    let asked = sandbox.history.iter().find(|entry| entry.cause == Cause::Filled)?;
    let took = provisioned_at(sandbox)?.get().saturating_sub(asked.at.get());
    Some(Duration::from_secs(took))
}

#[cfg(test)]
pub(crate) mod tests;
