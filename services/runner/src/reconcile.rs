//! Compares the containers of the node with their records: what no record names goes, and what the engine lost is forgotten.

use crate::Node;
use crate::containers::over_at_ms;
use crate::metrics::Removal;
use crate::state::Entry;
use crate::timers::ENDED_AT_ONCE_MAX;
use contract::nodes::{Fate, HELD_MAX, Holding, NodeLease};
use domain::TemplateSpec;
use domain::template::Image;
use futures_util::StreamExt as _;
use ports::engine::{Container, EngineError, Incarnation};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

/// Time between two reconciliations. A container outlives its record by at most this time.
const PERIOD: Duration = Duration::from_secs(30);
/// Pause after a first reconciliation that failed: nothing is served before one has succeeded.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Unknown containers above which nothing is removed, in hundredths of all: the table may have been restored to an earlier
/// time, and will know them again when it is repaired.
const UNKNOWN_PERCENT_MAX: usize = 10;

/// What a reconciliation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReconcileReport {
    /// Containers that were asked about.
    pub(crate) asked: usize,
    /// Containers that were removed.
    pub(crate) removed: usize,
    /// Containers without a record.
    pub(crate) unknown: usize,
    /// Containers that the engine does not have any more.
    pub(crate) forgotten: usize,
    /// Whether nothing was removed because too many are unknown.
    pub(crate) is_withheld: bool,
}

/// Why a reconciliation did not take place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The engine does not say what it has.
    #[error("the engine cannot list its containers")]
    Engine(#[source] EngineError),
    /// The control plane does not say what should become of them.
    #[error("the control plane does not answer")]
    Unanswered,
}

/// A container, the lease that was known when it was asked about, and the answer.
struct Asked {
    incarnation: Incarnation,
    seen: Option<NodeLease>,
    holding: Holding,
}

/// What to remove, and why.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<(Incarnation, Removal)>,
    unknown: usize,
    is_withheld: bool,
}

// === impl Node ===

impl Node {
    /// Reconciles until it succeeds.
    pub(crate) async fn reconcile_first(&self) {
        while self.reconcile_and_log().await.is_err() {
            self.clock.sleep(FIRST_PAUSE).await;
        }
    }

    /// Reconciles now and then, and whenever the node was registered again.
    pub(crate) async fn keep_reconciled(&self) -> Infallible {
        loop {
            tokio::select! {
                () = self.clock.sleep(PERIOD) => {}
                () = self.registered.notified() => {}
            }
            // A failure is logged; the next one is soon.
            let _ = self.reconcile_and_log().await;
        }
    }

    async fn reconcile_and_log(&self) -> Result<ReconcileReport, ReconcileError> {
        let done = self.reconcile().await;
        self.metrics.show_capacity(&self.containers);
        match &done {
            Ok(report) => {
                self.metrics.reconciled(if report.is_withheld { "withheld" } else { "done" });
                let ReconcileReport { asked, removed, unknown, forgotten, is_withheld } = *report;
                if is_withheld {
                    tracing::error!(
                        asked,
                        unknown,
                        "{unknown} of {asked} containers have no record; nothing is removed, because the table may have been restored"
                    );
                } else if removed + unknown + forgotten > 0 {
                    tracing::info!(
                        asked,
                        removed,
                        unknown,
                        forgotten,
                        "reconciled the containers of this node"
                    );
                } else {
                    tracing::debug!(asked, "reconciled the containers of this node");
                }
            }
            Err(error) => {
                self.metrics.reconciled("failed");
                tracing::warn!(error = %runtime::telemetry::Chain(error), "the containers of this node cannot be reconciled now");
            }
        }
        done
    }

    /// Reconciles once.
    pub(crate) async fn reconcile(&self) -> Result<ReconcileReport, ReconcileError> {
        let before = self.containers.all();
        let listed = self.engine.list().await.map_err(ReconcileError::Engine)?;
        self.metrics.show_containers(&listed);
        let forgotten = self.follow_engine(&before, &listed);
        // What is created by work in progress is asked about by that work.
        let now = self.containers.all();
        let is_creating = |incarnation: &Incarnation| {
            [&before, &now]
                .iter()
                .any(|all| all.get(incarnation).is_some_and(|(_, is_creating)| *is_creating))
        };
        let own = listed.iter().map(|container| container.incarnation);
        let ask: Vec<_> = own
            .filter(|incarnation| !is_creating(incarnation))
            .filter_map(|incarnation| Some((incarnation, now.get(&incarnation)?.0.clone())))
            .collect();
        let mut asked = Vec::with_capacity(ask.len());
        for page in ask.chunks(HELD_MAX) {
            let named = page.iter().map(|(incarnation, entry)| (*incarnation, entry.sandbox.clone()));
            let holdings = self.ask_held(named).await;
            let holdings = holdings.ok_or(ReconcileError::Unanswered)?;
            let answered = page.iter().cloned().zip(holdings);
            asked.extend(answered.map(|((incarnation, entry), holding)| {
                let seen = entry.lease;
                Asked { incarnation, seen, holding }
            }));
        }
        let plan = plan(&asked, self.clock.now_ms());
        let (unknown, is_withheld, asked_count) = (plan.unknown, plan.is_withheld, asked.len());
        let mut leased = Vec::new();
        for Asked { incarnation, seen, holding } in asked {
            if holding.fate == Fate::Keep {
                leased.extend(holding.lease.is_some().then_some(incarnation));
                self.containers.note_answer(&incarnation, seen.as_ref(), holding.lease);
            }
        }
        // The last runner may have ended before it did that. A failure is logged, and the next reconciliation is soon.
        let attachments = futures_util::stream::iter(leased)
            .map(|incarnation| async move { self.attach_network(&incarnation).await.is_ok() });
        attachments.buffer_unordered(ENDED_AT_ONCE_MAX).collect::<Vec<bool>>().await;
        let removals = futures_util::stream::iter(plan.remove)
            .map(|(incarnation, reason)| async move { self.remove(&incarnation, reason).await.is_ok() });
        let results: Vec<bool> = removals.buffer_unordered(ENDED_AT_ONCE_MAX).collect().await;
        let removed = results.into_iter().filter(|is_removed| *is_removed).count();
        self.containers.persist_or_log().await;
        Ok(ReconcileReport { asked: asked_count, removed, unknown, forgotten, is_withheld })
    }

    /// Forgets what was known before the engine did not list it, and adds what only the engine knew.
    fn follow_engine(&self, before: &BTreeMap<Incarnation, (Entry, bool)>, listed: &[Container]) -> usize {
        let there: BTreeSet<_> = listed.iter().map(|container| container.incarnation).collect();
        for container in listed.iter().filter(|container| !before.contains_key(&container.incarnation)) {
            self.containers.discover(container.incarnation, found(container));
        }
        let gone = before.iter().filter(|(incarnation, (_, is_creating))| {
            !is_creating && !there.contains(*incarnation) && !self.containers.is_creating(incarnation)
        });
        gone.filter(|(incarnation, _)| self.containers.forget(incarnation)).count()
    }
}

/// What is assumed of a container that only the engine knew: it is as large as one of a template without settings.
fn found(container: &Container) -> Entry {
    Entry::of(container.sandbox.clone(), &TemplateSpec::of_image(Image::Host))
}

/// Decides what to remove.
fn plan(asked: &[Asked], now_ms: u64) -> Plan {
    let unknown = asked.iter().filter(|asked| asked.holding.fate == Fate::Unknown).count();
    let is_withheld = unknown > 1 && unknown * 100 > asked.len() * UNKNOWN_PERCENT_MAX;
    if is_withheld {
        return Plan { remove: Vec::new(), unknown, is_withheld };
    }
    let remove = asked.iter().filter_map(|asked| {
        let reason = match asked.holding.fate {
            Fate::Keep => return None,
            Fate::Remove => Removal::Unwanted,
            Fate::Unknown => {
                // Without a known end it stays.
                let is_over = asked.seen.as_ref().is_some_and(|lease| over_at_ms(lease) <= now_ms);
                is_over.then_some(Removal::Unknown)?
            }
        };
        Some((asked.incarnation, reason))
    });
    Plan { remove: remove.collect(), unknown, is_withheld }
}

#[cfg(test)]
mod tests;
