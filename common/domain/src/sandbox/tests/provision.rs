//! Sandboxes that the fleet creates.

use super::*;
use crate::ids::RequestKey;
use crate::lease::Candidate;

/// Being created for a claim.
fn leased() -> Sandbox {
    let absent = Candidate::absent(listed().id, listed().pool);
    assert!(absent.is_absent() && !free().candidate().is_absent());
    let grant = Grant { candidate: absent, ..grant_of(&free()) };
    listed().provision(Some(&grant), GRANTED)
}

fn parked(sandbox: &Sandbox) -> Sandbox {
    sandbox.clone().apply(&Transition::park_provision(sandbox, REQUESTED)).unwrap()
}

#[test]
fn cold_claim_creates_its_lease_with_the_record() {
    let wanted = leased();
    assert_eq!((wanted.version, wanted.epoch), (Version::new(1), Epoch::new(1)));
    let lease = wanted.lease().unwrap().clone();
    assert_eq!((lease.epoch, lease.claimed_version), (Epoch::new(1), Version::default()));
    assert_eq!(wanted.history[0].cause, Cause::Claimed);
    let node = Descriptor::parse([("node", "n-1")]).unwrap();
    let template = Descriptor::parse([(Descriptor::TEMPLATE, "shell@1"), ("node", "n-0")]).unwrap();
    let wanted = Sandbox { descriptor: template, ..wanted };
    let made = wanted.clone().apply(&Transition::finish_provision(&wanted, &node, REQUESTED)).unwrap();
    assert_eq!(made.state, State::Allocated(lease), "the same lease, with the same end");
    assert_eq!(made.epoch, Epoch::new(1));
    let entries: Vec<_> = made.descriptor.iter().collect();
    assert_eq!(entries, [("node", "n-1"), (Descriptor::TEMPLATE, "shell@1")], "what was known stays");
}

#[test]
fn created_for_the_pool_it_is_free() {
    let wanted = listed().provision(None, ENTERED);
    assert_eq!((wanted.version, wanted.epoch), (Version::new(1), Epoch::default()));
    assert_eq!((wanted.lease(), wanted.history[0].cause), (None, Cause::Filled));
    let made =
        wanted.clone().apply(&Transition::finish_provision(&wanted, &Descriptor::default(), REQUESTED));
    assert_eq!(made.unwrap().state, State::Available);
}

#[test]
fn release_and_expiry_end_a_creation_and_a_late_report_is_refused() {
    for wanted in [leased(), parked(&leased())] {
        for end in [
            Transition::release(&owner(), None, None, REQUESTED),
            Transition::expire(Epoch::new(1), EXPIRES, REQUESTED),
        ] {
            let ended = wanted.clone().apply(&end).unwrap();
            assert_eq!(ended.last_lease(), wanted.lease(), "its owner may ask about it");
            assert!(ended.last_claim().unwrap().is_closed);
            let late = Transition::finish_provision(&wanted, &Descriptor::default(), DELETED);
            assert!(ended.apply(&late).is_err(), "{}", end.name);
        }
        let others = Transition::release(&OwnerId::parse("owner-2").unwrap(), None, None, REQUESTED);
        assert!(wanted.apply(&others).is_err());
    }
    let unleased = listed().provision(None, ENTERED);
    assert!(unleased.clone().apply(&Transition::release(&owner(), None, None, REQUESTED)).is_err());
    assert!(unleased.apply(&Transition::expire(Epoch::default(), EXPIRES, REQUESTED)).is_err());
}

#[test]
fn only_what_no_owner_held_is_retired() {
    let unleased = listed().provision(None, ENTERED);
    for unused in [free(), unleased.clone(), parked(&unleased)] {
        let retired = unused.clone().apply(&Transition::retire(&unused, REQUESTED)).unwrap();
        assert_eq!(retired.deletion().unwrap().cause, DeletionCause::Retired);
    }
    for used in [held(), leased(), parked(&leased())] {
        assert!(used.clone().apply(&Transition::retire(&used, REQUESTED)).is_err());
    }
}

#[test]
fn failures_are_counted_until_a_replay() {
    let wanted = leased();
    let failed = wanted.clone().apply(&Transition::note_provision_failure(&wanted, 3, "no image")).unwrap();
    let provision = failed.provision().unwrap();
    assert_eq!((provision.attempts, provision.last_error.as_deref()), (3, Some("no image")));
    let parked = parked(&failed);
    let by = Actor::parse("alice").unwrap();
    let replay = Transition::replay_provision(&parked, &by, GRANTED, DELETED);
    let again = parked.clone().apply(&replay).unwrap();
    let provision = again.provision().unwrap();
    assert_eq!((provision.attempts, provision.requested_at), (0, DELETED));
    assert_eq!(provision.last_error.as_deref(), Some("no image"));
    assert_eq!(again.lease(), parked.lease());
    let late = Transition::note_provision_failure(&wanted, 4, "late");
    assert!(again.apply(&late).is_err(), "of the round before the replay");
}

#[test]
fn lease_that_is_over_is_not_revived() {
    let by = Actor::parse("alice").unwrap();
    let (held, free) = (parked(&leased()), parked(&listed().provision(None, ENTERED)));
    for (seen, ended_by, is_replayed) in
        [(&held, EXPIRES, false), (&held, GRANTED, true), (&free, EXPIRES, true)]
    {
        let replayed = seen.clone().apply(&Transition::replay_provision(seen, &by, ended_by, DELETED));
        assert_eq!(replayed.is_ok(), is_replayed, "{ended_by:?}");
    }
}

#[test]
fn repeats_are_noted_while_it_is_created() {
    let request = RequestKey::parse("request-2").unwrap();
    let wanted = leased();
    let noted = wanted.clone().apply(&Transition::note_answer(wanted.lease().unwrap(), &request)).unwrap();
    assert_eq!(noted.lease().unwrap().answered, [request]);
    assert_eq!((noted.version, noted.state.name()), (wanted.version, StateName::Provisioning));
    let unleased = listed().provision(None, ENTERED);
    assert!(
        unleased
            .apply(&Transition::note_answer(wanted.lease().unwrap(), &noted.lease().unwrap().answered[0]))
            .is_err()
    );
}

#[test]
fn abandoned_id_is_a_tombstone() {
    let gone = listed().abandon(REQUESTED, PURGE);
    assert_eq!(gone.state.name(), StateName::Deleted);
    assert_eq!((gone.version, gone.epoch, gone.last_lease()), (Version::new(1), Epoch::default(), None));
    let grant = grant_of(&free());
    assert!(gone.apply(&Transition::grant(&grant)).is_err());
}
