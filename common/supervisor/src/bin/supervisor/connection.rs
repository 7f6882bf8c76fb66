//! A connection to a client. What it has yet to get is no queue but a position in each job's kept output, so a slow
//! client costs nothing and delays no other.

use crate::supervised::Supervised;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use supervisor::frames::{write_chunk, write_message};
use supervisor::{
    ATTACH_WINDOW_FRAMES, Call, Decoder, Frame, FrameError, JobId, Message, Offsets, Refusal, RefusalCode,
    Response, Stream,
};

/// The first request has to arrive within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Bytes to send from which on no output is added.
const OUTPUT_BYTES_WAITING: usize = 128 * 1024;
/// Bytes to send from which on no request is read.
const RESPONSE_BYTES_WAITING: usize = 256 * 1024;

/// A connection, and what it is attached to.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    /// Whether versions were agreed on.
    pub(crate) is_greeted: bool,
    decoder: Decoder,
    to_send: Vec<u8>,
    hello_until: Instant,
    is_closed: bool,
    /// Whether frames wait until responses are sent.
    is_held: bool,
    attached: BTreeMap<JobId, Position>,
    /// Who comes first next time.
    turn: usize,
}

/// What a client has got of a job.
struct Position {
    stdout: u64,
    stderr: u64,
    frames_left: u32,
    stdin: (u64, bool),
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            is_greeted: false,
            decoder: Decoder::default(),
            to_send: Vec::new(),
            hello_until: Instant::now() + HELLO_WITHIN,
            is_closed: false,
            is_held: false,
            attached: BTreeMap::new(),
            turn: 0,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(crate) fn hello_until(&self) -> Option<Instant> {
        (!self.is_greeted).then_some(self.hello_until)
    }

    pub(crate) fn wants_to_send(&self) -> bool {
        !self.to_send.is_empty()
    }

    pub(crate) fn takes_requests(&self) -> bool {
        !self.is_closed && self.to_send.len() < RESPONSE_BYTES_WAITING
    }

    /// Receives once.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) {
        match rustix::net::recv(&self.stream, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => self.is_closed = true,
            Ok((_, count)) => self.decoder.feed(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.is_closed = true,
        }
    }

    /// The next frame that can be answered.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame<Call>>, FrameError> {
        self.is_held = !self.takes_requests();
        if self.is_held { Ok(None) } else { self.decoder.next_frame() }
    }

    /// Whether frames were held back, and can be answered now.
    pub(crate) fn resumes(&self) -> bool {
        self.is_held && self.takes_requests()
    }

    pub(crate) fn respond(&mut self, seq: u64, response: Response) {
        self.write(&Message::Response { seq, response });
    }

    /// Says why, and closes.
    pub(crate) fn refuse(&mut self, seq: u64, code: RefusalCode, message: String) {
        self.respond(seq, Response::Refused(Refusal::new(code, message)));
        self.send();
        self.is_closed = true;
    }

    /// Sends the output of this job from these offsets on.
    pub(crate) fn attach(&mut self, id: JobId, from: Offsets) {
        let position = Position {
            stdout: from.stdout,
            stderr: from.stderr,
            frames_left: ATTACH_WINDOW_FRAMES,
            stdin: (0, true),
        };
        self.attached.insert(id, position);
    }

    pub(crate) fn allow_more(&mut self, id: &JobId, frames: u32) {
        if let Some(position) = self.attached.get_mut(id) {
            position.frames_left = position.frames_left.saturating_add(frames).min(ATTACH_WINDOW_FRAMES);
        }
    }

    /// Sends what attached jobs have for the client, as far as it takes it.
    pub(crate) fn advance(&mut self, jobs: &BTreeMap<JobId, Supervised>) {
        loop {
            let may_have_more = self.fill(jobs);
            self.send();
            if !may_have_more || self.wants_to_send() || self.is_closed {
                return;
            }
        }
    }

    /// Adds what attached jobs have, one chunk each in turn. Returns whether it stopped because that is enough for now.
    fn fill(&mut self, jobs: &BTreeMap<JobId, Supervised>) -> bool {
        let mut ids: Vec<JobId> = self.attached.keys().cloned().collect();
        let first = self.turn.checked_rem(ids.len()).unwrap_or_default();
        ids.rotate_left(first);
        self.turn = self.turn.wrapping_add(1);
        let mut has_more = true;
        while has_more {
            has_more = false;
            for id in &ids {
                if self.to_send.len() >= OUTPUT_BYTES_WAITING {
                    return true;
                }
                has_more |= self.add_next(id, jobs.get(id));
            }
        }
        false
    }

    /// Adds at most a chunk of each stream. Returns whether there was something.
    fn add_next(&mut self, id: &JobId, job: Option<&Supervised>) -> bool {
        let (Some(job), Some(mut position)) = (job, self.attached.remove(id)) else {
            self.attached.remove(id);
            return false;
        };
        let stdin = job.input.progress();
        if stdin != position.stdin {
            position.stdin = stdin;
            self.write(&Message::Stdin { id: id.clone(), written: stdin.0, is_open: stdin.1 });
        }
        let (mut was_something, mut was_all) = (false, true);
        let streams = [
            (Stream::Stdout, &job.stdout, &mut position.stdout),
            (Stream::Stderr, &job.stderr, &mut position.stderr),
        ];
        for (stream, output, sent) in streams {
            let Some((offset, bytes)) = output.after(*sent) else { continue };
            was_all = false;
            if position.frames_left > 0 {
                position.frames_left -= 1;
                was_something = true;
                *sent = offset + bytes.len() as u64;
                self.is_closed |= write_chunk(id, stream, offset, bytes, &mut self.to_send).is_err();
            }
        }
        match &job.ended {
            Some(ended) if was_all => self.write(&Message::Ended(ended.clone())),
            _ => drop(self.attached.insert(id.clone(), position)),
        }
        was_something
    }

    fn write(&mut self, message: &impl Serialize) {
        self.is_closed |= write_message(message, &mut self.to_send).is_err();
    }

    fn send(&mut self) {
        while self.wants_to_send() && !self.is_closed {
            match rustix::net::send(&self.stream, &self.to_send, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => drop(self.to_send.drain(..count)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.is_closed = true,
            }
        }
    }
}
