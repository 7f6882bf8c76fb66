//! Every message in its JSON form of today. A changed snapshot is a change of the contract: read "Evolution" in
//! `nats/README.md` before you accept it.

use contract::census::LABS_MAX;
use contract::throttle::{Breaker, BreakerReason, BreakerStatus, Failing, Forbidden, PoolDeletions};
use contract::{
    AllocateRequest, Allocation, BreakerState, Census, CensusReport, Counted, CountedBy, DeletionWork,
    DeletionsState, DeletionsStatus, ExpiryReport, Fault, FaultBody, FaultCode, FillReport, HealthReply,
    KnownMark, NodesReport, Outcome, ParkedDeletion, Pause, PauseRequest, PoolStats, ProvisionWork,
    ReleaseReply, ReleaseRequest, Report, RequestedPeriod, ResumeReply, ResumeRequest, RunReport, RunStatus,
    SandboxRequest, SandboxView, StaleReport, StatsReply, SweepReport, SyncReport, ThrottleState, TickOrder,
    TurnTaken, Violation,
};
use domain::StateName;
use insta::assert_snapshot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Debug;
use strum::IntoEnumIterator as _;

/// The JSON of a message. Also checks that today's reader reads it, and still reads it after a newer writer adds fields
/// to every object.
pub(crate) fn wire<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) -> String {
    let written = serde_json::to_string(message).unwrap();
    assert_eq!(serde_json::from_str::<T>(&written).unwrap(), *message, "what is written is read");
    let newer = with_added_fields(serde_json::from_str(&written).unwrap(), true).to_string();
    assert_eq!(serde_json::from_str::<T>(&newer).unwrap(), *message, "unknown fields are ignored in {newer}");
    written
}

/// The JSON of an operator's request. A reader refuses unknown fields, so that a typing error has no silent effect.
pub(crate) fn strict<T: Serialize + DeserializeOwned + PartialEq + Debug>(request: &T) -> String {
    let written = serde_json::to_string(request).unwrap();
    assert_eq!(serde_json::from_str::<T>(&written).unwrap(), *request, "what is written is read");
    let misspelled = written.replacen('{', r#"{"dryrun":true,"#, 1);
    let refused = serde_json::from_str::<T>(&misspelled).unwrap_err().to_string();
    assert!(refused.starts_with("unknown field `dryrun`"), "{misspelled}: {refused}");
    written
}

fn with_added_fields(value: Value, is_message: bool) -> Value {
    let Value::Object(fields) = value else { return value };
    // The keys of this object are pool names, so no field can be added to it.
    let of_field = |(name, value): (String, Value)| {
        // The same holds for these: their keys are names of labs, promises, pools, nodes and variables.
        if matches!(
            name.as_str(),
            "labs" | "violations" | "oldest_deletions" | "missing" | "degraded" | "silent" | "env" | "labels"
        ) {
            return (name, value);
        }
        let is_message = name != "pools";
        (name, with_added_fields(value, is_message))
    };
    let mut fields: serde_json::Map<_, _> = fields.into_iter().map(of_field).collect();
    if is_message {
        fields.insert("added_later".to_owned(), json!({"by": ["a newer writer"]}));
    }
    Value::Object(fields)
}

/// Checks that the message of an older writer, with the required fields only, reads as `message`.
pub(crate) fn reads<T: DeserializeOwned + PartialEq + Debug>(older: &str, message: &T) {
    assert_eq!(serde_json::from_str::<T>(older).unwrap(), *message);
}

#[test]
fn claims() {
    let full = AllocateRequest {
        owner: "student-1".to_owned(),
        lab: Some("dns-basics".to_owned()),
        idempotency_key: Some("second".to_owned()),
        pool: Some("main".to_owned()),
        name_prefix: Some("lab-dns-".to_owned()),
        lab_duration_hours: Some(2),
        lab_duration_minutes: Some(90),
        warm: Some("prefer".to_owned()),
        by: Some("lab-2026".to_owned()),
        ..AllocateRequest::default()
    };
    assert_snapshot!(wire(&full), @r#"{"owner":"student-1","lab":"dns-basics","idempotency_key":"second","pool":"main","name_prefix":"lab-dns-","lab_duration_hours":2,"lab_duration_minutes":90,"warm":"prefer","by":"lab-2026"}"#);
    let least = AllocateRequest { owner: "student-1".to_owned(), ..AllocateRequest::default() };
    assert_snapshot!(wire(&least), @r#"{"owner":"student-1"}"#);
    // An empty object is a request without an owner, which has its own fault code.
    reads("{}", &AllocateRequest::default());
    reads(r#"{"owner":"student-1","lab":null,"pool":null}"#, &least);
}

#[test]
fn leases() {
    let lease = Allocation {
        sandbox_id: "2000000".to_owned(),
        name: "lab-00000".to_owned(),
        external_id: "a90deeed-f0ec-4c4f-9897-a469083a0485".to_owned(),
        allocated_at: 1_763_683_200,
        expires_at: 1_763_697_600,
        sfdc_account_id: Some("001SIM000002000000".to_owned()),
        lease_epoch: 3,
        status: None,
    };
    assert_snapshot!(wire(&lease), @r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed-f0ec-4c4f-9897-a469083a0485","allocated_at":1763683200,"expires_at":1763697600,"sfdc_account_id":"001SIM000002000000","lease_epoch":3}"#);
    // Lab scripts read the field even if there is no such account.
    let unknown = Allocation { sfdc_account_id: None, ..lease };
    assert!(wire(&unknown).contains(r#""sfdc_account_id":null"#));
    let outcomes = [Outcome::Created, Outcome::Existing].map(Outcome::as_str).join(" ");
    assert_snapshot!(outcomes, @"created existing");
}

#[test]
fn releases() {
    let by = Some("lab-2026".to_owned());
    let request = SandboxRequest { sandbox_id: "2000000".to_owned(), owner: "student-1".to_owned(), by };
    assert_snapshot!(wire(&request), @r#"{"sandbox_id":"2000000","owner":"student-1","by":"lab-2026"}"#);
    let least = SandboxRequest { by: None, ..request };
    assert_snapshot!(wire(&least), @r#"{"sandbox_id":"2000000","owner":"student-1"}"#);
    reads("{}", &SandboxRequest::default());
    let release = ReleaseRequest {
        sandbox_id: "2000000".to_owned(),
        owner: "student-1".to_owned(),
        lease_epoch: Some(3),
        by: Some("lab-2026".to_owned()),
    };
    assert_snapshot!(wire(&release), @r#"{"sandbox_id":"2000000","owner":"student-1","lease_epoch":3,"by":"lab-2026"}"#);
    reads("{}", &ReleaseRequest::default());
    let reply = ReleaseReply {
        sandbox_id: "2000000".to_owned(),
        status: StateName::PendingDeletion.into(),
        deletion_requested_at: 1_763_683_200,
    };
    assert_snapshot!(wire(&reply), @r#"{"sandbox_id":"2000000","status":"pending_deletion","deletion_requested_at":1763683200}"#);
}

#[test]
fn sandbox_views() {
    let held = SandboxView {
        sandbox_id: "2000000".to_owned(),
        name: "lab-00000".to_owned(),
        external_id: "a90deeed-f0ec-4c4f-9897-a469083a0485".to_owned(),
        status: StateName::Allocated.into(),
        allocated_to_track: Some("student-1".to_owned()),
        allocated_at: Some(1_763_683_200),
        expires_at: Some(1_763_697_600),
        track_name: Some("dns-basics".to_owned()),
        sfdc_account_id: Some("001SIM000002000000".to_owned()),
    };
    assert_snapshot!(wire(&held), @r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed-f0ec-4c4f-9897-a469083a0485","status":"allocated","allocated_to_track":"student-1","allocated_at":1763683200,"expires_at":1763697600,"track_name":"dns-basics","sfdc_account_id":"001SIM000002000000"}"#);
    let bare = SandboxView {
        allocated_to_track: None,
        allocated_at: None,
        expires_at: None,
        track_name: None,
        sfdc_account_id: None,
        ..held
    };
    assert_snapshot!(wire(&bare), @r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed-f0ec-4c4f-9897-a469083a0485","status":"allocated","allocated_to_track":null,"allocated_at":null,"expires_at":null,"track_name":null,"sfdc_account_id":null}"#);
    reads(
        r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed-f0ec-4c4f-9897-a469083a0485","status":"allocated"}"#,
        &bare,
    );
}

#[test]
fn stats() {
    let pool = PoolStats {
        total: 21,
        available: 1,
        allocated: 2,
        pending_deletion: 3,
        stale: 4,
        deletion_failed: 5,
        quarantined: 6,
        ..PoolStats::default()
    };
    let pools = || BTreeMap::from([("main".to_owned(), pool)]);
    let labs = || BTreeMap::from([("main".to_owned(), BTreeMap::from([("dns-basics".to_owned(), 2)]))]);
    let counted = Counted { by: CountedBy::Census.into(), at: 1_763_683_200, age_seconds: 9 };
    let stats = StatsReply {
        all: pool,
        pools: pools(),
        not_configured: vec!["old".to_owned()],
        labs: Some(labs()),
        counted: Some(counted),
        deletions: None,
    };
    assert_snapshot!(wire(&stats), @r#"{"total":21,"available":1,"allocated":2,"pending_deletion":3,"stale":4,"deletion_failed":5,"quarantined":6,"pools":{"main":{"total":21,"available":1,"allocated":2,"pending_deletion":3,"stale":4,"deletion_failed":5,"quarantined":6}},"not_configured":["old"],"labs":{"main":{"dns-basics":2}},"counted":{"by":"census","at":1763683200,"age_seconds":9},"deletions":null}"#);
    reads(
        r#"{"total":0,"available":0,"allocated":0,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0,"pools":{}}"#,
        &StatsReply::default(),
    );
    assert_snapshot!(wire(&HealthReply { store: "ok".to_owned() }), @r#"{"store":"ok"}"#);
}

#[test]
fn tick_period_record() {
    let turn = TurnTaken { number: 4_503_599_627_370_496, is_first: false };
    assert_snapshot!(wire(&turn), @r#"{"number":4503599627370496,"is_first":false}"#);
    reads(r#"{"number":7}"#, &TurnTaken { number: 7, is_first: false });
    assert_snapshot!(wire(&RequestedPeriod { seconds: Some(60) }), @r#"{"seconds":60}"#);
    reads("{}", &RequestedPeriod { seconds: None });
    let scheduled = TickOrder::scheduled(std::time::Duration::from_secs(600));
    assert_snapshot!(wire(&scheduled), @r#"{"period_seconds":600}"#);
}

#[test]
fn table_mark() {
    let mark = KnownMark { number: 4_711, at: 1_763_683_200 };
    assert_snapshot!(wire(&mark), @r#"{"number":4711,"at":1763683200}"#);
}

#[test]
fn throttle_state() {
    assert_snapshot!(wire(&ThrottleState::default()), @r#"{"next_us":0,"rate_milli":0,"slowed_ms":0,"held_until_ms":0,"failures":0,"failing":{"who":"nobody"},"failing_since_ms":0,"good_ms":0,"forbidden":[],"breaker":{"state":"closed"},"openings":0,"reason":null,"written_ms":0}"#);
    let broken = ThrottleState {
        next_us: 1_763_683_200_000_000,
        rate_milli: 30_000,
        slowed_ms: 1_763_683_200_001,
        held_until_ms: 1_763_683_260_000,
        failures: 5,
        failing: Failing::One { sandbox: "2000000".to_owned() },
        failing_since_ms: 1_763_683_190_000,
        good_ms: 1_763_683_180_000,
        forbidden: vec![Forbidden { sandbox: "2000001".to_owned(), since_ms: 1_763_683_170_000 }],
        breaker: Breaker::HalfOpen { probe_us: 1_763_683_199_000_000, until_ms: 1_763_683_379_000 },
        openings: 2,
        reason: Some(BreakerReason::Failures),
        written_ms: 1_763_683_200_002,
    };
    assert_snapshot!(wire(&broken), @r#"{"next_us":1763683200000000,"rate_milli":30000,"slowed_ms":1763683200001,"held_until_ms":1763683260000,"failures":5,"failing":{"who":"one","sandbox":"2000000"},"failing_since_ms":1763683190000,"good_ms":1763683180000,"forbidden":[{"sandbox":"2000001","since_ms":1763683170000}],"breaker":{"state":"half_open","probe_us":1763683199000000,"until_ms":1763683379000},"openings":2,"reason":"failures","written_ms":1763683200002}"#);
    reads("{}", &ThrottleState::default());
    let pause = Pause {
        by: "operator".to_owned(),
        since: 1_763_683_200,
        until: Some(1_763_683_260),
        reason: Some("maintenance".to_owned()),
    };
    // A reader refuses unknown fields here, so that an operator's typing error has no silent effect.
    assert_snapshot!(serde_json::to_string(&pause).unwrap(), @r#"{"by":"operator","since":1763683200,"until":1763683260,"reason":"maintenance"}"#);
    reads("{}", &Pause::default());
    reads("{}", &PauseRequest::default());
    let status = DeletionsStatus {
        state: DeletionsState::Paused.into(),
        paused: Some(pause),
        breaker: BreakerStatus {
            state: BreakerState::Open.into(),
            reason: broken.reason,
            until: Some(1),
            failures: 5,
        },
        held_until: Some(1_763_683_260),
        rate_per_minute: 30,
        rate_per_minute_max: 60,
        consumer_paused_until: Some(1_763_683_300),
        pools: BTreeMap::from([(
            "main".to_owned(),
            PoolDeletions { waiting: 3, under_way: 2, consumer_paused_until: Some(1_763_683_300) },
        )]),
        providers: BTreeMap::new(),
    };
    assert_snapshot!(wire(&status), @r#"{"state":"paused","paused":{"by":"operator","since":1763683200,"until":1763683260,"reason":"maintenance"},"breaker":{"state":"open","reason":"failures","until":1,"failures":5},"held_until":1763683260,"rate_per_minute":30,"rate_per_minute_max":60,"consumer_paused_until":1763683300,"pools":{"main":{"waiting":3,"under_way":2,"consumer_paused_until":1763683300}}}"#);
    reads("{}", &DeletionsStatus::default());
}

#[test]
fn deletions() {
    let work = DeletionWork {
        version: 1,
        sandbox_id: "2000000".to_owned(),
        pool: "main".to_owned(),
        epoch: 3,
        requested_at: 1_763_683_200,
        external_id: None,
    };
    // As an older build writes it; readers ignore fields that they do not know.
    assert_snapshot!(wire(&work), @r#"{"version":1,"sandbox_id":"2000000","pool":"main","epoch":3,"requested_at":1763683200}"#);
    let work = DeletionWork { external_id: Some("identity/accounts/u-0".to_owned()), ..work };
    assert_snapshot!(wire(&work), @r#"{"version":1,"sandbox_id":"2000000","pool":"main","epoch":3,"requested_at":1763683200,"external_id":"identity/accounts/u-0"}"#);
    let parked = ParkedDeletion {
        work: work.clone(),
        attempts: 8,
        reason: "the provider answered 500".to_owned(),
        parked_at: 1_763_686_800,
    };
    assert_snapshot!(wire(&parked), @r#"{"version":1,"sandbox_id":"2000000","pool":"main","epoch":3,"requested_at":1763683200,"external_id":"identity/accounts/u-0","attempts":8,"reason":"the provider answered 500","parked_at":1763686800}"#);
    // A parked message can be replayed: it reads as the original work.
    reads(&serde_json::to_string(&parked).unwrap(), &work);
}

#[test]
fn provisions() {
    let work = ProvisionWork {
        version: 1,
        sandbox_id: "ctr_1".to_owned(),
        pool: "shells".to_owned(),
        epoch: 1,
        template: "shell@3".to_owned(),
        is_leased: true,
        requested_at: 1_763_683_200,
    };
    assert_snapshot!(wire(&work), @r#"{"version":1,"sandbox_id":"ctr_1","pool":"shells","epoch":1,"template":"shell@3","is_leased":true,"requested_at":1763683200}"#);
    let work = ProvisionWork { sandbox_id: "ctr_2".to_owned(), epoch: 0, is_leased: false, ..work };
    assert_snapshot!(wire(&work), @r#"{"version":1,"sandbox_id":"ctr_2","pool":"shells","epoch":0,"template":"shell@3","is_leased":false,"requested_at":1763683200}"#);
}

#[test]
fn faults() {
    let exhausted = Fault::new(FaultCode::PoolExhausted, "there is no free sandbox").body("r-1");
    assert_snapshot!(wire(&exhausted), @r#"{"detail":{"code":"POOL_EXHAUSTED","message":"there is no free sandbox","request_id":"r-1","retry_after":30}}"#);
    let unknown = Fault::new(FaultCode::NotFound, "there is no such sandbox").body("r-2");
    assert_snapshot!(wire(&unknown), @r#"{"detail":{"code":"NOT_FOUND","message":"there is no such sandbox","request_id":"r-2"}}"#);
    // The reason for the rule to deploy readers of a new code before its writers.
    let newer = r#"{"detail":{"code":"LATER","message":"","request_id":"r-3"}}"#;
    assert!(serde_json::from_str::<FaultBody>(newer).is_err());
}

#[test]
fn pause_and_resume() {
    let pause = PauseRequest {
        until_seconds: Some(1_800),
        until: None,
        reason: Some("maintenance".to_owned()),
        by: Some("alice".to_owned()),
    };
    // A reader refuses unknown fields here, so that an operator's typing error has no silent effect.
    assert_snapshot!(serde_json::to_string(&pause).unwrap(), @r#"{"until_seconds":1800,"until":null,"reason":"maintenance","by":"alice"}"#);
    assert_snapshot!(strict(&ResumeRequest { by: Some("alice".to_owned()) }), @r#"{"by":"alice"}"#);
    let was_paused = Pause {
        by: "operator".to_owned(),
        since: 1_763_683_200,
        until: Some(1_763_683_260),
        reason: Some("maintenance".to_owned()),
    };
    let reply = ResumeReply { was_paused: Some(was_paused) };
    assert_snapshot!(wire(&reply), @r#"{"was_paused":{"by":"operator","since":1763683200,"until":1763683260,"reason":"maintenance"}}"#);
}

#[test]
fn retry_advice() {
    let advice = FaultCode::iter().filter_map(|code| {
        let seconds = Fault::new(code, "").retry_after_seconds?;
        Some(format!("{} {seconds}", code.as_str()))
    });
    assert_snapshot!(advice.collect::<Vec<_>>().join("\n"), @r"
    POOL_EXHAUSTED 30
    RATE_LIMIT_EXCEEDED 1
    CONTENDED 1
    NO_WORKERS 1
    NOT_HERE 1
    STORE_UNAVAILABLE 5
    STORE_THROTTLED 1
    UPSTREAM_UNAVAILABLE 5
    TIMEOUT 1
    ");
}

#[test]
fn reports_of_syncs() {
    let sync = SyncReport {
        status: RunStatus::Refused,
        reason: Some("9 of 10 would be marked stale".to_owned()),
        forced_by: Some("alice".to_owned()),
        listed: 1,
        synced: 10,
        inserted: 1,
        restored: 2,
        refreshed: 3,
        unchanged: 4,
        marked_stale: 5,
        allocated_missing: 6,
        tombstoned: 7,
        skipped: 8,
        raced: 9,
        unreadable: 1,
        renewed: 10,
        identity_changed: 11,
        identity_taken: 12,
        relisted: 13,
        identities_dropped: 14,
        unclear: 15,
        withheld: 16,
        not_due: Vec::new(),
        providers: BTreeMap::new(),
    };
    let run = RunReport { tick: 17, duration_ms: 100, report: Report::Sync(sync) };
    assert_snapshot!(wire(&run), @r#"{"tick":17,"duration_ms":100,"kind":"sync","status":"refused","reason":"9 of 10 would be marked stale","forced_by":"alice","listed":1,"synced":10,"inserted":1,"restored":2,"refreshed":3,"unchanged":4,"marked_stale":5,"allocated_missing":6,"tombstoned":7,"skipped":8,"raced":9,"unreadable":1,"renewed":10,"identity_changed":11,"identity_taken":12,"relisted":13,"identities_dropped":14,"unclear":15,"withheld":16}"#);
    let done = SyncReport { status: RunStatus::Completed, ..SyncReport::default() };
    let run = RunReport { tick: 18, duration_ms: 0, report: Report::Sync(done) };
    assert_snapshot!(wire(&run), @r#"{"tick":18,"duration_ms":0,"kind":"sync","status":"completed","listed":0,"synced":0,"inserted":0,"restored":0,"refreshed":0,"unchanged":0,"marked_stale":0,"allocated_missing":0,"tombstoned":0,"skipped":0,"raced":0,"unreadable":0,"renewed":0,"identity_changed":0,"identity_taken":0,"relisted":0,"identities_dropped":0,"unclear":0,"withheld":0}"#);
}

#[test]
fn reports_of_censuses_and_the_census_itself() {
    let one = PoolStats { total: 3, available: 1, allocated: 2, ..PoolStats::default() };
    let census = Census {
        taken_at: 1_763_683_200,
        all: one,
        pools: BTreeMap::from([("main".to_owned(), one)]),
        labs: BTreeMap::from([("main".to_owned(), BTreeMap::from([("dns-basics".to_owned(), 2)]))]),
        labs_left_out: 4,
        violations: Violation::iter().map(|kind| (kind.into(), 0)).collect(),
        oldest_deletions: BTreeMap::from([("main".to_owned(), 1_763_683_100)]),
    };
    assert_snapshot!(wire(&census), @r#"{"taken_at":1763683200,"total":3,"available":1,"allocated":2,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0,"pools":{"main":{"total":3,"available":1,"allocated":2,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0}},"labs":{"main":{"dns-basics":2}},"labs_left_out":4,"violations":{"claim_elsewhere":0,"claim_missing":0,"held_twice":0,"identity_twice":0},"oldest_deletions":{"main":1763683100}}"#);
    let report = CensusReport {
        status: RunStatus::Completed,
        census,
        checked: 5,
        unchecked: 6,
        raced: 7,
        claims_removed: 8,
        unreadable: 1,
        identities_made: 9,
        duplicates_quarantined: 10,
    };
    let run = RunReport { tick: 21, duration_ms: 9, report: Report::Census(report) };
    assert_snapshot!(wire(&run), @r#"{"tick":21,"duration_ms":9,"kind":"census","status":"completed","taken_at":1763683200,"total":3,"available":1,"allocated":2,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0,"pools":{"main":{"total":3,"available":1,"allocated":2,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0}},"labs":{"main":{"dns-basics":2}},"labs_left_out":4,"violations":{"claim_elsewhere":0,"claim_missing":0,"held_twice":0,"identity_twice":0},"oldest_deletions":{"main":1763683100},"checked":5,"unchecked":6,"raced":7,"claims_removed":8,"unreadable":1,"identities_made":9,"duplicates_quarantined":10}"#);
}

#[test]
fn reports_of_removals_of_stale_sandboxes() {
    let stale = StaleReport {
        status: RunStatus::Completed,
        reason: None,
        grace_period_hours: 24,
        due: 3,
        removed: 1,
        deleted: 1,
        raced: 2,
        untold: 4,
        unreadable: 1,
    };
    let run = RunReport { tick: 22, duration_ms: 9, report: Report::Stale(stale) };
    assert_snapshot!(wire(&run), @r#"{"tick":22,"duration_ms":9,"kind":"stale","status":"completed","grace_period_hours":24,"due":3,"removed":1,"deleted":1,"raced":2,"untold":4,"unreadable":1}"#);
}

#[test]
fn reports_of_fills() {
    let fill = FillReport {
        status: RunStatus::Completed,
        created: 1,
        reannounced: 2,
        retired: 3,
        raced: 4,
        unannounced: 5,
        missing: BTreeMap::from([("shells".to_owned(), 2)]),
        degraded: BTreeMap::from([("shells".to_owned(), "no such image".to_owned())]),
        unreadable: 1,
    };
    let run = RunReport { tick: 23, duration_ms: 9, report: Report::Fill(fill) };
    assert_snapshot!(wire(&run), @r#"{"tick":23,"duration_ms":9,"kind":"fill","status":"completed","created":1,"reannounced":2,"retired":3,"raced":4,"unannounced":5,"missing":{"shells":2},"degraded":{"shells":"no such image"},"unreadable":1}"#);
}

#[test]
fn reports_of_looks_at_nodes() {
    let nodes = NodesReport {
        status: RunStatus::Completed,
        present: 3,
        silent: BTreeMap::from([("node-b".to_owned(), 16)]),
        lost: vec!["node-c".to_owned()],
        retired: 1,
        leased_missing: 2,
        failed: 1,
        ended: 1,
        raced: 3,
        unannounced: 4,
        unreadable: 1,
    };
    let run = RunReport { tick: 24, duration_ms: 9, report: Report::Nodes(nodes) };
    assert_snapshot!(wire(&run), @r#"{"tick":24,"duration_ms":9,"kind":"nodes","status":"completed","present":3,"silent":{"node-b":16},"lost":["node-c"],"retired":1,"leased_missing":2,"failed":1,"ended":1,"raced":3,"unannounced":4,"unreadable":1}"#);
}

#[test]
fn the_largest_census_fits_under_its_key() {
    // A key of the bucket holds 64 KiB; the names here have the maximum length.
    let labs: BTreeMap<String, u64> =
        (0..LABS_MAX).map(|number| (format!("{number:0>256}"), u64::MAX)).collect();
    let stats =
        PoolStats { total: u64::MAX, available: u64::MAX, allocated: u64::MAX, ..PoolStats::default() };
    let pools: BTreeMap<String, PoolStats> =
        (0..50).map(|number| (format!("{number:0>64}"), stats)).collect();
    let oldest_deletions = pools.keys().map(|pool| (pool.clone(), u64::MAX)).collect();
    let labs = BTreeMap::from([("main".to_owned(), labs)]);
    let census = Census { pools, labs, oldest_deletions, ..Census::default() };
    assert!(wire(&census).len() < 64 * 1_024 - 1_024, "{}", wire(&census).len());
}

#[test]
fn reports_of_expiry_runs_and_sweeps() {
    let expiry = ExpiryReport {
        status: RunStatus::Completed,
        due: 4,
        expired: 3,
        raced: 1,
        unannounced: 2,
        unreadable: 1,
    };
    let run = RunReport { tick: 19, duration_ms: 12, report: Report::Expiry(expiry) };
    assert_snapshot!(wire(&run), @r#"{"tick":19,"duration_ms":12,"kind":"expiry","status":"completed","due":4,"expired":3,"raced":1,"unannounced":2,"unreadable":1}"#);
    let sweep = SweepReport {
        status: RunStatus::Failed,
        pending: 3,
        reannounced: 1,
        waiting: 2,
        unqueued: 4,
        parked: 5,
        reparked: 6,
        unparked: 7,
        events_filled: 8,
        deleted: 2,
        failed: 1,
        unreadable: 1,
    };
    let run = RunReport { tick: 20, duration_ms: 9, report: Report::Sweep(sweep) };
    assert_snapshot!(wire(&run), @r#"{"tick":20,"duration_ms":9,"kind":"sweep","status":"failed","pending":3,"reannounced":1,"waiting":2,"unqueued":4,"parked":5,"reparked":6,"unparked":7,"events_filled":8,"deleted":2,"failed":1,"unreadable":1}"#);
}
