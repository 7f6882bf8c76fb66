//! The requests: one row for each verb.

use super::faults;
use super::message::{Header, Message};
use super::schemas::Schemas;
use super::{REPLIES, examples, reference};
use contract::bounds::Bounded;
use contract::nodes::{
    ExecutionRequest, ExecutionResult, HeldReply, HeldRequest, Holding, NodePoolsReply, NodePoolsRequest,
    NodeRegistration, ProvisionFailedReply, ProvisionFailedRequest, ProvisionWantedReply,
    ProvisionWantedRequest, ProvisionedRequest, RegisterNodeRequest,
};
use contract::pools::{PoolOrder, PoolRequest, PoolView, PoolsReply, PutPoolRequest};
use contract::templates::{
    PutTemplateRequest, RemoveTemplateRequest, TemplateRequest, TemplateVersionsReply,
    TemplateVersionsRequest, TemplateView, TemplatesReply, TemplatesRequest,
};
use contract::{
    AllocateRequest, Allocation, BulkDeleteReply, BulkDeleteRequest, DeletionRequest, DeletionView,
    DeletionsReply, DeletionsRequest, ExtendRequest, FaultCode, HealthReply, KeyRequest, OrderReply,
    OrderRequest, ParkedReply, ParkedRequest, Pause, PauseRequest, RecordRequest, RecordView, ReleaseReply,
    ReleaseRequest, RemoveReply, ReplayAllReply, ReplayAllRequest, ReplayReply, ResumeReply, ResumeRequest,
    SandboxRequest, SandboxView, SandboxesReply, SandboxesRequest, StatsReply, Subjects, Verb,
};
use serde_json::{Value, json};
use strum::IntoEnumIterator as _;
use utoipa::ToSchema;

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
    /// The runners of nodes.
    Node,
}

/// A request and its reply.
struct Exchange {
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
            .shown(&[examples::PUT_POOL], &[examples::POOL]),
        Verb::DrainPool => operator::<PoolOrder, PoolView>("let a pool grant no more leases")
            .shown(&[examples::POOL_ORDER], &[examples::POOL]),
        Verb::RemovePool => operator::<PoolOrder, PoolView>("remove a pool that is drained")
            .shown(&[examples::POOL_ORDER], &[examples::REMOVED_POOL]),
        Verb::Templates => operator::<TemplatesRequest, TemplatesReply>("list templates, page by page")
            .shown(&[examples::ASK_TEMPLATES], &[examples::TEMPLATES]),
        Verb::Template => operator::<TemplateRequest, TemplateView>("show one of them")
            .shown(&[examples::ASK_TEMPLATE], &[examples::TEMPLATE]),
        Verb::PutTemplate => operator::<PutTemplateRequest, TemplateView>("write a version of a template")
            .shown(&[examples::PUT_TEMPLATE], &[examples::TEMPLATE]),
        Verb::RemoveTemplate => operator::<RemoveTemplateRequest, TemplateView>("remove an unused template")
            .shown(&[examples::REMOVE_TEMPLATE], &[examples::REMOVED_TEMPLATE]),
        Verb::TemplateVersions => operator::<TemplateVersionsRequest, TemplateVersionsReply>(
            "list the versions of a template, page by page",
        )
        .shown(&[examples::ASK_VERSIONS], &[examples::VERSIONS]),
        Verb::Execute => any_caller::<ExecutionRequest, ExecutionResult>(
            "run a command in my container; not to be repeated blindly",
        )
        .shown(&[examples::EXECUTION, examples::EXECUTION_LEAST], &[examples::EXECUTED, examples::TIMED_OUT]),
        Verb::RegisterNode => node::<RegisterNodeRequest, NodeRegistration>("register the runner of a node")
            .shown(&[examples::REGISTER_NODE], &[examples::NODE_REGISTERED]),
        Verb::NodePools => {
            node::<NodePoolsRequest, NodePoolsReply>("which pools get their sandboxes from nodes")
                .shown(&[examples::NODE], &[examples::NODE_POOLS])
        }
        Verb::ProvisionWanted => {
            node::<ProvisionWantedRequest, ProvisionWantedReply>("is a sandbox still to be created")
                .shown(&[examples::ASK_WANTED], &[examples::WANTED, examples::UNWANTED])
        }
        Verb::Provisioned => node::<ProvisionedRequest, Holding>("a container is ready")
            .shown(&[examples::PROVISIONED], &[examples::KEPT]),
        Verb::ProvisionFailed => {
            node::<ProvisionFailedRequest, ProvisionFailedReply>("an attempt to create a sandbox failed")
                .shown(&[examples::PROVISION_FAILED], &[examples::PROVISION_RETRIED])
        }
        Verb::Held => node::<HeldRequest, HeldReply>("what should become of my containers")
            .shown(&[examples::ASK_HELD], &[examples::HOLDINGS]),
        Verb::Pause => operator::<PauseRequest, Pause>("pause all deletions")
            .shown(&[examples::ASK_PAUSE], &[examples::PAUSE]),
        Verb::Resume => operator::<ResumeRequest, ResumeReply>("have them go on")
            .shown(&[examples::ASK_RESUME], &[examples::RESUMED]),
    }
}

fn any_caller<Q: ToSchema, R: ToSchema>(summary: &'static str) -> Exchange {
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

fn operator<Q: ToSchema, R: ToSchema>(summary: &'static str) -> Exchange {
    Exchange { asker: Asker::Operator, ..any_caller::<Q, R>(summary) }
}

fn node<Q: ToSchema, R: ToSchema>(summary: &'static str) -> Exchange {
    Exchange { asker: Asker::Node, request: Message::of::<Q>, ..any_caller::<Q, R>(summary) }
}

fn order(summary: &'static str) -> Exchange {
    operator::<OrderRequest, OrderReply>(summary).shown(&[examples::ORDER], &[examples::ORDERED])
}

// === impl Exchange ===

impl Exchange {
    const fn shown(mut self, asks: &'static [&'static str], answers: &'static [&'static str]) -> Self {
        self.asks = asks;
        self.answers = answers;
        self
    }
}

/// The name of a verb in the names of its messages: `ReplayAll` for `replay-all`.
fn title(verb: Verb) -> String {
    let words = verb.as_str().split('-').map(|word| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        format!("{}{rest}", first.to_ascii_uppercase())
    });
    words.collect()
}

fn request_name(verb: Verb) -> String {
    format!("{}Request", title(verb))
}

/// The name of the message that answers a verb.
pub(super) fn reply_name(verb: Verb) -> String {
    format!("{}Reply", title(verb))
}

/// The request and the reply of a verb.
///
/// # Errors
/// When a schema or an example is no JSON.
pub(super) fn messages(verb: Verb, schemas: &mut Schemas) -> anyhow::Result<[Message; 2]> {
    let Exchange { summary, request, asks, reply, answers, .. } = exchange(verb);
    let asked = [
        Header::RequestId,
        Header::RemainingMs,
        Header::SentAtMs,
        Header::DeadlineMs,
        Header::Traceparent,
        Header::Principal,
        Header::Scope,
    ];
    let (of_claim, of_lease): (&[_], &[_]) = match verb {
        Verb::Allocate => {
            (&[Header::IdempotencyKey, Header::RequestKey, Header::Attempt], &[Header::Outcome])
        }
        _ => (&[], &[]),
    };
    let asked = [&asked[..], of_claim].concat();
    let request = request(request_name(verb), format!("{summary}: the request"), asks, schemas)?;
    let reply = reply(reply_name(verb), format!("{summary}: the answer"), answers, schemas)?;
    Ok([request.with_headers(&asked, &[]), reply.with_headers(&[Header::RequestId], of_lease)])
}

/// The subject of a verb.
pub(super) fn channel(verb: Verb, subjects: &Subjects) -> Value {
    let name = request_name(verb);
    json!({
        "address": subjects.request(verb),
        "title": title(verb),
        "summary": exchange(verb).summary,
        "messages": { name.as_str(): reference(&name) },
    })
}

/// The request of a verb, with all that may come back.
pub(super) fn operation(verb: Verb) -> Value {
    let Exchange { summary, asker, .. } = exchange(verb);
    let failures = FaultCode::iter().filter(|code| verb.may_end_in(*code));
    let replies = std::iter::once(reply_name(verb)).chain(failures.map(faults::name));
    let replies: Vec<_> = replies.map(|name| at(REPLIES, &name)).collect();
    let tag = match asker {
        Asker::AnyCaller => "lab",
        Asker::Operator => "operator",
        Asker::Node => "node",
    };
    json!({
        "action": "receive",
        "title": title(verb),
        "summary": summary,
        "channel": { "$ref": format!("#/channels/{}", verb.as_str()) },
        "messages": [at(verb.as_str(), &request_name(verb))],
        "tags": [{ "name": tag }],
        "bindings": { "nats": { "queue": verb.role().service(), "bindingVersion": "0.1.0" } },
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
