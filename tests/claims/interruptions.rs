//! A claim that is interrupted at any of its calls, before or after the call takes effect, and its owner's repeat.

use crate::engines::Engine;
use crate::settings::{OWNER, Rehearsal, Setting};
use contract::{FaultCode, Outcome};
use testkit::faulty::Fault;

/// How a claim is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    /// The process ends, or the caller gives up, before the call takes effect.
    CrashBefore,
    /// The call takes effect, and its process or caller is gone before the answer.
    CrashAfter,
    /// The store fails the call, which had no effect.
    ErrorBefore,
    /// The store fails the call, which took effect.
    ErrorAfter,
}

impl Break {
    const ALL: [Self; 4] = [Self::CrashBefore, Self::CrashAfter, Self::ErrorBefore, Self::ErrorAfter];

    fn fault(self) -> Fault {
        match self {
            Self::CrashBefore => Fault::PauseBefore,
            Self::CrashAfter => Fault::PauseAfter,
            Self::ErrorBefore => Fault::FailBefore,
            Self::ErrorAfter => Fault::FailAfter,
        }
    }

    fn is_crash(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter)
    }
}

/// Interrupts the claim at `call` and lets its owner ask again, of another process or of the same one.
async fn round(engine: Engine, setting: Setting, seed: u64, call: usize, how: Break, elsewhere: bool) {
    let scenario = format!("{setting:?}, seed {seed}: {how:?} at call {call}, repeat elsewhere: {elsewhere}");
    let (world, subjects) = setting.prepare(engine, seed, &[Some((call, how.fault()))]).await;
    let subject = &subjects[0];
    let started = subject.start().await;
    let first = if how.is_crash() { started.drop_it().await } else { Some(started.answer().await) };
    if let Some(Err(code)) = first {
        assert_eq!((code, how.is_crash()), (FaultCode::StoreUnavailable, false), "{scenario}");
    }
    let held = world.held_by(OWNER).await;
    assert!(held.len() <= 1, "{scenario}: {held:?}");

    let other = world.process();
    let again = if elsewhere { &other } else { &subject.process };
    let repeat = again.claim(OWNER).await.unwrap_or_else(|code| panic!("{scenario}: {code:?}"));
    match held.first() {
        Some(held) => {
            assert!(repeat.shows(held), "{scenario}: {repeat:?} for the holder of {held:?}");
            assert_eq!(repeat.outcome, Outcome::Existing, "{scenario}");
        }
        None => assert_eq!(repeat.outcome, Outcome::Created, "{scenario}"),
    }
    if let Some(Ok(first)) = first {
        assert_eq!(first.body, repeat.body, "{scenario}");
    }
    for process in [&other, &subject.process, &other] {
        let later = process.claim(OWNER).await.unwrap_or_else(|code| panic!("{scenario}: {code:?}"));
        assert_eq!((later.outcome, &later.body), (Outcome::Existing, &repeat.body), "{scenario}");
    }
    assert_eq!(world.held_by(OWNER).await.len(), 1, "{scenario}");
    world.assert_sound(&[&subject.process, &other]).await;
}

/// Every call of the claim, every kind of interruption, and the repeat to either process.
async fn every_call(engine: Engine, setting: Setting) {
    let count = if engine.is_slow() { 1 } else { 8 };
    for Rehearsal { seed, calls } in setting.rehearsals(engine, 1, count).await {
        for call in calls {
            for how in Break::ALL {
                round(engine, setting, seed, call, how, true).await;
                if !engine.is_slow() {
                    round(engine, setting, seed, call, how, false).await;
                }
            }
        }
    }
}

pub(crate) async fn claim_of_a_cold_process_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::Cold).await;
}

pub(crate) async fn claim_with_outdated_candidates_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::Outdated).await;
}

pub(crate) async fn claim_of_the_last_sandbox_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::Tight).await;
}

pub(crate) async fn repeat_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::Held).await;
}

pub(crate) async fn repeat_on_an_empty_pool_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::HeldAndEmpty).await;
}

pub(crate) async fn claim_after_lease_end_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::Over).await;
}

pub(crate) async fn claim_on_a_leftover_item_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::LeftBehind).await;
}

pub(crate) async fn claim_that_creates_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::Fresh).await;
}

pub(crate) async fn claim_on_an_absent_sandbox_is_interrupted_at_any_call(engine: Engine) {
    every_call(engine, Setting::Uncreated).await;
}
