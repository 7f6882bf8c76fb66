//! Identities that are missing in a table of an older build, and accounts with several records.

use super::*;
use domain::{ExternalId, NewSandbox, Sandbox, State};
use ports::store::{Identity, Insert};

/// How often all records are compared with the identities.
const CHECK_PERIOD: Duration = Duration::from_secs(600);

/// A record of an older build: without an identity.
async fn former(rig: &Rig, number: usize) -> Sandbox {
    let added = rig.add(number, "main").await;
    forget_identity(rig, &added.external_id).await;
    added
}

async fn forget_identity(rig: &Rig, account: &ExternalId) {
    let seen = rig.store.identity(account).await.unwrap().unwrap();
    assert!(rig.store.drop_identity(&seen).await.unwrap());
}

/// Two records of one account, as an older build made them: the account got its number after its first listing.
async fn two_records(rig: &Rig, one: usize, other: usize) -> (Sandbox, Sandbox) {
    let first = former(rig, one).await;
    let second = former(rig, other).await;
    // What a sync of that build did not check: the second record becomes the account of the first one.
    let listed = NewSandbox {
        id: second.id.clone(),
        name: second.name.clone(),
        external_id: first.external_id.clone(),
        pool: second.pool.clone(),
        descriptor: domain::Descriptor::default(),
    };
    let Insert::Inserted(second) = rig.store.reidentify(&second, &listed, NOW).await.unwrap() else {
        panic!("not inserted")
    };
    forget_identity(rig, &first.external_id).await;
    (first, *second)
}

#[tokio::test]
async fn records_without_an_identity_get_one() {
    let rig = Rig::new();
    let mut records = Vec::new();
    for number in 0..30 {
        records.push(former(&rig, number).await);
    }
    let report = run(&rig).await;
    assert_eq!((report.status, report.identities_made), (RunStatus::Completed, 30), "{report:?}");
    for Sandbox { external_id, id, .. } in records {
        let made = rig.store.identity(&external_id).await.unwrap();
        assert_eq!(made, Some(Identity::new(external_id, id)));
    }
    // An older build still runs for a while and adds records.
    former(&rig, 77).await;
    assert_eq!(run(&rig).await.identities_made, 0, "not in every census");
    rig.clock.advance(CHECK_PERIOD);
    assert_eq!(run(&rig).await.identities_made, 1);
    rig.clock.advance(CHECK_PERIOD);
    assert_eq!(run(&rig).await.identities_made, 0);
}

#[tokio::test]
async fn one_of_two_available_duplicates_is_quarantined() {
    let rig = Rig::new();
    let (first, second) = two_records(&rig, 1, 2).await;
    let report = run(&rig).await;
    assert_eq!(report.census.violations[&Violation::IdentityTwice.into()], 1, "{report:?}");
    assert_eq!(report.duplicates_quarantined, 1);
    assert_eq!(rig.metric("broker_invariant_violations", &["identity_twice"]), 1);
    let identity = rig.store.identity(&first.external_id).await.unwrap().unwrap();
    assert!(identity.names(&first.id) && identity.names(&second.id));
    let mut states = [rig.sandbox(1).await.state, rig.sandbox(2).await.state];
    states.sort_by_key(State::name);
    let [State::Available, State::Quarantined { reason, lease: None, .. }] = &states else {
        panic!("{states:?}")
    };
    assert_eq!(reason.as_str(), format!("the same account as {}", identity.sandbox_id));
    rig.clock.advance(CHECK_PERIOD);
    assert_eq!(violations(&rig).await, [0, 0, 0, 0], "it is not handed out any more");
}

#[tokio::test]
async fn allocated_record_is_never_quarantined() {
    let rig = Rig::new();
    two_records(&rig, 1, 2).await;
    let held = rig.allocate(2).await;
    let report = run(&rig).await;
    assert_eq!((report.duplicates_quarantined, rig.sandbox(2).await), (1, held), "{report:?}");
    assert_eq!(rig.state(1).await, StateName::Quarantined);

    // Two students in one account: every census reports both and changes neither.
    let rig = Rig::new();
    two_records(&rig, 1, 2).await;
    let both = [rig.allocate(1).await, rig.allocate(2).await];
    for _ in 0..2 {
        assert_eq!(violations(&rig).await, [0, 0, 0, 1]);
        assert_eq!([rig.sandbox(1).await, rig.sandbox(2).await], both);
        rig.clock.advance(CHECK_PERIOD);
    }
    assert_eq!(violations(&rig).await, [0, 0, 0, 1]);
}
