//! A rolling restart: the present build reads what the previous one sent, and answers so that the previous one can read it.
//! The messages in `previous/` were recorded from real processes of that build.

use contract::bounds::Bounded;
use contract::{
    AllocateRequest, Allocation, BulkDeleteReply, BulkDeleteRequest, Census, DeletionRequest, DeletionView,
    DeletionWork, DeletionsReply, DeletionsRequest, Event, ExtendRequest, FaultBody, KeyRequest, KnownMark,
    OrderReply, OrderRequest, ParkedReply, ParkedRequest, Pause, PauseRequest, RecordRequest, RecordView,
    ReleaseReply, ReleaseRequest, RemoveReply, ReplayAllReply, ReplayAllRequest, ReplayReply, ResumeReply,
    ResumeRequest, RunReport, SandboxRequest, SandboxView, SandboxesReply, SandboxesRequest, StatsReply,
    ThrottleState, TickOrder, Verb, WorkerRole, headers,
};
use harness::rig::Plan;
use harness::servers::nats_client;
use harness::wait::TIMEOUT;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use strum::IntoEnumIterator as _;

/// A moment that no run of this test reaches, in Unix seconds.
const LATER: u64 = 32_503_680_000;

#[derive(serde::Deserialize)]
struct Part {
    headers: BTreeMap<String, String>,
    body: Value,
}

#[derive(serde::Deserialize)]
struct Exchange {
    verb: String,
    request: Part,
    reply: Part,
}

#[derive(serde::Deserialize)]
struct Message {
    subject: String,
    body: Value,
}

// === impl Exchange ===

impl Exchange {
    fn verb(&self) -> Verb {
        Verb::iter().find(|verb| verb.as_str() == self.verb).unwrap()
    }

    fn is_fault(&self) -> bool {
        self.reply.headers.contains_key(headers::SERVICE_ERROR_CODE)
    }
}

fn exchanges() -> Vec<Exchange> {
    serde_json::from_str(include_str!("previous/exchanges.json")).unwrap()
}

/// What the present build writes for the value of type `T` that it reads in `body`.
fn again<T: DeserializeOwned + Serialize>(body: &Value, what: &str) -> Value {
    let read: T =
        serde_json::from_value(body.clone()).unwrap_or_else(|error| panic!("{what}: {error}: {body}"));
    serde_json::to_value(&read).unwrap()
}

/// Whether a reader of `old` finds all of its fields in `new`, with values of the same kinds. A list shows by its first
/// entry what all have; null says only that the field is there.
#[track_caller]
fn assert_readable(old: &Value, new: &Value, at: &str) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            // The keys of these are data.
            let is_map = ["pools", "labs", "violations", "under_way"].iter().any(|map| at.ends_with(map));
            for (name, value) in old.iter().filter(|(name, _)| !is_map || new.contains_key(*name)) {
                let found = new.get(name).unwrap_or_else(|| panic!("{at}: no {name} in {new:?}"));
                assert_readable(value, found, &format!("{at}.{name}"));
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            if let (Some(old), Some(new)) = (old.first(), new.first()) {
                assert_readable(old, new, &format!("{at}[]"));
            }
        }
        (Value::Null, _) | (_, Value::Null) => {}
        (old, new) => {
            let is_same_kind = std::mem::discriminant(old) == std::mem::discriminant(new);
            assert!(is_same_kind, "{at}: {old} became {new}");
        }
    }
}

#[track_caller]
fn assert_same<Q, R>(exchange: &Exchange)
where
    Q: DeserializeOwned + Serialize,
    R: DeserializeOwned + Serialize,
{
    let Exchange { verb, request, reply } = exchange;
    assert_eq!(
        again::<Q>(&request.body, verb),
        request.body,
        "{verb}: the same call is sent in the same way"
    );
    let read = if exchange.is_fault() {
        again::<FaultBody>(&reply.body, verb)
    } else {
        again::<R>(&reply.body, verb)
    };
    assert_readable(&reply.body, &read, verb);
}

#[test]
fn present_types_read_and_write_the_exchanges_of_the_previous_build() {
    let mut seen = BTreeSet::new();
    for exchange in &exchanges() {
        seen.insert(exchange.verb.clone());
        match exchange.verb() {
            Verb::Allocate => assert_same::<Bounded<AllocateRequest>, Allocation>(exchange),
            Verb::Release => assert_same::<Bounded<ReleaseRequest>, ReleaseReply>(exchange),
            Verb::Get => assert_same::<Bounded<SandboxRequest>, SandboxView>(exchange),
            Verb::Extend => assert_same::<Bounded<ExtendRequest>, Allocation>(exchange),
            Verb::Stats => assert_same::<Value, StatsReply>(exchange),
            Verb::Health => panic!("is not sent for a caller"),
            Verb::Deletions => assert_same::<DeletionsRequest, DeletionsReply>(exchange),
            Verb::Parked => assert_same::<ParkedRequest, ParkedReply>(exchange),
            Verb::Deletion => assert_same::<DeletionRequest, DeletionView>(exchange),
            Verb::Replay => assert_same::<KeyRequest, ReplayReply>(exchange),
            Verb::ReplayAll => assert_same::<ReplayAllRequest, ReplayAllReply>(exchange),
            Verb::Remove => assert_same::<KeyRequest, RemoveReply>(exchange),
            Verb::Quarantine | Verb::Unquarantine | Verb::ForceRelease => {
                assert_same::<OrderRequest, OrderReply>(exchange);
            }
            Verb::Sandboxes => assert_same::<SandboxesRequest, SandboxesReply>(exchange),
            Verb::Sandbox => assert_same::<RecordRequest, RecordView>(exchange),
            Verb::BulkDelete => assert_same::<BulkDeleteRequest, BulkDeleteReply>(exchange),
            Verb::Pools
            | Verb::Pool
            | Verb::PutPool
            | Verb::DrainPool
            | Verb::RemovePool
            | Verb::Templates
            | Verb::Template
            | Verb::PutTemplate
            | Verb::RemoveTemplate
            | Verb::TemplateVersions
            | Verb::ReplayProvision
            | Verb::ReplayProvisions
            | Verb::Execute
            | Verb::Claim
            | Verb::Claims
            | Verb::ShowClaim
            | Verb::Runtime
            | Verb::Nodes
            | Verb::Node
            | Verb::DrainNode
            | Verb::ActivateNode
            | Verb::RegisterNode
            | Verb::NodePools
            | Verb::ProvisionWanted
            | Verb::Provisioned
            | Verb::ProvisionFailed
            | Verb::Held => {
                panic!("is unknown to that build")
            }
            Verb::Pause => assert_same::<PauseRequest, Pause>(exchange),
            Verb::Resume => assert_same::<ResumeRequest, ResumeReply>(exchange),
        }
    }
    let unrecorded = [
        Verb::Health,
        Verb::Pools,
        Verb::Pool,
        Verb::PutPool,
        Verb::DrainPool,
        Verb::RemovePool,
        Verb::ReplayProvision,
        Verb::ReplayProvisions,
        Verb::Execute,
        Verb::Claim,
        Verb::Claims,
        Verb::ShowClaim,
        Verb::Runtime,
        Verb::Nodes,
        Verb::Node,
        Verb::DrainNode,
        Verb::ActivateNode,
        Verb::RegisterNode,
        Verb::NodePools,
        Verb::ProvisionWanted,
        Verb::Provisioned,
        Verb::ProvisionFailed,
        Verb::Held,
    ];
    let every = Verb::of(WorkerRole::Allocator)
        .filter(|verb| !unrecorded.contains(verb))
        .map(|verb| verb.as_str().to_owned());
    assert_eq!(seen, every.collect(), "every verb was recorded");
}

#[test]
fn present_types_read_the_messages_of_the_previous_build() {
    let messages: Vec<Message> = serde_json::from_str(include_str!("previous/messages.json")).unwrap();
    assert!(messages.len() > 15);
    for Message { subject, mut body } in messages {
        if subject.ends_with("deletions.pause") {
            // The adapter adds the version of the switch to the pause.
            assert_eq!(body.as_object_mut().unwrap().remove("version"), Some(Value::from(1)));
        }
        let parts: Vec<_> = subject.split('.').collect();
        let read = match parts[..] {
            ["sandbox", "ticks", _] => {
                assert_eq!(body, Value::Null);
                assert_eq!(TickOrder::read(b""), TickOrder::default());
                continue;
            }
            ["sandbox", "reports", kind] => {
                let report: RunReport = serde_json::from_value(body.clone()).unwrap();
                assert_eq!(report.kind().as_str(), kind);
                again::<RunReport>(&body, &subject)
            }
            ["sandbox", "events", ..] => again::<Event>(&body, &subject),
            ["sandbox", "deletions", "work", ..] => again::<DeletionWork>(&body, &subject),
            ["$KV", _, "line", _] => again::<ThrottleState>(&body, &subject),
            ["$KV", _, "deletions", "pause"] => again::<Pause>(&body, &subject),
            ["$KV", _, "table", "mark"] => again::<KnownMark>(&body, &subject),
            ["$KV", _, "census"] => again::<Census>(&body, &subject),
            _ => panic!("{subject} is not known"),
        };
        assert_readable(&body, &read, &subject);
    }
}

#[tokio::test]
async fn present_allocator_answers_the_requests_of_the_previous_ingress() {
    let plan = Plan::new(30).set("POOLS", "dns=lab-0000,main").counts(|counts| counts.reapers = 0);
    let rig = plan.start().await;
    let client = nats_client(&rig.env["NATS_URL"]).await;
    // Which sandbox, and where a page ended, is not the same in every run.
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for Exchange { verb, request, reply } in &exchanges() {
        let mut body = request.body.clone();
        if let Some(until @ Value::Number(_)) = body.get_mut("until") {
            // The recorded moment is over.
            *until = LATER.into();
        }
        let mut body = body.to_string();
        // In two steps, because the new name of one may be the old name of another.
        for (number, then) in renamed.keys().enumerate() {
            body = body.replace(&format!("\"{then}\""), &format!("\"<{number}>\""));
        }
        for (number, now) in renamed.values().enumerate() {
            body = body.replace(&format!("\"<{number}>\""), &format!("\"{now}\""));
        }
        let mut sent = async_nats::HeaderMap::new();
        // Those two say when; with them it would be long over.
        let when = [headers::DEADLINE_MS, headers::SENT_AT_MS];
        for (name, value) in request.headers.iter().filter(|(name, _)| !when.contains(&name.as_str())) {
            sent.insert(name.as_str(), value.as_str());
        }
        let subject = format!("{}.v1.{verb}", rig.bus.subjects().prefix());
        let answer = client.request_with_headers(subject, sent, body.clone().into());
        let answer = tokio::time::timeout(TIMEOUT, answer).await.unwrap().unwrap();
        let found: Value = serde_json::from_slice(&answer.payload).unwrap();
        let found_headers = answer.headers.unwrap();
        for (name, value) in &reply.headers {
            let found_value = found_headers.get(name.as_str()).map(|value| value.as_str());
            assert!(found_value.is_some(), "{verb}: no {name}: {body}: {found}");
            if name == headers::OUTCOME || name == headers::SERVICE_ERROR_CODE {
                assert_eq!(found_value, Some(value.as_str()), "{verb}: {body}: {found}");
            }
        }
        assert_eq!(
            found.get("detail").is_some(),
            reply.body.get("detail").is_some(),
            "{verb}: {body}: {found}"
        );
        assert_eq!(found["detail"]["code"], reply.body["detail"]["code"], "{verb}: {body}");
        assert_readable(&reply.body, &found, verb);
        let mut note = |then: &Value, now: &Value| {
            if let (Some(then), Some(now)) = (then.as_str(), now.as_str()) {
                renamed.insert(then.to_owned(), now.to_owned());
            }
        };
        note(&reply.body["cursor"], &found["cursor"]);
        if verb == Verb::Allocate.as_str() {
            note(&reply.body["sandbox_id"], &found["sandbox_id"]);
        }
        if let (Some(then), Some(now)) = (reply.body["sandboxes"].as_array(), found["sandboxes"].as_array()) {
            then.iter().zip(now).for_each(|(then, now)| note(&then["sandbox_id"], &now["sandbox_id"]));
        }
    }
    rig.stop().await;
}
