//! `broker deletions pause | resume | status`: controls all deletions.

use super::client::Client;
use crate::output::{Format, Shown};
use contract::{DeletionsState, DeletionsStatus, Named, PauseRequest, ResumeReply};
use ports::bus::DeletionControl;
use ports::clock::{Clock as _, SystemClock};
use runtime::settings::Env;

/// The actor if the command names none.
const BY: &str = "broker cli";

/// The subcommands for all deletions.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Pause all deletions until they are resumed. Claims, releases, sync and expiry continue.
    Pause {
        /// End the pause after this many seconds.
        #[arg(long, value_name = "SECONDS", conflicts_with = "until")]
        until_seconds: Option<u64>,
        /// End the pause at this moment, in Unix seconds.
        #[arg(long, value_name = "UNIX_SECONDS")]
        until: Option<u64>,
        /// The reason, for other operators.
        #[arg(long)]
        reason: Option<String>,
        /// The operator; for the history.
        #[arg(long, default_value = BY)]
        by: String,
    },
    /// Resume deletions.
    Resume,
    /// Print the provider throttle and its queue.
    Status,
}

// === impl Command ===

impl Command {
    /// Runs the subcommand over NATS, with the settings of the environment.
    ///
    /// # Errors
    /// Mistakes in the environment, invalid arguments, no answer of the queue.
    pub(super) async fn run(self, env: &dyn Env, format: Format) -> anyhow::Result<()> {
        let client = Client::connect(env).await?;
        let said = self.say(&client.control()).await;
        client.close().await;
        format.print(&said?);
        Ok(())
    }

    async fn say(self, control: &impl DeletionControl) -> anyhow::Result<Shown> {
        match self {
            Self::Pause { until_seconds, until, reason, by } => {
                let request = PauseRequest { until_seconds, until, reason, by: None };
                let pause = request
                    .at(SystemClock.now(), &by)
                    .map_err(|(field, problem)| anyhow::anyhow!("{field} {problem}"))?;
                control.pause(&pause).await?;
                Ok(Shown::fields(&pause)?)
            }
            Self::Resume => {
                let was_paused = control.resume(BY).await?;
                let text = match &was_paused {
                    Some(pause) => format!("resumed; paused since {} by {}", pause.since, pause.by),
                    None => "deletions were not paused".to_owned(),
                };
                Ok(Shown::of(&ResumeReply { was_paused }, text)?)
            }
            Self::Status => Ok(Shown::fields(&control.status().await?)?),
        }
    }
}

/// Why deletions wait, in words; none if they do not.
#[must_use]
pub(crate) fn note(status: &DeletionsStatus) -> Option<String> {
    let until = |until: Option<u64>| until.map(|until| format!(" until {until}")).unwrap_or_default();
    if let Some(pause) = &status.paused {
        let reason = pause.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        return Some(format!("paused by {}{}{reason}", pause.by, until(pause.until)));
    }
    match status.state {
        Named::Known(DeletionsState::Running) => status
            .consumer_paused_until
            .map(|_| format!("consumer paused{}", until(status.consumer_paused_until))),
        Named::Known(DeletionsState::Held) => Some(format!("held{}", until(status.held_until))),
        ref state => Some(format!("{state}{}", until(status.breaker.until))),
    }
}
