//! Where what arrives goes to.

use super::{ClientError, JobEvent};
use crate::{Decoder, Frame, JobId, Message, Refusal, Response};
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{mpsc, oneshot, watch};

/// What is read at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// The number in a response that belongs to no call.
const NO_CALL: u64 = 0;

/// How much of its standard input a job took.
#[derive(Debug, Clone, Copy)]
pub(super) struct StdinState {
    pub(super) written: u64,
    pub(super) is_open: bool,
}

/// To an attached job.
pub(super) struct Route {
    pub(super) events: mpsc::Sender<JobEvent>,
    pub(super) stdin: watch::Sender<StdinState>,
}

/// A call without a response yet.
pub(super) struct PendingCall {
    pub(super) respond: oneshot::Sender<Response>,
    pub(super) route: Option<(JobId, Route)>,
}

/// All routes of a connection.
pub(super) struct Routes {
    state: Mutex<State>,
}

enum State {
    Open(Open),
    /// With the reason that the supervisor gave.
    Closed(Option<Refusal>),
}

#[derive(Default)]
struct Open {
    calls: HashMap<u64, PendingCall>,
    jobs: HashMap<JobId, Route>,
}

/// Receives until the stream ends or what it carries cannot be read.
pub(super) async fn receive(mut reader: impl AsyncRead + Unpin, routes: std::sync::Arc<Routes>) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        decoder.feed(buffer.get(..count).unwrap_or_default());
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => routes.deliver(frame),
                Ok(None) => break,
                Err(_) => return routes.close(None),
            }
        }
    }
    routes.close(None);
}

impl Default for Routes {
    fn default() -> Self {
        Self { state: Mutex::new(State::Open(Open::default())) }
    }
}

impl Routes {
    /// Delivers the response to this call when it arrives, or nothing if the connection is closed before.
    pub(super) fn expect(&self, seq: u64, call: PendingCall) -> Result<(), ClientError> {
        match &mut *self.state.lock() {
            State::Open(open) => drop(open.calls.insert(seq, call)),
            State::Closed(None) => return Err(ClientError::Closed),
            State::Closed(Some(refusal)) => return Err(refusal.clone().into()),
        }
        Ok(())
    }

    fn close(&self, reason: Option<Refusal>) {
        let mut state = self.state.lock();
        if let State::Open(open) = &mut *state {
            if let Some(refusal) = &reason {
                let seqs: Vec<u64> = open.calls.keys().copied().collect();
                seqs.into_iter().for_each(|seq| open.respond(seq, Response::Refused(refusal.clone())));
            }
            *state = State::Closed(reason);
        }
    }

    fn deliver(&self, frame: Frame<Message>) {
        if let Frame::Message(Message::Response { seq: NO_CALL, response: Response::Refused(refusal) }) =
            frame
        {
            return self.close(Some(refusal));
        }
        let mut state = self.state.lock();
        let State::Open(open) = &mut *state else { return };
        match frame {
            Frame::Message(Message::Response { seq, response }) => open.respond(seq, response),
            Frame::Message(Message::Stdin { id, written, is_open }) => {
                if let Some(route) = open.jobs.get(&id) {
                    route.stdin.send_replace(StdinState { written, is_open });
                }
            }
            Frame::Message(Message::Ended(ended)) => {
                if let Some(route) = open.jobs.remove(&ended.id) {
                    let _ = route.events.try_send(JobEvent::Ended(ended));
                }
            }
            Frame::Chunk(chunk) => {
                let id = chunk.id.clone();
                let route = open.jobs.get(&id);
                // Full: the supervisor sent more than it was allowed. Closed: its reader has left.
                if route.is_some_and(|route| route.events.try_send(JobEvent::Output(chunk)).is_err()) {
                    open.jobs.remove(&id);
                }
            }
        }
    }
}

impl Open {
    fn respond(&mut self, seq: u64, response: Response) {
        let Some(call) = self.calls.remove(&seq) else { return };
        if let (Some((id, route)), Response::Done | Response::Attached(_)) = (call.route, &response) {
            self.jobs.insert(id, route);
        }
        let _ = call.respond.send(response);
    }
}
