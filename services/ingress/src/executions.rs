//! Commands in one's own container.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::nodes::{ExecutionRequest, execution_seconds};
use contract::{Action, Verb};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

use crate::error::{Failure, pass_on};
use crate::openapi::faults::OfExecute;
use crate::query::json_object;
use crate::relay::Relay;
use crate::request_id::Facts;
use crate::sandboxes::{bounded, lease_epoch, owner, sandbox_in_path, whose_token};

/// Time beyond that of the command for the way to the node and back.
const SLACK: Duration = Duration::from_secs(6);

/// A command.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecutionSettings {
    /// The program and its arguments.
    command: Vec<String>,
    /// Variables beside those of the template.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The working directory; the workspace if none is named.
    cwd: Option<String>,
    /// Text for its standard input.
    stdin: Option<String>,
    /// Most time that it may take, in seconds, 1 to 60; 30 if it is left out.
    #[schema(minimum = 1, maximum = 60)]
    timeout_seconds: Option<u64>,
}

/// Runs a command in one's own container and returns its result. A command whose answer was lost may have run.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/executions", tag = "labs", extensions(("x-action" = json!(Action::Ask(Verb::Execute).as_str()))),
    params(("id" = String, Path, description = "the sandbox"), ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner (Instruqt participant id); older scripts send `X-Track-ID`"),
        ("X-Lease-Epoch" = Option<u64>, Header, description = "the epoch of the lease")),
    request_body(content = ExecutionSettings, example = json!({"command": ["echo", "hello"]})),
    responses(
        (status = 200, description = "the command has ended", body = contract::nodes::ExecutionResult,
         example = json!({"reason": "exited", "exit_code": 0, "signal": null, "stdout": "hello\n", "stderr": "",
                          "truncated": false, "started_ms": 2, "ended_ms": 4})), OfExecute)
)]
pub(crate) async fn execute(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?;
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let ExecutionSettings { command, env, cwd, stdin, timeout_seconds } = json_object(&body)?;
    let seconds = execution_seconds(timeout_seconds)?;
    let request = ExecutionRequest {
        sandbox_id: sandbox.to_string(),
        owner: owner.to_string(),
        lease_epoch: lease_epoch(&headers)?,
        command,
        env,
        cwd,
        stdin,
        timeout_seconds,
        by: whose_token(&facts),
    };
    let relay = relay.waiting(Duration::from_secs(seconds) + SLACK);
    let reply = relay.send(Verb::Execute, &facts, None, &bounded(request, &facts)).await?;
    Ok(pass_on(reply, StatusCode::OK))
}
