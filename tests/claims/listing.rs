//! Lists of sandboxes, page by page, compared with the records: every filter, alone and combined, over pools, shards
//! and states, without concurrent changes and with many.

use crate::engines::Engine;
use crate::world::{Process, START, World};
use contract::{FaultCode, SandboxEntry, SandboxesReply, SandboxesRequest, Verb};
use domain::{
    Actor, Candidate, ClaimKey, ClaimRecord, Epoch, ExternalId, Grant, IdempotencyKey, LabId, NewSandbox,
    Order, OwnerId, PoolKind, PoolName, Reason, Sandbox, SandboxId, SandboxName, StateName, UnixSeconds,
};
use futures_util::{StreamExt as _, stream};
use ports::store::{Insert, SortRange, StateQuery, Store, Write};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use strum::IntoEnumIterator as _;

/// Pools, by name prefixes.
const POOLS: &str = "dns=dns-,wide=wide-,main";
/// More than one, so that each pool and state has sandboxes in several shards.
const SHARDS: u16 = 3;
/// The number of sandboxes in the test of filters.
const MANY: u32 = 2_101;
/// The number of sandboxes in the other tests on a slow engine.
const FEW: u32 = 601;
/// Fewer owners and labs than sandboxes; numbers without a common divisor mix them.
const OWNERS: u32 = 11;
const LABS: u32 = 4;
/// Concurrent writes of a test's preparation.
const AT_ONCE: usize = 16;
/// Pages of one walk after which it counts as endless.
const PAGES_MAX: usize = 5_000;
const LATER: UnixSeconds = UnixSeconds::new(START.get() + 3_600);

fn id(number: u32) -> SandboxId {
    SandboxId::parse(&number.to_string()).unwrap()
}

fn entry(number: u32) -> NewSandbox {
    let (pool, begin) = [("dns", "dns"), ("wide", "wide"), ("main", "lab")][number as usize % 3];
    NewSandbox {
        id: id(number),
        name: SandboxName::parse(&format!("{begin}-{}-{number:04}", number % 5)).unwrap(),
        external_id: ExternalId::parse(&format!("identity/accounts/u-{number}")).unwrap(),
        pool: PoolName::parse(pool).unwrap(),
        descriptor: domain::Descriptor::default(),
    }
}

fn owner_of(number: u32) -> OwnerId {
    OwnerId::parse(&format!("owner-{}", number % OWNERS)).unwrap()
}

fn claim_of(number: u32) -> ClaimKey {
    ClaimKey { owner: owner_of(number), key: IdempotencyKey::parse(&format!("key-{number:04}")).unwrap() }
}

/// Half are free, as in a real pool, and because that takes the fewest writes; the rest are spread over the other
/// states.
fn state_of(number: u32) -> StateName {
    let others = &StateName::indexed(Some(PoolKind::Account))[1..];
    if (number / 3).is_multiple_of(2) {
        StateName::Available
    } else {
        *others.get(number as usize / 6 % (others.len() + 1)).unwrap_or(&StateName::Deleted)
    }
}

fn done(write: Write) -> Sandbox {
    match write {
        Write::Done(sandbox) => *sandbox,
        Write::Lost(found) => panic!("lost to {found:?}"),
    }
}

fn order() -> Order {
    Order { by: Actor::parse("alice").unwrap(), reason: Reason::parse("smoke in it").unwrap() }
}

async fn added(store: &dyn Store, number: u32) -> Sandbox {
    match store.insert(&entry(number), START).await.unwrap() {
        Insert::Inserted(sandbox) => *sandbox,
        found => panic!("there is already {found:?}"),
    }
}

/// Claimed as an allocator does it, with claim item and grant.
async fn held(store: &dyn Store, number: u32) -> Sandbox {
    let candidate = added(store, number).await.candidate();
    granted(store, number, candidate).await
}

async fn granted(store: &dyn Store, number: u32, candidate: Candidate) -> Sandbox {
    let record = ClaimRecord::new(claim_of(number), candidate);
    store.open_claim(&record, LATER.after(Duration::from_secs(1 << 30))).await.unwrap();
    let lab = LabId::parse(&format!("lab-{}", number % LABS)).unwrap();
    let grant = Grant {
        claim: record.claim,
        candidate: record.candidate,
        // Some callers name no lab.
        lab: (!number.is_multiple_of(10)).then_some(lab),
        by: None,
        request: None,
        granted_at: START,
        expires_at: LATER,
        options: None,
    };
    done(store.grant(&grant).await.unwrap())
}

async fn ending(store: &dyn Store, number: u32) -> Sandbox {
    let sandbox = held(store, number).await;
    let ending = done(store.release(&sandbox.id, &owner_of(number), None, None, LATER).await.unwrap());
    // An allocator removes the claim item, unless it crashes before that.
    if number.is_multiple_of(2) {
        store.close_claim(&sandbox.last_claim().unwrap(), LATER).await.unwrap();
    }
    ending
}

async fn made(store: &dyn Store, number: u32) -> Sandbox {
    match state_of(number) {
        StateName::Available => added(store, number).await,
        StateName::Allocated => {
            let sandbox = held(store, number).await;
            // Another key of the same owner, and a third owner, also had this sandbox in their claim items.
            let claims = [owner_of(number), owner_of(number + 1)].map(|owner| ClaimKey {
                owner,
                key: IdempotencyKey::parse(&format!("lost-{number:04}")).unwrap(),
            });
            for claim in claims.into_iter().filter(|_| number.is_multiple_of(4)) {
                let candidate = sandbox.last_claim().unwrap().candidate;
                store.open_claim(&ClaimRecord::new(claim, candidate), LATER).await.unwrap();
            }
            sandbox
        }
        StateName::PendingDeletion => ending(store, number).await,
        StateName::DeletionFailed => {
            let sandbox = ending(store, number).await;
            done(store.park_deletion(&sandbox.id, sandbox.epoch, LATER).await.unwrap())
        }
        StateName::Stale => {
            let sandbox = added(store, number).await;
            done(store.mark_missing(&sandbox, LATER).await.unwrap())
        }
        StateName::Quarantined => {
            let is_held = number.is_multiple_of(2);
            let sandbox = if is_held { held(store, number).await } else { added(store, number).await };
            done(store.quarantine(&sandbox.candidate(), &order(), LATER).await.unwrap())
        }
        StateName::Deleted => {
            let sandbox = ending(store, number).await;
            let purge_at = LATER.after(Duration::from_secs(86_400));
            done(store.finish_deletion(&sandbox.id, Epoch::new(1), LATER, purge_at, None).await.unwrap())
        }
        state @ (StateName::Provisioning | StateName::ProvisionFailed) => panic!("no account is {state}"),
    }
}

/// A world of that many sandboxes, and the record of each after its last write.
async fn world(engine: Engine, count: u32) -> (World, Vec<Sandbox>) {
    let world = World::over(engine.fresh_store_of(SHARDS).await, 0, 7).await.with_pools(POOLS);
    let makings = (1..=count).map(|number| {
        let store = Arc::clone(&world.store);
        async move { made(&*store, number).await }
    });
    let sandboxes = stream::iter(makings).buffered(AT_ONCE).collect().await;
    (world, sandboxes)
}

/// The meaning of the filters, implemented a second time without an index.
fn is_meant(sandbox: &Sandbox, filters: &SandboxesRequest) -> bool {
    let SandboxesRequest { status, pool, lab, owner, name_prefix, cursor: _, limit: _ } = filters;
    let lease = sandbox.last_lease();
    let lab_of = lease.and_then(|lease| lease.lab.as_ref()).map(LabId::as_str);
    let state = sandbox.state.name();
    status.as_ref().map_or(state != StateName::Deleted, |status| status.known() == Some(state))
        && pool.as_ref().is_none_or(|pool| sandbox.pool.as_str() == pool)
        && lab.as_ref().is_none_or(|lab| lab_of == Some(lab.as_str()))
        && owner.as_ref().is_none_or(|owner| lease.is_some_and(|one| one.claim.owner.as_str() == owner))
        && name_prefix.as_ref().is_none_or(|prefix| sandbox.name.as_str().starts_with(prefix.as_str()))
}

async fn page_of(process: &Process, request: &SandboxesRequest) -> Result<SandboxesReply, FaultCode> {
    process.plain(Verb::Sandboxes, serde_json::to_vec(request).unwrap()).await
}

/// A complete walk; each page is requested from the next process, and `meanwhile` runs after each page.
async fn walked<F: Future<Output = ()>>(
    processes: &[Process],
    filters: &SandboxesRequest,
    limit: u32,
    mut meanwhile: impl FnMut(usize) -> F,
) -> Vec<SandboxEntry> {
    let mut found = Vec::new();
    let mut request = SandboxesRequest { limit: Some(limit), ..filters.clone() };
    for page in 0..PAGES_MAX {
        let reply = page_of(&processes[page % processes.len()], &request).await.unwrap();
        assert_eq!(reply.count, reply.sandboxes.len() as u64);
        assert!(reply.sandboxes.len() <= limit as usize, "{request:?}");
        found.extend(reply.sandboxes);
        let Some(cursor) = reply.cursor else { return found };
        assert_ne!(request.cursor.as_ref(), Some(&cursor), "the walk stands still: {request:?}");
        request.cursor = Some(cursor);
        meanwhile(page).await;
    }
    panic!("the walk does not end: {filters:?}");
}

fn ids(found: &[SandboxEntry]) -> Vec<&str> {
    let mut ids: Vec<_> = found.iter().map(|entry| entry.view.sandbox_id.as_str()).collect();
    ids.sort_unstable();
    ids
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Each filter alone, and every combination of two, three and more of them.
fn combinations() -> (Vec<SandboxesRequest>, Vec<SandboxesRequest>) {
    let states: Vec<_> = StateName::iter().map(|state| Some(state.into())).chain([None]).collect();
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for status in states {
        for bits in 0..16 {
            let chosen = |bit: u32, text: &str| (bits & (1 << bit) != 0).then(|| text.to_owned());
            let filters = SandboxesRequest {
                status: status.clone(),
                pool: chosen(0, "wide"),
                lab: chosen(1, "lab-1"),
                owner: chosen(2, "owner-5"),
                name_prefix: chosen(3, "wide-3"),
                ..SandboxesRequest::default()
            };
            let count = i32::from(status.is_some())
                + [1, 2, 4, 8].map(|bit| i32::from(bits & bit != 0)).iter().sum::<i32>();
            if count < 2 { alone.push(filters) } else { together.push(filters) }
        }
    }
    for (pool, lab, owner, name_prefix) in [
        (some("dns"), None, None, None),
        (some("main"), None, None, some("lab-2")),
        (some("no-such"), None, None, None),
        (None, some("no-such"), None, None),
        (None, None, some("no-such"), None),
        (None, None, None, some("no-such")),
        (None, None, None, some("d")),
        (some("dns"), some("lab-3"), some("owner-0"), some("dns-")),
    ] {
        together.push(SandboxesRequest { pool, lab, owner, name_prefix, ..SandboxesRequest::default() });
    }
    (alone, together)
}

pub(crate) async fn every_filter_combination_lists_the_matching_sandboxes(engine: Engine) {
    let (world, truth) = world(engine, MANY).await;
    // The second process starts later, as after a restart.
    let processes = [world.process(), world.process()];
    let mut walks = 0;
    // Memory runs every combination; the slow engine runs each filter alone, and some combinations.
    let (alone, together) = combinations();
    let step = if engine.is_slow() { 9 } else { 1 };
    for filters in alone.into_iter().chain(together.into_iter().step_by(step)) {
        let meant: Vec<_> = truth.iter().filter(|sandbox| is_meant(sandbox, &filters)).collect();
        let mut expected: Vec<_> = meant.iter().map(|sandbox| sandbox.id.as_str()).collect();
        expected.sort_unstable();
        // Small pages, unless that makes too many of them.
        let limits = match (engine.is_slow(), expected.len()) {
            (true, ..12) => [5, 1].as_slice(),
            (true, ..100) => &[9],
            (true, _) => &[60],
            (false, ..100) => &[100, 7, 1],
            (false, _) => &[100, 13],
        };
        for &limit in limits {
            let found = walked(&processes, &filters, limit, |_| async {}).await;
            assert_eq!(ids(&found), expected, "{filters:?} by {limit}");
            walks += 1;
            for entry in found.iter().take(3) {
                let number: usize = entry.view.sandbox_id.parse().unwrap();
                assert_eq!(*entry, SandboxEntry::of(&truth[number - 1]));
            }
        }
    }
    assert!(walks > 20, "only {walks} walks");
}

/// The free sandboxes of one pool, in the order of the index.
async fn free_ones(store: &dyn Store, pool: &str) -> Vec<Sandbox> {
    let mut found = Vec::new();
    for shard in 0..store.shards().await.unwrap() {
        let pool = PoolName::parse(pool).unwrap();
        let query = StateQuery { pool, state: StateName::Available, shard, range: SortRange::All };
        found.extend(store.page(&query, None, 1_000).await.unwrap().sandboxes);
    }
    found
}

pub(crate) async fn unchanged_sandbox_is_listed_once_during_changes(engine: Engine) {
    let count = if engine.is_slow() { FEW } else { MANY };
    let (world, before) = world(engine, count).await;
    let (processes, store) = ([world.process(), world.process()], Arc::clone(&world.store));
    // The sandboxes of two pools change, a few after every page: claimed, released, deleted, missing, quarantined.
    let movers = [free_ones(&*store, "main").await, free_ones(&*store, "dns").await].concat();
    let moving: BTreeSet<_> = movers.iter().map(|sandbox| sandbox.id.to_string()).collect();
    assert!(moving.len() > 40, "{}", moving.len());
    let meanwhile = |page: usize| {
        let (store, movers) = (Arc::clone(&store), &movers);
        async move {
            for turn in 0..4 {
                // Alternately from the end of the lists, where the walk has not been yet, and from the beginning.
                let at =
                    if turn % 2 == 0 { page * 2 + turn } else { movers.len().wrapping_sub(page * 2 + turn) };
                let Some(seen) = movers.get(at) else { continue };
                let number: u32 = seen.id.as_str().parse().unwrap();
                match turn {
                    0 => drop(store.mark_missing(seen, LATER).await.unwrap()),
                    1 => drop(store.quarantine(&seen.candidate(), &order(), LATER).await.unwrap()),
                    _ => {
                        if store.sandbox(&seen.id).await.unwrap().unwrap().version != seen.version {
                            continue;
                        }
                        granted(&*store, number, seen.candidate()).await;
                        done(store.release(&seen.id, &owner_of(number), None, None, LATER).await.unwrap());
                    }
                }
            }
        }
    };
    let found = walked(&processes, &SandboxesRequest::default(), 9, meanwhile).await;
    let is_still = |sandbox: &&Sandbox| {
        sandbox.state.name() != StateName::Deleted && !moving.contains(sandbox.id.as_str())
    };
    let mut expected: Vec<_> = before.iter().filter(is_still).map(|sandbox| sandbox.id.as_str()).collect();
    expected.sort_unstable();
    let mut shown = ids(&found);
    shown.retain(|id| !moving.contains(*id));
    assert_eq!(shown, expected, "what stays as it is is shown once");
    let mut moved = 0;
    for seen in &movers {
        moved += usize::from(store.sandbox(&seen.id).await.unwrap().unwrap() != *seen);
    }
    assert!(moved > 20, "only {moved} have moved");
}

pub(crate) async fn index_growth_during_a_listing_hides_nothing(engine: Engine) {
    let count = if engine.is_slow() { FEW } else { MANY };
    let (world, before) = world(engine, count).await;
    let (processes, store) = ([world.process(), world.process()], Arc::clone(&world.store));
    let meanwhile = |page: usize| {
        let store = Arc::clone(&store);
        async move {
            if page == 3 {
                // Doubles the number of shards once every process has seen that, and adds sandboxes in the new shards.
                let wanted = u64::from(SHARDS) * 2 * ports::store::layout::SANDBOXES_PER_SHARD;
                store.follow_size(wanted, LATER).await.unwrap();
                store.follow_size(wanted, LATER.after(Duration::from_secs(120))).await.unwrap();
                for number in count + 1..count + 101 {
                    added(&*store, number).await;
                }
            }
        }
    };
    let found = walked(&processes, &SandboxesRequest::default(), 20, meanwhile).await;
    let is_there = |sandbox: &&Sandbox| sandbox.state.name() != StateName::Deleted;
    let mut expected: Vec<_> = before.iter().filter(is_there).map(|sandbox| sandbox.id.as_str()).collect();
    expected.sort_unstable();
    let mut shown = ids(&found);
    shown.retain(|id| id.parse::<u32>().unwrap() <= count);
    assert_eq!(shown, expected);
    let again = walked(&processes, &SandboxesRequest::default(), 100, |_| async {}).await;
    assert_eq!(again.len(), expected.len() + 100, "a walk after it shows the new ones as well");
}
