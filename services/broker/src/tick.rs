//! `broker tick`: starts a run now and prints its report.

use crate::deletions::client::Client;
use crate::output::{Format, Shown};
use crate::ticks;
use contract::RunStatus;
use contract::{Report, TickKind};
use ports::bus::{TickReceipt, Ticks as _};
use runtime::settings::Env;
use serde::Serialize;
use std::time::Duration;

/// Maximum of the time-out for a report, in seconds, because a sync of a large listing takes minutes.
const TIMEOUT_SECONDS_MAX: u64 = 3_600;

/// The arguments.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = ticks::help())]
pub(crate) struct Options {
    /// The kind of run.
    #[arg(value_parser = parse_kind)]
    kind: TickKind,
    /// Wait for the report of a run that began after this command, and print it.
    #[arg(long)]
    wait: bool,
    /// How long to wait for the report.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        requires = "wait",
        value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_SECONDS_MAX)
    )]
    patience_seconds: u64,
    #[command(flatten)]
    format: Format,
}

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The tick was accepted; the command did not wait.
    Taken,
    /// The run completed.
    Completed,
    /// The run refused to avoid harm.
    Refused,
    /// It failed.
    Failed,
    /// There was no report in time. The tick stays in the stream.
    Unheard,
}

/// The printed result if the run was not waited for, or its report did not come.
#[derive(Serialize)]
struct Taken {
    kind: TickKind,
    tick: u64,
    status: &'static str,
}

// === impl Options ===

impl Options {
    /// Publishes the tick as the scheduler would, and prints the result.
    ///
    /// # Errors
    /// Mistakes in the environment; no answer of the queue.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<End> {
        let client = Client::connect(env).await?;
        let said = self.say(&client).await;
        client.close().await;
        let (shown, end) = said?;
        self.format.print_line(&shown);
        Ok(end)
    }

    async fn say(&self, client: &Client) -> anyhow::Result<(Shown, End)> {
        let Self { kind, wait, patience_seconds, format: _ } = *self;
        if !wait {
            let receipt = client.bus().tick(kind, None).await?;
            return Ok((taken(kind, receipt)?, End::Taken));
        }
        let patience = Duration::from_secs(patience_seconds);
        let (receipt, report) = client.bus().tick_and_wait(kind, patience).await?;
        Ok(match report {
            Some(report) => (Shown::fields(&report)?, End::of(&report.report)),
            None => (taken(kind, receipt)?, End::Unheard),
        })
    }
}

fn taken(kind: TickKind, receipt: TickReceipt) -> Result<Shown, serde_json::Error> {
    let TickReceipt { sequence, duplicate } = receipt;
    // A waiting tick has the same effect, and its sequence is the one to wait for.
    let status = if duplicate { "waiting_already" } else { "accepted" };
    Shown::fields(&Taken { kind, tick: sequence, status })
}

fn parse_kind(name: &str) -> Result<TickKind, String> {
    let kinds: Vec<_> = ticks::registered().iter().map(|tick| tick.kind).collect();
    let found = kinds.iter().find(|kind| kind.as_str() == name).copied();
    found.ok_or_else(|| {
        format!("must be one of {}", kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "))
    })
}

// === impl End ===

impl End {
    fn of(report: &Report) -> Self {
        match report.status() {
            RunStatus::Completed => Self::Completed,
            RunStatus::Refused => Self::Refused,
            RunStatus::Failed | RunStatus::Unknown => Self::Failed,
        }
    }

    /// The exit code. 1 is an error of the command itself, 2 of its arguments.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Taken | Self::Completed => 0,
            Self::Refused => 3,
            Self::Failed => 4,
            Self::Unheard => 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::SyncReport;

    #[test]
    fn the_exit_code_follows_the_status() {
        let newer = serde_json::from_str(r#""what a newer build says""#).unwrap();
        let codes = [RunStatus::Completed, RunStatus::Refused, RunStatus::Failed, newer]
            .map(|status| End::of(&Report::Sync(SyncReport { status, ..SyncReport::default() })).code());
        assert_eq!(codes, [0, 3, 4, 4]);
        assert_eq!((End::Taken.code(), End::Unheard.code()), (0, 5));
    }

    #[test]
    fn every_tick_kind_is_parsed() {
        for kind in ticks::registered().iter().map(|tick| tick.kind) {
            assert_eq!(parse_kind(kind.as_str()), Ok(kind));
        }
        assert_eq!(
            parse_kind("Sync").unwrap_err(),
            "must be one of sync, expiry, sweep, census, stale, fill, nodes"
        );
    }
}
