//! The built binary, run as a user would run it.

use crate::http::Api;
use crate::servers::{broker_binary, nats_binary};
use crate::wait::{TIMEOUT, eventually};
use broker::child::{Child, Program};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// A `broker` process that dies with the test process.
pub struct Broker {
    /// The process.
    pub child: Child,
    log: PathBuf,
}

/// A `broker up` that is ready.
pub struct Up {
    /// The process.
    pub broker: Broker,
    /// Its HTTP API.
    pub api: Api,
    /// Its message queue, `nats://host:port`.
    pub nats: String,
    /// Its table, `http://host:port`.
    pub table: String,
    /// Its simulator, `http://host:port`.
    pub simulator: String,
    /// The token of its simulator.
    pub csp_token: String,
}

/// Time-out of a command that should fail at once.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a command that ends by itself.
pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = tokio::process::Command::new(broker_binary());
    command.env("NATS_SERVER", nats_binary().await);
    command.args(arguments).envs(variables.iter().copied()).kill_on_drop(true);
    tokio::time::timeout(COMMAND_TIMEOUT, command.output())
        .await
        .expect("the command ends by itself")
        .expect("the binary starts")
}

// === impl Broker ===

impl Broker {
    /// Starts `broker` with these arguments and variables, its output in a file in `folder`.
    pub async fn start(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_within(folder, &[], arguments, variables).await
    }

    /// As [`Broker::start`], through a command that executes the one appended to it.
    pub async fn start_within(
        folder: &Path,
        wrapper: &[&str],
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let log = folder.join(format!("broker-{}.log", uuid::Uuid::now_v7()));
        let binary = broker_binary();
        let command: Vec<_> = wrapper.iter().map(OsString::from).chain([binary.into()]).collect();
        let (path, before) = command.split_first().expect("the binary at least");
        let nats = ("NATS_SERVER".into(), nats_binary().await.into());
        let program = Program {
            guard: broker_binary(),
            path: path.into(),
            arguments: before.iter().cloned().chain(arguments.iter().map(Into::into)).collect(),
            variables: variables
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .chain([nats])
                .collect(),
            log: log.clone(),
        };
        let child = Child::start(program).await.expect("the binary starts");
        Self { child, log }
    }

    /// The path of a file as the process sees it.
    pub fn view(&self, path: &Path) -> PathBuf {
        let own = path.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.child.id().to_string()).join("root").join(own)
    }

    /// Its output so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its operations port reports that it is ready.
    pub async fn until_ready(&self) {
        eventually("the role to be ready", TIMEOUT, || async {
            let output = self.output();
            let (_, after) = output.split_once("\"ops\":\"").ok_or_else(|| output.clone())?;
            let address = after.split('"').next().unwrap_or_default();
            let ready = reqwest::get(format!("http://{address}/readyz")).await;
            match ready.and_then(reqwest::Response::error_for_status) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error}: {output}")),
            }
        })
        .await;
    }

    /// Asks it to stop, like Ctrl-C and SIGTERM, and returns its exit code if it ends within `patience`.
    pub async fn stop(&self, patience: Duration) -> Option<i32> {
        self.child.ask_to_stop();
        let ended = tokio::time::timeout(patience, self.child.ended()).await;
        let status = ended.unwrap_or_else(|_| panic!("not gone after {patience:?}:\n{}", self.output()));
        status.and_then(|status| status.code())
    }
}

// === impl Up ===

impl Up {
    /// `broker up` without nodes, on free ports.
    pub const ARGUMENTS: [&str; 9] = [
        "up",
        "--nodes",
        "0",
        "--http",
        "127.0.0.1:0",
        "--nats-listen",
        "127.0.0.1:0",
        "--simulator-listen",
        "127.0.0.1:0",
    ];

    /// Starts `broker up` on free ports with `data` and waits until it reports that it is ready.
    pub async fn start(data: &Path, more: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_within(data, &[], more, variables).await
    }

    /// As [`Up::start`], through a command that executes the one appended to it, with a separate view of the file
    /// system.
    pub async fn start_within(
        data: &Path,
        wrapper: &[&str],
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let text = data.to_str().expect("a path that is text");
        let mut arguments = Self::ARGUMENTS.to_vec();
        arguments.extend(["--data", text]);
        arguments.extend(more);
        let folder = data.parent().expect("a folder around the data");
        let broker = Broker::start_within(folder, wrapper, &arguments, variables).await;
        let line = |name: &str| {
            let output = broker.output();
            let line = output.lines().find(|line| line.trim_start().starts_with(name))?;
            line.split_whitespace().nth(1).map(ToOwned::to_owned)
        };
        eventually("the fleet to be ready", TIMEOUT, || async {
            let output = broker.output();
            if output.contains("Try it:") { Ok(()) } else { Err(output) }
        })
        .await;
        let shown = |name: &str| line(name).unwrap_or_else(|| panic!("no {name} in {}", broker.output()));
        let (http, simulator) = (shown("http "), shown("simulator "));
        let (nats, table) = (shown("nats "), shown("table "));
        let address: SocketAddr = http.trim_start_matches("http://").parse().expect("an address");
        let token = |name: &str| {
            let file = broker.view(&data.join(name));
            std::fs::read_to_string(file).expect("a token file").trim().to_owned()
        };
        let api = Api::new(address, &token("api-token"), &token("admin-token"));
        let simulator = simulator.trim_end_matches("/v2").to_owned();
        let csp_token = token("csp-token");
        Self { broker, api, nats, table, simulator, csp_token }
    }

    /// The process id of its `nats-server`.
    pub fn nats_pid(data: &Path) -> u32 {
        let ports = std::fs::read_dir(data.join("nats/ports")).expect("the ports folder");
        let name = ports.flatten().next().expect("a ports file").file_name();
        let name = name.to_str().expect("a name that is text");
        // nats-server_12345.ports
        name.trim_end_matches(".ports").rsplit('_').next().and_then(|pid| pid.parse().ok()).expect("a pid")
    }
}

/// Whether such a process runs (and is not a zombie).
pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        !matches!(state, None | Some('Z'))
    })
}
