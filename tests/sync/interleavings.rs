//! Two syncs at once, repeatedly, during 200 claims and 200 deletions. All tasks run on one thread, and each yields at
//! every call of a port for a number of turns that the seed decides: so a seed decides the order of all calls.

use crate::world::{HOUR, NOW, account, claim, id, new_sandbox, owner, reconciler, sync};
use async_trait::async_trait;
use domain::{ExternalId, State, StateName, UnixSeconds};
use ports::provider::{Abilities, Deleted, Listing, Prepared, Provider, ProviderError, Target};
use ports::random::{Random as _, Rng, shuffle};
use ports::store::{Store, StoreError, Write};
use std::collections::BTreeMap;
use std::sync::Arc;
use testkit::clock::ManualClock;
use testkit::interposed::{Call, InterposedStore, Interposer};
use testkit::provider::FakeProvider;
use testkit::store::MemoryStore;
use tokio::task::{JoinSet, yield_now};

/// The number of seeds, each of which gives another order.
const SEEDS: u64 = 500;
const CLAIMS: usize = 200;
const DELETIONS: usize = 200;
/// Accounts without an interested owner, so that a claim that loses a race finds another one.
const SPARE: usize = 40;
const ACCOUNTS: usize = CLAIMS + DELETIONS + SPARE;
/// Syncs by each of the two reconcilers while the others work.
const SYNCS: usize = 2;
/// The maximum of turns that a call yields, before and after it takes effect.
const TURNS_MAX: usize = 8;
/// The maximum of turns before a claim or a deletion begins: about the length of a sync.
const START_TURNS_MAX: usize = 300;
/// Start positions of the claims' searches; fewer than claims, so that some compete for the same sandbox.
const BEGINNINGS: usize = 150;
const LEASE_END: UnixSeconds = UnixSeconds::new(1_800_014_400);

/// Yields.
#[derive(Debug)]
struct Turns {
    rng: Rng,
}

/// A provider that yields as well.
#[derive(Debug)]
struct Slow {
    inner: FakeProvider,
    turns: Arc<Turns>,
}

/// Counts of the events in all orders together.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, u64>);

impl Turns {
    async fn give_way(&self) {
        wait(self.rng.below(TURNS_MAX)).await;
    }
}

#[async_trait]
impl Interposer for Turns {
    async fn before(&self, _: Call) -> Result<(), StoreError> {
        self.give_way().await;
        Ok(())
    }

    async fn after(&self, _: Call) -> Result<(), StoreError> {
        self.give_way().await;
        Ok(())
    }
}

#[async_trait]
impl Provider for Slow {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    async fn list(&self, offset: u64) -> Result<Listing, ProviderError> {
        self.turns.give_way().await;
        let listed = self.inner.list(offset).await;
        self.turns.give_way().await;
        listed
    }

    async fn prepare_delete(&self, target: &Target) -> Result<Prepared, ProviderError> {
        self.inner.prepare_delete(target).await
    }

    async fn delete(&self, target: &Target) -> Result<Deleted, ProviderError> {
        self.turns.give_way().await;
        let deleted = self.inner.delete(target).await;
        self.turns.give_way().await;
        deleted
    }
}

impl Tally {
    fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }
}

async fn wait(turns: usize) {
    for _ in 0..turns {
        yield_now().await;
    }
}

/// Claims the first sandbox of `order` that is free at this moment.
async fn claim_one(store: Arc<dyn Store>, number: usize, order: Vec<usize>, turns: usize) -> (usize, u64) {
    wait(turns).await;
    for target in order {
        let Some(seen) = store.sandbox(&id(target)).await.unwrap() else { continue };
        if seen.state != State::Available {
            continue;
        }
        if let Some(held) = claim(store.as_ref(), &seen, number, LEASE_END).await {
            return (target, held.epoch.get());
        }
    }
    panic!("{number} found nothing");
}

/// Deletes a held sandbox as release and reaper do.
async fn delete_one(store: Arc<dyn Store>, provider: Arc<Slow>, number: usize, turns: usize) {
    wait(turns).await;
    let released = match store.release(&id(number), &owner(number), None, None, NOW).await.unwrap() {
        Write::Done(released) => released,
        Write::Lost(found) => panic!("{found:?}"),
    };
    let target = Target {
        external_id: ExternalId::parse(&account(number).external_id).unwrap(),
        name: released.name.clone(),
        descriptor: domain::Descriptor::default(),
    };
    provider.delete(&target).await.unwrap();
    let finished =
        store.finish_deletion(&id(number), released.epoch, NOW, NOW.after(HOUR), None).await.unwrap();
    assert!(matches!(finished, Write::Done(_)), "{finished:?}");
}

async fn one_order(seed: u64, tally: &mut Tally) {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(4));
    let turns = Arc::new(Turns { rng: Rng::seeded(seed) });
    let store: Arc<dyn Store> = Arc::new(InterposedStore::over(Arc::clone(&memory), Arc::clone(&turns)));
    let provider = Arc::new(Slow { inner: FakeProvider::new(), turns: Arc::clone(&turns) });
    let rng = Rng::seeded(seed + 1_000_000);
    provider.inner.set_page_size(100);
    provider.inner.set_accounts((0..ACCOUNTS).map(account).collect());
    for number in 0..ACCOUNTS {
        // One in ten is new to the pool, so that syncs also insert sandboxes meanwhile.
        if number >= DELETIONS && number % 10 == 0 {
            continue;
        }
        memory.insert(&new_sandbox(number), NOW).await.unwrap();
        if number < DELETIONS {
            let seen = memory.sandbox(&id(number)).await.unwrap().unwrap();
            claim(memory.as_ref(), &seen, number, LEASE_END).await.unwrap();
        }
    }
    let clock = ManualClock::at(NOW);
    let mut claims = JoinSet::new();
    let mut rest = JoinSet::new();
    let mut order: Vec<usize> = (DELETIONS..ACCOUNTS).collect();
    shuffle(&rng, &mut order);
    for number in 0..CLAIMS {
        let mut order = order.clone();
        order.rotate_left(number % BEGINNINGS);
        claims.spawn(claim_one(Arc::clone(&store), ACCOUNTS + number, order, rng.below(START_TURNS_MAX)));
    }
    for number in 0..DELETIONS {
        let turns = rng.below(START_TURNS_MAX);
        rest.spawn(delete_one(Arc::clone(&store), Arc::clone(&provider), number, turns));
    }
    let mut syncs = JoinSet::new();
    for _ in 0..2 {
        let reconciler = reconciler(Arc::clone(&store), provider.clone(), &clock);
        syncs.spawn(async move {
            let mut reports = Vec::new();
            for _ in 0..SYNCS {
                reports.push(sync(&reconciler).await);
            }
            reports
        });
    }
    let answers = claims.join_all().await;
    rest.join_all().await;
    for report in syncs.join_all().await.into_iter().flatten() {
        tally.add(if report.status.as_str() == "completed" { "completed" } else { "refused" }, 1);
        tally.add("raced", report.raced);
        tally.add("inserted", report.inserted);
        tally.add("tombstoned", report.tombstoned);
        tally.add("marked stale", report.marked_stale);
    }
    assert_sound(memory.as_ref(), &answers, seed).await;
    // When all tasks have ended, one sync brings the records in line, and the next one changes nothing.
    let reconciler = reconciler(Arc::clone(&memory), provider.clone(), &clock);
    let report = sync(&reconciler).await;
    assert_eq!(
        (report.status.as_str(), report.marked_stale, report.allocated_missing),
        ("completed", 0, 0),
        "seed {seed}"
    );
    let report = sync(&reconciler).await;
    assert_eq!(report.unchanged, report.listed, "seed {seed}: {report:?}");
    assert_sound(memory.as_ref(), &answers, seed).await;
    let mut free = 0;
    for number in DELETIONS..ACCOUNTS {
        free += usize::from(memory.sandbox(&id(number)).await.unwrap().unwrap().state == State::Available);
    }
    assert_eq!(free, SPARE, "seed {seed}: whatever is listed and not held is free");
}

/// No claim is undone, no deleted account is back, and every free sandbox is listed.
async fn assert_sound(store: &dyn Store, answers: &[(usize, u64)], seed: u64) {
    assert_eq!(answers.len(), CLAIMS);
    let mut held = BTreeMap::new();
    for (number, epoch) in answers {
        assert_eq!(held.insert(*number, *epoch), None, "seed {seed}: {number} went to two owners");
        let sandbox = store.sandbox(&id(*number)).await.unwrap().unwrap();
        assert_eq!(sandbox.state.name(), StateName::Allocated, "seed {seed}: {sandbox:?}");
        assert_eq!(sandbox.epoch.get(), *epoch, "seed {seed}");
    }
    for number in 0..DELETIONS {
        let sandbox = store.sandbox(&id(number)).await.unwrap().unwrap();
        assert_eq!(sandbox.state.name(), StateName::Deleted, "seed {seed}: {sandbox:?}");
    }
}

/// A quarter of all orders; the quarters run in parallel.
async fn orders(quarter: u64) {
    let mut tally = Tally::default();
    for seed in quarter * SEEDS / 4..(quarter + 1) * SEEDS / 4 {
        one_order(seed, &mut tally).await;
    }
    println!("{:?}", tally.0);
    // Without these events, the orders would prove little.
    for what in ["completed", "raced", "inserted", "tombstoned"] {
        assert!(tally.0.get(what).is_some_and(|count| *count > 0), "{what} never came up: {:?}", tally.0);
    }
}

#[tokio::test]
async fn sync_undoes_no_claim_and_restores_nothing_seeds_1_of_4() {
    orders(0).await;
}

#[tokio::test]
async fn sync_undoes_no_claim_and_restores_nothing_seeds_2_of_4() {
    orders(1).await;
}

#[tokio::test]
async fn sync_undoes_no_claim_and_restores_nothing_seeds_3_of_4() {
    orders(2).await;
}

#[tokio::test]
async fn sync_undoes_no_claim_and_restores_nothing_seeds_4_of_4() {
    orders(3).await;
}
