//! The Docker engine of the test run as a subject of the suite. `tests/harness/with_docker.py` starts it.

use async_trait::async_trait;
use docker::{Config, Docker};
use domain::SandboxId;
use host::Publish;
use ports::clock::SystemClock;
use ports::engine::{ContainerSpec, Engine, Image, Incarnation, Limits, Workspace};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use supervisor::{Job, Outcome};
use testkit::engine::suite::{self, Failure, Subject, fresh};

const MIB: u64 = 1024 * 1024;
/// The image of most tests: a stand-in with the programs of busybox.
pub(crate) const IMAGE: &str = "busybox:latest";
/// Where the engine listens.
const SOCKET: &str = "TEST_DOCKER_SOCKET";

/// An adapter with a state folder of its own.
pub(crate) struct Machine {
    folder: tempfile::TempDir,
    config: Config,
    engine: Arc<Docker>,
}

/// The engine's socket.
pub(crate) fn socket() -> PathBuf {
    std::env::var_os(SOCKET).expect("run by `make test-docker`").into()
}

/// Runs Docker's client, Debian's, against the engine of the test run.
pub(crate) fn client(arguments: &[&str]) -> Output {
    Command::new("/usr/bin/docker").args(arguments).output().unwrap()
}

/// The same, for a command that has to succeed; what it prints.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = client(arguments);
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// The name of a container.
pub(crate) fn name(incarnation: &Incarnation) -> String {
    format!("sandbox-{incarnation}")
}

/// Settings of an adapter in this folder.
pub(crate) fn config(folder: &Path, socket: PathBuf) -> Config {
    let name = folder.file_name().unwrap().to_string_lossy();
    Config {
        fleet: format!("test-{}", name.trim_start_matches(".tmp")),
        socket,
        state: folder.join("state"),
        data: folder.join("data"),
        supervisor: supervisor_image::SUPERVISOR,
        publish: Publish { address: Ipv4Addr::LOCALHOST, ports: 30_000..=32_767 },
    }
}

pub(crate) async fn open(config: &Config) -> Arc<Docker> {
    Arc::new(Docker::probe(config.clone(), Arc::new(SystemClock)).await.unwrap())
}

impl Machine {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), socket());
        Self::with(folder, config).await
    }

    /// With other settings.
    pub(crate) async fn with(folder: tempfile::TempDir, config: Config) -> Self {
        let engine = open(&config).await;
        Self { folder, config, engine }
    }

    /// A folder that ends with the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Creates a sandbox.
    pub(crate) async fn create(
        &self,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> Result<Incarnation, Failure> {
        let mut spec = self.spec(SandboxId::parse("s-1")?, fresh());
        change(&mut spec);
        self.engine.create(&spec).await?;
        Ok(spec.incarnation)
    }

    /// Runs a script in a sandbox as this user.
    pub(crate) async fn sh_as(
        &self,
        user: u32,
        incarnation: &Incarnation,
        script: &str,
    ) -> Result<Outcome, Failure> {
        let mut job = Job::new(suite::fresh_job()?, ["sh", "-c", script]);
        job.uid = Some(user);
        suite::run_job(self.engine.as_ref(), incarnation, job).await
    }

    /// Runs a script that has to succeed, as the default user; its output without the final end of line.
    pub(crate) async fn text(&self, incarnation: &Incarnation, script: &str) -> Result<String, Failure> {
        self.text_as(ContainerSpec::USER_DEFAULT, incarnation, script).await
    }

    pub(crate) async fn text_as(
        &self,
        user: u32,
        incarnation: &Incarnation,
        script: &str,
    ) -> Result<String, Failure> {
        let outcome = self.sh_as(user, incarnation, script).await?;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
        assert_eq!(outcome.ended.end, supervisor::End::Exited(0), "{script}: {stdout}{stderr}");
        Ok(stdout.trim_end().to_owned())
    }

    /// Process 1 of a sandbox, as the machine sees it.
    pub(crate) fn pid(&self, incarnation: &Incarnation) -> i32 {
        docker(&["inspect", "--format", "{{.State.Pid}}", &name(incarnation)]).parse().unwrap()
    }
}

#[async_trait]
impl Subject for Machine {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    async fn reopened(&self) -> Arc<dyn Engine> {
        open(&self.config).await
    }

    fn spec(&self, sandbox: SandboxId, incarnation: Incarnation) -> ContainerSpec {
        let limits = Limits {
            memory_bytes: 128 * MIB,
            pids: 32,
            disk_bytes: 16 * MIB,
            tmp_bytes: 4 * MIB,
            ..Limits::default()
        };
        let image = Image::Reference(IMAGE.to_owned());
        let workspace = Workspace::Memory;
        ContainerSpec { limits, workspace, ..ContainerSpec::new(sandbox, incarnation, image) }
    }

    async fn kill(&self, incarnation: &Incarnation) {
        let pid = rustix::process::Pid::from_raw(self.pid(incarnation)).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    fn leftovers(&self) -> Vec<String> {
        let state = self.config.state.to_string_lossy();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(&*state)).map(str::to_owned);
        let folders = [self.config.state.join("run"), self.config.data.join("workspaces")];
        let files = folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
        let files = files.map(|entry| entry.path().display().to_string());
        let label = format!("label=sandbox-broker.fleet={}", self.config.fleet);
        let containers = docker(&["ps", "--all", "--quiet", "--filter", &label]);
        let containers: Vec<_> = containers.lines().map(|id| format!("container {id}")).collect();
        mounts.chain(files).chain(containers).collect()
    }
}

impl Drop for Machine {
    /// A failed test leaves nothing either.
    fn drop(&mut self) {
        let engine = self.engine();
        let remove = async move {
            for container in engine.list().await.unwrap_or_default() {
                let _ = engine.remove(&container.incarnation).await;
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = std::thread::spawn(move || runtime.block_on(remove)).join();
    }
}
