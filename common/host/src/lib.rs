//! What the engines of one machine have in common: the files of sandboxes, their control groups, and which call may change
//! one.

#![cfg(target_os = "linux")]

pub mod cgroups;
pub mod folders;
pub mod numbers;
pub mod turns;

use ports::engine::EngineError;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Pause between two looks at whether the kernel or an engine has done something.
pub const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Where programs are searched: the node's environment may lack the folders of root.
pub const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where clouds answer with credentials of the machine, and what is local to a link (IPv4), in the words of nftables.
pub const BLOCKED_V4: &str = "169.254.0.0/16, 100.100.100.200";

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

/// A short hash of a folder, for names that are unique on this machine.
pub fn hash_of(folder: &std::path::Path) -> String {
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
