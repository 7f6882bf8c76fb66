//! Commands in containers whose process 1 is not the supervisor: the engine runs them, and this speaks the supervisor's protocol
//! for them, so that callers need not know the difference.
//!
//! What the engine cannot do is not there: jobs belong to the connection that started them, use nothing that is measured, and
//! an exit status of 137 counts as the signal 9, because the engine does not tell them apart.

use bollard::Docker as Bollard;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt as _;
use ports::engine::Connection;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use supervisor::frames::{CHUNK_BYTES_MAX, write_chunk, write_message};
use supervisor::{
    ATTACH_WINDOW_FRAMES, Call, Chunk, Decoder, End, Ended, Frame, FrameError, Job, JobId, Message, Offsets,
    REASON_CHARS_MAX, Refusal, RefusalCode, Request, Response, Stream, TIMEOUT_GRACE_MS, UID_DEFAULT, Usage,
    VERSION_MAX,
};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes that a connection holds in each direction.
const CONNECTION_BYTES: usize = 64 * 1024;
/// Messages that wait for a slow reader; then the command waits.
const MESSAGES_MAX: usize = 8;
/// Frames of output that a client takes before it says that it takes more.
const WINDOW_FRAMES: usize = ATTACH_WINDOW_FRAMES as usize;
/// Orders that wait for a command: those of standard input are limited by the client's window.
const ORDERS_MAX: usize = 64;
/// What engines say if they cannot execute a command, and with which status.
const NOT_EXECUTED: &str = "OCI runtime";
const NOT_EXECUTED_STATUS: [i64; 2] = [126, 127];
/// The status of a command that a signal has ended, without the number of the signal.
const SIGNALLED: i64 = 128;
/// First bytes of the output that are kept for that reason.
const HEAD_BYTES: usize = 1_024;

/// Time between two looks at whether a command has ended whose output is still open.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
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
    container: Target,
    jobs: BTreeMap<JobId, Started>,
    out: mpsc::Sender<Vec<u8>>,
}

/// How a command that was started is reached.
struct Started {
    orders: mpsc::Sender<Order>,
    /// Frames of output that the client still takes.
    window: Arc<Semaphore>,
}

/// The container of a connection.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// Its id, which is part of the names of its control groups.
    pub(crate) id: String,
    /// Whether its processes are those of this machine, so that they can be signalled.
    pub(crate) is_of_machine: bool,
}

/// A command that runs.
struct Running {
    engine: Bollard,
    container: Target,
    exec: String,
    window: Arc<Semaphore>,
    /// Why it was ended, if it was.
    cause: Option<End>,
    /// The last signal that a client asked for.
    signalled: Option<u8>,
    kill_at: Option<Instant>,
    /// All its processes when it was ended gently: those that its first one leaves behind are killed.
    ended: Vec<OwnedFd>,
}

/// What the output of a command was.
#[derive(Default)]
struct Output {
    written: Offsets,
    truncated: bool,
    /// The first words, in which the engine says why it was not executed.
    head: Vec<u8>,
}

type Input = Pin<Box<dyn AsyncWrite + Send>>;
type Read = Pin<Box<dyn futures_util::Stream<Item = Result<LogOutput, Error>> + Send>>;

/// A connection on which the engine runs commands in a container.
pub(crate) fn connect(engine: Bollard, container: Target) -> Connection {
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
                        tokio::spawn(running.run(job, orders, self.out.clone()));
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
            Request::More { id, frames } => {
                if let Some(job) = self.jobs.get(&id) {
                    job.window.add_permits(usize::try_from(frames).unwrap_or_default().min(WINDOW_FRAMES));
                }
                Response::Done
            }
            // Nothing is kept that was sent.
            Request::Consumed { .. } => Response::Done,
            Request::Acknowledge { id } => {
                self.jobs.remove(&id);
                Response::Done
            }
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
            Some(job) => match job.orders.send(order).await {
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
        let window = Arc::new(Semaphore::new(WINDOW_FRAMES));
        self.jobs.insert(job.id.clone(), Started { orders, window: Arc::clone(&window) });
        let running = Running {
            engine: self.engine.clone(),
            container: self.container.clone(),
            exec: String::new(),
            window,
            cause: None,
            signalled: None,
            kill_at: None,
            ended: Vec::new(),
        };
        (Response::Done, Some((running, job, received)))
    }
}

// === impl Running ===

impl Running {
    async fn run(mut self, job: Job, orders: mpsc::Receiver<Order>, out: mpsc::Sender<Vec<u8>>) {
        let (began, id) = (Instant::now(), job.id.clone());
        let (end, output) = match self.execute(job, orders, &out).await {
            Ok(ended) => ended,
            Err(error) => (End::Crashed(shortened(&error.to_string())), Output::default()),
        };
        let wall_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let usage = Usage { wall_ms, ..Usage::default() };
        let Output { written, truncated, .. } = output;
        send(&out, &Message::Ended(Ended { id, end, usage, written, truncated })).await;
    }

    /// Input and output have tasks of their own: neither a command that does not read nor a client that does not keeps an order
    /// or a time-out from being carried out.
    async fn execute(
        &mut self,
        job: Job,
        mut orders: mpsc::Receiver<Order>,
        out: &mpsc::Sender<Vec<u8>>,
    ) -> Result<(End, Output), Error> {
        let timeout = job.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let (id, stdin_of, output_max_bytes) = (job.id.clone(), job.id.clone(), job.output_max_bytes);
        self.exec = self.engine.create_exec(&self.container.name, config(job)).await?.id;
        let StartExecResults::Attached { output, input } = self.engine.start_exec(&self.exec, None).await?
        else {
            return Ok((End::Crashed("the engine did not attach the command".to_owned()), Output::default()));
        };
        let (feed, fed) = mpsc::channel(ORDERS_MAX);
        let mut feed = Some(feed);
        let writing = tokio::spawn(write_input(fed, input, out.clone()));
        let (kept, queue) = mpsc::unbounded_channel();
        let sending = tokio::spawn(send_output(queue, Arc::clone(&self.window), out.clone()));
        let over = CancellationToken::new();
        let mut reading = tokio::spawn(read_output(output, id, output_max_bytes, kept, over.clone()));
        let mut looks = tokio::time::interval(LOOK_PERIOD);
        let mut was_over = false;
        let output = loop {
            let next = self.kill_at.into_iter().chain(timeout.filter(|_| self.cause.is_none())).min();
            tokio::select! {
                biased;
                // The connection ends when nothing of the command holds its output any more.
                output = &mut reading => break output.unwrap_or_default(),
                // What the command has left behind may hold it for ever. Its own output arrives until the second look.
                _ = looks.tick() => match self.is_over().await {
                    true if was_over => over.cancel(),
                    is_over => was_over = is_over,
                },
                Some(order) = orders.recv() => match order {
                    // A client sends no more than a window, for which there is room.
                    Order::Stdin(chunk) => drop(feed.as_ref().map(|feed| feed.try_send(chunk))),
                    Order::EndStdin => feed = None,
                    Order::Signal(number) => {
                        if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
                            self.signalled = Some(number);
                            self.signal(signal).await;
                        }
                    }
                    Order::Kill(grace) => self.end(End::Killed, grace).await,
                },
                () = until(next) => match self.kill_at {
                    Some(_) => self.signal(Signal::KILL).await,
                    None => self.end(End::TimedOut, Duration::from_millis(TIMEOUT_GRACE_MS)).await,
                },
            }
        };
        self.kill_rest();
        writing.abort();
        let _ = writing.await;
        // A client that still has input waits for this.
        send(out, &Message::Stdin { id: stdin_of, written: 0, is_open: false }).await;
        // Its end is said after its output.
        let _ = sending.await;
        let status = self.engine.inspect_exec(&self.exec).await?.exit_code;
        Ok((self.judge(status, &output.head), output))
    }

    fn judge(&self, status: Option<i64>, head: &[u8]) -> End {
        let by_signal = |signal: i32| status == Some(SIGNALLED + i64::from(signal));
        let asked = self.signalled.map(i32::from).filter(|signal| by_signal(*signal));
        let said = String::from_utf8_lossy(head);
        match (&self.cause, status) {
            (Some(cause), _) => cause.clone(),
            (None, None) => End::Crashed("the engine does not say how it ended".to_owned()),
            (None, Some(status)) if NOT_EXECUTED_STATUS.contains(&status) && said.contains(NOT_EXECUTED) => {
                End::FailedToStart(shortened(said.trim()))
            }
            (None, Some(_)) if by_signal(Signal::KILL.as_raw()) => End::Signalled(Signal::KILL.as_raw()),
            (None, Some(status)) => {
                asked.map_or_else(|| End::Exited(i32::try_from(status).unwrap_or(i32::MAX)), End::Signalled)
            }
        }
    }

    /// Ends every process of the command, the first one gently.
    async fn end(&mut self, cause: End, grace: Duration) {
        self.cause.get_or_insert(cause);
        self.kill_at = Some(Instant::now() + grace);
        if !grace.is_zero() {
            let all = self.first().await.map(family).unwrap_or_default();
            self.ended = all.into_iter().filter_map(|pid| self.container.process(pid)).collect();
            self.signal(Signal::TERM).await;
        }
    }

    /// Signals the command, and with SIGKILL all that it has started: the engine itself can end no command.
    async fn signal(&mut self, signal: Signal) {
        if signal == Signal::KILL {
            self.kill_rest();
        }
        let Some(first) = self.first().await else {
            self.kill_at = None;
            return;
        };
        let all = if signal == Signal::KILL { family(first) } else { vec![first] };
        for process in all.into_iter().filter_map(|pid| self.container.process(pid)) {
            // It may have ended meanwhile.
            let _ = pidfd_send_signal(process, signal);
        }
        if signal == Signal::KILL {
            // Again, if one of them has just started another one.
            self.kill_at = Some(Instant::now() + KILL_PAUSE);
        }
    }

    /// Kills what was there when the command was ended gently.
    fn kill_rest(&mut self) {
        for process in self.ended.drain(..) {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// Whether the command has ended, as far as the engine answers.
    async fn is_over(&self) -> bool {
        self.engine.inspect_exec(&self.exec).await.is_ok_and(|exec| exec.running == Some(false))
    }

    /// The first process of the command, as this machine sees it, while it runs.
    async fn first(&self) -> Option<Pid> {
        let inspected = self.engine.inspect_exec(&self.exec).await.ok()?;
        let pid =
            inspected.pid.filter(|_| inspected.running == Some(true) && self.container.is_of_machine)?;
        Pid::from_raw(i32::try_from(pid).ok()?)
    }
}

// === impl Target ===

impl Target {
    /// A process, if it is one of this container: another one may have its number by now.
    fn process(&self, pid: Pid) -> Option<OwnedFd> {
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).ok()?;
        groups.contains(&self.id).then_some(process)
    }
}

async fn send(out: &mpsc::Sender<Vec<u8>>, message: &Message) {
    let mut bytes = Vec::new();
    if write_message(message, &mut bytes).is_ok() {
        let _ = out.send(bytes).await;
    }
}

/// Passes standard input on until its end.
async fn write_input(mut chunks: mpsc::Receiver<Chunk>, mut input: Input, out: mpsc::Sender<Vec<u8>>) {
    while let Some(Chunk { id, offset, bytes, .. }) = chunks.recv().await {
        let written = offset + bytes.len() as u64;
        let is_open = input.write_all(&bytes).await.is_ok();
        send(&out, &Message::Stdin { id, written, is_open }).await;
    }
    let _ = input.shutdown().await;
}

/// Sends output as far as the client takes it.
async fn send_output(
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    window: Arc<Semaphore>,
    out: mpsc::Sender<Vec<u8>>,
) {
    while let Some(frame) = queue.recv().await {
        if let Ok(permit) = window.acquire().await {
            permit.forget();
        }
        let _ = out.send(frame).await;
    }
}

/// Reads output until its end and keeps what is wanted of it for the client, which limits the queue.
async fn read_output(
    mut read: Read,
    id: JobId,
    max_bytes: u64,
    kept_frames: mpsc::UnboundedSender<Vec<u8>>,
    over: CancellationToken,
) -> Output {
    let mut output = Output::default();
    loop {
        let part = tokio::select! {
            biased;
            part = read.next() => part,
            () = over.cancelled() => break,
        };
        let Some(Ok(part)) = part else { break };
        let stream = if matches!(part, LogOutput::StdErr { .. }) { Stream::Stderr } else { Stream::Stdout };
        let bytes = part.into_bytes();
        if output.head.len() < HEAD_BYTES {
            output.head.extend_from_slice(&bytes);
        }
        let Offsets { stdout, stderr } = &mut output.written;
        let written = if stream == Stream::Stderr { stderr } else { stdout };
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            let kept = usize::try_from(max_bytes.saturating_sub(*written)).unwrap_or(usize::MAX);
            let kept = chunk.get(..kept.min(chunk.len())).unwrap_or_default();
            output.truncated |= kept.len() < chunk.len();
            let mut message = Vec::new();
            if !kept.is_empty() && write_chunk(&id, stream, *written, kept, &mut message).is_ok() {
                let _ = kept_frames.send(message);
            }
            *written += chunk.len() as u64;
        }
    }
    output
}

async fn until(moment: Option<Instant>) {
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
