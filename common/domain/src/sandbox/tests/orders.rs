//! What may be extended, and what an operator's hand leads to.

use super::*;
use crate::ids::OwnerId;
use crate::sandbox::StateName;
use crate::sandbox::tests::{EXPIRES, GRANTED, REQUESTED, free, held, order, owner};

fn longer() -> Extension {
    let expires_at = UnixSeconds::new(EXPIRES.get() + 100);
    Extension { owner: owner(), epoch: held().epoch, ended_by: GRANTED, expires_at, by: None }
}

#[test]
fn a_lease_gets_a_later_end_and_nothing_else() {
    let before = held();
    let after = before.clone().apply(&Transition::extend(&before, &longer(), REQUESTED)).unwrap();
    let lease = Lease { expires_at: longer().expires_at, ..before.lease().unwrap().clone() };
    assert_eq!(after.lease(), Some(&lease));
    assert_eq!(after.last_claim(), before.last_claim(), "the claim item goes on naming it");
    let entry = after.history.last().unwrap();
    assert_eq!((entry.cause, entry.state, entry.at), (Cause::Extended, StateName::Allocated, REQUESTED));
    // A worker that would end the former lease must see that it is another one now.
    assert!(after.apply(&Transition::expire(before.epoch, EXPIRES, REQUESTED)).is_err());
}

#[test]
fn only_the_owner_extends_only_that_lease_and_only_to_a_later_end() {
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
fn what_is_free_or_held_can_be_quarantined_with_its_reason() {
    for before in [free(), held()] {
        let lease = before.lease().cloned();
        let after =
            before.clone().apply(&Transition::quarantine(&before.candidate(), &order(), REQUESTED)).unwrap();
        let state = State::Quarantined { since: REQUESTED, reason: order().reason, lease: lease.clone() };
        assert_eq!((after.state.clone(), after.epoch), (state, before.epoch));
        assert!(after.lease().is_none(), "nobody holds it any more");
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
fn what_somebody_held_does_not_come_back() {
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
fn what_is_held_or_quarantined_can_be_ordered_to_go() {
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
        "nobody has it"
    );
}
