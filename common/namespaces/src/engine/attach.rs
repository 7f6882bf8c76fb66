//! Attaches sandboxes to their networks.

use super::state;
use crate::Namespaces;
use crate::network::{Attachment, Files};
use crate::record::Record;
use host::folders::Own;
use host::not_running;
use host::of_io;
use ports::engine::{ContainerState, EngineError, Incarnation};

impl Namespaces {
    pub(super) async fn attach_container(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let record = self.record(incarnation)?;
        let network = &record.network;
        if network.is_empty() {
            return Ok(());
        }
        let (state, _) = self.seen(incarnation)?;
        // One that does not run gets what is missing when it starts.
        let is_whole = state != ContainerState::Running || network.is_served();
        if (network.is_none() || network.is_attached()) && is_whole {
            return Ok(());
        }
        let call = self.turns.call(incarnation);
        let _turn = call.turn().await;
        tokio::select! {
            biased;
            () = call.removed() => Err(EngineError::Gone),
            result = self.attach_once(incarnation) => result,
        }
    }

    async fn attach_once(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let mut record = self.record(incarnation)?;
        let own = self.folders.of(incarnation);
        match state(&record) {
            ContainerState::Running => {
                let was_served = record.network.is_served();
                let mut network = record.network.clone();
                network.attach();
                let connected = self.connect_network(&own, &mut record, network).await;
                if connected.is_err() && !was_served {
                    // What was started for it is of no use; a repeat starts it again.
                    let (processes, group) = record.network_parts();
                    self.end(processes, group).await?;
                }
                connected
            }
            // Its next start does it.
            ContainerState::Stopped | ContainerState::Exited => {
                record.network.attach();
                record.write(own.path()).map_err(EngineError::unavailable)
            }
            ContainerState::Paused => Err(EngineError::unavailable("it is paused")),
            state => Err(not_running(&state)),
        }
    }

    /// Gives a running sandbox this network, and stores it in the record.
    pub(super) async fn connect_network(
        &self,
        own: &Own,
        record: &mut Record,
        mut network: Attachment,
    ) -> Result<(), EngineError> {
        let Some(first) = record.processes().last().copied() else {
            return Err(EngineError::unavailable("it has ended"));
        };
        let files = Files::of(own.path());
        // Until all is done the record knows only what has to be ended.
        let note = |pasta| {
            record.network.note_process(pasta);
            record.write(own.path())
        };
        self.networks.connect(first, &mut network, &files, self.clock.as_ref(), note).await?;
        if record.network != network {
            record.network = network;
            record.write(own.path()).map_err(of_io)?;
        }
        Ok(())
    }
}
