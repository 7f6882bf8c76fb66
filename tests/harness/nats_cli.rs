//! The `nats` client of operators, if it is installed.
//!
//! It is expected as `.tools/nats` at the workspace root (`make tools` installs it) or on the `PATH`. Without it the
//! tests report that they are skipped; if `CI` is `true` they fail.

use runtime::settings::{Env, ProcessEnv};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;

/// Oldest version that supports the recipes.
const VERSION_MIN: (u32, u32) = (0, 4);
/// Time-out of one script; the client itself waits 5 s for an answer.
const SCRIPT_MAX: Duration = Duration::from_secs(30);

/// The client, with a home folder without the user's contexts.
#[derive(Debug)]
pub struct NatsCli {
    path: String,
    url: String,
    home: TempDir,
}

/// The folder of the client; none if it is not installed.
///
/// # Panics
/// If it is not installed although `CI` is `true`.
fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(look_for).as_deref()
}

fn look_for() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
    let path = ProcessEnv.get("PATH").unwrap_or_default();
    let found = std::iter::once(fetched)
        .chain(std::env::split_paths(&path))
        .find(|folder| version(&folder.join("nats")).is_some_and(|version| version >= VERSION_MIN));
    if found.is_none() {
        let (major, minor) = VERSION_MIN;
        let missing = format!("no nats client {major}.{minor} or later");
        assert!(ProcessEnv.get("CI").as_deref() != Some("true"), "{missing}: `make tools` builds it");
        // Not `eprintln!`, which the test runner hides as long as the test passes.
        let _ =
            writeln!(std::io::stderr(), "LEFT OUT: the recipes of nats/README.md ({missing}; `make tools`)");
    }
    found
}

/// Parses `0.4.0`, with or without a `v`.
fn version(binary: &Path) -> Option<(u32, u32)> {
    let output = std::process::Command::new(binary).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.trim().trim_start_matches('v').split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

// === impl NatsCli ===

impl NatsCli {
    /// A client of the server at `url`; none if it is not installed.
    ///
    /// # Panics
    /// If it is not installed although `CI` is `true`.
    pub fn new(url: &str) -> Option<Self> {
        let folders = ProcessEnv.get("PATH").unwrap_or_default();
        let path = std::iter::once(folder()?.to_owned()).chain(std::env::split_paths(&folders));
        let path = std::env::join_paths(path).expect("a path").into_string().expect("a path of text");
        Some(Self { path, url: url.to_owned(), home: TempDir::new().expect("a folder") })
    }

    /// Runs a script of shell commands; it stops at the first failure.
    pub async fn run(&self, script: &str) -> Output {
        let mut command = Command::new("sh");
        command
            .args(["-eu", "-c", script])
            .env("PATH", &self.path)
            .env("NATS_URL", &self.url)
            .env("HOME", self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path())
            .env_remove("NATS_CONTEXT")
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ended = tokio::time::timeout(SCRIPT_MAX, command.output()).await;
        ended.unwrap_or_else(|_| panic!("longer than {SCRIPT_MAX:?}: {script}")).expect("there is a shell")
    }
}
