//! The operators' switch for processes without a table: an allocator changes it in the table first.

use super::{Client, ClientError};
use async_trait::async_trait;
use contract::{DeletionsStatus, Pause, PauseRequest, ResumeReply, ResumeRequest, Verb};
use ports::bus::{BusError, DeletionControl, Requests};
use ports::clock::Clock;
use std::sync::Arc;

/// Controls deletions; sends each change as a request to an allocator.
pub struct DeletionControlClient {
    client: Client,
    requests: Arc<dyn Requests>,
    control: Arc<dyn DeletionControl>,
    clock: Arc<dyn Clock>,
}

// === impl DeletionControlClient ===

impl DeletionControlClient {
    /// Changes the switch through `client`, whose transport is `requests`, and everything else through `control`.
    #[must_use]
    pub fn new(
        client: Client,
        requests: Arc<dyn Requests>,
        control: Arc<dyn DeletionControl>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { client, requests, control, clock }
    }

    /// A refused order must not take effect later, so orders never wait for a connection.
    fn refuse_unconnected(&self, operation: &'static str) -> Result<(), BusError> {
        if self.requests.is_connected() {
            Ok(())
        } else {
            Err(BusError { operation, source: "not connected".into() })
        }
    }
}

#[async_trait]
impl DeletionControl for DeletionControlClient {
    async fn pause(&self, pause: &Pause) -> Result<(), BusError> {
        self.refuse_unconnected("pause deletions")?;
        let Pause { by, since: _, until, reason } = pause.clone();
        let request = PauseRequest { until_seconds: None, until, reason, by: Some(by) };
        let asked = self.client.ask::<Pause>(Verb::Pause, &request).await;
        asked.map(|_| ()).map_err(failed("pause deletions"))
    }

    async fn resume(&self, by: &str) -> Result<Option<Pause>, BusError> {
        self.refuse_unconnected("resume deletions")?;
        let request = ResumeRequest { by: Some(by.to_owned()) };
        let asked = self.client.ask::<ResumeReply>(Verb::Resume, &request).await;
        let ResumeReply { was_paused } = asked.map_err(failed("resume deletions"))?;
        let now_ms = self.clock.now_ms();
        Ok(was_paused.filter(|pause| pause.is_on(now_ms)))
    }

    async fn status(&self) -> Result<DeletionsStatus, BusError> {
        self.control.status().await
    }
}

fn failed(operation: &'static str) -> impl FnOnce(ClientError) -> BusError {
    move |error| BusError { operation, source: error.into() }
}
