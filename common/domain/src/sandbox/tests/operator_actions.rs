//! Extensions and operator actions.

use super::*;
use crate::ids::OwnerId;
use crate::sandbox::StateName;
use crate::sandbox::tests::{EXPIRES, GRANTED, REQUESTED, free, held, order, owner};

fn longer() -> Extension {
    let expires_at = UnixSeconds::new(EXPIRES.get() + 100);
    Extension { owner: owner(), epoch: held().epoch, ended_by: GRANTED, expires_at, by: None }
}

#[test]
fn extension_changes_only_the_lease_end() {
    let before = held();
    let after = before.clone().apply(&Transition::extend(&before, &longer(), REQUESTED)).unwrap();
    let lease = Lease { expires_at: longer().expires_at, ..before.lease().unwrap().clone() };
    assert_eq!(after.lease(), Some(&lease));
    assert_eq!(after.last_claim(), before.last_claim(), "the claim item goes on naming it");
    let entry = after.history.last().unwrap();
    assert_eq!((entry.cause, entry.state, entry.at), (Cause::Extended, StateName::Allocated, REQUESTED));
    // A worker that wants to end the old lease must see that this is another lease.
    assert!(after.apply(&Transition::expire(before.epoch, EXPIRES, REQUESTED)).is_err());
}

#[test]
fn extension_needs_the_owner_the_epoch_and_a_later_end() {
    let before = held();
    let refused = [
        Extension { owner: OwnerId::parse("owner-2").unwrap(), ..longer() },
        Extension { epoch: before.epoch.next(), ..longer() },
        Extension { expires_at: EXPIRES, ..longer() },
        Extension { ended_by: EXPIRES, ..longer() },
    ];
    for extension in refused {
        let refused = before.clone().apply(&Transition::extend(&before, &extension, REQUESTED)).unwrap_err();
        assert_eq!(*refused.sandbox, before, "{extension:?}");
    }
    assert!(
        before
            .clone()
            .apply(&Transition::extend(&at(&before, before.version.next()), &longer(), REQUESTED))
            .is_err()
    );
}

#[test]
fn available_and_allocated_sandboxes_can_be_quarantined() {
    for before in [free(), held()] {
        let lease = before.lease().cloned();
        let after =
            before.clone().apply(&Transition::quarantine(&before.candidate(), &order(), REQUESTED)).unwrap();
        let state = State::Quarantined { since: REQUESTED, reason: order().reason, lease: lease.clone() };
        assert_eq!((after.state.clone(), after.epoch), (state, before.epoch));
        assert!(after.lease().is_none(), "no owner holds it any more");
        assert_eq!(after.last_lease(), lease.as_ref());
        let entry = after.history.last().unwrap();
        assert_eq!(entry.version, before.version.next());
        assert_eq!((entry.by.clone(), entry.reason.clone()), (Some(order().by), Some(order().reason)));
    }
    let gone = free().apply(&Transition::mark_missing(&free(), REQUESTED)).unwrap();
    assert!(gone.clone().apply(&Transition::quarantine(&gone.candidate(), &order(), REQUESTED)).is_err());
    assert!(
        free()
            .apply(&Transition::quarantine(
                &at(&free(), free().version.next()).candidate(),
                &order(),
                REQUESTED
            ))
            .is_err()
    );
}

#[test]
fn used_sandbox_cannot_be_unquarantined() {
    let used = held().apply(&Transition::quarantine(&held().candidate(), &order(), REQUESTED)).unwrap();
    let refused = used.clone().apply(&Transition::unquarantine(&used, &order(), REQUESTED)).unwrap_err();
    assert_eq!(*refused.sandbox, used);
    let fresh = free().apply(&Transition::quarantine(&free().candidate(), &order(), REQUESTED)).unwrap();
    assert!(
        fresh
            .clone()
            .apply(&Transition::unquarantine(&at(&fresh, free().version), &order(), REQUESTED))
            .is_err(),
        "an old sight"
    );
    assert!(fresh.clone().apply(&Transition::unquarantine(&fresh, &order(), REQUESTED)).is_ok());
}

#[test]
fn allocated_and_quarantined_sandboxes_can_be_force_released() {
    let used = held().apply(&Transition::quarantine(&held().candidate(), &order(), REQUESTED)).unwrap();
    let fresh = free().apply(&Transition::quarantine(&free().candidate(), &order(), REQUESTED)).unwrap();
    for before in [held(), used, fresh] {
        let after = before.clone().apply(&Transition::order_deletion(&before, &order(), REQUESTED)).unwrap();
        let deletion = after.deletion().unwrap();
        assert_eq!((deletion.cause, deletion.requested_at), (DeletionCause::Operator, REQUESTED));
        assert_eq!(deletion.lease.as_ref(), before.last_lease());
        let entry = after.history.last().unwrap();
        assert_eq!((entry.cause, entry.reason.clone()), (Cause::Ordered, Some(order().reason)));
        assert!(
            before
                .clone()
                .apply(&Transition::order_deletion(&at(&before, before.version.next()), &order(), REQUESTED))
                .is_err()
        );
    }
    assert!(
        free().apply(&Transition::order_deletion(&free(), &order(), REQUESTED)).is_err(),
        "it has no holder"
    );
}
