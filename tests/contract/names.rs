//! The names in `nats/README.md` are exactly the names in the code.

use crate::markdown::{Document, quoted};
use contract::{FaultCode, NodeVerb, ProvisionLane, ProvisionPriority, Report, Subjects, Verb, WorkerRole};
use domain::{Cause, NodeId, PoolName, SandboxId};
use std::collections::BTreeSet;
use strum::IntoEnumIterator as _;

const README: &str = "nats/README.md";
/// Placeholders for any pool, id and sequence.
const ANY: (&str, &str, u64) = ("any-pool", "any-id", 4_711);
/// The same for any node.
const ANY_NODE: &str = "any-node";

/// The names that the code makes, by the function of [`Subjects`] that makes them.
type Given = Vec<(&'static str, Vec<String>)>;

fn any() -> (PoolName, SandboxId) {
    (PoolName::parse(ANY.0).unwrap(), SandboxId::parse(ANY.1).unwrap())
}

/// A name, with its variable parts in the document's notation.
fn shown(name: &str) -> String {
    let name = name.replace(ANY.0, "<pool>").replace(ANY.1, "<id>").replace(ANY_NODE, "<node>");
    name.replace(&ANY.2.to_string(), "<sequence>")
}

fn node_requests() -> Vec<String> {
    let (code, node) = (Subjects::default(), NodeId::parse(ANY_NODE).unwrap());
    NodeVerb::iter().map(|verb| code.node_request(&node, verb)).collect()
}

fn subjects() -> Given {
    let (code, (pool, id)) = (Subjects::default(), any());
    vec![
        ("request", Verb::iter().map(|verb| code.request(verb)).collect()),
        ("node_request", node_requests()),
        ("deletion_work", vec![code.deletion_work(&pool, &id)]),
        ("deletion_retry", vec![code.deletion_retry(&pool, &id)]),
        ("parked", vec![code.parked(&pool, &id)]),
        ("event", Cause::iter().map(|cause| code.event(cause, &id)).collect()),
        ("parked_unreadable", vec![code.parked_unreadable(ANY.2)]),
        ("provision_work", ProvisionLane::both(&pool).map(|lane| code.provision_work(&lane, &id)).collect()),
        ("provision_retry", vec![code.provision_retry(&pool, &id)]),
        ("provision_parked", vec![code.provision_parked(&pool, &id)]),
        ("provision_unreadable", vec![code.provision_unreadable(ANY.2)]),
        ("tick", Report::kinds().map(|kind| code.tick(kind)).collect()),
        ("report", Report::kinds().map(|kind| code.report(kind)).collect()),
    ]
}

fn streams() -> Given {
    let code = Subjects::default();
    vec![
        ("deletions_stream", vec![code.deletions_stream()]),
        ("provisions_stream", vec![code.provisions_stream()]),
        ("parked_stream", vec![code.parked_stream()]),
        ("ticks_stream", vec![code.ticks_stream()]),
        ("events_stream", vec![code.events_stream()]),
    ]
}

fn filters() -> Given {
    let code = Subjects::default();
    vec![
        ("deletion_work_all", vec![code.deletion_work_all()]),
        ("deletion_retry_all", vec![code.deletion_retry_all()]),
        ("provision_work_all", ProvisionPriority::iter().map(|one| code.provision_work_all(one)).collect()),
        ("provision_retry_all", vec![code.provision_retry_all()]),
        ("provision_parked_all", vec![code.provision_parked_all()]),
        ("parked_all", vec![code.parked_all()]),
        ("tick_all", vec![code.tick_all()]),
        ("event_all", vec![code.event_all()]),
    ]
}

fn names(given: &Given) -> BTreeSet<String> {
    given.iter().flat_map(|(_, names)| names.iter().map(|name| shown(name))).collect()
}

#[test]
fn subjects_streams_and_filters_match_the_code() {
    let readme = Document::read(README);
    assert_eq!(readme.names("Subjects", 0), names(&subjects()));
    assert_eq!(readme.names("Streams", 0), names(&streams()));
    assert_eq!(readme.names("Streams", 1), names(&filters()));
}

#[test]
fn every_naming_function_is_compared() {
    let elsewhere = [
        "with_prefix",
        "prefix",
        // Compared further down, or on the running fleet.
        "tick_consumer",
        "reaper_consumer",
        "deletion_work_of_pool",
        "pool_of_consumer",
        "pool_of_work",
        "runner_consumer",
        "provision_work_of",
        "lane_of_consumer",
        "lane_of_provision",
        "bucket",
        // Named in the prose under the table of streams, and in the section about events.
        "deletion_any",
        "provision_any",
        "events_of",
        // Filters of a consumer, made from the subjects above.
        "deletion_every",
        "provision_every",
        "deletion_retry_prefix",
        "parked_of_pool",
        "event_wanted",
        // The subjects that the ingress sends requests to, as discovery shows them.
        "request_all",
    ];
    let compared = [subjects(), streams(), filters()].into_iter().flatten().map(|(function, _)| function);
    let compared: BTreeSet<_> = compared.chain(elsewhere).collect();
    let sources = [
        include_str!("../../common/contract/src/subjects.rs"),
        include_str!("../../common/contract/src/subjects/nodes.rs"),
        include_str!("../../common/contract/src/subjects/provisions.rs"),
    ];
    let block = |source: &'static str| {
        source.split_once("impl Subjects {\n").unwrap().1.split_once("\n}\n").unwrap().0
    };
    let functions = sources.into_iter().flat_map(|source| block(source).split("    pub fn ").skip(1));
    let functions = functions.filter_map(|rest| rest.split('(').next());
    assert_eq!(functions.collect::<BTreeSet<_>>(), compared, "a name that nats/README.md does not show");
    let (code, (pool, id)) = (Subjects::default(), any());
    let readme = Document::read(README);
    for name in [code.deletion_any(&pool, &id), code.provision_any(&pool, &id), code.events_of(&id)] {
        assert!(readme.text().contains(&format!("`{}`", shown(&name))), "{name}");
    }
}

#[test]
fn service_queue_group_and_bucket_match_the_code() {
    let (code, readme) = (Subjects::default(), Document::read(README));
    let of_kind = |heading, kind: &str| -> Vec<String> {
        let rows = readme.rows(heading);
        rows.iter().filter(|row| row[1] == kind).flat_map(|row| quoted(&row[0])).collect()
    };
    assert_eq!(
        of_kind("Service", "service"),
        WorkerRole::iter().map(WorkerRole::service).collect::<Vec<_>>()
    );
    let groups: BTreeSet<_> = Verb::iter().map(|verb| verb.role().service().to_owned()).collect();
    assert_eq!(of_kind("Service", "queue group").into_iter().collect::<BTreeSet<_>>(), groups);
    assert_eq!(of_kind("Bucket and keys", "bucket"), [code.bucket()]);
    let blue = Subjects::with_prefix("blue").unwrap();
    for name in [blue.deletions_stream(), blue.bucket()] {
        assert!(readme.text().contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn headers_match_the_code() {
    let source = include_str!("../../common/contract/src/headers.rs");
    let values =
        source.lines().filter(|line| line.starts_with("pub const")).flat_map(|line| line.split('"').nth(1));
    let headers: BTreeSet<_> = values.map(ToOwned::to_owned).collect();
    assert_eq!(Document::read(README).names("Headers", 0), headers);
}

#[test]
fn request_bodies_are_documented() {
    let code = Subjects::default();
    let requests = Verb::iter().map(|verb| code.request(verb));
    let requests: BTreeSet<_> =
        requests.chain(node_requests().iter().map(|subject| shown(subject))).collect();
    assert_eq!(Document::read(README).names("Requests", 0), requests);
}

#[test]
fn errors_and_statuses_match_the_code() {
    let written = Document::read("docs/errors.md").all_rows();
    let written: Vec<(String, String)> =
        written.iter().map(|row| (quoted(&row[0]).concat(), row[1].clone())).collect();
    let known: BTreeSet<_> =
        FaultCode::iter().map(|code| (code.as_str().to_owned(), code.status().to_string())).collect();
    assert_eq!(written.len(), known.len(), "a code is there twice, or missing");
    assert_eq!(written.into_iter().collect::<BTreeSet<_>>(), known);
    let codes: BTreeSet<_> = known.into_iter().map(|(code, _)| code).collect();
    let named = Document::read(README).names("What to repeat", 0);
    assert!(named.is_subset(&codes), "nats/README.md names codes that there are not: {named:?}");
}
