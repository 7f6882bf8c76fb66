//! What the engines of one machine have in common: the files of sandboxes, their control groups, and which call may change
//! one.

#![cfg(target_os = "linux")]

pub mod cgroups;
pub mod folders;
pub mod numbers;
pub mod published;
pub mod record;
pub mod turns;

use domain::SandboxId;
use ports::engine::{ContainerState, EngineError};
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// Pause between two looks at whether the kernel or an engine has done something.
pub const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Where programs are searched: the node's environment may lack the folders of root.
pub const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where clouds answer with credentials of the machine, and what is local to a link (IPv4), in the words of nftables.
pub const BLOCKED_V4: &str = "169.254.0.0/16, 100.100.100.200";

/// Why a workspace on disk has no limit of size.
pub const NO_DISK_LIMIT: &str = "folders on disk have no quota; use a workspace in memory";
/// What the supervisor may do as root: become another user, end its processes, take these rights from jobs, and run when a
/// sandbox is overloaded.
pub const SUPERVISOR_CAPABILITIES: [&str; 5] = ["SETUID", "SETGID", "SETPCAP", "KILL", "SYS_NICE"];
/// Where the supervisor is inside.
pub const SUPERVISOR_INSIDE: &str = "/run/supervisor";
/// Where the workspace is inside.
pub const WORKSPACE_INSIDE: &str = "/workspace";
/// Longest name of a host, in bytes.
const HOSTNAME_BYTES_MAX: usize = 64;
/// Most bytes of an error message that are passed on.
pub const COMPLAINT_BYTES_MAX: usize = 512;
/// Time-out for the supervisor's socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the ports of sandboxes are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The address of the node.
    pub address: Ipv4Addr,
    /// The ports of the node that may be used.
    pub ports: RangeInclusive<u16>,
}

/// What follows from a failure of the machine.
pub fn of_io(error: io::Error) -> EngineError {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull, WouldBlock};
    match error.kind() {
        OutOfMemory | QuotaExceeded | StorageFull | WouldBlock => {
            EngineError::Full { reason: error.to_string() }
        }
        _ => EngineError::unavailable(error),
    }
}

/// Checks what every adapter is configured with.
///
/// # Errors
/// The mistake.
pub fn check_config(fleet: &str, supervisor: &[u8]) -> Result<(), &'static str> {
    if fleet.is_empty() || !fleet.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err("the name of the fleet may hold only letters, digits and '-'");
    }
    if supervisor.is_empty() {
        return Err("this build has no supervisor for this system");
    }
    Ok(())
}

/// The name of a sandbox as that of its host.
pub fn hostname(sandbox: &SandboxId) -> &str {
    let name = sandbox.as_str();
    name.get(..HOSTNAME_BYTES_MAX).unwrap_or(name)
}

/// The part of a program's last words that is passed on.
pub fn complaint(words: &str) -> &str {
    let line = words.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    line.get(..line.floor_char_boundary(COMPLAINT_BYTES_MAX)).unwrap_or(line)
}

/// Connects to the socket of a supervisor.
///
/// # Errors
/// [`EngineError::Unavailable`] if it takes no connection.
pub async fn connect(socket: &Path) -> Result<UnixStream, EngineError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
        Ok(connected) => connected.map_err(EngineError::unavailable),
        Err(_) => Err(EngineError::unavailable("the supervisor takes no connection")),
    }
}

/// The answer to a call that needs a running sandbox.
pub fn not_running(state: &ContainerState) -> EngineError {
    match state {
        ContainerState::Creating => EngineError::unavailable("it is being created"),
        ContainerState::Failed { reason } => EngineError::failed(reason),
        ContainerState::Paused => EngineError::refused("it is paused"),
        ContainerState::Stopped | ContainerState::Exited | ContainerState::Running => {
            EngineError::refused("it is not running")
        }
    }
}

/// A short hash of a folder, for names that are unique on this machine.
pub fn hash_of(folder: &Path) -> String {
    use sha2::{Digest as _, Sha256};
    let hash = Sha256::digest(folder.as_os_str().as_encoded_bytes());
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_room_is_full() {
        assert!(matches!(of_io(io::ErrorKind::StorageFull.into()), EngineError::Full { .. }));
        assert!(matches!(of_io(rustix::io::Errno::AGAIN.into()), EngineError::Full { .. }));
        assert!(matches!(of_io(io::ErrorKind::NotFound.into()), EngineError::Unavailable { .. }));
    }
}
