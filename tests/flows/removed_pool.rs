//! A pool with leases and deletions loses its item, as a pool of an older build has none: they end normally, and none
//! is forgotten.

use domain::{PoolName, Sandbox, StateName};
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::store::{SortRange, StateQuery};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

const POOLS: &str = "old=lab-,main";

async fn claimed(rig: &Rig, owner: &str) -> Sandbox {
    let claim = rig.api.allocate_with(owner, &[("X-Sandbox-Pool", "old")]).await;
    assert_eq!(claim.status, 201, "{claim:?}");
    rig.sandbox(claim.sandbox()).await.expect("the sandbox is there")
}

async fn free_of(rig: &Rig, pool: &str) -> usize {
    let mut count = 0;
    for shard in 0..rig.store.shards().await.unwrap() {
        let pool = PoolName::parse(pool).unwrap();
        let query = StateQuery { pool, state: StateName::Available, shard, range: SortRange::All };
        count += rig.store.count(&query).await.unwrap() as usize;
    }
    count
}

#[tokio::test]
async fn removed_pool_is_drained() {
    let mut rig = Plan::new(8).set("POOLS", POOLS).counts(|counts| counts.reapers = 0).start().await;
    let free = free_of(&rig, "old").await;
    assert_eq!(free, 8, "the accounts of the simulator are in it");
    let (over, held, ending) = (
        claimed(&rig, "student-1").await,
        claimed(&rig, "student-2").await,
        claimed(&rig, "student-3").await,
    );
    assert_eq!(rig.api.release(ending.id.as_str(), "student-3").await.status, 200);
    // Without its message, as after the loss of the stream.
    rig.purge_deletions().await;
    rig.change_counts(|counts| counts.reapers = 1);
    rig.stop_fleet().await.unwrap();
    rig.env.insert("POOLS".to_owned(), "main".to_owned());
    assert!(rig.store.remove_pool(&PoolName::parse("old").unwrap(), 1).await.unwrap());
    rig.start_again().await;

    // No sandbox is granted, and the answer says that other workers may be configured differently.
    let refused = eventually("an answer of a worker", TIMEOUT, || async {
        let refused = rig.api.allocate_with("student-4", &[("X-Sandbox-Pool", "old")]).await;
        if refused.code() == "NOT_HERE" { Ok(refused) } else { Err(refused) }
    })
    .await;
    assert_eq!(refused.status, 503, "{refused:?}");
    let wrong = rig.api.allocate_with("student-4", &[("X-Sandbox-Pool", "nonsense")]).await;
    assert_eq!((wrong.status, wrong.code()), (400, "INVALID_REQUEST"), "{wrong:?}");

    // The pool is shown as not configured.
    let stats = rig.api.stats().await;
    assert_eq!(stats["not_configured"], json!(["old"]), "{stats}");
    assert_eq!(stats["pools"]["old"]["allocated"], json!(2), "{stats}");
    let census = rig.census().await.census;
    assert_eq!(census.pools["old"].allocated, 2, "{census:?}");
    let listed = rig.api.admin(Method::GET, "/v1/admin/sandboxes?status=allocated").await;
    assert_eq!(listed.body["count"], json!(2), "{listed:?}");

    // Its leases belong to their owners until they end, and they do end.
    assert_eq!(rig.api.release(held.id.as_str(), "student-2").await.status, 200);
    let sync = rig.sync().await;
    assert_eq!((sync.status.as_str(), sync.inserted, sync.raced), ("completed", 0, 0), "{sync:?}");
    rig.clock.advance(Duration::from_secs(100 * 3_600));
    rig.run(contract::TickKind::EXPIRY).await;
    rig.sweep().await;
    for sandbox in [&over, &held, &ending] {
        rig.until_state(sandbox.id.as_str(), StateName::Deleted).await;
    }
    rig.stop().await;
}
