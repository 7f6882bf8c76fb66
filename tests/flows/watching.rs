//! Watching a real fleet over HTTP: its events as they happen, and its workers.

use contract::{FleetReply, WorkerRole};
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use reqwest::{Method, Response};
use serde_json::Value;
use std::collections::BTreeMap;

/// A reader of Server-Sent Events.
struct Reader {
    answer: Response,
    read: String,
}

impl Reader {
    async fn open(rig: &Rig, query: &str, last: Option<&str>) -> Self {
        let mut request = rig
            .api
            .client
            .get(format!("{}/v1/admin/events{query}", rig.api.root))
            .bearer_auth(&rig.api.admin_token);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{query}");
        Self { answer, read: String::new() }
    }

    /// The sequences and events, once there are `count`.
    async fn events(&mut self, count: usize) -> Vec<(u64, Value)> {
        loop {
            let found = events(&self.read);
            if found.len() >= count {
                return found;
            }
            let chunk = tokio::time::timeout(TIMEOUT, self.answer.chunk()).await;
            let chunk = chunk.unwrap_or_else(|_| panic!("only {}", self.read)).unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("the answer ended: {}", self.read));
            self.read.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

fn events(text: &str) -> Vec<(u64, Value)> {
    let whole = text.split_inclusive("\n\n").filter(|frame| frame.ends_with("\n\n"));
    let field = |frame: &str, name: &str| {
        frame.lines().find_map(|line| line.strip_prefix(name).map(ToOwned::to_owned))
    };
    whole
        .filter_map(|frame| Some((field(frame, "id: ")?.parse().unwrap(), field(frame, "data: ")?)))
        .map(|(place, data)| (place, serde_json::from_str(&data).unwrap()))
        .collect()
}

#[tokio::test]
async fn event_reader_sees_the_lifecycle_and_resumes_without_loss() {
    let rig = Plan::new(3).start().await;
    // The events of the sandboxes' insertion, which the sync published in the background.
    let listed = Reader::open(&rig, "?after=0&type=listed", None).await.events(3).await;
    let mut dashboard = Reader::open(&rig, &format!("?after={}", listed[2].0), None).await;
    let claim = rig.api.allocate("student-1").await;
    let id = claim.sandbox().to_owned();
    let claimed = dashboard.events(1).await;
    assert_eq!(
        (&claimed[0].1["type"], &claimed[0].1["subject"]),
        (&"sandbox.claimed".into(), &id.clone().into())
    );
    assert_eq!(claimed[0].1["data"]["owner"], "student-1");
    // It disconnects, and later events wait for its return.
    drop(dashboard);
    rig.api.release(&id, "student-1").await;
    let mut dashboard = Reader::open(&rig, "?after=0", Some(&claimed[0].0.to_string())).await;
    let rest = dashboard.events(2).await;
    let kinds: Vec<_> = rest.iter().map(|(_, event)| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["sandbox.released", "sandbox.deleted"]);
    let of_it = Reader::open(&rig, &format!("?follow=false&sandbox={id}"), None).await.events(4).await;
    let versions: Vec<_> =
        of_it.iter().map(|(_, event)| event["data"]["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [1, 2, 3, 4]);
    // A following reader does not delay the end of the fleet.
    let follower = Reader::open(&rig, "", None).await;
    rig.stop().await;
    drop(follower);
}

#[tokio::test]
async fn fleet_endpoint_lists_every_role() {
    let rig = Plan::new(3).start().await;
    rig.api.allocate("student-1").await;
    let fleet: FleetReply = eventually("every role", TIMEOUT, || async {
        let answer = rig.api.admin(Method::GET, "/v1/admin/fleet").await;
        let fleet: FleetReply = serde_json::from_value(answer.body).unwrap();
        // This fleet has no nodes.
        let is_there = |(role, count): (&WorkerRole, &u64)| (*count > 0) != (*role == WorkerRole::Runner);
        if fleet.roles.iter().all(is_there) { Ok(fleet) } else { Err(fleet) }
    })
    .await;
    let count = |role| fleet.roles[&role];
    assert_eq!(count(WorkerRole::Ingress), 1);
    assert_eq!(fleet.workers.len() as u64, fleet.roles.values().sum::<u64>());
    let claims: BTreeMap<_, _> = fleet
        .workers
        .iter()
        .filter(|worker| worker.role == WorkerRole::Allocator)
        .map(|worker| (worker.id.as_str(), worker.work["allocate"].requests))
        .collect();
    assert_eq!(claims.len() as u64, count(WorkerRole::Allocator));
    assert_eq!(claims.values().sum::<u64>(), 1, "{claims:?}");
    let ingress = fleet.workers.iter().find(|worker| worker.role == WorkerRole::Ingress).unwrap();
    assert!(ingress.numbers["status_201"] >= 1 && ingress.in_flight >= Some(1), "{ingress:?}");
    rig.stop().await;
}
