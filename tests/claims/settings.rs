//! Situations that a claim may meet: together they lead it through every call that a claim can make.

use crate::engines::Engine;
use crate::world::{Answered, Process, World, id};
use std::ops::Range;
use std::sync::Arc;
use testkit::faulty::{Fault, FaultyStore};
use tokio::task::JoinHandle;

/// The owner whose claim is under test.
pub(crate) const OWNER: &str = "owner";

/// Seeds to try until rehearsals cover all calls.
const SEEDS_MAX: u64 = 100;

/// The situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// A process without any candidates, and a pool of free sandboxes.
    Cold,
    /// A process whose candidates are mostly taken by now.
    Outdated,
    /// The same with a single free sandbox.
    Tight,
    /// The owner's lease.
    Held,
    /// The owner's lease, and no free sandbox.
    HeldAndEmpty,
    /// The owner's lease, which has ended.
    Over,
    /// A claim item that a crash left behind, for a sandbox that another owner took.
    LeftBehind,
    /// An empty pool whose sandboxes are created.
    Fresh,
    /// The same, and a claim item that a crash left behind for a sandbox that does not exist yet.
    Uncreated,
}

/// A process whose store can fail or pause on demand.
pub(crate) struct Subject {
    pub(crate) process: Process,
    pub(crate) store: Arc<FaultyStore>,
    /// Calls that were made before the claim under test.
    pub(crate) calls_before: usize,
}

/// The course of the claim under test without any fault.
pub(crate) struct Rehearsal {
    pub(crate) seed: u64,
    /// Positions of its calls; the calls before them prepared the situation.
    pub(crate) calls: Range<usize>,
}

/// A claim in progress.
pub(crate) struct Started {
    claim: JoinHandle<Answered>,
    answer: Option<Answered>,
}

// === impl Setting ===

impl Setting {
    /// The calls that a claim makes here without any fault, without repetitions.
    pub(crate) fn operations(self) -> &'static [&'static str] {
        match self {
            Self::Cold => &["page", "open_claim", "grant"],
            Self::Outdated | Self::Tight => &["open_claim", "grant", "move_claim"],
            Self::Held => &["page", "open_claim", "grant"],
            Self::HeldAndEmpty => &["page", "find_claim", "grant"],
            Self::Over => &["page", "open_claim", "grant", "expire", "move_claim"],
            Self::LeftBehind => &["page", "open_claim", "grant", "move_claim"],
            Self::Fresh | Self::Uncreated => &["page", "open_claim", "create"],
        }
    }

    /// Makes the world, with one subject for each of `faults`.
    pub(crate) async fn prepare(
        self,
        engine: Engine,
        seed: u64,
        faults: &[Option<(usize, Fault)>],
    ) -> (World, Vec<Subject>) {
        // Besides the sandboxes that the situation takes, three or one are free.
        let warm_ups = faults.len() as u64;
        let sandbox_count = match self {
            Self::Cold => 3,
            Self::Outdated => warm_ups + 3 + 3,
            Self::Tight => warm_ups + 3 + 1,
            Self::Held | Self::Over | Self::LeftBehind => 1 + 3,
            Self::HeldAndEmpty => 1,
            Self::Fresh | Self::Uncreated => 0,
        };
        let world = match self {
            Self::Fresh | Self::Uncreated => World::of_containers(engine, seed).await,
            _ => World::new(engine, sandbox_count, seed).await,
        };
        let mut subjects: Vec<_> = faults.iter().map(|fault| Subject::new(&world, *fault)).collect();
        match self {
            Self::Cold | Self::Fresh => {}
            Self::Uncreated => {
                let call = call_of("create", World::of_containers(engine, seed).await).await;
                let crashed = Subject::new(&world, Some((call, Fault::PauseBefore)));
                assert!(crashed.start().await.drop_it().await.is_none());
            }
            Self::Outdated | Self::Tight => {
                for (number, subject) in subjects.iter_mut().enumerate() {
                    subject.process.claim(&format!("warm-{number}")).await.unwrap();
                    subject.calls_before = subject.store.calls().len();
                }
                world.rivals(3).await;
            }
            Self::Held | Self::HeldAndEmpty => {
                world.process().claim(OWNER).await.unwrap();
            }
            Self::Over => {
                world.process().claim(OWNER).await.unwrap();
                world.outlive_leases();
            }
            Self::LeftBehind => {
                let seen = world.store.sandbox(&id(1)).await.unwrap().unwrap().candidate();
                world.leave_behind("rival", seen.clone()).await;
                world.leave_behind(OWNER, seen).await;
                world.process().claim("rival").await.unwrap();
            }
        }
        (world, subjects)
    }

    /// Seeds that lead the claim under test, without any fault, through all of its calls here.
    pub(crate) async fn rehearsals(self, engine: Engine, processes: usize, count: usize) -> Vec<Rehearsal> {
        let mut rehearsals = Vec::new();
        for seed in 1..=SEEDS_MAX {
            let (_world, subjects) = self.prepare(engine, seed, &vec![None; processes]).await;
            let subject = &subjects[0];
            subject.process.claim(OWNER).await.expect("nothing is in its way");
            let first = subject.calls_before;
            let calls = subject.store.calls()[first..].to_vec();
            if self.operations().iter().all(|operation| calls.contains(operation)) {
                rehearsals.push(Rehearsal { seed, calls: first..first + calls.len() });
            }
            if rehearsals.len() == count {
                return rehearsals;
            }
        }
        panic!("{self:?} does not lead to {:?}", self.operations());
    }
}

/// The position of the first call of that operation of a claim in a world like this.
pub(crate) async fn call_of(operation: &str, world: World) -> usize {
    let subject = Subject::new(&world, None);
    subject.process.claim(OWNER).await.unwrap();
    let calls = subject.store.calls();
    calls.iter().position(|call| *call == operation).expect("the claim makes that call")
}

// === impl Subject ===

impl Subject {
    pub(crate) fn new(world: &World, fault: Option<(usize, Fault)>) -> Self {
        let mut store = FaultyStore::new(Arc::clone(&world.store));
        if let Some((call, fault)) = fault {
            store = store.with(call, fault);
        }
        let store = Arc::new(store);
        let process = world.process_over(Arc::clone(&store) as _);
        Self { process, store, calls_before: 0 }
    }

    /// Starts the owner's claim; returns when it pauses or has ended.
    pub(crate) async fn start(&self) -> Started {
        self.start_for(OWNER).await
    }

    /// The same for another owner.
    pub(crate) async fn start_for(&self, owner: &'static str) -> Started {
        let process = self.process.clone();
        self.go_on(tokio::spawn(async move { process.claim(owner).await })).await
    }

    /// The same for an attempt at a request of the owner.
    pub(crate) async fn start_attempt(&self, request_key: &'static str, number: u32) -> Started {
        let process = self.process.clone();
        self.go_on(tokio::spawn(async move { process.attempt(OWNER, request_key, Some(number)).await })).await
    }

    async fn go_on(&self, mut claim: JoinHandle<Answered>) -> Started {
        tokio::select! {
            () = self.store.paused() => Started { claim, answer: None },
            answer = &mut claim => Started { claim, answer: Some(answer.unwrap()) },
        }
    }
}

// === impl Started ===

impl Started {
    /// Whether it has answered already.
    pub(crate) fn is_done(&self) -> bool {
        self.answer.is_some() || self.claim.is_finished()
    }

    /// Its answer, after the pause is over.
    pub(crate) async fn answer(self) -> Answered {
        match self.answer {
            Some(answer) => answer,
            None => self.claim.await.unwrap(),
        }
    }

    /// Ends it where it is, as a crash or a caller that hangs up does. If only its background work is paused, there is
    /// an answer anyway.
    pub(crate) async fn drop_it(self) -> Option<Answered> {
        if self.answer.is_some() {
            return self.answer;
        }
        self.claim.abort();
        // Wait for the task's end, which frees what it had reserved.
        self.claim.await.ok()
    }
}
