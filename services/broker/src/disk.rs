//! The disk of the data directory: checks its free space, and restarts the NATS server after the disk was full.
//!
//! After a failed write, `nats-server` (2.15) stores nothing more in that stream until it is restarted; an earlier
//! version disables JetStream. The embedded table recovers by itself.

use crate::nats_server::{self, NatsServer};
use async_trait::async_trait;
use runtime::check::Check;
use runtime::telemetry::Chain;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// A disk with less free space than this counts as full: NATS and the table write some 10 KiB for each claim.
const FULL_BELOW_BYTES: u64 = 1024 * 1024;
/// Free space from which a full disk counts as usable again.
const ROOM_FROM_BYTES: u64 = 2 * FULL_BELOW_BYTES;
/// Pause between two checks.
const CHECK_PAUSE: Duration = Duration::from_millis(500);
/// Time for the NATS server to stop before it is restarted.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the disk of a folder has free space. Clones share the result.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    is_full: Arc<AtomicBool>,
}

/// The NATS server of a fleet on this machine, restarted after its disk was full.
#[derive(Debug)]
pub(crate) struct KeptNats {
    start: nats_server::Start,
    disk: Disk,
    /// None during a restart.
    server: Mutex<Option<NatsServer>>,
}

/// Free bytes on the disk of `folder`; none if the system does not know.
fn room_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    // Part of a disk may be reserved for root.
    let blocks = if rustix::process::geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
    Some(blocks.saturating_mul(disk.f_frsize))
}

/// The error text if the disk of `folder` is full.
pub(crate) fn full(folder: &Path) -> Option<String> {
    let room = room_bytes(folder).filter(|room| *room < FULL_BELOW_BYTES)?;
    Some(format!("the disk of {} is full ({} KiB left)", folder.display(), room / 1024))
}

// === impl Disk ===

impl Disk {
    pub(crate) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), is_full: Arc::default() }
    }

    /// Checks the disk. Returns whether it has free space again after it was full.
    fn look(&self) -> bool {
        let Some(room) = room_bytes(&self.folder) else { return false };
        if !self.is_full.load(Ordering::Relaxed) {
            if room < FULL_BELOW_BYTES {
                self.is_full.store(true, Ordering::Relaxed);
                tracing::error!("the disk of {} is full: nothing can be stored", self.folder.display());
            }
            return false;
        }
        room >= ROOM_FROM_BYTES
    }

    fn has_room_again(&self) {
        self.is_full.store(false, Ordering::Relaxed);
        tracing::info!("the disk of {} has free space again", self.folder.display());
    }
}

#[async_trait]
impl Check for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn check(&self) -> Result<(), String> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(format!("the disk of {} is full: make room there", self.folder.display()));
        }
        Ok(())
    }
}

// === impl KeptNats ===

impl KeptNats {
    pub(crate) fn new(start: nats_server::Start, server: NatsServer, disk: Disk) -> Self {
        // The next server has to listen on the same address.
        let start = nats_server::Start { address: server.address, ..start };
        Self { start, disk, server: Mutex::new(Some(server)) }
    }

    /// Watches the server until `stop`.
    ///
    /// # Errors
    /// When it ends by itself.
    pub(crate) async fn keep(&self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let ended = self.server.lock().await.as_ref().map(|server| server.child.watch());
            let ended = async {
                match ended {
                    Some(ended) => ended.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                status = ended => {
                    let why = full(&self.disk.folder).unwrap_or_else(|| format!("{status:?}"));
                    anyhow::bail!("nats-server ended ({why})");
                }
                () = tokio::time::sleep(CHECK_PAUSE) => {}
            }
            if self.disk.look() {
                tokio::select! {
                    () = self.start_anew() => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
        }
    }

    async fn start_anew(&self) {
        let mut server = self.server.lock().await;
        if let Some(server) = server.take() {
            server.child.stop(STOP_TIMEOUT).await;
        }
        match self.start.start().await {
            Ok(started) => {
                *server = Some(started);
                self.disk.has_room_again();
            }
            Err(error) => {
                tracing::warn!(error = %Chain(error.as_ref()), "nats-server does not start again yet")
            }
        }
    }

    pub(crate) async fn stop(&self, patience: Duration) {
        if let Some(server) = self.server.lock().await.take() {
            server.child.stop(patience).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_room_is_not_full() {
        let folder = std::env::temp_dir();
        assert!(room_bytes(&folder).unwrap() > 0);
        assert_eq!(full(&folder), None);
        assert_eq!(full(&folder.join("absent")), None, "what cannot be looked at is not called full");
    }
}
