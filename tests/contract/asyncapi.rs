//! `nats/asyncapi.json` and `nats/schemas` equal what the code generates, and agree with `nats/README.md` and with the
//! messages of this suite. `tools/asyncapi.sh` checks that they are valid AsyncAPI and JSON Schema.

use crate::markdown::{Document, quoted};
use contract::{FaultCode, NodeVerb, Subjects, Verb};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use strum::{EnumCount as _, IntoEnumIterator as _};

const README: &str = "nats/README.md";

fn document() -> Value {
    serde_json::from_str(&broker::asyncapi::files().unwrap()["asyncapi.json"]).unwrap()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().unwrap().iter()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The subjects of a channel, in the notation of nats/README.md.
fn subjects_of(channel: &Value) -> Vec<String> {
    let Some(address) = channel["address"].as_str() else { return Vec::new() };
    let shown = |address: String| address.replace('{', "<").replace('}', ">");
    match channel["parameters"].get("kind") {
        Some(kind) => {
            texts(&kind["enum"]).iter().map(|kind| shown(address.replace("{kind}", kind))).collect()
        }
        None => vec![shown(address.to_owned())],
    }
}

#[test]
fn committed_files_match_the_generated_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nats");
    let made = broker::asyncapi::files().unwrap();
    let mut kept = BTreeMap::new();
    let in_schemas = std::fs::read_dir(folder.join("schemas")).unwrap();
    let schemas = in_schemas.map(|entry| format!("schemas/{}", entry.unwrap().file_name().to_str().unwrap()));
    for name in schemas.chain(["asyncapi.json".to_owned()]) {
        kept.insert(name.clone(), std::fs::read_to_string(folder.join(name)).unwrap());
    }
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&kept), names(&made), "run `broker contract nats`, and remove what it does not write");
    for (name, text) in made {
        assert!(kept[&name] == text, "{name} is old: run `broker contract nats`");
    }
}

#[test]
fn subjects_streams_and_keys_match_the_readme() {
    let (document, readme) = (document(), Document::read(README));
    let channels: Vec<_> = entries(&document["channels"]).map(|(_, channel)| channel).collect();
    let subjects: BTreeSet<_> = channels.iter().flat_map(|channel| subjects_of(channel)).collect();
    let bucket = format!("$KV.{}.", Subjects::default().bucket());
    let (keys, subjects): (BTreeSet<_>, BTreeSet<_>) =
        subjects.into_iter().partition(|subject| subject.starts_with(&bucket));
    assert_eq!(subjects, readme.names("Subjects", 0));
    let is_key = |row: &&Vec<String>| row[1] == "key";
    let rows = readme.rows("Bucket and keys");
    let written: BTreeSet<_> = rows.iter().filter(is_key).flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(keys.iter().map(|key| key[bucket.len()..].to_owned()).collect::<BTreeSet<_>>(), written);
    let streams = channels.iter().filter_map(|channel| channel["x-stream"].as_str().map(ToOwned::to_owned));
    let mut streams: BTreeSet<_> = streams.collect();
    assert!(streams.remove("KV_broker"));
    assert_eq!(streams, readme.names("Streams", 0));
    for channel in channels.iter().filter(|channel| channel["x-stream"].is_string()) {
        let name = channel["x-stream"].as_str().unwrap();
        let is_in_row = readme.rows("Subjects").iter().any(|row| {
            row[1] == format!("in `{name}`")
                && subjects_of(channel).iter().any(|subject| quoted(&row[0]).contains(subject))
        });
        assert!(is_in_row || name == "KV_broker", "{channel:#}");
    }
}

#[test]
fn every_verb_is_an_operation_with_a_reply_and_faults() {
    let (document, readme, code) = (document(), Document::read(README), Subjects::default());
    let says: BTreeMap<_, _> = readme
        .rows("Subjects")
        .into_iter()
        .filter(|row| row[1] == "request")
        .map(|row| (quoted(&row[0]).concat(), (row[2].clone(), row[3].clone())))
        .collect();
    for verb in Verb::iter() {
        let operation = &document["operations"][verb.as_str()];
        let (who, what) = &says[&code.request(verb)];
        assert_eq!(operation["summary"], what.as_str(), "{verb:?}");
        let tag = match who.split_once(' ').unwrap().0 {
            "anybody" => "lab",
            "runners" => "node",
            _ => "operator",
        };
        assert_eq!(operation["tags"][0]["name"], tag, "{verb:?}");
        assert_eq!(operation["bindings"]["nats"]["queue"], verb.role().service(), "{verb:?}");
        let reply = &operation["reply"];
        assert!(reply["address"]["location"].as_str().unwrap().starts_with("$message.header#/"));
        let messages = reply["messages"].as_array().unwrap();
        assert!(messages.len() > 7, "{verb:?} has a reply and the failures of any request");
    }
    for verb in NodeVerb::iter() {
        let operation = &document["operations"][format!("node-{}", verb.as_str())];
        let subject = format!("{}.node.<node>.{}", code.prefix(), verb.as_str());
        assert_eq!(operation["summary"], says[&subject].1.as_str(), "{verb:?}");
        assert_eq!(operation["tags"][0]["name"], "node", "{verb:?}");
        assert_eq!(operation["bindings"]["nats"]["queue"], Value::Null, "{verb:?} goes to one node");
        let messages = operation["reply"]["messages"].as_array().unwrap();
        let may_end = FaultCode::iter().filter(|code| verb.may_end_in(*code)).count();
        assert_eq!(messages.len(), 1 + may_end, "{verb:?}");
    }
    let operations = entries(&document["operations"]).filter(|(_, operation)| operation["reply"].is_object());
    assert_eq!(operations.count(), Verb::COUNT + NodeVerb::iter().count());
}

#[test]
fn headers_match_the_readme() {
    let document = document();
    let of_messages =
        entries(&document["components"]["messages"]).map(|(_, message)| &message["headers"]["properties"]);
    let headers: BTreeSet<_> =
        of_messages.flat_map(|headers| entries(headers).map(|(name, _)| name.clone())).collect();
    assert_eq!(headers, Document::read(README).names("Headers", 0));
}

#[test]
fn faults_match_the_code() {
    let document = document();
    let messages = entries(&document["components"]["messages"]);
    let of_faults: BTreeMap<_, _> =
        messages.filter_map(|(_, message)| Some((message["x-code"].as_str()?, message))).collect();
    let only_over_http = [
        FaultCode::Unauthorized,
        FaultCode::MethodNotAllowed,
        FaultCode::RequestTimeout,
        FaultCode::HeadTooLarge,
        FaultCode::RateLimitExceeded,
    ];
    for code in FaultCode::iter() {
        let message = of_faults.get(code.as_str());
        assert_eq!(message.is_none(), only_over_http.contains(&code), "{}", code.as_str());
        let Some(message) = message else { continue };
        assert_eq!(message["x-status"], code.status());
        assert_eq!(message["x-repeat"], code.repeat().as_str());
        let advises = message["examples"][0]["payload"]["detail"]["retry_after"].is_u64();
        assert_eq!(advises, message["x-repeat"] == "after", "{}", code.as_str());
    }
    let operations = document["operations"].to_string();
    for message in of_faults.values() {
        let name = message["name"].as_str().unwrap();
        assert!(operations.contains(&format!("/messages/{name}\"")), "nothing ends in {name}");
    }
}

/// The bodies in the snapshots of this suite.
fn snapshots() -> BTreeSet<String> {
    let sources = [
        include_str!("messages.rs"),
        include_str!("operations.rs"),
        include_str!("listing.rs"),
        include_str!("templates.rs"),
        include_str!("nodes.rs"),
        include_str!("claims.rs"),
        include_str!("pools.rs"),
    ];
    let literals = sources.iter().flat_map(|source| source.split("@r#\"").skip(1));
    let texts = literals.filter_map(|rest| rest.split_once("\"#").map(|(text, _)| text));
    let bodies = texts.flat_map(str::lines).map(str::trim).filter(|line| line.starts_with('{'));
    bodies.map(|body| serde_json::from_str::<Value>(body).unwrap().to_string()).collect()
}

#[test]
fn examples_match_the_snapshot_messages() {
    let document = document();
    let components = &document["components"];
    let mut shown = BTreeSet::new();
    for (name, message) in entries(&components["messages"]) {
        let examples = message["examples"].as_array().unwrap();
        assert!(!examples.is_empty() || name == "Unreadable", "{name} has no example");
        shown.extend(examples.iter().map(|example| example["payload"].to_string()));
    }
    for (_, schema) in entries(&components["schemas"]) {
        shown.extend(schema["examples"].as_array().into_iter().flatten().map(Value::to_string));
    }
    let is_fault = |body: &String| body.starts_with(r#"{"detail":"#);
    // The worker's code makes a fault; forced ticks are tested with their reader.
    let elsewhere = [r#"{"by":"alice","force":true,"wanted_until_ms":1763683225000}"#, "{}"];
    let invented = |body: &&String| !is_fault(body) && !elsewhere.contains(&body.as_str());
    let snapshots = snapshots();
    assert!(snapshots.len() > 30, "{}", snapshots.len());
    let unproved: Vec<_> = shown.iter().filter(invented).filter(|body| !snapshots.contains(*body)).collect();
    assert!(unproved.is_empty(), "examples that no snapshot shows: {unproved:#?}");
    // A replay has four outcomes, and the work messages of older builds do not name the account.
    let former = r#"{"epoch":3,"pool":"main","requested_at":1763683200,"sandbox_id":"2000000","version":1}"#;
    let is_shown = |body: &&String| {
        shown.contains(*body) || is_fault(body) || body.starts_with(r#"{"key":"7""#) || *body == former
    };
    let missing: Vec<_> = snapshots.iter().filter(|body| !is_shown(body)).collect();
    assert!(missing.is_empty(), "messages that no schema is held against: {missing:#?}");
}

#[test]
fn client_page_matches_the_document() {
    let (document, page) = (document(), Document::read("nats/clients.md"));
    let messages = entries(&document["components"]["messages"]).map(|(_, message)| message);
    let faults: BTreeSet<_> = messages
        .filter_map(|message| {
            let code = message["x-code"].as_str()?;
            let meaning = message["summary"].as_str()?.strip_prefix(code)?.strip_prefix(": ")?;
            let (status, repeat) = (message["x-status"].to_string(), message["x-repeat"].as_str()?);
            Some([code, &status, meaning, repeat].map(ToOwned::to_owned))
        })
        .collect();
    let rows = page.rows("Failures one by one");
    let written: BTreeSet<_> = rows
        .iter()
        .map(|row| [quoted(&row[0]).concat(), row[1].clone(), row[2].clone(), row[3].clone()])
        .collect();
    assert_eq!((rows.len(), written), (faults.len(), faults));
    let limits: BTreeSet<_> =
        entries(&document["info"]["x-limits"]).map(|(name, most)| (name.clone(), most.to_string())).collect();
    let rows = page.rows("Limits");
    let written: BTreeSet<_> = rows.iter().map(|row| (quoted(&row[0]).concat(), row[1].clone())).collect();
    assert_eq!(written, limits);
}
