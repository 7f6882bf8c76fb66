//! `broker events`: the latest events of the event log.

use crate::deletions::client::Client;
use crate::output::{Shown, columns, or_none};
use clap::Args;
use contract::{Event, EventData};
use domain::{Cause, SandboxId};
use ports::bus::{EventFeed as _, EventsFrom, EventsWanted, KeptEvent};
use ports::clock::{Clock as _, SystemClock};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// Events of one read.
const PAGE_EVENTS: usize = 256;
const MINUTE_SECONDS: u64 = 60;
/// Longest time to look back, in minutes: ten years.
const MINUTES_MAX: u64 = 10 * 366 * 24 * 60;

/// Which events.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct Filter {
    /// Look back this far.
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=MINUTES_MAX))]
    minutes: u64,
    /// Only those of this sandbox.
    #[arg(long, value_name = "ID", value_parser = SandboxId::parse)]
    sandbox: Option<SandboxId>,
    /// Only those of this type, for example `claimed`.
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_cause)]
    cause: Option<Cause>,
    /// Only those of this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only the latest ones, at most this many.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

/// An event with its sequence.
#[derive(Serialize)]
struct Numbered {
    sequence: u64,
    #[serde(flatten)]
    event: Event,
}

fn parse_cause(name: &str) -> Result<Cause, String> {
    name.parse().map_err(|_| format!("must be one of {}", contract::names::<Cause>()))
}

// === impl Filter ===

impl Filter {
    /// Reads the events, and keeps the latest ones. Events that this build cannot read are left out.
    pub(super) async fn look(&self, client: &Client) -> anyhow::Result<Shown> {
        let limit = usize::try_from(self.limit)?;
        let wanted = EventsWanted { cause: self.cause, sandbox: self.sandbox.clone() };
        let since = SystemClock.now().before(Duration::from_secs(self.minutes * MINUTE_SECONDS));
        let mut from = EventsFrom::Since(since);
        // Those that are added meanwhile are for the next look; without this, a busy log would have no end.
        let end = client.bus().event_log_range().await?.last;
        let mut latest = VecDeque::new();
        loop {
            let page = client.bus().events_from(from, &wanted, PAGE_EVENTS).await?;
            let Some(last) = page.last().map(|kept| kept.sequence) else { break };
            let of_pool = |event: &Event| self.pool.as_ref().is_none_or(|pool| *pool == event.data.pool);
            for KeptEvent { sequence, event } in page {
                latest.extend(event.filter(of_pool).map(|event| Numbered { sequence, event }));
                if latest.len() > limit {
                    latest.pop_front();
                }
            }
            if last >= end {
                break;
            }
            from = EventsFrom::After(last);
        }
        let headers = ["SEQUENCE", "TIME", "TYPE", "SANDBOX", "POOL", "OWNER", "LAB", "BY", "REASON"];
        Ok(Shown::of(&latest, columns(headers, latest.iter().map(row)))?)
    }
}

fn row(Numbered { sequence, event }: &Numbered) -> [String; 9] {
    let Event { kind, subject, time, data, .. } = event;
    let EventData { pool, owner, lab, by, reason, .. } = data;
    [
        sequence.to_string(),
        time.clone(),
        kind.to_string(),
        subject.clone(),
        pool.clone(),
        or_none(owner.as_deref()),
        or_none(lab.as_deref()),
        by.clone(),
        or_none(reason.as_deref()),
    ]
}
