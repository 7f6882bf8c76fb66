//! The messages of the operators' lists of sandboxes, as they are today.

use crate::messages::{reads, strict, wire};
use contract::{
    BulkDeleteEntry, BulkDeleteOutcome, BulkDeleteReply, BulkDeleteRequest, DeletionState, HistoryView,
    LeaseView, ProvisionState, RecordRequest, RecordView, SandboxEntry, SandboxView, SandboxesReply,
    SandboxesRequest, TombstoneView,
};
use domain::{Cause, StateName};
use insta::assert_snapshot;

fn entry() -> SandboxEntry {
    let view = SandboxView {
        sandbox_id: "2000000".to_owned(),
        name: "lab-00000".to_owned(),
        external_id: "a90deeed".to_owned(),
        status: StateName::Allocated.into(),
        allocated_to_track: Some("student-1".to_owned()),
        allocated_at: Some(1_763_683_200),
        expires_at: Some(1_763_697_600),
        track_name: Some("dns-basics".to_owned()),
        sfdc_account_id: None,
    };
    let (pool, changed_at) = ("main".to_owned(), Some(1_763_683_200));
    SandboxEntry { view, pool, version: 2, epoch: 1, changed_at, provision: None }
}

/// One whose creation is parked.
fn parked() -> SandboxEntry {
    let own = entry();
    let view = SandboxView {
        sandbox_id: "ctr_1".to_owned(),
        name: "ctr_1".to_owned(),
        external_id: "ctr_1".to_owned(),
        status: StateName::ProvisionFailed.into(),
        allocated_to_track: None,
        allocated_at: None,
        expires_at: None,
        track_name: None,
        ..own.view
    };
    let last_error = Some("no such image".to_owned());
    let provision = ProvisionState { requested_at: 1_763_683_100, attempts: 5, last_error };
    SandboxEntry { view, pool: "shells".to_owned(), epoch: 0, provision: Some(provision), ..own }
}

#[test]
fn sandbox_lists() {
    let request = SandboxesRequest {
        status: Some(StateName::Allocated.into()),
        pool: Some("main".to_owned()),
        lab: Some("dns-basics".to_owned()),
        owner: Some("student-1".to_owned()),
        name_prefix: Some("lab-".to_owned()),
        cursor: Some("claims....0a".to_owned()),
        limit: Some(100),
    };
    assert_snapshot!(strict(&request), @r#"{"status":"allocated","pool":"main","lab":"dns-basics","owner":"student-1","name_prefix":"lab-","cursor":"claims....0a","limit":100}"#);
    reads("{}", &SandboxesRequest::default());
    let reply = SandboxesReply { sandboxes: vec![entry(), parked()], count: 2, cursor: None };
    assert_snapshot!(wire(&reply), @r#"{"sandboxes":[{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed","status":"allocated","allocated_to_track":"student-1","allocated_at":1763683200,"expires_at":1763697600,"track_name":"dns-basics","sfdc_account_id":null,"pool":"main","version":2,"epoch":1,"changed_at":1763683200},{"sandbox_id":"ctr_1","name":"ctr_1","external_id":"ctr_1","status":"provision_failed","allocated_to_track":null,"allocated_at":null,"expires_at":null,"track_name":null,"sfdc_account_id":null,"pool":"shells","version":2,"epoch":0,"changed_at":1763683200,"provision":{"requested_at":1763683100,"attempts":5,"last_error":"no such image"}}],"count":2,"cursor":null}"#);
}

#[test]
fn sandbox_with_all_fields() {
    let request = RecordRequest { sandbox_id: "2000000".to_owned() };
    assert_snapshot!(strict(&request), @r#"{"sandbox_id":"2000000"}"#);
    let lease = LeaseView {
        owner: "student-1".to_owned(),
        lab: Some("dns-basics".to_owned()),
        epoch: 1,
        claimed_version: 1,
        granted_at: 1_763_683_200,
        expires_at: 1_763_697_600,
        is_live: false,
    };
    let deletion = DeletionState {
        cause: Cause::Released.into(),
        requested_at: 1_763_690_000,
        attempts: 1,
        last_error: Some("status 500".to_owned()),
        pre_clean: None,
    };
    let history = HistoryView {
        version: 1,
        epoch: 0,
        status: StateName::Available.into(),
        cause: Cause::Listed.into(),
        at: 1_763_600_000,
        by: None,
        reason: None,
    };
    let view = RecordView {
        entry: entry(),
        provider_id: "identity/accounts/a90deeed".to_owned(),
        since: None,
        quarantine_reason: None,
        lease: Some(lease),
        deletion: Some(deletion),
        tombstone: Some(TombstoneView { deleted_at: 1_763_690_010, purge_at: 1_766_282_010 }),
        history: vec![history],
    };
    assert_snapshot!(wire(&view), @r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed","status":"allocated","allocated_to_track":"student-1","allocated_at":1763683200,"expires_at":1763697600,"track_name":"dns-basics","sfdc_account_id":null,"pool":"main","version":2,"epoch":1,"changed_at":1763683200,"provider_id":"identity/accounts/a90deeed","since":null,"quarantine_reason":null,"lease":{"owner":"student-1","lab":"dns-basics","epoch":1,"claimed_version":1,"granted_at":1763683200,"expires_at":1763697600,"is_live":false},"deletion":{"cause":"released","requested_at":1763690000,"attempts":1,"last_error":"status 500","pre_clean":null},"tombstone":{"deleted_at":1763690010,"purge_at":1766282010},"history":[{"version":1,"epoch":0,"status":"available","cause":"listed","at":1763600000}]}"#);
}

#[test]
fn removals() {
    let request = BulkDeleteRequest {
        status: Some(StateName::Stale.into()),
        pool: Some("main".to_owned()),
        dry_run: true,
        cursor: Some("stale.main.3..0a".to_owned()),
        limit: Some(100),
        by: Some("alice".to_owned()),
    };
    assert_snapshot!(strict(&request), @r#"{"status":"stale","pool":"main","dry_run":true,"cursor":"stale.main.3..0a","limit":100,"by":"alice"}"#);
    reads("{}", &BulkDeleteRequest::default());
    let outcomes = [
        BulkDeleteOutcome::Removed,
        BulkDeleteOutcome::Refused,
        BulkDeleteOutcome::Raced,
        BulkDeleteOutcome::Failed,
    ];
    let sandboxes = outcomes.map(|outcome| {
        assert_eq!(wire(&outcome), format!("\"{}\"", outcome.as_str()));
        let (sandbox_id, name) = ("2000000".to_owned(), "lab-00000".to_owned());
        BulkDeleteEntry { sandbox_id, name, pool: "main".to_owned(), outcome }
    });
    let reply = BulkDeleteReply {
        status: StateName::Stale.into(),
        dry_run: false,
        removed: 1,
        refused: 2,
        raced: 3,
        failed: 4,
        untold: 5,
        reason: Some("replay them".to_owned()),
        sandboxes: sandboxes[..1].to_vec(),
        more: true,
        cursor: Some("stale.main.3..0a".to_owned()),
    };
    assert_snapshot!(wire(&reply), @r#"{"status":"stale","dry_run":false,"removed":1,"refused":2,"raced":3,"failed":4,"untold":5,"reason":"replay them","sandboxes":[{"sandbox_id":"2000000","name":"lab-00000","pool":"main","outcome":"removed"}],"more":true,"cursor":"stale.main.3..0a"}"#);
    reads("{}", &BulkDeleteReply::default());
}
