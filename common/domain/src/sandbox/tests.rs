//! Every transition from every state, and what each has to preserve.

mod identity;
mod operator_actions;
mod provision;

use super::*;
use crate::deletion::{DELETION_RELISTS_MAX, DeletionCause};
use crate::history::Order;
use crate::ids::{Actor, IdempotencyKey, LabId};
use crate::lease::{ClaimKey, Extension, Grant};
use crate::preparation::Preparation;
use strum::IntoEnumIterator as _;

const ENTERED: UnixSeconds = UnixSeconds::new(1_000);
pub(super) const GRANTED: UnixSeconds = UnixSeconds::new(2_000);
pub(super) const EXPIRES: UnixSeconds = UnixSeconds::new(3_000);
pub(super) const REQUESTED: UnixSeconds = UnixSeconds::new(4_000);
const DELETED: UnixSeconds = UnixSeconds::new(5_000);
const PURGE: UnixSeconds = UnixSeconds::new(9_000);

pub(super) fn owner() -> OwnerId {
    OwnerId::parse("owner-1").unwrap()
}

pub(super) fn free() -> Sandbox {
    listed().enter(ENTERED)
}

pub(super) fn listed() -> NewSandbox {
    NewSandbox {
        id: SandboxId::parse("7").unwrap(),
        name: SandboxName::parse("lab-7").unwrap(),
        external_id: ExternalId::parse("identity/accounts/7").unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: Descriptor::default(),
    }
}

fn grant_of(sandbox: &Sandbox) -> Grant {
    Grant {
        claim: ClaimKey { owner: owner(), key: IdempotencyKey::parse("key-1").unwrap() },
        candidate: sandbox.candidate(),
        lab: Some(LabId::parse("lab-a").unwrap()),
        by: None,
        request: None,
        granted_at: GRANTED,
        expires_at: EXPIRES,
        options: None,
    }
}

pub(super) fn held() -> Sandbox {
    let sandbox = free();
    let grant = grant_of(&sandbox);
    sandbox.apply(&Transition::grant(&grant)).unwrap()
}

/// The sandbox, as if it had been seen at that version.
fn at(sandbox: &Sandbox, version: Version) -> Sandbox {
    Sandbox { version, ..sandbox.clone() }
}

fn attempts(sandbox: &Sandbox) -> u32 {
    sandbox.deletion().map_or(0, |deletion| deletion.attempts)
}

pub(super) fn order() -> Order {
    Order { by: Actor::parse("alice").unwrap(), reason: Reason::parse("smoke in it").unwrap() }
}

fn ending() -> Sandbox {
    held().apply(&Transition::release(&owner(), None, None, REQUESTED)).unwrap()
}

/// A sandbox in that state, reached by real transitions where possible.
fn in_state(state: StateName) -> Sandbox {
    match state {
        StateName::Available => free(),
        StateName::Allocated => held(),
        StateName::PendingDeletion => ending(),
        StateName::DeletionFailed => {
            ending().apply(&Transition::park_deletion(Epoch::new(1), DELETED)).unwrap()
        }
        StateName::Stale => free().apply(&Transition::mark_missing(&free(), REQUESTED)).unwrap(),
        StateName::Quarantined => {
            free().apply(&Transition::quarantine(&free().candidate(), &order(), REQUESTED)).unwrap()
        }
        StateName::Deleted => {
            ending().apply(&Transition::finish_deletion(Epoch::new(1), DELETED, PURGE, None)).unwrap()
        }
        StateName::Provisioning => listed().provision(None, ENTERED),
        StateName::ProvisionFailed => {
            let wanted = in_state(StateName::Provisioning);
            wanted.clone().apply(&Transition::park_provision(&wanted, REQUESTED)).unwrap()
        }
    }
}

type Step = fn(Sandbox) -> Result<Sandbox, InvalidTransition>;

/// Every transition with fitting arguments: name, state before, state after, how it is applied. Two more start from
/// either of two states and have separate tests.
const STEPS: [(&str, StateName, StateName, Step); 15] = [
    ("claim", StateName::Available, StateName::Allocated, |sandbox| {
        let grant = grant_of(&sandbox);
        sandbox.apply(&Transition::grant(&grant))
    }),
    ("release", StateName::Allocated, StateName::PendingDeletion, |sandbox| {
        sandbox.apply(&Transition::release(&owner(), None, None, REQUESTED))
    }),
    ("expire", StateName::Allocated, StateName::PendingDeletion, |sandbox| {
        let epoch = sandbox.epoch;
        sandbox.apply(&Transition::expire(epoch, EXPIRES, REQUESTED))
    }),
    ("note_attempt", StateName::PendingDeletion, StateName::PendingDeletion, |sandbox| {
        let epoch = sandbox.epoch;
        sandbox.clone().apply(&Transition::note_attempt(epoch, attempts(&sandbox), "no", None))
    }),
    ("finish_deletion", StateName::PendingDeletion, StateName::Deleted, |sandbox| {
        let epoch = sandbox.epoch;
        sandbox.apply(&Transition::finish_deletion(epoch, DELETED, PURGE, None))
    }),
    ("park_deletion", StateName::PendingDeletion, StateName::DeletionFailed, |sandbox| {
        let epoch = sandbox.epoch;
        sandbox.apply(&Transition::park_deletion(epoch, DELETED))
    }),
    ("replay_deletion", StateName::DeletionFailed, StateName::PendingDeletion, |sandbox| {
        let epoch = sandbox.epoch;
        sandbox.apply(&Transition::replay_deletion(epoch, &Actor::parse("alice").unwrap(), DELETED))
    }),
    ("go_missing", StateName::Available, StateName::Stale, |sandbox| {
        let version = sandbox.version;
        sandbox.clone().apply(&Transition::mark_missing(&at(&sandbox, version), REQUESTED))
    }),
    ("come_back", StateName::Stale, StateName::Available, |sandbox| {
        let version = sandbox.version;
        sandbox.clone().apply(&Transition::mark_found(&at(&sandbox, version), DELETED))
    }),
    ("extend", StateName::Allocated, StateName::Allocated, |sandbox| {
        let (version, epoch) = (sandbox.version, sandbox.epoch);
        let extension = Extension { owner: owner(), epoch, ended_by: GRANTED, expires_at: DELETED, by: None };
        sandbox.clone().apply(&Transition::extend(&at(&sandbox, version), &extension, REQUESTED))
    }),
    ("unquarantine", StateName::Quarantined, StateName::Available, |sandbox| {
        let version = sandbox.version;
        sandbox.clone().apply(&Transition::unquarantine(&at(&sandbox, version), &order(), DELETED))
    }),
    ("finish_provision", StateName::Provisioning, StateName::Available, |sandbox| {
        sandbox.clone().apply(&Transition::finish_provision(&sandbox, &Descriptor::default(), DELETED))
    }),
    ("note_provision_failure", StateName::Provisioning, StateName::Provisioning, |sandbox| {
        sandbox.clone().apply(&Transition::note_provision_failure(&sandbox, 1, "no image"))
    }),
    ("park_provision", StateName::Provisioning, StateName::ProvisionFailed, |sandbox| {
        sandbox.clone().apply(&Transition::park_provision(&sandbox, DELETED))
    }),
    ("replay_provision", StateName::ProvisionFailed, StateName::Provisioning, |sandbox| {
        let by = Actor::parse("alice").unwrap();
        sandbox.clone().apply(&Transition::replay_provision(&sandbox, &by, GRANTED, DELETED))
    }),
];

#[test]
fn every_transition_has_one_source_and_one_target_state() {
    for (name, starts, leads, step) in STEPS {
        for from in StateName::iter() {
            let before = in_state(from);
            assert_eq!(before.state.name(), from);
            match step(before.clone()) {
                Ok(after) => {
                    assert_eq!(from, starts, "{name} from {from}");
                    assert_eq!(after.state.name(), leads, "{name} from {from}");
                }
                Err(refused) => {
                    assert_ne!(from, starts, "{name} from {from}");
                    assert_eq!(refused.from, from);
                    assert_eq!(*refused.sandbox, before, "{name} must give the sandbox back unchanged");
                }
            }
        }
    }
}

#[test]
fn state_change_adds_a_version_and_history_and_a_claim_an_epoch() {
    for (name, starts, leads, step) in STEPS {
        let before = in_state(starts);
        let after = step(before.clone()).unwrap();
        if ["note_attempt", "note_provision_failure"].contains(&name) {
            assert_eq!((after.version, &after.history), (before.version, &before.history));
            continue;
        }
        assert_eq!(after.version, before.version.next(), "{name}");
        let leases = if name == "claim" { before.epoch.next() } else { before.epoch };
        assert_eq!(after.epoch, leases, "{name}");
        let (latest, earlier) = after.history.split_last().unwrap();
        assert_eq!(earlier, before.history, "{name}");
        assert_eq!((latest.version, latest.epoch, latest.state), (after.version, after.epoch, leads));
    }
}

#[test]
fn full_lifecycle_is_in_the_history() {
    let gone = in_state(StateName::Deleted);
    let life: Vec<_> = gone
        .history
        .iter()
        .map(|entry| (entry.version.get(), entry.epoch.get(), entry.cause, entry.at))
        .collect();
    assert_eq!(
        life,
        [
            (1, 0, Cause::Listed, ENTERED),
            (2, 1, Cause::Claimed, GRANTED),
            (3, 1, Cause::Released, REQUESTED),
            (4, 1, Cause::Deleted, DELETED),
        ]
    );
}

#[test]
fn a_history_keeps_its_latest_entries() {
    let mut sandbox = free();
    let rounds = HISTORY_ENTRIES_MAX as u64 + 3;
    for _ in 0..rounds {
        let version = sandbox.version;
        sandbox = match sandbox.state {
            State::Available => {
                sandbox.clone().apply(&Transition::mark_missing(&at(&sandbox, version), REQUESTED)).unwrap()
            }
            _ => sandbox.clone().apply(&Transition::mark_found(&at(&sandbox, version), REQUESTED)).unwrap(),
        };
    }
    assert_eq!(sandbox.history.len(), HISTORY_ENTRIES_MAX);
    assert_eq!(sandbox.version.get(), 1 + rounds);
    let versions: Vec<_> = sandbox.history.iter().map(|entry| entry.version.get()).collect();
    let kept: Vec<_> =
        (sandbox.version.get() + 1 - HISTORY_ENTRIES_MAX as u64..=sandbox.version.get()).collect();
    assert_eq!(versions, kept);
}

#[test]
fn a_claim_at_an_old_version_is_refused() {
    let seen = free();
    let grant = grant_of(&seen);
    let gone = seen.clone().apply(&Transition::mark_missing(&seen, REQUESTED)).unwrap();
    let version = gone.version;
    let back = gone.clone().apply(&Transition::mark_found(&at(&gone, version), REQUESTED)).unwrap();
    assert_eq!(back.state, State::Available);
    let refused = back.clone().apply(&Transition::grant(&grant)).unwrap_err();
    assert_eq!(*refused.sandbox, back);
    assert!(
        back.apply(&Transition::grant(&grant_of(&refused.sandbox))).is_ok(),
        "the version of today will do"
    );
}

#[test]
fn lease_records_its_claim() {
    let sandbox = held();
    let lease = sandbox.lease().unwrap();
    assert_eq!(lease.claim, grant_of(&free()).claim);
    assert_eq!(lease.claimed_version, free().version);
    assert_eq!((lease.epoch, lease.granted_at, lease.expires_at), (sandbox.epoch, GRANTED, EXPIRES));
}

#[test]
fn only_the_owner_can_release() {
    let other = OwnerId::parse("owner-2").unwrap();
    assert!(held().apply(&Transition::release(&other, None, None, REQUESTED)).is_err());
    assert!(held().apply(&Transition::release(&owner(), None, None, REQUESTED)).is_ok());
}

#[test]
fn only_an_ended_lease_of_the_given_epoch_expires() {
    let early = UnixSeconds::new(EXPIRES.get() - 1);
    assert!(held().apply(&Transition::expire(Epoch::new(1), early, REQUESTED)).is_err());
    assert!(held().apply(&Transition::expire(Epoch::new(2), EXPIRES, REQUESTED)).is_err());
    let expired = held().apply(&Transition::expire(Epoch::new(1), EXPIRES, REQUESTED)).unwrap();
    assert_eq!(expired.deletion().unwrap().cause, DeletionCause::Expired);
}

#[test]
fn a_deletion_of_another_epoch_is_left_alone() {
    let old = Epoch::new(0);
    assert!(ending().apply(&Transition::note_attempt(old, 0, "no", None)).is_err());
    assert!(ending().apply(&Transition::finish_deletion(old, DELETED, PURGE, None)).is_err());
    assert!(ending().apply(&Transition::park_deletion(old, DELETED)).is_err());
}

#[test]
fn last_lease_is_kept_until_the_tombstone() {
    for state in [StateName::PendingDeletion, StateName::DeletionFailed, StateName::Deleted] {
        let sandbox = in_state(state);
        assert!(sandbox.lease().is_none(), "{state}");
        assert_eq!(sandbox.last_lease(), held().lease(), "{state}");
        assert!(sandbox.belongs_to(&owner()), "{state}");
        assert_eq!(sandbox.deletion().unwrap().requested_at, REQUESTED, "{state}");
    }
    assert!(!free().belongs_to(&owner()));
}

#[test]
fn attempt_error_is_truncated_at_a_character_boundary() {
    let epoch = Epoch::new(1);
    // Two bytes each, one of which would cross the limit.
    let long = format!("x{}", "ü".repeat(crate::LAST_ERROR_BYTES_MAX));
    let tried = ending()
        .apply(&Transition::note_attempt(epoch, 0, "first", None))
        .unwrap()
        .apply(&Transition::note_attempt(epoch, 1, &long, None))
        .unwrap();
    let deletion = tried.deletion().unwrap();
    assert_eq!(deletion.attempts, 2);
    let kept = deletion.last_error.as_deref().unwrap();
    assert_eq!(kept.len(), crate::LAST_ERROR_BYTES_MAX - 1);
    assert!(long.starts_with(kept));
}

#[test]
fn state_and_cause_names_round_trip() {
    for state in StateName::iter() {
        assert_eq!(StateName::parse(state.as_str()), Some(state));
    }
    for cause in Cause::iter() {
        assert_eq!(Cause::parse(cause.as_str()), Some(cause));
    }
    assert_eq!(StateName::parse("Available"), None);
    assert_eq!(Cause::parse(""), None);
}

#[test]
fn replay_resets_attempts_and_records_the_actor() {
    let epoch = Epoch::new(1);
    let tried = ending().apply(&Transition::note_attempt(epoch, 0, "status 500", None)).unwrap();
    let parked = tried.apply(&Transition::park_deletion(epoch, DELETED)).unwrap();
    let alice = Actor::parse("alice").unwrap();
    assert!(
        parked.clone().apply(&Transition::replay_deletion(epoch.next(), &alice, DELETED)).is_err(),
        "another epoch"
    );
    let replayed = parked.clone().apply(&Transition::replay_deletion(epoch, &alice, DELETED)).unwrap();
    let deletion = replayed.deletion().unwrap();
    assert_eq!((deletion.attempts, deletion.requested_at), (0, REQUESTED));
    assert_eq!(deletion.last_error.as_deref(), Some("status 500"), "what is known stays known");
    assert_eq!(replayed.history[..4], parked.history, "the old history is kept");
    let entry = replayed.history.last().unwrap();
    assert_eq!((entry.cause, entry.state), (Cause::Replayed, StateName::PendingDeletion));
    assert_eq!((entry.version.get(), entry.by.as_ref()), (5, Some(&alice)));
}

#[test]
fn pre_clean_result_is_kept_until_a_newer_one() {
    let (epoch, cleaned) = (Epoch::new(1), Preparation::Done { count: 2 });
    let failed = Preparation::failed("status 500", false);
    let tried = ending().apply(&Transition::note_attempt(epoch, 0, "no", Some(&failed))).unwrap();
    assert_eq!(tried.deletion().unwrap().preparation.as_ref(), Some(&failed));
    let cleared =
        tried.clone().apply(&Transition::note_preparation(epoch, attempts(&tried), &cleaned)).unwrap();
    let deletion = cleared.deletion().unwrap();
    assert_eq!((deletion.attempts, deletion.preparation.as_ref()), (1, Some(&cleaned)));
    assert_eq!((cleared.version, cleared.history.len()), (ending().version, 3), "no state change");
    let parked = cleared
        .clone()
        .apply(&Transition::note_attempt(epoch, attempts(&cleared), "no", None))
        .unwrap()
        .apply(&Transition::park_deletion(epoch, DELETED))
        .unwrap();
    assert_eq!(parked.deletion().unwrap().preparation.as_ref(), Some(&cleaned));
    let gone = cleared.apply(&Transition::finish_deletion(epoch, DELETED, PURGE, Some(&failed))).unwrap();
    assert_eq!(gone.deletion().unwrap().preparation.as_ref(), Some(&failed));
    assert!(
        ending().apply(&Transition::note_preparation(epoch.next(), 0, &cleaned)).is_err(),
        "another epoch"
    );
    assert!(
        gone.clone().apply(&Transition::note_preparation(epoch, attempts(&gone), &cleaned)).is_err(),
        "it is over"
    );
}

#[test]
fn actor_of_claim_and_release_is_in_the_history() {
    let helper = Actor::parse("lab-2026").unwrap();
    let claimed =
        free().apply(&Transition::grant(&Grant { by: Some(helper.clone()), ..grant_of(&free()) })).unwrap();
    let released = claimed.apply(&Transition::release(&owner(), None, Some(&helper), REQUESTED)).unwrap();
    let by: Vec<_> = released.history.iter().map(|entry| entry.by.clone()).collect();
    assert_eq!(by, [None, Some(helper.clone()), Some(helper)]);
}
