//! What a fill does in one pool, decided without I/O.

use super::provisioned_at;
use domain::{Sandbox, StateName, UnixSeconds};
use std::time::Duration;

/// Failed attempts since the last success after which a pool counts as degraded.
const DEGRADED_FAILURES_MIN: u32 = 5;
/// How often a degraded pool gets another try.
const DEGRADED_PAUSE: Duration = Duration::from_secs(60);
/// Failed creations that are kept for operators.
const FAILED_KEPT_MAX: usize = 5;

/// The sandboxes of a pool that are free, being created, or failed to be created. Those of each list are oldest first.
#[derive(Debug, Default)]
pub(super) struct Stock {
    /// Free, of the current version of the template.
    fresh: Vec<Sandbox>,
    /// Free, of an older version.
    outdated: Vec<Sandbox>,
    /// To be free, of the current version.
    creating: Vec<Sandbox>,
    /// To be free, of an older version.
    creating_outdated: Vec<Sandbox>,
    /// Being created for a claim.
    pub(super) leased: Vec<Sandbox>,
    /// Not created, and not for a claim.
    failed: Vec<Sandbox>,
}

/// What a fill does in one pool.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan<'a> {
    /// How many free sandboxes it asks for.
    pub(super) create: usize,
    /// What it gives up, in this order.
    pub(super) retire: Vec<&'a Sandbox>,
    /// How many free sandboxes are missing.
    pub(super) missing: usize,
    /// Why the pool gets none.
    pub(super) degraded: Option<String>,
}

// === impl Stock ===

impl Stock {
    /// Adds a sandbox.
    pub(super) fn take(&mut self, sandbox: Sandbox, is_current: bool) {
        let list = match (sandbox.state.name(), sandbox.lease().is_some(), is_current) {
            (StateName::Available, _, true) => &mut self.fresh,
            (StateName::Available, _, false) => &mut self.outdated,
            (StateName::Provisioning, true, _) => &mut self.leased,
            (StateName::Provisioning, false, true) => &mut self.creating,
            (StateName::Provisioning, false, false) => &mut self.creating_outdated,
            (StateName::ProvisionFailed, false, _) => &mut self.failed,
            // A failed creation of a claim is its holder's.
            _ => return,
        };
        list.push(sandbox);
    }

    /// Puts the oldest first.
    pub(super) fn sort(&mut self) {
        let Self { fresh, outdated, creating, creating_outdated, leased, failed } = self;
        for list in [fresh, outdated, creating, creating_outdated, leased, failed] {
            list.sort_by_cached_key(|sandbox| {
                (sandbox.history.first().map(|entry| entry.at), sandbox.id.clone())
            });
        }
    }

    /// All that is being created.
    pub(super) fn creations(&self) -> impl Iterator<Item = &Sandbox> {
        self.leased.iter().chain(&self.creating).chain(&self.creating_outdated)
    }

    /// All that is free.
    pub(super) fn free(&self) -> impl Iterator<Item = &Sandbox> {
        self.fresh.iter().chain(&self.outdated)
    }

    /// All that no claim has taken.
    pub(super) fn unclaimed(&self) -> impl Iterator<Item = &Sandbox> {
        self.free().chain(&self.creating).chain(&self.creating_outdated).chain(&self.failed)
    }

    /// Why no node takes the work of this pool; none if one does.
    pub(super) fn untaken(&self, now: UnixSeconds, after: Duration) -> Option<String> {
        let since = now.before(after);
        let is_untaken = |sandbox: &&Sandbox| {
            sandbox
                .provision()
                .is_some_and(|provision| provision.attempts == 0 && provision.requested_at <= since)
        };
        let waiting = self.creations().filter(is_untaken).count();
        (waiting > 0).then(|| {
            format!("no node has created {waiting} of its sandboxes within {} s: is there one that serves it and has room?", after.as_secs())
        })
    }

    /// What to do for `target` free sandboxes, of which one run asks for at most `burst`. `success` is the request of the last
    /// creation that is known to have succeeded.
    pub(super) fn plan(
        &self,
        target: usize,
        burst: usize,
        now: UnixSeconds,
        success: Option<UnixSeconds>,
    ) -> Plan<'_> {
        let Self { fresh, outdated, creating, creating_outdated, leased: _, failed } = self;
        let missing = target.saturating_sub(fresh.len());
        let unasked = missing.saturating_sub(creating.len());
        let success = success.max(self.last_success());
        let degraded = self.degraded(success);
        let create = match &degraded {
            None => unasked.min(burst),
            Some(_) if !creating.is_empty() || self.has_failed_since(now.before(DEGRADED_PAUSE)) => 0,
            Some(_) => unasked.min(1),
        };
        let unwanted_creations = creating.len().saturating_sub(missing);
        // Older versions serve until the new ones are free.
        let unwanted = (fresh.len() + outdated.len()).saturating_sub(target);
        let failed_kept = if target == 0 { 0 } else { FAILED_KEPT_MAX };
        let old_failures = failed.len().saturating_sub(failed_kept);
        let is_over = |sandbox: &&Sandbox| requested_at(sandbox) < success;
        let retire = creating_outdated
            .iter()
            .chain(creating.iter().rev().take(unwanted_creations))
            .chain(outdated.iter().chain(fresh).take(unwanted))
            .chain(failed.iter().take(old_failures))
            .chain(failed.iter().skip(old_failures).filter(is_over));
        Plan { create, retire: retire.collect(), missing, degraded }
    }

    /// When the last of the free sandboxes was created.
    pub(super) fn last_success(&self) -> Option<UnixSeconds> {
        self.free().filter_map(provisioned_at).max()
    }

    /// The last error, after as many failures that a further try should wait.
    fn degraded(&self, success: Option<UnixSeconds>) -> Option<String> {
        let since = self.failed.iter().chain(&self.creating).filter(|one| requested_at(one) >= success);
        let mut tried: Vec<_> = since.filter_map(Sandbox::provision).filter(|one| one.attempts > 0).collect();
        tried.sort_by_key(|provision| provision.requested_at);
        let failures = tried.iter().fold(0_u32, |sum, provision| sum.saturating_add(provision.attempts));
        let last = tried.last().filter(|_| failures >= DEGRADED_FAILURES_MIN)?;
        let error = last.last_error.as_deref().unwrap_or("no reason was given");
        Some(format!("{failures} attempts have failed: {error}"))
    }

    fn has_failed_since(&self, moment: UnixSeconds) -> bool {
        self.failed.iter().any(|sandbox| requested_at(sandbox) > Some(moment))
    }
}

fn requested_at(sandbox: &Sandbox) -> Option<UnixSeconds> {
    sandbox.provision().map(|provision| provision.requested_at)
}
