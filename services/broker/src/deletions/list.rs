//! `broker deletions list`: prints the deletion queue.

use super::client::Client;
use super::parked::{Output, print_json};
use clap::Args;
use contract::events::rfc3339;
use contract::{DeletionEntry, DeletionTotals, DeletionsReply, DeletionsRequest, SandboxStatus, Verb};
use domain::UnixSeconds;
use runtime::settings::Env;
use std::fmt::Write as _;

/// Entries per page.
const PAGE_LIMIT: u32 = 100;
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
    /// The format.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

// === impl List ===

impl List {
    /// Requests page by page and prints all deletions.
    ///
    /// # Errors
    /// When no worker answers, or the reply is a failure.
    pub(super) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let client = Client::connect(env).await?;
        let listed = self.ask(&client).await;
        client.close().await;
        let listed = listed?;
        match self.output {
            Output::Json => print_json(&listed),
            Output::Text => {
                print!("{}", table(&listed));
                Ok(())
            }
        }
    }

    async fn ask(&self, client: &Client) -> anyhow::Result<DeletionsReply> {
        let mut all = DeletionsReply::default();
        for _ in 0..PAGES_MAX {
            let request = DeletionsRequest {
                pool: self.pool.clone(),
                status: self.status.clone().map(SandboxStatus::from),
                cursor: all.cursor.take(),
                limit: Some(PAGE_LIMIT),
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
    let mut text = String::new();
    for entry in &listed.deletions {
        let DeletionEntry { sandbox_id, pool, place, age_seconds, attempts, last_error, retry_at, .. } =
            entry;
        let place = place.as_str();
        let retry = retry_at.map_or_else(|| "-".to_owned(), |at| rfc3339(UnixSeconds::new(at)));
        let error = last_error.as_deref().unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{sandbox_id:<20} {pool:<12} {place:<11} {age_seconds:>8} s {attempts:>3}  {retry:<20}  {error}"
        );
        let pre_clean = entry.pre_clean.as_ref().map(|one| format!(" (pre-clean: {})", one.summary));
        let _ = writeln!(text, "{}", pre_clean.unwrap_or_default());
    }
    if let Some(totals) = &listed.totals {
        let _ = writeln!(text, "{}", sum(totals));
    }
    text
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
    use contract::{DeletionPlace, PreCleanView};
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
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "2000000              main         retrying          90 s   3  2025-11-21T00:00:00Z  status 500 \
             (pre-clean: cleaned 2)"
        );
        assert_eq!(lines[1], "7 pending (4 waiting, 2 running, ? retrying), the oldest for 90 s; 2 parked");
    }
}
