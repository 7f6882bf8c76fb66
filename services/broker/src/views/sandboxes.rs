//! `broker sandboxes`: sandboxes with their state and their owner.

use crate::deletions::client::Client;
use crate::output::{Shown, columns, moment, or_none};
use clap::Args;
use contract::queue::PAGE_LIMIT_MAX;
use contract::{SandboxEntry, SandboxView, SandboxesReply, SandboxesRequest, Verb};

/// Default of the most sandboxes of a command.
const LIMIT_DEFAULT: u32 = 1_000;

/// Which sandboxes.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub(crate) struct Filter {
    /// Only those in this state, for example `available` or `stale`.
    #[arg(long)]
    status: Option<String>,
    #[command(flatten)]
    common: Common,
    /// Only those whose name has this prefix.
    #[arg(long, value_name = "PREFIX")]
    name_prefix: Option<String>,
}

/// The filters that leases have as well.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub(crate) struct Common {
    /// Only those of this pool.
    #[arg(long)]
    pub(super) pool: Option<String>,
    /// Only those whose live or last lease is for this lab.
    #[arg(long)]
    pub(super) lab: Option<String>,
    /// Only those that this owner holds, or was the last to hold.
    #[arg(long)]
    pub(super) owner: Option<String>,
    /// List this many at most.
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

// === impl Filter ===

impl Filter {
    /// Lists the sandboxes.
    pub(super) async fn look(&self, client: &Client) -> anyhow::Result<Shown> {
        let Self { status, common: Common { pool, lab, owner, limit }, name_prefix } = self.clone();
        let status = status.map(Into::into);
        let request =
            SandboxesRequest { status, pool, lab, owner, name_prefix, ..SandboxesRequest::default() };
        let listed = list(client, request, limit).await?;
        let more = listed.cursor.as_ref().map_or("", |_| MORE);
        let headers = ["SANDBOX", "NAME", "POOL", "STATUS", "OWNER", "LAB", "LEASED UNTIL", "CHANGED"];
        Ok(Shown::of(&listed, columns(headers, listed.sandboxes.iter().map(row)) + more)?)
    }
}

/// Said below an incomplete list.
pub(super) const MORE: &str = "there are more; --limit shows them\n";

/// Lists page by page. The cursor of the reply is set if there may be more.
pub(crate) async fn list(
    client: &Client,
    mut request: SandboxesRequest,
    limit: u32,
) -> anyhow::Result<SandboxesReply> {
    let (mut all, mut left) = (SandboxesReply::default(), limit);
    loop {
        request.limit = Some(left.min(PAGE_LIMIT_MAX));
        request.cursor = all.cursor.take();
        let page: SandboxesReply = client.ask(Verb::Sandboxes, &request).await?;
        left = left.saturating_sub(u32::try_from(page.sandboxes.len())?);
        all.count += page.count;
        all.sandboxes.extend(page.sandboxes);
        all.cursor = page.cursor;
        if all.cursor.is_none() || left == 0 {
            return Ok(all);
        }
    }
}

fn row(entry: &SandboxEntry) -> [String; 8] {
    let SandboxEntry { view, pool, changed_at, version: _, epoch: _, provision: _ } = entry;
    let SandboxView { sandbox_id, name, status, allocated_to_track, track_name, expires_at, .. } = view;
    [
        sandbox_id.clone(),
        name.clone(),
        pool.clone(),
        status.to_string(),
        or_none(allocated_to_track.as_deref()),
        or_none(track_name.as_deref()),
        moment(*expires_at),
        moment(*changed_at),
    ]
}
