//! Discovery: what `nats micro ls`, `info`, `stats` and `ping` show of a worker (the NATS service API, ADR-32).
//!
//! Only the answering of `$SRV.>` is here. Requests themselves are served by our own loop, because the
//! library's service type loses requests when it stops.

use super::{NatsBus, failed};
use crate::bus::{BusError, ServiceInfo, VerbCounts};
use crate::contract::subjects::ALLOCATOR_SERVICE;
use crate::contract::{FaultCode, Subjects, Verb};
use crate::domain::UnixSeconds;
use async_nats::Message;
use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Version of the service, as discovery shows it.
const SERVICE_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Prefix of the discovery subjects, fixed by the service API.
const DISCOVERY_PREFIX: &str = "$SRV";
/// The three questions of the service API.
const QUESTIONS: [&str; 3] = ["PING", "INFO", "STATS"];

impl NatsBus {
    /// Answers discovery for an allocator until `stop`.
    ///
    /// # Errors
    /// [`BusError`] when the subscriptions cannot be made.
    pub async fn answer_discovery(
        &self,
        service: Arc<dyn ServiceInfo>,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        let id = self.random.fresh_id();
        let started = self.clock.now();
        let mut subscribers = Vec::new();
        for question in QUESTIONS {
            for subject in [
                format!("{DISCOVERY_PREFIX}.{question}"),
                format!("{DISCOVERY_PREFIX}.{question}.{ALLOCATOR_SERVICE}"),
                format!("{DISCOVERY_PREFIX}.{question}.{ALLOCATOR_SERVICE}.{id}"),
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
            let answer = answer(question, &id, started, self.subjects(), service.as_ref());
            self.answer(message, &answer).await;
        }
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
    service: &dyn ServiceInfo,
) -> Value {
    let common = Common {
        kind: format!("io.nats.micro.v1.{}_response", question.to_ascii_lowercase()),
        name: ALLOCATOR_SERVICE,
        id,
        version: SERVICE_VERSION,
        metadata: json!({"prefix": subjects.prefix()}),
    };
    let endpoint = |verb: Verb| EndpointName {
        name: verb.as_str(),
        subject: subjects.request(verb),
        queue_group: subjects.allocator_group(),
    };
    match question {
        "INFO" => {
            let endpoints = Verb::ALL
                .into_iter()
                .map(|verb| EndpointInfo { endpoint: endpoint(verb), metadata: json!({}) });
            let endpoints = endpoints.collect();
            json!(Info { common, description: "Hands out sandboxes and takes them back", endpoints })
        }
        "STATS" => {
            let endpoints = Verb::ALL.into_iter().map(|verb| {
                let VerbCounts { requests, errors, last_error, processing_ns } = service.counts(verb);
                EndpointStats {
                    endpoint: endpoint(verb),
                    num_requests: requests,
                    num_errors: errors,
                    last_error: last_error.map(error_text).unwrap_or_default(),
                    processing_time: processing_ns,
                    average_processing_time: processing_ns.checked_div(requests).unwrap_or(0),
                    data: service.further().into_iter().collect(),
                }
            });
            json!(Stats {
                common,
                started: crate::contract::events::rfc3339(started),
                endpoints: endpoints.collect()
            })
        }
        _ => json!(common),
    }
}

/// As the client libraries write it: number and text.
fn error_text(code: FaultCode) -> String {
    format!("{}:{}", code.status(), code.as_str())
}

// The shapes below are those of ADR-32; their field names are its words.

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
    data: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Stats<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    started: String,
    endpoints: Vec<EndpointStats>,
}
