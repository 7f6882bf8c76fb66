//! Accounts that change their ids, are recreated, or are listed although they are deleted.

use crate::tests::{HOUR, NOW, Rig, account, done, id, owner};
use contract::RunStatus;
use contract::{Report, SyncReport, TickKind};
use domain::{
    DELETION_RELISTS_MAX, ExternalId, NewSandbox, STILL_LISTED, Sandbox, SandboxId, StateName, UnixSeconds,
};
use ports::bus::Upkeep as _;
use ports::provider::{Account, Listing, Malformed};
use ports::store::{IDENTITY_ABSENCES_MAX, Identity, Insert};

async fn run(rig: &Rig) -> SyncReport {
    match rig.run(TickKind::SYNC).await {
        Report::Sync(report) => report,
        other => panic!("{other:?}"),
    }
}

fn external_id(number: usize) -> ExternalId {
    ExternalId::parse(&account(number).external_id).unwrap()
}

/// The account of that number before the provider assigned the number.
fn without_number(number: usize) -> Account {
    Account { id: format!("u-{number}"), ..account(number) }
}

/// Another account of the same number.
fn made_again(number: usize) -> Account {
    Account { external_id: format!("identity/accounts/again-{number}"), ..account(number) }
}

/// Deletes a sandbox as release and reaper do; the provider still lists it.
async fn used_up(rig: &Rig, number: usize) -> Sandbox {
    let work = rig.release(number, NOW).await;
    let (sandbox_id, _, epoch) = work.parts().unwrap();
    let purge_at = rig.now().after(30 * 24 * HOUR);
    done(rig.store.finish_deletion(&sandbox_id, epoch, rig.now(), purge_at, None).await.unwrap())
}

async fn identity(rig: &Rig, external_id: &ExternalId) -> Option<Identity> {
    rig.store.identity(external_id).await.unwrap()
}

impl Rig {
    fn now(&self) -> UnixSeconds {
        ports::clock::Clock::now(&self.clock)
    }
}

#[tokio::test]
async fn account_that_gets_its_number_later_keeps_its_record() {
    let rig = Rig::new();
    rig.provider.set_accounts(vec![without_number(1), account(2)]);
    assert_eq!(run(&rig).await.inserted, 2);
    rig.provider.set_accounts(vec![account(1), account(2)]);
    let report = run(&rig).await;
    assert_eq!((report.unchanged, report.inserted, report.identity_taken), (2, 0, 0), "{report:?}");
    assert_eq!(rig.store.sandbox(&id(1)).await.unwrap(), None);
    // Its name follows, and so does its next state.
    rig.provider.set_accounts(vec![Account { name: "lab-new".to_owned(), ..account(1) }, account(2)]);
    assert_eq!(run(&rig).await.refreshed, 1);
    let kept = rig.store.sandbox(&SandboxId::parse("u-1").unwrap()).await.unwrap().unwrap();
    assert_eq!((kept.name.as_str(), kept.state.name()), ("lab-new", StateName::Available));
    rig.list([2]);
    assert_eq!(run(&rig).await.marked_stale, 1);
    rig.provider.set_accounts(vec![account(1), account(2)]);
    let report = run(&rig).await;
    assert_eq!((report.restored, report.inserted), (1, 0), "{report:?}");
}

#[tokio::test]
async fn account_listed_under_two_ids_becomes_one_sandbox() {
    let rig = Rig::new();
    let listing = Listing { accounts: vec![account(0), without_number(1)], ..Listing::default() };
    rig.provider.script_list(Ok(Listing { next: Some(2), ..listing }));
    rig.provider.script_list(Ok(Listing { accounts: vec![account(1)], ..Listing::default() }));
    // It moved between pages while the listing was read, so the listing is read again.
    rig.provider.set_accounts(vec![account(0), account(1)]);
    let report = run(&rig).await;
    assert_eq!((report.status, report.inserted), (RunStatus::Completed, 2), "{report:?}");
}

#[tokio::test]
async fn unused_sandbox_adopts_the_recreated_account() {
    let rig = Rig::new();
    rig.fill(10).await;
    rig.list(0..9);
    assert_eq!(run(&rig).await.marked_stale, 1);
    let before = rig.sandbox(0).await;
    let accounts = (1..9).map(account).chain([made_again(0), made_again(9)]);
    rig.provider.set_accounts(accounts.collect());
    let report = run(&rig).await;
    assert_eq!((report.renewed, report.unchanged, report.marked_stale), (2, 8, 0), "{report:?}");
    for number in [0, 9] {
        let renewed = rig.sandbox(number).await;
        assert_eq!(renewed.external_id.as_str(), made_again(number).external_id);
        assert_eq!(renewed.state.name(), StateName::Available);
        assert_eq!(identity(&rig, &external_id(number)).await, None, "it was never used, so it is free");
        assert!(identity(&rig, &renewed.external_id).await.unwrap().names(&renewed.id));
    }
    assert!(rig.sandbox(0).await.version > before.version, "candidates of the former account fail");
    assert_eq!(run(&rig).await.unchanged, 10);
}

#[tokio::test]
async fn listing_with_every_external_id_changed_is_refused() {
    let rig = Rig::new();
    rig.fill(100).await;
    rig.provider.set_accounts((0..100).map(made_again).collect());
    let report = run(&rig).await;
    assert_eq!((report.status, report.renewed), (RunStatus::Refused, 0), "{report:?}");
    // An account that only the first listing shows is not free either.
    rig.provider.script_list(Ok(Listing {
        accounts: (1..100).map(account).chain([made_again(0)]).collect(),
        ..Listing::default()
    }));
    rig.list(0..100);
    let report = run(&rig).await;
    assert_eq!((report.status, report.renewed), (RunStatus::Completed, 0), "{report:?}");
    assert_eq!(rig.sandbox(0).await.external_id, external_id(0));
}

#[tokio::test]
async fn recreated_account_of_an_allocated_sandbox_is_only_reported() {
    let rig = Rig::new();
    rig.fill(3).await;
    let held = rig.allocate(1).await;
    rig.provider.set_accounts(vec![account(0), made_again(1), account(2)]);
    let report = run(&rig).await;
    assert_eq!((report.identity_changed, report.unchanged, report.renewed), (1, 2, 0), "{report:?}");
    assert_eq!(rig.sandbox(1).await, held);
    assert_eq!(rig.metric("broker_identity_changed", &[]), 1);
    // When it is released and deleted, the new account is free.
    let released = done(rig.store.release(&id(1), &owner(1), None, None, NOW).await.unwrap());
    let purge_at = NOW.after(HOUR);
    done(rig.store.finish_deletion(&id(1), released.epoch, NOW, purge_at, None).await.unwrap());
    let report = run(&rig).await;
    assert_eq!((report.renewed, report.identity_changed), (1, 0), "{report:?}");
    let renewed = rig.sandbox(1).await;
    assert_eq!(renewed.external_id.as_str(), made_again(1).external_id);
    assert_eq!((renewed.version, renewed.epoch), (released.version.next().next(), released.epoch.next()));
    // The used account stays taken, and returns under no id.
    assert!(identity(&rig, &external_id(1)).await.is_some());
    let another = Account { id: "77".to_owned(), ..account(1) };
    rig.provider.set_accounts(vec![account(0), made_again(1), account(2), another]);
    let report = run(&rig).await;
    assert_eq!((report.inserted, report.identity_taken, report.unchanged), (0, 1, 3), "{report:?}");
}

#[tokio::test]
async fn deleted_account_that_stays_listed_is_redeleted_then_parked() {
    let rig = Rig::new();
    rig.fill(2).await;
    let mut gone = used_up(&rig, 1).await;
    for relists in 1..=DELETION_RELISTS_MAX {
        // Within the grace period the listing only lags.
        let report = run(&rig).await;
        assert_eq!((report.tombstoned, report.relisted), (1, 0), "{report:?}");
        rig.clock.advance(HOUR);
        let report = run(&rig).await;
        assert_eq!((report.tombstoned, report.relisted), (0, 1), "{report:?}");
        let again = rig.sandbox(1).await;
        assert_eq!(again.deletion().unwrap().relists, relists);
        assert_eq!(rig.bus.queued().len(), 1, "it is announced");
        let purge_at = rig.now().after(30 * 24 * HOUR);
        gone = done(rig.store.finish_deletion(&id(1), again.epoch, rig.now(), purge_at, None).await.unwrap());
        for message in ports::bus::Upkeep::queued(&rig.bus, 0, 10).await.unwrap() {
            rig.bus.unqueue(message.sequence).await.unwrap();
        }
    }
    rig.clock.advance(HOUR);
    assert_eq!(run(&rig).await.relisted, 1);
    let parked = rig.sandbox(1).await;
    assert_eq!(parked.state.name(), StateName::DeletionFailed);
    assert!(parked.version > gone.version);
    rig.clock.advance(HOUR);
    let Report::Sweep(report) = rig.run(TickKind::SWEEP).await else { panic!("another report") };
    assert_eq!(report.reparked, 1, "{report:?}");
    let copies = ports::bus::Upkeep::parked(&rig.bus, None, 0, 10).await.unwrap();
    assert_eq!(copies[0].reason, STILL_LISTED);
}

#[tokio::test]
async fn used_account_is_not_reallocated_while_listed() {
    let rig = Rig::new();
    rig.fill(2).await;
    // Its tombstone was purged while no sync ran.
    let used = ExternalId::parse("identity/accounts/u-5").unwrap();
    rig.store.name_identity(&used, &id(5)).await.unwrap();
    rig.list([0, 1, 5]);
    for _ in 0..2 * IDENTITY_ABSENCES_MAX {
        let report = run(&rig).await;
        assert_eq!((report.inserted, report.identity_taken), (0, 1), "{report:?}");
    }
    assert_eq!(rig.store.sandbox(&id(5)).await.unwrap(), None);
    // It is removed only after that number of complete listings in a row.
    for absences in 1..IDENTITY_ABSENCES_MAX {
        rig.list([0, 1]);
        run(&rig).await;
        assert_eq!(identity(&rig, &used).await.unwrap().absences, absences);
    }
    rig.list([0, 1, 5]);
    run(&rig).await;
    assert_eq!(identity(&rig, &used).await.unwrap().absences, 0, "they count anew");
    rig.list([0, 1]);
    for _ in 1..IDENTITY_ABSENCES_MAX {
        run(&rig).await;
    }
    // An unclear listing does not count.
    let unclear = Listing {
        accounts: vec![account(0), account(1)],
        malformed: vec![Malformed::default()],
        ..Listing::default()
    };
    rig.provider.script_list(Ok(unclear));
    assert_eq!(run(&rig).await.identities_dropped, 0);
    assert_eq!(run(&rig).await.identities_dropped, 1);
    rig.list([0, 1, 5]);
    assert_eq!(run(&rig).await.inserted, 1);
}

#[tokio::test]
async fn listed_tombstone_without_an_identity_gets_one() {
    let rig = Rig::new();
    rig.fill(2).await;
    used_up(&rig, 1).await;
    let former = identity(&rig, &external_id(1)).await.unwrap();
    assert!(rig.store.drop_identity(&former).await.unwrap());
    assert_eq!(run(&rig).await.tombstoned, 1);
    assert!(identity(&rig, &external_id(1)).await.unwrap().names(&id(1)));
}

#[tokio::test]
async fn identity_of_a_live_record_is_never_dropped() {
    let rig = Rig::new();
    rig.fill(10).await;
    rig.allocate(1).await;
    rig.list((0..9).filter(|number| *number != 1));
    for _ in 0..2 * IDENTITY_ABSENCES_MAX {
        assert_eq!(run(&rig).await.identities_dropped, 0);
    }
    for number in [1, 9] {
        assert_eq!(identity(&rig, &external_id(number)).await.unwrap().absences, 0);
    }
}

#[tokio::test]
async fn stale_duplicate_of_an_allocated_record_is_not_restored() {
    let rig = Rig::new();
    rig.fill(2).await;
    // An older build made a second record of the account, which is held while the first one became stale.
    let first = done(rig.store.mark_missing(&rig.sandbox(1).await, NOW).await.unwrap());
    let identity = rig.store.identity(&first.external_id).await.unwrap().unwrap();
    assert!(rig.store.drop_identity(&identity).await.unwrap());
    let second = NewSandbox {
        id: id(7),
        name: first.name.clone(),
        external_id: first.external_id.clone(),
        pool: first.pool.clone(),
        descriptor: domain::Descriptor::default(),
    };
    assert!(matches!(rig.store.insert(&second, NOW).await.unwrap(), Insert::Inserted(_)));
    rig.allocate(7).await;
    for listed in [account(1), Account { id: "7".to_owned(), ..account(1) }] {
        rig.provider.set_accounts(vec![account(0), listed]);
        let report = run(&rig).await;
        assert_eq!(report.restored, 0, "{report:?}");
        assert!(report.identity_taken > 0, "{report:?}");
        assert_eq!(rig.state(1).await, StateName::Stale);
    }
}

#[tokio::test]
async fn overlapping_pages_are_reread_and_then_refused() {
    let rig = Rig::new();
    rig.fill(40).await;
    // The same account is the first of each page, so each page misses one.
    let overlap = |rig: &Rig| {
        for page in 0..2 {
            let accounts = std::iter::once(0).chain(page * 10 + 1..page * 10 + 10).map(account).collect();
            rig.provider.script_list(Ok(Listing { accounts, next: Some(10), ..Listing::default() }));
        }
    };
    overlap(&rig);
    overlap(&rig);
    let report = run(&rig).await;
    assert_eq!(
        (report.status, report.unchanged),
        (RunStatus::Completed, 40),
        "the third is whole: {report:?}"
    );
    (0..3).for_each(|_| overlap(&rig));
    let report = run(&rig).await;
    assert_eq!((report.marked_stale, report.listed), (0, 0), "{report:?}");
    assert_eq!(report.status, RunStatus::Refused);
    let reason =
        "the pages of the provider's listing overlap: an account came twice, so others may be left out";
    assert_eq!(report.reason.as_deref(), Some(reason));
    assert_eq!(rig.in_state(StateName::Available).await.len(), 40);
}

#[tokio::test]
async fn malformed_entry_protects_only_the_records_it_names() {
    let entry = |id: Option<&str>, external_id: Option<&str>| Malformed {
        reason: "broken".to_owned(),
        id: id.map(str::to_owned),
        external_id: external_id.map(str::to_owned),
    };
    // The entry has an id, an account, both, or neither; the last value is how many of the two missing ones become
    // stale.
    let cases = [
        (entry(Some("8"), None), 1, 0),
        (entry(None, Some("identity/accounts/u-8")), 1, 0),
        (entry(Some("1 2"), Some("identity/accounts/u-8")), 1, 0),
        (entry(None, None), 0, 2),
    ];
    for (malformed, stale, withheld) in cases {
        let rig = Rig::new();
        rig.fill(10).await;
        for _ in 0..2 {
            rig.provider.script_list(Ok(Listing {
                accounts: (0..8).map(account).collect(),
                malformed: vec![malformed.clone()],
                ..Listing::default()
            }));
        }
        let report = run(&rig).await;
        assert_eq!((report.marked_stale, report.withheld), (stale, withheld), "{malformed:?}: {report:?}");
        assert_eq!((report.status, report.skipped), (RunStatus::Completed, 1), "{malformed:?}");
        assert_eq!(report.unclear, u64::from(withheld > 0));
        assert_eq!(report.reason.is_some(), withheld > 0, "{report:?}");
        assert_eq!(rig.metric("broker_listing_unclear_entries", &[]), report.unclear);
        assert_eq!(rig.state(8).await, StateName::Available);
    }
}
