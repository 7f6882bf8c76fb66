//! Two attempts at one claim in two processes, each paused at any of its calls.

use crate::engines::Engine;
use crate::settings::{OWNER, Rehearsal, Setting, Subject};
use crate::world::World;
use contract::Outcome;
use std::ops::Range;
use testkit::faulty::Fault;

/// Additional calls that a claim may need because a twin interferes.
const CALLS_MORE: usize = 2;
/// On a slow engine, one of that many pairs of points.
const THINNED_OUT: usize = 23;

/// Turns of the runtime after which a claim in memory makes no more progress.
const TURNS: usize = 64;

/// Every point at which a claim may pause.
fn points(calls: Range<usize>) -> Vec<(usize, Fault)> {
    let sides = |call| [(call, Fault::PauseBefore), (call, Fault::PauseAfter)];
    (calls.start..calls.end + CALLS_MORE).flat_map(sides).collect()
}

/// Pauses both at their points, and lets one of them finish before the other continues.
async fn round(engine: Engine, setting: Setting, seed: u64, at: [(usize, Fault); 2], first: usize) {
    let scenario = format!("{setting:?}, seed {seed}: stopped at {at:?}, then number {first} first");
    let (world, subjects) = setting.prepare(engine, seed, &at.map(Some)).await;
    let (one, two) = (&subjects[0], &subjects[1]);
    let mut started = vec![one.start().await, two.start().await];
    let early = started.remove(first);
    subjects[first].store.resume();
    let early = early.answer().await.unwrap_or_else(|code| panic!("{scenario}: {code:?}"));
    subjects[1 - first].store.resume();
    let late = started.remove(0).answer().await.unwrap_or_else(|code| panic!("{scenario}: {code:?}"));

    assert_eq!(early.body, late.body, "{scenario}");
    let made = [&early, &late].iter().filter(|lent| lent.outcome == Outcome::Created).count();
    assert_eq!(made, usize::from(setting != Setting::Held), "{scenario}: {early:?}, {late:?}");
    let held = world.held_by(OWNER).await;
    assert!(held.len() == 1 && early.shows(&held[0]), "{scenario}: {early:?} for the holder of {held:?}");
    world.assert_sound(&[&one.process, &two.process]).await;
}

async fn every_pair(engine: Engine, setting: Setting) {
    let count = if engine.is_slow() { 1 } else { 3 };
    for Rehearsal { seed, calls } in setting.rehearsals(engine, 2, count).await {
        let points = points(calls);
        let pairs = points.iter().flat_map(|one| points.iter().map(move |two| [*one, *two]));
        let step = if engine.is_slow() { THINNED_OUT } else { 1 };
        for pair in pairs.step_by(step) {
            round(engine, setting, seed, pair, 0).await;
            round(engine, setting, seed, pair, 1).await;
        }
    }
}

pub(crate) async fn concurrent_attempts_of_cold_processes_agree(engine: Engine) {
    every_pair(engine, Setting::Cold).await;
}

pub(crate) async fn concurrent_attempts_with_outdated_candidates_agree(engine: Engine) {
    every_pair(engine, Setting::Outdated).await;
}

pub(crate) async fn concurrent_attempts_at_the_last_sandbox_agree(engine: Engine) {
    every_pair(engine, Setting::Tight).await;
}

pub(crate) async fn concurrent_attempts_at_a_repeat_agree(engine: Engine) {
    every_pair(engine, Setting::Held).await;
}

pub(crate) async fn concurrent_attempts_after_lease_end_agree(engine: Engine) {
    every_pair(engine, Setting::Over).await;
}

pub(crate) async fn concurrent_attempts_on_a_leftover_item_agree(engine: Engine) {
    every_pair(engine, Setting::LeftBehind).await;
}

/// Both in one process, where they share the candidate buffer. The second starts while the first is paused, and runs as
/// far as it can.
pub(crate) async fn concurrent_attempts_in_one_process_agree(engine: Engine) {
    for setting in [Setting::Cold, Setting::Outdated, Setting::Tight, Setting::Over, Setting::LeftBehind] {
        for Rehearsal { seed, calls } in setting.rehearsals(engine, 1, 8).await {
            for (call, fault) in points(calls) {
                let scenario = format!("{setting:?}, seed {seed}: stopped at {call}, {fault:?}");
                let (world, subjects) = setting.prepare(engine, seed, &[Some((call, fault))]).await;
                let subject = &subjects[0];
                let one = subject.start().await;
                let two = tokio::spawn({
                    let process = subject.process.clone();
                    async move { process.claim(OWNER).await }
                });
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
                subject.store.resume();
                let one = one.answer().await.unwrap_or_else(|code| panic!("{scenario}: {code:?}"));
                let two = two.await.unwrap().unwrap_or_else(|code| panic!("{scenario}: {code:?}"));
                assert_eq!(one.body, two.body, "{scenario}");
                assert_ne!(one.outcome, two.outcome, "{scenario}: one of the two made the lease");
                assert_eq!(world.held_by(OWNER).await.len(), 1, "{scenario}");
                world.assert_sound(&[&subject.process]).await;
            }
        }
    }
}

pub(crate) async fn concurrent_attempts_that_create_agree(engine: Engine) {
    every_pair(engine, Setting::Fresh).await;
}

pub(crate) async fn concurrent_attempts_on_an_absent_sandbox_agree(engine: Engine) {
    every_pair(engine, Setting::Uncreated).await;
}

/// The first attempt saw one sandbox, which a rival takes; then a second sandbox is added, and the twin gets it. The
/// first attempt finds nothing free, but must return its owner's sandbox.
pub(crate) async fn concurrent_attempt_gets_no_false_exhausted(engine: Engine) {
    let (seed, grant) = {
        let Rehearsal { seed, calls } = Setting::Cold.rehearsals(engine, 1, 1).await.remove(0);
        (seed, calls.end - 1)
    };
    for elsewhere in [true, false] {
        let world = World::new(engine, 1, seed).await;
        let late = Subject::new(&world, Some((grant, Fault::PauseBefore)));
        let started = late.start().await;
        assert_eq!(late.store.calls().last(), Some(&"grant"));
        world.process().claim("rival").await.unwrap();
        world.add().await;
        let other = world.process();
        let twin = if elsewhere { &other } else { &late.process };
        let twins = twin.claim(OWNER).await.unwrap();
        late.store.resume();
        let lates = started.answer().await;
        assert_eq!(lates.map(|lent| lent.body), Ok(twins.body), "the twin is elsewhere: {elsewhere}");
        world.assert_sound(&[&late.process, &other]).await;
    }
}
