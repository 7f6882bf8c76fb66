//! Requests: each goes to one random member of the queue group and runs independently of its caller, who may time out.

use super::{Broken, Call, Inside, MemoryBus};
use async_trait::async_trait;
use bytes::Bytes;
use contract::{Verb, WorkerRole};
use ports::bus::intake;
use ports::bus::{Answer, BusError, Context, Handler, Reply, Request, RequestError, Requests, Serve};
use ports::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The queue groups.
#[derive(Default)]
pub(super) struct Members {
    last_number: u64,
    members: Vec<Arc<Member>>,
}

/// A worker of the group of its role.
struct Member {
    number: u64,
    role: WorkerRole,
    handler: Arc<dyn Handler>,
    permits: Arc<Semaphore>,
    running: TaskTracker,
    clock: Arc<dyn Clock>,
}

/// Membership in the group, ended by dropping it.
struct Membership {
    bus: MemoryBus,
    member: Arc<Member>,
}

#[async_trait]
impl Requests for MemoryBus {
    async fn request(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let random = self.shared.random.as_ref();
        let request_id = intake::request_id(Some(&context.request_id), || random.fresh_id());
        let request = Request { verb, context: Context { request_id, ..context.clone() }, body };
        let (sender, receiver) = oneshot::channel();
        let sent = self.try_call(Call::Request, |inside: &mut Inside, _| {
            let members = inside.members.members.iter().filter(|member| member.role == verb.role());
            let members: Vec<_> = members.collect();
            let member = members.get(random.below(members.len()))?;
            // Started under the lock: a member that leaves removes itself from the list before it waits.
            member.begin(request, sender);
            Some(())
        });
        let is_answered = match sent {
            Ok(Some(())) => true,
            Ok(None) => return Err(RequestError::NoResponders),
            Err(Broken::Disconnected) => return Err(RequestError::Disconnected),
            Err(Broken::Lost) => false,
        };
        let reply = async {
            match receiver.await {
                Ok(reply) if is_answered => reply,
                // No worker answers any more; the caller does not know that.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reply = reply => Ok(reply),
            () = self.shared.clock.sleep(timeout) => {
                Err(if self.is_connected() { RequestError::TimedOut } else { RequestError::Disconnected })
            }
        }
    }

    fn is_connected(&self) -> bool {
        self.look(|inside, _| inside.is_connected)
    }
}

#[async_trait]
impl Serve for MemoryBus {
    async fn serve(
        &self,
        role: WorkerRole,
        handler: Arc<dyn Handler>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let membership = self.change(|inside, _| {
            inside.members.last_number += 1;
            let member = Arc::new(Member {
                number: inside.members.last_number,
                role,
                handler,
                permits: Arc::new(Semaphore::new(in_flight_max)),
                running: TaskTracker::new(),
                clock: Arc::clone(&self.shared.clock),
            });
            inside.members.members.push(Arc::clone(&member));
            Membership { bus: self.clone(), member }
        });
        stop.cancelled().await;
        let member = Arc::clone(&membership.member);
        drop(membership);
        member.running.close();
        member.running.wait().await;
        Ok(())
    }
}

// === impl Member ===

impl Member {
    /// Starts work on a request, or refuses it, without waiting.
    fn begin(&self, request: Request, sender: oneshot::Sender<Reply>) {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        let (handler, clock) = (Arc::clone(&self.handler), Arc::clone(&self.clock));
        let request_id = request.context.request_id.clone();
        self.running.spawn(async move {
            let answer = intake::answer(clock.as_ref(), handler.as_ref(), request, permit).await;
            if let Some(answer) = answer {
                // The caller may have timed out.
                let _ = sender.send(reply(answer, &request_id));
            }
        });
    }
}

fn reply(answer: Answer, request_id: &str) -> Reply {
    let Answer { outcome, body } = answer;
    let is_fault = body.is_err();
    let body =
        body.unwrap_or_else(|fault| serde_json::to_vec(&fault.body(request_id)).unwrap_or_default().into());
    Reply { outcome, is_fault, body }
}

// === impl Membership ===

impl Drop for Membership {
    fn drop(&mut self) {
        let number = self.member.number;
        self.bus.change(|inside, _| inside.members.members.retain(|member| member.number != number));
    }
}
