//! Stops and removes sandboxes.

use super::{not_running, state};
use crate::Namespaces;
use crate::cgroups::Group;
use crate::folders::Own;
use crate::process::Process;
use crate::record::Phase;
use ports::engine::{ContainerState, EngineError, Incarnation};
use std::io;
use std::time::Duration;

/// Time-out for the end of killed processes: one in a call to a slow device ends only after it.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(10);

impl Namespaces {
    pub(super) async fn stop_container(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let call = self.turns.call(incarnation);
        let _turn = call.turn().await;
        let mut record = self.record(incarnation)?;
        match state(&record) {
            ContainerState::Stopped => Ok(()),
            ContainerState::Running | ContainerState::Paused | ContainerState::Exited => {
                self.end(record.processes(), &record.group).await?;
                record.phase = Phase::Stopped;
                record.processes.clear();
                record.write(self.folders.of(incarnation).path()).map_err(EngineError::unavailable)
            }
            state => Err(not_running(&state)),
        }
    }

    pub(super) async fn remove_container(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let call = self.turns.call(incarnation);
        call.remove();
        let _turn = call.turn().await;
        let own = self.folders.of(incarnation);
        match self.record(incarnation) {
            Err(EngineError::Gone) => Ok(()),
            Ok(record) => self.delete(&own, record.processes(), &record.group).await,
            // Its record is damaged. Whatever runs is in its groups.
            Err(_) => self.delete(&own, &[], &self.cgroups.group(&self.group_name(incarnation))).await,
        }
    }

    /// Ends and deletes a sandbox.
    pub(super) async fn delete(
        &self,
        own: &Own,
        processes: &[Process],
        group: &Group,
    ) -> Result<(), EngineError> {
        self.end(processes, group).await?;
        let own = own.clone();
        let deleted = tokio::task::spawn_blocking(move || own.delete()).await;
        deleted.map_err(EngineError::unavailable)?.map_err(EngineError::unavailable)
    }

    /// Ends every process of a sandbox and removes its control groups. The end of process 1 ends all others inside, so this
    /// works without control groups too.
    pub(super) async fn end(&self, processes: &[Process], group: &Group) -> Result<(), EngineError> {
        let ended = tokio::time::timeout(END_TIMEOUT, async {
            loop {
                match end_step(processes, group) {
                    Ok(true) => return Ok(()),
                    Ok(false) => self.clock.sleep(super::LOOK_PAUSE).await,
                    Err(error) => return Err(EngineError::unavailable(error)),
                }
            }
        });
        ended.await.unwrap_or_else(|_| {
            Err(EngineError::unavailable("its processes have been killed but have not ended"))
        })
    }
}

/// Kills what runs of a sandbox. Whether nothing did, and the groups are removed.
pub(crate) fn end_step(processes: &[Process], group: &Group) -> io::Result<bool> {
    // Without groups, process 1 may be known to its wrapper only.
    if let (Group::None, Some(wrapper)) = (group, processes.first().filter(|process| process.is_alive())) {
        wrapper.kill_family()?;
        return Ok(false);
    }
    for process in processes.iter().rev() {
        process.kill()?;
    }
    if !group.is_empty() || processes.iter().any(|process| process.is_alive()) {
        group.kill()?;
        return Ok(false);
    }
    match group.remove() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        removed => removed.map(|()| true),
    }
}
