//! Discovery: what `nats micro ls`, `info`, `stats` and `ping` show about a worker (the NATS service API, ADR-32).
//!
//! Every role answers; the endpoints of a role that serves requests are its verbs. Only `$SRV.>` is handled here. Requests are
//! served by a separate loop, because the library's service type loses requests when it stops.

use super::{NatsBus, failed};
use async_nats::{Message, StatusCode};
use async_trait::async_trait;
use contract::events::{parse_rfc3339, rfc3339};
use contract::{Subjects, Verb, WorkView, WorkerRole, WorkerView};
use domain::UnixSeconds;
use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use ports::bus::feed::{NANOS_IN_A_MICRO, error_text};
use ports::bus::{BusError, Discovery, ServiceInfo, WorkCounts};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Version of the service, as discovery shows it.
const SERVICE_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Prefix of the discovery subjects, fixed by the service API.
const DISCOVERY_PREFIX: &str = "$SRV";
/// The three kinds of discovery requests.
const QUESTIONS: [&str; 3] = ["PING", "INFO", "STATS"];
/// The endpoint of a role that serves no requests.
const WORK_ENDPOINT: &str = "work";
/// Metadata key with the prefix of the fleet.
const PREFIX_KEY: &str = "prefix";
/// Statistic of an endpoint: what the worker has in progress.
const IN_FLIGHT_KEY: &str = "in_flight";
/// Most workers in a list; a fleet has some dozens.
const WORKERS_MAX: usize = 1_000;
/// Silence after which no further answer is expected; the `nats` client waits as long.
const SILENCE: Duration = Duration::from_millis(300);

#[async_trait]
impl Discovery for NatsBus {
    async fn workers(&self, patience: Duration) -> Result<Vec<WorkerView>, BusError> {
        const OPERATION: &str = "ask who works";
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(failed(OPERATION))?;
        let question = format!("{DISCOVERY_PREFIX}.STATS");
        let asked = self.client.publish_with_reply(question, inbox, "".into()).await;
        asked.map_err(failed(OPERATION))?;
        let mut found = Vec::new();
        // The number of workers is unknown: a moment of silence after the first answers counts as the end.
        let _ = tokio::time::timeout(patience, async {
            while found.len() < WORKERS_MAX {
                let reply = match found.len() {
                    0 => replies.next().await,
                    _ => tokio::time::timeout(SILENCE, replies.next()).await.unwrap_or(None),
                };
                match reply {
                    Some(reply) if reply.status == Some(StatusCode::NO_RESPONDERS) => return,
                    Some(reply) => found.extend(self.worker_in(&reply.payload)),
                    None => return,
                }
            }
        })
        .await;
        if found.is_empty() && !self.connected() {
            return Err(failed(OPERATION)("not connected"));
        }
        Ok(found)
    }

    async fn answer_discovery(
        &self,
        service: Arc<dyn ServiceInfo>,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let id = self.random.fresh_id();
        let started = self.clock.now();
        let name = service.role().service();
        let mut subscribers = Vec::new();
        for question in QUESTIONS {
            for subject in [
                format!("{DISCOVERY_PREFIX}.{question}"),
                format!("{DISCOVERY_PREFIX}.{question}.{name}"),
                format!("{DISCOVERY_PREFIX}.{question}.{name}.{id}"),
            ] {
                let subscriber =
                    self.client.subscribe(subject).await.map_err(failed("subscribe to discovery"))?;
                subscribers.push(subscriber.map(move |message| (question, message)));
            }
        }
        let mut questions = select_all(subscribers);
        loop {
            let (question, message) = tokio::select! {
                asked = questions.next() => match asked {
                    Some(asked) => asked,
                    None => return Ok(()),
                },
                () = stop.cancelled() => return Ok(()),
            };
            let mut metadata = BTreeMap::clone(&self.settings);
            metadata.insert(PREFIX_KEY.to_owned(), self.subjects().prefix().to_owned());
            let answer = answer(question, &id, started, self.subjects(), json!(metadata), service.as_ref());
            self.answer(message, &answer).await;
        }
    }
}

impl NatsBus {
    /// The worker in an answer; none if it belongs to another fleet or is not one of ours.
    fn worker_in(&self, payload: &[u8]) -> Option<WorkerView> {
        let mut shown: Shown = serde_json::from_slice(payload).ok()?;
        let role = WorkerRole::of_service(&shown.name)?;
        if shown.metadata.remove(PREFIX_KEY).is_none_or(|prefix| prefix != self.subjects().prefix()) {
            return None;
        }
        let mut numbers = BTreeMap::new();
        let mut work = BTreeMap::new();
        for endpoint in shown.endpoints {
            let ShownEndpoint { name, num_requests, num_errors, last_error, average_processing_time, data } =
                endpoint;
            numbers.extend(data);
            let view = WorkView {
                requests: num_requests,
                errors: num_errors,
                mean_us: average_processing_time / NANOS_IN_A_MICRO,
                last_error: Some(last_error).filter(|error| !error.is_empty()),
            };
            work.insert(name, view);
        }
        let in_flight = numbers.remove(IN_FLIGHT_KEY);
        let started_at = parse_rfc3339(&shown.started).map_or(0, UnixSeconds::get);
        let (id, version, settings) = (shown.id, shown.version, shown.metadata);
        Some(WorkerView { role, id, version, started_at, in_flight, work, numbers, settings })
    }

    async fn answer(&self, message: Message, answer: &Value) {
        let Some(reply) = message.reply else { return };
        if let Err(error) = self.client.publish(reply, answer.to_string().into()).await {
            tracing::debug!(%error, "a discovery answer could not be sent");
        }
    }
}

fn answer(
    question: &str,
    id: &str,
    started: UnixSeconds,
    subjects: &Subjects,
    metadata: Value,
    service: &dyn ServiceInfo,
) -> Value {
    let role = service.role();
    let common = Common {
        kind: format!("io.nats.micro.v1.{}_response", question.to_ascii_lowercase()),
        name: role.service(),
        id,
        version: SERVICE_VERSION,
        metadata,
    };
    match question {
        "INFO" => {
            let endpoints = endpoints(role, subjects)
                .into_iter()
                .map(|(endpoint, _)| EndpointInfo { endpoint, metadata: json!({}) });
            json!(Info { common, description: role.description(), endpoints: endpoints.collect() })
        }
        "STATS" => {
            let mut data: BTreeMap<_, _> = service.further().into_iter().collect();
            if let Some(in_flight) = service.in_flight() {
                data.insert(IN_FLIGHT_KEY.to_owned(), in_flight);
            }
            let endpoints = endpoints(role, subjects).into_iter().map(|(endpoint, verb)| {
                let counts = verb.map_or_else(|| service.total(), |verb| service.counts(verb));
                let WorkCounts { requests, errors, last_error, processing_ns } = counts;
                EndpointStats {
                    endpoint,
                    num_requests: requests,
                    num_errors: errors,
                    last_error: last_error.map(error_text).unwrap_or_default(),
                    processing_time: processing_ns,
                    average_processing_time: processing_ns.checked_div(requests).unwrap_or(0),
                    data: data.clone(),
                }
            });
            json!(Stats { common, started: rfc3339(started), endpoints: endpoints.collect() })
        }
        _ => json!(common),
    }
}

/// The endpoints of a role: one for each verb that it answers; for a role that answers none a single one, named after its
/// source of work.
fn endpoints(role: WorkerRole, subjects: &Subjects) -> Vec<(EndpointName, Option<Verb>)> {
    let subject = match role {
        WorkerRole::Allocator | WorkerRole::Registry => {
            let of_verb = |verb: Verb| EndpointName {
                name: verb.as_str(),
                subject: subjects.request(verb),
                queue_group: role.service(),
            };
            return Verb::of(role).map(|verb| (of_verb(verb), Some(verb))).collect();
        }
        WorkerRole::Ingress => subjects.request_all(),
        WorkerRole::Reaper => subjects.deletion_work_all(),
        WorkerRole::Runner => subjects.provision_every(),
        WorkerRole::Reconciler | WorkerRole::Scheduler => subjects.tick_all(),
    };
    vec![(EndpointName { name: WORK_ENDPOINT, subject, queue_group: "" }, None)]
}

// These types follow ADR-32, including the field names.

#[derive(Serialize)]
struct Common<'a> {
    #[serde(rename = "type")]
    kind: String,
    name: &'static str,
    id: &'a str,
    version: &'static str,
    metadata: Value,
}

#[derive(Serialize)]
struct EndpointName {
    name: &'static str,
    subject: String,
    queue_group: &'static str,
}

#[derive(Serialize)]
struct Info<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    description: &'static str,
    endpoints: Vec<EndpointInfo>,
}

/// The part of a worker's statistics that is read.
#[derive(Deserialize)]
struct Shown {
    name: String,
    id: String,
    version: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    started: String,
    #[serde(default)]
    endpoints: Vec<ShownEndpoint>,
}

#[derive(Deserialize)]
struct ShownEndpoint {
    name: String,
    #[serde(default)]
    num_requests: u64,
    #[serde(default)]
    num_errors: u64,
    #[serde(default)]
    last_error: String,
    #[serde(default)]
    average_processing_time: u64,
    #[serde(default)]
    data: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct EndpointInfo {
    #[serde(flatten)]
    endpoint: EndpointName,
    metadata: Value,
}

#[derive(Serialize)]
struct EndpointStats {
    #[serde(flatten)]
    endpoint: EndpointName,
    num_requests: u64,
    num_errors: u64,
    last_error: String,
    processing_time: u64,
    average_processing_time: u64,
    data: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Stats<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    started: String,
    endpoints: Vec<EndpointStats>,
}
