//! Child processes that never outlive their parent, however it ends.
//!
//! On Linux the kernel can kill a child when its parent dies. The child has to request that itself, so it is started
//! through this binary (`broker guard`): the guard makes the request, checks that the parent still exists, and executes
//! the program. This needs no unsafe code and no watcher.

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Name of the hidden command that starts a child.
pub const GUARD_COMMAND: &str = "guard";

/// A child that dies with this process.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
}

/// The program to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// The `broker` binary, as the guard.
    pub guard: PathBuf,
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables added to its environment.
    pub variables: Vec<(OsString, OsString)>,
    /// File for its output.
    pub log: PathBuf,
}

/// Executes `program`, to be killed when `parent` dies. Returns only if that fails.
///
/// # Errors
/// When the parent has died already, or the program cannot be started.
pub fn become_guarded(parent: i32, program: &Path, arguments: &[OsString]) -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask to die with the parent")?;
    // The parent may have died before the request.
    let is_there = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get() == parent);
    if !is_there {
        bail!("the parent is gone");
    }
    Err(Command::new(program).args(arguments).exec())
        .with_context(|| format!("cannot start {}", program.display()))
}

// === impl Child ===

impl Child {
    /// Starts a program.
    ///
    /// # Errors
    /// When the guard cannot be started or the log cannot be written.
    pub async fn start(program: Program) -> anyhow::Result<Self> {
        let Program { guard, path, arguments, variables, log } = program;
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(guard);
        command
            .arg(GUARD_COMMAND)
            .arg(std::process::id().to_string())
            .arg(path)
            .args(arguments)
            .envs(variables)
            .stdin(std::process::Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C goes to the whole foreground group; the child has to outlive its parent's orderly stop.
            .process_group(0);
        let (started, pid) = oneshot::channel();
        let (ending, ended) = watch::channel(None);
        // "Parent" means the thread that started the child, so this thread has to live as long as the child.
        std::thread::Builder::new().name("child".to_owned()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(child.id()));
            if let Ok(status) = child.wait() {
                ending.send_replace(Some(status));
            }
        })?;
        let id = pid.await.context("the child was not started")?.context("cannot start the child")?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("the child has no process id")?;
        Ok(Self { pid, ended })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until the child has ended, independently of `self`.
    pub fn watch(&self) -> impl Future<Output = Option<ExitStatus>> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            // The sender is dropped only if the waiting thread failed, which ends the wait as well.
            ended.wait_for(Option::is_some).await.ok().and_then(|status| *status)
        }
    }

    /// Waits until the child has ended.
    pub async fn ended(&self) -> Option<ExitStatus> {
        self.watch().await
    }

    /// Ends the child at once.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Asks the child to stop, without waiting.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks the child to stop, and kills it after `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            self.kill().await;
        }
    }

    fn signal(&self, signal: Signal) {
        // After it was waited for, the id may belong to another process.
        if self.ended.borrow().is_none() {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }
}

/// Children that live as long as a test binary rather than one test.
static KEPT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Keeps a child until this process ends; then the kernel kills it.
pub fn keep(child: Child) {
    KEPT.lock().push(child);
}
