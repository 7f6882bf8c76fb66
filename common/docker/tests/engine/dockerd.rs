//! A second engine, which a test may end or fill, with a network of its own.

use crate::machine::{TIMEOUT, client, docker, variable};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// What has to be enough for an engine, its images and containers, in bytes; the disk of a test is full sooner than that of a machine.
const DISK_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes that are written at once to fill a disk.
const FILL_BYTES: usize = 64 * 1024;

/// A dockerd.
pub(crate) struct Dockerd {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

// === impl Dockerd ===

impl Dockerd {
    /// Starts it with these settings and the image of most tests.
    pub(crate) fn new(settings: &str) -> Self {
        // The path of its socket is short, as it has to be.
        let folder = tempfile::Builder::new().prefix("dk-").tempdir_in("/tmp").unwrap();
        fs::write(folder.path().join("settings.json"), settings).unwrap();
        let mut engine = Self { folder, process: None };
        fs::create_dir(engine.data()).unwrap();
        let size = format!("size={DISK_BYTES}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(engine.data()).status();
        assert!(mounted.unwrap().success());
        engine.start();
        let image = PathBuf::from(variable("TEST_DOCKER_IMAGES")).join("busybox-latest.tar");
        docker(&engine.socket(), &["load", "--quiet", "--input", image.to_str().unwrap()]);
        engine
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Its process, while it runs.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it again, and waits until it answers.
    pub(crate) fn start(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let log = File::options().create(true).append(true).open(path("log")).unwrap();
        let process = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec dockerd \"$@\"", "sh"])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args([Path::new("--data-root"), &self.data(), Path::new("--exec-root"), &path("exec")])
            .args([Path::new("--pidfile"), &path("pid"), Path::new("--config-file"), &path("settings.json")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let process = self.process.insert(process.unwrap());
        let deadline = Instant::now() + TIMEOUT;
        let answers = || client(&path("docker.sock")).arg("version").output().unwrap().status.success();
        while !answers() {
            let log = || fs::read_to_string(path("log")).unwrap();
            assert!(Instant::now() < deadline && process.try_wait().unwrap().is_none(), "{}", log());
        }
    }

    /// Ends it by this signal, and waits until it has ended.
    pub(crate) fn end(&mut self, signal: Signal) {
        let Some(mut process) = self.process.take() else { return };
        let containerd = fs::read_to_string(self.folder.path().join("exec/containerd/containerd.pid"));
        kill_process(Pid::from_child(&process), signal).unwrap();
        process.wait().unwrap();
        // It follows; the next engine must not take it for its own.
        let containerd = Path::new("/proc").join(containerd.unwrap_or_default().trim()).join("cmdline");
        let deadline = Instant::now() + TIMEOUT;
        while fs::read(&containerd).is_ok_and(|line| !line.is_empty()) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    /// Fills its disk; the file can be deleted.
    pub(crate) fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.data().join("filling");
        let mut file = File::create(&path).unwrap();
        let mut size = FILL_BYTES;
        while size > 0 {
            match file.write(&vec![0; size]) {
                Ok(0) | Err(_) => size /= 2,
                Ok(_) => {}
            }
        }
        path
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.end(Signal::TERM);
        let _ = Command::new("umount").arg("--lazy").arg(self.data()).status();
    }
}
