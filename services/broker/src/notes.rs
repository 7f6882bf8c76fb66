//! Notes in the readiness of a process, about problems that do not make it unready.

use async_trait::async_trait;
use contract::{Report, RunStatus, TickKind};
use ports::bus::Ticks;
use runtime::check::Check;
use std::sync::Arc;

/// Reports that no sync has completed, or that the last one could not determine everything that is missing. It never makes
/// a role unready, because claims do not need the listing.
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
        let last = self.0.last_report(TickKind::SYNC).await.ok()?;
        note_of(last.map(|last| last.report).as_ref())
    }
}

fn note_of(report: Option<&Report>) -> Option<String> {
    let sync = match report {
        Some(Report::Sync(sync)) => sync,
        Some(_) => return None,
        None => return Some("degraded: no listing was read yet, so the pools are empty".to_owned()),
    };
    if sync.status != RunStatus::Completed {
        let reason = sync.reason.as_deref().unwrap_or("it does not say why");
        return Some(format!("degraded: the last sync {}: {reason}", sync.status.as_str()));
    }
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
        let sync = SyncReport { status: RunStatus::Completed, ..sync };
        let note = note_of(Some(&Report::Sync(sync))).unwrap();
        assert!(note.starts_with("degraded: 2 entries") && note.contains("30 are not listed"), "{note}");
        let whole = SyncReport { status: RunStatus::Completed, ..SyncReport::default() };
        assert_eq!(note_of(Some(&Report::Sync(whole))), None);
    }

    #[test]
    fn listing_that_was_never_read_gets_a_note() {
        assert!(note_of(None).unwrap().contains("the pools are empty"));
        let reason = Some("the provider refuses the token".to_owned());
        let failed = SyncReport { status: RunStatus::Failed, reason, ..SyncReport::default() };
        let note = note_of(Some(&Report::Sync(failed))).unwrap();
        assert_eq!(note, "degraded: the last sync failed: the provider refuses the token");
    }
}
