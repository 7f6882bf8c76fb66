use super::*;
use crate::ids::ExternalId;
use crate::sandbox::tests::{REQUESTED, free, held, owner};
use crate::{Epoch, StateName, UnixSeconds};

const LATER: UnixSeconds = UnixSeconds::new(6_000);
const PURGE: UnixSeconds = UnixSeconds::new(9_000);

fn other_account(sandbox: &Sandbox) -> NewSandbox {
    NewSandbox {
        id: sandbox.id.clone(),
        name: sandbox.name.clone(),
        external_id: ExternalId::parse("identity/accounts/other").unwrap(),
        pool: sandbox.pool.clone(),
        descriptor: Descriptor::default(),
    }
}

fn gone() -> Sandbox {
    let ending = held().apply(&Transition::release(&owner(), None, None, REQUESTED)).unwrap();
    ending.apply(&Transition::finish_deletion(Epoch::new(1), LATER, PURGE, None)).unwrap()
}

#[test]
fn unused_sandbox_can_be_reidentified_with_a_new_epoch() {
    let stale = free().apply(&Transition::mark_missing(&free(), REQUESTED)).unwrap();
    for before in [free(), stale, gone()] {
        let (listed, version) = (other_account(&before), before.version);
        let after = before.clone().reidentify(version, listed.clone(), LATER).unwrap();
        assert_eq!((&after.state, &after.external_id), (&State::Available, &listed.external_id));
        assert_eq!((after.version, after.epoch), (version.next(), before.epoch.next()));
        let entry = after.history.last().unwrap();
        assert_eq!((entry.cause, entry.epoch, entry.version), (Cause::Listed, after.epoch, after.version));
        // Not twice, and not at another version.
        assert!(after.clone().reidentify(after.version, listed.clone(), LATER).is_err());
        assert!(after.reidentify(version, other_account(&before), LATER).is_err());
    }
}

#[test]
fn used_sandbox_cannot_be_reidentified() {
    let parked = held().apply(&Transition::release(&owner(), None, None, REQUESTED)).unwrap();
    for before in [held(), parked] {
        let listed = other_account(&before);
        assert!(before.clone().reidentify(before.version, listed, LATER).is_err());
    }
}

#[test]
fn deletion_not_made_by_the_provider_is_retried_and_then_parked() {
    let mut sandbox = gone();
    for relists in 1..=DELETION_RELISTS_MAX + 1 {
        let version = sandbox.version;
        sandbox = sandbox.clone().apply(&Transition::relist(&at(&sandbox, version), LATER)).unwrap();
        assert_eq!(sandbox.deletion().unwrap().relists, relists);
        assert!(sandbox.belongs_to(&owner()), "it is still whose it was");
        if relists <= DELETION_RELISTS_MAX {
            assert_eq!(sandbox.state.name(), StateName::PendingDeletion);
            sandbox = sandbox.apply(&Transition::finish_deletion(Epoch::new(1), LATER, PURGE, None)).unwrap();
        }
    }
    assert_eq!(sandbox.state.name(), StateName::DeletionFailed);
    // A sandbox that was given up as stale was never deleted.
    let forgotten = free().apply(&Transition::mark_missing(&free(), REQUESTED)).unwrap();
    let forgotten = forgotten
        .clone()
        .apply(&Transition::forget(
            &Sandbox { epoch: Epoch::new(0), ..at(&forgotten, Version::new(2)) },
            None,
            LATER,
            PURGE,
        ))
        .unwrap();
    assert!(forgotten.clone().apply(&Transition::relist(&at(&forgotten, Version::new(3)), LATER)).is_err());
}
