//! Extensions of leases, and orders of operators.

use crate::fixtures::{
    LATER, LEASE_END, NOW, added, claim_key, done, extension, grant_of, held, id, listed, lost, order, owner,
};
use domain::{Epoch, Extension, HISTORY_ENTRIES_MAX, StateName, Transition, UnixSeconds};
use ports::store::{SortRange, Store, Write};
use std::sync::Arc;

/// Rounds of a race between an extension and the end of the lease.
const RACES: u32 = 12;

pub(crate) async fn extension_needs_the_lease_and_a_later_end(store: Arc<dyn Store>) {
    let before = held(&*store, 1).await;
    let refused = [
        Extension { owner: owner("owner-2"), ..extension(before.epoch) },
        extension(before.epoch.next()),
        Extension { expires_at: LEASE_END, ..extension(before.epoch) },
        Extension { ended_by: LEASE_END, ..extension(before.epoch) },
    ];
    for extension in refused {
        assert_eq!(lost(store.extend(&before, &extension, NOW).await.unwrap()), before, "{extension:?}");
    }
    let meant = extension(before.epoch);
    let extended = done(store.extend(&before, &meant, NOW).await.unwrap());
    assert_eq!(extended, before.clone().apply(&Transition::extend(&before, &meant, NOW)).unwrap());
    // A late write with an outdated version changes nothing.
    let later = Extension { expires_at: UnixSeconds::new(meant.expires_at.get() + 1), ..meant.clone() };
    assert_eq!(lost(store.extend(&before, &later, NOW).await.unwrap()), extended);
}

pub(crate) async fn an_extended_lease_is_due_at_its_new_end_only(store: Arc<dyn Store>) {
    let before = held(&*store, 1).await;
    let meant = extension(before.epoch);
    let extended = done(store.extend(&before, &meant, NOW).await.unwrap());
    let due_by = |at: UnixSeconds| listed(&*store, StateName::Allocated, SortRange::DueBy(at));
    let almost = UnixSeconds::new(meant.expires_at.get() - 1);
    assert_eq!(due_by(almost).await, []);
    assert_eq!(due_by(meant.expires_at).await, std::slice::from_ref(&extended));
    assert_eq!(lost(store.expire(&id(1), before.epoch, almost, LATER).await.unwrap()), extended);
    done(store.expire(&id(1), before.epoch, meant.expires_at, LATER).await.unwrap());
}

pub(crate) async fn concurrent_extend_and_expire_have_one_winner(store: Arc<dyn Store>) {
    for number in 1..=RACES {
        let before = held(&*store, number).await;
        let meant = extension(before.epoch);
        let (id, epoch) = (id(number), before.epoch);
        let (extended, expired) =
            tokio::join!(store.extend(&before, &meant, NOW), store.expire(&id, epoch, LEASE_END, LATER),);
        let is_extended = matches!(extended.unwrap(), Write::Done(_));
        let is_expired = matches!(expired.unwrap(), Write::Done(_));
        assert_ne!(is_extended, is_expired, "one of them wins, and not both");
        let after = store.sandbox(&id).await.unwrap().unwrap();
        assert_eq!(after.version, before.version.next());
        assert_eq!(after.lease().is_some(), is_extended);
    }
}

pub(crate) async fn a_lease_that_is_extended_often_keeps_a_short_history(store: Arc<dyn Store>) {
    let mut sandbox = held(&*store, 1).await;
    for more in 0..40 {
        let expires_at = UnixSeconds::new(LEASE_END.get() + 1 + more);
        let meant = Extension { expires_at, ..extension(sandbox.epoch) };
        sandbox = done(store.extend(&sandbox, &meant, NOW).await.unwrap());
    }
    assert_eq!((sandbox.version.get(), sandbox.history.len()), (42, HISTORY_ENTRIES_MAX));
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(sandbox));
}

pub(crate) async fn quarantined_sandbox_is_not_granted_and_can_be_restored(store: Arc<dyn Store>) {
    let seen = added(&*store, 1).await;
    let key = claim_key("owner-1", "key-1");
    let kept = done(store.quarantine(&seen.candidate(), &order(), NOW).await.unwrap());
    assert_eq!(lost(store.grant(&grant_of(&seen.candidate(), &key)).await.unwrap()), kept);
    assert_eq!(lost(store.mark_missing(&seen, NOW).await.unwrap()), kept);
    assert_eq!(listed(&*store, StateName::Available, SortRange::All).await, []);
    assert_eq!(listed(&*store, StateName::Quarantined, SortRange::All).await, std::slice::from_ref(&kept));
    assert_eq!(lost(store.unquarantine(&seen, &order(), LATER).await.unwrap()), kept, "an old sight");
    let back = done(store.unquarantine(&kept, &order(), LATER).await.unwrap());
    assert_eq!(back, kept.clone().apply(&Transition::unquarantine(&kept, &order(), LATER)).unwrap());
    assert_eq!(listed(&*store, StateName::Available, SortRange::All).await, std::slice::from_ref(&back));
    assert_eq!(done(store.grant(&grant_of(&back.candidate(), &key)).await.unwrap()).epoch, Epoch::new(1));
}

pub(crate) async fn quarantine_ends_and_remembers_the_lease(store: Arc<dyn Store>) {
    let before = held(&*store, 1).await;
    let kept = done(store.quarantine(&before.candidate(), &order(), NOW).await.unwrap());
    assert_eq!(
        kept,
        before.clone().apply(&Transition::quarantine(&before.candidate(), &order(), NOW)).unwrap()
    );
    assert!(kept.belongs_to(&owner("owner-1")) && kept.lease().is_none());
    assert_eq!(lost(store.release(&id(1), &owner("owner-1"), None, None, NOW).await.unwrap()), kept);
    assert_eq!(lost(store.unquarantine(&kept, &order(), NOW).await.unwrap()), kept, "it is used");
    let ending = done(store.order_deletion(&kept, &order(), LATER).await.unwrap());
    assert_eq!(ending, kept.clone().apply(&Transition::order_deletion(&kept, &order(), LATER)).unwrap());
    assert_eq!(
        listed(&*store, StateName::PendingDeletion, SortRange::All).await,
        std::slice::from_ref(&ending)
    );
    assert_eq!(lost(store.order_deletion(&kept, &order(), LATER).await.unwrap()), ending);
}
