//! An allocator loses its network in the middle of a claim: another one answers the request, the student finishes, and
//! then the first one continues.

use domain::{ClaimKey, IdempotencyKey, OwnerId, StateName};
use harness::freezing_proxy::{Freeze, FreezingProxy};
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::store::{SortRange, StateQuery};

const OWNER: &str = "student-1";
const ACCOUNTS: u64 = 3;

/// The number of sandboxes of the only pool in that state, by the table's index.
async fn count(rig: &Rig, state: StateName) -> u64 {
    let pool = domain::PoolName::parse("main").unwrap();
    let mut count = 0;
    for shard in 0..rig.store.shards().await.unwrap() {
        let query = StateQuery { pool: pool.clone(), state, shard, range: SortRange::All };
        count += rig.store.count(&query).await.unwrap();
    }
    count
}

/// Stalls an allocator at its write of the claim item, and releases it when the request was answered and the lease has
/// ended.
async fn late(is_before: bool) {
    // Its normal timeouts would make it give up before the test releases it.
    let plan = Plan::new(ACCOUNTS as usize)
        .set("STORE_ATTEMPT_TIMEOUT_MS", 60_000)
        .set("STORE_OPERATION_TIMEOUT_MS", 60_000)
        .set("REQUEST_ATTEMPT_MS", 1_000)
        .set("REQUEST_DEADLINE_MS", 60_000)
        .set("NO_RESPONDERS_PATIENCE_MS", 30_000);
    let rig = plan.counts(|counts| counts.allocators = 0).start_unsynced().await;
    rig.sync().await;
    assert_eq!(count(&rig, StateName::Available).await, ACCOUNTS);
    let folder = tempfile::tempdir().unwrap();
    let (nats, table) = (rig.env["NATS_URL"].clone(), rig.env["DYNAMODB_ENDPOINT"].clone());
    let to_nats = FreezingProxy::start(&nats, None).await;
    let claim_item = Freeze { word: format!("CLAIM#{OWNER}"), time: 1, is_before };
    let to_table = FreezingProxy::start(&table, Some(claim_item)).await;
    let first = rig.start_role("allocator", folder.path(), to_nats.address(), to_table.address()).await;
    let asked = tokio::spawn({
        let api = rig.api.clone();
        async move { api.allocate(OWNER).await }
    });
    eventually("an allocator at its first write", TIMEOUT, || async {
        if to_table.is_frozen() { Ok(()) } else { Err(first.output()) }
    })
    .await;
    to_nats.hold();
    let second = rig.start_role("allocator", folder.path(), &nats, &table).await;
    let claim = asked.await.unwrap();
    assert_eq!(claim.status, 201, "a further attempt at the request made the lease: {claim:?}");
    // The attempts that the server delivered to the first allocator are stalled as well.
    let released = eventually("a release", TIMEOUT, || async {
        let answer = rig.api.release(claim.sandbox(), OWNER).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!(released.body["status"], "pending_deletion");

    to_nats.let_go();
    to_table.let_go();
    assert_eq!(first.stop(TIMEOUT).await, Some(0), "{}", first.output());
    assert_eq!(count(&rig, StateName::Allocated).await, 0, "the late one took nothing: {}", first.output());
    assert_eq!(count(&rig, StateName::Available).await, ACCOUNTS - 1, "{}", first.output());
    let owner = OwnerId::parse(OWNER).unwrap();
    let key = ClaimKey { key: IdempotencyKey::from(&owner), owner };
    let item = rig.store.find_claim(&key).await.unwrap().expect("it is kept");
    assert!(item.is_closed && item.answered.len() == 1, "{item:?}");
    assert_eq!(item.candidate.id.as_str(), claim.sandbox());
    // Another request is a new claim.
    let next = rig.api.allocate(OWNER).await;
    assert_eq!(next.status, 201, "{next:?}");
    assert_ne!(next.sandbox(), claim.sandbox());
    assert_eq!(second.stop(TIMEOUT).await, Some(0), "{}", second.output());
    rig.stop().await;
}

#[tokio::test]
async fn attempt_delayed_before_its_first_write_takes_nothing() {
    Box::pin(late(true)).await;
}

#[tokio::test]
async fn attempt_delayed_after_its_first_write_takes_nothing() {
    Box::pin(late(false)).await;
}
