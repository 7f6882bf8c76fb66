//! `broker deletions list`: prints the deletion queue.

use super::client::Client;
use crate::output::{Format, Shown, Watch, columns, moment, or_none};
use clap::Args;
use contract::queue::PAGE_LIMIT_MAX;
use contract::{DeletionTotals, DeletionsReply, DeletionsRequest, SandboxStatus, Verb};
use runtime::settings::Env;

/// Most pages of one command, because an index that grows as fast as it is read would never end.
const PAGES_MAX: usize = 10_000;

/// The filters and the format.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those of this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only those in this state.
    #[arg(long, value_parser = ["pending_deletion", "deletion_failed"])]
    status: Option<String>,
    #[command(flatten)]
    watch: Watch,
}

// === impl List ===

impl List {
    /// Requests page by page and prints all deletions.
    ///
    /// # Errors
    /// When no worker answers, or the reply is a failure.
    pub(super) async fn run(self, env: &dyn Env, format: Format) -> anyhow::Result<()> {
        let client = Client::connect(env).await?;
        let look = async || {
            let listed = self.ask(&client).await?;
            Ok(Shown::of(&listed, table(&listed))?)
        };
        let ended = self.watch.show(format, look).await;
        client.close().await;
        ended
    }

    async fn ask(&self, client: &Client) -> anyhow::Result<DeletionsReply> {
        let mut all = DeletionsReply::default();
        for _ in 0..PAGES_MAX {
            let request = DeletionsRequest {
                pool: self.pool.clone(),
                status: self.status.clone().map(SandboxStatus::from),
                cursor: all.cursor.take(),
                limit: Some(PAGE_LIMIT_MAX),
            };
            let page: DeletionsReply = client.ask(Verb::Deletions, &request).await?;
            all.count += page.count;
            all.deletions.extend(page.deletions);
            all.cursor = page.cursor;
            all.totals = all.totals.or(page.totals);
            if all.cursor.is_none() {
                break;
            }
        }
        Ok(all)
    }
}

fn table(listed: &DeletionsReply) -> String {
    let rows = listed.deletions.iter().map(|entry| {
        let pre_clean = entry.pre_clean.as_ref().map(|one| format!(" (pre-clean: {})", one.summary));
        [
            entry.sandbox_id.clone(),
            entry.pool.clone(),
            entry.place.as_str().to_owned(),
            format!("{} s", entry.age_seconds),
            entry.attempts.to_string(),
            moment(entry.retry_at),
            or_none(entry.last_error.as_deref()) + &pre_clean.unwrap_or_default(),
        ]
    });
    let headers = ["SANDBOX", "POOL", "PLACE", "AGE", "ATTEMPTS", "NEXT ATTEMPT", "LAST ERROR"];
    let totals = listed.totals.as_ref().map(|totals| format!("{}\n", sum(totals)));
    columns(headers, rows) + &totals.unwrap_or_default()
}

fn sum(totals: &DeletionTotals) -> String {
    let DeletionTotals { pending, parked, waiting, running, retrying, oldest_age_seconds, .. } = totals;
    let known = |count: &Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let oldest = oldest_age_seconds.map(|age| format!(", the oldest for {age} s")).unwrap_or_default();
    format!(
        "{pending} pending ({} waiting, {} running, {} retrying){oldest}; {parked} parked",
        known(waiting),
        known(running),
        known(retrying),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{DeletionEntry, DeletionPlace, PreCleanView};
    use domain::StateName;

    #[test]
    fn each_deletion_is_one_row_followed_by_a_summary() {
        let entry = DeletionEntry {
            sandbox_id: "2000000".to_owned(),
            name: "lab-00000".to_owned(),
            pool: "main".to_owned(),
            status: StateName::PendingDeletion.into(),
            place: DeletionPlace::Retrying,
            requested_at: 1_763_683_200,
            age_seconds: 90,
            attempts: 3,
            last_error: Some("status 500".to_owned()),
            retry_at: Some(1_763_683_200),
            pre_clean: Some(PreCleanView { summary: "cleaned 2".to_owned(), ..PreCleanView::default() }),
        };
        let totals = DeletionTotals {
            pending: 7,
            parked: 2,
            waiting: Some(4),
            running: Some(2),
            retrying: None,
            oldest_age_seconds: Some(90),
            ..DeletionTotals::default()
        };
        let listed = DeletionsReply { deletions: vec![entry], count: 1, cursor: None, totals: Some(totals) };
        let text = table(&listed);
        assert_eq!(
            text,
            "SANDBOX  POOL  PLACE     AGE   ATTEMPTS  NEXT ATTEMPT          LAST ERROR\n\
             2000000  main  retrying  90 s  3         2025-11-21T00:00:00Z  status 500 (pre-clean: cleaned 2)\n\
             7 pending (4 waiting, 2 running, ? retrying), the oldest for 90 s; 2 parked\n"
        );
    }
}
