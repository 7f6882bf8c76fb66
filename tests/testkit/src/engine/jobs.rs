//! The supervisor of a fake container: it speaks the real protocol, and a script says what its jobs do.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use supervisor::frames::{CHUNK_BYTES_MAX, write_chunk, write_message};
use supervisor::{
    Call, Decoder, End, Ended, Frame, FrameError, Job, JobId, JobState, Message, Offsets, Refusal,
    RefusalCode, Request, Response, Stream, Usage, VERSION_MAX,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;

/// What a job does.
pub(super) type Script = dyn Fn(&Job) -> Play + Send + Sync;

/// What one job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    /// What it writes at once to its standard output.
    pub stdout: Vec<u8>,
    /// What it writes at once to its standard error output.
    pub stderr: Vec<u8>,
    /// How it ends; none means that it runs until it is killed or [`super::FakeEngine::finish`].
    pub end: Option<End>,
}

/// A supervisor without processes.
pub(super) struct Supervisor {
    script: Arc<Script>,
    jobs: Mutex<BTreeMap<JobId, Played>>,
    /// Grows with every change of a job.
    changes: watch::Sender<u64>,
    ended: CancellationToken,
}

/// A job.
struct Played {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    stdin: u64,
    ended: Option<Ended>,
}

/// One connection, with what was sent of each attached job.
struct Link {
    supervisor: Arc<Supervisor>,
    attached: BTreeMap<JobId, Offsets>,
    out: Vec<u8>,
}

// === impl Play ===

impl Default for Play {
    /// It ends with status 0.
    fn default() -> Self {
        Self { stdout: Vec::new(), stderr: Vec::new(), end: Some(End::Exited(0)) }
    }
}

impl Play {
    /// It writes this and ends with status 0.
    #[must_use]
    pub fn printing(text: impl Into<Vec<u8>>) -> Self {
        Self { stdout: text.into(), ..Self::default() }
    }

    /// It runs until it is ended.
    #[must_use]
    pub fn held() -> Self {
        Self { end: None, ..Self::default() }
    }
}

// === impl Supervisor ===

impl Supervisor {
    pub(super) fn new(script: Arc<Script>) -> Arc<Self> {
        let (changes, ended) = (watch::Sender::new(0), CancellationToken::new());
        Arc::new(Self { script, jobs: Mutex::default(), changes, ended })
    }

    /// Closes every connection.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    pub(super) fn finish(&self, id: &JobId, end: End) {
        if let Some(job) = self.jobs.lock().get_mut(id) {
            job.finish(id, end);
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Serves one connection until it or the container ends.
    pub(super) async fn serve(self: Arc<Self>, mut stream: DuplexStream) {
        let mut changes = self.changes.subscribe();
        let mut link = Link { supervisor: Arc::clone(&self), attached: BTreeMap::new(), out: Vec::new() };
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let received = tokio::select! {
                () = self.ended.cancelled() => return,
                received = stream.read(&mut bytes) => received.unwrap_or(0),
                _ = changes.changed() => usize::MAX,
            };
            if received == 0 {
                return;
            }
            decoder.feed(bytes.get(..received).unwrap_or_default());
            let answered = link.answer_all(&mut decoder).and_then(|()| link.send_output());
            if answered.is_err() || stream.write_all(&std::mem::take(&mut link.out)).await.is_err() {
                return;
            }
        }
    }

    fn start(&self, job: &Job) -> Response {
        let mut jobs = self.jobs.lock();
        if let Some(problem) = job.problem() {
            return refused(RefusalCode::Invalid, problem);
        }
        if jobs.contains_key(&job.id) {
            return refused(RefusalCode::Exists, "there is a job with this id");
        }
        let Play { stdout, stderr, end } = (self.script)(job);
        let mut played = Played { stdout, stderr, stdin: 0, ended: None };
        if let Some(end) = end {
            played.finish(&job.id, end);
        }
        jobs.insert(job.id.clone(), played);
        Response::Done
    }

    /// Does something to a job that has not ended.
    fn running(&self, id: &JobId, act: impl FnOnce(&mut Played)) -> Response {
        match self.jobs.lock().get_mut(id) {
            None => refused(RefusalCode::NotFound, "there is no such job"),
            Some(job) if job.ended.is_some() => refused(RefusalCode::Ended, "the job has ended"),
            Some(job) => {
                act(job);
                self.changes.send_modify(|changes| *changes += 1);
                Response::Done
            }
        }
    }

    fn acknowledge(&self, id: &JobId) -> Response {
        let mut jobs = self.jobs.lock();
        match jobs.get(id).map(|job| job.ended.is_some()) {
            None => refused(RefusalCode::NotFound, "there is no such job"),
            Some(false) => refused(RefusalCode::Running, "the job runs"),
            Some(true) => {
                jobs.remove(id);
                Response::Done
            }
        }
    }
}

fn refused(code: RefusalCode, message: &str) -> Response {
    Response::Refused(Refusal::new(code, message))
}

// === impl Played ===

impl Played {
    fn written(&self) -> Offsets {
        Offsets { stdout: self.stdout.len() as u64, stderr: self.stderr.len() as u64 }
    }

    fn finish(&mut self, id: &JobId, end: End) {
        let (written, usage) = (self.written(), Usage::default());
        self.ended.get_or_insert(Ended { id: id.clone(), end, usage, written, truncated: false });
    }

    fn state(&self, id: &JobId) -> JobState {
        JobState {
            id: id.clone(),
            kept_from: Offsets::default(),
            written: self.written(),
            stdin_received: self.stdin,
            ended: self.ended.clone(),
        }
    }
}

// === impl Link ===

impl Link {
    fn answer_all(&mut self, decoder: &mut Decoder) -> Result<(), FrameError> {
        while let Some(frame) = decoder.next_frame::<Call>()? {
            match frame {
                Frame::Message(Call { seq, request }) => {
                    let response = self.answer(request);
                    write_message(&Message::Response { seq, response }, &mut self.out)?;
                }
                Frame::Chunk(chunk) => {
                    let written = chunk.offset + chunk.bytes.len() as u64;
                    let _ = self.supervisor.running(&chunk.id, |job| job.stdin = written);
                    let message = Message::Stdin { id: chunk.id, written, is_open: true };
                    write_message(&message, &mut self.out)?;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Response {
        let supervisor = Arc::clone(&self.supervisor);
        match request {
            Request::Hello { .. } => Response::Welcome { version: VERSION_MAX },
            Request::Start(job) => {
                let response = supervisor.start(&job);
                if response == Response::Done {
                    self.attached.insert(job.id, Offsets::default());
                }
                response
            }
            Request::Attach { id, from } => match supervisor.jobs.lock().get(&id) {
                None => refused(RefusalCode::NotFound, "there is no such job"),
                Some(job) => {
                    self.attached.insert(id.clone(), from);
                    Response::Attached(job.state(&id))
                }
            },
            Request::More { .. } | Request::Consumed { .. } => Response::Done,
            // As the supervisor does, also for a job that has ended.
            Request::EndStdin { id } if supervisor.jobs.lock().contains_key(&id) => Response::Done,
            Request::EndStdin { .. } => refused(RefusalCode::NotFound, "there is no such job"),
            Request::Signal { id, signal } => {
                supervisor.running(&id, |job| job.finish(&id, End::Signalled(signal.into())))
            }
            Request::Kill { id, .. } => supervisor.running(&id, |job| job.finish(&id, End::Killed)),
            Request::Acknowledge { id } => supervisor.acknowledge(&id),
            Request::List => {
                let jobs = supervisor.jobs.lock();
                Response::Jobs(jobs.iter().map(|(id, job)| job.state(id)).collect())
            }
        }
    }

    /// Sends what attached jobs have written and how they ended.
    fn send_output(&mut self) -> Result<(), FrameError> {
        let supervisor = Arc::clone(&self.supervisor);
        let jobs = supervisor.jobs.lock();
        let mut attached = std::mem::take(&mut self.attached);
        for (id, sent) in &mut attached {
            let Some(job) = jobs.get(id) else { continue };
            for (stream, text, sent) in [
                (Stream::Stdout, &job.stdout, &mut sent.stdout),
                (Stream::Stderr, &job.stderr, &mut sent.stderr),
            ] {
                let from = usize::try_from(*sent).unwrap_or(usize::MAX);
                for bytes in text.get(from..).unwrap_or_default().chunks(CHUNK_BYTES_MAX) {
                    write_chunk(id, stream, *sent, bytes, &mut self.out)?;
                    *sent += bytes.len() as u64;
                }
            }
            if let Some(ended) = &job.ended {
                write_message(&Message::Ended(ended.clone()), &mut self.out)?;
            }
        }
        attached.retain(|id, _| jobs.get(id).is_some_and(|job| job.ended.is_none()));
        self.attached = attached;
        Ok(())
    }
}
