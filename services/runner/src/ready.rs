//! Makes a container ready: starts its main command and waits until it can be handed out.

use crate::spec::WORKSPACE;
use crate::state::main_command;
use crate::{Node, within};
use domain::TemplateSpec;
use domain::template::Readiness;
use ports::clock::Clock;
use ports::engine::{Container, EngineError, ImageCommand, Incarnation};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use supervisor::{
    Attached, Client, ClientError, End, Ended, Job, JobEvent, JobId, Offsets, Outcome, RefusalCode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The job of a template's main command. It is fixed, so that a second start after a restart of the runner is refused.
pub(crate) const MAIN_JOB: &str = "main";
/// Time between two checks: short beside the time that a service takes to start, long beside a check.
const CHECK_PAUSE: Duration = Duration::from_millis(200);
/// Time in which a main command that cannot be executed is noticed. The supervisor needs a few milliseconds, and a caller
/// may wait.
const MAIN_START_TIME: Duration = Duration::from_millis(10);
/// Time-out of one check over the network. The address is on this machine.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Time in which a connection ends that nothing in the container accepts: long beside the milliseconds that it takes.
const REFUSAL_TIME: Duration = Duration::from_millis(100);
/// Most bytes of the head of an HTTP reply, and of its headers: as usual servers send them.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of an HTTP reply.
const HEADERS_MAX: usize = 100;

/// Why a container did not become ready, for people.
pub(crate) type NotReady = String;

// === impl Node ===

impl Node {
    /// Starts the main command and returns when the container can be handed out.
    pub(crate) async fn make_ready(
        &self,
        container: &Container,
        template: &TemplateSpec,
        env: &BTreeMap<String, String>,
    ) -> Result<(), NotReady> {
        let ready = async {
            let incarnation = &container.incarnation;
            let main = main_of(main_command(template), &container.command);
            let main = self.start_main(incarnation, main, template.user, env).await?;
            tokio::select! {
                biased;
                reason = failed_to_start(main) => Err(format!("its main command cannot be started: {reason}")),
                ready = self.until_ready(container, template) => ready,
            }
        };
        let seconds = template.ready_within.as_secs();
        let ready = within(self.clock.as_ref(), template.ready_within, ready).await;
        ready.unwrap_or_else(|| Err(format!("it did not become ready within {seconds} s")))
    }

    async fn until_ready(&self, container: &Container, template: &TemplateSpec) -> Result<(), NotReady> {
        match &template.readiness {
            Readiness::Running => {
                if main_of(main_command(template), &container.command).is_some() {
                    // The supervisor says only what fails.
                    self.clock.sleep(MAIN_START_TIME).await;
                }
                Ok(())
            }
            Readiness::Exec(command) => self.until_success(container, template, command).await,
            Readiness::Tcp { port } => {
                let address = endpoint(container, *port)?;
                self.until(|| accepts(self.clock.as_ref(), address)).await;
                Ok(())
            }
            Readiness::Http { port, path } => {
                let address = endpoint(container, *port)?;
                self.until(|| answers(self.clock.as_ref(), address, path)).await;
                Ok(())
            }
        }
    }

    /// Starts the main command, if there is one; none if an earlier attempt has started it.
    pub(crate) async fn start_main(
        &self,
        incarnation: &Incarnation,
        main: Option<ImageCommand>,
        user: u32,
        env: &BTreeMap<String, String>,
    ) -> Result<Option<Attached>, NotReady> {
        let Some(ImageCommand { parts, folder }) = main else { return Ok(None) };
        let id = job_id(MAIN_JOB)?;
        let client = self.client(incarnation).await?;
        let mut job = job_of(id, parts, user, env.clone());
        job.cwd = Some(folder);
        match client.start(job).await {
            // The job goes on without a client that is attached to it.
            Ok(main) => Ok(Some(main)),
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Exists => {
                let attached = client.attach(&job_id(MAIN_JOB)?, Offsets::default()).await;
                Ok(attached.ok().map(|(_, main)| main))
            }
            Err(error) => Err(format!("its main command cannot be started: {}", Chain(&error))),
        }
    }

    /// Repeats a command until it succeeds.
    async fn until_success(
        &self,
        container: &Container,
        template: &TemplateSpec,
        command: &[String],
    ) -> Result<(), NotReady> {
        loop {
            let client = self.client(&container.incarnation).await?;
            let id = job_id(&format!("ready-{}", self.random.fresh_id()))?;
            let mut job = job_of(id, command.to_vec(), template.user, template.env.clone());
            // If this process ends in the meantime, the check ends as well.
            job.timeout_ms = u64::try_from(template.ready_within.as_millis()).ok();
            job.output_max_bytes = 0;
            match client.run(job, b"").await {
                Ok(Outcome { ended, .. }) if ended.end == End::Exited(0) => return Ok(()),
                Ok(Outcome { ended, .. }) => {
                    if let End::FailedToStart(reason) = ended.end {
                        return Err(format!("its readiness command cannot be started: {reason}"));
                    }
                }
                Err(error) => tracing::debug!(error = %Chain(&error), "a readiness check failed"),
            }
            self.clock.sleep(CHECK_PAUSE).await;
        }
    }

    async fn until<F: Future<Output = bool>>(&self, check: impl Fn() -> F) {
        while !check().await {
            self.clock.sleep(CHECK_PAUSE).await;
        }
    }

    async fn client(&self, incarnation: &Incarnation) -> Result<Client, NotReady> {
        let connected = self.engine.connect(incarnation).await;
        let connection = connected.map_err(|error: EngineError| format!("it ended at once: {error}"))?;
        let client = Client::connect(connection).await;
        client.map_err(|error| format!("its supervisor does not answer: {}", Chain(&error)))
    }
}

/// The command that a supervisor runs: the one that was asked for, in the workspace, or else that of the image; none if there
/// is neither.
pub(crate) fn main_of(asked: &[String], image: &ImageCommand) -> Option<ImageCommand> {
    let asked = ImageCommand { parts: asked.to_vec(), folder: WORKSPACE.to_owned() };
    [asked, image.clone()].into_iter().find(|command| !command.parts.is_empty())
}

/// Returns why the main command was never executed. One that was does not return: whether it has to live on is up to the
/// template.
async fn failed_to_start(main: Option<Attached>) -> String {
    if let Some(mut main) = main {
        while let Ok(Some(event)) = main.next().await {
            if let JobEvent::Ended(Ended { end: End::FailedToStart(reason), .. }) = event {
                return reason;
            }
        }
    }
    std::future::pending().await
}

/// A job of a container's user, in the workspace.
pub(crate) fn job_of(id: JobId, command: Vec<String>, user: u32, env: BTreeMap<String, String>) -> Job {
    let mut job = Job::new(id, command);
    job.uid = Some(user);
    job.env = env;
    job.cwd = Some(WORKSPACE.to_owned());
    job
}

fn job_id(text: &str) -> Result<JobId, NotReady> {
    JobId::parse(text).map_err(|problem| problem.to_string())
}

fn endpoint(container: &Container, port: u16) -> Result<SocketAddr, NotReady> {
    let found = container.endpoints.iter().find(|endpoint| endpoint.port == port);
    found.map(|endpoint| endpoint.address).ok_or_else(|| format!("its port {port} is not published"))
}

/// Whether something accepts connections there. What publishes a port accepts every connection, and ends it at once if nothing
/// in the container does.
async fn accepts(clock: &dyn Clock, address: SocketAddr) -> bool {
    let Some(Ok(mut stream)) = within(clock, CHECK_TIMEOUT, TcpStream::connect(address)).await else {
        return false;
    };
    let said = within(clock, REFUSAL_TIME, stream.read(&mut [0])).await;
    said.is_none_or(|said| said.is_ok_and(|bytes| bytes > 0))
}

/// Whether an HTTP server answers `path` with 2xx.
async fn answers(clock: &dyn Clock, address: SocketAddr, path: &str) -> bool {
    let status = within(clock, CHECK_TIMEOUT, status_of(address, path)).await;
    status.is_some_and(|status| status.is_ok_and(|status| (200..300).contains(&status)))
}

/// The status that an HTTP server answers with. One request without a body needs no client of its own.
async fn status_of(address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\naccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    loop {
        if stream.read_buf(&mut head).await? == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&head).map_err(std::io::Error::other)?;
        if parsed.is_complete() {
            return response.code.ok_or_else(|| std::io::ErrorKind::InvalidData.into());
        }
    }
}

#[cfg(test)]
mod tests;
