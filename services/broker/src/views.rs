//! What operators look at from a shell, over NATS: counts, sandboxes, leases, events, workers.

use crate::deletions::client::Client;
use crate::output::{Format, Watch};
use clap::Subcommand;
use runtime::settings::Env;

mod claims;
mod events;
mod fleet;
pub(crate) mod sandboxes;
mod stats;

/// The views.
#[derive(Debug, Subcommand)]
pub(crate) enum View {
    /// Count the sandboxes of each pool by state, over NATS (`NATS_URL` …).
    Stats(Shape),
    /// List sandboxes with their state and their owner, over NATS (`NATS_URL` …).
    Sandboxes {
        #[command(flatten)]
        filter: sandboxes::Filter,
        #[command(flatten)]
        shape: Shape,
    },
    /// List the leases that are held now: owner, lab, start and end, over NATS (`NATS_URL` …).
    Claims {
        #[command(flatten)]
        filter: claims::Filter,
        #[command(flatten)]
        shape: Shape,
    },
    /// List the latest events of the event log, over NATS (`NATS_URL` …).
    Events {
        #[command(flatten)]
        filter: events::Filter,
        #[command(flatten)]
        shape: Shape,
    },
    /// List every worker with its version and its work, and settings that differ, over NATS (`NATS_URL` …).
    Fleet(Shape),
}

/// How to show a view.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Shape {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    watch: Watch,
}

// === impl View ===

impl View {
    /// Prints the view.
    ///
    /// # Errors
    /// When a setting is invalid, no worker answers, or the reply is a failure.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let client = Client::connect(env).await?;
        let (Self::Stats(shape)
        | Self::Sandboxes { shape, .. }
        | Self::Claims { shape, .. }
        | Self::Events { shape, .. }
        | Self::Fleet(shape)) = self;
        let look = async || match &self {
            Self::Stats(_) => stats::look(&client).await,
            Self::Sandboxes { filter, .. } => filter.look(&client).await,
            Self::Claims { filter, .. } => filter.look(&client).await,
            Self::Events { filter, .. } => filter.look(&client).await,
            Self::Fleet(_) => fleet::look(&client).await,
        };
        let ended = shape.watch.show(shape.format, look).await;
        client.close().await;
        ended
    }
}
