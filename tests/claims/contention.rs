//! Crowds: every caller that can be served is served, and the answer is *exhausted* only when nothing is free.

use crate::engines::Engine;
use crate::unsteady::Unsteady;
use crate::world::{Answered, Process, World, claim_of};
use contract::{AllocateRequest, FaultCode, Outcome};
use domain::{SandboxId, StateName};
use ports::random::{Random as _, Rng};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use testkit::store::MemoryStore;

/// The timeout of a caller in a crowd: more than the slowest machine needs.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The timeout of a caller that should soon learn that nothing is free, and that would keep trying otherwise.
const SHORT: Duration = Duration::from_secs(2);
/// Seeds of the tests that need many.
const SEEDS: u64 = 20;

/// Sends all requests at once, distributed over the processes.
async fn crowd(processes: &[Process], requests: Vec<AllocateRequest>) -> Vec<Answered> {
    let tasks: Vec<_> = requests
        .into_iter()
        .zip(processes.iter().cloned().cycle())
        .map(|(request, process)| tokio::spawn(async move { process.ask(&request, TIMEOUT).await }))
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

fn callers(count: usize, name: &str) -> Vec<AllocateRequest> {
    (0..count).map(|number| claim_of(&format!("{name}-{number}"))).collect()
}

/// The granted sandboxes, each exactly once; every other caller was answered that nothing is free.
fn won(answers: &[Answered]) -> BTreeSet<SandboxId> {
    let mut won = BTreeSet::new();
    for answer in answers {
        match answer {
            Ok(lent) => {
                assert_eq!(lent.outcome, Outcome::Created);
                assert!(won.insert(lent.id()), "two holders of {lent:?}");
            }
            Err(code) => assert_eq!(*code, FaultCode::PoolExhausted),
        }
    }
    won
}

async fn more_callers_than_sandboxes(world: &World, processes: &[Process], free: usize, more: usize) {
    let answers = crowd(processes, callers(free + more, "first")).await;
    assert_eq!(won(&answers).len(), free, "a caller got the answer that nothing is free, and something was");
    assert_eq!(world.in_state(StateName::Available).await, []);
    // Later additions are found, whatever the processes believe about the pool.
    for _ in 0..processes.len() {
        world.add().await;
    }
    let answers = crowd(processes, callers(processes.len() + more, "second")).await;
    assert_eq!(won(&answers).len(), processes.len());
}

pub(crate) async fn every_caller_gets_one_until_the_pool_is_exhausted(engine: Engine) {
    let (seeds, free, more) = if engine.is_slow() { (1, 30, 10) } else { (SEEDS, 60, 20) };
    for seed in 0..seeds {
        let world = World::new(engine, free, seed).await;
        let unsteady = Arc::new(Unsteady::mixing(seed));
        let processes: Vec<_> =
            (0..3).map(|_| world.process_over(unsteady.over(Arc::clone(&world.store)))).collect();
        more_callers_than_sandboxes(&world, &processes, free as usize, more).await;
    }
}

#[tokio::test]
async fn every_caller_gets_one_over_a_lagging_index() {
    for seed in 0..SEEDS {
        let unsteady = Arc::new(Unsteady::lagging(seed, 12));
        let world = World::over(unsteady.over(Arc::new(MemoryStore::new(1))), 60, seed).await;
        let processes: Vec<_> = (0..3).map(|_| world.process()).collect();
        let answers = crowd(&processes, callers(80, "first")).await;
        // A process cannot offer what the index has not shown to it yet; here the index has shown everything.
        assert_eq!(won(&answers).len(), 60, "seed {seed}");
    }
}

/// One caller after the other, while sandboxes are added, go missing and are found again, and the index lags: before a
/// caller is answered *exhausted*, the index showed it no sandbox that was free.
#[tokio::test]
async fn exhausted_means_no_visible_sandbox_is_available() {
    let (mut exhausted, mut created) = (0, 0);
    for seed in 0..SEEDS {
        let unsteady = Arc::new(Unsteady::lagging(seed, 6));
        let world = World::over(unsteady.over(Arc::new(MemoryStore::new(1))), 2, seed).await;
        let processes: Vec<_> = (0..2).map(|_| world.process()).collect();
        let rng = Rng::seeded(seed);
        for turn in 0..60 {
            match rng.below(5) {
                0 if turn % 3 == 0 => drop(world.add().await),
                1 => go_missing(&world).await,
                2 => come_back(&world).await,
                _ => {
                    let process = &processes[rng.below(processes.len())];
                    match process.claim(&format!("owner-{turn}")).await {
                        Ok(_) => created += 1,
                        Err(code) => {
                            assert_eq!(code, FaultCode::PoolExhausted);
                            exhausted += 1;
                            let free = world.in_state(StateName::Available).await;
                            let free: Vec<_> = free.iter().map(|sandbox| sandbox.candidate()).collect();
                            let shown = unsteady.shown();
                            assert!(!free.iter().any(|one| shown.contains(one)), "seed {seed}: {free:?}");
                        }
                    }
                }
            }
        }
    }
    assert!(exhausted > 0 && created > 0, "{exhausted} times exhausted, {created} created");
}

async fn go_missing(world: &World) {
    if let Some(sandbox) = world.in_state(StateName::Available).await.first() {
        world.store.mark_missing(sandbox, crate::world::START).await.unwrap();
    }
}

async fn come_back(world: &World) {
    for sandbox in world.in_state(StateName::Stale).await {
        world.store.mark_found(&sandbox, crate::world::START).await.unwrap();
    }
}

/// A candidate from an index that no longer updates is tried once, however often the index shows it.
#[tokio::test]
async fn entry_of_a_stalled_index_is_tried_once() {
    let unsteady = Arc::new(Unsteady::lagging(1, 1));
    let world = World::over(unsteady.over(Arc::new(MemoryStore::new(1))), 10, 1).await;
    unsteady.stand_still();
    let rivals = crowd(&[world.process(), world.process()], callers(10, "rival")).await;
    assert_eq!(won(&rivals).len(), 10);
    let (process, before) = (world.process(), unsteady.grants());
    for caller in 0..2 {
        let answer = process.ask(&claim_of(&format!("late-{caller}")), SHORT).await;
        assert_eq!(answer, Err(FaultCode::PoolExhausted));
        assert_eq!(unsteady.grants() - before, 10, "each is tried once");
    }
}

#[tokio::test]
async fn two_hundred_callers_on_a_thousand_free_in_three_processes() {
    let world = World::over(Arc::new(MemoryStore::new(4)), 1_000, 1).await;
    let unsteady = Arc::new(Unsteady::mixing(1));
    let processes: Vec<_> =
        (0..3).map(|_| world.process_over(unsteady.over(Arc::clone(&world.store)))).collect();
    assert_eq!(won(&crowd(&processes, callers(200, "owner")).await).len(), 200);
}

/// Every caller gets the first sandbox that it tries, for any request: within one process, no two callers try the same
/// sandbox.
#[tokio::test]
async fn callers_in_one_process_never_race_each_other() {
    for seed in 0..SEEDS {
        let world = World::over(Arc::new(MemoryStore::new(2)), 40, seed).await;
        let unsteady = Arc::new(Unsteady::mixing(seed));
        let process = world.process_over(unsteady.over(Arc::clone(&world.store)));
        let mut requests = callers(40, "owner");
        for (number, request) in requests.iter_mut().enumerate() {
            // Every sandbox is in three candidate buffers.
            request.name_prefix =
                [None, Some("lab-".to_owned()), Some("lab-0".to_owned())][number % 3].clone();
        }
        assert_eq!(won(&crowd(std::slice::from_ref(&process), requests).await).len(), 40, "seed {seed}");
        assert_eq!((process.lost_races(), unsteady.grants()), (0, 40), "seed {seed}");
    }
}
