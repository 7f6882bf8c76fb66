//! The operations of the engine port.

mod attach;
mod create;
pub(crate) mod end;

use crate::Namespaces;
use crate::record::Record;
use async_trait::async_trait;
use host::record::{Phase, is_no_record};
use host::{LOOK_PAUSE, not_running};
use ports::engine::{
    Connection, Container, ContainerSpec, ContainerState, Engine, EngineError, EngineInfo, Feature,
    ImageCommand, Incarnation, Usage,
};
use std::io;
use std::time::Duration;

/// Time-out for freezing: a process in a call to a slow device is frozen only after it.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);

#[async_trait]
impl Engine for Namespaces {
    fn info(&self) -> EngineInfo {
        self.info.clone()
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Container, EngineError> {
        self.create_container(spec).await
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let incarnations = self.folders.incarnations().map_err(EngineError::unavailable)?;
        let mut found = Vec::with_capacity(incarnations.len());
        for incarnation in &incarnations {
            match Record::read(self.folders.of(incarnation).path()) {
                Ok(record) if record.fleet == self.fleet => {
                    // A creation may have ended since its record was read.
                    let is_over = record.phase == Phase::Creating && !self.turns.is_busy(incarnation);
                    let latest = if is_over { self.record(incarnation).unwrap_or(record) } else { record };
                    found.extend(self.container(&latest));
                }
                Ok(_) => {}
                // It was removed meanwhile, or nothing is known about it: the next start removes it.
                Err(error) if is_no_record(&error) => {}
                // A list without it would say that it is gone.
                Err(error) => return Err(EngineError::unavailable(error)),
            }
        }
        Ok(found)
    }

    async fn remove(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.remove_container(incarnation).await
    }

    async fn attach_network(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.attach_container(incarnation).await
    }

    async fn start(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.start_container(incarnation).await
    }

    async fn stop(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.stop_container(incarnation).await
    }

    async fn pause(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.freeze(incarnation, true).await
    }

    async fn resume(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.freeze(incarnation, false).await
    }

    async fn connect(&self, incarnation: &Incarnation) -> Result<Connection, EngineError> {
        match self.seen(incarnation)?.0 {
            ContainerState::Running => {}
            state => return Err(not_running(&state)),
        }
        Ok(Box::new(host::connect(&self.folders.of(incarnation).socket()).await?))
    }

    async fn usage(&self, incarnation: &Incarnation) -> Result<Usage, EngineError> {
        match self.seen(incarnation)? {
            (ContainerState::Running | ContainerState::Paused, record) => Ok(record.group.usage()),
            (state, _) => Err(not_running(&state)),
        }
    }
}

impl Namespaces {
    /// The name of a sandbox's control groups.
    pub(crate) fn group_name(&self, incarnation: &Incarnation) -> String {
        format!("{}-{incarnation}", self.fleet)
    }

    /// The name of the control groups of what carries its connections.
    pub(crate) fn network_group_name(&self, incarnation: &Incarnation) -> String {
        format!("{}-network", self.group_name(incarnation))
    }

    /// The record of a sandbox of this fleet.
    fn record(&self, incarnation: &Incarnation) -> Result<Record, EngineError> {
        match Record::read(self.folders.of(incarnation).path()) {
            Ok(record) if record.fleet == self.fleet => Ok(record),
            Ok(_) => Err(EngineError::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(EngineError::Gone),
            Err(error) => Err(EngineError::failed(error)),
        }
    }

    /// The state of a sandbox for a call that changes nothing.
    fn seen(&self, incarnation: &Incarnation) -> Result<(ContainerState, Record), EngineError> {
        let record = self.record(incarnation)?;
        let container = self.container(&record).ok_or(EngineError::Gone)?;
        Ok((container.state, record))
    }

    /// The container as other calls see it.
    fn container(&self, record: &Record) -> Option<Container> {
        let (sandbox, incarnation, created_at) = record.labels()?;
        let is_created = record.phase == Phase::Creating && self.turns.is_busy(&incarnation);
        let state = if is_created { ContainerState::Creating } else { state(record) };
        let endpoints = record.network.endpoints();
        let command = ImageCommand::default();
        Some(Container { sandbox, incarnation, state, endpoints, created_at, command })
    }

    async fn freeze(&self, incarnation: &Incarnation, is_frozen: bool) -> Result<(), EngineError> {
        if let Some(reason) = self.info.why_not(Feature::Pause) {
            return Err(EngineError::refused(reason));
        }
        let call = self.turns.call(incarnation);
        let _turn = call.turn().await;
        let record = self.record(incarnation)?;
        match state(&record) {
            ContainerState::Running | ContainerState::Paused => {
                record.group.freeze(is_frozen).map_err(EngineError::unavailable)?;
                let done = self.until(|| record.group.is_frozen() == is_frozen);
                let done = tokio::time::timeout(FREEZE_TIMEOUT, done).await;
                done.map_err(|_| EngineError::unavailable("a process cannot be frozen now"))
            }
            state => Err(not_running(&state)),
        }
    }

    /// Waits until the kernel has done something.
    async fn until(&self, mut is_done: impl FnMut() -> bool) {
        while !is_done() {
            self.clock.sleep(LOOK_PAUSE).await;
        }
    }
}

/// The state of a sandbox for the call whose turn it is: nothing else is creating it.
fn state(record: &Record) -> ContainerState {
    match record.phase {
        Phase::Creating => ContainerState::Failed { reason: "its creation was interrupted".to_owned() },
        Phase::Stopped | Phase::Running if record.is_outdated() => {
            ContainerState::Failed { reason: "the machine was restarted".to_owned() }
        }
        Phase::Stopped => ContainerState::Stopped,
        Phase::Running if !record.is_alive() => ContainerState::Exited,
        Phase::Running if record.group.is_frozen() => ContainerState::Paused,
        Phase::Running => ContainerState::Running,
    }
}
