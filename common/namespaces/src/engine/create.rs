//! Creates and starts sandboxes.

use super::state;
use crate::Namespaces;
use crate::arguments::{Starter, View, arguments, has_folder};
use crate::etc;
use crate::image;
use crate::launch::Wrapper;
use crate::network::Attachment;
use crate::record::{Plan, Record, boot};
use host::folders::Own;
use host::not_running;
use host::of_io;
use host::record::Phase;
use ports::engine::{
    Container, ContainerSpec, ContainerState, EngineError, Image, Incarnation, Network, Workspace,
};
use rustix::process::{Resource, getrlimit};
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Namespaces {
    pub(super) async fn create_container(&self, spec: &ContainerSpec) -> Result<Container, EngineError> {
        spec.check()?;
        self.check(spec)?;
        let call = self.turns.call(&spec.incarnation);
        let _turn = call.turn().await;
        tokio::select! {
            biased;
            () = call.removed() => Err(EngineError::Gone),
            result = self.create_once(spec) => result,
        }
    }

    async fn create_once(&self, spec: &ContainerSpec) -> Result<Container, EngineError> {
        match self.record(&spec.incarnation) {
            Err(EngineError::Gone) => {}
            existing => return self.existing(&existing?),
        }
        let image = self.image(&spec.image).await?;
        let own = self.folders.of(&spec.incarnation);
        own.create().map_err(of_io)?;
        let mut record = Record {
            fleet: self.fleet.clone(),
            sandbox: spec.sandbox.as_str().to_owned(),
            incarnation: spec.incarnation.to_string(),
            created_at: self.clock.now().get(),
            boot: boot(),
            phase: Phase::Creating,
            plan: self.plan(spec),
            group: self.cgroups.group(&self.group_name(&spec.incarnation)),
            processes: Vec::new(),
            network: self.network(spec),
        };
        let reserved = self.networks.reserve(&spec.incarnation, &spec.ports, &mut record.network);
        let prepared = reserved.and_then(|()| self.prepare(spec, &own, image.as_deref(), &mut record));
        let result = match prepared {
            Ok(()) => self.launch(&own, &mut record).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => self.existing(&record),
            Err(error) => {
                // Whatever cannot be removed now stays in the list as failed.
                if self.end_all(&own, &record).await.is_ok() {
                    let _ = self.delete(&own, &spec.incarnation).await;
                }
                Err(error)
            }
        }
    }

    /// A container that is not being created.
    fn existing(&self, record: &Record) -> Result<Container, EngineError> {
        let mut container = self.container(record).ok_or(EngineError::Gone)?;
        container.state = state(record);
        Ok(container)
    }

    /// Checks what depends on this machine.
    fn check(&self, spec: &ContainerSpec) -> Result<(), EngineError> {
        self.info.check(spec)?;
        let files_max = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        match &spec.image {
            Image::Reference(_) => {
                Err(EngineError::refused("this engine has no registry; name a folder, an archive or `host`"))
            }
            _ if spec.first.is_some() => {
                Err(EngineError::refused("this engine needs the supervisor as process 1"))
            }
            Image::Host if !spec.read_only_root => {
                Err(EngineError::refused("the image `host` is always read-only"))
            }
            Image::Folder(path) | Image::Archive(path) if path.to_str().is_none() => {
                Err(EngineError::refused("the path of the image is not UTF-8"))
            }
            _ if spec.limits.files > files_max => {
                Err(EngineError::refused(format!("this machine allows at most {files_max} open files")))
            }
            _ => Ok(()),
        }
    }

    /// The folder of an image; none for the machine's own root folder.
    async fn image(&self, image: &Image) -> Result<Option<PathBuf>, EngineError> {
        match image {
            Image::Host | Image::Reference(_) => Ok(None),
            Image::Folder(path) => Ok(Some(path.clone())),
            Image::Archive(path) => {
                let (archive, archives) = (path.clone(), Arc::clone(&self.archives));
                let unpacked = tokio::task::spawn_blocking(move || archives.folder(&archive)).await;
                unpacked.map_err(EngineError::unavailable)?.map(Some)
            }
        }
    }

    fn plan(&self, spec: &ContainerSpec) -> Plan {
        let limits = spec.limits;
        Plan {
            arguments: Vec::new(),
            cpu_milli: limits.cpu_milli,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            file_bytes: limits.file_bytes,
            files: limits.files,
            is_workspace_lost: !has_folder(spec.workspace, self.starter),
            has_mounts: spec.workspace == Workspace::Memory || !spec.read_only_root,
        }
    }

    fn network(&self, spec: &ContainerSpec) -> Attachment {
        let group = self.network_group_name(&spec.incarnation);
        Attachment::new(spec.network, self.cgroups.group(&group))
    }

    /// Makes the files of a sandbox, its record first.
    fn prepare(
        &self,
        spec: &ContainerSpec,
        own: &Own,
        image: Option<&Path>,
        record: &mut Record,
    ) -> Result<(), EngineError> {
        record.write(own.path()).map_err(of_io)?;
        let bytes = (spec.workspace == Workspace::Memory).then_some(spec.limits.disk_bytes);
        let owner = (self.starter == Starter::Root).then_some(spec.user);
        let workspace =
            has_folder(spec.workspace, self.starter).then(|| own.make_workspace(bytes, owner).map_err(of_io));
        let workspace = workspace.transpose()?;
        let mut root = match image {
            Some(image) if spec.read_only_root => image::folder(image)?,
            Some(image) => {
                own.make_root(image, spec.limits.disk_bytes).map_err(of_io)?;
                image::folder(&own.root())?
            }
            None => image::host(&etc::folder(&etc::all(&self.folders), spec.user).map_err(of_io)?)
                .map_err(of_io)?,
        };
        if let Some(image) = image.filter(|_| spec.network == Network::Open) {
            let etc = etc::folder(&etc::all(&self.folders), spec.user).map_err(of_io)?;
            root.extend(image::resolver(image, etc.join(etc::RESOLVER_FILE)));
        }
        let view = View {
            root: &root,
            is_root_writable: !spec.read_only_root,
            workspace: workspace.as_deref(),
            supervisor: &self.folders.supervisor(),
        };
        record.plan.arguments = arguments(spec, &view, self.starter);
        Ok(())
    }

    /// Starts the processes. The record is written before, between and after.
    async fn launch(&self, own: &Own, record: &mut Record) -> Result<(), EngineError> {
        let wrapper = Wrapper(&self.wrapper);
        let (plan, group) = (record.plan.clone(), record.group.clone());
        let noted = |processes| {
            record.processes = processes;
            record.write(own.path())
        };
        wrapper.start(own, &plan, &group, noted).await?;
        let network = record.network.clone();
        self.connect_network(own, record, network).await?;
        record.phase = Phase::Running;
        record.write(own.path()).map_err(of_io)
    }

    pub(super) async fn start_container(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let call = self.turns.call(incarnation);
        let _turn = call.turn().await;
        let mut record = self.record(incarnation)?;
        match state(&record) {
            ContainerState::Running => Ok(()),
            ContainerState::Stopped | ContainerState::Exited if record.plan.is_workspace_lost => {
                Err(EngineError::refused("its workspace was in memory and ended with its processes"))
            }
            ContainerState::Stopped | ContainerState::Exited => {
                let own = self.folders.of(incarnation);
                self.end_all(&own, &record).await?;
                record.phase = Phase::Stopped;
                record.boot = boot();
                // A former process may have had other groups.
                record.group = self.cgroups.group(&self.group_name(incarnation));
                record.network.forget_process(self.cgroups.group(&self.network_group_name(incarnation)));
                let result = self.launch(&own, &mut record).await;
                if result.is_err() {
                    // Otherwise the next start or the removal ends them.
                    let _ = self.end_all(&own, &record).await;
                }
                result
            }
            state => Err(not_running(&state)),
        }
    }
}
