//! Messages and keys of NATS, ids, cursors, and token files: parsers without further state.

use crate::{is_one_line, split_line};
use contract::deletions::ParkedDeletion;
use contract::events::{parse_rfc3339, rfc3339};
use contract::nodes::{ExecutionRequest, HeldRequest, ProvisionedRequest};
use contract::templates::{PutTemplateRequest, TemplateSettings};
use contract::{
    Census, DeletionWork, Event, FaultBody, Outcome, Pause, PauseRequest, ProvisionLane, ProvisionWork,
    RunReport, Subjects, ThrottleState, TickKind, TickOrder, Verb,
};
use domain::{
    Actor, ExternalId, IdempotencyKey, InvalidId, LabId, NamePrefix, OwnerId, PoolName, Reason, SandboxId,
    SandboxName, TemplateId, ids,
};
use ingress::tokens::file;
use ports::store::PageCursor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::{Debug, Display};
use strum::IntoEnumIterator as _;

/// Parsed data is within its limits and round-trips.
pub fn hold(input: &[u8]) {
    let Some((kind, rest)) = split_line(input) else { return };
    match kind {
        "tokens" => tokens(rest),
        "tick" => tick(rest),
        "work" => work(rest),
        "event" => event(rest),
        "parked" => same::<ParkedDeletion>(rest),
        "line" => same::<ThrottleState>(rest),
        "pause" => same::<Pause>(rest),
        "pause-request" => pause_request(rest),
        "report" => same::<RunReport>(rest),
        "census" => same::<Census>(rest),
        "fault" => same::<FaultBody>(rest),
        "execution" => _ = round_trip::<ExecutionRequest>(rest),
        "provisioned" => _ = round_trip::<ProvisionedRequest>(rest),
        "held" => _ = round_trip::<HeldRequest>(rest),
        "template" => template(rest),
        _ => {
            if let Ok(text) = std::str::from_utf8(rest) {
                of_text(kind, text);
            }
        }
    }
}

fn of_text(kind: &str, text: &str) {
    match kind {
        "ids" => every_id(text),
        "cursor" => cursor(text),
        "time" => time(text),
        "subject" => subject(text),
        "names" => names(text),
        _ => {}
    }
}

fn every_id(text: &str) {
    id(text, ids::SANDBOX_ID_BYTES_MAX, SandboxId::parse);
    id(text, ids::POOL_NAME_BYTES_MAX, PoolName::parse);
    id(text, ids::TEMPLATE_ID_BYTES_MAX, TemplateId::parse);
    id(text, ids::SANDBOX_NAME_BYTES_MAX, SandboxName::parse);
    id(text, ids::SANDBOX_NAME_BYTES_MAX, NamePrefix::parse);
    id(text, ids::EXTERNAL_ID_BYTES_MAX, ExternalId::parse);
    id(text, ids::REASON_BYTES_MAX, Reason::parse);
    id(text, ids::HEADER_ID_BYTES_MAX, OwnerId::parse);
    id(text, ids::HEADER_ID_BYTES_MAX, LabId::parse);
    id(text, ids::HEADER_ID_BYTES_MAX, IdempotencyKey::parse);
    id(text, ids::HEADER_ID_BYTES_MAX, Actor::parse);
    let name = SandboxName::parse(text).map(|name| name.to_string()).unwrap_or_default();
    let is_hidden =
        |char| matches!(char, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!name.contains(is_hidden), "a name that looks like another");
    let cut = Reason::cut(text).to_string();
    assert_eq!(Reason::parse(&cut).map(|reason| reason.to_string()), Ok(cut), "a cut reason is a reason");
}

fn id<T: Display>(text: &str, bytes_max: usize, parse: fn(&str) -> Result<T, InvalidId>) {
    let Ok(id) = parse(text) else { return };
    let id = id.to_string();
    assert!((1..=bytes_max).contains(&id.len()), "{} bytes", id.len());
    assert!(is_one_line(&id), "a control character");
    assert_eq!(parse(&id).map(|again| again.to_string()), Ok(id), "an id is itself again");
}

/// A cursor has exactly one accepted text.
fn cursor(text: &str) {
    let Some(cursor) = PageCursor::parse(text) else { return };
    assert_eq!(cursor.to_text(), text, "a cursor is written in one way");
}

fn time(text: &str) {
    let Some(moment) = parse_rfc3339(text) else { return };
    assert_eq!(parse_rfc3339(&rfc3339(moment)), Some(moment), "{text:?}");
}

fn subject(text: &str) {
    let subjects = Subjects::with_prefix("fuzz").expect("a good prefix");
    if let Some(pool) = subjects.pool_of_work(text) {
        assert!(text.contains(pool.as_str()), "the pool stands in the subject");
    }
    if let Some(pool) = subjects.pool_of_consumer(text) {
        assert_eq!(subjects.reaper_consumer(&pool), text, "a consumer has one name");
    }
    let Ok(own) = Subjects::with_prefix(text) else { return };
    for verb in Verb::iter() {
        let subject = own.request(verb);
        assert!(!subject.contains([' ', '*', '>', '\r', '\n', '\t']), "{subject:?} is no subject");
        assert!(!subject.split('.').any(str::is_empty), "{subject:?} has an empty token");
    }
}

fn names(text: &str) {
    if let Some(kind) = TickKind::parse(text) {
        assert_eq!(kind.as_str(), text);
    }
    if let Some(outcome) = Outcome::parse(text) {
        assert_eq!(outcome.as_str(), text);
    }
    let _ = Event::version_in(text);
}

/// Valid settings mean the same after they were written with every default.
fn template(body: &[u8]) {
    let Ok(request) = serde_json::from_slice::<PutTemplateRequest>(body) else { return };
    let text = serde_json::to_vec(&request).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<PutTemplateRequest>(&text).ok().as_ref(), Some(&request));
    if let Ok(spec) = request.settings.spec() {
        assert_eq!(TemplateSettings::of(&spec).spec(), Ok(spec));
    }
}

/// An unreadable body orders nothing; only an explicit one forces.
fn tick(body: &[u8]) {
    // An array can be an order as well: its fields in their sequence. A text that no value can contain, in a field that
    // is skipped, makes it no value, but it is an order all the same.
    let said =
        serde_json::from_slice::<Value>(body).ok().filter(|_| TickOrder::read(body).forced_by().is_some());
    if let Some(said) = said {
        assert_eq!(said.get("force").or_else(|| said.get(0)), Some(&Value::Bool(true)), "it was not forced");
    }
    same::<TickOrder>(body);
}

fn work(body: &[u8]) {
    provision(body);
    same::<DeletionWork>(body);
    let Ok(work) = serde_json::from_slice::<DeletionWork>(body) else { return };
    let Ok((sandbox, pool, _)) = work.parts() else { return };
    let subject = Subjects::default().deletion_work(&pool, &sandbox);
    assert_eq!(Subjects::default().pool_of_work(&subject), Some(pool), "the subject names the pool");
}

fn provision(body: &[u8]) {
    same::<ProvisionWork>(body);
    let Ok(work) = serde_json::from_slice::<ProvisionWork>(body) else { return };
    let Ok((sandbox, pool, ..)) = work.parts() else { return };
    let lane = ProvisionLane { priority: work.priority(), pool };
    let subject = Subjects::default().provision_work(&lane, &sandbox);
    assert_eq!(Subjects::default().lane_of_provision(&subject), Some(lane), "the subject names the lane");
}

fn event(body: &[u8]) {
    same::<Event>(body);
    if let Ok(event) = serde_json::from_slice::<Event>(body) {
        let _ = event.kind.known();
    }
}

fn pause_request(body: &[u8]) {
    let Ok(request) = serde_json::from_slice::<PauseRequest>(body) else { return };
    let now = crate::NOW;
    match request.at(now, "operator") {
        Ok(pause) => {
            assert!(pause.until.is_none_or(|until| until > pause.since), "a pause that has ended");
            assert!(is_one_line(&pause.by) && pause.reason.as_deref().is_none_or(is_one_line));
        }
        Err((field, problem)) => assert!(!field.is_empty() && !problem.is_empty()),
    }
}

/// A message, and what is written of it, which is read as the same.
fn round_trip<T: DeserializeOwned + Serialize + PartialEq + Debug>(body: &[u8]) -> Option<(T, Vec<u8>)> {
    let message = serde_json::from_slice::<T>(body).ok()?;
    let text = serde_json::to_vec(&message).expect("what was read can be written");
    let again = serde_json::from_slice::<T>(&text).expect("what was written can be read");
    assert_eq!(again, message, "it changed on its way");
    Some((message, text))
}

/// A message round-trips, even with an unknown field.
fn same<T: DeserializeOwned + Serialize + PartialEq + Debug>(body: &[u8]) {
    let Some((message, text)) = round_trip::<T>(body) else { return };
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&text) else { return };
    fields.insert("of_a_later_build".to_owned(), Value::Null);
    let later = serde_json::from_value::<T>(Value::Object(fields));
    assert_eq!(later.ok(), Some(message), "an unknown field is passed over");
}

/// Every token of a file has a name and rights, and its line parses to the same token again.
fn tokens(bytes: &[u8]) {
    match file::parse(bytes) {
        Err(problem) => assert!(is_one_line(&problem), "{problem:?}"),
        Ok(entries) => {
            assert!(!entries.is_empty(), "a file without a token");
            for entry in &entries {
                let line = file::line(&entry.caller, &entry.digest);
                let again = file::parse(line.expect("it had a line").as_bytes()).expect("its own line");
                assert_eq!(again.as_slice(), std::slice::from_ref(entry), "another token");
            }
        }
    }
}
