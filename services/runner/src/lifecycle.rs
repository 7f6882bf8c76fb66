//! Starts, stops, restarts, pauses and resumes a container on behalf of its holder.

use crate::node_requests::{no_container, unavailable};
use crate::ready::{MAIN_JOB, main_of};
use crate::state::Entry;
use crate::{Node, within};
use contract::nodes::{ContainerRuntimeReply, ContainerRuntimeRequest};
use contract::{Fault, FaultCode, NodeVerb};
use domain::RuntimeAction;
use ports::bus::Request;
use ports::engine::{EngineError, Incarnation};
use runtime::requests::{decode, parse_incarnation, parse_runtime_action, parse_sandbox};
use std::time::Duration;
use supervisor::{Client, JobEvent, JobId, Offsets};

/// Time that a main command gets to end after `SIGTERM`.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Time after that in which its end has to be reported; otherwise the engine ends everything at once.
const STOP_SLACK: Duration = Duration::from_secs(2);

// === impl Node ===

impl Node {
    pub(crate) async fn change_runtime(
        &self,
        request: &Request<NodeVerb>,
    ) -> Result<ContainerRuntimeReply, Fault> {
        let ContainerRuntimeRequest { sandbox_id, incarnation, action } = decode(&request.body)?;
        let (sandbox, incarnation) = (parse_sandbox(&sandbox_id)?, parse_incarnation(&incarnation)?);
        let action = parse_runtime_action(&action)?;
        // Not while it is created or removed.
        let _turn = self.turns.turn(&sandbox).await;
        let entry = self.containers.entry(&incarnation).filter(|entry| entry.sandbox == sandbox);
        let entry = entry.ok_or_else(no_container)?;
        let changed = match action {
            RuntimeAction::Start => self.start_container(&incarnation, &entry).await,
            RuntimeAction::Stop => self.stop_container(&incarnation).await,
            RuntimeAction::Restart => match self.stop_container(&incarnation).await {
                Ok(()) => self.start_container(&incarnation, &entry).await,
                refused => refused,
            },
            RuntimeAction::Pause => self.engine.pause(&incarnation).await,
            RuntimeAction::Resume => self.engine.resume(&incarnation).await,
        };
        changed.map_err(|error| refusal(action, &error))?;
        tracing::info!(
            sandbox.id = sandbox_id,
            container.incarnation = %incarnation,
            action = action.as_str(),
            "a container is {} now",
            action.leads_to(),
        );
        Ok(ContainerRuntimeReply { runtime: action.leads_to().into() })
    }

    /// Starts a container and its main command. One that runs stays as it is.
    async fn start_container(&self, incarnation: &Incarnation, entry: &Entry) -> Result<(), EngineError> {
        self.engine.start(incarnation).await?;
        let listed = self.engine.list().await?;
        let container = listed.iter().find(|container| container.incarnation == *incarnation);
        let main = main_of(&entry.command, &container.ok_or(EngineError::Gone)?.command);
        let main = self.start_main(incarnation, main, entry.user, &entry.env_of_commands()).await;
        main.map(drop).map_err(EngineError::failed)
    }

    /// Lets the main command end by itself, then ends everything.
    async fn stop_container(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        // Without a supervisor that answers there is nothing to wait for.
        if let Ok(connection) = self.engine.connect(incarnation).await {
            let ended = async {
                let (client, id) = (Client::connect(connection).await.ok()?, JobId::parse(MAIN_JOB).ok()?);
                let (_, mut main) = client.attach(&id, Offsets::default()).await.ok()?;
                client.kill(&id, STOP_GRACE).await.ok()?;
                while let Ok(Some(event)) = main.next().await {
                    if matches!(event, JobEvent::Ended(_)) {
                        break;
                    }
                }
                Some(())
            };
            // What has not ended by then ends with everything else.
            let _: Option<Option<()>> = within(self.clock.as_ref(), STOP_GRACE + STOP_SLACK, ended).await;
        }
        self.engine.stop(incarnation).await
    }
}

fn refusal(action: RuntimeAction, error: &EngineError) -> Fault {
    let name = action.as_str();
    match error {
        EngineError::Refused { reason } => {
            Fault::new(FaultCode::InvalidState, format!("{name} is not possible now: {reason}"))
        }
        EngineError::Gone => no_container(),
        EngineError::Unavailable { .. } | EngineError::Full { .. } | EngineError::Failed { .. } => {
            tracing::warn!(action = name, error = %error, "the engine has failed");
            unavailable("the engine could not do it; look at the sandbox and repeat the request")
        }
    }
}

#[cfg(test)]
mod tests;
