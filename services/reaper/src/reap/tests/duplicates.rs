//! Accounts with several records of an older build: an owner never loses one in use.

use super::*;
use domain::{Cause, Sandbox};

fn other_id() -> SandboxId {
    SandboxId::parse("u-1").unwrap()
}

/// Adds a second record of the account, free.
async fn other_record(rig: &Rig) -> Sandbox {
    let named = rig.store.identity(&external_id()).await.unwrap().unwrap();
    assert!(rig.store.drop_identity(&named).await.unwrap());
    let sandbox = NewSandbox {
        id: other_id(),
        name: SandboxName::parse("lab-1").unwrap(),
        external_id: external_id(),
        pool: pool(),
        descriptor: domain::Descriptor::default(),
    };
    match rig.store.insert(&sandbox, NOW).await.unwrap() {
        ports::store::Insert::Inserted(sandbox) => *sandbox,
        other => panic!("{other:?}"),
    }
}

/// Another student claims it.
async fn held_by_another(rig: &Rig, record: &Sandbox) {
    let other = OwnerId::parse("student-2").unwrap();
    let claim = ClaimKey { owner: other, key: IdempotencyKey::parse("key").unwrap() };
    let candidate = record.candidate();
    let expires_at = NOW.after(DAY);
    let grant = Grant {
        claim,
        candidate,
        lab: None,
        by: None,
        request: None,
        granted_at: NOW,
        expires_at,
        options: None,
    };
    assert!(matches!(rig.store.grant(&grant).await.unwrap(), Write::Done(_)));
}

#[tokio::test]
async fn account_is_not_deleted_while_another_record_is_allocated() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let other = other_record(&rig).await;
    held_by_another(&rig, &other).await;
    for _ in 0..3 {
        let verdict = rig.again(&work).await;
        assert_eq!(verdict, Verdict::Retry { delay: CONFIG.retry_delay_max });
    }
    assert_eq!((rig.provider.calls(), rig.state().await), (vec![], StateName::PendingDeletion));
    assert_eq!(rig.attempts().await, 0);
    // Both are named now, whichever was first.
    let identity = rig.store.identity(&external_id()).await.unwrap().unwrap();
    assert!(identity.names(&id()) && identity.names(&other_id()));
    // When that one is released as well, the account is deleted.
    let owner = OwnerId::parse("student-2").unwrap();
    assert!(matches!(rig.store.release(&other_id(), &owner, None, None, NOW).await.unwrap(), Write::Done(_)));
    assert_eq!(rig.again(&work).await, Verdict::Done);
    assert_eq!((rig.deletes(), rig.state().await), (1, StateName::Deleted));
}

#[tokio::test]
async fn available_duplicate_record_is_quarantined_first() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    other_record(&rig).await;
    assert_eq!(rig.again(&work).await, Verdict::Done);
    assert_eq!(rig.deletes(), 1);
    let other = rig.store.sandbox(&other_id()).await.unwrap().unwrap();
    assert_eq!(other.history.last().unwrap().cause, Cause::Quarantined);
}

#[tokio::test]
async fn work_for_another_account_is_ignored_and_without_one_is_done() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    assert_eq!(work.external_id.as_deref(), Some(external_id().as_str()));
    let other = DeletionWork { external_id: Some("identity/accounts/other".to_owned()), ..work.clone() };
    assert_eq!(rig.again(&other).await, Verdict::Done);
    assert_eq!((rig.provider.calls(), rig.state().await), (vec![], StateName::PendingDeletion));
    let former = DeletionWork { external_id: None, ..work };
    assert_eq!(rig.again(&former).await, Verdict::Done);
    assert_eq!(rig.state().await, StateName::Deleted);
}
