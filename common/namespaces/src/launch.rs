//! Starts the processes of a sandbox and waits until its supervisor answers.
//!
//! A shell joins the control groups, sets the limits and becomes the wrapper, so that nothing ever runs without them. The
//! wrapper gets the supervisor's socket as standard input and writes the id of process 1 to a file. (If it could not write, it would
//! leave process 1 waiting for ever.)

use crate::arguments::REPORT_FD;
use crate::process::Process;
use crate::record::Plan;
use host::cgroups::Group;
use host::folders::Own;
use host::of_io;
use ports::engine::{EngineError, Limits};
use serde::Deserialize;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use supervisor::Client;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Time-out from the start of the wrapper to the answer of the supervisor.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The unit of the shell's limit of file sizes, in bytes.
const BLOCK_BYTES: u64 = 512;
/// The files that join a group come first, then `--` and a program with its arguments.
pub(crate) const JOIN_GROUPS: &str = r#"set -e
while [ "$1" != -- ]; do echo 0 >"$1"; shift; done
shift
"#;
/// Then the shell becomes the wrapper.
const SCRIPT: &str = r#"ulimit -c 0; ulimit -n "$FILES"; ulimit -f "$BLOCKS"
exec "$@" "#;

/// The wrapper's report.
#[derive(Deserialize)]
struct Report {
    #[serde(rename = "child-pid")]
    pid: i32,
}

/// The program that makes namespaces.
#[derive(Debug)]
pub(crate) struct Wrapper<'a>(pub(crate) &'a Path);

impl Wrapper<'_> {
    /// Starts a sandbox. `note` gets its processes as soon as they are known. On failure, some may run.
    pub(crate) async fn start(
        &self,
        own: &Own,
        plan: &Plan,
        group: &Group,
        note: impl FnMut(Vec<Process>) -> io::Result<()>,
    ) -> Result<(), EngineError> {
        match tokio::time::timeout(START_TIMEOUT, self.start_now(own, plan, group, note)).await {
            Ok(result) => result,
            Err(_) => {
                Err(EngineError::failed(format!("not ready within {START_TIMEOUT:?}: {}", complaint(own))))
            }
        }
    }

    async fn start_now(
        &self,
        own: &Own,
        plan: &Plan,
        group: &Group,
        mut note: impl FnMut(Vec<Process>) -> io::Result<()>,
    ) -> Result<(), EngineError> {
        let limits = Limits {
            cpu_milli: plan.cpu_milli,
            memory_bytes: plan.memory_bytes,
            pids: plan.pids,
            ..Limits::default()
        };
        group.create(&limits).map_err(of_io)?;
        let mut child = self.spawn(own, plan, group).map_err(of_io)?;
        let wrapper = child.id().and_then(|pid| Process::of(pid.try_into().ok()?).ok());
        note(wrapper.into_iter().collect()).map_err(of_io)?;
        let failed = |what: &str| EngineError::failed(format!("{what}: {}", complaint(own)));
        let socket = UnixStream::connect(own.socket()).await.map_err(of_io)?;
        tokio::select! {
            answer = Client::connect(socket) => drop(answer.map_err(|error| failed(&error.to_string()))?),
            _ = child.wait() => return Err(failed("it ended")),
        }
        // It was written before the supervisor started.
        let report = std::fs::read(report(own)).map_err(of_io)?;
        let Report { pid } = serde_json::from_slice(&report).map_err(EngineError::failed)?;
        let first = Process::of(pid).map_err(|_| failed("it ended"))?;
        note(wrapper.into_iter().chain([first]).collect()).map_err(of_io)
    }

    fn spawn(&self, own: &Own, plan: &Plan, group: &Group) -> io::Result<Child> {
        let _ = std::fs::remove_file(own.socket());
        let socket = UnixListener::bind(own.socket())?;
        Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("{JOIN_GROUPS}{SCRIPT}{REPORT_FD}>&1 1>&2"))
            .arg("sh")
            .args(group.joining_files())
            .arg("--")
            .arg(self.0)
            .args(&plan.arguments)
            .env_clear()
            .env("FILES", plan.files.to_string())
            .env("BLOCKS", plan.file_bytes.div_ceil(BLOCK_BYTES).to_string())
            .current_dir("/")
            .stdin(OwnedFd::from(socket))
            .stdout(Stdio::from(File::create(report(own))?))
            .stderr(Stdio::from(File::create(log(own))?))
            // Signals for the runner's terminal are not for its sandboxes.
            .process_group(0)
            .spawn()
    }
}

/// What the wrapper says about process 1.
fn report(own: &Own) -> PathBuf {
    own.path().join("report")
}

/// What wrapper and supervisor complain about.
fn log(own: &Own) -> PathBuf {
    own.path().join("log")
}

/// The last line that wrapper or supervisor wrote.
fn complaint(own: &Own) -> String {
    let text = std::fs::read(log(own)).unwrap_or_default();
    host::complaint(&String::from_utf8_lossy(&text)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::folders::Folders;
    use ports::engine::Incarnation;

    #[test]
    fn the_last_line_is_the_reason() {
        let temporary = tempfile::tempdir().unwrap();
        let own = Folders::open(temporary.path(), temporary.path())
            .unwrap()
            .of(&Incarnation::new(uuid::Uuid::nil()));
        own.create().unwrap();
        assert_eq!(complaint(&own), "it said nothing");
        std::fs::write(log(&own), "first\nbwrap: no such thing\n\n").unwrap();
        assert_eq!(complaint(&own), "bwrap: no such thing");
        std::fs::write(log(&own), "ü".repeat(host::COMPLAINT_BYTES_MAX)).unwrap();
        assert_eq!(complaint(&own).len(), host::COMPLAINT_BYTES_MAX);
    }
}
