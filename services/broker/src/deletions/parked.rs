//! Parked deletions: list them, replay them, remove messages that cannot be read.

use super::client::Client;
use crate::output::{Format, Shown, columns, moment, or_none};
use anyhow::bail;
use clap::{Args, Subcommand};
use contract::events::rfc3339;
use contract::queue::PAGE_LIMIT_MAX;
use contract::{
    DeletionRequest, DeletionView, KeyRequest, ParkedReply, ParkedRequest, ParkedView, RemoveReply,
    ReplayAllReply, ReplayAllRequest, ReplayOutcome, ReplayReply, Verb,
};
use domain::UnixSeconds;
use runtime::settings::Env;
use std::fmt::Write as _;

/// Most pages of one command, because a stream that grows as fast as it is read would never end.
const PAGES_MAX: usize = 10_000;

/// The subcommands for parked deletions.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List deletions that used up their attempts, and messages that cannot be read.
    Parked {
        #[command(flatten)]
        which: Which,
    },
    /// Show the deletion of one sandbox: its state, its attempts, its message, its history.
    Show {
        /// The sandbox.
        id: String,
    },
    /// Replay parked deletions, counting attempts from zero. Safe to repeat and to interrupt.
    Replay {
        /// The sandbox, or the key of a message that cannot be read.
        #[arg(required_unless_present = "all", conflicts_with_all = ["all", "pool", "reason"])]
        key: Option<String>,
        /// Replay all, or all that match the filters.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        which: Which,
        /// The operator, for the history; the user of this shell by default.
        #[arg(long)]
        by: Option<String>,
    },
    /// Remove a parked message that cannot be read.
    Remove {
        /// Its key: `_unreadable.<sequence>`.
        key: String,
        /// The operator, for the log; the user of this shell by default.
        #[arg(long)]
        by: Option<String>,
    },
}

/// The filters.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Which {
    /// Only those of this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only those whose reason contains this text.
    #[arg(long)]
    reason: Option<String>,
}

// === impl Command ===

impl Command {
    pub(super) async fn run(self, env: &dyn Env, format: Format) -> anyhow::Result<()> {
        let by = |by: Option<String>| by.or_else(|| env.get("USER"));
        let client = Client::connect(env).await?;
        let ended = match self {
            Self::Parked { which } => parked(&client, which, format).await,
            Self::Show { id } => show(&client, id, format).await,
            Self::Replay { key: Some(key), by: name, .. } => {
                replay(&client, KeyRequest { key, by: by(name) }, format).await
            }
            Self::Replay { key: None, which, by: name, .. } => {
                replay_all(&client, which, by(name), format).await
            }
            Self::Remove { key, by: name } => remove(&client, KeyRequest { key, by: by(name) }, format).await,
        };
        client.close().await;
        ended
    }
}

// === impl Which ===

impl Which {
    fn page(&self, cursor: Option<u64>) -> ParkedRequest {
        let Self { pool, reason } = self.clone();
        ParkedRequest { pool, reason, cursor, limit: Some(PAGE_LIMIT_MAX) }
    }
}

async fn parked(client: &Client, which: Which, format: Format) -> anyhow::Result<()> {
    let mut all = ParkedReply::default();
    for _ in 0..PAGES_MAX {
        let page: ParkedReply = client.ask(Verb::Parked, &which.page(all.cursor)).await?;
        all.count += page.count;
        all.parked.extend(page.parked);
        all.cursor = page.cursor;
        if all.cursor.is_none() {
            break;
        }
    }
    format.print(&Shown::of(&all, table(&all.parked))?);
    Ok(())
}

async fn show(client: &Client, sandbox_id: String, format: Format) -> anyhow::Result<()> {
    let view: DeletionView = client.ask(Verb::Deletion, &DeletionRequest { sandbox_id }).await?;
    format.print(&Shown::of(&view, description(&view))?);
    Ok(())
}

async fn replay(client: &Client, request: KeyRequest, format: Format) -> anyhow::Result<()> {
    let reply: ReplayReply = client.ask(Verb::Replay, &request).await?;
    let ReplayReply { key, outcome } = &reply;
    let text = match outcome {
        ReplayOutcome::Replayed => format!("{key} is tried again"),
        ReplayOutcome::AlreadyOnTheWay => format!("{key} is on its way already"),
        ReplayOutcome::Gone => format!("{key} needs no deletion any more"),
        ReplayOutcome::Unreadable => String::new(),
    };
    format.print(&Shown::of(&reply, text)?);
    if *outcome == ReplayOutcome::Unreadable {
        bail!("{key} still cannot be read; a newer build may, or `broker deletions remove {key}`");
    }
    Ok(())
}

async fn replay_all(client: &Client, which: Which, by: Option<String>, format: Format) -> anyhow::Result<()> {
    let mut total = ReplayAllReply::default();
    for _ in 0..PAGES_MAX {
        let request = ReplayAllRequest::new(which.page(total.cursor), by.clone());
        let page: ReplayAllReply = client.ask(Verb::ReplayAll, &request).await?;
        total.add(&page);
        if total.cursor.is_none() {
            break;
        }
    }
    let ReplayAllReply { replayed, already_on_the_way, gone, unreadable, failed, .. } = &total;
    let text = format!(
        "replayed {replayed}, already on the way {already_on_the_way}, gone {gone}, unreadable {unreadable}"
    );
    format.print(&Shown::of(&total, text)?);
    if *failed > 0 {
        bail!("{failed} could not be replayed now; repeat the same command");
    }
    Ok(())
}

async fn remove(client: &Client, request: KeyRequest, format: Format) -> anyhow::Result<()> {
    let reply: RemoveReply = client.ask(Verb::Remove, &request).await?;
    let RemoveReply { key, removed } = &reply;
    let text = format!("{key} {}", if *removed { "is removed" } else { "was not there" });
    format.print(&Shown::of(&reply, text)?);
    Ok(())
}

fn table(parked: &[ParkedView]) -> String {
    let rows = parked.iter().map(|ParkedView { key, pool, reason, attempts, parked_at }| {
        let at = moment(Some(*parked_at));
        [key.clone(), or_none(pool.as_deref()), or_none(*attempts), at, reason.clone()]
    });
    let table = columns(["KEY", "POOL", "ATTEMPTS", "PARKED", "REASON"], rows);
    format!("{table}{} parked\n", parked.len())
}

fn description(view: &DeletionView) -> String {
    let mut text = String::new();
    let DeletionView {
        sandbox_id,
        name,
        pool,
        status,
        attempts,
        last_error,
        pre_clean,
        queued,
        parked,
        history,
        ..
    } = view;
    let _ = writeln!(text, "{sandbox_id} ({name}) of pool {pool} is {status}; {attempts} attempts");
    if let Some(error) = last_error {
        let _ = writeln!(text, "last error: {error}");
    }
    if let Some(pre_clean) = pre_clean {
        let _ = writeln!(text, "pre-clean: {}", pre_clean.summary);
    }
    for message in queued {
        let since = rfc3339(UnixSeconds::new(message.since));
        let place = if message.put_off { "waits for its next attempt" } else { "is in the queue" };
        let due = message.due_at.map(|due| format!(", due at {}", rfc3339(UnixSeconds::new(due))));
        let _ = writeln!(text, "its message {place} since {since}{}", due.unwrap_or_default());
    }
    if let Some(parked) = parked {
        let at = rfc3339(UnixSeconds::new(parked.parked_at));
        let _ = writeln!(text, "parked at {at}: {}", parked.reason);
    }
    for entry in history {
        let at = rfc3339(UnixSeconds::new(entry.at));
        let by = entry.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let _ = writeln!(text, "  {at}  {:<17} {}{by}", entry.status, entry.cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_table_has_one_row_per_copy_and_a_total() {
        let one = ParkedView {
            key: "2000000".to_owned(),
            pool: Some("main".to_owned()),
            reason: "status 500".to_owned(),
            attempts: Some(8),
            parked_at: 1_763_683_200,
        };
        let other = ParkedView { key: "_unreadable.7".to_owned(), pool: None, attempts: None, ..one.clone() };
        let text = table(&[one, other]);
        assert_eq!(
            text,
            "KEY            POOL  ATTEMPTS  PARKED                REASON\n\
             2000000        main  8         2025-11-21T00:00:00Z  status 500\n\
             _unreadable.7  -     -         2025-11-21T00:00:00Z  status 500\n\
             2 parked\n"
        );
    }
}
