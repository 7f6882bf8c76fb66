//! The messages of the operators' actions on deletions, and the events, as they are today.

use crate::messages::{reads, strict, wire};
use contract::{
    DeletionEntry, DeletionPlace, DeletionRequest, DeletionTotals, DeletionView, DeletionsReply,
    DeletionsRequest, Event, ExtendRequest, HistoryView, KeyRequest, OrderReply, OrderRequest, ParkedReply,
    ParkedRequest, ParkedView, PreCleanView, QueuedView, RemoveReply, ReplayAllReply, ReplayAllRequest,
    ReplayOutcome, ReplayProvisionRequest, ReplayProvisionsReply, ReplayProvisionsRequest, ReplayReply,
    Report, RunReport, RunStatus, SweepReport,
};
use domain::{
    Cause, ClaimKey, Epoch, ExternalId, Grant, IdempotencyKey, LabId, NewSandbox, OwnerId, PoolName,
    Preparation, SandboxId, SandboxName, StateName, Transition, UnixSeconds,
};
use insta::assert_snapshot;

fn parked() -> ParkedView {
    ParkedView {
        key: "2000000".to_owned(),
        pool: Some("main".to_owned()),
        reason: "status 500".to_owned(),
        attempts: Some(8),
        parked_at: 1_763_686_800,
    }
}

#[test]
fn parked_deletions() {
    let request = ParkedRequest {
        pool: Some("main".to_owned()),
        reason: Some("500".to_owned()),
        cursor: Some(40),
        limit: Some(100),
    };
    assert_snapshot!(strict(&request), @r#"{"pool":"main","reason":"500","cursor":40,"limit":100}"#);
    reads("{}", &ParkedRequest::default());
    let unreadable = ParkedView { key: "_unreadable.7".to_owned(), pool: None, attempts: None, ..parked() };
    let reply = ParkedReply { parked: vec![parked(), unreadable], count: 2, cursor: None };
    assert_snapshot!(wire(&reply), @r#"{"parked":[{"key":"2000000","pool":"main","reason":"status 500","attempts":8,"parked_at":1763686800},{"key":"_unreadable.7","pool":null,"reason":"status 500","attempts":null,"parked_at":1763686800}],"count":2,"cursor":null}"#);
}

#[test]
fn deletion_view() {
    let request = DeletionRequest { sandbox_id: "2000000".to_owned() };
    assert_snapshot!(strict(&request), @r#"{"sandbox_id":"2000000"}"#);
    let entry = HistoryView {
        version: 5,
        epoch: 1,
        status: StateName::PendingDeletion.into(),
        cause: Cause::Replayed.into(),
        at: 1_763_686_900,
        by: Some("alice".to_owned()),
        reason: None,
    };
    let view = DeletionView {
        sandbox_id: "2000000".to_owned(),
        name: "lab-00000".to_owned(),
        pool: "main".to_owned(),
        status: StateName::PendingDeletion.into(),
        requested_at: Some(1_763_683_200),
        attempts: 0,
        last_error: Some("status 500".to_owned()),
        pre_clean: Some(PreCleanView::from(&Preparation::failed("status 500", true))),
        queued: vec![QueuedView { put_off: true, since: 1_763_686_900, due_at: Some(1_763_686_960) }],
        parked: None,
        history: vec![entry],
    };
    assert_snapshot!(wire(&view), @r#"{"sandbox_id":"2000000","name":"lab-00000","pool":"main","status":"pending_deletion","requested_at":1763683200,"attempts":0,"last_error":"status 500","pre_clean":{"result":"failed","services":null,"reason":"status 500","went_on":true,"summary":"failed, went on without: status 500"},"queued":[{"put_off":true,"since":1763686900,"due_at":1763686960}],"parked":null,"history":[{"version":5,"epoch":1,"status":"pending_deletion","cause":"replayed","at":1763686900,"by":"alice"}]}"#);
}

#[test]
fn deletion_view_of_an_older_worker() {
    let older = r#"{"sandbox_id":"7","name":"lab","pool":"main","status":"deleted","requested_at":null,"attempts":0,"last_error":null,"queued":[{"put_off":false,"since":1}],"parked":null,"history":[]}"#;
    let read: DeletionView = serde_json::from_str(older).unwrap();
    assert_eq!((read.pre_clean, read.queued[0].due_at), (None, None));
}

#[test]
fn deletion_queue() {
    let request = DeletionsRequest {
        pool: Some("main".to_owned()),
        status: Some(StateName::DeletionFailed.into()),
        cursor: Some("main.deletion_failed.0.".to_owned()),
        limit: Some(100),
    };
    assert_snapshot!(strict(&request), @r#"{"pool":"main","status":"deletion_failed","cursor":"main.deletion_failed.0.","limit":100}"#);
    reads("{}", &DeletionsRequest::default());
    let entry = DeletionEntry {
        sandbox_id: "2000000".to_owned(),
        name: "lab-00000".to_owned(),
        pool: "main".to_owned(),
        status: StateName::PendingDeletion.into(),
        place: DeletionPlace::Retrying,
        requested_at: 1_763_683_200,
        age_seconds: 60,
        attempts: 1,
        last_error: Some("status 500".to_owned()),
        retry_at: Some(1_763_683_270),
        pre_clean: Some(PreCleanView::from(&Preparation::Done { count: 2 })),
    };
    let totals = DeletionTotals {
        pending: 3,
        parked: 1,
        waiting: Some(1),
        running: Some(1),
        retrying: Some(1),
        oldest_requested_at: Some(1_763_683_200),
        oldest_age_seconds: Some(60),
    };
    let reply = DeletionsReply { deletions: vec![entry], count: 1, cursor: None, totals: Some(totals) };
    assert_snapshot!(wire(&reply), @r#"{"deletions":[{"sandbox_id":"2000000","name":"lab-00000","pool":"main","status":"pending_deletion","place":"retrying","requested_at":1763683200,"age_seconds":60,"attempts":1,"last_error":"status 500","retry_at":1763683270,"pre_clean":{"result":"cleaned","services":2,"reason":null,"went_on":false,"summary":"cleaned 2"}}],"count":1,"cursor":null,"totals":{"pending":3,"parked":1,"waiting":1,"running":1,"retrying":1,"oldest_requested_at":1763683200,"oldest_age_seconds":60}}"#);
    reads("{}", &DeletionsReply::default());
    let places = [
        DeletionPlace::Waiting,
        DeletionPlace::Running,
        DeletionPlace::Retrying,
        DeletionPlace::Parked,
        DeletionPlace::Unannounced,
    ];
    for place in places {
        assert_eq!(wire(&place), format!("\"{}\"", place.as_str()));
    }
}

#[test]
fn extensions_and_operator_actions() {
    let request = ExtendRequest {
        sandbox_id: "2000000".to_owned(),
        owner: "student-1".to_owned(),
        lab_duration_hours: Some(6),
        lab_duration_minutes: Some(330),
        lease_epoch: Some(3),
        by: Some("lab-2026".to_owned()),
    };
    assert_snapshot!(wire(&request), @r#"{"sandbox_id":"2000000","owner":"student-1","lab_duration_hours":6,"lab_duration_minutes":330,"lease_epoch":3,"by":"lab-2026"}"#);
    reads("{}", &ExtendRequest::default());
    let order = OrderRequest {
        sandbox_id: "2000000".to_owned(),
        reason: "smoke in it".to_owned(),
        by: Some("alice".to_owned()),
    };
    assert_snapshot!(strict(&order), @r#"{"sandbox_id":"2000000","reason":"smoke in it","by":"alice"}"#);
    reads("{}", &OrderRequest::default());
    let entry = HistoryView {
        version: 2,
        epoch: 0,
        status: StateName::Quarantined.into(),
        cause: Cause::Quarantined.into(),
        at: 1_763_683_200,
        by: order.by.clone(),
        reason: Some(order.reason.clone()),
    };
    let reply = OrderReply {
        sandbox_id: "2000000".to_owned(),
        name: "lab-00000".to_owned(),
        pool: "main".to_owned(),
        status: StateName::Quarantined.into(),
        history: vec![entry],
    };
    assert_snapshot!(wire(&reply), @r#"{"sandbox_id":"2000000","name":"lab-00000","pool":"main","status":"quarantined","history":[{"version":2,"epoch":0,"status":"quarantined","cause":"quarantined","at":1763683200,"by":"alice","reason":"smoke in it"}]}"#);
}

#[test]
fn replays() {
    let request = KeyRequest { key: "2000000".to_owned(), by: Some("alice".to_owned()) };
    assert_snapshot!(strict(&request), @r#"{"key":"2000000","by":"alice"}"#);
    reads(r#"{"key":"2000000"}"#, &KeyRequest { by: None, ..request });
    let outcomes = [
        ReplayOutcome::Replayed,
        ReplayOutcome::AlreadyOnTheWay,
        ReplayOutcome::Gone,
        ReplayOutcome::Unreadable,
    ];
    let replies = outcomes.map(|outcome| wire(&ReplayReply { key: "7".to_owned(), outcome }));
    assert_snapshot!(replies.join("\n"), @r#"
    {"key":"7","outcome":"replayed"}
    {"key":"7","outcome":"already_on_the_way"}
    {"key":"7","outcome":"gone"}
    {"key":"7","outcome":"unreadable"}
    "#);
    let all = ReplayAllRequest {
        pool: Some("main".to_owned()),
        by: Some("alice".to_owned()),
        ..ReplayAllRequest::default()
    };
    assert_snapshot!(strict(&all), @r#"{"pool":"main","by":"alice"}"#);
    let counts = ReplayAllReply {
        replayed: 1,
        already_on_the_way: 2,
        gone: 3,
        unreadable: 4,
        failed: 5,
        cursor: Some(40),
    };
    assert_snapshot!(wire(&counts), @r#"{"replayed":1,"already_on_the_way":2,"gone":3,"unreadable":4,"failed":5,"cursor":40}"#);
    let removed = RemoveReply { key: "_unreadable.7".to_owned(), removed: true };
    assert_snapshot!(wire(&removed), @r#"{"key":"_unreadable.7","removed":true}"#);
}

#[test]
fn replays_of_creations() {
    let request = ReplayProvisionRequest { sandbox_id: "ctr_1".to_owned(), by: Some("alice".to_owned()) };
    assert_snapshot!(strict(&request), @r#"{"sandbox_id":"ctr_1","by":"alice"}"#);
    let all = ReplayProvisionsRequest {
        pool: Some("shells".to_owned()),
        reason: Some("image".to_owned()),
        cursor: Some("provision_failed.shells.3..0a".to_owned()),
        limit: Some(100),
        by: Some("alice".to_owned()),
    };
    assert_snapshot!(strict(&all), @r#"{"pool":"shells","reason":"image","cursor":"provision_failed.shells.3..0a","limit":100,"by":"alice"}"#);
    reads("{}", &ReplayProvisionsRequest::default());
    let counts = ReplayProvisionsReply {
        replayed: 1,
        already_on_the_way: 2,
        gone: 3,
        failed: 4,
        cursor: Some("provision_failed.shells.3..0a".to_owned()),
    };
    assert_snapshot!(wire(&counts), @r#"{"replayed":1,"already_on_the_way":2,"gone":3,"failed":4,"cursor":"provision_failed.shells.3..0a"}"#);
}

#[test]
fn reports_of_older_builds() {
    let older = r#"{"kind":"sweep","tick":20,"duration_ms":9,"status":"completed","pending":3,"reannounced":1,"waiting":2}"#;
    let report: RunReport = serde_json::from_str(older).unwrap();
    let expected = SweepReport {
        status: RunStatus::Completed,
        pending: 3,
        reannounced: 1,
        waiting: 2,
        ..SweepReport::default()
    };
    assert_eq!(report.report, Report::Sweep(expected));
    let older = r#"{"kind":"stale","tick":22,"duration_ms":9,"status":"completed","due":3,"removed":1,"raced":2,"untold":4,"unreadable":1}"#;
    let report: RunReport = serde_json::from_str(older).unwrap();
    let Report::Stale(stale) = report.report else { panic!("{report:?}") };
    assert_eq!((stale.removed, stale.deleted, stale.grace_period_hours), (1, 0, 0));
}

#[test]
fn events() {
    let at = UnixSeconds::new(1_763_683_200);
    let owner = OwnerId::parse("student-1").unwrap();
    let free = NewSandbox {
        id: SandboxId::parse("2000000").unwrap(),
        name: SandboxName::parse("lab-00000").unwrap(),
        external_id: ExternalId::parse("identity/accounts/a90deeed").unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: domain::Descriptor::default(),
    }
    .enter(at);
    let grant = Grant {
        claim: ClaimKey { owner: owner.clone(), key: IdempotencyKey::from(&owner) },
        candidate: free.candidate(),
        lab: Some(LabId::parse("dns-basics").unwrap()),
        by: None,
        request: None,
        granted_at: at,
        expires_at: at,
        options: None,
    };
    let held = free.apply(&Transition::grant(&grant)).unwrap();
    let listed = Event::of(&held, &held.history[0], None);
    assert_snapshot!(wire(&listed), @r#"{"specversion":"1.0","id":"2000000:1","source":"/sandbox-broker","type":"sandbox.listed","subject":"2000000","time":"2025-11-21T00:00:00Z","datacontenttype":"application/json","data":{"pool":"main","from":null,"to":"available","version":1,"epoch":0,"owner":null,"lab":null,"by":"sync"}}"#);
    let claimed = Event::of(&held, &held.history[1], Some("r-1"));
    let written = wire(&claimed);
    assert_snapshot!(written, @r#"{"specversion":"1.0","id":"2000000:2","source":"/sandbox-broker","type":"sandbox.claimed","subject":"2000000","time":"2025-11-21T00:00:00Z","datacontenttype":"application/json","data":{"pool":"main","from":"available","to":"allocated","version":2,"epoch":1,"owner":"student-1","lab":"dns-basics","by":"student-1","request_id":"r-1"}}"#);
    let readme = crate::markdown::Document::read("nats/README.md");
    assert!(readme.text().contains(&written), "nats/README.md shows this very event");
    assert_eq!(held.epoch, Epoch::new(1));
}
