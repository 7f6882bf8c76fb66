//! Input handling that all buses share: checks of requests before the handler, and parsing of work before the worker.

use super::{Answer, Dropped, Handler, Request, RequestVerb, Work};
use crate::clock::Clock;
use contract::limits::{REQUEST_BYTES_MAX, REQUEST_ID_BYTES_MAX};
use contract::{DeletionWork, Fault, FaultCode};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The caller's request id if it is valid in headers and logs; otherwise a new one.
pub fn request_id(given: Option<&str>, fresh: impl FnOnce() -> String) -> String {
    let is_sane = |id: &&str| {
        !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(is_sane).map_or_else(fresh, ToOwned::to_owned)
}

/// The places of requests in progress. Long ones have places of their own, so that they hold up no others.
#[derive(Clone, Debug)]
pub struct Places {
    usual: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl Places {
    /// So many places of each kind.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { usual: Arc::new(Semaphore::new(max)), long: Arc::new(Semaphore::new(max)) }
    }

    /// A place for such a request; none if all are taken.
    pub fn take<V: RequestVerb>(&self, verb: V) -> Option<OwnedSemaphorePermit> {
        let places = if verb.is_long() { &self.long } else { &self.usual };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// The answer to a request; none if its caller has stopped waiting. Without a `permit` the worker is busy. The permit
/// is held until the handler has finished.
pub async fn answer<P: Send, V: RequestVerb>(
    clock: &dyn Clock,
    handler: &dyn Handler<V>,
    request: Request<V>,
    permit: Option<P>,
) -> Option<Answer> {
    let Some(_permit) = permit else {
        return Some(refuse(FaultCode::NoWorkers, "every worker is busy; try again"));
    };
    if request.body.len() > REQUEST_BYTES_MAX {
        return Some(refuse(FaultCode::BodyTooLarge, "the request body is larger than 64 KiB"));
    }
    let verb = request.verb;
    if request.context.is_over(clock) {
        handler.dropped(verb, &request.context.request_id, Dropped::Expired);
        return None;
    }
    let Some(deadline_ms) = request.context.deadline_ms else { return Some(handler.handle(request).await) };
    tokio::select! {
        biased;
        answer = handler.handle(request) => Some(answer),
        () = clock.sleep_until(deadline_ms) => {
            let fault = verb.unseen_end(FaultCode::Timeout, "the deadline passed; repeat with the same key");
            Some(Answer { outcome: None, body: Err(fault) })
        }
    }
}

/// An answer that refuses with `code`.
pub fn refuse(code: FaultCode, message: &str) -> Answer {
    Answer { outcome: None, body: Err(Fault::new(code, message)) }
}

/// The work in a message, or the reason why no worker can do it.
pub fn work<W: Work>(payload: &[u8]) -> Result<W, String> {
    let kind = W::NAME;
    let work = W::parse(payload).map_err(|error| format!("no {kind} work: {error}"))?;
    if work.version() != W::VERSION {
        return Err(format!("{kind} work of version {} cannot be read by this build", work.version()));
    }
    work.check().map_err(|problem| format!("no {kind} work: {problem}"))?;
    Ok(work)
}

/// The deletion work in a message, or the reason why no worker can do it.
pub fn deletion_work(payload: &[u8]) -> Result<DeletionWork, String> {
    work(payload)
}

/// Makes a text valid as a header value, which has one line.
pub fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_request_id_is_kept_and_others_are_replaced() {
        let longest = "x".repeat(REQUEST_ID_BYTES_MAX);
        for good in ["r-1", &longest] {
            assert_eq!(request_id(Some(good), || "fresh".to_owned()), good);
        }
        for bad in [None, Some(""), Some("a b"), Some("a\nb"), Some("ä"), Some(&*format!("{longest}x"))] {
            assert_eq!(request_id(bad, || "fresh".to_owned()), "fresh", "{bad:?}");
        }
    }

    #[test]
    fn invalid_work_is_rejected_with_its_reason() {
        let work = |version: u32, id: &str| {
            format!(
                r#"{{"version":{version},"sandbox_id":"{id}","pool":"main","epoch":1,"requested_at":1,"new":2}}"#
            )
        };
        assert_eq!(deletion_work(work(1, "7").as_bytes()).unwrap().sandbox_id, "7");
        for (payload, reason) in [
            ("nothing".to_owned(), "no deletion work"),
            (work(2, "7"), "version 2"),
            (work(1, "a.b"), "sandbox"),
        ] {
            let problem = deletion_work(payload.as_bytes()).unwrap_err();
            assert!(problem.contains(reason), "{problem}");
        }
    }
}
