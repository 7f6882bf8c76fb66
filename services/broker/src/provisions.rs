//! `broker provisions`: lists creations of sandboxes that are wanted or parked, and tries parked ones again, over NATS.

use crate::deletions::client::Client;
use crate::output::{Format, Shown, Watch, columns, or_none};
use crate::views::sandboxes;
use anyhow::bail;
use clap::{Args, Subcommand};
use contract::queue::PAGE_LIMIT_MAX;
use contract::{
    ProvisionState, ReplayOutcome, ReplayProvisionRequest, ReplayProvisionsReply, ReplayProvisionsRequest,
    ReplayReply, SandboxEntry, SandboxesReply, SandboxesRequest, Verb,
};
use domain::StateName;
use ports::clock::{Clock as _, SystemClock};
use runtime::settings::Env;

/// The states of a creation, in the order of the list.
const STATES: [StateName; 2] = [StateName::ProvisionFailed, StateName::Provisioning];
/// Most pages of one command, because an index that grows as fast as it is read would never end.
const PAGES_MAX: usize = 10_000;

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// List sandboxes that are being created, and those whose creation used up its attempts, with the last error.
    List(List),
    /// Replay parked creations, counting attempts from zero. Safe to repeat and to interrupt.
    Replay {
        /// The sandbox.
        #[arg(required_unless_present = "all", conflicts_with_all = ["all", "pool", "reason"])]
        id: Option<String>,
        /// Replay all, or all that match the filters.
        #[arg(long)]
        all: bool,
        /// Only those of this pool.
        #[arg(long)]
        pool: Option<String>,
        /// Only those whose last error contains this text.
        #[arg(long)]
        reason: Option<String>,
        /// The operator, for the history; the user of this shell by default.
        #[arg(long)]
        by: Option<String>,
    },
}

/// The filters and the format.
#[derive(Debug, Args)]
struct List {
    /// Only those of this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only those in this state.
    #[arg(long, value_parser = ["provisioning", "provision_failed"])]
    status: Option<String>,
    #[command(flatten)]
    watch: Watch,
}

// === impl Options ===

impl Options {
    /// Runs the subcommand and prints the result.
    ///
    /// # Errors
    /// When a setting is invalid, no worker answers, or the reply is a failure.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let Self { format, command } = self;
        let client = Client::connect(env).await?;
        let ended = match command {
            Command::List(list) => list.run(&client, format).await,
            Command::Replay { id, all: _, pool, reason, by } => {
                let by = by.or_else(|| env.get("USER"));
                match id {
                    Some(sandbox_id) => {
                        replay(&client, ReplayProvisionRequest { sandbox_id, by }, format).await
                    }
                    None => {
                        let limit = Some(PAGE_LIMIT_MAX);
                        let request = ReplayProvisionsRequest { pool, reason, cursor: None, limit, by };
                        replay_all(&client, request, format).await
                    }
                }
            }
        };
        client.close().await;
        ended
    }
}

// === impl List ===

impl List {
    async fn run(&self, client: &Client, format: Format) -> anyhow::Result<()> {
        let look = async || {
            let listed = self.ask(client).await?;
            Ok(Shown::of(&listed, table(&listed, SystemClock.now().get()))?)
        };
        self.watch.show(format, look).await
    }

    async fn ask(&self, client: &Client) -> anyhow::Result<SandboxesReply> {
        let mut all = SandboxesReply::default();
        let is_wanted = |state: &StateName| self.status.as_deref().is_none_or(|name| name == state.as_str());
        for state in STATES.into_iter().filter(is_wanted) {
            let request = SandboxesRequest {
                status: Some(state.into()),
                pool: self.pool.clone(),
                ..SandboxesRequest::default()
            };
            let SandboxesReply { sandboxes, count, cursor: _ } =
                sandboxes::list(client, request, u32::MAX).await?;
            all.sandboxes.extend(sandboxes);
            all.count += count;
        }
        Ok(all)
    }
}

async fn replay(client: &Client, request: ReplayProvisionRequest, format: Format) -> anyhow::Result<()> {
    let reply: ReplayReply = client.ask(Verb::ReplayProvision, &request).await?;
    let ReplayReply { key, outcome } = &reply;
    let text = match outcome {
        ReplayOutcome::Replayed => format!("the creation of {key} is tried again"),
        ReplayOutcome::AlreadyOnTheWay => format!("{key} is being created already"),
        ReplayOutcome::Gone => format!("{key} is not wanted any more"),
        ReplayOutcome::Unreadable => format!("{key} cannot be read"),
    };
    format.print(&Shown::of(&reply, text)?);
    Ok(())
}

async fn replay_all(
    client: &Client,
    mut request: ReplayProvisionsRequest,
    format: Format,
) -> anyhow::Result<()> {
    let mut total = ReplayProvisionsReply::default();
    for _ in 0..PAGES_MAX {
        total.add(client.ask(Verb::ReplayProvisions, &request).await?);
        request.cursor.clone_from(&total.cursor);
        if total.cursor.is_none() {
            break;
        }
    }
    let ReplayProvisionsReply { replayed, already_on_the_way, gone, failed, cursor: _ } = &total;
    let text = format!("replayed {replayed}, already on the way {already_on_the_way}, gone {gone}");
    format.print(&Shown::of(&total, text)?);
    if *failed > 0 {
        bail!("{failed} could not be replayed now; repeat the same command");
    }
    Ok(())
}

fn table(listed: &SandboxesReply, now: u64) -> String {
    let rows = listed.sandboxes.iter().map(|entry| {
        let SandboxEntry { view, pool, changed_at, provision, version: _, epoch: _ } = entry;
        let error = provision.as_ref().and_then(|ProvisionState { last_error, .. }| last_error.as_deref());
        [
            view.sandbox_id.clone(),
            pool.clone(),
            view.status.to_string(),
            or_none(view.allocated_to_track.as_deref()),
            or_none(changed_at.map(|at| format!("{} s", now.saturating_sub(at)))),
            or_none(provision.as_ref().map(|provision| provision.attempts)),
            or_none(error),
        ]
    });
    let headers = ["SANDBOX", "POOL", "STATUS", "OWNER", "AGE", "ATTEMPTS", "LAST ERROR"];
    let parked =
        listed.sandboxes.iter().filter(|entry| entry.view.status.known() == Some(StateName::ProvisionFailed));
    let (table, parked) = (columns(headers, rows), parked.count());
    format!("{table}{} being created, {parked} parked\n", listed.sandboxes.len() - parked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::SandboxView;

    #[test]
    fn each_creation_is_one_row_followed_by_a_summary() {
        let view = SandboxView {
            sandbox_id: "ctr_1".to_owned(),
            name: "ctr_1".to_owned(),
            external_id: "ctr_1".to_owned(),
            status: StateName::ProvisionFailed.into(),
            allocated_to_track: Some("student-1".to_owned()),
            allocated_at: None,
            expires_at: None,
            track_name: None,
            sfdc_account_id: None,
        };
        let provision =
            ProvisionState { requested_at: 900, attempts: 5, last_error: Some("no such image".to_owned()) };
        let parked = SandboxEntry {
            view,
            pool: "shells".to_owned(),
            version: 2,
            epoch: 1,
            changed_at: Some(940),
            provision: Some(provision),
        };
        let mut wanted = parked.clone();
        wanted.view.status = StateName::Provisioning.into();
        wanted.view.allocated_to_track = None;
        wanted.provision = Some(ProvisionState { requested_at: 940, attempts: 0, last_error: None });
        let listed = SandboxesReply { sandboxes: vec![parked, wanted], count: 2, cursor: None };
        assert_eq!(
            table(&listed, 1_000),
            "SANDBOX  POOL    STATUS            OWNER      AGE   ATTEMPTS  LAST ERROR\n\
             ctr_1    shells  provision_failed  student-1  60 s  5         no such image\n\
             ctr_1    shells  provisioning      -          60 s  0         -\n\
             1 being created, 1 parked\n"
        );
    }
}
