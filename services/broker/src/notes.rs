//! Notes in the readiness of a process, about problems that do not make it unready.

use async_trait::async_trait;
use contract::{Report, TickKind};
use ports::bus::Ticks;
use runtime::check::Check;
use std::sync::Arc;

/// Reports that the last sync could not determine everything that is missing. It never makes a role unready, because
/// claims do not need the listing.
pub(crate) struct ListingNote(pub(crate) Arc<dyn Ticks>);

#[async_trait]
impl Check for ListingNote {
    fn name(&self) -> &'static str {
        "listing"
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn note(&self) -> Option<String> {
        let last = self.0.last_report(TickKind::SYNC).await.ok()??;
        note_of(&last.report)
    }
}

fn note_of(report: &Report) -> Option<String> {
    let Report::Sync(sync) = report else { return None };
    (sync.unclear > 0).then(|| {
        format!(
            "degraded: {} entries of the last listing may be any sandbox, so nothing was marked stale ({} are not listed)",
            sync.unclear, sync.withheld,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::SyncReport;

    #[test]
    fn only_a_listing_with_unclear_entries_gets_a_note() {
        let sync = SyncReport { unclear: 2, withheld: 30, ..SyncReport::default() };
        let note = note_of(&Report::Sync(sync)).unwrap();
        assert!(note.starts_with("degraded: 2 entries") && note.contains("30 are not listed"), "{note}");
        assert_eq!(note_of(&Report::Sync(SyncReport::default())), None);
    }
}
