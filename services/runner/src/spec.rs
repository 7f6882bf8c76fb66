//! What a template becomes on this node, and why a node cannot serve it.

use domain::template::{Image as NamedImage, Isolation, Network, Readiness, Runtime};
use domain::{SandboxId, TemplateSpec};
use ports::engine::{
    ContainerSpec, EngineInfo, Feature, Image, Incarnation, Limits, PublishedPort, Workspace,
};
use std::collections::BTreeMap;
use std::path::Path;

/// Where engines put the workspace.
pub(crate) const WORKSPACE: &str = "/workspace";
/// Largest workspace in memory, in MiB. It counts as memory of the container, but its size is limited on every machine; a
/// larger one is on disk.
const WORKSPACE_IN_MEMORY_MB_MAX: u32 = 64;
/// Ending of an archive among the images.
const ARCHIVE: &str = "tar";
const MIB: u64 = 1_024 * 1_024;

/// What a container of a template is created from, with this environment. Its image has to be on this node, or at its engine.
pub(crate) fn container_spec(
    template: &TemplateSpec,
    image: Image,
    sandbox: SandboxId,
    incarnation: Incarnation,
    env: BTreeMap<String, String>,
) -> ContainerSpec {
    let (disk_bytes, tmp_bytes) = (bytes(template.workspace_mb), bytes(template.tmpfs_mb));
    let is_small = template.workspace_mb <= WORKSPACE_IN_MEMORY_MB_MAX
        && template.workspace_mb.saturating_add(template.tmpfs_mb) <= template.memory_mb;
    let rest = ContainerSpec::new(sandbox, incarnation, image);
    ContainerSpec {
        limits: Limits {
            cpu_milli: template.cpu_milli,
            memory_bytes: bytes(template.memory_mb),
            pids: template.pids,
            disk_bytes,
            tmp_bytes,
            // No file is larger than the folder that it is in.
            file_bytes: disk_bytes.max(tmp_bytes),
            ..rest.limits
        },
        user: template.user,
        network: template.network,
        ports: template.ports.iter().map(|port| PublishedPort { inside: *port, outside: None }).collect(),
        env,
        workspace: if is_small { Workspace::Memory } else { Workspace::Disk },
        runtime: template.runtime,
        first: (!template.has_supervisor).then(|| template.command.clone()),
        ..rest
    }
}

/// The image of a template as this node has it, or as its engine fetches it; none if it does not.
pub(crate) fn find_image(images: &Path, image: &NamedImage, isolation: Isolation) -> Option<Image> {
    let name = match image {
        NamedImage::Host => return Some(Image::Host),
        NamedImage::Named(name) if isolation == Isolation::Container => {
            return Some(Image::Reference(name.clone()));
        }
        NamedImage::Named(name) => name,
    };
    let folder = std::path::absolute(images.join(name)).ok()?;
    if folder.is_dir() {
        return Some(Image::Folder(folder));
    }
    let archive = std::path::absolute(images.join(format!("{name}.{ARCHIVE}"))).ok()?;
    archive.is_file().then_some(Image::Archive(archive))
}

/// Why this engine cannot create the containers of a template; none if it can.
pub(crate) fn why_not(template: &TemplateSpec, engine: &EngineInfo) -> Option<String> {
    let name = engine.name;
    let needed = [
        (template.network == Network::Internal, Feature::InternalNetwork),
        (template.network == Network::Open, Feature::OpenNetwork),
        (!template.ports.is_empty(), Feature::PublishedPorts),
    ];
    let lacking = needed.into_iter().filter(|(is_needed, _)| *is_needed).find_map(|(_, feature)| {
        engine.why_not(feature).map(|reason| format!("{feature} is not supported: {reason}"))
    });
    if template.isolation != engine.isolation {
        let (asked, has): (&str, &str) = (template.isolation.into(), engine.isolation.into());
        return Some(format!("the template needs isolation `{asked}`, and the engine {name} has `{has}`"));
    }
    if let Some(runtime) = template.runtime.filter(|runtime| !engine.runtimes.contains(runtime)) {
        let runtime: &str = runtime.into();
        return Some(format!("the engine {name} has no runtime `{runtime}`"));
    }
    if template.is_untrusted && !template.runtime.is_some_and(Runtime::has_own_kernel) {
        return Some(format!("the engine {name} runs untrusted code only in `runsc` or `kata`"));
    }
    if template.has_supervisor && template.runtime.is_some_and(Runtime::has_own_kernel) {
        // Its socket is a file of the node.
        return Some(
            "the supervisor cannot be reached in `runsc` and `kata`: set supervisor to false".to_owned(),
        );
    }
    if !template.has_supervisor && template.isolation == Isolation::Process {
        return Some(format!("the engine {name} needs a supervisor"));
    }
    if template.workspace != WORKSPACE {
        return Some(format!("the workspace can only be {WORKSPACE}"));
    }
    match template.readiness {
        Readiness::Tcp { port } | Readiness::Http { port, .. } if !template.ports.contains(&port) => {
            return Some(format!("readiness needs port {port}, which the template does not publish"));
        }
        _ => {}
    }
    lacking
}

fn bytes(mib: u32) -> u64 {
    u64::from(mib).saturating_mul(MIB)
}

#[cfg(test)]
mod tests;
