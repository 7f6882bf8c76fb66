//! What a container is created from, in the words of the engine. Pure, so that a test can read it.

use crate::Owner;
use crate::images::FoundImage;
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountType, PortBinding, ResourcesUlimits,
};
use host::cgroups::OWN_PIDS;
use host::published::Port;
use host::{
    SUPERVISOR_CAPABILITIES, SUPERVISOR_INSIDE as SUPERVISOR, WORKSPACE_INSIDE as WORKSPACE, hostname,
};
use ports::engine::{ContainerSpec, ImageCommand, Incarnation, Limits, Network};
use std::collections::HashMap;
use std::path::Path;

/// The labels of a container, by which this adapter finds its own ones.
pub(crate) const LABEL_FLEET: &str = "sandbox-broker.fleet";
pub(crate) const LABEL_RUNNER: &str = "sandbox-broker.runner";
pub(crate) const LABEL_SANDBOX: &str = "sandbox-broker.sandbox";
pub(crate) const LABEL_INCARNATION: &str = "sandbox-broker.incarnation";
/// The command of the image, as JSON.
const LABEL_COMMAND: &str = "sandbox-broker.command";
const LABEL_FOLDER: &str = "sandbox-broker.folder";
/// All of them.
pub(crate) const LABELS: [&str; 6] =
    [LABEL_FLEET, LABEL_RUNNER, LABEL_SANDBOX, LABEL_INCARNATION, LABEL_COMMAND, LABEL_FOLDER];
/// The folder of its socket, and the socket.
const CONTROL: &str = "/run/control";
const SOCKET: &str = "/run/control/socket";
/// The user of the supervisor, which becomes that of each command.
const ROOT: &str = "0:0";
/// Thousandths of a processor in the engine's unit.
const NANO_CPUS_PER_MILLI: i64 = 1_000_000;
/// What an engine keeps of the output of process 1; that of commands is kept by the supervisor.
const LOG_SIZE_MAX: &str = "1m";
/// A resolver that does not exist, for containers that may reach nothing: the engine's own would ask outside for them.
const NO_RESOLVER: &str = "127.0.0.1";

/// What is outside for a container.
pub(crate) struct View<'a> {
    /// The supervisor's program.
    pub(crate) supervisor: &'a Path,
    /// The folder of its socket.
    pub(crate) control: &'a Path,
    /// The folder of the workspace.
    pub(crate) workspace: &'a Path,
    /// The network that it begins in.
    pub(crate) network: &'a str,
    /// Its published ports.
    pub(crate) ports: &'a [Port],
    /// How the engine calls what runs it.
    pub(crate) runtime: Option<&'a str>,
    /// The limit of processes of a user, where the engine's own choice is not possible.
    pub(crate) user_processes: Option<u64>,
}

/// The name of a container.
pub(crate) fn name(incarnation: &Incarnation) -> String {
    format!("sandbox-{incarnation}")
}

/// What a container is created from.
pub(crate) fn body(
    spec: &ContainerSpec,
    image: &FoundImage,
    owner: &Owner,
    view: &View<'_>,
) -> ContainerCreateBody {
    let (user, env, entrypoint, cmd) = match &spec.first {
        None => {
            let entrypoint = [SUPERVISOR, "listen", SOCKET].map(str::to_owned).to_vec();
            (ROOT.to_owned(), None, Some(entrypoint), Some(Vec::new()))
        }
        Some(first) => {
            let env = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let user = format!("{user}:{user}", user = spec.user);
            // An entry point of an image stays unless a command takes its place.
            let entrypoint = (!first.is_empty()).then(Vec::new);
            (user, Some(env), entrypoint, (!first.is_empty()).then(|| first.clone()))
        }
    };
    ContainerCreateBody {
        image: Some(image.name.clone()),
        hostname: Some(hostname(&spec.sandbox).to_owned()),
        user: Some(user),
        env,
        entrypoint,
        cmd,
        // That of the image may need what a sandbox does not have.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        working_dir: spec.first.is_none().then(|| "/".to_owned()),
        exposed_ports: Some(view.ports.iter().map(|port| inside(*port)).collect()),
        labels: Some(labels(spec, &image.command, owner)),
        host_config: Some(host_config(spec, &image.volumes, view)),
        ..ContainerCreateBody::default()
    }
}

fn labels(spec: &ContainerSpec, command: &ImageCommand, owner: &Owner) -> HashMap<String, String> {
    let mut labels = vec![
        (LABEL_FLEET, owner.fleet.clone()),
        (LABEL_RUNNER, owner.runner.clone()),
        (LABEL_SANDBOX, spec.sandbox.to_string()),
        (LABEL_INCARNATION, spec.incarnation.to_string()),
    ];
    // Those of the image would be taken for ours.
    let none = ImageCommand::default();
    let ImageCommand { parts, folder } = if spec.first.is_none() { command } else { &none };
    labels.push((LABEL_COMMAND, serde_json::json!(parts).to_string()));
    labels.push((LABEL_FOLDER, folder.clone()));
    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The command of a container's image, as its labels say it.
pub(crate) fn command_of(labels: &HashMap<String, String>) -> ImageCommand {
    let parts = labels.get(LABEL_COMMAND).and_then(|parts| serde_json::from_str(parts).ok());
    let folder = labels.get(LABEL_FOLDER).cloned().unwrap_or_default();
    ImageCommand { parts: parts.unwrap_or_default(), folder }
}

fn host_config(spec: &ContainerSpec, volumes: &[String], view: &View<'_>) -> HostConfig {
    let Limits { cpu_milli, memory_bytes, pids, disk_bytes: _, tmp_bytes, file_bytes, files } = spec.limits;
    let has_supervisor = spec.first.is_none();
    let tmpfs = |mode: &str| format!("rw,exec,nosuid,nodev,size={tmp_bytes},mode={mode}");
    let bind = |source: &Path, target: &str, is_read_only: bool| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(is_read_only),
        ..Mount::default()
    };
    let mut mounts = vec![bind(view.workspace, WORKSPACE, false)];
    if has_supervisor {
        mounts.push(bind(view.supervisor, SUPERVISOR, true));
        mounts.push(bind(view.control, CONTROL, false));
    }
    let run_mode = if has_supervisor { "0755" } else { "1777" };
    HostConfig {
        memory: Some(signed(memory_bytes)),
        // Memory and swap together.
        memory_swap: Some(signed(memory_bytes)),
        nano_cpus: Some(i64::from(cpu_milli) * NANO_CPUS_PER_MILLI),
        pids_limit: Some(i64::from(pids.saturating_add(OWN_PIDS))),
        ulimits: Some(
            [limit("nofile", files), limit("fsize", file_bytes), limit("core", 0)]
                .into_iter()
                .chain(view.user_processes.map(|processes| limit("nproc", processes)))
                .collect(),
        ),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: has_supervisor.then(|| SUPERVISOR_CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        readonly_rootfs: Some(spec.read_only_root),
        tmpfs: Some(
            [("/tmp", "1777"), ("/run", run_mode)]
                .into_iter()
                .chain(volumes.iter().filter(|path| is_further(path)).map(|path| (path.as_str(), "1777")))
                .map(|(path, mode)| (path.to_owned(), tmpfs(mode)))
                .collect(),
        ),
        shm_size: Some(signed(tmp_bytes)),
        mounts: Some(mounts),
        network_mode: Some(view.network.to_owned()),
        port_bindings: Some(
            view.ports.iter().map(|port| (inside(*port), Some(vec![binding(*port)]))).collect(),
        ),
        dns: (spec.network != Network::Open).then(|| vec![NO_RESOLVER.to_owned()]),
        runtime: view.runtime.map(str::to_owned),
        // Docker's default, and not Podman's: commands are no root, and servers listen on port 80.
        sysctls: Some(HashMap::from([owned(("net.ipv4.ip_unprivileged_port_start", "0"))])),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        ipc_mode: Some("private".to_owned()),
        init: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some([("max-size", LOG_SIZE_MAX), ("max-file", "1")].map(owned).into()),
        }),
        ..HostConfig::default()
    }
}

/// Whether a folder that an image declares as a volume is none that every container has.
fn is_further(path: &str) -> bool {
    let own = ["/tmp", "/run", "/dev", "/proc", "/sys", WORKSPACE];
    let is_below =
        |own: &&str| path.strip_prefix(*own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    path.starts_with('/') && path != "/" && !path.contains([':', ',']) && !own.iter().any(is_below)
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn inside(port: Port) -> String {
    format!("{}/tcp", port.inside)
}

fn binding(Port { inside: _, outside }: Port) -> PortBinding {
    PortBinding { host_ip: Some(outside.ip().to_string()), host_port: Some(outside.port().to_string()) }
}

fn limit(name: &str, value: u64) -> ResourcesUlimits {
    let value = Some(signed(value));
    ResourcesUlimits { name: Some(name.to_owned()), soft: value, hard: value }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::SandboxId;
    use ports::engine::Image;

    fn made(change: impl FnOnce(&mut ContainerSpec)) -> ContainerCreateBody {
        let id = SandboxId::parse("s-1").unwrap();
        let image = Image::Reference("nginx:alpine".to_owned());
        let mut spec = ContainerSpec::new(id, Incarnation::new(uuid::Uuid::nil()), image);
        change(&mut spec);
        let command = ImageCommand { parts: vec!["nginx".to_owned()], folder: "/srv".to_owned() };
        let volumes = ["/data", "/workspace/x", "/tmp", "relative", "/"].map(str::to_owned).to_vec();
        let image = FoundImage { name: "nginx:alpine".to_owned(), command, volumes };
        let owner = Owner { fleet: "f".to_owned(), runner: "/run/r".to_owned() };
        let ports = [Port { inside: 80, outside: "127.0.0.1:30000".parse().unwrap() }];
        let view = View {
            supervisor: Path::new("/state/supervisor"),
            control: Path::new("/state/control"),
            workspace: Path::new("/state/workspace"),
            network: "none",
            ports: &ports,
            runtime: Some("runsc"),
            user_processes: None,
        };
        body(&spec, &image, &owner, &view)
    }

    #[test]
    fn every_container_has_limits_and_few_rights() {
        let host = made(|_| {}).host_config.unwrap();
        let mib = 1024 * 1024;
        assert_eq!((host.memory, host.memory_swap), (Some(512 * mib), Some(512 * mib)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(1_000_000_000), Some(131)));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert!(!host.cap_add.unwrap().iter().any(|name| name.contains("ADMIN") || name.contains("NET")));
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges:true"]);
        assert_eq!((host.readonly_rootfs, host.privileged), (Some(true), None));
        assert_eq!(host.dns.unwrap(), ["127.0.0.1"], "no resolver answers it");
        assert_eq!(host.runtime.as_deref(), Some("runsc"));
        let targets: Vec<_> = host.mounts.unwrap().into_iter().filter_map(|mount| mount.target).collect();
        assert_eq!(targets, ["/workspace", "/run/supervisor", "/run/control"]);
        let tmpfs = host.tmpfs.unwrap();
        let mut memory: Vec<_> = tmpfs.keys().map(String::as_str).collect();
        memory.sort_unstable();
        assert_eq!(memory, ["/data", "/run", "/tmp"], "volumes of images are limited");
        let open = made(|spec| spec.network = Network::Open).host_config.unwrap();
        assert_eq!(open.dns, None);
    }

    #[test]
    fn the_supervisor_is_process_1_and_labels_keep_the_command_of_the_image() {
        let body = made(|_| {});
        assert_eq!(body.entrypoint.unwrap(), ["/run/supervisor", "listen", "/run/control/socket"]);
        assert_eq!((body.user.as_deref(), body.env), (Some("0:0"), None));
        let labels = body.labels.unwrap();
        let command = command_of(&labels);
        assert_eq!((command.parts, command.folder.as_str()), (vec!["nginx".to_owned()], "/srv"));
        assert_eq!(labels[LABEL_SANDBOX], "s-1");
        assert_eq!(command_of(&HashMap::new()), ImageCommand::default());
    }

    #[test]
    fn without_a_supervisor_the_image_or_the_template_says_what_runs() {
        let image = made(|spec| spec.first = Some(Vec::new()));
        assert_eq!((image.entrypoint, image.cmd), (None, None));
        assert_eq!(command_of(&image.labels.unwrap()), ImageCommand::default());
        let command = made(|spec| {
            spec.first = Some(vec!["sleep".to_owned(), "60".to_owned()]);
            spec.env.insert("A".to_owned(), "1 2".to_owned());
        });
        assert_eq!((command.entrypoint, command.user.as_deref()), (Some(Vec::new()), Some("1000:1000")));
        assert_eq!(
            (command.cmd.unwrap().join(" "), command.env.unwrap()),
            ("sleep 60".to_owned(), vec!["A=1 2".to_owned()])
        );
        let host = command.host_config.unwrap();
        assert_eq!((host.cap_add, host.mounts.unwrap().len()), (None, 1));
    }
}
