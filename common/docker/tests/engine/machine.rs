//! The Docker engine of the test run as a subject of the suite. `tests/harness/with_docker.py` starts it.

use async_trait::async_trait;
use docker::{Config, Docker};
use domain::SandboxId;
use host::Publish;
use ports::clock::SystemClock;
use ports::engine::{Container, ContainerSpec, ContainerState, Engine, Image, Incarnation, Workspace};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use supervisor::{Job, Outcome};
use testkit::engine::suite::{self, Failure, Subject, fresh};

/// The image of most tests: a stand-in with the programs of busybox.
pub(crate) const IMAGE: &str = "busybox:latest";
/// Where the engine listens.
const SOCKET: &str = "TEST_DOCKER_SOCKET";
/// Time-out for what takes at most a second on a machine that is not busy.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// An adapter with a state folder of its own.
pub(crate) struct Machine {
    folder: tempfile::TempDir,
    config: Config,
    engine: Arc<Docker>,
}

/// A variable of `tests/harness/with_docker.py`.
pub(crate) fn variable(name: &str) -> OsString {
    let value = std::env::var_os(name);
    assert!(value.is_some(), "there is no {name}: use `make test-docker`");
    value.unwrap()
}

/// Docker's client, Debian's, for the engine with this socket.
pub(crate) fn client(socket: &Path) -> Command {
    let mut client = Command::new("/usr/bin/docker");
    client.env("DOCKER_HOST", format!("unix://{}", socket.display()));
    client
}

/// Runs it with arguments that have to succeed; what it prints.
pub(crate) fn docker(socket: &Path, arguments: &[&str]) -> String {
    let output = client(socket).args(arguments).output().unwrap();
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
    /// On the engine of the test run.
    pub(crate) async fn new() -> Self {
        Self::on(variable(SOCKET).into()).await
    }

    /// On the engine with this socket.
    pub(crate) async fn on(socket: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), socket);
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

    /// The folder of a sandbox.
    pub(crate) fn folder_of(&self, incarnation: &Incarnation) -> PathBuf {
        self.config.state.join("run").join(incarnation.to_string())
    }

    /// Runs Docker's client with arguments that have to succeed; what it prints.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        docker(&self.config.socket, arguments)
    }

    /// The time now, as the engine takes it for its list of events.
    pub(crate) fn engine_time(&self) -> String {
        self.docker(&["info", "--format", "{{.SystemTime}}"])
    }

    /// What selects its containers.
    pub(crate) fn filter(&self) -> String {
        format!("label=sandbox-broker.fleet={}", self.config.fleet)
    }

    /// What the adapter says of a sandbox.
    pub(crate) async fn listed(&self, incarnation: &Incarnation) -> Option<Container> {
        let listed = self.engine.list().await.unwrap();
        listed.into_iter().find(|container| container.incarnation == *incarnation)
    }

    /// Waits until a sandbox is in this state.
    pub(crate) async fn settles(&self, incarnation: &Incarnation, state: ContainerState) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let found = self.listed(incarnation).await.map(|container| container.state);
            if found.as_ref() == Some(&state) {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?}");
            tokio::task::yield_now().await;
        }
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
        Ok(suite::text_of(script, &outcome))
    }

    /// Process 1 of a sandbox, as the machine sees it.
    pub(crate) fn pid(&self, incarnation: &Incarnation) -> i32 {
        self.docker(&["inspect", "--format", "{{.State.Pid}}", &name(incarnation)]).parse().unwrap()
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
        let limits = suite::small_limits();
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
        let lines = |kind: &str, text: String| -> Vec<_> {
            text.lines().map(|line| format!("{kind} {line}")).collect()
        };
        let containers =
            lines("container", self.docker(&["ps", "--all", "--quiet", "--filter", &self.filter()]));
        let prefix = format!("sbx{}", host::hash_of(&self.config.state));
        let named = format!("name={prefix}");
        let networks = lines("network", self.docker(&["network", "ls", "--quiet", "--filter", &named]));
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
        let tables = lines("table", String::from_utf8(tables.stdout).unwrap());
        let tables = tables.into_iter().filter(|table| table.contains(&prefix));
        mounts.chain(files).chain(containers).chain(networks).chain(tables).collect()
    }
}

impl Drop for Machine {
    /// A failed test leaves nothing either.
    fn drop(&mut self) {
        suite::remove_left(self.engine());
    }
}
