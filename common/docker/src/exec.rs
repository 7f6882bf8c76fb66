//! Commands in containers whose process 1 is not the supervisor: the engine runs them, and this speaks the supervisor's protocol
//! for them, so that callers need not know the difference.
//!
//! What the engine cannot do is not there: jobs belong to the connection that started them, use nothing that is measured, and
//! an exit status of 137 counts as the signal 9, because the engine does not tell them apart.

use bollard::Docker as Bollard;
use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt as _;
use ports::engine::Connection;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;
use supervisor::frames::{CHUNK_BYTES_MAX, write_chunk, write_message};
use supervisor::{
    Call, Chunk, Decoder, End, Ended, Frame, FrameError, Job, JobId, Message, Offsets, Refusal, RefusalCode,
    Request, Response, Stream, TIMEOUT_GRACE_MS, UID_DEFAULT, Usage, VERSION_MAX,
};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

/// Bytes that a connection holds in each direction.
const CONNECTION_BYTES: usize = 64 * 1024;
/// Messages that wait for a slow reader; then the command waits.
const MESSAGES_MAX: usize = 8;
/// Orders that wait for a command: those of standard input are limited by the client's window.
const ORDERS_MAX: usize = 64;
/// How the engine says that it cannot execute a command, and with which status.
const NOT_EXECUTED: &[u8] = b"OCI runtime exec failed";
const NOT_EXECUTED_STATUS: [i64; 2] = [126, 127];
/// The status of a command that a signal has ended, without the number of the signal.
const SIGNALLED: i64 = 128;
/// Most characters of the engine's reason.
const REASON_CHARS_MAX: usize = supervisor::REASON_CHARS_MAX;

/// Pause between two attempts to end every process of a command.
const KILL_PAUSE: Duration = Duration::from_millis(20);

/// What a client wants of a command that runs.
enum Order {
    Stdin(Chunk),
    EndStdin,
    Signal(u8),
    Kill(Duration),
}

/// One connection.
struct Link {
    engine: Bollard,
    container: String,
    jobs: BTreeMap<JobId, mpsc::Sender<Order>>,
    out: mpsc::Sender<Vec<u8>>,
}

/// A command that runs.
struct Running {
    engine: Bollard,
    exec: String,
    id: JobId,
    out: mpsc::Sender<Vec<u8>>,
    input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    output_max_bytes: u64,
    written: Offsets,
    truncated: bool,
    /// Why it was ended, if it was.
    cause: Option<End>,
    kill_at: Option<tokio::time::Instant>,
    /// The first words of its output, in which the engine says why it was not executed.
    head: Vec<u8>,
}

/// A connection on which the engine runs commands in a container.
pub(crate) fn connect(engine: Bollard, container: String) -> Connection {
    let (ours, theirs) = tokio::io::duplex(CONNECTION_BYTES);
    let (reader, writer) = tokio::io::split(theirs);
    let (out, messages) = mpsc::channel(MESSAGES_MAX);
    let link = Link { engine, container, jobs: BTreeMap::new(), out };
    tokio::spawn(write_all(messages, writer));
    tokio::spawn(link.serve(reader));
    Box::new(ours)
}

async fn write_all(mut messages: mpsc::Receiver<Vec<u8>>, mut writer: WriteHalf<DuplexStream>) {
    while let Some(message) = messages.recv().await {
        // Without a reader, commands go on.
        let _ = writer.write_all(&message).await;
    }
}

fn refused(code: RefusalCode, message: &str) -> Response {
    Response::Refused(Refusal::new(code, message))
}

// === impl Link ===

impl Link {
    async fn serve(mut self, mut reader: ReadHalf<DuplexStream>) {
        let (mut decoder, mut bytes) = (Decoder::default(), vec![0; CONNECTION_BYTES]);
        while let Ok(received @ 1..) = reader.read(&mut bytes).await {
            decoder.feed(bytes.get(..received).unwrap_or_default());
            if self.answer_all(&mut decoder).await.is_err() {
                return;
            }
        }
    }

    async fn answer_all(&mut self, decoder: &mut Decoder) -> Result<(), FrameError> {
        while let Some(frame) = decoder.next_frame::<Call>()? {
            match frame {
                Frame::Chunk(chunk) => {
                    self.order(&chunk.id.clone(), Order::Stdin(chunk)).await;
                }
                Frame::Message(Call { seq, request }) => {
                    let (response, begun) = self.answer(request).await;
                    let mut message = Vec::new();
                    write_message(&Message::Response { seq, response }, &mut message)?;
                    let _ = self.out.send(message).await;
                    if let Some((running, job, orders)) = begun {
                        tokio::spawn(running.run(job, orders));
                    }
                }
            }
        }
        Ok(())
    }

    async fn answer(
        &mut self,
        request: Request,
    ) -> (Response, Option<(Running, Job, mpsc::Receiver<Order>)>) {
        let response = match request {
            Request::Hello { .. } => Response::Welcome { version: VERSION_MAX },
            Request::Start(job) => return self.start(*job),
            // Backpressure is that of the connection.
            Request::More { .. } | Request::Consumed { .. } | Request::Acknowledge { .. } => Response::Done,
            Request::EndStdin { id } => self.order(&id, Order::EndStdin).await,
            Request::Signal { id, signal } => self.order(&id, Order::Signal(signal)).await,
            Request::Kill { id, grace_ms } => {
                self.order(&id, Order::Kill(Duration::from_millis(grace_ms))).await
            }
            Request::Attach { .. } => refused(RefusalCode::NotFound, "the engine keeps no jobs"),
            Request::List => Response::Jobs(Vec::new()),
        };
        (response, None)
    }

    async fn order(&self, id: &JobId, order: Order) -> Response {
        match self.jobs.get(id) {
            None => refused(RefusalCode::NotFound, "there is no such job"),
            Some(job) => match job.send(order).await {
                Ok(()) => Response::Done,
                Err(_) => refused(RefusalCode::Ended, "the job has ended"),
            },
        }
    }

    fn start(&mut self, job: Job) -> (Response, Option<(Running, Job, mpsc::Receiver<Order>)>) {
        if let Some(problem) = job.problem() {
            return (refused(RefusalCode::Invalid, problem), None);
        }
        if self.jobs.contains_key(&job.id) {
            return (refused(RefusalCode::Exists, "there is a job with this id"), None);
        }
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        self.jobs.insert(job.id.clone(), orders);
        let running = Running {
            engine: self.engine.clone(),
            exec: self.container.clone(),
            id: job.id.clone(),
            out: self.out.clone(),
            input: None,
            output_max_bytes: job.output_max_bytes,
            written: Offsets::default(),
            truncated: false,
            cause: None,
            kill_at: None,
            head: Vec::new(),
        };
        (Response::Done, Some((running, job, received)))
    }
}

// === impl Running ===

impl Running {
    async fn run(mut self, job: Job, orders: mpsc::Receiver<Order>) {
        let began = tokio::time::Instant::now();
        let end = match self.execute(job, orders).await {
            Ok(end) => end,
            Err(error) => End::Crashed(shortened(&error.to_string())),
        };
        let wall_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let usage = Usage { wall_ms, ..Usage::default() };
        let (id, written, truncated) = (self.id.clone(), self.written, self.truncated);
        let mut message = Vec::new();
        if write_message(&Message::Ended(Ended { id, end, usage, written, truncated }), &mut message).is_ok()
        {
            let _ = self.out.send(message).await;
        }
    }

    async fn execute(
        &mut self,
        job: Job,
        mut orders: mpsc::Receiver<Order>,
    ) -> Result<End, bollard::errors::Error> {
        let timeout = job.timeout_ms.map(|ms| tokio::time::Instant::now() + Duration::from_millis(ms));
        let created = self.engine.create_exec(&self.exec, config(job)).await?;
        self.exec = created.id;
        let StartExecResults::Attached { mut output, input } =
            self.engine.start_exec(&self.exec, None).await?
        else {
            return Ok(End::Crashed("the engine did not attach the command".to_owned()));
        };
        self.input = Some(input);
        loop {
            let next = self.kill_at.into_iter().chain(timeout.filter(|_| self.cause.is_none())).min();
            tokio::select! {
                biased;
                read = output.next() => match read {
                    Some(Ok(LogOutput::StdErr { message })) => self.pass_on(Stream::Stderr, &message).await,
                    Some(Ok(message)) => self.pass_on(Stream::Stdout, &message.into_bytes()).await,
                    // The connection ends when nothing of the command holds its output any more.
                    Some(Err(_)) | None => break,
                },
                Some(order) = orders.recv() => self.obey(order).await,
                () = until(next) => match self.kill_at {
                    Some(_) => self.signal(Signal::KILL).await,
                    None => self.end(End::TimedOut, Duration::from_millis(TIMEOUT_GRACE_MS)).await,
                },
            }
        }
        let status = self.engine.inspect_exec(&self.exec).await?.exit_code;
        Ok(self.judge(status))
    }

    fn judge(&mut self, status: Option<i64>) -> End {
        match (self.cause.take(), status) {
            (Some(cause), _) => cause,
            (None, None) => End::Crashed("the engine does not say how it ended".to_owned()),
            (None, Some(status))
                if NOT_EXECUTED_STATUS.contains(&status) && self.head.starts_with(NOT_EXECUTED) =>
            {
                End::FailedToStart(shortened(String::from_utf8_lossy(&self.head).trim()))
            }
            (None, Some(status)) if status == SIGNALLED + i64::from(Signal::KILL.as_raw()) => {
                End::Signalled(Signal::KILL.as_raw())
            }
            (None, Some(status)) => End::Exited(i32::try_from(status).unwrap_or(i32::MAX)),
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Stdin(Chunk { id, offset, bytes, .. }) => {
                let written = offset + bytes.len() as u64;
                let is_open = match &mut self.input {
                    Some(input) => input.write_all(&bytes).await.is_ok(),
                    None => false,
                };
                let mut message = Vec::new();
                if write_message(&Message::Stdin { id, written, is_open }, &mut message).is_ok() {
                    let _ = self.out.send(message).await;
                }
            }
            Order::EndStdin => {
                if let Some(mut input) = self.input.take() {
                    let _ = input.shutdown().await;
                }
            }
            Order::Signal(number) => {
                if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
                    self.cause = Some(End::Signalled(i32::from(number)));
                    self.signal(signal).await;
                }
            }
            Order::Kill(grace) => self.end(End::Killed, grace).await,
        }
    }

    /// Ends every process of the command, the first one gently.
    async fn end(&mut self, cause: End, grace: Duration) {
        self.cause.get_or_insert(cause);
        self.kill_at = Some(tokio::time::Instant::now() + grace);
        if !grace.is_zero() {
            self.signal(Signal::TERM).await;
        }
    }

    /// Signals the command, and with SIGKILL all that it has started: the engine itself can end no command.
    async fn signal(&mut self, signal: Signal) {
        let inspected = self.engine.inspect_exec(&self.exec).await.ok();
        let pid = inspected
            .filter(|exec| exec.running == Some(true))
            .and_then(|exec| i32::try_from(exec.pid?).ok());
        let Some(first) = pid.and_then(Pid::from_raw) else {
            self.kill_at = None;
            return;
        };
        let all = if signal == Signal::KILL { family(first) } else { vec![first] };
        for pid in all {
            let _ = kill_process(pid, signal);
        }
        if signal == Signal::KILL {
            // Again, if one of them has just started another one.
            self.kill_at = Some(tokio::time::Instant::now() + KILL_PAUSE);
        }
    }

    async fn pass_on(&mut self, stream: Stream, bytes: &[u8]) {
        if self.head.len() < NOT_EXECUTED.len() + REASON_CHARS_MAX {
            self.head.extend_from_slice(bytes);
        }
        let written =
            if stream == Stream::Stderr { &mut self.written.stderr } else { &mut self.written.stdout };
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            let kept = usize::try_from(self.output_max_bytes.saturating_sub(*written)).unwrap_or(usize::MAX);
            let kept = chunk.get(..kept.min(chunk.len())).unwrap_or_default();
            self.truncated |= kept.len() < chunk.len();
            let mut message = Vec::new();
            if !kept.is_empty() && write_chunk(&self.id, stream, *written, kept, &mut message).is_ok() {
                let _ = self.out.send(message).await;
            }
            *written += chunk.len() as u64;
        }
    }
}

async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn config(job: Job) -> ExecConfig {
    let uid = job.uid.unwrap_or(UID_DEFAULT);
    ExecConfig {
        attach_stdin: Some(job.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        env: Some(job.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: Some(job.command),
        user: Some(format!("{uid}:{}", job.gid.unwrap_or(uid))),
        working_dir: job.cwd,
        ..ExecConfig::default()
    }
}

/// A process and all that descend from it.
fn family(first: Pid) -> Vec<Pid> {
    let mut found = vec![first];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        let number = pid.as_raw_nonzero();
        let children =
            std::fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)));
        next += 1;
    }
    found
}

fn shortened(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}
