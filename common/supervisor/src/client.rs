//! The client of a runner. One connection serves any number of jobs; a slow reader of one holds up no other.

use crate::frames::{CHUNK_BYTES_MAX, write_chunk, write_message};
use crate::{
    ATTACH_WINDOW_FRAMES, Call, Chunk, Ended, FrameError, Job, JobId, JobState, Offsets, Refusal, Request,
    Response, STDIN_WINDOW_BYTES, Stream, VERSION_MAX, VERSION_MIN,
};
use routes::{PendingCall, Route, Routes, StdinState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

mod routes;
#[cfg(test)]
mod tests;

/// The most that [`Client::run`] collects of each stream.
pub const OUTCOME_BYTES_MAX: usize = 1024 * 1024;
/// The supervisor responds within this time, or is taken for stuck.
const RESPONSE_WITHIN: Duration = Duration::from_secs(10);
/// Frames that wait for the stream to take them.
const OUTGOING_FRAMES_MAX: usize = 64;
/// Places for the output of a job that was not taken yet, and for its end.
const EVENTS_MAX: usize = ATTACH_WINDOW_FRAMES as usize + 1;

/// A connection to a supervisor. Clones share it; it closes with the last of them and of its [`Attached`] jobs.
#[derive(Clone)]
pub struct Client {
    link: Arc<Link>,
}

struct Link {
    outgoing: mpsc::Sender<Vec<u8>>,
    routes: Arc<Routes>,
    next_seq: AtomicU64,
    receiver: JoinHandle<()>,
}

/// What happens to an attached job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// It wrote this. Chunks of a stream come in order, each once.
    Output(Chunk),
    /// It has ended, and there is no more output.
    Ended(Ended),
}

/// The result of [`Client::run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How the job ended.
    pub ended: Ended,
    /// The first [`OUTCOME_BYTES_MAX`] of the standard output.
    pub stdout: Vec<u8>,
    /// The first [`OUTCOME_BYTES_MAX`] of the standard error output.
    pub stderr: Vec<u8>,
}

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The supervisor refused it.
    #[error("refused by the supervisor")]
    Refused(#[from] Refusal),
    /// The connection is closed. Jobs go on; connect and attach again.
    #[error("the connection to the supervisor is closed")]
    Closed,
    /// The supervisor did not respond in time.
    #[error("the supervisor does not respond")]
    TimedOut,
    /// The request is too large.
    #[error("the request cannot be sent")]
    Frame(#[from] FrameError),
    /// The response belongs to another request.
    #[error("the supervisor sent another response than was asked for")]
    Unexpected,
    /// The job has ended or has closed its standard input.
    #[error("the job takes no more standard input")]
    StdinClosed,
}

/// A job whose output this client gets. The job does not end with it.
pub struct Attached {
    id: JobId,
    link: Arc<Link>,
    events: mpsc::Receiver<JobEvent>,
    stdin: watch::Receiver<StdinState>,
    /// How much standard input was sent.
    stdin_sent: u64,
    /// Frames that were taken since the supervisor was allowed more.
    taken: u32,
    has_ended: bool,
}

impl Client {
    /// Agrees with the supervisor on a version.
    pub async fn connect<S>(stream: S) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, mut writer) = tokio::io::split(stream);
        let (outgoing, mut frames) = mpsc::channel::<Vec<u8>>(OUTGOING_FRAMES_MAX);
        let routes = Arc::<Routes>::default();
        let receiver = tokio::spawn(routes::receive(reader, Arc::clone(&routes)));
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if writer.write_all(&frame).await.is_err() {
                    break;
                }
            }
            let _: io::Result<()> = writer.shutdown().await;
        });
        let link = Arc::new(Link { outgoing, routes, next_seq: AtomicU64::new(1), receiver });
        let hello = Request::Hello { version_min: VERSION_MIN, version_max: VERSION_MAX };
        match link.call(hello, None).await? {
            Response::Welcome { .. } => Ok(Self { link }),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Runs a job to its end, and frees it. If this is cancelled or fails, the job goes on.
    pub async fn run(&self, mut job: Job, stdin: &[u8]) -> Result<Outcome, ClientError> {
        job.stdin = !stdin.is_empty();
        let mut attached = self.start(job).await?;
        if !stdin.is_empty() {
            match attached.write_stdin(stdin).await {
                Ok(()) => attached.end_stdin().await?,
                Err(ClientError::StdinClosed) => {}
                Err(error) => return Err(error),
            }
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut is_cut = false;
        loop {
            match attached.next().await? {
                Some(JobEvent::Output(chunk)) => {
                    let to = if chunk.stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                    let fits = chunk.bytes.len().min(OUTCOME_BYTES_MAX - to.len());
                    is_cut |= fits < chunk.bytes.len();
                    to.extend_from_slice(chunk.bytes.get(..fits).unwrap_or_default());
                }
                Some(JobEvent::Ended(mut ended)) => {
                    ended.truncated |= is_cut;
                    self.acknowledge(&ended.id).await?;
                    return Ok(Outcome { ended, stdout, stderr });
                }
                None => return Err(ClientError::Closed),
            }
        }
    }

    /// Starts a job.
    pub async fn start(&self, job: Job) -> Result<Attached, ClientError> {
        let id = job.id.clone();
        let (attached, response) = self.attach_by(id, Request::Start(Box::new(job))).await?;
        if response == Response::Done { Ok(attached) } else { Err(ClientError::Unexpected) }
    }

    /// Gets the kept output of a job from these offsets on, and its end. A job is attached once to a connection: an
    /// older [`Attached`] of this connection gets nothing more.
    pub async fn attach(&self, id: &JobId, from: Offsets) -> Result<(JobState, Attached), ClientError> {
        let request = Request::Attach { id: id.clone(), from };
        match self.attach_by(id.clone(), request).await? {
            (mut attached, Response::Attached(state)) => {
                attached.stdin_sent = state.stdin_received;
                Ok((state, attached))
            }
            _ => Err(ClientError::Unexpected),
        }
    }

    async fn attach_by(&self, id: JobId, request: Request) -> Result<(Attached, Response), ClientError> {
        let (to_events, events) = mpsc::channel(EVENTS_MAX);
        let (to_stdin, stdin) = watch::channel(StdinState { written: 0, is_open: true });
        let route = Route { events: to_events, stdin: to_stdin };
        let response = self.link.call(request, Some((id.clone(), route))).await?;
        let link = Arc::clone(&self.link);
        Ok((Attached { id, link, events, stdin, stdin_sent: 0, taken: 0, has_ended: false }, response))
    }

    /// Frees the kept output before these offsets.
    pub async fn consumed(&self, id: &JobId, until: Offsets) -> Result<(), ClientError> {
        self.link.order(Request::Consumed { id: id.clone(), until }).await
    }

    /// Sends a signal (1 to 31) to the process group of a job's command.
    pub async fn signal(&self, id: &JobId, signal: u8) -> Result<(), ClientError> {
        self.link.order(Request::Signal { id: id.clone(), signal }).await
    }

    /// Ends every process of a job: at once, or after `SIGTERM` and a grace. The job has ended when its end arrives.
    pub async fn kill(&self, id: &JobId, grace: Duration) -> Result<(), ClientError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.link.order(Request::Kill { id: id.clone(), grace_ms }).await
    }

    /// Frees the output and the result of a job that has ended.
    pub async fn acknowledge(&self, id: &JobId) -> Result<(), ClientError> {
        self.link.order(Request::Acknowledge { id: id.clone() }).await
    }

    /// The jobs that run or whose result is kept.
    pub async fn list(&self) -> Result<Vec<JobState>, ClientError> {
        match self.link.call(Request::List, None).await? {
            Response::Jobs(jobs) => Ok(jobs),
            _ => Err(ClientError::Unexpected),
        }
    }
}

impl Attached {
    /// The job.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The next event; `None` after the end. It can be cancelled without losing one.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, ClientError> {
        if self.has_ended {
            return Ok(None);
        }
        let event = self.events.recv().await.ok_or(ClientError::Closed)?;
        match &event {
            JobEvent::Output(_) => self.allow_more(),
            JobEvent::Ended(_) => self.has_ended = true,
        }
        Ok(Some(event))
    }

    /// Lets the supervisor send more when half of the window was taken. If that cannot be sent now, the next event does.
    fn allow_more(&mut self) {
        self.taken += 1;
        if self.taken >= ATTACH_WINDOW_FRAMES / 2 {
            let more = Request::More { id: self.id.clone(), frames: self.taken };
            let frame = self.link.frame(more);
            if frame.is_ok_and(|frame| self.link.outgoing.try_send(frame).is_ok()) {
                self.taken = 0;
            }
        }
    }

    /// Sends standard input. It waits while the job does not read.
    pub async fn write_stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for part in bytes.chunks(CHUNK_BYTES_MAX) {
            let end = self.stdin_sent + part.len() as u64;
            let fits = |state: &StdinState| !state.is_open || end <= state.written + STDIN_WINDOW_BYTES;
            // Copied out of the guard, which must not be held over a wait: the future has to be `Send`.
            let is_open = self.stdin.wait_for(fits).await.map_err(|_| ClientError::Closed)?.is_open;
            if !is_open {
                return Err(ClientError::StdinClosed);
            }
            let mut frame = Vec::new();
            write_chunk(&self.id, Stream::Stdin, self.stdin_sent, part, &mut frame)?;
            self.link.send(frame).await?;
            self.stdin_sent = end;
        }
        Ok(())
    }

    /// Closes the standard input after what was sent.
    pub async fn end_stdin(&mut self) -> Result<(), ClientError> {
        self.link.order(Request::EndStdin { id: self.id.clone() }).await
    }
}

impl Link {
    fn frame(&self, request: Request) -> Result<Vec<u8>, FrameError> {
        self.frame_of(&Call { seq: self.next_seq.fetch_add(1, Ordering::Relaxed), request })
    }

    fn frame_of(&self, call: &Call) -> Result<Vec<u8>, FrameError> {
        let mut frame = Vec::new();
        write_message(call, &mut frame)?;
        Ok(frame)
    }

    async fn send(&self, frame: Vec<u8>) -> Result<(), ClientError> {
        self.outgoing.send(frame).await.map_err(|_| ClientError::Closed)
    }

    async fn order(&self, request: Request) -> Result<(), ClientError> {
        match self.call(request, None).await? {
            Response::Done => Ok(()),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Sends a request, and waits for its response. If that is no refusal, the route is there before any event of it.
    async fn call(&self, request: Request, route: Option<(JobId, Route)>) -> Result<Response, ClientError> {
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let frame = self.frame_of(&Call { seq, request })?;
        let (respond, response) = oneshot::channel();
        self.routes.expect(seq, PendingCall { respond, route })?;
        let exchange = async {
            self.send(frame).await?;
            response.await.map_err(|_| ClientError::Closed)
        };
        match tokio::time::timeout(RESPONSE_WITHIN, exchange).await {
            Ok(Ok(Response::Refused(refusal))) => Err(refusal.into()),
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}
