//! `broker claims`: the leases that are held now.

use super::sandboxes::{Common, MORE, list};
use crate::deletions::client::Client;
use crate::output::{Shown, columns, moment, or_none};
use clap::Args;
use contract::{SandboxEntry, SandboxView, SandboxesRequest};
use domain::StateName;

/// Which leases.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub(crate) struct Filter {
    #[command(flatten)]
    common: Common,
}

// === impl Filter ===

impl Filter {
    /// Lists the sandboxes that are held.
    pub(super) async fn look(&self, client: &Client) -> anyhow::Result<Shown> {
        let Common { pool, lab, owner, limit } = self.common.clone();
        let status = Some(StateName::Allocated.into());
        let request = SandboxesRequest { status, pool, lab, owner, ..SandboxesRequest::default() };
        let listed = list(client, request, limit).await?;
        let more = listed.cursor.as_ref().map_or("", |_| MORE);
        let headers = ["OWNER", "LAB", "SANDBOX", "POOL", "EPOCH", "SINCE", "UNTIL"];
        Ok(Shown::of(&listed, columns(headers, listed.sandboxes.iter().map(row)) + more)?)
    }
}

fn row(entry: &SandboxEntry) -> [String; 7] {
    let SandboxEntry { view, pool, epoch, version: _, changed_at: _, provision: _ } = entry;
    let SandboxView { sandbox_id, allocated_to_track, track_name, allocated_at, expires_at, .. } = view;
    [
        or_none(allocated_to_track.as_deref()),
        or_none(track_name.as_deref()),
        sandbox_id.clone(),
        pool.clone(),
        epoch.to_string(),
        moment(*allocated_at),
        moment(*expires_at),
    ]
}
