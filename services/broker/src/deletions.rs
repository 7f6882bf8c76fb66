//! `broker deletions`: inspects and controls the deletion queue from a shell, over NATS.

use clap::Subcommand;
use runtime::settings::Env;

pub(crate) mod client;
pub(crate) mod control;
mod list;
pub(crate) mod parked;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Deletions {
    #[command(flatten)]
    Control(control::Command),
    /// List every deletion with its progress, its attempts, its last error and its next attempt.
    List(list::List),
    #[command(flatten)]
    Parked(parked::Command),
}

// === impl Deletions ===

impl Deletions {
    /// Runs the subcommand and prints the result.
    ///
    /// # Errors
    /// When a setting is invalid, no worker answers, or the reply is a failure.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        match self {
            Self::Control(command) => command.run(env).await,
            Self::List(list) => list.run(env).await,
            Self::Parked(command) => command.run(env).await,
        }
    }
}
