//! What a role does before it works on its table: reaches it, agrees with it on the settings, and has it compared with what the
//! message queue knows of it.

use dynamodb::DynamoStore;
use ports::store::Agreed;
use runtime::agreement::{AgreementError, agree};
use runtime::restored::TableGuard;
use runtime::telemetry::Chain;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between two attempts to reach the table at start.
const TABLE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A table that a role is about to work on.
#[derive(Clone)]
pub(crate) struct Opening {
    pub(crate) table: Arc<DynamoStore>,
    /// The settings of this process that the table has to have as well.
    pub(crate) agreed: Agreed,
    /// Whether the table was compared, and what came of it.
    pub(crate) guard: TableGuard,
}

// === impl Opening ===

impl Opening {
    /// Waits until the table is there. False if `stop` came first.
    ///
    /// # Errors
    /// When the table was agreed on with other settings than those of this process.
    pub(crate) async fn open(&self, stop: &CancellationToken) -> Result<bool, AgreementError> {
        tokio::select! {
            reached = self.reach() => reached.map(|()| true),
            () = stop.cancelled() => Ok(false),
        }
    }

    /// Waits until the table was compared with what the queue knows of it. False if `stop` came first. With `may_go_on`, a
    /// queue that does not say is waited for no longer than some seconds.
    pub(crate) async fn compared(&self, may_go_on: bool, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = self.guard.compared(may_go_on) => true,
            () = stop.cancelled() => false,
        }
    }

    async fn reach(&self) -> Result<(), AgreementError> {
        loop {
            match self.table.ensure_table().await {
                Ok(_) => match agree(self.table.as_ref(), &self.agreed).await {
                    Err(AgreementError::Store(error)) => {
                        tracing::warn!(error = %Chain(&error), "the table does not answer; trying again");
                    }
                    agreed => return agreed,
                },
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the table is not there yet; trying again");
                }
            }
            tokio::time::sleep(TABLE_RETRY_DELAY).await;
        }
    }
}
