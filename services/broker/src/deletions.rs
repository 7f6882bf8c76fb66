//! `broker deletions`: inspects and controls the deletion queue from a shell, over NATS.

use crate::output::Format;
use clap::Subcommand;
use runtime::settings::Env;

pub(crate) mod client;
pub(crate) mod control;
mod list;
pub(crate) mod parked;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Control(control::Command),
    /// List every deletion with its progress, its attempts, its last error and its next attempt.
    List(list::List),
    #[command(flatten)]
    Parked(parked::Command),
}

// === impl Options ===

impl Options {
    /// Runs the subcommand and prints the result.
    ///
    /// # Errors
    /// When a setting is invalid, no worker answers, or the reply is a failure.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        match self.command {
            Command::Control(command) => command.run(env, self.format).await,
            Command::List(list) => list.run(env, self.format).await,
            Command::Parked(command) => command.run(env, self.format).await,
        }
    }
}
