//! Checks, before the provider is called, whether the account belongs to this sandbox alone.
//!
//! A table of an older build may have several records of one account. While an owner holds one of them, the account is
//! not deleted for another; a free record is quarantined first.

use crate::Reaper;
use crate::reap::{OWN_FAILURE_DELAY, Wanted};
use domain::{Actor, Order, Reason, Sandbox, SandboxId, State};
use ports::bus::Verdict;
use ports::store::{Identity, StoreError, Write};
use runtime::telemetry::Chain;

/// The actor that quarantines a record whose account is about to be deleted.
const ACTOR: &str = "reaper";

// === impl Reaper ===

impl Reaper {
    /// Nothing if the account may be deleted; otherwise the verdict for the message.
    pub(crate) async fn stands_alone(&self, wanted: &Wanted) -> Result<(), Verdict> {
        let id = &wanted.id;
        let others = self.other_records(wanted).await.map_err(|error| {
            tracing::warn!(sandbox.id = id.as_str(), error = %Chain(&error), "cannot look up the account of {id}");
            Verdict::Retry { delay: OWN_FAILURE_DELAY }
        })?;
        for other in others {
            let is_free = match &other.state {
                State::Allocated(_) => false,
                State::Available => self.take_out_of_use(&other, id).await,
                _ => true,
            };
            if !is_free {
                self.metrics.held();
                tracing::error!(
                    sandbox.id = id.as_str(),
                    "{id} is not deleted: {} is the same account and is in use",
                    other.id,
                );
                return Err(Verdict::Retry { delay: self.config.retry_delay_max });
            }
        }
        Ok(())
    }

    /// Other records of the account; adds this one to the identity.
    async fn other_records(&self, wanted: &Wanted) -> Result<Vec<Sandbox>, StoreError> {
        let (store, account) = (&self.ports.store, &wanted.target.external_id);
        if account.is_own_of(&wanted.id) {
            // The fleet created it, so no other record can name it.
            return Ok(Vec::new());
        }
        let identity: Identity = match store.identity(account).await? {
            Some(identity) if identity.names(&wanted.id) => identity,
            _ => store.name_identity(account, &wanted.id).await?,
        };
        let mut others = Vec::new();
        for other in identity.named().filter(|named| **named != wanted.id) {
            let found = store.sandbox(other).await?;
            others.extend(found.filter(|other| other.external_id == *account));
        }
        Ok(others)
    }

    /// Quarantines a free record of the account; returns whether it can no longer be handed out.
    async fn take_out_of_use(&self, free: &Sandbox, deleted: &SandboxId) -> bool {
        let Ok(by) = Actor::parse(ACTOR) else { return false };
        let order = Order { by, reason: Reason::cut(&format!("the same account as {deleted}")) };
        let now = self.ports.clock.now();
        match self.ports.store.quarantine(&free.candidate(), &order, now).await {
            Ok(Write::Done(quarantined)) => {
                self.ports.recorder.note(&quarantined, None);
                true
            }
            Ok(Write::Lost(_)) | Err(_) => false,
        }
    }
}
