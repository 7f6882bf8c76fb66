//! This machine as a subject of the suite.

use async_trait::async_trait;
use domain::SandboxId;
use host::Publish;
use namespaces::{Config, Namespaces};
use ports::clock::SystemClock;
use ports::engine::{ContainerSpec, Engine, Image, Incarnation, Workspace};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use supervisor::{Job, Outcome};
use testkit::engine::suite::{self, Failure, Subject, fresh};

/// Folders between the root of the control groups and those of a sandbox.
const GROUP_DEPTH_MAX: usize = 6;

/// An engine with a state folder of its own.
pub(crate) struct Machine {
    folder: tempfile::TempDir,
    config: Config,
    engine: Arc<Namespaces>,
    /// The users of its sandboxes.
    users: Mutex<HashMap<Incarnation, u32>>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    /// On a folder that may have been used before.
    pub(crate) fn at(folder: tempfile::TempDir) -> Self {
        let config = config(folder.path());
        Self::with(folder, config)
    }

    /// With other settings.
    pub(crate) fn with(folder: tempfile::TempDir, config: Config) -> Self {
        let engine = open(&config);
        Self { folder, config, engine, users: Mutex::default() }
    }

    /// A folder that ends with the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> &Path {
        &self.config.state
    }

    /// Creates a sandbox.
    pub(crate) async fn create(
        &self,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> Result<Incarnation, Failure> {
        let mut spec = self.spec(SandboxId::parse("s-1")?, fresh());
        change(&mut spec);
        self.users.lock().unwrap().insert(spec.incarnation, spec.user);
        self.engine.create(&spec).await?;
        Ok(spec.incarnation)
    }

    /// Runs a script in a sandbox, as its user.
    pub(crate) async fn sh(&self, incarnation: &Incarnation, script: &str) -> Result<Outcome, Failure> {
        let mut job = Job::new(suite::fresh_job()?, ["sh", "-c", script]);
        job.uid = self.users.lock().unwrap().get(incarnation).copied();
        suite::run_job(self.engine.as_ref(), incarnation, job).await
    }

    /// Runs a script that has to succeed; its output without the final end of line.
    pub(crate) async fn text(&self, incarnation: &Incarnation, script: &str) -> Result<String, Failure> {
        let outcome = self.sh(incarnation, script).await?;
        Ok(suite::text_of(script, &outcome))
    }

    /// The network interfaces of a sandbox.
    pub(crate) async fn interfaces(&self, incarnation: &Incarnation) -> Result<String, Failure> {
        self.text(incarnation, "sed -n 's/^ *\\([^:]*\\):.*/\\1/p' /proc/net/dev").await
    }

    /// Process 1 of a sandbox, as the machine sees it.
    pub(crate) fn pid(&self, incarnation: &Incarnation) -> i32 {
        let record = self.record(incarnation);
        record["processes"].as_array().unwrap().last().unwrap()["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// Kills what carries the connections of a sandbox.
    pub(crate) fn kill_pasta(&self, incarnation: &Incarnation) {
        let pid = self.record(incarnation)["network"]["pasta"]["pid"].as_i64().unwrap();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    fn record(&self, incarnation: &Incarnation) -> serde_json::Value {
        let path = self.config.state.join("run").join(incarnation.to_string()).join("record.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// Control groups of its sandboxes.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut level = vec![PathBuf::from("/sys/fs/cgroup")];
        for _ in 0..GROUP_DEPTH_MAX {
            let entries = level.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
            level = entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect();
            let is_ours =
                |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&self.config.fleet);
            found.extend(level.iter().filter(is_ours).cloned());
        }
        found
    }

    /// Network namespaces of its fleet, which have the interfaces of its sandboxes.
    fn networks(&self) -> Vec<String> {
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&self.config.fleet)).collect()
    }

    /// Processes in its groups or with its folder in their arguments, and dead ones of this process.
    fn processes(&self) -> Vec<String> {
        let own = std::process::id().to_string();
        let state = self.config.state.to_string_lossy().into_owned();
        let is_left = |pid: &String| {
            let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = |file| String::from_utf8_lossy(&read(file)).into_owned();
            let stat = text("stat");
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
            let is_zombie = fields.first() == Some(&"Z") && fields.get(1) == Some(&own.as_str());
            is_zombie || text("cgroup").contains(&self.config.fleet) || text("cmdline").contains(&state)
        };
        let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse::<u32>().ok()).map(|pid| pid.to_string());
        let line = |pid: &String| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = |pid: String| {
            format!("process {pid}: {}", String::from_utf8_lossy(&line(&pid)).replace('\0', " "))
        };
        pids.filter(is_left).map(line).collect()
    }
}

/// Settings of an engine in this folder.
pub(crate) fn config(folder: &Path) -> Config {
    let name = folder.file_name().unwrap().to_string_lossy();
    Config {
        fleet: format!("test-{}", name.trim_start_matches(".tmp")),
        state: folder.join("state"),
        data: folder.join("data"),
        wrapper: "bwrap".into(),
        supervisor: supervisor_image::SUPERVISOR,
        publish: Publish { address: Ipv4Addr::LOCALHOST, ports: 30_000..=32_767 },
    }
}

pub(crate) fn open(config: &Config) -> Arc<Namespaces> {
    Arc::new(Namespaces::probe(config.clone(), Arc::new(SystemClock)).unwrap())
}

#[async_trait]
impl Subject for Machine {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    async fn reopened(&self) -> Arc<dyn Engine> {
        open(&self.config)
    }

    fn spec(&self, sandbox: SandboxId, incarnation: Incarnation) -> ContainerSpec {
        let limits = suite::small_limits();
        // Only root's workspaces in memory outlive the processes.
        let workspace =
            if rustix::process::geteuid().is_root() { Workspace::Memory } else { Workspace::Disk };
        ContainerSpec { limits, workspace, ..ContainerSpec::new(sandbox, incarnation, Image::Host) }
    }

    async fn kill(&self, incarnation: &Incarnation) {
        kill_process(Pid::from_raw(self.pid(incarnation)).unwrap(), Signal::KILL).unwrap();
    }

    fn leftovers(&self) -> Vec<String> {
        let state = self.config.state.to_string_lossy();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(&*state)).map(str::to_owned);
        let folders = [self.config.state.join("run"), self.config.data.join("workspaces")];
        let files = folders.into_iter().flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
        let files = files.map(|entry| entry.path());
        let groups = self.groups();
        self.processes()
            .into_iter()
            .chain(mounts)
            .chain(self.networks())
            .chain(files.chain(groups).map(|path| path.display().to_string()))
            .collect()
    }
}

impl Drop for Machine {
    /// A failed test leaves nothing either.
    fn drop(&mut self) {
        suite::remove_left(self.engine());
    }
}
