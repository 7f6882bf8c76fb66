//! Discovery: the answers of a running fleet to `nats micro`, and the fields that ADR-32 requires.

use async_nats::service::{Info, PingResponse, Stats};
use contract::subjects::{ALLOCATOR_SERVICE, REGISTRY_SERVICE};
use contract::{FaultCode, Verb, WorkerRole};
use futures_util::StreamExt as _;
use harness::rig::{Plan, Rig};
use harness::servers::nats_client;
use harness::wait::TIMEOUT;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::timeout;

/// Sends a request to a subject and collects that number of answers from this fleet's allocators.
async fn ask(rig: &Rig, subject: &str, answers: usize) -> Vec<Value> {
    ask_of(rig, subject, &|name| name == ALLOCATOR_SERVICE, answers).await
}

/// As [`ask`], of the services whose names are in `wanted`, because one server serves the fleets of many tests.
async fn ask_of(
    rig: &Rig,
    subject: &str,
    wanted: &(dyn Fn(&str) -> bool + Sync),
    answers: usize,
) -> Vec<Value> {
    let client = nats_client(&rig.env["NATS_URL"]).await;
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply(subject.to_owned(), inbox, "".into()).await.unwrap();
    let mut found: Vec<Value> = Vec::new();
    while found.len() < answers {
        let reply = timeout(TIMEOUT, replies.next()).await;
        let reply = reply.unwrap_or_else(|_| panic!("{subject}: only {found:?}")).unwrap();
        assert_ne!(reply.status, Some(async_nats::StatusCode::NO_RESPONDERS), "{subject}: no worker answers");
        let answer: Value = serde_json::from_slice(&reply.payload).unwrap();
        let is_ours = answer["metadata"]["prefix"] == rig.bus.subjects().prefix();
        if is_ours && wanted(answer["name"].as_str().unwrap()) {
            found.push(answer);
        }
    }
    found
}

fn ids(answers: &[Value]) -> BTreeSet<String> {
    answers.iter().map(|answer| answer["id"].as_str().unwrap().to_owned()).collect()
}

/// Every answer has the fields of ADR-32, the expected further fields, and no others.
fn assert_common(answer: &Value, question: &str, further: &[&str]) {
    assert_eq!(answer["type"], format!("io.nats.micro.v1.{question}_response"));
    assert!(WorkerRole::of_service(answer["name"].as_str().unwrap()).is_some(), "{answer}");
    let version: Vec<_> = answer["version"].as_str().unwrap().split('.').collect();
    assert!(version.len() == 3 && version.iter().all(|part| part.parse::<u32>().is_ok()), "{version:?}");
    assert!(answer["metadata"].as_object().unwrap().values().all(Value::is_string), "{answer}");
    let keys: BTreeSet<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["type", "name", "id", "version", "metadata"].into_iter().chain(further.iter().copied());
    assert_eq!(keys, expected.collect());
}

#[tokio::test]
async fn both_allocators_answer_on_every_subject_of_discovery() {
    let rig = Plan::new(3).start().await;
    let workers = ids(&ask(&rig, "$SRV.PING", 2).await);
    assert_eq!(workers.len(), 2, "each allocator has an id of its own");
    for question in ["PING", "INFO", "STATS"] {
        for subject in [format!("$SRV.{question}"), format!("$SRV.{question}.{ALLOCATOR_SERVICE}")] {
            assert_eq!(ids(&ask(&rig, &subject, 2).await), workers, "{subject}");
        }
        for id in &workers {
            let subject = format!("$SRV.{question}.{ALLOCATOR_SERVICE}.{id}");
            assert_eq!(ids(&ask(&rig, &subject, 1).await), BTreeSet::from([id.clone()]), "{subject}");
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn replies_follow_the_nats_service_api() {
    let rig = Plan::new(3).start().await;
    rig.ask(Verb::Get, json!({"sandbox_id": "1", "owner": "stranger"})).await.unwrap();
    for answer in ask(&rig, "$SRV.PING", 2).await {
        assert_common(&answer, "ping", &[]);
        serde_json::from_value::<PingResponse>(answer).unwrap();
    }
    for answer in ask(&rig, "$SRV.INFO", 2).await {
        assert_common(&answer, "info", &["description", "endpoints"]);
        for endpoint in answer["endpoints"].as_array().unwrap() {
            let keys: Vec<_> = endpoint.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["metadata", "name", "queue_group", "subject"]);
            assert!(endpoint["metadata"].is_object());
        }
        let info: Info = serde_json::from_value(answer).unwrap();
        let served: BTreeSet<_> =
            info.endpoints.into_iter().map(|one| (one.name, one.subject, one.queue_group)).collect();
        let subjects = rig.bus.subjects();
        let group = ALLOCATOR_SERVICE;
        let verbs = Verb::of(WorkerRole::Allocator)
            .map(|verb| (verb.as_str().to_owned(), subjects.request(verb), group.to_owned()));
        assert_eq!(served, verbs.collect());
    }
    for answer in ask(&rig, "$SRV.STATS", 2).await {
        assert_common(&answer, "stats", &["started", "endpoints"]);
        assert!(answer["started"].as_str().unwrap().ends_with('Z'), "in UTC: {answer}");
        for endpoint in answer["endpoints"].as_array().unwrap() {
            let keys: BTreeSet<_> = endpoint.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(
                keys,
                [
                    "average_processing_time",
                    "data",
                    "last_error",
                    "name",
                    "num_errors",
                    "num_requests",
                    "processing_time",
                    "queue_group",
                    "subject",
                ]
                .into()
            );
        }
        serde_json::from_value::<Stats>(answer).unwrap();
    }
    rig.stop().await;
}

#[tokio::test]
async fn each_allocator_counts_the_requests_that_it_answered() {
    let rig = Plan::new(3).start().await;
    for number in 0..30 {
        // All from one owner: the first request makes the lease, the others return it.
        let reply = rig.ask(Verb::Allocate, json!({"owner": "student-1"})).await.unwrap();
        assert!(!reply.is_fault, "claim {number}");
    }
    for _ in 0..7 {
        assert!(
            rig.ask(Verb::Get, json!({"sandbox_id": "none", "owner": "student-1"})).await.unwrap().is_fault
        );
    }
    let answers = ask(&rig, "$SRV.STATS", 2).await;
    let (mut requests, mut errors): (BTreeMap<String, usize>, BTreeMap<String, usize>) = Default::default();
    for answer in answers {
        let stats: Stats = serde_json::from_value(answer).unwrap();
        for endpoint in stats.endpoints {
            if endpoint.name == Verb::Allocate.as_str() {
                assert!(
                    (1..30).contains(&endpoint.requests),
                    "the queue group shares them out: {}",
                    endpoint.requests
                );
                let average = endpoint.processing_time.as_nanos() / endpoint.requests as u128;
                assert_eq!(endpoint.average_processing_time.as_nanos(), average);
                assert!(average > 0);
            }
            let last = endpoint.last_error.map(|error| (error.code, error.status));
            let expected =
                (usize::from(FaultCode::NotFound.status()), FaultCode::NotFound.as_str().to_owned());
            assert_eq!(last, (endpoint.errors > 0).then_some(expected), "{}", endpoint.name);
            *requests.entry(endpoint.name.clone()).or_default() += endpoint.requests;
            *errors.entry(endpoint.name).or_default() += endpoint.errors;
        }
    }
    assert_eq!((requests["allocate"], requests["get"], requests["release"]), (30, 7, 0));
    assert_eq!((errors["allocate"], errors["get"]), (0, 7));
    rig.stop().await;
}

#[tokio::test]
async fn every_role_is_discoverable_and_shows_what_it_serves() {
    let rig = Plan::new(3).start().await;
    let others = |name: &str| name != ALLOCATOR_SERVICE;
    let expected =
        ["sandbox-ingress", "sandbox-registry", "sandbox-reaper", "sandbox-reconciler", "sandbox-scheduler"];
    let names = |answers: &[Value]| -> BTreeSet<String> {
        answers.iter().map(|answer| answer["name"].as_str().unwrap().to_owned()).collect()
    };
    for answer in ask_of(&rig, "$SRV.PING", &others, expected.len()).await {
        assert_common(&answer, "ping", &[]);
        serde_json::from_value::<PingResponse>(answer).unwrap();
    }
    let answers = ask_of(&rig, "$SRV.INFO", &others, expected.len()).await;
    assert_eq!(names(&answers), expected.map(ToOwned::to_owned).into());
    for answer in answers {
        assert_common(&answer, "info", &["description", "endpoints"]);
        let info: Info = serde_json::from_value(answer).unwrap();
        let served: Vec<_> =
            info.endpoints.iter().map(|one| (one.name.as_str(), one.queue_group.as_str())).collect();
        let of_registry = Verb::of(WorkerRole::Registry).map(|verb| (verb.as_str(), REGISTRY_SERVICE));
        let expected: Vec<_> =
            if info.name == REGISTRY_SERVICE { of_registry.collect() } else { vec![("work", "")] };
        assert_eq!(served, expected, "{}", info.name);
    }
    for answer in ask_of(&rig, "$SRV.STATS", &others, expected.len()).await {
        assert_common(&answer, "stats", &["started", "endpoints"]);
        serde_json::from_value::<Stats>(answer).unwrap();
    }
    rig.stop().await;
}
