//! Runs a command in a container for a caller that waits.
//!
//! Neither the environment nor the output of a command is ever logged.

use crate::node_requests::{no_container, unavailable};
use crate::ready::job_of;
use crate::{Node, within};
use contract::nodes::{EXECUTION_OUTPUT_BYTES_MAX, ExecuteRequest, ExecutionResult, execution_seconds};
use contract::{Fault, FaultCode, NodeVerb};
use ports::bus::Request;
use ports::clock::Clock;
use ports::engine::{Connection, Engine, EngineError, Incarnation};
use runtime::requests::{decode, parse_incarnation, parse_sandbox};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use supervisor::{Client, ClientError, End, Job, JobId, Outcome, TIMEOUT_GRACE_MS};

/// Most parts of a command: more than a shell line that a program wrote has, and few enough to check at once. The bytes are
/// limited by those of a request.
const COMMAND_PARTS_MAX: usize = 1_024;
/// Most variables of a request.
const VARIABLES_MAX: usize = 256;
/// Longest working directory, in bytes: that of a path in Linux.
const CWD_BYTES_MAX: usize = 4_096;
/// Most bytes that an output takes in the JSON of the reply. Control characters take six each there, and a message on the bus
/// is at most 1 MiB.
const OUTPUT_JSON_BYTES_MAX: usize = 400 * 1_024;
/// Time between `SIGTERM` and `SIGKILL` of a command that takes too long.
const KILL_GRACE: Duration = Duration::from_millis(TIMEOUT_GRACE_MS);
/// Time after that in which the supervisor has to report the end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// The signal that the kernel sends when the limit of memory is reached.
const SIGKILL: i32 = 9;

/// A command that is ready to run.
struct Execution {
    clock: Arc<dyn Clock>,
    engine: Arc<dyn Engine>,
    incarnation: Incarnation,
    job: Job,
    stdin: String,
    timeout: Duration,
    /// When the request came, by the monotonic clock.
    asked_at: Duration,
}

// === impl Node ===

impl Node {
    pub(crate) async fn execute(&self, request: &Request<NodeVerb>) -> Result<ExecutionResult, Fault> {
        let asked_at = self.clock.monotonic();
        let execution = self.prepare(request, asked_at)?;
        let connected = self.engine.connect(&execution.incarnation).await;
        let connection = connected.map_err(|error| not_connected(&error))?;
        // It goes on if the caller gives up, so that the supervisor is left without the result.
        let run = tokio::spawn(execution.run(connection));
        let result = run.await.unwrap_or_else(|error| {
            tracing::error!(error = %error, "an execution has crashed");
            Err(Fault::new(FaultCode::InternalError, "the execution has crashed"))
        });
        let took = self.clock.monotonic().saturating_sub(asked_at);
        let name = result.as_ref().map_or("failed", |result| result.reason.as_str());
        self.metrics.executed(name, took.as_secs_f64());
        result
    }

    fn prepare(&self, request: &Request<NodeVerb>, asked_at: Duration) -> Result<Execution, Fault> {
        let ExecuteRequest { sandbox_id, incarnation, command, env, cwd, stdin, timeout_seconds } =
            decode(&request.body)?;
        let (sandbox, incarnation) = (parse_sandbox(&sandbox_id)?, parse_incarnation(&incarnation)?);
        check_command(&command)?;
        check_env(&env)?;
        check_cwd(cwd.as_deref())?;
        let timeout = Duration::from_secs(execution_seconds(Some(timeout_seconds))?);
        let entry = self.containers.entry(&incarnation).filter(|entry| entry.sandbox == sandbox);
        let entry = entry.ok_or_else(no_container)?;
        let id = JobId::parse(&format!("exec-{}", self.random.fresh_id()))
            .map_err(|problem| Fault::new(FaultCode::InternalError, problem.to_string()))?;
        let mut all_env = entry.env_of_commands();
        all_env.extend(env);
        let mut job = job_of(id, command, entry.user, all_env);
        if let Some(cwd) = cwd {
            job.cwd = Some(cwd);
        }
        // The supervisor ends it as well, if this process does not live to do so.
        let latest = timeout + KILL_GRACE + END_TIMEOUT;
        job.timeout_ms = u64::try_from(latest.as_millis()).ok();
        job.output_max_bytes = EXECUTION_OUTPUT_BYTES_MAX as u64;
        let (clock, engine) = (Arc::clone(&self.clock), Arc::clone(&self.engine));
        let stdin = stdin.unwrap_or_default();
        Ok(Execution { clock, engine, incarnation, job, stdin, timeout, asked_at })
    }
}

// === impl Execution ===

impl Execution {
    async fn run(self, connection: Connection) -> Result<ExecutionResult, Fault> {
        let Self { clock, engine, incarnation, job, stdin, timeout, asked_at } = self;
        let since =
            || u64::try_from(clock.monotonic().saturating_sub(asked_at).as_millis()).unwrap_or(u64::MAX);
        let id = job.id.clone();
        let client = Client::connect(connection).await.map_err(|error| failed(&error))?;
        let oom_kills_before = oom_kills(engine.as_ref(), &incarnation).await;
        let started_ms = since();
        let run = client.run(job, stdin.as_bytes());
        tokio::pin!(run);
        let in_time = tokio::select! {
            biased;
            outcome = &mut run => Some(outcome),
            () = clock.sleep(timeout) => None,
        };
        let has_timed_out = in_time.is_none();
        let outcome = match in_time {
            Some(outcome) => outcome,
            None => {
                // One that has just ended cannot be killed; its result comes all the same.
                let killed = client.kill(&id, KILL_GRACE).await;
                tracing::debug!(job = %id, is_killed = killed.is_ok(), "an execution has taken too long");
                let ended = within(clock.as_ref(), KILL_GRACE + END_TIMEOUT, run).await;
                ended.ok_or_else(|| may_have_run("the command takes too long and cannot be ended"))?
            }
        };
        let outcome = outcome.map_err(|error| match failed(&error) {
            fault if fault.code == FaultCode::UpstreamUnavailable => may_have_run(&fault.message),
            fault => fault,
        })?;
        let ended_ms = since();
        let mut result = result_of(outcome, has_timed_out)?;
        if result.signal == Some(SIGKILL) {
            let after = oom_kills(engine.as_ref(), &incarnation).await;
            if oom_kills_before.zip(after).is_some_and(|(before, after)| after > before) {
                "oom_killed".clone_into(&mut result.reason);
            }
        }
        Ok(ExecutionResult { started_ms, ended_ms, ..result })
    }
}

/// What a caller learns of a job that has ended.
fn result_of(outcome: Outcome, has_timed_out: bool) -> Result<ExecutionResult, Fault> {
    let Outcome { ended, stdout, stderr } = outcome;
    let (stdout, is_stdout_cut) = text_of(&stdout);
    let (stderr, is_stderr_cut) = text_of(&stderr);
    let truncated = ended.truncated || is_stdout_cut || is_stderr_cut;
    let (reason, exit_code, signal) = match ended.end {
        End::Exited(code) => ("exited", Some(code), None),
        End::Signalled(signal) => ("signalled", None, Some(signal)),
        End::TimedOut => ("timed_out", None, None),
        End::Killed if has_timed_out => ("timed_out", None, None),
        End::Killed => return Err(Fault::new(FaultCode::InvalidState, "the sandbox has ended")),
        End::FailedToStart(reason) => {
            return Err(Fault::invalid("command", format!("cannot be started: {reason}")));
        }
        End::Crashed(reason) => {
            tracing::warn!(reason, "a supervisor has lost a job");
            return Err(may_have_run("the supervisor has lost the command"));
        }
    };
    let reason = reason.to_owned();
    Ok(ExecutionResult { reason, exit_code, signal, stdout, stderr, truncated, started_ms: 0, ended_ms: 0 })
}

/// The first bytes of an output as text, and whether there are more.
fn text_of(bytes: &[u8]) -> (String, bool) {
    let kept = bytes.get(..EXECUTION_OUTPUT_BYTES_MAX).unwrap_or(bytes);
    let text = String::from_utf8_lossy(kept);
    let mut json_bytes: usize = 0;
    let fits = |char: &char| {
        json_bytes += match char {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            char if char.is_ascii_control() => 6,
            char => char.len_utf8(),
        };
        json_bytes <= OUTPUT_JSON_BYTES_MAX
    };
    let cut: String = text.chars().take_while(fits).collect();
    let is_cut = kept.len() < bytes.len() || cut.len() < text.len();
    (cut, is_cut)
}

async fn oom_kills(engine: &dyn Engine, incarnation: &Incarnation) -> Option<u64> {
    // Not every machine counts them.
    engine.usage(incarnation).await.ok()?.oom_kills
}

fn check_command(command: &[String]) -> Result<(), Fault> {
    if command.first().is_none_or(String::is_empty) {
        return Err(Fault::invalid("command", "must begin with a program"));
    }
    if command.len() > COMMAND_PARTS_MAX {
        return Err(Fault::invalid("command", format!("must have at most {COMMAND_PARTS_MAX} parts")));
    }
    if command.iter().any(|part| part.contains('\0')) {
        return Err(Fault::invalid("command", "must hold no NUL"));
    }
    Ok(())
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), Fault> {
    if env.len() > VARIABLES_MAX {
        return Err(Fault::invalid("env", format!("must have at most {VARIABLES_MAX} variables")));
    }
    let is_name = |name: &String| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
    };
    if !env.keys().all(is_name) {
        let problem = "must have names of ASCII letters, digits and '_' that begin with no digit";
        return Err(Fault::invalid("env", problem));
    }
    if env.values().any(|value| value.contains('\0')) {
        return Err(Fault::invalid("env", "must have values without NUL"));
    }
    Ok(())
}

fn check_cwd(cwd: Option<&str>) -> Result<(), Fault> {
    let Some(cwd) = cwd else { return Ok(()) };
    if cwd.starts_with('/') && cwd.len() <= CWD_BYTES_MAX && !cwd.contains('\0') {
        return Ok(());
    }
    Err(Fault::invalid("cwd", format!("must be an absolute path of at most {CWD_BYTES_MAX} bytes")))
}

fn not_connected(error: &EngineError) -> Fault {
    match error {
        EngineError::Gone => no_container(),
        EngineError::Refused { .. } | EngineError::Failed { .. } => {
            Fault::new(FaultCode::InvalidState, "the sandbox does not run")
        }
        EngineError::Unavailable { .. } | EngineError::Full { .. } => {
            tracing::warn!(error = %error, "a supervisor cannot be reached");
            unavailable("the supervisor of the sandbox cannot be reached; repeat the request")
        }
    }
}

/// The fault for a command that has begun. There is no advice to repeat it.
fn may_have_run(message: &str) -> Fault {
    let message = format!("{message}; it may have run, look at what it did");
    Fault { retry_after_seconds: None, ..unavailable(&message) }
}

fn failed(error: &ClientError) -> Fault {
    match error {
        // Checked before, except for what only the supervisor knows.
        ClientError::Refused(refusal) if refusal.code == supervisor::RefusalCode::Invalid => {
            Fault::invalid("the request", &refusal.message)
        }
        ClientError::Frame(_) => Fault::invalid("the request", "is too large for the supervisor"),
        error => {
            tracing::warn!(error = %Chain(error), "a supervisor has failed");
            unavailable("the supervisor of the sandbox has failed")
        }
    }
}

#[cfg(test)]
mod tests;
