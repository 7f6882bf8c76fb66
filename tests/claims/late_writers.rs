//! A claim pauses at any of its calls while its owner's other claims continue, and finishes late.

use crate::engines::Engine;
use crate::settings::{OWNER, Rehearsal, Setting, Subject};
use crate::soundness::{assert_in_order, assert_one_lease_a_key};
use crate::world::{Lent, World, key_of};
use contract::Outcome;
use domain::{Cause, Sandbox, StateName};
use ports::clock::Clock as _;
use testkit::faulty::Fault;

/// What happens during the pause. A twin is the same claim in another process.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    /// A twin claims and releases.
    Released,
    /// The same, and the sandbox is deleted.
    Deleted,
    /// A twin claims, releases, and claims again.
    ClaimedAgain,
    /// The same, with the first sandbox deleted in between.
    DeletedAndClaimedAgain,
    /// A twin claims, and its lease expires.
    Expired,
    /// The same, and the twin claims again.
    ExpiredAndClaimedAgain,
    /// All free sandboxes go missing and are found again.
    MissingAndFound,
    /// The same, and a twin claims.
    FoundAndClaimed,
    /// The candidate of the claim goes missing, a twin claims another sandbox, and the missing one is found again.
    MissedAndFound,
}

impl Meanwhile {
    const ALL: [Self; 9] = [
        Self::Released,
        Self::Deleted,
        Self::ClaimedAgain,
        Self::DeletedAndClaimedAgain,
        Self::Expired,
        Self::ExpiredAndClaimedAgain,
        Self::MissingAndFound,
        Self::FoundAndClaimed,
        Self::MissedAndFound,
    ];

    async fn happen(self, world: &World) {
        let twin = world.process();
        match self {
            Self::Released | Self::Deleted | Self::ClaimedAgain | Self::DeletedAndClaimedAgain => {
                let lent = twin.claim(OWNER).await.unwrap();
                twin.release(&lent.allocation.sandbox_id, OWNER).await.unwrap();
            }
            Self::Expired | Self::ExpiredAndClaimedAgain => {
                twin.claim(OWNER).await.unwrap();
                world.outlive_leases();
            }
            Self::MissingAndFound | Self::FoundAndClaimed => {
                go_missing(world, world.in_state(StateName::Available).await).await;
                come_back(world).await;
            }
            Self::MissedAndFound => {
                let after = world.store.find_claim(&key_of(OWNER)).await.unwrap();
                let mut missed = world.in_state(StateName::Available).await;
                missed.retain(|free| after.as_ref().is_some_and(|item| item.candidate == free.candidate()));
                go_missing(world, missed).await;
                twin.claim(OWNER).await.unwrap();
                come_back(world).await;
            }
        }
        if matches!(self, Self::Deleted | Self::DeletedAndClaimedAgain) {
            world.delete_pending().await;
        }
        if matches!(
            self,
            Self::ClaimedAgain
                | Self::DeletedAndClaimedAgain
                | Self::ExpiredAndClaimedAgain
                | Self::FoundAndClaimed
        ) {
            twin.claim(OWNER).await.unwrap();
        }
    }
}

async fn go_missing(world: &World, sandboxes: Vec<Sandbox>) {
    for sandbox in sandboxes {
        world.store.mark_missing(&sandbox, world.clock.now()).await.unwrap();
    }
}

async fn come_back(world: &World) {
    for sandbox in world.in_state(StateName::Stale).await {
        world.store.mark_found(&sandbox, world.clock.now()).await.unwrap();
    }
}

/// The late answer was true at some time: that lease existed.
async fn assert_was_true(world: &World, lent: &Lent, scenario: &str) {
    let sandbox = world.store.sandbox(&lent.id()).await.unwrap().unwrap();
    let lease = sandbox.last_lease().expect("it was leased");
    assert_eq!(lease.claim, key_of(OWNER), "{scenario}: another owner's");
    let times = (lent.allocation.allocated_at, lent.allocation.expires_at, lent.allocation.lease_epoch);
    assert_eq!(times, (lease.granted_at.get(), lease.expires_at.get(), lease.epoch.get()), "{scenario}");
    let claims = sandbox.history.iter().filter(|entry| entry.cause == Cause::Claimed);
    assert_eq!(claims.count(), 1, "{scenario}: a sandbox is used once: {sandbox:?}");
}

async fn round(engine: Engine, setting: Setting, seed: u64, call: usize, side: Fault, meanwhile: Meanwhile) {
    let scenario = format!("{setting:?}, seed {seed}: {side:?} at call {call}, meanwhile {meanwhile:?}");
    let (world, subjects) = setting.prepare(engine, seed, &[Some((call, side))]).await;
    // There is always one more free sandbox, so that no answer says that the pool is empty.
    for _ in 0..3 {
        world.add().await;
    }
    let subject: &Subject = &subjects[0];
    let started = subject.start().await;
    let was_done = started.is_done();
    meanwhile.happen(&world).await;
    let before = world.held_by(OWNER).await;
    subject.store.resume();
    let late = started.answer().await.unwrap_or_else(|code| panic!("{scenario}: {code:?}"));

    let sandboxes = world.sandboxes().await;
    sandboxes.iter().for_each(assert_in_order);
    assert_one_lease_a_key(&sandboxes);
    assert_was_true(&world, &late, &scenario).await;
    let held = world.held_by(OWNER).await;
    if let Some(before) = before.first() {
        assert_eq!(held, std::slice::from_ref(before), "{scenario}: what was held is held");
    }
    // Only a claim that had made its deciding write may name a sandbox that has been deleted since.
    let had_decided = was_done || (side == Fault::PauseAfter && subject.store.calls()[call] == "grant");
    assert!(had_decided || held.iter().any(|held| late.shows(held)), "{scenario}: {late:?} but {held:?}");

    let repeat = world.process().claim(OWNER).await.unwrap_or_else(|code| panic!("{scenario}: {code:?}"));
    match held.first() {
        Some(held) => {
            assert!(repeat.outcome == Outcome::Existing && repeat.shows(held), "{scenario}: {repeat:?}")
        }
        None => assert_eq!(repeat.outcome, Outcome::Created, "{scenario}"),
    }
    world.assert_sound(&[&subject.process, &world.process()]).await;
}

async fn every_delay(engine: Engine, setting: Setting) {
    let count = if engine.is_slow() { 1 } else { 3 };
    for Rehearsal { seed, calls } in setting.rehearsals(engine, 1, count).await {
        for call in calls {
            // On a slow engine, every other case: the next call gets the cases that this one leaves out.
            let step = if engine.is_slow() { 2 } else { 1 };
            for meanwhile in Meanwhile::ALL.into_iter().skip(call % step).step_by(step) {
                round(engine, setting, seed, call, Fault::PauseBefore, meanwhile).await;
                if !engine.is_slow() {
                    round(engine, setting, seed, call, Fault::PauseAfter, meanwhile).await;
                }
            }
        }
    }
}

pub(crate) async fn late_writer_of_a_cold_process_does_no_harm(engine: Engine) {
    every_delay(engine, Setting::Cold).await;
}

pub(crate) async fn late_writer_with_outdated_candidates_does_no_harm(engine: Engine) {
    every_delay(engine, Setting::Outdated).await;
}

pub(crate) async fn late_writer_after_lease_end_does_no_harm(engine: Engine) {
    every_delay(engine, Setting::Over).await;
}

pub(crate) async fn late_writer_on_a_leftover_item_does_no_harm(engine: Engine) {
    every_delay(engine, Setting::LeftBehind).await;
}
