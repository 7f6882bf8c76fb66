//! Every transition, and every reason to refuse one, compared with the domain's own answer.

use crate::fixtures::{
    KEEP_UNTIL, LATER, LEASE_END, NOW, added, claim_key, created, done, ending, extension, grant_of, held,
    in_state, listed, lost, new_sandbox, operator, order, owner,
};
use domain::{
    Description, Descriptor, Epoch, Guard, HISTORY_ENTRIES_MAX, LAST_ERROR_BYTES_MAX, LeaseGuard, NamePrefix,
    Preparation, RequestKey, RuntimeAction, RuntimeChange, RuntimeFailure, Sandbox, SandboxName, StateName,
    Transition, UnixSeconds, Version,
};
use ports::store::{Insert, SortRange, Store, Write};
use std::collections::BTreeSet;
use std::sync::Arc;
use strum::{IntoEnumIterator as _, VariantArray as _};

const CLEANED: Preparation = Preparation::Done { count: 2 };

fn prefix(text: &str) -> SortRange {
    SortRange::NamePrefix(NamePrefix::parse(text).unwrap())
}

/// Every transition, with arguments that fit the sandbox.
fn transitions(sandbox: &Sandbox) -> Vec<Transition> {
    let attempts = sandbox.deletion().map_or(0, |deletion| deletion.attempts);
    let epoch = sandbox.epoch;
    let mut transitions = vec![
        Transition::grant(&grant_of(&sandbox.candidate(), &claim_key("owner-1", "key-1"))),
        Transition::release(&owner("owner-1"), None, None, LATER),
        Transition::release(&owner("owner-1"), Some(epoch), Some(&operator()), LATER),
        Transition::expire(epoch, LEASE_END, LATER),
        Transition::extend(sandbox, &extension(epoch), LATER),
        Transition::note_runtime(sandbox, RuntimeChange::Failed(RuntimeFailure::NodeLost), None, LATER),
        Transition::note_runtime(sandbox, RuntimeChange::Done(RuntimeAction::Stop), Some(&operator()), LATER),
        Transition::quarantine(&sandbox.candidate(), &order(), LATER),
        Transition::unquarantine(sandbox, &order(), LATER),
        Transition::order_deletion(sandbox, &order(), LATER),
        Transition::note_attempt(epoch, attempts, "no", None),
        Transition::note_attempt(epoch, attempts, "no", Some(&CLEANED)),
        Transition::note_preparation(epoch, attempts, &CLEANED),
        Transition::finish_deletion(epoch, LATER, KEEP_UNTIL, None),
        Transition::finish_deletion(epoch, LATER, KEEP_UNTIL, Some(&CLEANED)),
        Transition::park_deletion(epoch, LATER),
        Transition::replay_deletion(epoch, &operator(), LATER),
        Transition::mark_missing(sandbox, LATER),
        Transition::mark_found(sandbox, LATER),
        Transition::forget(sandbox, None, LATER, KEEP_UNTIL),
        Transition::forget(sandbox, Some(&operator()), LATER, KEEP_UNTIL),
        Transition::relist(sandbox, LATER),
        Transition::note_provision_failure(sandbox, 2, "no image"),
        Transition::finish_provision(sandbox, &Descriptor::parse([("node", "n-1")]).unwrap(), LATER),
        Transition::park_provision(sandbox, LATER),
        Transition::replay_provision(sandbox, &operator(), NOW, LATER),
        Transition::retire(sandbox, LATER),
        Transition::describe(StateName::VARIANTS, sandbox.version, &described(sandbox)),
    ];
    if let Some(lease) = sandbox.last_lease() {
        transitions.push(Transition::note_answer(lease, &RequestKey::parse("request-9").unwrap()));
    }
    transitions
}

fn described(sandbox: &Sandbox) -> Description {
    // The name stays: the name of a free sandbox is part of its sort key, and this transition is not for free ones.
    Description { name: sandbox.name.clone(), descriptor: domain::Descriptor::default() }
}

/// The transition in variants, each with one part of its guard wrong.
fn spoilt(transition: &Transition) -> Vec<Transition> {
    let mut guards = Vec::new();
    let guard = || transition.guard.clone();
    let lease = |lease: LeaseGuard| Guard { lease, ..guard() };
    let moment = |moment: UnixSeconds, by: i64| UnixSeconds::new(moment.get().saturating_add_signed(by));
    if let Some(version) = guard().version {
        guards.push(Guard { version: Some(version.next()), ..guard() });
    }
    if let Some(epoch) = guard().epoch {
        guards.push(Guard { epoch: Some(epoch.next()), ..guard() });
    }
    if let Some(attempts) = guard().attempts {
        guards.push(Guard { attempts: Some(attempts + 1), ..guard() });
    }
    if guard().lease.owner.is_some() {
        guards.push(lease(LeaseGuard { owner: Some(owner("owner-2")), ..guard().lease }));
    }
    if let Some(epoch) = guard().lease.epoch {
        guards.push(lease(LeaseGuard { epoch: Some(epoch.next()), ..guard().lease }));
    }
    if guard().lease.ended_by.is_some() {
        guards.push(lease(LeaseGuard { ended_by: Some(moment(LEASE_END, -1)), ..guard().lease }));
    }
    if guard().lease.ends_after.is_some() {
        guards.push(lease(LeaseGuard { ends_after: Some(LEASE_END), ..guard().lease }));
    }
    if guard().lease.ends_before.is_some() {
        guards.push(lease(LeaseGuard { ends_before: Some(LEASE_END), ..guard().lease }));
    }
    if guard().lease.answered.is_some() {
        let answered = Some(vec![RequestKey::parse("request-8").unwrap()]);
        guards.push(lease(LeaseGuard { answered, ..guard().lease }));
    }
    guards.into_iter().map(|guard| Transition { guard, ..transition.clone() }).collect()
}

pub(crate) async fn every_transition_from_every_state_matches_the_domain(store: Arc<dyn Store>) {
    let (mut number, mut taken) = (0, BTreeSet::new());
    for state in StateName::iter() {
        // The transitions of one sandbox represent those of all sandboxes in that state.
        number += 1;
        let mut before = in_state(&*store, state, number).await;
        for index in 0..transitions(&before).len() {
            let transition = transitions(&before).swap_remove(index);
            for transition in spoilt(&transition) {
                let refused = store.apply(&before.id, &transition).await.unwrap();
                assert_eq!(lost(refused), before, "{transition:?} from {state}");
                assert!(before.clone().apply(&transition).is_err(), "{transition:?} from {state}");
            }
            let (expected, there) = match before.clone().apply(&transition) {
                Ok(after) => (Write::Done(Box::new(after.clone())), after),
                Err(_) => (Write::Lost(Some(Box::new(before.clone()))), before.clone()),
            };
            let name = transition.name;
            assert_eq!(store.apply(&before.id, &transition).await.unwrap(), expected, "{name} from {state}");
            assert_eq!(store.sandbox(&before.id).await.unwrap(), Some(there), "{name} from {state}");
            if matches!(expected, Write::Done(_)) {
                taken.insert((state, name));
                number += 1;
                before = in_state(&*store, state, number).await;
            }
        }
    }
    let names: BTreeSet<_> = taken.iter().map(|(_, name)| *name).collect();
    assert_eq!(names.len(), 24, "every transition was carried out from some state: {taken:?}");
}

pub(crate) async fn new_sandbox_is_available_and_a_known_one_is_unchanged(store: Arc<dyn Store>) {
    let first = added(&*store, 1).await;
    assert_eq!(first, new_sandbox(1).enter(NOW));
    assert_eq!(listed(&*store, StateName::Available, SortRange::All).await, std::slice::from_ref(&first));
    let mut other = new_sandbox(1);
    other.name = SandboxName::parse("another name").unwrap();
    let again = store.insert(&other, LATER).await.unwrap();
    assert_eq!(again, Insert::Exists(Box::new(first.clone())));
    assert_eq!(store.insert(&new_sandbox(1), NOW).await.unwrap(), Insert::Exists(Box::new(first)));
}

pub(crate) async fn created_sandbox_is_written_once(store: Arc<dyn Store>) {
    for (number, is_leased) in [(1, false), (2, true)] {
        let wanted = created(&*store, number, is_leased).await;
        assert_eq!(store.sandbox(&wanted.id).await.unwrap(), Some(wanted.clone()));
        let again = store.create(&wanted).await.unwrap();
        assert_eq!(again, Insert::Exists(Box::new(wanted.clone())), "the same once more");
        let gone = new_sandbox(number).abandon(LATER, KEEP_UNTIL);
        assert_eq!(store.create(&gone).await.unwrap(), Insert::Exists(Box::new(wanted.clone())));
        let node = Descriptor::parse([("node", "n-1")]).unwrap();
        let made = done(store.finish_provision(&wanted, &node, LATER).await.unwrap());
        let state = if is_leased { StateName::Allocated } else { StateName::Available };
        assert_eq!(made.state.name(), state);
        assert_eq!(
            listed(&*store, state, SortRange::All).await,
            std::slice::from_ref(&made),
            "it left its old shard"
        );
        assert_eq!(listed(&*store, StateName::Provisioning, SortRange::All).await, []);
        assert_eq!(store.create(&wanted).await.unwrap(), Insert::Exists(Box::new(made)));
    }
}

pub(crate) async fn abandoned_id_is_never_created(store: Arc<dyn Store>) {
    let gone = new_sandbox(1).abandon(NOW, KEEP_UNTIL);
    assert_eq!(store.create(&gone).await.unwrap(), Insert::Inserted(Box::new(gone.clone())));
    let wanted = new_sandbox(1).provision(None, LATER);
    assert_eq!(store.create(&wanted).await.unwrap(), Insert::Exists(Box::new(gone.clone())));
    assert_eq!(lost(store.finish_provision(&wanted, &Descriptor::default(), LATER).await.unwrap()), gone);
}

pub(crate) async fn replay_of_a_creation_needs_a_lease_that_is_not_over(store: Arc<dyn Store>) {
    let by = operator();
    for (number, is_leased) in [(1, false), (2, true)] {
        let wanted = created(&*store, number, is_leased).await;
        let failed = done(store.note_provision_failure(&wanted, 5, "no image").await.unwrap());
        let parked = done(store.park_provision(&failed, NOW).await.unwrap());
        if is_leased {
            let over = store.replay_provision(&parked, &by, LEASE_END, LATER).await.unwrap();
            assert_eq!(lost(over), parked, "its lease is over");
        }
        let again = done(store.replay_provision(&parked, &by, NOW, LATER).await.unwrap());
        let provision = again.provision().unwrap();
        assert_eq!((provision.attempts, provision.requested_at), (0, LATER));
        assert_eq!((again.lease(), again.epoch), (parked.lease(), parked.epoch));
        assert_eq!(listed(&*store, StateName::ProvisionFailed, SortRange::All).await, []);
        let twice = store.replay_provision(&parked, &by, NOW, LATER).await.unwrap();
        assert_eq!(lost(twice), again, "it is being created already");
        done(store.finish_provision(&again, &Descriptor::default(), LATER).await.unwrap());
    }
}

pub(crate) async fn grant_needs_the_version_that_was_read(store: Arc<dyn Store>) {
    let seen = added(&*store, 1).await;
    let missing = done(store.mark_missing(&seen, NOW).await.unwrap());
    let back = done(store.mark_found(&missing, NOW).await.unwrap());
    let key = claim_key("owner-1", "key-1");
    let old = store.grant(&grant_of(&seen.candidate(), &key)).await.unwrap();
    assert_eq!(lost(old), back);
    let granted = done(store.grant(&grant_of(&back.candidate(), &key)).await.unwrap());
    let lease = granted.lease().unwrap();
    assert_eq!((lease.epoch, lease.claimed_version), (Epoch::new(1), Version::new(3)));
    // The loser of a race learns the new owner.
    let rival = store.grant(&grant_of(&back.candidate(), &claim_key("owner-2", "key-1"))).await.unwrap();
    assert_eq!(lost(rival), granted);
    let mut no_lab = grant_of(&added(&*store, 2).await.candidate(), &key);
    no_lab.lab = None;
    assert_eq!(done(store.grant(&no_lab).await.unwrap()).lease().unwrap().lab, None);
}

pub(crate) async fn a_release_needs_the_owner(store: Arc<dyn Store>) {
    let before = held(&*store, 1).await;
    let stranger = store.release(&before.id, &owner("owner-2"), None, None, LATER).await.unwrap();
    assert_eq!(lost(stranger), before);
    let epoch = before.epoch;
    let other_lease =
        store.release(&before.id, &owner("owner-1"), Some(epoch.next()), None, LATER).await.unwrap();
    assert_eq!(lost(other_lease), before);
    let released =
        done(store.release(&before.id, &owner("owner-1"), Some(epoch), None, LATER).await.unwrap());
    assert_eq!(released, before.apply(&Transition::release(&owner("owner-1"), None, None, LATER)).unwrap());
    // A repeat shows the deletion request of the first call.
    let repeat = store.release(&released.id, &owner("owner-1"), None, None, KEEP_UNTIL).await.unwrap();
    assert_eq!(lost(repeat), released);
}

pub(crate) async fn an_expiry_needs_the_lease_and_its_end(store: Arc<dyn Store>) {
    let before = held(&*store, 1).await;
    let early = UnixSeconds::new(LEASE_END.get() - 1);
    for (epoch, ended_by) in [(1, early), (2, LEASE_END), (0, LATER)] {
        let refused = store.expire(&before.id, Epoch::new(epoch), ended_by, LATER).await.unwrap();
        assert_eq!(lost(refused), before);
    }
    let expired = done(store.expire(&before.id, Epoch::new(1), LEASE_END, LATER).await.unwrap());
    assert_eq!(expired, before.apply(&Transition::expire(Epoch::new(1), LEASE_END, LATER)).unwrap());
}

pub(crate) async fn a_deletion_needs_its_epoch(store: Arc<dyn Store>) {
    let before = ending(&*store, 1).await;
    for epoch in [0, 2].map(Epoch::new) {
        let attempt = store.note_attempt(&before.id, epoch, 0, "no", None).await.unwrap();
        assert_eq!(lost(attempt), before);
        let finish = store.finish_deletion(&before.id, epoch, LATER, KEEP_UNTIL, None).await.unwrap();
        assert_eq!(lost(finish), before);
        let park = store.park_deletion(&before.id, epoch, LATER).await.unwrap();
        assert_eq!(lost(park), before);
    }
}

pub(crate) async fn replay_needs_its_epoch_and_resets_attempts(store: Arc<dyn Store>) {
    let tried = ending(&*store, 1).await;
    let tried = done(store.note_attempt(&tried.id, tried.epoch, 0, "status 500", None).await.unwrap());
    let parked = done(store.park_deletion(&tried.id, tried.epoch, LATER).await.unwrap());
    for epoch in [0, 2].map(Epoch::new) {
        let refused = store.replay_deletion(&parked.id, epoch, &operator(), LATER).await.unwrap();
        assert_eq!(lost(refused), parked);
    }
    let by = operator();
    let replay = || store.replay_deletion(&parked.id, parked.epoch, &by, LATER);
    let replayed = done(replay().await.unwrap());
    assert_eq!(
        replayed,
        parked.clone().apply(&Transition::replay_deletion(parked.epoch, &operator(), LATER)).unwrap()
    );
    assert_eq!(replayed.history.last().unwrap().by, Some(operator()));
    assert_eq!(lost(replay().await.unwrap()), replayed, "the same replay again");
    assert_eq!(listed(&*store, StateName::DeletionFailed, SortRange::All).await, []);
    assert_eq!(
        listed(&*store, StateName::PendingDeletion, SortRange::All).await,
        std::slice::from_ref(&replayed)
    );
    let again = done(store.park_deletion(&parked.id, parked.epoch, LATER).await.unwrap());
    let gone = done(store.replay_deletion(&again.id, again.epoch, &operator(), LATER).await.unwrap());
    done(store.finish_deletion(&gone.id, gone.epoch, LATER, KEEP_UNTIL, None).await.unwrap());
}

pub(crate) async fn an_attempt_is_counted_once(store: Arc<dyn Store>) {
    let before = ending(&*store, 1).await;
    let epoch = before.epoch;
    let first = done(store.note_attempt(&before.id, epoch, 0, "status 500", None).await.unwrap());
    assert_eq!(first, before.clone().apply(&Transition::note_attempt(epoch, 0, "status 500", None)).unwrap());
    // A repeat of the same attempt after a lost answer.
    assert_eq!(lost(store.note_attempt(&first.id, epoch, 0, "status 500", None).await.unwrap()), first);
    assert_eq!(lost(store.note_attempt(&first.id, epoch, 2, "status 500", None).await.unwrap()), first);
    let second = done(store.note_attempt(&first.id, epoch, 1, "", None).await.unwrap());
    assert_eq!(second.deletion().unwrap().attempts, 2);
    assert_eq!(second.deletion().unwrap().last_error.as_deref(), Some(""));
    let parked = done(store.park_deletion(&first.id, epoch, LATER).await.unwrap());
    assert_eq!(parked.deletion(), second.deletion());
}

pub(crate) async fn pre_clean_result_is_kept_with_the_deletion(store: Arc<dyn Store>) {
    let before = ending(&*store, 1).await;
    let (id, epoch) = (&before.id, before.epoch);
    let failed = Preparation::failed(&"x".repeat(5_000), false);
    let tried = done(store.note_attempt(id, epoch, 0, "no", Some(&failed)).await.unwrap());
    assert_eq!(
        tried,
        before.clone().apply(&Transition::note_attempt(epoch, 0, "no", Some(&failed))).unwrap()
    );
    for (epoch, attempts) in [(epoch.next(), 1), (epoch, 0), (epoch, 2)] {
        let refused = store.note_preparation(id, epoch, attempts, &CLEANED).await.unwrap();
        assert_eq!(lost(refused), tried, "epoch {epoch}, {attempts} attempts");
    }
    let cleared = done(store.note_preparation(id, epoch, 1, &CLEANED).await.unwrap());
    assert_eq!(cleared, tried.clone().apply(&Transition::note_preparation(epoch, 1, &CLEANED)).unwrap());
    let again = done(store.note_attempt(id, epoch, 1, "no", None).await.unwrap());
    assert_eq!(again.deletion().unwrap().preparation, Some(CLEANED), "what is known stays known");
    let parked = done(store.park_deletion(id, epoch, LATER).await.unwrap());
    let replayed = done(store.replay_deletion(id, epoch, &operator(), LATER).await.unwrap());
    for kept in [parked, replayed] {
        assert_eq!(kept.deletion().unwrap().preparation, Some(CLEANED));
    }
    let shadowed = Preparation::Shadowed { count: 1 };
    let gone = done(store.finish_deletion(id, epoch, LATER, KEEP_UNTIL, Some(&shadowed)).await.unwrap());
    assert_eq!(gone.deletion().unwrap().preparation, Some(shadowed));
    assert_eq!(store.sandbox(id).await.unwrap(), Some(gone));
}

pub(crate) async fn error_is_truncated_as_in_the_domain(store: Arc<dyn Store>) {
    let before = ending(&*store, 1).await;
    let long = format!("x{}", "ü".repeat(LAST_ERROR_BYTES_MAX));
    let tried = done(store.note_attempt(&before.id, before.epoch, 0, &long, None).await.unwrap());
    let kept = tried.deletion().unwrap().last_error.clone().unwrap();
    assert_eq!(kept.len(), LAST_ERROR_BYTES_MAX - 1);
    assert_eq!(tried, before.clone().apply(&Transition::note_attempt(tried.epoch, 0, &long, None)).unwrap());
}

pub(crate) async fn missing_sandbox_becomes_stale_and_is_restored(store: Arc<dyn Store>) {
    let seen = added(&*store, 1).await;
    let described = Description {
        name: SandboxName::parse("renamed").unwrap(),
        descriptor: domain::Descriptor::default(),
    };
    let missing = done(store.mark_missing(&seen, NOW).await.unwrap());
    assert_eq!(lost(store.mark_missing(&seen, NOW).await.unwrap()), missing);
    // Renamed after `missing` was read: it returns with its new name.
    done(store.describe(&seen.id, missing.version, &described).await.unwrap());
    let back = done(store.mark_found(&missing, LATER).await.unwrap());
    assert_eq!((back.state.name(), back.version), (StateName::Available, Version::new(3)));
    assert_eq!(back.name, described.name);
    assert_eq!(lost(store.mark_found(&missing, LATER).await.unwrap()), back);
    assert_eq!(listed(&*store, StateName::Available, prefix("rena")).await, [back]);
}

pub(crate) async fn forgotten_sandbox_leaves_a_tombstone(store: Arc<dyn Store>) {
    let seen = added(&*store, 1).await;
    assert_eq!(lost(store.forget(&seen, None, LATER, KEEP_UNTIL).await.unwrap()), seen, "it is not stale");
    let missing = done(store.mark_missing(&seen, NOW).await.unwrap());
    // Found and missing again: the same state as in `missing`, but a later version.
    let back = done(store.mark_found(&missing, NOW).await.unwrap());
    let again = done(store.mark_missing(&back, LATER).await.unwrap());
    assert_eq!(lost(store.forget(&missing, None, LATER, KEEP_UNTIL).await.unwrap()), again);
    let other_epoch = Sandbox { epoch: again.epoch.next(), ..again.clone() };
    assert_eq!(lost(store.forget(&other_epoch, None, LATER, KEEP_UNTIL).await.unwrap()), again);
    let gone = done(store.forget(&again, None, LATER, KEEP_UNTIL).await.unwrap());
    assert_eq!(gone, again.clone().apply(&Transition::forget(&again, None, LATER, KEEP_UNTIL)).unwrap());
    assert_eq!(listed(&*store, StateName::Stale, SortRange::All).await, []);
    assert_eq!(lost(store.forget(&again, None, LATER, KEEP_UNTIL).await.unwrap()), gone);
    assert_eq!(lost(store.mark_found(&again, LATER).await.unwrap()), gone);
    assert_eq!(store.insert(&new_sandbox(1), LATER).await.unwrap(), Insert::Exists(Box::new(gone)));
}

pub(crate) async fn description_changes_nothing_else(store: Arc<dyn Store>) {
    for (number, state) in (1..).zip(StateName::iter()) {
        let before = in_state(&*store, state, number).await;
        let name = SandboxName::parse(&format!("renamed {number}")).unwrap();
        let described = Description { name: name.clone(), descriptor: domain::Descriptor::default() };
        let after = done(store.describe(&before.id, before.version, &described).await.unwrap());
        assert_eq!(after, Sandbox { name, descriptor: domain::Descriptor::default(), ..before.clone() });
        assert_eq!(store.sandbox(&before.id).await.unwrap(), Some(after.clone()));
        if state != StateName::Deleted {
            assert_eq!(listed(&*store, state, SortRange::All).await, std::slice::from_ref(&after));
        }
        if state == StateName::Available {
            // The index has the new name at once.
            assert_eq!(listed(&*store, state, prefix("renamed")).await, std::slice::from_ref(&after));
            assert_eq!(listed(&*store, state, prefix("lab")).await, []);
        }
        let old = store.describe(&before.id, before.version.next(), &described).await.unwrap();
        assert_eq!(lost(old), after);
    }
}

pub(crate) async fn tombstone_is_not_restored(store: Arc<dyn Store>) {
    let tombstone = in_state(&*store, StateName::Deleted, 1).await;
    // The provider's listing lags and still contains it.
    let listed_again = store.insert(&new_sandbox(1), LATER).await.unwrap();
    assert_eq!(listed_again, Insert::Exists(Box::new(tombstone.clone())));
    assert_eq!(lost(store.mark_found(&tombstone, LATER).await.unwrap()), tombstone);
    let grant = grant_of(&tombstone.candidate(), &claim_key("owner-2", "key-1"));
    assert_eq!(lost(store.grant(&grant).await.unwrap()), tombstone);
    for state in StateName::iter() {
        assert_eq!(listed(&*store, state, SortRange::All).await, [], "{state}");
    }
}

pub(crate) async fn absent_sandbox_is_distinguished_from_a_lost_race(store: Arc<dyn Store>) {
    let never = new_sandbox(1).enter(NOW);
    for transition in transitions(&never) {
        let answer = store.apply(&never.id, &transition).await.unwrap();
        assert_eq!(answer, Write::Lost(None), "{}", transition.name);
    }
    let described = Description { name: never.name.clone(), descriptor: domain::Descriptor::default() };
    let described = store.describe(&never.id, never.version, &described).await.unwrap();
    assert_eq!(described, Write::Lost(None));
    assert_eq!(store.sandbox(&never.id).await.unwrap(), None);
    store.ping().await.unwrap();
}

pub(crate) async fn a_long_history_keeps_its_latest_entries(store: Arc<dyn Store>) {
    let mut sandbox = added(&*store, 1).await;
    for _ in 0..=HISTORY_ENTRIES_MAX / 2 {
        let missing = done(store.mark_missing(&sandbox, NOW).await.unwrap());
        sandbox = done(store.mark_found(&missing, NOW).await.unwrap());
    }
    assert_eq!(sandbox.history.len(), HISTORY_ENTRIES_MAX);
    // From this entry on, writes append to the full history, and readers cut the surplus.
    let grant = grant_of(&sandbox.candidate(), &claim_key("owner-1", "key-1"));
    let granted = done(store.grant(&grant).await.unwrap());
    assert_eq!(granted, sandbox.apply(&Transition::grant(&grant)).unwrap());
    let released = done(store.release(&granted.id, &owner("owner-1"), None, None, LATER).await.unwrap());
    assert_eq!(released, granted.apply(&Transition::release(&owner("owner-1"), None, None, LATER)).unwrap());
    assert_eq!(store.sandbox(&released.id).await.unwrap(), Some(released));
}
