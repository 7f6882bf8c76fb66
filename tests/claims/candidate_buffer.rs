//! The candidate buffer of a process: it is refilled before it is empty, processes start at different places in the
//! index, and no process reports an empty pool before it has read every shard.

use crate::world::{Process, START, World, claim_of, new_sandbox};
use ::dynamodb::DynamoStore;
use async_trait::async_trait;
use contract::{FaultCode, Outcome};
use domain::{PoolName, SandboxId, StateName};
use harness::dynamodb;
use ports::clock::Clock as _;
use ports::store::{Insert, Layout as _, SortRange, StateQuery, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use testkit::interposed::{Call, InterposedStore, Interposer};
use testkit::store::MemoryStore;
use tokio::sync::watch;

/// The timeout of a caller that expects a refusal, or a sandbox, at once.
const SHORT: Duration = Duration::from_millis(400);
/// How far the index may lag in a test.
const LAG: Duration = Duration::from_secs(30);

/// Blocks every read of the index while it is closed.
#[derive(Debug)]
struct StoreGate {
    open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

#[async_trait]
impl Interposer for StoreGate {
    async fn before(&self, call: Call) -> Result<(), StoreError> {
        if call.operation == "page" {
            self.waiting.send_modify(|waiting| *waiting += 1);
            self.open.subscribe().wait_for(|open| *open).await.expect("the gate stays");
            self.waiting.send_modify(|waiting| *waiting -= 1);
        }
        Ok(())
    }

    async fn after(&self, _call: Call) -> Result<(), StoreError> {
        Ok(())
    }
}

fn main_pool() -> PoolName {
    PoolName::parse(crate::world::POOL).unwrap()
}

async fn claim_next(process: &Process, number: &mut usize) {
    *number += 1;
    let answer = process.ask(&claim_of(&format!("owner-{number}")), SHORT).await;
    assert_eq!(answer.map(|lent| lent.outcome), Ok(Outcome::Created), "claim {number}");
}

#[tokio::test]
async fn buffer_is_refilled_before_it_is_empty() {
    let gate = Arc::new(StoreGate { open: watch::Sender::new(true), waiting: watch::Sender::new(0) });
    let world = World::over(Arc::new(MemoryStore::new(2)), 2_000, 1).await;
    let behind: Arc<dyn Store> = Arc::new(InterposedStore::over(Arc::clone(&world.store), Arc::clone(&gate)));
    let process = world.process_over(behind);
    let mut number = 0;
    claim_next(&process, &mut number).await;
    assert_eq!(process.rounds(), 1);

    gate.open.send_replace(false);
    while *gate.waiting.borrow() == 0 {
        // With an empty buffer this claim would wait at the gate until its timeout.
        claim_next(&process, &mut number).await;
        tokio::task::yield_now().await;
    }
    for _ in 0..30 {
        claim_next(&process, &mut number).await;
    }
    assert_eq!((process.rounds(), *gate.waiting.borrow()), (2, 1), "one looks, the others go on");

    gate.open.send_replace(true);
    for _ in 0..800 {
        claim_next(&process, &mut number).await;
    }
    assert_eq!(process.lost_races(), 0);
}

#[tokio::test]
async fn nearly_empty_pool_is_not_read_for_every_claim() {
    let world = World::over(Arc::new(MemoryStore::new(2)), 200, 1).await;
    let process = world.process();
    for number in 0..200 {
        process.claim(&format!("owner-{number}")).await.unwrap();
        tokio::task::yield_now().await;
    }
    let rounds = process.rounds();
    assert!(rounds <= 10, "{rounds} rounds for 200 claims");
    assert_eq!(process.claim("one-too-many").await, Err(FaultCode::PoolExhausted));
}

#[tokio::test]
async fn cold_processes_start_at_different_candidates() {
    for prefix in [None, Some("lab-".to_owned())] {
        let world = World::over(Arc::new(MemoryStore::new(1)), 6_000, 1).await;
        let processes = [world.process(), world.process(), world.process()];
        for number in 0..100 {
            for (place, process) in processes.iter().enumerate() {
                let mut request = claim_of(&format!("owner-{place}-{number}"));
                request.name_prefix.clone_from(&prefix);
                process.ask(&request, SHORT).await.unwrap();
            }
        }
        // From one common starting point, each process would have lost about forty races.
        let lost: u64 = processes.iter().map(Process::lost_races).sum();
        assert!(lost <= 30, "{lost} lost races with prefix {prefix:?}");
    }
}

/// Two processes alternately take half of a small pool. If they kept candidates for long, the other process would have
/// taken a quarter of those: about sixty lost races for each five hundred claims.
#[tokio::test]
async fn processes_buffer_only_candidates_they_soon_use() {
    let mut lost = 0;
    for seed in 1..=10 {
        let world = World::over(Arc::new(MemoryStore::new(8)), 1_000, seed).await;
        let processes = [world.process(), world.process()];
        for number in 0..250 {
            for (place, process) in processes.iter().enumerate() {
                process.claim(&format!("owner-{place}-{number}")).await.unwrap();
            }
        }
        lost += processes.iter().map(Process::lost_races).sum::<u64>();
    }
    assert!(lost <= 300, "{lost} lost races of 5,000");
}

#[tokio::test]
async fn pool_is_not_exhausted_while_the_index_may_lag() {
    let memory = MemoryStore::new(2);
    let lagging: Arc<dyn Store> = Arc::new(memory.set_otherwise(2, LAG));
    let world = World::over(Arc::clone(&lagging), 0, 1).await;
    let process = world.process();
    assert_eq!(
        process.ask(&claim_of("early"), SHORT).await,
        Err(FaultCode::PoolExhausted),
        "nothing ever came"
    );

    lagging.note_supply(&main_pool(), world.clock.now()).await.unwrap();
    assert_eq!(process.ask(&claim_of("during"), SHORT).await, Err(FaultCode::Contended));
    world.clock.advance(LAG);
    assert_eq!(
        process.ask(&claim_of("during"), SHORT).await,
        Err(FaultCode::Contended),
        "the note may be late"
    );
    world.clock.advance(LAG);
    assert_eq!(process.ask(&claim_of("after"), SHORT).await, Err(FaultCode::PoolExhausted));
}

#[tokio::test]
async fn waiting_claim_gets_supply_once_the_index_shows_it() {
    let memory = MemoryStore::new(2);
    let lagging: Arc<dyn Store> = Arc::new(memory.set_otherwise(2, LAG));
    let world = World::over(Arc::clone(&lagging), 0, 1).await;
    lagging.note_supply(&main_pool(), START).await.unwrap();
    let process = world.process();
    let waiting = tokio::spawn({
        let process = process.clone();
        async move { process.claim("waiting").await }
    });
    while process.rounds() == 0 {
        tokio::task::yield_now().await;
    }
    let shown = world.add().await;
    while !waiting.is_finished() {
        world.clock.advance(Duration::from_millis(100));
        tokio::task::yield_now().await;
    }
    assert_eq!(waiting.await.unwrap().unwrap().id(), shown.id);
}

/// A process caches the number of shards; before it reports an empty pool, it reads that number again.
#[tokio::test]
async fn new_shards_are_read_before_the_pool_is_exhausted() {
    let endpoint = dynamodb::dynoxide_endpoint();
    let name = dynamodb::fresh_table_name();
    let few = DynamoStore::connect(&dynamodb::config(endpoint, &name, 2)).await;
    few.ensure_table().await.unwrap();
    let world = World::over(Arc::new(few), 0, 1).await;
    let process = world.process();
    assert_eq!(process.ask(&claim_of("early"), SHORT).await, Err(FaultCode::PoolExhausted));

    let many = DynamoStore::connect(&dynamodb::config(endpoint, &name, 64)).await;
    many.follow_size(0, START).await.unwrap();
    let shards = many.follow_size(0, START.after(Duration::from_secs(600))).await.unwrap();
    assert_eq!((shards.write, shards.read), (64, 64));
    let far = in_a_far_shard(&many).await;
    assert_eq!(process.claim("late").await.unwrap().id(), far);
}

/// Adds sandboxes until one is beyond the first two shards, and leaves only that one free.
async fn in_a_far_shard(store: &DynamoStore) -> SandboxId {
    for number in 1.. {
        let Insert::Inserted(sandbox) = store.insert(&new_sandbox(number), START).await.unwrap() else {
            panic!("{number} exists already");
        };
        let mut near = 0;
        for shard in 0..2 {
            let query =
                StateQuery { pool: main_pool(), state: StateName::Available, shard, range: SortRange::All };
            near += store.count(&query).await.unwrap();
        }
        if near == 0 {
            return sandbox.id;
        }
        (store as &dyn Store).mark_missing(&sandbox, START).await.unwrap();
    }
    unreachable!("numbers do not end")
}
