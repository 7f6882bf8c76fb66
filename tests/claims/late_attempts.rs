//! An attempt at a request pauses at any of its calls, while a further attempt at the same request is answered and that
//! lease ends. No caller waits for the result of the late attempt, so it must not get a sandbox.

use crate::engines::Engine;
use crate::settings::{OWNER, Rehearsal, Setting, Subject};
use crate::soundness::{assert_in_order, assert_one_lease_a_key};
use crate::world::{World, key_of};
use contract::{FaultCode, Outcome};
use domain::{Order, Reason, StateName};
use ports::clock::Clock as _;
use testkit::faulty::Fault;

/// The request under test.
const REQUEST: &str = "request-1";

/// How the lease ends that answered the request.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// Its owner releases it.
    Released,
    /// The same, by a process that dies before it closes the claim item.
    ReleasedOnly,
    /// The same, and the sandbox is deleted.
    Deleted,
    /// It expires.
    Over,
    /// An operator quarantines the sandbox.
    Quarantined,
}

/// What happens after that.
#[derive(Clone, Copy, Debug)]
enum Next {
    Nothing,
    /// Another request of the owner gets a new lease.
    AnotherRequest,
    /// The same, and that lease ends as well.
    AnotherRequestEnded,
}

impl Ending {
    const ALL: [Self; 5] = [Self::Released, Self::ReleasedOnly, Self::Deleted, Self::Over, Self::Quarantined];

    async fn happen(self, world: &World) {
        let held = world.held_by(OWNER).await.remove(0);
        let now = world.clock.now();
        match self {
            Self::Released | Self::Deleted => {
                world.process().release(held.id.as_str(), OWNER).await.unwrap();
            }
            Self::ReleasedOnly => {
                let owner = key_of(OWNER).owner;
                world.store.release(&held.id, &owner, None, None, now).await.unwrap();
            }
            Self::Over => world.outlive_leases(),
            Self::Quarantined => {
                let by = domain::Actor::parse("operator").unwrap();
                let order = Order { by, reason: Reason::parse("smoke").unwrap() };
                world.store.quarantine(&held.candidate(), &order, now).await.unwrap();
            }
        }
        if let Self::Deleted = self {
            world.delete_pending().await;
        }
    }
}

/// Leases of the owner so far, active or ended.
async fn leases(world: &World) -> usize {
    let sandboxes = world.sandboxes().await;
    let mine = sandboxes.iter().filter_map(|sandbox| sandbox.last_lease());
    mine.filter(|lease| lease.claim == key_of(OWNER)).count()
}

async fn round(engine: Engine, setting: Setting, seed: u64, at: (usize, Fault), ending: Ending, next: Next) {
    let scenario = format!("{setting:?}, seed {seed}: stopped at {at:?}, then {ending:?} and {next:?}");
    let (world, subjects) = setting.prepare(engine, seed, &[Some(at)]).await;
    for _ in 0..3 {
        world.add().await;
    }
    let subject: &Subject = &subjects[0];
    let started = subject.start_attempt(REQUEST, 1).await;
    let answered = world.process().attempt(OWNER, REQUEST, Some(2)).await;
    let answered = answered.unwrap_or_else(|code| panic!("{scenario}: {code:?}"));
    let was_held = matches!(setting, Setting::Held | Setting::HeldAndEmpty);
    let outcome = if was_held { Outcome::Existing } else { Outcome::Created };
    assert_eq!(
        answered.outcome, outcome,
        "{scenario}: the request has its own lease, whichever attempt made it"
    );
    ending.happen(&world).await;
    if let Next::AnotherRequest | Next::AnotherRequestEnded = next {
        let other = world.process().attempt(OWNER, "request-2", Some(1)).await.unwrap();
        assert_eq!(other.outcome, Outcome::Created, "{scenario}: another request gets a new lease");
        assert_ne!(other.id(), answered.id());
        if let Next::AnotherRequestEnded = next {
            world.process().release(other.id().as_str(), OWNER).await.unwrap();
        }
    }
    let before = leases(&world).await;
    subject.store.resume();
    let late = started.answer().await;

    assert_eq!(leases(&world).await, before, "{scenario}: the late attempt took a sandbox: {late:?}");
    match late {
        Err(code) => assert_eq!(code, FaultCode::AllocationExpired, "{scenario}"),
        // The late attempt had decided before, and returns what it got then.
        Ok(late) => assert_eq!(late.body, answered.body, "{scenario}"),
    }
    let sandboxes = world.sandboxes().await;
    sandboxes.iter().for_each(assert_in_order);
    assert_one_lease_a_key(&sandboxes);
    let again = world.process().attempt(OWNER, REQUEST, None).await;
    assert_eq!(again.map(|lent| lent.id()), Err(FaultCode::AllocationExpired), "{scenario}: however often");
    world
        .process()
        .attempt(OWNER, "request-3", Some(1))
        .await
        .unwrap_or_else(|code| panic!("{scenario}: {code:?}"));
    assert_eq!(world.held_by(OWNER).await.len(), 1, "{scenario}");
    if world.in_state(StateName::Quarantined).await.is_empty() {
        world.assert_sound(&[&subject.process, &world.process()]).await;
    }
}

async fn every_delay(engine: Engine, setting: Setting) {
    let count = if engine.is_slow() { 1 } else { 2 };
    for Rehearsal { seed, calls } in setting.rehearsals(engine, 1, count).await {
        for call in calls {
            for side in [Fault::PauseBefore, Fault::PauseAfter] {
                for (number, ending) in Ending::ALL.into_iter().enumerate() {
                    for next in [Next::Nothing, Next::AnotherRequest, Next::AnotherRequestEnded] {
                        // On a slow engine, one in five: each call gets different endings.
                        if !engine.is_slow() || (number + call) % Ending::ALL.len() == 0 {
                            round(engine, setting, seed, (call, side), ending, next).await;
                        }
                    }
                }
            }
        }
    }
}

pub(crate) async fn late_attempt_of_a_cold_process_takes_nothing(engine: Engine) {
    every_delay(engine, Setting::Cold).await;
}

pub(crate) async fn late_attempt_with_outdated_candidates_takes_nothing(engine: Engine) {
    every_delay(engine, Setting::Outdated).await;
}

pub(crate) async fn late_attempt_at_a_repeat_takes_nothing(engine: Engine) {
    every_delay(engine, Setting::Held).await;
}

pub(crate) async fn late_attempt_after_lease_end_takes_nothing(engine: Engine) {
    every_delay(engine, Setting::Over).await;
}

pub(crate) async fn late_attempt_on_a_leftover_item_takes_nothing(engine: Engine) {
    every_delay(engine, Setting::LeftBehind).await;
}
