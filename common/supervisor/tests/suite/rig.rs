//! A supervisor for a test.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use supervisor::{Attached, Client, Ended, Job, JobEvent, JobId, Stream};
use tempfile::TempDir;
use tokio::net::UnixStream;

const BINARY: &str = env!("CARGO_BIN_EXE_supervisor");
/// Nothing here takes longer, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    folder: TempDir,
    child: Child,
    /// Whether the child only waits for the supervisor.
    is_wrapped: bool,
}

impl Rig {
    /// Process 1 of a new process namespace.
    pub(crate) fn sandbox() -> Self {
        Self::process_1(&[BINARY])
    }

    /// The same, with no more capabilities than the supervisor needs, as an engine for containers starts it.
    pub(crate) fn container() -> Self {
        let capabilities = "--bounding-set=-all,+setuid,+setgid,+setpcap,+kill";
        Self::process_1(&["setpriv", capabilities, "--inh-caps=-all", BINARY])
    }

    /// Root of a user namespace that has no other user.
    pub(crate) fn user_namespace() -> Self {
        Self::process_1(&["--user", "--map-root-user", BINARY])
    }

    fn process_1(arguments: &[&str]) -> Self {
        let unshare = ["--fork", "--pid", "--mount-proc", "--kill-child"];
        let mut rig = Self::start(Command::new("unshare").args(unshare).args(arguments));
        rig.is_wrapped = true;
        rig
    }

    /// One process among all others.
    pub(crate) fn plain() -> Self {
        Self::start(&mut Command::new(BINARY))
    }

    /// Without any right, as this user.
    pub(crate) fn of_user(uid: u32) -> Self {
        // No other user can enter the folder of the build.
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("supervisor");
        std::fs::copy(BINARY, &binary).unwrap();
        let user = uid.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps=-all"]).arg(binary);
        Self::start_in(folder, &mut command)
    }

    fn start(command: &mut Command) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), command)
    }

    fn start_in(folder: TempDir, command: &mut Command) -> Self {
        // So that jobs can reach the socket, and are refused for what they are.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        let child = command.env_clear().stdin(OwnedFd::from(listener)).spawn().unwrap();
        Self { folder, child, is_wrapped: false }
    }

    /// It makes its socket itself, and has an environment, as in a container of an image.
    pub(crate) async fn listening(env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // Left by a former supervisor.
        drop(UnixListener::bind(&path).unwrap());
        let mut command = Command::new(BINARY);
        command.arg("listen").arg(&path).env_clear().envs(env.iter().copied());
        let child = command.stdin(std::process::Stdio::null()).spawn().unwrap();
        let rig = Self { folder, child, is_wrapped: false };
        until("it listens", || std::os::unix::net::UnixStream::connect(&path).is_ok()).await;
        rig
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) async fn stream(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.stream().await).await.unwrap()
    }

    /// The supervisor's own number, as seen from here.
    pub(crate) fn pid(&self) -> u32 {
        let child = self.child.id();
        if self.is_wrapped { children(child).first().copied().unwrap() } else { child }
    }

    /// Waits until the supervisor has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the supervisor has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A job that is a shell script.
pub(crate) fn script(id: &str, text: &str) -> Job {
    Job::new(JobId::parse(id).unwrap(), ["/bin/sh", "-c", text])
}

/// A job that is a Python program.
pub(crate) fn python(id: &str, text: &str) -> Job {
    Job::new(JobId::parse(id).unwrap(), ["/usr/bin/env", "python3", "-c", text])
}

/// Waits until the standard output of a job contains this line.
pub(crate) async fn line(attached: &mut Attached, wanted: &str) {
    let mut text = String::new();
    within(async {
        while !text.lines().any(|line| line == wanted) {
            match attached.next().await.unwrap() {
                Some(JobEvent::Output(chunk)) if chunk.stream == Stream::Stdout => {
                    text.push_str(&String::from_utf8_lossy(&chunk.bytes));
                }
                Some(JobEvent::Output(_)) => {}
                end => panic!("{end:?} after {text:?}"),
            }
        }
    })
    .await;
}

/// The end of a job.
pub(crate) async fn end(attached: &mut Attached) -> Ended {
    within(async {
        loop {
            match attached.next().await.unwrap() {
                Some(JobEvent::Ended(ended)) => return ended,
                Some(JobEvent::Output(_)) => {}
                None => panic!("no end"),
            }
        }
    })
    .await
}

/// The result of what should not take long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it takes too long")
}

/// Waits until this is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE, "not so: {what}");
        tokio::task::yield_now().await;
    }
}

/// Processes of the machine whose command line contains this text.
pub(crate) fn processes(text: &str) -> Vec<u32> {
    let has_text = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
    };
    all().filter(has_text).collect()
}

fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    all().filter(is_child).collect()
}

fn all() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
