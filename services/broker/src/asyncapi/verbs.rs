//! The requests: one row for each verb of the workers, and what all requests have in common.

use super::faults;
use super::message::{Header, Message};
use super::schemas::Schemas;
use super::{REPLIES, claims, examples, nodes, provisions, reference, templates};
use contract::bounds::Bounded;
use contract::pools::{PoolOrder, PoolRequest, PoolView, PoolsReply, PutPoolRequest};
use contract::{
    AllocateRequest, Allocation, BulkDeleteReply, BulkDeleteRequest, DeletionRequest, DeletionView,
    DeletionsReply, DeletionsRequest, ExtendRequest, FaultCode, HealthReply, KeyRequest, NodeVerb,
    OrderReply, OrderRequest, ParkedReply, ParkedRequest, Pause, PauseRequest, RecordRequest, RecordView,
    ReleaseReply, ReleaseRequest, RemoveReply, ReplayAllReply, ReplayAllRequest, ReplayReply, ResumeReply,
    ResumeRequest, SandboxRequest, SandboxView, SandboxesReply, SandboxesRequest, StatsReply, Subjects, Verb,
};
use serde_json::{Value, json};
use strum::IntoEnumIterator as _;
use utoipa::ToSchema;

/// Version of the NATS binding of AsyncAPI.
const BINDING: &str = "0.1.0";
/// The header in which AsyncAPI looks for NATS's own reply field.
const REPLY_TO: &str = "$message.header#/reply-to";

/// Asks for nothing in particular; the body may be empty as well.
#[derive(ToSchema)]
struct Nothing {}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// Any service of the account.
    AnyCaller,
    /// People and their tools.
    Operator,
    /// The runners of nodes, or others that ask them.
    Node,
}

/// What is asked: a request to the workers of a role, or to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Worker(Verb),
    Node(NodeVerb),
}

/// A request and its reply.
pub(super) struct Exchange {
    summary: &'static str,
    asker: Asker,
    request: Maker,
    asks: &'static [&'static str],
    reply: Maker,
    answers: &'static [&'static str],
}

/// Makes a message: its name, its summary, its examples, and where its schemas go.
type Maker = fn(String, String, &[&str], &mut Schemas) -> anyhow::Result<Message>;

/// The row of a verb. Its summary is the one in `nats/README.md`.
#[expect(clippy::too_many_lines, reason = "one row for each verb")]
fn exchange(verb: Verb) -> Exchange {
    match verb {
        Verb::Allocate => any_caller::<AllocateRequest, Allocation>("claim a sandbox")
            .shown(&[examples::ALLOCATE_FULL, examples::ALLOCATE_LEAST], &[examples::ALLOCATION]),
        Verb::Release => any_caller::<ReleaseRequest, ReleaseReply>("give it back")
            .shown(&[examples::RELEASE_FULL, examples::OWN_SANDBOX], &[examples::RELEASED]),
        Verb::Get => any_caller::<SandboxRequest, SandboxView>("show me my sandbox")
            .shown(&[examples::OWN_SANDBOX, examples::OWN_SANDBOX_BY], &[examples::HELD, examples::BARE]),
        Verb::Stats => any_caller::<Nothing, StatsReply>("count the pools")
            .shown(&[examples::NOTHING], &[examples::COUNTS]),
        Verb::Health => any_caller::<Nothing, HealthReply>("can you work")
            .shown(&[examples::NOTHING], &[examples::HEALTHY]),
        Verb::Deletions => operator::<DeletionsRequest, DeletionsReply>("show the deletion queue")
            .shown(&[examples::ASK_DELETIONS], &[examples::DELETIONS]),
        Verb::Parked => operator::<ParkedRequest, ParkedReply>("which deletions were given up")
            .shown(&[examples::ASK_PARKED], &[examples::ALL_PARKED]),
        Verb::Deletion => operator::<DeletionRequest, DeletionView>("show the end of one sandbox")
            .shown(&[examples::ONE_SANDBOX], &[examples::DELETION]),
        Verb::Replay => operator::<KeyRequest, ReplayReply>("try a parked deletion again")
            .shown(&[examples::KEY], &[examples::REPLAYED]),
        Verb::ReplayAll => operator::<ReplayAllRequest, ReplayAllReply>(
            "try all of them again, a page at a time; not to be repeated blindly",
        )
        .shown(&[examples::REPLAY_ALL], &[examples::REPLAYED_ALL]),
        Verb::Remove => {
            operator::<KeyRequest, RemoveReply>("remove a parked message that no worker can read")
                .shown(&[examples::KEY], &[examples::REMOVED])
        }
        Verb::ReplayProvision => provisions::replay(),
        Verb::ReplayProvisions => provisions::replay_all(),
        Verb::Extend => any_caller::<ExtendRequest, Allocation>("more time for my lease")
            .shown(&[examples::EXTEND], &[examples::ALLOCATION]),
        Verb::Quarantine => order("take a sandbox out of use"),
        Verb::Unquarantine => order("end its quarantine, and have it deleted if it was held"),
        Verb::ForceRelease => order("end its lease or quarantine and have it deleted"),
        Verb::Sandboxes => operator::<SandboxesRequest, SandboxesReply>("list sandboxes, page by page")
            .shown(&[examples::ASK_SANDBOXES], &[examples::SANDBOXES]),
        Verb::Sandbox => operator::<RecordRequest, RecordView>("show everything about one")
            .shown(&[examples::ONE_SANDBOX], &[examples::RECORD]),
        Verb::BulkDelete => operator::<BulkDeleteRequest, BulkDeleteReply>(
            "remove records that leave nothing behind, a page at a time; not to be repeated blindly",
        )
        .shown(&[examples::ASK_BULK_DELETE], &[examples::BULK_DELETED]),
        Verb::Pools => {
            operator::<Nothing, PoolsReply>("show all pools").shown(&[examples::NOTHING], &[examples::POOLS])
        }
        Verb::Pool => operator::<PoolRequest, PoolView>("show one of them")
            .shown(&[examples::ASK_POOL], &[examples::POOL]),
        Verb::PutPool => operator::<PutPoolRequest, PoolView>("create a pool, or replace its settings")
            .shown(&[examples::PUT_POOL, examples::PUT_POOL_OF_CONTAINERS], &[examples::POOL]),
        Verb::DrainPool => operator::<PoolOrder, PoolView>("let a pool grant no more leases")
            .shown(&[examples::POOL_ORDER], &[examples::POOL]),
        Verb::RemovePool => operator::<PoolOrder, PoolView>("remove a pool that is drained")
            .shown(&[examples::POOL_ORDER], &[examples::REMOVED_POOL]),
        Verb::Templates => templates::list(),
        Verb::Template => templates::show(),
        Verb::PutTemplate => templates::put(),
        Verb::RemoveTemplate => templates::remove(),
        Verb::TemplateVersions => templates::versions(),
        Verb::Execute => nodes::execution(),
        Verb::Claim => claims::claim(),
        Verb::Claims => claims::list(),
        Verb::ShowClaim => claims::show(),
        Verb::Runtime => claims::runtime(),
        Verb::Nodes => nodes::list(),
        Verb::Node => nodes::show(),
        Verb::DrainNode => nodes::drain(),
        Verb::ActivateNode => nodes::activate(),
        Verb::RegisterNode => nodes::register(),
        Verb::NodePools => nodes::pools(),
        Verb::ProvisionWanted => nodes::wanted(),
        Verb::Provisioned => nodes::provisioned(),
        Verb::ProvisionFailed => nodes::failed(),
        Verb::Held => nodes::held(),
        Verb::Pause => operator::<PauseRequest, Pause>("pause all deletions")
            .shown(&[examples::ASK_PAUSE], &[examples::PAUSE]),
        Verb::Resume => operator::<ResumeRequest, ResumeReply>("have them go on")
            .shown(&[examples::ASK_RESUME], &[examples::RESUMED]),
    }
}

pub(super) fn any_caller<Q: ToSchema, R: ToSchema>(summary: &'static str) -> Exchange {
    Exchange {
        summary,
        asker: Asker::AnyCaller,
        request: bounded::<Q>,
        asks: &[],
        reply: Message::of::<R>,
        answers: &[],
    }
}

/// A request, and the pools that it is held to. The wrapper does not name the schema of what it wraps.
fn bounded<Q: ToSchema>(
    name: String,
    summary: String,
    examples: &[&str],
    schemas: &mut Schemas,
) -> anyhow::Result<Message> {
    schemas.take::<Q>()?;
    Message::of::<Bounded<Q>>(name, summary, examples, schemas)
}

pub(super) fn operator<Q: ToSchema, R: ToSchema>(summary: &'static str) -> Exchange {
    Exchange { asker: Asker::Operator, ..any_caller::<Q, R>(summary) }
}

pub(super) fn node<Q: ToSchema, R: ToSchema>(summary: &'static str) -> Exchange {
    Exchange { asker: Asker::Node, request: Message::of::<Q>, ..any_caller::<Q, R>(summary) }
}

fn order(summary: &'static str) -> Exchange {
    operator::<OrderRequest, OrderReply>(summary).shown(&[examples::ORDER], &[examples::ORDERED])
}

// === impl Asked ===

impl Asked {
    /// Every request.
    pub(super) fn every() -> impl Iterator<Item = Self> {
        Verb::iter().map(Self::Worker).chain(NodeVerb::iter().map(Self::Node))
    }

    /// The name of its channel and its operation.
    pub(super) fn key(self) -> String {
        match self {
            Self::Worker(verb) => verb.as_str().to_owned(),
            Self::Node(verb) => format!("node-{}", verb.as_str()),
        }
    }

    fn exchange(self) -> Exchange {
        match self {
            Self::Worker(verb) => exchange(verb),
            Self::Node(verb) => nodes::exchange(verb),
        }
    }

    fn may_end_in(self, code: FaultCode) -> bool {
        match self {
            Self::Worker(verb) => verb.may_end_in(code),
            Self::Node(verb) => verb.may_end_in(code),
        }
    }

    /// How its receivers subscribe.
    fn binding(self) -> Value {
        match self {
            Self::Worker(verb) => json!({ "queue": verb.role().service(), "bindingVersion": BINDING }),
            Self::Node(_) => json!({ "bindingVersion": BINDING }),
        }
    }
}

// === impl Exchange ===

impl Exchange {
    pub(super) const fn shown(
        mut self,
        asks: &'static [&'static str],
        answers: &'static [&'static str],
    ) -> Self {
        self.asks = asks;
        self.answers = answers;
        self
    }
}

/// The name of a request in the names of its messages: `ReplayAll` for `replay-all`.
fn title(asked: Asked) -> String {
    let key = asked.key();
    let words = key.split('-').map(|word| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        format!("{}{rest}", first.to_ascii_uppercase())
    });
    words.collect()
}

fn request_name(asked: Asked) -> String {
    format!("{}Request", title(asked))
}

/// The name of the message that answers a request.
pub(super) fn reply_name(asked: Asked) -> String {
    format!("{}Reply", title(asked))
}

/// The request and its reply.
///
/// # Errors
/// When a schema or an example is no JSON.
pub(super) fn messages(asked: Asked, schemas: &mut Schemas) -> anyhow::Result<[Message; 2]> {
    let Exchange { summary, request, asks, reply, answers, .. } = asked.exchange();
    let of_any = [
        Header::RequestId,
        Header::RemainingMs,
        Header::SentAtMs,
        Header::DeadlineMs,
        Header::Traceparent,
        Header::Principal,
        Header::Scope,
    ];
    let (of_claim, of_lease): (&[_], &[_]) = match asked {
        Asked::Worker(Verb::Allocate) => {
            (&[Header::IdempotencyKey, Header::RequestKey, Header::Attempt], &[Header::Outcome])
        }
        _ => (&[], &[]),
    };
    let of_request = [&of_any[..], of_claim].concat();
    let request = request(request_name(asked), format!("{summary}: the request"), asks, schemas)?;
    let reply = reply(reply_name(asked), format!("{summary}: the answer"), answers, schemas)?;
    Ok([request.with_headers(&of_request, &[]), reply.with_headers(&[Header::RequestId], of_lease)])
}

/// The subject of a request.
pub(super) fn channel(asked: Asked, subjects: &Subjects) -> Value {
    let name = request_name(asked);
    let mut channel = json!({
        "title": title(asked),
        "summary": asked.exchange().summary,
        "messages": { name.as_str(): reference(&name) },
    });
    let (address, parameters) = match asked {
        Asked::Worker(verb) => (subjects.request(verb), None),
        Asked::Node(verb) => (nodes::address(verb, subjects), Some(nodes::parameters())),
    };
    if let Some(fields) = channel.as_object_mut() {
        fields.insert("address".to_owned(), address.into());
        fields.extend(parameters.map(|parameters| ("parameters".to_owned(), parameters)));
    }
    channel
}

/// A request, with all that may come back.
pub(super) fn operation(asked: Asked) -> Value {
    let Exchange { summary, asker, .. } = asked.exchange();
    let failures = FaultCode::iter().filter(|code| asked.may_end_in(*code));
    let replies = std::iter::once(reply_name(asked)).chain(failures.map(faults::name));
    let replies: Vec<_> = replies.map(|name| at(REPLIES, &name)).collect();
    let tag = match asker {
        Asker::AnyCaller => "lab",
        Asker::Operator => "operator",
        Asker::Node => "node",
    };
    json!({
        "action": "receive",
        "title": title(asked),
        "summary": summary,
        "channel": { "$ref": format!("#/channels/{}", asked.key()) },
        "messages": [at(&asked.key(), &request_name(asked))],
        "tags": [{ "name": tag }],
        "bindings": { "nats": asked.binding() },
        "reply": {
            "address": {
                "location": REPLY_TO,
                "description": "The reply field of the NATS message, which every client library sets on a request.",
            },
            "channel": { "$ref": format!("#/channels/{REPLIES}") },
            "messages": replies,
        },
    })
}

/// A reference to a message of a channel.
pub(super) fn at(channel: &str, message: &str) -> Value {
    json!({ "$ref": format!("#/channels/{channel}/messages/{message}") })
}
