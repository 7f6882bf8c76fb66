//! Sandboxes, claims, and the claim loop of the design, written directly on the port.

use domain::{
    Actor, Candidate, ClaimKey, ClaimOptions, ClaimRecord, Epoch, Extension, ExternalId, Grant,
    IdempotencyKey, LabId, NewSandbox, Order, OwnerId, PoolName, Reason, RequestKey, Sandbox, SandboxId,
    SandboxName, StateName, UnixSeconds,
};
use ports::store::{Insert, MoveClaim, OpenClaim, SortRange, StateQuery, Store, StoreError, Write};
use std::collections::HashSet;

pub(crate) const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);
pub(crate) const LEASE_END: UnixSeconds = UnixSeconds::new(1_800_014_400);
pub(crate) const LATER: UnixSeconds = UnixSeconds::new(1_800_020_000);
pub(crate) const KEEP_UNTIL: UnixSeconds = UnixSeconds::new(1_900_000_000);
/// Steps after which the loop of one claim counts as stuck.
const STEPS_MAX: usize = 1_000;
/// Page size of [`listed`]: small, so that it takes several pages.
const PAGE: u16 = 3;
/// More than any shard holds in these tests.
pub(crate) const PAGE_OF_ALL: u16 = 1_000;

/// The outcome of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// A new lease.
    Fresh(Sandbox),
    /// The lease that this key had already.
    Repeated(Sandbox),
    /// No candidate is free any more.
    Exhausted,
}

impl Claimed {
    pub(crate) fn sandbox(&self) -> &Sandbox {
        match self {
            Self::Fresh(sandbox) | Self::Repeated(sandbox) => sandbox,
            Self::Exhausted => panic!("the claim got nothing"),
        }
    }
}

pub(crate) fn id(number: u32) -> SandboxId {
    SandboxId::parse(&number.to_string()).unwrap()
}

pub(crate) fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

/// An operator's order.
pub(crate) fn order() -> Order {
    Order { by: operator(), reason: Reason::parse("smoke in it").unwrap() }
}

/// One more hour for the lease of [`held`].
pub(crate) fn extension(epoch: Epoch) -> Extension {
    let expires_at = UnixSeconds::new(LEASE_END.get() + 3_600);
    Extension { owner: owner("owner-1"), epoch, ended_by: NOW, expires_at, by: None }
}

/// The operator who replays.
pub(crate) fn operator() -> Actor {
    Actor::parse("operator-1").unwrap()
}

pub(crate) fn owner(name: &str) -> OwnerId {
    OwnerId::parse(name).unwrap()
}

pub(crate) fn claim_key(owner_name: &str, key: &str) -> ClaimKey {
    ClaimKey { owner: owner(owner_name), key: IdempotencyKey::parse(key).unwrap() }
}

pub(crate) fn new_sandbox(number: u32) -> NewSandbox {
    NewSandbox {
        id: id(number),
        name: SandboxName::parse(&format!("lab-{number:04}")).unwrap(),
        external_id: ExternalId::parse(&format!("identity/accounts/u-{number}")).unwrap(),
        pool: pool("main"),
        descriptor: domain::Descriptor::parse(
            number.is_multiple_of(2).then_some(("sfdc_account_id", "SF 1")),
        )
        .unwrap(),
    }
}

/// A request of a caller.
pub(crate) fn request(name: &str) -> RequestKey {
    RequestKey::parse(name).unwrap()
}

pub(crate) fn grant_of(candidate: &Candidate, claim: &ClaimKey) -> Grant {
    Grant {
        claim: claim.clone(),
        candidate: candidate.clone(),
        lab: Some(LabId::parse("lab-a").unwrap()),
        by: None,
        request: None,
        granted_at: NOW,
        expires_at: LEASE_END,
        options: ClaimOptions {
            env: [("LANG".to_owned(), "C".to_owned())].into(),
            labels: [("team".to_owned(), "blue".to_owned())].into(),
        }
        .boxed(),
    }
}

pub(crate) fn record(claim: &ClaimKey, candidate: &Candidate) -> ClaimRecord {
    ClaimRecord::new(claim.clone(), candidate.clone())
}

pub(crate) fn done(write: Write) -> Sandbox {
    match write {
        Write::Done(sandbox) => *sandbox,
        Write::Lost(found) => panic!("lost to {found:?}"),
    }
}

pub(crate) fn lost(write: Write) -> Sandbox {
    match write {
        Write::Lost(Some(found)) => *found,
        other => panic!("not lost to anything: {other:?}"),
    }
}

pub(crate) async fn added(store: &dyn Store, number: u32) -> Sandbox {
    match store.insert(&new_sandbox(number), NOW).await.unwrap() {
        Insert::Inserted(sandbox) => *sandbox,
        found => panic!("there is already {found:?}"),
    }
}

/// Being created: for `owner-1` with the key `key-1`, or for the pool.
pub(crate) async fn created(store: &dyn Store, number: u32, is_leased: bool) -> Sandbox {
    let new = new_sandbox(number);
    let absent = Candidate::absent(new.id.clone(), new.pool.clone());
    let grant = grant_of(&absent, &claim_key("owner-1", "key-1"));
    let wanted = new.provision(is_leased.then_some(&grant), NOW);
    assert_eq!(store.create(&wanted).await.unwrap(), Insert::Inserted(Box::new(wanted.clone())));
    wanted
}

pub(crate) async fn several_added(store: &dyn Store, numbers: std::ops::Range<u32>) -> Vec<Sandbox> {
    let mut sandboxes = Vec::new();
    for number in numbers {
        sandboxes.push(added(store, number).await);
    }
    sandboxes
}

/// Held by `owner-1` with the key `key-1`.
pub(crate) async fn held(store: &dyn Store, number: u32) -> Sandbox {
    let sandbox = added(store, number).await;
    let grant = grant_of(&sandbox.candidate(), &claim_key("owner-1", "key-1"));
    done(store.grant(&grant).await.unwrap())
}

pub(crate) async fn ending(store: &dyn Store, number: u32) -> Sandbox {
    let sandbox = held(store, number).await;
    done(store.release(&sandbox.id, &owner("owner-1"), None, None, NOW).await.unwrap())
}

/// A new sandbox, taken through its life cycle to `state`.
pub(crate) async fn in_state(store: &dyn Store, state: StateName, number: u32) -> Sandbox {
    match state {
        StateName::Available => added(store, number).await,
        StateName::Allocated => held(store, number).await,
        StateName::PendingDeletion => ending(store, number).await,
        StateName::DeletionFailed => {
            let sandbox = ending(store, number).await;
            done(store.park_deletion(&sandbox.id, sandbox.epoch, NOW).await.unwrap())
        }
        StateName::Stale => {
            let sandbox = added(store, number).await;
            done(store.mark_missing(&sandbox, NOW).await.unwrap())
        }
        StateName::Deleted => {
            let sandbox = ending(store, number).await;
            done(store.finish_deletion(&sandbox.id, Epoch::new(1), NOW, KEEP_UNTIL, None).await.unwrap())
        }
        StateName::Provisioning => created(store, number, true).await,
        StateName::ProvisionFailed => {
            let sandbox = created(store, number, false).await;
            done(store.park_provision(&sandbox, NOW).await.unwrap())
        }
        StateName::Quarantined => {
            let sandbox = added(store, number).await;
            done(store.quarantine(&sandbox.candidate(), &order(), NOW).await.unwrap())
        }
    }
}

pub(crate) fn query(state: StateName, shard: u16, range: SortRange) -> StateQuery {
    StateQuery { pool: pool("main"), state, shard, range }
}

/// Everything in that state, shard by shard, over all pages.
pub(crate) async fn listed(store: &dyn Store, state: StateName, range: SortRange) -> Vec<Sandbox> {
    let mut sandboxes = Vec::new();
    for shard in 0..store.shards().await.unwrap() {
        let query = query(state, shard, range.clone());
        let mut after = None;
        loop {
            let page = store.page(&query, after.as_ref(), PAGE).await.unwrap();
            sandboxes.extend(page.sandboxes);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    sandboxes
}

pub(crate) fn candidates(sandboxes: &[Sandbox]) -> Vec<Candidate> {
    sandboxes.iter().map(Sandbox::candidate).collect()
}

/// The claim loop of the design: the claim item names the sandbox to try, and the sandbox record decides.
pub(crate) async fn claim(
    store: &dyn Store,
    claim: &ClaimKey,
    candidates: &[Candidate],
) -> Result<Claimed, StoreError> {
    let Some(first) = candidates.first() else { return Ok(Claimed::Exhausted) };
    let mut at = open(store, record(claim, first)).await?;
    let mut gone = HashSet::new();
    for _ in 0..STEPS_MAX {
        let mut ended = Vec::new();
        if !at.is_closed {
            match store.grant(&grant_of(&at.candidate, claim)).await? {
                Write::Done(sandbox) => return Ok(Claimed::Fresh(*sandbox)),
                Write::Lost(Some(found)) if found.lease().is_some_and(|lease| lease.claim == *claim) => {
                    return Ok(Claimed::Repeated(*found));
                }
                Write::Lost(found) => {
                    let mine = found.and_then(|found| found.last_claim()).filter(|last| last.claim == *claim);
                    ended.extend(mine.into_iter().flat_map(|last| last.answered));
                }
            }
        }
        gone.insert(at.candidate.clone());
        // This includes the first candidate, if the claim item named another one before the loop tried it.
        let Some(next) = candidates.iter().find(|next| !gone.contains(*next)) else {
            return Ok(Claimed::Exhausted);
        };
        let moved = at.moved_to(next.clone(), &ended);
        at = match store.move_claim(&at, &moved, KEEP_UNTIL).await? {
            MoveClaim::Moved => moved,
            MoveClaim::Held(held) => held,
            MoveClaim::Absent => open(store, record(claim, next)).await?,
        };
    }
    panic!("the claim of {claim:?} does not end");
}

async fn open(store: &dyn Store, wanted: ClaimRecord) -> Result<ClaimRecord, StoreError> {
    Ok(match store.open_claim(&wanted, KEEP_UNTIL).await? {
        OpenClaim::Opened => wanted,
        OpenClaim::Held(held) => held,
    })
}

/// Live leases of that key among these sandboxes, read consistently.
pub(crate) async fn leases(store: &dyn Store, claim: &ClaimKey, ids: &[SandboxId]) -> Vec<Sandbox> {
    let mut held = Vec::new();
    for id in ids {
        let sandbox = store.sandbox(id).await.unwrap().expect("sandboxes do not vanish");
        if sandbox.lease().is_some_and(|lease| lease.claim == *claim) {
            held.push(sandbox);
        }
    }
    held
}

/// The invariants after any test: the claim item of a lease's key names that lease, no key has two leases, and every
/// key can still get a sandbox while one is free.
pub(crate) async fn assert_sound(store: &dyn Store, ids: &[SandboxId], keys: &[ClaimKey]) {
    for id in ids {
        let sandbox = store.sandbox(id).await.unwrap().expect("sandboxes do not vanish");
        let Some(lease) = sandbox.lease() else { continue };
        assert!(keys.contains(&lease.claim), "held by no caller: {sandbox:?}");
        let item = store.find_claim(&lease.claim).await.unwrap().expect("a lease without a claim item");
        let named = (item.candidate.id, item.candidate.version);
        assert_eq!(named, (sandbox.id.clone(), lease.claimed_version), "the claim item names another one");
    }
    for key in keys {
        let before = leases(store, key, ids).await;
        assert!(before.len() <= 1, "two leases for one key: {before:?}");
        let free = listed(store, StateName::Available, SortRange::All).await;
        if before.is_empty() && free.is_empty() {
            continue;
        }
        // A key with a lease may ask with any candidate: its claim item leads to its lease.
        let any = if free.is_empty() { before.clone() } else { free };
        let claimed = claim(store, key, &candidates(&any)).await.unwrap();
        match before.first() {
            Some(held) => assert_eq!(claimed, Claimed::Repeated(held.clone())),
            None => assert!(matches!(claimed, Claimed::Fresh(_)), "{key:?} is blocked: {claimed:?}"),
        }
    }
}
