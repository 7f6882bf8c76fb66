//! Additions to the description beyond the types: limits of parameters, and links between operations.
//!
//! The limits are the constants of the parsers, by the name of the parameter. An optional header may also be blank, and
//! its pattern allows that.

use contract::queue::PAGE_LIMIT_MAX;
use contract::subjects::UNREADABLE;
use contract::throttle::{PAUSE_SECONDS_MAX, PAUSE_TEXT_CHARS_MAX};
use contract::{Report, TickKind};
use domain::StateName;
use domain::ids::{
    HEADER_ID_BYTES_MAX, POOL_NAME_BYTES_MAX, REASON_BYTES_MAX, SANDBOX_ID_BYTES_MAX, SANDBOX_NAME_BYTES_MAX,
    TEMPLATE_ID_BYTES_MAX,
};
use ports::bus::SINCE_SECONDS_MAX;
use runtime::policy::{HOURS_MAX_MAX, HOURS_TOTAL_MAX_MAX};
use serde_json::{Map, Value, json};
use strum::IntoEnumIterator as _;

use crate::deletions::OPERATOR_BYTES_MAX;
use crate::request_id::REQUEST_ID_BYTES_MAX;

const VISIBLE: &str = "[!-~]";
const TOKEN: &str = "[A-Za-z0-9_-]";
/// No control character.
const ONE_LINE: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";
/// No control character, and at least one character that is not blank.
const NO_BLANK_LINE: &str = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";
/// Methods, as a path item names them.
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

/// The properties of a parameter that determine its limits.
struct Place<'a> {
    path: &'a str,
    name: &'a str,
    is_required: bool,
    is_number: bool,
}

/// Adds the limits to the description.
pub(crate) fn add(document: &mut Value) {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if METHODS.contains(&method.as_str()) {
                bind(path, operation);
            }
        }
    }
    bind_bodies(document);
}

fn bind(path: &str, operation: &mut Value) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let text = |key| parameter.get(key).and_then(Value::as_str).unwrap_or_default();
        let place = Place {
            path,
            name: text("name"),
            is_required: parameter.get("required") == Some(&Value::Bool(true)),
            is_number: parameter.pointer("/schema/type") == Some(&json!("integer")),
        };
        if let (Some(schema), Some(parameter)) = (schema_of(&place), parameter.as_object_mut()) {
            parameter.insert("schema".to_owned(), schema);
        }
    }
    // All fields are optional, and so is the body.
    if path == "/v1/admin/deletions/pause"
        && let Some(body) = operation.get_mut("requestBody").and_then(Value::as_object_mut)
    {
        body.insert("required".to_owned(), json!(false));
    }
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
    for (status, response) in responses.into_iter().flatten() {
        let Some(response) = response.as_object_mut() else { continue };
        if let Some(headers) = response.entry("headers").or_insert_with(|| json!({})).as_object_mut() {
            add_headers(path, status, headers);
        }
        if path == "/v1/allocate" && ["200", "201"].contains(&status.as_str()) {
            response.insert("links".to_owned(), links());
        }
    }
}

/// Hours and minutes of a lease, up to the upper limit of the setting.
const DURATION: &str = "^([1-9]h([1-5]?[0-9]m)?|[1-9][0-9]{0,2}m)$";
/// The same for an optional header, where an empty one counts as absent.
const OPTIONAL_DURATION: &str = "^([1-9]h([1-5]?[0-9]m)?|[1-9][0-9]{0,2}m)?$";

/// The schema of a parameter; none if its type is sufficient, or only a worker can decide.
fn schema_of(place: &Place<'_>) -> Option<Value> {
    let least = usize::from(place.is_required);
    match place.name {
        "X-Instruqt-Sandbox-ID" | "X-Instruqt-Track-ID" | "Idempotency-Key" => {
            Some(text(VISIBLE, least, HEADER_ID_BYTES_MAX))
        }
        "X-Sandbox-Name-Prefix" => Some(text(VISIBLE, least, SANDBOX_NAME_BYTES_MAX)),
        "X-Operator" => Some(text(VISIBLE, least, OPERATOR_BYTES_MAX)),
        "X-Sandbox-Warm" => Some(json!({"type": "string", "enum": ["prefer", "require", "never"]})),
        "X-Sandbox-Pool" => Some(text(TOKEN, least, POOL_NAME_BYTES_MAX)),
        "X-Lab-Duration" => {
            let most = if place.path.ends_with("/extend") { HOURS_TOTAL_MAX_MAX } else { HOURS_MAX_MAX };
            Some(json!({"anyOf": [
                {"type": "integer", "minimum": 1, "maximum": most},
                {"type": "string", "pattern": if place.is_required { DURATION } else { OPTIONAL_DURATION }},
            ]}))
        }
        "pool" | "name" => Some(text(TOKEN, 1, POOL_NAME_BYTES_MAX)),
        "id" if place.path.starts_with("/v1/admin/deletions/") => Some(key()),
        "id" if place.path.starts_with("/v1/templates/") => Some(text(TOKEN, 1, TEMPLATE_ID_BYTES_MAX)),
        "id" | "sandbox" => Some(text(TOKEN, 1, SANDBOX_ID_BYTES_MAX)),
        "kind" => {
            Some(json!({"type": "string", "enum": Report::kinds().map(TickKind::as_str).collect::<Vec<_>>()}))
        }
        "status" if place.path == "/v1/admin/deletions" => {
            Some(json!({"type": "string", "enum": ["pending_deletion", "deletion_failed"]}))
        }
        "status" if place.path == "/v1/admin/sandboxes" => Some(
            json!({"type": "string", "enum": StateName::iter().map(StateName::as_str).collect::<Vec<_>>()}),
        ),
        "status" if place.path == "/v1/admin/bulk-delete" => {
            Some(json!({"type": "string", "enum": ["stale", "deletion_failed"]}))
        }
        "lab" | "owner" => Some(text(VISIBLE, 1, HEADER_ID_BYTES_MAX)),
        "name_prefix" => Some(text(VISIBLE, 1, SANDBOX_NAME_BYTES_MAX)),
        "limit" => Some(json!({"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT_MAX})),
        "X-Lease-Epoch" | "Last-Event-ID" | "tick" | "version" => Some(whole()),
        "since" => Some(json!({"type": "integer", "minimum": 0, "maximum": SINCE_SECONDS_MAX})),
        "cursor" | "grace_period_hours" | "after" if place.is_number => Some(whole()),
        _ => None,
    }
}

fn text(set: &str, least: usize, most: usize) -> Value {
    json!({"type": "string", "pattern": format!("^{set}{{{least},{most}}}$")})
}

/// A sandbox id, or the key of an unreadable message, whose sequence may have any number of digits up to the limit.
fn key() -> Value {
    let pattern = format!(r"^({TOKEN}{{1,{SANDBOX_ID_BYTES_MAX}}}|{UNREADABLE}\.[0-9]{{1,19}})$");
    json!({"type": "string", "pattern": pattern})
}

/// A whole number of 64 bits. The format `int64` would end at half of them.
fn whole() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": u64::MAX})
}

fn add_headers(path: &str, status: &str, headers: &mut Map<String, Value>) {
    let mut add = |name: &str, description: &str, schema: Value| {
        headers
            .insert(name.to_owned(), json!({"description": description, "required": true, "schema": schema}));
    };
    add(
        "X-Request-ID",
        "the request's id: the caller's, or a fresh one",
        text(VISIBLE, 1, REQUEST_ID_BYTES_MAX),
    );
    match status {
        "401" => add("WWW-Authenticate", "the scheme", json!({"type": "string", "enum": ["Bearer"]})),
        "202" if path.starts_with("/v1/admin/") => add(
            "Location",
            "the URL of the report",
            json!({"type": "string", "pattern": "^/v1/admin/reports/[a-z]+/[0-9]+$"}),
        ),
        _ => {}
    }
}

/// Links to operations on a new lease.
fn links() -> Value {
    let parameters = json!({
        "path.id": "$response.body#/sandbox_id",
        "header.X-Instruqt-Sandbox-ID": "$request.header.X-Instruqt-Sandbox-ID",
    });
    let link = |operation: &str, description: &str| json!({"operationId": operation, "parameters": parameters, "description": description});
    json!({
        "look": link("get", "the sandbox, as shown to its owner"),
        "extend": link("extend", "extend its lease"),
        "give_back": link("mark_for_deletion", "its end"),
    })
}

/// The bodies of the operators' requests.
fn bind_bodies(document: &mut Value) {
    let pause = document.pointer_mut("/components/schemas/PauseRequest/properties");
    if let Some(fields) = pause.and_then(Value::as_object_mut) {
        for name in ["by", "reason"] {
            narrow(fields, name, json!({"maxLength": PAUSE_TEXT_CHARS_MAX, "pattern": ONE_LINE}));
        }
        narrow(fields, "until_seconds", json!({"minimum": 1, "maximum": PAUSE_SECONDS_MAX}));
        narrow(fields, "until", json!({"minimum": 1, "maximum": u64::MAX}));
    }
    if let Some(why) = document.pointer_mut("/components/schemas/Why").and_then(Value::as_object_mut) {
        why.insert("required".to_owned(), json!(["reason"]));
        if let Some(fields) = why.get_mut("properties").and_then(Value::as_object_mut) {
            narrow(fields, "reason", json!({"maxLength": REASON_BYTES_MAX, "pattern": NO_BLANK_LINE}));
        }
    }
}

fn narrow(fields: &mut Map<String, Value>, name: &str, limits: Value) {
    let (Some(field), Value::Object(limits)) = (fields.get_mut(name).and_then(Value::as_object_mut), limits)
    else {
        return;
    };
    field.remove("format");
    field.extend(limits);
}
