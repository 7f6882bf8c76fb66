//! The deletion queue as operators see it, over HTTP, over NATS and in a shell.

use contract::{DeletionsReply, DeletionsRequest, Verb};
use domain::StateName;
use harness::process::run;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use simulator::{Fault, FaultKind, Operation};
use std::collections::BTreeSet;

async fn release(rig: &Rig, owner: &str) -> String {
    let claim = rig.api.allocate(owner).await;
    assert_eq!(claim.status, 201, "{claim:?}");
    assert_eq!(rig.api.release(claim.sandbox(), owner).await.status, 200);
    claim.sandbox().to_owned()
}

async fn list(rig: &Rig, query: &str) -> DeletionsReply {
    let listed = rig.api.admin(Method::GET, &format!("/v1/admin/deletions{query}")).await;
    assert_eq!(listed.status, 200, "{listed:?}");
    serde_json::from_value(listed.body).expect("a list")
}

/// One with a retry scheduled in an hour, one parked, and three waiting.
async fn mixed() -> (Rig, String, String) {
    let rig = Plan::new(8)
        .set("DELETION_RETRY_SECONDS_MIN", 3_600)
        .set("DELETION_RETRY_SECONDS_MAX", 3_600)
        .start()
        .await;
    let kind = FaultKind::status(500);
    rig.csp.fail(Operation::Delete, Fault::always(kind)).unwrap();
    let put_off = release(&rig, "put-off").await;
    eventually("a scheduled retry", TIMEOUT, || async {
        match rig.retries_scheduled().await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    rig.pause_deletions().await;
    let given_up = release(&rig, "given-up").await;
    let sandbox = rig.sandbox(&given_up).await.unwrap();
    rig.store
        .park_deletion(&sandbox.id, sandbox.epoch, sandbox.deletion().unwrap().requested_at)
        .await
        .unwrap();
    for number in 0..3 {
        release(&rig, &format!("student-{number}")).await;
    }
    eventually("the queue to show them all", TIMEOUT, || async {
        let totals = list(&rig, "").await.totals.expect("totals on the first page");
        // The message of the parked one waits as well; a reaper would acknowledge it without a deletion.
        let expected = (4, 1, Some(4));
        let seen = (totals.pending, totals.parked, totals.waiting);
        if seen == expected { Ok(()) } else { Err(totals) }
    })
    .await;
    (rig, put_off, given_up)
}

#[tokio::test]
async fn every_deletion_is_listed_over_every_transport() {
    let (rig, put_off, given_up) = Box::pin(mixed()).await;
    let all = list(&rig, "").await;
    assert_eq!((all.count, all.cursor.as_ref()), (5, None));
    let mut places: Vec<_> = all.deletions.iter().map(|entry| entry.place.as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, ["parked", "retrying", "waiting", "waiting", "waiting"]);
    let of = |id: &str| all.deletions.iter().find(|entry| entry.sandbox_id == id).expect("an entry");
    let retrying = of(&put_off);
    assert_eq!((retrying.place.as_str(), retrying.attempts), ("retrying", 1));
    assert!(retrying.last_error.as_ref().unwrap().contains("500"), "{retrying:?}");
    let wait = retrying.retry_at.expect("its time") - retrying.requested_at;
    assert!((1_800..=3_700).contains(&wait), "half of the delay is left to chance: {wait} s");
    let parked = of(&given_up);
    assert_eq!(
        (parked.place.as_str(), parked.status.as_str()),
        ("parked", StateName::DeletionFailed.as_str())
    );
    let totals = all.totals.clone().expect("totals");
    assert_eq!(totals.oldest_requested_at, Some(retrying.requested_at));

    let (mut seen, mut query) = (BTreeSet::new(), "?limit=2".to_owned());
    loop {
        let page = list(&rig, &query).await;
        assert!(page.count <= 2);
        seen.extend(page.deletions.into_iter().map(|entry| entry.sandbox_id));
        let Some(cursor) = page.cursor else { break };
        query = format!("?limit=2&cursor={cursor}");
    }
    assert_eq!(seen.len(), 5, "page by page, each once");
    let bad = rig.api.admin(Method::GET, "/v1/admin/deletions?cursor=elsewhere").await;
    assert_eq!(bad.status, 400, "{bad:?}");

    let request =
        DeletionsRequest { status: Some(StateName::DeletionFailed.into()), ..DeletionsRequest::default() };
    let reply = rig.ask(Verb::Deletions, serde_json::to_value(&request).unwrap()).await.unwrap();
    let reply: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((&reply["count"], &reply["deletions"][0]["sandbox_id"]), (&json!(1), &json!(given_up)));

    let env: Vec<_> = rig.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = run(&["deletions", "list"], &env).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&put_off) && said.contains("retrying") && said.contains("500"), "{said}");
    assert!(said.contains("4 pending (") && said.ends_with("; 1 parked\n"), "{said}");
    let output = run(&["deletions", "list", "--status", "deletion_failed", "--output", "json"], &env).await;
    let listed: DeletionsReply = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((listed.count, listed.deletions[0].sandbox_id.as_str()), (1, given_up.as_str()));
    rig.stop().await;
}
