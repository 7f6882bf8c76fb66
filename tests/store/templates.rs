//! The items of templates: versions that never change, and heads that are written conditionally.

use crate::engines::{Set, Shared};
use crate::fixtures::NOW;
use domain::pool::PoolKind;
use domain::template::{Image, Isolation, Network, Readiness, Runtime};
use domain::{Actor, Template, TemplateHead, TemplateId, TemplateSpec, UnixSeconds};
use harness::wait::{TIMEOUT, eventually};
use ports::store::Store;
use std::sync::Arc;
use std::time::Duration;

fn id(text: &str) -> TemplateId {
    TemplateId::parse(text).unwrap()
}

fn template(name: &str, version: u64) -> Template {
    Template {
        id: id(name),
        version,
        created_at: UnixSeconds::new(NOW.get() + version),
        by: Actor::parse("alice").unwrap(),
        spec: TemplateSpec::of_image(Image::Host),
    }
}

/// A spec with every field.
fn full(readiness: Readiness) -> TemplateSpec {
    TemplateSpec {
        kind: PoolKind::Container,
        image: Image::named("python:3.12"),
        command: vec!["python3".to_owned(), "-m".to_owned(), String::new()],
        cpu_milli: 250,
        memory_mb: 128,
        tmpfs_mb: 16,
        workspace_mb: 2_048,
        workspace: "/home/lab".to_owned(),
        pids: 64,
        ports: [80, 65_535].into(),
        env: [("LANG".to_owned(), "C".to_owned()), ("EMPTY".to_owned(), String::new())].into(),
        user: 0,
        network: Network::Open,
        readiness,
        ready_within: Duration::from_secs(90),
        isolation: Isolation::Container,
        runtime: Some(Runtime::Kata),
        is_untrusted: true,
        has_supervisor: false,
    }
}

async fn process(table: &Shared) -> Arc<dyn Store> {
    table.process(Set { shards: 2, index_lag_seconds: 0 }).await
}

async fn head(store: &dyn Store, name: &str) -> Option<TemplateHead> {
    store.template_head(&id(name)).await.unwrap()
}

/// Waits until the listing, which comes from an index, shows these.
async fn until_listed(store: &dyn Store, expected: &[&str]) {
    eventually("the templates", TIMEOUT, || async {
        let page = store.templates(None, 10).await.unwrap();
        let listed: Vec<_> = page.entries.into_iter().map(|head| head.id.to_string()).collect();
        if listed == expected { Ok(()) } else { Err(listed) }
    })
    .await;
}

pub(crate) async fn versions_are_written_once_and_conditionally(table: Shared) {
    let (one, other) = (process(&table).await, process(&table).await);
    assert_eq!(head(one.as_ref(), "python").await, None);
    let first = template("python", 1);
    assert!(one.write_template(None, &first).await.unwrap());
    assert!(!other.write_template(None, &template("python", 1)).await.unwrap(), "it is there");
    assert!(!other.write_template(None, &template("python", 2)).await.unwrap(), "a head is there");
    let seen = head(other.as_ref(), "python").await.unwrap();
    assert_eq!(seen, TemplateHead::with(None, &first));
    let readiness = [
        Readiness::Running,
        Readiness::Exec(vec!["true".to_owned()]),
        Readiness::Http { port: 80, path: "/health".to_owned() },
        Readiness::Tcp { port: 22 },
    ];
    let mut seen = seen;
    for (version, readiness) in (2..).zip(readiness) {
        let next = Template { spec: full(readiness), ..template("python", version) };
        assert!(!one.write_template(Some(&seen), &first).await.unwrap(), "no version is written twice");
        assert!(other.write_template(Some(&seen), &next).await.unwrap());
        assert!(!one.write_template(Some(&seen), &next).await.unwrap(), "the head has moved on");
        assert_eq!(one.template(&id("python"), version).await.unwrap(), Some(next.clone()), "every field");
        seen = TemplateHead::with(Some(&seen), &next);
        assert_eq!(head(one.as_ref(), "python").await, Some(seen.clone()));
    }
    assert_eq!(one.template(&id("python"), 1).await.unwrap(), Some(first));
    assert_eq!(one.template(&id("python"), 9).await.unwrap(), None);
}

pub(crate) async fn concurrent_writers_lose_no_version(table: Shared) {
    const WRITERS: u64 = 4;
    let mut writing = tokio::task::JoinSet::new();
    for writer in 1..=WRITERS {
        let store = process(&table).await;
        writing.spawn(async move {
            // As a caller does it: look, write, and look again after a lost race.
            loop {
                let seen = head(store.as_ref(), "python").await;
                let version = seen.as_ref().map_or(1, |seen| seen.version + 1);
                let mut next = template("python", version);
                next.spec.user = u32::try_from(writer).unwrap();
                if store.write_template(seen.as_ref(), &next).await.unwrap() {
                    return;
                }
            }
        });
    }
    while let Some(written) = writing.join_next().await {
        written.unwrap();
    }
    let versions = process(&table).await.template_versions(&id("python"), None, 10).await.unwrap();
    let numbers: Vec<_> = versions.entries.iter().map(|template| template.version).collect();
    assert_eq!(numbers, (1..=WRITERS).rev().collect::<Vec<_>>());
    let mut writers: Vec<u64> = versions.entries.iter().map(|template| template.spec.user.into()).collect();
    writers.sort_unstable();
    assert_eq!(writers, (1..=WRITERS).collect::<Vec<_>>(), "each change is a version");
}

pub(crate) async fn removed_template_is_not_listed_and_its_numbers_go_on(table: Shared) {
    let (one, other) = (process(&table).await, process(&table).await);
    let first = template("python", 1);
    assert!(one.write_template(None, &first).await.unwrap());
    until_listed(one.as_ref(), &["python"]).await;
    let seen = head(one.as_ref(), "python").await.unwrap();
    assert!(one.mark_template(&seen, Some(NOW)).await.unwrap());
    assert!(!other.mark_template(&seen, Some(NOW)).await.unwrap(), "it is removed already");
    assert!(!other.write_template(Some(&seen), &template("python", 2)).await.unwrap());
    until_listed(one.as_ref(), &[]).await;
    let removed = head(other.as_ref(), "python").await.unwrap();
    assert_eq!(removed, TemplateHead { removed_at: Some(NOW), ..seen.clone() });
    assert_eq!(other.template(&id("python"), 1).await.unwrap(), Some(first), "its versions stay");
    assert!(one.mark_template(&removed, None).await.unwrap());
    assert_eq!(head(one.as_ref(), "python").await, Some(seen.clone()));
    until_listed(one.as_ref(), &["python"]).await;
    assert!(one.mark_template(&seen, Some(NOW)).await.unwrap());
    let second = template("python", 2);
    assert!(other.write_template(Some(&removed), &second).await.unwrap());
    assert_eq!(head(one.as_ref(), "python").await, Some(TemplateHead::with(Some(&removed), &second)));
    until_listed(one.as_ref(), &["python"]).await;
}

pub(crate) async fn templates_and_versions_are_listed_in_pages(table: Shared) {
    let store = process(&table).await;
    for name in ["b", "a", "c"] {
        assert!(store.write_template(None, &template(name, 1)).await.unwrap());
    }
    until_listed(store.as_ref(), &["a", "b", "c"]).await;
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.templates(after.as_ref(), 2).await.unwrap();
        assert!(page.entries.len() <= 2);
        listed.extend(page.entries.into_iter().map(|head| head.id.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, ["a", "b", "c"]);
    for version in 2..=11 {
        let seen = head(store.as_ref(), "a").await;
        assert!(store.write_template(seen.as_ref(), &template("a", version)).await.unwrap());
    }
    let (mut numbers, mut before) = (Vec::new(), None);
    loop {
        let page = store.template_versions(&id("a"), before, 4).await.unwrap();
        numbers.extend(page.entries.into_iter().map(|template| template.version));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(numbers, (1..=11).rev().collect::<Vec<_>>(), "the newest first");
}
