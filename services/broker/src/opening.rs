//! What a role does before it uses its table: connects, compares the shared settings, and waits for the comparison with
//! what NATS knows.

use dynamodb::DynamoStore;
use dynamodb::table::TableError;
use ports::store::Agreed;
use runtime::agreement::{AgreementError, agree};
use runtime::pools::PoolWatch;
use runtime::restored::TableGuard;
use runtime::telemetry::Chain;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between two attempts to reach the table at the start.
const TABLE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Attempts until an unusable index is an error. Another process may have created the table a moment ago.
const INDEX_ATTEMPTS_MAX: u32 = 5;

/// A table that a role is about to use.
#[derive(Clone)]
pub(crate) struct Opening {
    pub(crate) table: Arc<DynamoStore>,
    /// The settings of this process that must equal those of the table.
    pub(crate) agreed: Agreed,
    /// The result of comparing the table.
    pub(crate) guard: TableGuard,
    /// The pools, some of which the table may lack.
    pub(crate) pools: PoolWatch,
}

// === impl Opening ===

impl Opening {
    /// Waits until the table exists. False if `stop` came first.
    ///
    /// # Errors
    /// When the settings in the table differ from those of this process, or select an index that cannot be read.
    pub(crate) async fn open(&self, stop: &CancellationToken) -> anyhow::Result<bool> {
        tokio::select! {
            reached = self.reach() => reached.map(|()| true),
            () = stop.cancelled() => Ok(false),
        }
    }

    /// Waits until the table was compared with what NATS knows. False if `stop` came first. With `may_go_on`, it waits
    /// only some seconds for NATS.
    pub(crate) async fn compared(&self, may_go_on: bool, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = self.guard.compared(may_go_on) => true,
            () = stop.cancelled() => false,
        }
    }

    async fn reach(&self) -> anyhow::Result<()> {
        let mut index_attempts = 0;
        loop {
            match self.table.ensure_table().await {
                Ok(_) => match agree(self.table.as_ref(), &self.agreed).await {
                    Err(AgreementError::Store(error)) => {
                        tracing::warn!(error = %Chain(&error), "the table does not answer; trying again");
                    }
                    Ok(()) => match self.pools.open(self.table.as_ref()).await {
                        Ok(()) => return Ok(()),
                        Err(error) => {
                            tracing::warn!(error = %Chain(&error), "the pools cannot be read; trying again");
                        }
                    },
                    Err(refused) => return Err(refused.into()),
                },
                Err(error @ TableError::GroupIndexUnusable { .. })
                    if index_attempts >= INDEX_ATTEMPTS_MAX =>
                {
                    return Err(error.into());
                }
                Err(error) => {
                    index_attempts += u32::from(matches!(error, TableError::GroupIndexUnusable { .. }));
                    tracing::warn!(error = %Chain(&error), "the table is not there yet; trying again");
                }
            }
            tokio::time::sleep(TABLE_RETRY_DELAY).await;
        }
    }
}
