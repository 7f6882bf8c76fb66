//! The runner of a node as a process, and what it has on this machine.

use crate::docker;
use harness::process::{Broker, Up, is_running};
use harness::wait::{TIMEOUT, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for a runner to end in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A node of this machine.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    /// Both folders of the node; short, because sockets are in it.
    folder: tempfile::TempDir,
    runner: Option<Broker>,
}

/// A sandbox of this machine, as the engine stores it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stored {
    pub(crate) sandbox: String,
    pub(crate) incarnation: String,
}

/// The processes of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inside {
    /// Part of the name of their control group, which is never used again.
    pub(crate) group: String,
    /// Process 1, as the machine sees it.
    pub(crate) first: u32,
}

// === impl Node ===

impl Node {
    /// A node whose runner works for a fleet.
    pub(crate) async fn start(up: &Up, name: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("node").tempdir_in("/tmp").unwrap();
        let mut node = Self { name, folder, runner: None };
        node.start_again(up).await;
        node
    }

    /// Starts its runner again and waits until it is ready.
    pub(crate) async fn start_again(&mut self, up: &Up) {
        assert!(self.runner.is_none(), "the runner of {} runs", self.name);
        let runner = self.another_runner(up).await;
        runner.until_ready().await;
        self.runner = Some(runner);
    }

    /// Starts a runner on the folders of this node, whether it has one or not.
    pub(crate) async fn another_runner(&self, up: &Up) -> Broker {
        let (data, state) = (self.folder.path().join("data"), self.state());
        let socket = docker::socket();
        let engine = if socket.is_some() { "docker" } else { "namespaces" };
        let variables = [
            ("NATS_URL", up.nats.as_str()),
            ("NODE_NAME", self.name),
            ("RUNNER_DATA", data.to_str().unwrap()),
            ("RUNNER_STATE", state.to_str().unwrap()),
            ("RUNNER_ENGINE", engine),
            ("RUNNER_DOCKER_SOCKET", socket.as_deref().unwrap_or_default()),
            ("OPS_LISTEN", "127.0.0.1:0"),
        ];
        Broker::start(self.folder.path(), &["runner"], &variables).await
    }

    fn runner(&self) -> &Broker {
        self.runner.as_ref().unwrap_or_else(|| panic!("the runner of {} does not run", self.name))
    }

    /// Ends its runner at once.
    pub(crate) async fn kill(&mut self) {
        let runner = self.runner.take().expect("a runner that runs");
        runner.child.kill().await;
    }

    /// Stops its runner in order.
    pub(crate) async fn stop(&mut self) {
        let runner = self.runner.take().expect("a runner that runs");
        assert_eq!(runner.stop(STOP_TIMEOUT).await, Some(0), "{}", runner.output());
    }

    /// Stops its runner for a while: SIGSTOP.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on: SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.runner().child.id()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// What its runners have logged.
    pub(crate) fn output(&self) -> String {
        self.runner.as_ref().map(Broker::output).unwrap_or_default()
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The folder of each sandbox that the engine has.
    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state().join("run")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// The sandboxes that the engine has.
    pub(crate) fn sandboxes(&self) -> Vec<Stored> {
        let mut found: Vec<_> = self.folders().iter().map(|folder| Stored::read(folder)).collect();
        for stored in docker::containers(&self.state()) {
            if found.iter().all(|known| known.incarnation != stored.incarnation) {
                found.push(stored);
            }
        }
        found.sort();
        found
    }

    /// The record of the engine for a sandbox.
    fn record_of(&self, sandbox: &str) -> Option<Value> {
        let records = self.folders().into_iter().filter_map(|folder| record(&folder));
        records.into_iter().find(|record| record["sandbox"] == sandbox)
    }

    /// Waits until the engine is in a phase with a sandbox: `creating`, `running`.
    pub(crate) async fn until_phase(&self, sandbox: &str, phases: &[&str]) {
        eventually(&format!("{sandbox} to be {phases:?}"), TIMEOUT, || async {
            let record = self.record_of(sandbox);
            let is_so =
                record.as_ref().is_some_and(|record| phases.iter().any(|phase| record["phase"] == *phase));
            if is_so { Ok(()) } else { Err((record.map(|record| record["phase"].clone()), self.output())) }
        })
        .await;
    }

    /// Whether a sandbox is in the network of its template.
    pub(crate) fn is_attached(&self, sandbox: &str) -> bool {
        self.record_of(sandbox).is_some_and(|record| record["network"]["is_attached"] == true)
    }

    /// The processes of a sandbox that runs.
    pub(crate) fn inside(&self, sandbox: &str) -> Inside {
        let record = self.record_of(sandbox).expect("the engine has it");
        let group = record["incarnation"].as_str().expect("its incarnation").to_owned();
        if docker::socket().is_some() {
            return docker::inside(&group);
        }
        // The wrapper outside comes before it.
        let first = record["processes"].as_array().and_then(|all| all.last()?["pid"].as_u64());
        let inside = Inside { group, first: first.expect("process 1").try_into().unwrap() };
        assert!(!inside.processes().is_empty(), "{sandbox} has processes");
        inside
    }
}

impl Drop for Node {
    /// After a failed test: sandboxes outlive their runner.
    fn drop(&mut self) {
        docker::remove_all(&self.state());
        for record in self.folders().iter().filter_map(|folder| record(folder)) {
            let processes = record["processes"].as_array().into_iter().flatten();
            for process in processes.chain([&record["network"]["pasta"]]) {
                let pid = process["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
                let is_same = pid.is_some_and(|pid| started(pid) == process["started"].as_u64());
                if let Some(pid) = pid.filter(|_| is_same) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

// === impl Stored ===

impl Stored {
    fn read(folder: &Path) -> Self {
        // A folder without a record is one of which nothing else was made yet.
        let sandbox = record(folder).and_then(|record| record["sandbox"].as_str().map(ToOwned::to_owned));
        let incarnation = folder.file_name().unwrap().to_string_lossy().into_owned();
        Self { sandbox: sandbox.unwrap_or_default(), incarnation }
    }
}

// === impl Inside ===

impl Inside {
    /// Whether process 1 runs.
    pub(crate) fn is_running(&self) -> bool {
        is_running(self.first)
    }

    /// The processes that are in it now.
    pub(crate) fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let text =
            |pid: u32, name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let own = pids.filter(|pid| text(*pid, "cgroup").contains(&self.group) && is_running(*pid));
        own.map(|pid| format!("{pid} {}", text(pid, "cmdline"))).collect()
    }
}

fn record(folder: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(folder.join("record.json")).ok()?).ok()
}

/// The field of `/proc/<pid>/stat` with the start time, counted from the one after the name.
const STARTED_FIELD: usize = 19;

/// When a process started, in ticks since the machine did; its id alone may belong to another one by now.
fn started(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(STARTED_FIELD)?.parse().ok()
}
