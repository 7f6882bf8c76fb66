//! Before the provider is called: whether the account is that of this sandbox alone.
//!
//! A table of former builds may hold several records of one account. While an owner holds one of them, the account is
//! not deleted for another; a free record is taken out of use first.

use crate::Reaper;
use crate::reap::{OWN_FAILURE_DELAY, Wanted};
use domain::{Actor, Order, Reason, Sandbox, SandboxId, State};
use ports::bus::Verdict;
use ports::store::{Identity, StoreError, Write};
use runtime::telemetry::Chain;

/// Who quarantines a record whose account is about to be deleted.
const ACTOR: &str = "reaper";

// === impl Reaper ===

impl Reaper {
    /// Nothing if the account may be deleted; else what becomes of the message.
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
                    "{id} is not deleted: {} is the same account and in use",
                    other.id,
                );
                return Err(Verdict::Retry { delay: self.config.retry_delay_max });
            }
        }
        Ok(())
    }

    /// Other records of the account; the identity names them all, this one included from now on.
    async fn other_records(&self, wanted: &Wanted) -> Result<Vec<Sandbox>, StoreError> {
        let (store, account) = (&self.ports.store, &wanted.target.external_id);
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

    /// Whether a free record of the account cannot be handed out any more.
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
