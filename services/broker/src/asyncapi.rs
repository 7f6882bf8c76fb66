//! The contract as documents: `nats/asyncapi.json`, and a JSON Schema for each message in `nats/schemas`.
//!
//! Everything is made from the types of `contract` and from the tables beside this file. A verb, a cause or a
//! fault that is new does not compile before it has its row there.

use contract::limits::{REQUEST_BYTES_MAX, REQUEST_ID_BYTES_MAX};
use contract::subjects::{ALLOCATOR_SERVICE, REGISTRY_SERVICE};
use contract::{FaultCode, Subjects};
use domain::ids::{
    HEADER_ID_BYTES_MAX, POOL_NAME_BYTES_MAX, REASON_BYTES_MAX, REQUEST_KEY_BYTES_MAX, SANDBOX_ID_BYTES_MAX,
    SANDBOX_NAME_BYTES_MAX, TEMPLATE_ID_BYTES_MAX,
};
use message::Message;
use schemas::{Schemas, sorted};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use strum::IntoEnumIterator as _;
use verbs::Asked;

mod claims;
mod examples;
mod faults;
mod message;
mod nodes;
mod provisions;
mod schemas;
mod streams;
mod templates;
mod verbs;

/// Version of AsyncAPI.
const ASYNCAPI: &str = "3.0.0";
/// Version of the document: that of the requests, and a number that grows with what is added to them.
const VERSION: &str = "1.4.0";
/// The channel that stands for the caller's inbox.
const REPLIES: &str = "replies";
/// Where a channel's messages come from in the document.
const MESSAGES: &str = "#/components/messages";

const ABOUT: &str = "Hands out pre-created cloud sandboxes, takes them back, and deletes them without losing one. \
    Bodies are JSON; times are Unix seconds; readers ignore fields that they do not know. A reply that has the header \
    Nats-Service-Error-Code is a failure: act on `detail.code` of its body, and repeat as its x-repeat says \
    (`never`; `once`; `after` the seconds in `detail.retry_after`). Every request may be repeated as it stands, but \
    replay-all, replay-provisions and bulk-delete only if no worker began with it (no responders, NO_WORKERS). \
    The document is written from the broker's side: it receives requests and sends events. nats/README.md says the \
    rest: what to repeat, deadlines, evolution.";

/// Every file below the folder `nats`, by its path: the document, and a schema for each message.
///
/// # Errors
/// When something cannot be written as JSON: a mistake of ours.
pub fn files() -> anyhow::Result<BTreeMap<String, String>> {
    let mut schemas = Schemas::default();
    let messages = all_messages(&mut schemas)?;
    let mut files = BTreeMap::new();
    for message in &messages {
        let schema = schemas.standing_alone(&message.name, &message.payload, &message.examples);
        files.insert(format!("schemas/{}.json", message.name), written(schema)?);
    }
    files.insert("asyncapi.json".to_owned(), written(document(&messages, &schemas))?);
    Ok(files)
}

/// Every message, in the order of the tables.
fn all_messages(schemas: &mut Schemas) -> anyhow::Result<Vec<Message>> {
    let mut messages = Vec::new();
    for asked in Asked::every() {
        messages.extend(verbs::messages(asked, schemas)?);
    }
    for code in FaultCode::iter().filter(|code| faults::is_on_nats(*code)) {
        messages.push(faults::message(code, schemas)?);
    }
    messages.extend(streams::messages(schemas)?);
    Ok(messages)
}

fn document(messages: &[Message], schemas: &Schemas) -> Value {
    let subjects = Subjects::default();
    let (mut channels, mut operations) = (Map::new(), Map::new());
    for asked in Asked::every() {
        channels.insert(asked.key(), verbs::channel(asked, &subjects));
        operations.insert(asked.key(), verbs::operation(asked));
    }
    channels.insert(REPLIES.to_owned(), replies());
    for place in streams::places(&subjects) {
        operations.extend(place.operations());
        channels.insert(place.name.to_owned(), place.channel());
    }
    let messages: Map<_, _> =
        messages.iter().map(|message| (message.name.clone(), message.in_document())).collect();
    json!({
        "asyncapi": ASYNCAPI,
        "id": "urn:sandbox-broker",
        "info": {
            "title": "Sandbox broker on NATS",
            "version": VERSION,
            "description": ABOUT,
            "tags": [{ "name": "lab" }, { "name": "operator" }, { "name": "node" }, { "name": "stream" }],
            "x-limits": limits(),
        },
        "defaultContentType": "application/json",
        "servers": { "fleet": server() },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": schemas.in_document(),
            "securitySchemes": { "user": {
                "type": "userPassword",
                "description": "A user of nats/accounts.conf: `service` for a service that claims by itself, `auditor` \
                                for one that reads the event log, `operator` for people. Its inbox begins with \
                                `_INBOX.<user>`.",
            } },
        },
    })
}

/// The inbox that a caller names in the reply field of its request.
fn replies() -> Value {
    let own = Asked::every().map(verbs::reply_name);
    let failures = FaultCode::iter().filter(|code| faults::is_on_nats(*code)).map(faults::name);
    let messages: Map<_, _> = own.chain(failures).map(|name| (name.clone(), reference(&name))).collect();
    json!({
        "address": null,
        "title": "The caller's inbox",
        "description": "The reply subject of the request, which has to begin with `_INBOX`.",
        "messages": messages,
    })
}

fn server() -> Value {
    json!({
        "host": "localhost:4222",
        "protocol": "nats",
        "title": "The NATS server of a fleet",
        "description": format!(
            "`broker up` starts one here, without users; NATS 2.12 or later. Requests are served by the NATS services \
             `{ALLOCATOR_SERVICE}` and, about templates, `{REGISTRY_SERVICE}`, each with its queue group; the runner of a node \
             serves those to its node, without one. Another fleet on the same server has another prefix than \
             `sandbox`: its subjects begin with that, and its streams end with it."
        ),
        "security": [{ "$ref": "#/components/securitySchemes/user" }],
    })
}

/// What a fleet takes, by name with its unit.
fn limits() -> Value {
    json!({
        "request_bytes_max": REQUEST_BYTES_MAX,
        "request_id_bytes_max": REQUEST_ID_BYTES_MAX,
        "request_key_bytes_max": REQUEST_KEY_BYTES_MAX,
        "owner_lab_and_key_bytes_max": HEADER_ID_BYTES_MAX,
        "sandbox_id_bytes_max": SANDBOX_ID_BYTES_MAX,
        "pool_bytes_max": POOL_NAME_BYTES_MAX,
        "name_prefix_bytes_max": SANDBOX_NAME_BYTES_MAX,
        "template_bytes_max": TEMPLATE_ID_BYTES_MAX,
        "reason_bytes_max": REASON_BYTES_MAX,
        "default_deadline_ms": u64::try_from(allocator::DEFAULT_DEADLINE.as_millis()).unwrap_or(u64::MAX),
    })
}

/// A reference to a message of the components.
fn reference(message: &str) -> Value {
    json!({ "$ref": format!("{MESSAGES}/{message}") })
}

fn written(value: Value) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(&sorted(value))?))
}
