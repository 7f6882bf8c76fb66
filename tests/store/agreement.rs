//! Runs the same few hundred operations, valid and invalid, on the store in memory and on this one, and compares every
//! outcome.

use crate::engines::SHARDS;
use crate::fixtures::{
    KEEP_UNTIL, LATER, LEASE_END, NOW, PAGE_OF_ALL, claim_key, grant_of, id, new_sandbox, operator, order,
    owner, pool, request,
};
use domain::{
    Actor, Candidate, ClaimKey, ClaimRecord, Creation, Description, Descriptor, Epoch, Extension,
    Fingerprint, Grant, LabId, Lease, NamePrefix, Preparation, RequestKey, Sandbox, SandboxId, SandboxName,
    State, StateName, TemplateVersion, Transition, UnixSeconds, Version,
};
use ports::random::{Random, Rng};
use ports::store::{Insert, MoveClaim, OpenClaim, SortRange, StateQuery, Store, Write};
use std::collections::BTreeMap;
use std::sync::Arc;
use strum::IntoEnumIterator as _;
use testkit::store::MemoryStore;

const SEED: u64 = 20_261_121;
const OPERATIONS: u64 = 2_600;
const SANDBOXES: usize = 160;
/// The number of operation kinds that [`Script::next`] chooses from.
const KINDS: usize = 23;
/// Outcomes that must occur, or the sequence would prove little: every write applied and every write lost.
const OUTCOMES: [&str; 57] = [
    "create done",
    "create lost",
    "finish_provision done",
    "finish_provision lost",
    "note_provision_failure done",
    "note_provision_failure lost",
    "park_provision done",
    "park_provision lost",
    "replay_provision done",
    "replay_provision lost",
    "retire done",
    "retire lost",
    "insert done",
    "insert lost",
    "open done",
    "open lost",
    "move done",
    "move lost",
    "move absent",
    "close",
    "answer done",
    "answer lost",
    "grant done",
    "grant lost",
    "release done",
    "release lost",
    "expire done",
    "expire lost",
    "attempt done",
    "attempt lost",
    "clear done",
    "clear lost",
    "finish done",
    "finish lost",
    "park done",
    "park lost",
    "replay done",
    "replay lost",
    "missing done",
    "missing lost",
    "found done",
    "found lost",
    "extend done",
    "extend lost",
    "quarantine done",
    "quarantine lost",
    "unquarantine done",
    "unquarantine lost",
    "order done",
    "order lost",
    "forget done",
    "forget lost",
    "describe done",
    "describe lost",
    "grant absent",
    "release absent",
    "describe absent",
];

#[derive(Clone, Debug)]
enum Operation {
    Insert(u32),
    /// Of a sandbox that the fleet creates.
    Create(Box<Sandbox>),
    Step(SandboxId, Transition),
    Open(ClaimRecord),
    Move(ClaimRecord, ClaimRecord),
    Close(ClaimRecord),
    Grant(Grant),
    Answer(u32, Lease, RequestKey),
    Release(u32, &'static str, Option<Epoch>, Option<Actor>),
    Expire(u32, Epoch, UnixSeconds),
    Attempt(u32, Epoch, u32),
    Clear(u32, Epoch, u32),
    Finish(u32, Epoch),
    Park(u32, Epoch),
    Replay(u32, Epoch),
    Missing(Box<Sandbox>),
    Found(Box<Sandbox>),
    Extend(Box<Sandbox>, Extension),
    Quarantine(Candidate),
    Unquarantine(Box<Sandbox>),
    Order(Box<Sandbox>),
    Forget(Box<Sandbox>),
    Describe(u32, Version, Description),
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Insert(Insert),
    Open(OpenClaim),
    Move(MoveClaim),
    Closed,
    Write(Write),
}

async fn apply(store: &dyn Store, operation: &Operation, now: UnixSeconds) -> Outcome {
    let written = match operation {
        Operation::Insert(number) => {
            return Outcome::Insert(store.insert(&new_sandbox(*number), now).await.unwrap());
        }
        Operation::Create(sandbox) => return Outcome::Insert(store.create(sandbox).await.unwrap()),
        Operation::Step(id, transition) => store.apply(id, transition).await,
        Operation::Open(record) => {
            return Outcome::Open(store.open_claim(record, KEEP_UNTIL).await.unwrap());
        }
        Operation::Move(from, to) => {
            return Outcome::Move(store.move_claim(from, to, KEEP_UNTIL).await.unwrap());
        }
        Operation::Close(record) => {
            store.close_claim(record, KEEP_UNTIL).await.unwrap();
            return Outcome::Closed;
        }
        Operation::Grant(grant) => store.grant(grant).await,
        Operation::Answer(number, seen, request) => store.note_answer(&id(*number), seen, request).await,
        Operation::Release(number, holder, epoch, by) => {
            store.release(&id(*number), &owner(holder), *epoch, by.as_ref(), now).await
        }
        Operation::Expire(number, epoch, by) => store.expire(&id(*number), *epoch, *by, now).await,
        Operation::Attempt(number, epoch, attempts) => {
            store.note_attempt(&id(*number), *epoch, *attempts, "status 500", None).await
        }
        Operation::Clear(number, epoch, attempts) => {
            let cleaned = Preparation::Done { count: *number };
            store.note_preparation(&id(*number), *epoch, *attempts, &cleaned).await
        }
        Operation::Finish(number, epoch) => {
            let shadowed = Preparation::Shadowed { count: *number };
            let known = Some(&shadowed).filter(|_| number.is_multiple_of(2));
            store.finish_deletion(&id(*number), *epoch, now, KEEP_UNTIL, known).await
        }
        Operation::Park(number, epoch) => store.park_deletion(&id(*number), *epoch, now).await,
        Operation::Replay(number, epoch) => {
            store.replay_deletion(&id(*number), *epoch, &operator(), now).await
        }
        Operation::Missing(seen) => store.mark_missing(seen, now).await,
        Operation::Found(seen) => store.mark_found(seen, now).await,
        Operation::Extend(seen, extension) => store.extend(seen, extension, now).await,
        Operation::Quarantine(seen) => store.quarantine(seen, &order(), now).await,
        Operation::Unquarantine(seen) => store.unquarantine(seen, &order(), now).await,
        Operation::Order(seen) => store.order_deletion(seen, &order(), now).await,
        Operation::Forget(seen) => store.forget(seen, Some(&operator()), now, KEEP_UNTIL).await,
        Operation::Describe(number, version, description) => {
            store.describe(&id(*number), *version, description).await
        }
    };
    Outcome::Write(written.unwrap())
}

/// Makes operations from the earlier outcomes of the sequence: mostly valid, often outdated.
struct Script {
    rng: Rng,
    /// Earlier versions of every sandbox.
    seen: Vec<Sandbox>,
    /// Earlier versions of every claim item.
    records: Vec<ClaimRecord>,
}

impl Script {
    fn pick<T: Clone>(&self, items: &[T]) -> Option<T> {
        items.get(self.rng.below(items.len())).cloned()
    }

    /// The latest version of a sandbox, or sometimes an older one.
    fn sight(&self) -> Option<Sandbox> {
        let any = self.pick(&self.seen)?;
        if self.rng.below(4) == 0 {
            return Some(any);
        }
        self.seen.iter().rev().find(|sandbox| sandbox.id == any.id).cloned()
    }

    fn key(&self) -> ClaimKey {
        let names = ["owner-1", "owner-2", "owner-3"];
        let keys = ["key-1", "key-2"];
        claim_key(names[self.rng.below(names.len())], keys[self.rng.below(keys.len())])
    }

    fn request(&self) -> RequestKey {
        request(&format!("request-{}", self.rng.below(40)))
    }

    /// One request key or none.
    fn requests(&self) -> Vec<RequestKey> {
        if self.rng.below(2) == 0 { vec![self.request()] } else { Vec::new() }
    }

    fn creation(&self) -> Option<Creation> {
        let creation = |template: &str| Creation {
            template: TemplateVersion::parse(template).unwrap(),
            fingerprint: Fingerprint::parse("f-1").unwrap(),
        };
        self.pick(&[None, Some("shell@1"), Some("shell@2")]).flatten().map(creation)
    }

    /// A sandbox to be created, for a claim or for the pool.
    fn created(&self, number: u32) -> Sandbox {
        let candidate = Candidate::absent(id(number), pool("main"));
        let grant = grant_of(&candidate, &self.key());
        new_sandbox(number).provision(Some(&grant).filter(|_| self.rng.below(2) == 0), NOW)
    }

    fn step(&self, seen: &Sandbox) -> Transition {
        let node = Descriptor::parse([("node", "n-3")]).unwrap();
        let steps = [
            Transition::finish_provision(seen, &node, LATER),
            Transition::note_provision_failure(seen, 2, "no image"),
            Transition::park_provision(seen, LATER),
            Transition::replay_provision(seen, &operator(), self.pick(&[NOW, LEASE_END]).unwrap(), LATER),
            Transition::retire(seen, LATER),
        ];
        let is_parked = matches!(seen.state, State::ProvisionFailed(_));
        self.pick(if is_parked { &steps[3..] } else { &steps }).unwrap()
    }

    fn helper(&self) -> Option<Actor> {
        (self.rng.below(2) == 0).then(|| Actor::parse("lab-2026").unwrap())
    }

    fn number(&self) -> u32 {
        u32::try_from(self.rng.below(SANDBOXES)).unwrap()
    }

    fn next(&self) -> Operation {
        let Some(seen) = self.sight() else { return Operation::Insert(self.number()) };
        // New sandboxes of both kinds, while there are ids left.
        if self.rng.below(20) == 0 {
            return Operation::Create(Box::new(self.created(self.number())));
        }
        let number: u32 =
            if self.rng.below(8) == 0 { self.number() } else { seen.id.as_str().parse().unwrap() };
        let epoch = if self.rng.below(6) == 0 { seen.epoch.next() } else { seen.epoch };
        let attempts = seen.deletion().map_or(0, |deletion| deletion.attempts);
        let record =
            self.pick(&self.records).unwrap_or_else(|| ClaimRecord::new(self.key(), seen.candidate()));
        let holder = seen.lease().map_or("owner-1", |lease| match lease.claim.owner.as_str() {
            "owner-2" => "owner-2",
            "owner-3" => "owner-3",
            _ => "owner-1",
        });
        let due = UnixSeconds::new(LEASE_END.get() + self.rng.below(9) as u64);
        // Half of the operations fit the current state, because a whole life cycle needs several steps in order.
        let kind = if self.rng.below(2) == 0 { self.fitting(&seen.state) } else { self.rng.below(KINDS) };
        match kind {
            0 => Operation::Insert(self.number()),
            1 => Operation::Open(ClaimRecord::new(self.key(), seen.candidate()).creating(self.creation())),
            2 => {
                // Sometimes of a key without a claim item.
                let unknown = ClaimRecord::new(claim_key("unknown", "key-1"), seen.candidate());
                let from = if self.rng.below(8) == 0 { unknown } else { record };
                let to = from.moved_to(seen.candidate(), &self.requests()).creating(self.creation());
                Operation::Move(from, to)
            }
            3 => Operation::Close(record.closed(&self.requests())),
            4 => Operation::Grant(Grant {
                claim: self.key(),
                candidate: Candidate { id: id(number), ..seen.candidate() },
                lab: (self.rng.below(2) == 0).then(|| LabId::parse("lab-a").unwrap()),
                by: self.helper(),
                request: self.requests().pop(),
                granted_at: NOW,
                expires_at: due,
                options: None,
            }),
            5 => {
                let holder = if self.rng.below(4) == 0 { "owner-3" } else { holder };
                Operation::Release(number, holder, (self.rng.below(2) == 0).then_some(epoch), self.helper())
            }
            6 => Operation::Expire(number, epoch, due),
            7 => Operation::Attempt(number, epoch, attempts),
            8 => Operation::Finish(number, epoch),
            9 => Operation::Park(number, epoch),
            10 => Operation::Missing(Box::new(seen)),
            11 => Operation::Found(Box::new(seen)),
            12 => Operation::Replay(number, epoch),
            20 => match seen.last_lease() {
                Some(lease) => Operation::Answer(number, lease.clone(), self.request()),
                None => Operation::Insert(self.number()),
            },
            15 => {
                let extension =
                    Extension { owner: owner(holder), epoch, ended_by: NOW, expires_at: due, by: None };
                Operation::Extend(Box::new(seen), extension)
            }
            16 => Operation::Quarantine(seen.candidate()),
            17 => Operation::Unquarantine(Box::new(seen)),
            18 => Operation::Order(Box::new(seen)),
            21 => Operation::Create(Box::new(self.created(number))),
            22 => Operation::Step(seen.id.clone(), self.step(&seen)),
            13 => Operation::Forget(Box::new(seen)),
            14 => Operation::Clear(number, epoch, attempts),
            _ => Operation::Describe(number, seen.version, self.description(number)),
        }
    }

    fn fitting(&self, state: &State) -> usize {
        let kinds: &[usize] = match state {
            State::Available => &[4, 4, 4, 4, 10, 16],
            State::Allocated(_) => &[5, 5, 6, 6, 15, 16, 18, 20, 20],
            State::PendingDeletion(_) => &[7, 7, 8, 9, 14],
            State::Stale { .. } => &[11, 11, 13],
            State::DeletionFailed(_) => &[12, 12, 12, 19],
            State::Quarantined { .. } => &[17, 18],
            State::Deleted(_) => &[0, 19, 21],
            State::Provisioning(_) | State::ProvisionFailed(_) => &[5, 6, 20, 22, 22, 22, 22, 22, 22],
        };
        kinds[self.rng.below(kinds.len())]
    }

    fn description(&self, number: u32) -> Description {
        Description {
            // The number makes names unique: no engine promises an order of equal sort keys.
            name: SandboxName::parse(&format!("{}-{number:04}", self.pick(&["lab", "alt"]).unwrap()))
                .unwrap(),
            descriptor: domain::Descriptor::parse((self.rng.below(2) == 0).then_some(("node", "n-2")))
                .unwrap(),
        }
    }

    /// Remembers the sandboxes and claim items of an outcome, and returns the outcome's name.
    fn remember(&mut self, operation: &Operation, outcome: &Outcome) -> String {
        let (name, claim) = match operation {
            Operation::Insert(_) => ("insert", None),
            Operation::Create(_) => ("create", None),
            Operation::Step(_, transition) => (transition.name, None),
            Operation::Open(record) => ("open", Some(record.clone())),
            Operation::Move(_, to) => ("move", Some(to.clone())),
            Operation::Close(record) => ("close", Some(record.clone())),
            Operation::Answer(..) => ("answer", None),
            Operation::Grant(_) => ("grant", None),
            Operation::Release(..) => ("release", None),
            Operation::Expire(..) => ("expire", None),
            Operation::Attempt(..) => ("attempt", None),
            Operation::Clear(..) => ("clear", None),
            Operation::Finish(..) => ("finish", None),
            Operation::Park(..) => ("park", None),
            Operation::Replay(..) => ("replay", None),
            Operation::Missing(_) => ("missing", None),
            Operation::Found(_) => ("found", None),
            Operation::Extend(..) => ("extend", None),
            Operation::Quarantine(_) => ("quarantine", None),
            Operation::Unquarantine(_) => ("unquarantine", None),
            Operation::Order(_) => ("order", None),
            Operation::Forget(_) => ("forget", None),
            Operation::Describe(..) => ("describe", None),
        };
        let result = match outcome {
            Outcome::Open(OpenClaim::Opened) | Outcome::Move(MoveClaim::Moved) => {
                self.records.extend(claim);
                " done"
            }
            Outcome::Open(OpenClaim::Held(held)) | Outcome::Move(MoveClaim::Held(held)) => {
                self.records.push(held.clone());
                " lost"
            }
            Outcome::Insert(Insert::Inserted(sandbox)) | Outcome::Write(Write::Done(sandbox)) => {
                self.seen.push((**sandbox).clone());
                " done"
            }
            Outcome::Insert(Insert::Exists(sandbox)) | Outcome::Write(Write::Lost(Some(sandbox))) => {
                self.seen.push((**sandbox).clone());
                " lost"
            }
            Outcome::Insert(Insert::Taken(_)) => " taken",
            Outcome::Move(MoveClaim::Absent) | Outcome::Write(Write::Lost(None)) => " absent",
            Outcome::Closed => {
                self.records.extend(claim);
                ""
            }
        };
        format!("{name}{result}")
    }
}

pub(crate) async fn store_agrees_with_the_memory_store(store: Arc<dyn Store>) {
    let memory = MemoryStore::new(SHARDS);
    let mut script = Script { rng: Rng::seeded(SEED), seen: Vec::new(), records: Vec::new() };
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    for step in 0..OPERATIONS {
        let operation = script.next();
        // Every step has a different time, so that sort keys differ.
        let now = UnixSeconds::new(NOW.get() + step);
        let expected = apply(&memory, &operation, now).await;
        let outcome = apply(&*store, &operation, now).await;
        assert_eq!(outcome, expected, "step {step}: {operation:?}");
        *outcomes.entry(script.remember(&operation, &outcome)).or_default() += 1;
    }
    for outcome in OUTCOMES {
        assert!(outcomes.contains_key(outcome), "{outcome} never came up: {outcomes:?}");
    }
    same_items(&memory, &*store, &script).await;
    same_index(&memory, &*store).await;
}

async fn same_items(memory: &dyn Store, store: &dyn Store, script: &Script) {
    for number in 0..u32::try_from(SANDBOXES).unwrap() {
        let expected = memory.sandbox(&id(number)).await.unwrap();
        assert_eq!(store.sandbox(&id(number)).await.unwrap(), expected);
    }
    for record in &script.records {
        let expected = memory.find_claim(&record.claim).await.unwrap();
        assert_eq!(store.find_claim(&record.claim).await.unwrap(), expected);
    }
}

async fn same_index(memory: &dyn Store, store: &dyn Store) {
    let ranges = [
        SortRange::All,
        SortRange::NamePrefix(NamePrefix::parse("lab-001").unwrap()),
        SortRange::DueBy(UnixSeconds::new(NOW.get() + OPERATIONS / 2)),
        SortRange::DueBy(UnixSeconds::new(LEASE_END.get() + 4)),
    ];
    let mut listed = 0;
    for state in StateName::iter() {
        for (shard, range) in (0..SHARDS).flat_map(|shard| ranges.clone().map(|range| (shard, range))) {
            let query = StateQuery { pool: pool("main"), state, shard, range };
            assert_eq!(store.count(&query).await.unwrap(), memory.count(&query).await.unwrap(), "{query:?}");
            for limit in [2, PAGE_OF_ALL] {
                listed += same_pages(memory, store, &query, limit).await;
            }
        }
    }
    assert!(listed > SANDBOXES, "only {listed} sandboxes were compared");
}

/// Compares page by page; both stores must have the same number of pages.
async fn same_pages(memory: &dyn Store, store: &dyn Store, query: &StateQuery, limit: u16) -> usize {
    let (mut expected_after, mut after, mut listed) = (None, None, 0);
    loop {
        let expected = memory.page(query, expected_after.as_ref(), limit).await.unwrap();
        let page = store.page(query, after.as_ref(), limit).await.unwrap();
        let order = |sandboxes: &[Sandbox]| {
            let mut sandboxes = sandboxes.to_vec();
            // Leases may end in the same second, and no engine promises an order among those.
            sandboxes.sort_by(|one, other| one.id.cmp(&other.id));
            sandboxes
        };
        if limit == PAGE_OF_ALL {
            assert_eq!(order(&page.sandboxes), order(&expected.sandboxes), "{query:?}");
        }
        assert_eq!(page.sandboxes.len(), expected.sandboxes.len(), "{query:?}");
        assert_eq!(page.next.is_some(), expected.next.is_some(), "{query:?} by {limit}");
        listed += page.sandboxes.len();
        (expected_after, after) = (expected.next, page.next);
        if after.is_none() {
            return listed;
        }
    }
}
