//! The disk under the data directory: is there room, and the NATS server that has to be started anew after there was
//! none.
//!
//! `nats-server` (2.15) stores nothing more in a stream after one write failed, until it is started again; a former one
//! switches JetStream off. The embedded table needs no such help.

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

/// A disk with less room than this is full: NATS and the table write some 10 KiB for each claim.
const FULL_BELOW_BYTES: u64 = 1024 * 1024;
/// Room from which on a disk that was full is not full any more.
const ROOM_FROM_BYTES: u64 = 2 * FULL_BELOW_BYTES;
/// Pause between two looks at it.
const CHECK_PAUSE: Duration = Duration::from_millis(500);
/// Time for the NATS server to end before it is started anew.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the disk of a folder has room. A clone shares what was found.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    is_full: Arc<AtomicBool>,
}

/// The NATS server of a fleet on this machine, started anew after its disk was full.
#[derive(Debug)]
pub(crate) struct KeptNats {
    start: nats_server::Start,
    disk: Disk,
    /// None while it is started anew.
    server: Mutex<Option<NatsServer>>,
}

/// Bytes that may still be written to the disk of `folder`; none if the system does not say.
fn room_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    // Part of a disk may be kept for root.
    let blocks = if rustix::process::geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
    Some(blocks.saturating_mul(disk.f_frsize))
}

/// What is to be said of the disk of `folder` if it is full.
pub(crate) fn full(folder: &Path) -> Option<String> {
    let room = room_bytes(folder).filter(|room| *room < FULL_BELOW_BYTES)?;
    Some(format!("the disk of {} is full ({} KiB left)", folder.display(), room / 1024))
}

// === impl Disk ===

impl Disk {
    pub(crate) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), is_full: Arc::default() }
    }

    /// Looks at it. Says whether it has room again after it was full.
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
        tracing::info!("the disk of {} has room again", self.folder.display());
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
        // The one that follows has to be found where this one was.
        let start = nats_server::Start { address: server.address, ..start };
        Self { start, disk, server: Mutex::new(Some(server)) }
    }

    /// Looks after the server until `stop`.
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
