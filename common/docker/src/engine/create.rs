//! Creates and starts sandboxes.

use super::{control, judge, peer, socket, state};
use crate::Shared;
use crate::failure::is_port_conflict;
use crate::images::FoundImage;
use crate::record::Record;
use crate::spec::{View, body, name};
use bollard::errors::Error;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, WaitContainerOptionsBuilder,
};
use domain::UnixSeconds;
use futures_util::StreamExt as _;
use host::folders::{Own, make_private};
use host::record::Phase;
use host::{LOOK_PAUSE, WORKSPACE_INSIDE, complaint, not_running, of_io};
use ports::engine::{
    Container, ContainerSpec, ContainerState, EngineError, Image, Incarnation, Network, PublishedPort,
    Runtime, Workspace,
};
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;
use supervisor::Client;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// Time-out from the start of a container to the answer of its supervisor.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts with other ports of the node, if something else takes one meanwhile.
const PORT_ATTEMPTS_MAX: u32 = 5;
/// What the kernel's list of mounts says of a folder in memory.
const IN_MEMORY: &str = " - tmpfs ";
/// Owner of the folder of the socket while the supervisor makes it there.
const SUPERVISOR_USER: u32 = 0;
/// Its owner from then on: no command is this user, and root inside has no capability to write to folders of others. Else it
/// could put another socket there, and fill the state folder.
const NO_USER: u32 = u32::MAX - 1;

/// Whether a creation is still wanted.
struct Wanted<'a> {
    call: &'a host::turns::Call<'a>,
    given_up: &'a CancellationToken,
}

// === impl Wanted ===

impl Wanted<'_> {
    /// Runs a step that can be left at any point.
    async fn step<T>(&self, step: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
        tokio::select! {
            biased;
            () = self.call.removed() => Err(EngineError::Gone),
            () = self.given_up.cancelled() => Err(gave_up()),
            result = step => result,
        }
    }

    /// After a step that has to be finished.
    fn check(&self) -> Result<(), EngineError> {
        if self.call.is_removed() {
            return Err(EngineError::Gone);
        }
        if self.given_up.is_cancelled() { Err(gave_up()) } else { Ok(()) }
    }
}

fn gave_up() -> EngineError {
    EngineError::unavailable("the caller gave up")
}

// === impl Shared ===

impl Shared {
    pub(super) async fn create_container(
        &self,
        spec: &ContainerSpec,
        given_up: &CancellationToken,
    ) -> Result<Container, EngineError> {
        spec.check()?;
        self.info.check(spec)?;
        if spec.user == NO_USER {
            return Err(EngineError::refused(format!("the user {NO_USER} is kept for the runner")));
        }
        let call = self.turns.call(&spec.incarnation);
        let _turn = call.turn().await;
        let wanted = Wanted { call: &call, given_up };
        match self.record(&spec.incarnation) {
            Err(EngineError::Gone) => {}
            Ok(record) => return self.existing(&record).await,
            Err(error) => return Err(error),
        }
        let Image::Reference(image) = &spec.image else {
            return Err(EngineError::refused(
                "this engine has images of its own; name one, such as `nginx:alpine`",
            ));
        };
        let image = wanted.step(self.image(image)).await?;
        wanted.check()?;
        let own = self.folders.of(&spec.incarnation);
        own.create().map_err(of_io)?;
        let mut record = Record {
            sandbox: spec.sandbox.as_str().to_owned(),
            incarnation: spec.incarnation.to_string(),
            created_at: self.clock.now().get(),
            phase: Phase::Creating,
            network: <&str>::from(spec.network).to_owned(),
            ports: Vec::new(),
            has_supervisor: spec.first.is_none(),
            has_own_kernel: spec.runtime.is_some_and(Runtime::has_own_kernel),
        };
        let made = self.make(spec, &own, &mut record, &image, &wanted).await;
        match made {
            Ok(()) => {
                record.phase = Phase::Running;
                record.write(own.path()).map_err(of_io)?;
                if !record.has_supervisor {
                    // Only the engine knows whether it still runs.
                    return self.existing(&record).await;
                }
                Ok(Container {
                    sandbox: spec.sandbox.clone(),
                    incarnation: spec.incarnation,
                    state: ContainerState::Running,
                    endpoints: record.endpoints(),
                    created_at: UnixSeconds::new(record.created_at),
                    command: image.command,
                })
            }
            // It is listed as failed until it is removed, as after the end of this process.
            Err(error) if given_up.is_cancelled() => Err(error),
            Err(error) => {
                // Whatever cannot be removed now stays in the list as failed.
                let _ = self.remove_container(&spec.incarnation).await;
                Err(error)
            }
        }
    }

    /// A container that is not being created.
    async fn existing(&self, record: &Record) -> Result<Container, EngineError> {
        let (_, incarnation, _) = record.labels().ok_or(EngineError::Gone)?;
        let listed = self.containers().await?;
        let mut container =
            listed.into_iter().find(|one| one.incarnation == incarnation).ok_or(EngineError::Gone)?;
        if container.state == ContainerState::Creating {
            container.state = judge(record, None);
        }
        Ok(container)
    }

    /// Makes the files of a sandbox, its record first, and its container.
    async fn make(
        &self,
        spec: &ContainerSpec,
        own: &Own,
        record: &mut Record,
        image: &FoundImage,
        wanted: &Wanted<'_>,
    ) -> Result<(), EngineError> {
        record.write(own.path()).map_err(of_io)?;
        make_private(&control(own)).map_err(of_io)?;
        let bytes = (spec.workspace == Workspace::Memory).then_some(spec.limits.disk_bytes);
        let workspace = own.make_workspace(bytes, Some(spec.user)).map_err(of_io)?;
        let needs_network = spec.network != Network::None || !spec.ports.is_empty();
        let first = self.networks.first(needs_network);
        let engine = self.client.get().await?;
        let mut refused = HashSet::new();
        for attempt in 1.. {
            record.ports =
                self.ports.reserve(&spec.incarnation, &spec.ports, |port| !refused.contains(&port))?;
            record.write(own.path()).map_err(of_io)?;
            // From now on the record keeps them.
            self.keep_networks(record).await?;
            let view = View {
                supervisor: &self.folders.supervisor(),
                control: &control(own),
                workspace: &workspace,
                network: &first,
                ports: &record.ports,
                runtime: spec.runtime.and_then(|runtime| self.runtimes.name(runtime)),
                user_processes: self.user_processes,
            };
            let body = body(spec, image, &self.owner, &view);
            let container = name(&spec.incarnation);
            let options = CreateContainerOptionsBuilder::new().name(&container).build();
            let created = engine.create_container(Some(options), body).await;
            created.map_err(|error| match self.client.failed(error) {
                // It was there a moment ago.
                EngineError::Gone => {
                    EngineError::unavailable(format!("the image `{}` was removed meanwhile", image.name))
                }
                error => error,
            })?;
            wanted.check()?;
            let started =
                engine.start_container(&container, None).await.map_err(|error| self.client.failed(error));
            wanted.check()?;
            match started {
                Err(error)
                    if is_port_conflict(&error)
                        && attempt < PORT_ATTEMPTS_MAX
                        && is_free_choice(&spec.ports) =>
                {
                    self.remove_of_engine(&container).await?;
                    self.ports.release(&spec.incarnation);
                    // They may look free from here, and would be the first choice again.
                    refused.extend(record.ports.iter().map(|port| port.outside.port()));
                }
                Err(error) if is_port_conflict(&error) => {
                    return Err(EngineError::Full { reason: "its ports of the node are in use".to_owned() });
                }
                started => {
                    started?;
                    break;
                }
            }
        }
        if record.has_supervisor {
            wanted.step(self.ready(own, &name(&spec.incarnation), bytes.is_some())).await?;
        }
        wanted.check()
    }

    /// Waits until the supervisor answers.
    async fn ready(&self, own: &Own, container: &str, is_in_memory: bool) -> Result<(), EngineError> {
        let engine = self.client.get().await?;
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut ended = engine.wait_container(container, Some(options));
        let answered = async {
            let stream = loop {
                match UnixStream::connect(socket(own)).await {
                    Ok(stream) => break stream,
                    Err(_) => self.clock.sleep(LOOK_PAUSE).await,
                }
            };
            let pid = peer(&stream);
            Client::connect(stream).await.map_err(EngineError::failed)?;
            give(&control(own), NO_USER).map_err(of_io)?;
            if is_in_memory && !pid.is_some_and(sees_memory) {
                let reason = "the engine does not see the folders that the runner makes in memory; \
                              start the runner in the mount namespace of the engine";
                return Err(EngineError::unavailable(reason));
            }
            Ok(())
        };
        let ready = tokio::time::timeout(START_TIMEOUT, async {
            tokio::select! {
                biased;
                answered = answered => answered,
                ended = ended.next() => Err(match ended {
                    Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })) => {
                        EngineError::failed(format!("it ended: {}", self.complaint(container).await))
                    }
                    Some(Err(error)) => self.client.failed(error),
                    None => EngineError::unavailable("the engine has ended"),
                }),
            }
        });
        ready
            .await
            .unwrap_or_else(|_| Err(EngineError::failed(format!("not ready within {START_TIMEOUT:?}"))))
    }

    /// The last line that process 1 wrote.
    async fn complaint(&self, container: &str) -> String {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("1").build();
        let line = match self.client.get().await {
            Ok(engine) => engine.logs(container, Some(options)).next().await,
            Err(_) => None,
        };
        let text = line.and_then(Result::ok).map(|line| line.to_string()).unwrap_or_default();
        complaint(&text).to_owned()
    }

    pub(super) async fn start_container(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let (mut record, inspected) = self.seen(incarnation).await?;
        let own = self.folders.of(incarnation);
        let container = name(incarnation);
        match state(&record, &inspected) {
            ContainerState::Running if record.phase == Phase::Running && !is_of_supervisor(&own) => {
                return Ok(());
            }
            // A former start was interrupted before its end.
            ContainerState::Running => return self.finish_start(&own, &container, &mut record).await,
            ContainerState::Stopped | ContainerState::Exited => {}
            state => return Err(not_running(&state)),
        }
        self.keep_networks(&record).await?;
        if record.has_supervisor {
            // That of the former process; nothing listens there.
            let _ = std::fs::remove_file(socket(&own));
            give(&control(&own), SUPERVISOR_USER).map_err(of_io)?;
        }
        let started = self.client.get().await?.start_container(&container, None).await;
        started.map_err(|error| match self.client.failed(error) {
            // It was there a moment ago: something else that it needs is missing.
            EngineError::Gone => {
                EngineError::unavailable("a network or a folder of it is missing; repeat the start")
            }
            error => error,
        })?;
        self.finish_start(&own, &container, &mut record).await
    }

    async fn finish_start(&self, own: &Own, container: &str, record: &mut Record) -> Result<(), EngineError> {
        if record.has_supervisor {
            self.ready(own, container, false).await?;
        }
        record.phase = Phase::Running;
        record.write(own.path()).map_err(of_io)
    }
}

/// Whether the folder of the socket still belongs to the supervisor.
fn is_of_supervisor(own: &Own) -> bool {
    std::fs::metadata(control(own)).is_ok_and(|found| found.uid() == SUPERVISOR_USER)
}

/// Gives a folder to this user, and its group.
fn give(folder: &Path, user: u32) -> io::Result<()> {
    std::os::unix::fs::chown(folder, Some(user), Some(user))
}

/// Whether the engine may choose every port of the node.
fn is_free_choice(ports: &[PublishedPort]) -> bool {
    ports.iter().all(|port| port.outside.is_none())
}

/// Whether the workspace of a process is in memory.
fn sees_memory(pid: i32) -> bool {
    let mounts = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("mountinfo"));
    let workspace = format!(" {WORKSPACE_INSIDE} ");
    mounts
        .is_ok_and(|mounts| mounts.lines().any(|line| line.contains(&workspace) && line.contains(IN_MEMORY)))
}
