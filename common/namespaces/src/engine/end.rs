//! Stops and removes sandboxes.

use super::state;
use crate::Namespaces;
use crate::process::Process;
use crate::record::Record;
use host::cgroups::Group;
use host::folders::Own;
use host::not_running;
use host::record::Phase;
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
                self.end_all(&self.folders.of(incarnation), &record).await?;
                record.phase = Phase::Stopped;
                record.processes.clear();
                record.network.forget_process(self.cgroups.group(&self.network_group_name(incarnation)));
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
            Err(EngineError::Gone) => return Ok(()),
            Ok(record) => self.end_all(&own, &record).await?,
            // Its record is damaged. Whatever runs is in its groups.
            Err(_) => {
                for name in [self.group_name(incarnation), self.network_group_name(incarnation)] {
                    self.end(&[], &self.cgroups.group(&name)).await?;
                }
                self.end_started_with(&own).await?;
            }
        }
        self.delete(&own, incarnation).await
    }

    /// Deletes a sandbox that has ended.
    pub(super) async fn delete(&self, own: &Own, incarnation: &Incarnation) -> Result<(), EngineError> {
        let own = own.clone();
        let deleted = tokio::task::spawn_blocking(move || own.delete()).await;
        deleted.map_err(EngineError::unavailable)?.map_err(EngineError::unavailable)?;
        self.networks.release(incarnation).await
    }

    /// Ends every process of a sandbox and what carries its connections, and removes their control groups.
    pub(super) async fn end_all(&self, own: &Own, record: &Record) -> Result<(), EngineError> {
        self.end(record.processes(), &record.group).await?;
        let (processes, group) = record.network_parts();
        self.end(processes, group).await?;
        if record.may_be_incomplete() {
            self.end_started_with(own).await?;
        }
        Ok(())
    }

    /// Ends every process that was started for a sandbox, recorded by this runner or not.
    async fn end_started_with(&self, own: &Own) -> Result<(), EngineError> {
        for process in Process::started_with(own.path()) {
            self.end(&[process], &Group::None).await?;
        }
        Ok(())
    }

    /// Ends every process of a sandbox and removes its control groups. The end of process 1 ends all others inside, so this
    /// works without control groups too.
    pub(super) async fn end(&self, processes: &[Process], group: &Group) -> Result<(), EngineError> {
        let ended = tokio::time::timeout(END_TIMEOUT, async {
            loop {
                match end_step(processes, group) {
                    Ok(true) => return Ok(()),
                    Ok(false) => self.clock.sleep(host::LOOK_PAUSE).await,
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
