//! The operations of the engine port.

mod create;

use crate::failure::status;
use crate::record::Record;
use crate::spec::{LABEL_FLEET, LABEL_INCARNATION, LABEL_RUNNER, LABEL_SANDBOX, command_of, name};
use crate::{Docker, Owner, Shared, exec, network};
use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use domain::{SandboxId, UnixSeconds};
use host::cgroups::Cgroups;
use host::folders::Own;
use host::record::{Phase, is_no_record};
use host::{LOOK_PAUSE, not_running};
use ports::engine::{
    Connection, Container, ContainerSpec, ContainerState, Engine, EngineError, EngineInfo, ImageCommand,
    Incarnation, LocalImage, Usage,
};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// Time-out for the end of a removal that another call has begun.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How Docker and Podman say that a removal is possible soon.
const REMOVAL_SOON: [&str; 2] = ["in progress", "state improper"];
/// Status of a call that changes nothing.
const NOT_MODIFIED: u16 = 304;
/// What engines say in every state that makes a pause or a resume impossible for a moment.
const PAUSE_SOON: &str = "paused";

/// What the engine says about a container.
struct Found {
    state: ContainerState,
    command: ImageCommand,
}

#[async_trait]
impl Engine for Docker {
    fn info(&self) -> EngineInfo {
        self.0.info.clone()
    }

    /// The creation goes on without its caller until the engine has answered, so that nothing appears after a removal.
    async fn create(&self, spec: &ContainerSpec) -> Result<Container, EngineError> {
        let given_up = CancellationToken::new();
        let _guard = given_up.clone().drop_guard();
        let (shared, spec) = (Arc::clone(&self.0), spec.clone());
        let created = tokio::spawn(async move { shared.create_container(&spec, &given_up).await });
        created.await.map_err(EngineError::unavailable)?
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        self.0.containers().await
    }

    async fn remove(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let call = self.0.turns.call(incarnation);
        call.remove();
        let _turn = call.turn().await;
        self.0.remove_container(incarnation).await
    }

    async fn attach_network(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let call = self.0.turns.call(incarnation);
        let _turn = call.turn().await;
        let record = self.0.record(incarnation)?;
        self.0.keep_networks(&record).await?;
        let Some(target) = self.0.networks.of(record.network()) else { return Ok(()) };
        let (_, inspected) = self.0.seen(incarnation).await?;
        let networks = inspected.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        if networks.contains_key(&target) {
            return Ok(());
        }
        let from: Vec<String> = networks.into_keys().collect();
        network::move_to(&self.0.client, &name(incarnation), &from, &target).await
    }

    async fn start(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let call = self.0.turns.call(incarnation);
        let _turn = call.turn().await;
        self.0.start_container(incarnation).await
    }

    async fn stop(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let call = self.0.turns.call(incarnation);
        let _turn = call.turn().await;
        self.0.stop_container(incarnation).await
    }

    async fn pause(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.0.freeze(incarnation, true).await
    }

    async fn resume(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.0.freeze(incarnation, false).await
    }

    async fn connect(&self, incarnation: &Incarnation) -> Result<Connection, EngineError> {
        let (record, inspected) = self.0.seen(incarnation).await?;
        match state(&record, &inspected) {
            ContainerState::Running if record.has_supervisor => {}
            ContainerState::Running => {
                let id = inspected.id.unwrap_or_default();
                // Without one, every process would seem to be of it.
                let is_of_machine = !record.has_own_kernel && !id.is_empty();
                let target = exec::Target { name: name(incarnation), id, is_of_machine };
                return Ok(exec::connect(self.0.client.get().await?, target));
            }
            state => return Err(not_running(&state)),
        }
        let stream = host::connect(&socket(&self.0.folders.of(incarnation))).await?;
        // Whatever is there, only process 1 is the supervisor.
        if peer(&stream).is_none_or(|pid| pid_of(&inspected) != Some(pid)) {
            return Err(EngineError::failed("another process than the supervisor answers on its socket"));
        }
        Ok(Box::new(stream))
    }

    async fn usage(&self, incarnation: &Incarnation) -> Result<Usage, EngineError> {
        let (record, inspected) = self.0.seen(incarnation).await?;
        match (state(&record, &inspected), pid_of(&inspected)) {
            (ContainerState::Running | ContainerState::Paused, Some(pid)) => {
                Ok(Cgroups::of_process(pid).usage())
            }
            (state, _) => Err(not_running(&state)),
        }
    }

    async fn images(&self) -> Result<Vec<LocalImage>, EngineError> {
        self.0.all_images().await
    }

    async fn commit(&self, incarnation: &Incarnation, image: &str) -> Result<(), EngineError> {
        let call = self.0.turns.call(incarnation);
        let _turn = call.turn().await;
        let (_, inspected) = self.0.seen(incarnation).await?;
        let origin = inspected.image.unwrap_or_default();
        self.0.commit_container(&name(incarnation), &origin, image).await
    }
}

// === impl Shared ===

impl Shared {
    /// Every container of this runner: those of the engine, and those whose creation has not reached it.
    async fn containers(&self) -> Result<Vec<Container>, EngineError> {
        let labels =
            [format!("{LABEL_FLEET}={}", self.owner.fleet), format!("{LABEL_RUNNER}={}", self.owner.runner)];
        // Before the engine is asked: what appears in between is listed next time.
        let records = self.records()?;
        let filters = HashMap::from([("label".to_owned(), labels.to_vec())]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let engine = self.client.get().await?;
        let listed = self.client.settled(|| engine.list_containers(Some(options.clone()))).await?;
        let mut of_engine: BTreeMap<_, _> = listed
            .into_iter()
            .filter_map(|summary| {
                let labels = summary.labels.as_ref()?;
                let incarnation = Incarnation::parse(labels.get(LABEL_INCARNATION)?).ok()?;
                let sandbox = SandboxId::parse(labels.get(LABEL_SANDBOX)?).ok()?;
                Some((incarnation, (sandbox, summary)))
            })
            .collect();
        let mut found = Vec::with_capacity(records.len());
        for (record, was_busy) in records {
            let Some((sandbox, incarnation, created_at)) = record.labels() else { continue };
            let summary = of_engine.remove(&incarnation).map(|(_, summary)| summary);
            // A creation may have ended since its record was read.
            let is_created =
                record.phase == Phase::Creating && (was_busy || self.turns.is_busy(&incarnation));
            let Found { state, command } = if is_created {
                Found { state: ContainerState::Creating, command: ImageCommand::default() }
            } else {
                of_summary(&record, summary)
            };
            let endpoints = record.endpoints();
            found.push(Container { sandbox, incarnation, state, endpoints, created_at, command });
        }
        let left = of_engine.into_iter().map(|(incarnation, (sandbox, summary))| Container {
            sandbox,
            incarnation,
            state: ContainerState::Failed {
                reason: "the machine was restarted, or its folder is gone".to_owned(),
            },
            endpoints: Vec::new(),
            created_at: UnixSeconds::new(summary.created.unwrap_or_default().unsigned_abs()),
            command: ImageCommand::default(),
        });
        // One that was created or removed meanwhile is not one without a folder.
        found.extend(left.filter(|container| {
            let record = self.record(&container.incarnation);
            !self.turns.is_busy(&container.incarnation)
                && matches!(record, Err(EngineError::Gone | EngineError::Failed { .. }))
        }));
        Ok(found)
    }

    /// The record of each sandbox, and whether a call was changing it then.
    fn records(&self) -> Result<Vec<(Record, bool)>, EngineError> {
        let mut records = Vec::new();
        for incarnation in self.folders.incarnations().map_err(EngineError::unavailable)? {
            let is_busy = self.turns.is_busy(&incarnation);
            match self.record(&incarnation) {
                Ok(record) => records.push((record, is_busy)),
                // It was removed meanwhile, or nothing is known about it: the next start removes it.
                Err(EngineError::Gone | EngineError::Failed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// The record of a sandbox.
    fn record(&self, incarnation: &Incarnation) -> Result<Record, EngineError> {
        Record::read(self.folders.of(incarnation).path()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => EngineError::Gone,
            _ if is_no_record(&error) => EngineError::failed(error),
            // A list without it would say that it is gone.
            _ => EngineError::unavailable(error),
        })
    }

    /// A container as the adapter and the engine see it.
    async fn seen(
        &self,
        incarnation: &Incarnation,
    ) -> Result<(Record, ContainerInspectResponse), EngineError> {
        let record = self.record(incarnation)?;
        let (engine, name) = (self.client.get().await?, name(incarnation));
        let inspected = self.client.settled(|| engine.inspect_container(&name, None)).await?;
        Ok((record, inspected))
    }

    async fn remove_container(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let record = self.record(incarnation);
        // Without a record its name does not say whose it is: several runners may share the engine.
        let is_own = !matches!(record, Err(EngineError::Gone)) || self.is_own(incarnation).await?;
        if is_own {
            self.remove_of_engine(&name(incarnation)).await?;
        }
        let own = self.folders.of(incarnation);
        let deleted = tokio::task::spawn_blocking(move || own.delete()).await;
        deleted.map_err(EngineError::unavailable)?.map_err(EngineError::unavailable)?;
        self.ports.release(incarnation);
        let needed_network = is_own && record.map_or(true, |record| record.needs_network());
        if let Some(error) = if needed_network { self.delete_unused_networks().await.err() } else { None } {
            // The container is gone; the next removal, or the next start of the runner, deletes them.
            tracing::warn!(error = %error, "networks that no container needs cannot be deleted now");
        }
        Ok(())
    }

    /// Whether the engine has this container, and it is of this runner.
    async fn is_own(&self, incarnation: &Incarnation) -> Result<bool, EngineError> {
        let inspected = self.client.get().await?.inspect_container(&name(incarnation), None).await;
        let found = match inspected.map_err(|error| self.client.failed(error)) {
            Ok(found) => found,
            Err(EngineError::Gone) => return Ok(false),
            Err(error) => return Err(EngineError::unavailable(error)),
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let Owner { fleet, runner } = &self.owner;
        Ok(labels.get(LABEL_FLEET) == Some(fleet) && labels.get(LABEL_RUNNER) == Some(runner))
    }

    /// Makes networks and rules anew if something has removed them, such as a restart of the machine's firewall.
    pub(crate) async fn keep_networks(&self, record: &Record) -> Result<(), EngineError> {
        if !record.needs_network() {
            return Ok(());
        }
        let _turn = self.networks.turn.lock().await;
        self.networks.make(&self.client).await
    }

    /// Deletes the networks if no container needs them.
    pub(crate) async fn delete_unused_networks(&self) -> Result<(), EngineError> {
        let _turn = self.networks.turn.lock().await;
        if self.records()?.iter().any(|(record, _)| record.needs_network()) {
            return Ok(());
        }
        self.networks.delete(&self.client).await
    }

    /// Removes a container from the engine, and returns when it is gone.
    pub(crate) async fn remove_of_engine(&self, container: &str) -> Result<(), EngineError> {
        let gone = tokio::time::timeout(REMOVAL_TIMEOUT, async {
            loop {
                let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                let removed = self.client.get().await?.remove_container(container, Some(options)).await;
                match removed.map_err(|error| self.client.failed(error)) {
                    Ok(()) | Err(EngineError::Gone) => return Ok(()),
                    // Another call removes it, or its end is not noted yet.
                    Err(EngineError::Unavailable { reason } | EngineError::Failed { reason })
                        if REMOVAL_SOON.iter().any(|words| reason.contains(words)) =>
                    {
                        self.clock.sleep(LOOK_PAUSE).await;
                    }
                    Err(error) => return Err(EngineError::unavailable(error)),
                }
            }
        });
        gone.await
            .unwrap_or_else(|_| Err(EngineError::unavailable("the engine removes it, but has not finished")))
    }

    async fn stop_container(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let (mut record, inspected) = self.seen(incarnation).await?;
        let engine = self.client.get().await?;
        match state(&record, &inspected) {
            ContainerState::Stopped => return Ok(()),
            ContainerState::Running | ContainerState::Exited => {}
            // Podman stops no paused one.
            ContainerState::Paused => {
                let resumed = engine.unpause_container(&name(incarnation)).await;
                resumed.map_err(|error| self.client.failed(error))?;
            }
            state => return Err(not_running(&state)),
        }
        let options = StopContainerOptionsBuilder::new().t(0).build();
        match engine.stop_container(&name(incarnation), Some(options)).await {
            Ok(()) => {}
            Err(error) if status(&error) == Some(NOT_MODIFIED) => {}
            Err(error) => return Err(self.client.failed(error)),
        }
        record.phase = Phase::Stopped;
        record.write(self.folders.of(incarnation).path()).map_err(EngineError::unavailable)
    }

    async fn freeze(&self, incarnation: &Incarnation, is_frozen: bool) -> Result<(), EngineError> {
        let call = self.turns.call(incarnation);
        let _turn = call.turn().await;
        let (record, inspected) = self.seen(incarnation).await?;
        match state(&record, &inspected) {
            ContainerState::Running if is_frozen => {}
            ContainerState::Paused if !is_frozen => {}
            ContainerState::Running | ContainerState::Paused => return Ok(()),
            state => return Err(not_running(&state)),
        }
        let (engine, container) = (self.client.get().await?, name(incarnation));
        let done = if is_frozen {
            engine.pause_container(&container).await
        } else {
            engine.unpause_container(&container).await
        };
        done.map_err(|error| match status(&error) {
            // Pause and resume in quick succession: the caller may repeat.
            Some(_) if error.to_string().contains(PAUSE_SOON) => EngineError::unavailable(error),
            _ => self.client.failed(error),
        })
    }
}

/// The socket of a supervisor, in a folder that the container sees.
fn socket(own: &Own) -> PathBuf {
    control(own).join("socket")
}

fn control(own: &Own) -> PathBuf {
    own.path().join("control")
}

/// The process at the other end of a connection.
fn peer(stream: &UnixStream) -> Option<i32> {
    stream.peer_cred().ok()?.pid()
}

/// Process 1 of a container, as this machine sees it.
fn pid_of(inspected: &ContainerInspectResponse) -> Option<i32> {
    let pid = inspected.state.as_ref()?.pid?;
    i32::try_from(pid).ok().filter(|pid| *pid > 0)
}

fn of_summary(record: &Record, summary: Option<ContainerSummary>) -> Found {
    let Some(ContainerSummary { state, labels, .. }) = summary else {
        return Found { state: judge(record, None), command: ImageCommand::default() };
    };
    let command = command_of(&labels.unwrap_or_default());
    Found { state: judge(record, Some(state.map(|state| state.to_string()).unwrap_or_default())), command }
}

/// The state of a container for the call whose turn it is: nothing else is creating it.
fn state(record: &Record, inspected: &ContainerInspectResponse) -> ContainerState {
    let status = inspected.state.as_ref().and_then(|state| state.status);
    judge(record, Some(status.map(|status| status.to_string()).unwrap_or_default()))
}

/// The state of a container of which the engine says this; nothing if it does not have it.
fn judge(record: &Record, said: Option<String>) -> ContainerState {
    let failed = |reason: &str| ContainerState::Failed { reason: reason.to_owned() };
    match (record.phase, said.as_deref()) {
        (Phase::Creating, _) => failed("its creation was interrupted"),
        (_, None) => failed("the engine does not have it any more"),
        (_, Some("running" | "stopping" | "restarting")) => ContainerState::Running,
        (_, Some("paused")) => ContainerState::Paused,
        (Phase::Stopped, Some("exited" | "created")) => ContainerState::Stopped,
        (Phase::Running, Some("exited" | "created")) => ContainerState::Exited,
        // It is being removed, or cannot be.
        _ => failed("the engine cannot use it any more"),
    }
}
