//! `broker deletions`: the deletion queue from a shell, over NATS.

use clap::Subcommand;
use runtime::settings::Env;

pub(crate) mod client;
pub(crate) mod control;
mod list;
pub(crate) mod parked;

/// What can be done with deletions.
#[derive(Debug, Subcommand)]
pub(crate) enum Deletions {
    #[command(flatten)]
    Control(control::Command),
    /// List every deletion: where it is, its attempts, its last error and when it is tried again.
    List(list::List),
    #[command(flatten)]
    Parked(parked::Command),
}

// === impl Deletions ===

impl Deletions {
    /// Does it, and prints what it did.
    ///
    /// # Errors
    /// When the settings cannot be read, no worker answers, or the answer is a failure.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        match self {
            Self::Control(command) => command.run(env).await,
            Self::List(list) => list.run(env).await,
            Self::Parked(command) => command.run(env).await,
        }
    }
}
