//! A connection that speaks another protocol: behind the answer 101 its bytes pass as they are, both ways.

use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the task of an upgraded connection and the stream that a handler holds tell each other.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    /// Cancelled when the handler should finish: the stream reads as ended.
    pub(super) ending: CancellationToken,
    /// Cancelled when nothing may be written any more.
    pub(super) cut: CancellationToken,
    /// Cancelled when the handler has dropped the stream.
    pub(super) released: CancellationToken,
}

// === impl Upgrade ===

impl Upgrade {
    /// Waits until the handler has dropped the stream. Once `closing` is cancelled, the handler has `patience` to do so.
    /// True if the stop ended it.
    pub(super) async fn ended(&self, closing: &CancellationToken, patience: Duration) -> bool {
        tokio::select! {
            () = self.released.cancelled() => return false,
            () = closing.cancelled() => self.ending.cancel(),
        }
        // Elapsed or not, the connection ends here.
        let _ = tokio::time::timeout(patience, self.released.cancelled()).await;
        true
    }

    /// Ends the stream when dropped: a handler may keep it for longer than the connection may last.
    pub(super) fn cut_on_drop(&self) -> [DropGuard; 2] {
        [self.ending.clone().drop_guard(), self.cut.clone().drop_guard()]
    }
}
