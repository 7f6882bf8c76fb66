//! Requests: each goes to one random member of the queue group, or to the runner of a node, and runs independently of its
//! caller, who may time out.

use super::{Broken, Call, Inside, MemoryBus};
use async_trait::async_trait;
use bytes::Bytes;
use contract::{NodeVerb, Verb, WorkerRole};
use domain::NodeId;
use ports::bus::intake::{self, Places};
use ports::bus::{
    Answer, BusError, Context, Handler, NodeRequests, Reply, Request, RequestError, RequestVerb, Requests,
    Serve, ServeNode,
};
use ports::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The members that answer requests.
#[derive(Default)]
pub(super) struct Members {
    last_number: u64,
    workers: Vec<Arc<Member<WorkerRole, Verb>>>,
    runners: Vec<Arc<Member<NodeId, NodeVerb>>>,
}

/// What requests go to: the queue group of a role, or a node.
trait Place: Clone + PartialEq + Send + Sync + 'static {
    /// What names a request to it.
    type Verb: RequestVerb;
    /// Whether its members share the requests. Otherwise each of them gets every request, and the first answer counts.
    const IS_SHARED: bool;

    /// Those who answer there.
    fn members(members: &mut Members) -> &mut Vec<Arc<Member<Self, Self::Verb>>>;
}

/// A worker of the group of its role, or the runner of a node.
struct Member<G, V: RequestVerb> {
    number: u64,
    place: G,
    handler: Arc<dyn Handler<V>>,
    places: Places,
    running: TaskTracker,
    clock: Arc<dyn Clock>,
}

/// Membership at a place, ended by dropping it.
struct Membership<G: Place> {
    bus: MemoryBus,
    member: Arc<Member<G, G::Verb>>,
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
        self.ask(&verb.role(), verb, context, body, timeout).await
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
        self.serve_at(role, handler, in_flight_max, stop).await
    }
}

#[async_trait]
impl NodeRequests for MemoryBus {
    async fn request_node(
        &self,
        node: &NodeId,
        verb: NodeVerb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        self.ask(node, verb, context, body, timeout).await
    }
}

#[async_trait]
impl ServeNode for MemoryBus {
    async fn serve_node(
        &self,
        node: &NodeId,
        handler: Arc<dyn Handler<NodeVerb>>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        self.serve_at(node.clone(), handler, in_flight_max, stop).await
    }
}

// === impl MemoryBus ===

impl MemoryBus {
    /// Sends a request to a member at that place and waits at most `timeout`.
    async fn ask<G: Place>(
        &self,
        place: &G,
        verb: G::Verb,
        context: &Context,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let random = self.shared.random.as_ref();
        let request_id = intake::request_id(Some(&context.request_id), || random.fresh_id());
        let request = Request { verb, context: Context { request_id, ..context.clone() }, body };
        let (sender, mut replies) = mpsc::unbounded_channel();
        let sent = self.try_call(Call::Request, |inside: &mut Inside, _| {
            let members = G::members(&mut inside.members).iter().filter(|member| member.place == *place);
            let mut members: Vec<_> = members.collect();
            if G::IS_SHARED {
                members = members.get(random.below(members.len())).copied().into_iter().collect();
            }
            for member in &members {
                // Started under the lock: a member that leaves removes itself from the list before it waits.
                member.begin(request.clone(), sender.clone());
            }
            (!members.is_empty()).then_some(())
        });
        let is_answered = match sent {
            Ok(Some(())) => true,
            Ok(None) => return Err(RequestError::NoResponders),
            Err(Broken::Disconnected) => return Err(RequestError::Disconnected),
            Err(Broken::Lost) => false,
        };
        let reply = async {
            match replies.recv().await {
                Some(reply) if is_answered => reply,
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

    /// Answers the requests to that place until `stop`; see [`Serve::serve`].
    async fn serve_at<G: Place>(
        &self,
        place: G,
        handler: Arc<dyn Handler<G::Verb>>,
        in_flight_max: usize,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let membership = self.change(|inside, _| {
            inside.members.last_number += 1;
            let member = Arc::new(Member {
                number: inside.members.last_number,
                place,
                handler,
                places: Places::new(in_flight_max),
                running: TaskTracker::new(),
                clock: Arc::clone(&self.shared.clock),
            });
            G::members(&mut inside.members).push(Arc::clone(&member));
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

// === impl Place ===

impl Place for WorkerRole {
    type Verb = Verb;
    const IS_SHARED: bool = true;

    fn members(members: &mut Members) -> &mut Vec<Arc<Member<Self, Verb>>> {
        &mut members.workers
    }
}

impl Place for NodeId {
    type Verb = NodeVerb;
    /// There is no queue group; for a moment two runners of a node may be there.
    const IS_SHARED: bool = false;

    fn members(members: &mut Members) -> &mut Vec<Arc<Member<Self, NodeVerb>>> {
        &mut members.runners
    }
}

// === impl Member ===

impl<G, V: RequestVerb> Member<G, V> {
    /// Starts work on a request, or refuses it, without waiting.
    fn begin(&self, request: Request<V>, sender: mpsc::UnboundedSender<Reply>) {
        let permit = self.places.take(request.verb);
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

impl<G: Place> Drop for Membership<G> {
    fn drop(&mut self) {
        let number = self.member.number;
        self.bus.change(|inside, _| G::members(&mut inside.members).retain(|member| member.number != number));
    }
}
