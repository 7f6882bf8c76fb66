//! Roles of a measured fleet in separate processes.

use super::{Fleet, READY_POLL_PAUSE, READY_TIMEOUT};
use anyhow::{Context as _, bail};
use broker::child::{Child, Program};
use contract::WorkerRole;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A port of the kernel's choice on loopback.
const ANY_PORT: &str = "127.0.0.1:0";
/// Log filter of a role: the line with the address of its operations port, and none per claim.
const FILTER: &str = "warn,broker=info,aws_config=error";
/// Time for a role to finish after the measurement.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one answer of its operations port is waited for.
const OPS_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the end of its log that are shown when it does not start.
pub(crate) const LOG_SHOWN_BYTES: usize = 2_000;

/// A role that runs as a process, and dies with this one.
pub(crate) struct RoleProcess {
    pub(crate) role: WorkerRole,
    child: Child,
    ops: SocketAddr,
}

/// The binary of the roles: `named`, or the `broker` next to this program.
///
/// # Errors
/// When this program cannot find itself, or there is no broker next to it.
pub(crate) fn program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let broker = this_program()?.with_file_name("broker");
    anyhow::ensure!(
        broker.exists(),
        "there is no {}; build it, or name another one (--program)",
        broker.display()
    );
    Ok(broker)
}

/// The binary of this process.
///
/// # Errors
/// When this program cannot find itself.
pub(crate) fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("this program cannot find itself")
}

// === impl RoleProcess ===

impl RoleProcess {
    /// Starts `role` of `fleet` as a process of `binary`, with `more` variables, and waits until it is ready.
    ///
    /// # Errors
    /// When it exits, or is not ready in time; contains the end of its log.
    pub(crate) async fn start(
        fleet: &Fleet,
        role: WorkerRole,
        binary: &Path,
        more: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let log = fleet.folder().join(format!("{}-{}.log", role.as_str(), uuid::Uuid::now_v7()));
        let own = [
            ("OPS_LISTEN", ANY_PORT.to_owned()),
            ("HTTP_LISTEN", ANY_PORT.to_owned()),
            ("LOG_FILTER", FILTER.to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ];
        let given = fleet.environment.iter().map(|(name, value)| (name.into(), value.into()));
        let set = own.iter().chain(more).map(|(name, value)| (name.into(), value.into()));
        let program = Program {
            guard: binary.to_owned(),
            path: binary.to_owned(),
            arguments: vec![role.as_str().into()],
            variables: given.chain(set).collect(),
            log: log.clone(),
        };
        let child = Child::start(program).await?;
        let ready = async {
            let ops = ops_address(&log).await;
            while !get(ops, "/readyz").await.is_ok_and(|(is_ok, _)| is_ok) {
                tokio::time::sleep(READY_POLL_PAUSE).await;
            }
            ops
        };
        tokio::select! {
            ops = ready => return Ok(Self { role, child, ops }),
            _ = child.ended() => {}
            () = tokio::time::sleep(READY_TIMEOUT) => child.kill().await,
        }
        let text = tokio::fs::read_to_string(&log).await.unwrap_or_default();
        let end = text.get(text.len().saturating_sub(LOG_SHOWN_BYTES)..).unwrap_or(&text);
        bail!("the {} does not get ready; the end of its log:\n{end}", role.as_str());
    }

    /// Its process id.
    pub(crate) fn id(&self) -> i32 {
        self.child.id()
    }

    /// Its metrics, as text.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn metrics(&self) -> anyhow::Result<String> {
        Ok(get(self.ops, "/metrics").await?.1)
    }

    /// Stops all of them and waits.
    pub(crate) async fn stop_all(processes: Vec<Self>) {
        for process in &processes {
            process.child.ask_to_stop();
        }
        for process in processes {
            process.child.stop(STOP_TIMEOUT).await;
        }
    }
}

/// The address of the operations port of a role, once its log contains it.
async fn ops_address(log: &Path) -> SocketAddr {
    loop {
        let text = tokio::fs::read_to_string(log).await.unwrap_or_default();
        if let Some(address) = text.lines().find_map(ops_address_in) {
            return address;
        }
        tokio::time::sleep(READY_POLL_PAUSE).await;
    }
}

fn ops_address_in(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("\"ops\":\"")?;
    after.split_once('"')?.0.parse().ok()
}

/// One request to an operations port: whether the status was 200, and the whole answer. It uses a plain connection,
/// because the HTTP clients of this workspace are for brokers and providers.
async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(bool, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok((answer.starts_with("HTTP/1.1 200 "), answer))
    };
    tokio::time::timeout(OPS_TIMEOUT, asked).await.context("no answer")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_address_is_parsed_from_the_log() {
        let line =
            r#"{"level":"INFO","message":"allocator starts","ops":"127.0.0.1:4711","role":"allocator"}"#;
        assert_eq!(ops_address_in(line), Some(SocketAddr::from(([127, 0, 0, 1], 4711))));
        assert_eq!(ops_address_in(r#"{"message":"ready","listen":"127.0.0.1:4711"}"#), None);
    }
}
