use super::*;
use ports::random::Rng;
use serde_json::json;

fn faults(value: serde_json::Value) -> Result<Faults, String> {
    let faults: Faults = serde_json::from_value(value).map_err(|error| error.to_string())?;
    faults.check().map(|()| faults)
}

#[test]
fn every_fault_kind_round_trips() {
    let list = json!([
        {"kind": "status", "status": 429, "message": "slow", "retry_after_seconds": 3,
         "retry_after_as_date": true, "probability": 0.5, "next": 2, "account": "7"},
        {"kind": "hang"}, {"kind": "reset"}, {"kind": "garbage"}, {"kind": "flood", "bytes": 10},
        {"kind": "empty_list"}, {"kind": "short_list", "pages": 2},
        {"kind": "overlapping_pages"},
        {"kind": "malformed_entry", "entry": "no_id"},
    ]);
    let written = json!({
        "list_shows_deleted_for_ms": 5, "rate_limit_per_minute": 60, "session_lifetime_ms": 9,
        "operations": {
            "list": {"latency_ms": {"min": 1, "max": 2}, "faults": list},
            "delete": {"latency_ms": 7, "faults": [{"kind": "delete_then_hang", "next": 1}]},
        },
    });
    let read = faults(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), written);
    assert_eq!(faults(json!({})).unwrap(), Faults::default());
}

#[test]
fn invalid_faults_are_rejected() {
    let of = |operation: &str, fault: serde_json::Value| {
        faults(json!({"operations": {operation: {"faults": [fault]}}}))
    };
    assert!(of("list", json!({"kind": "hang"})).is_ok());
    for (operation, fault) in [
        ("list", json!({"kind": "hang", "probabilty": 0.1})),
        ("list", json!({"kind": "hang", "status": 500})),
        ("list", json!({"kind": "hang", "probability": 1.5})),
        ("list", json!({"kind": "status"})),
        ("list", json!({"kind": "status", "status": 99})),
        ("list", json!({"kind": "delete_then_hang"})),
        ("list", json!({"kind": "short_list"})),
        ("delete", json!({"kind": "empty_list"})),
        ("create", json!({"kind": "hang"})),
    ] {
        assert!(of(operation, fault.clone()).is_err(), "{operation} {fault}");
    }
    assert!(faults(json!({"operations": {"list": {"latency_ms": {"min": 2, "max": 1}}}})).is_err());
    assert!(faults(json!({"latency": 1})).is_err());
}

fn delete_faults(list: Vec<Fault>) -> Faults {
    let behaviour = Behaviour { latency_ms: None, faults: list };
    Faults { operations: [(Operation::Delete, behaviour)].into(), ..Faults::default() }
}

#[test]
fn a_counted_fault_is_used_up_and_the_next_one_follows() {
    let rng = Rng::seeded(1);
    let mut faults = delete_faults(vec![Fault::next(2, FaultKind::Hang), Fault::next(1, FaultKind::Reset)]);
    let mut fault_for = || faults.fault_for(Operation::Delete, &[], &rng);
    assert_eq!(fault_for(), Some(FaultKind::Hang));
    assert_eq!(fault_for(), Some(FaultKind::Hang));
    assert_eq!(fault_for(), Some(FaultKind::Reset));
    assert_eq!(fault_for(), None);
    assert!(faults.operations[&Operation::Delete].faults.is_empty());
    assert_eq!(faults.fault_for(Operation::List, &[], &rng), None);
}

#[test]
fn a_fault_for_one_account_leaves_the_others_alone() {
    let rng = Rng::seeded(1);
    let fault = Fault { account: Some("7".to_owned()), ..Fault::always(FaultKind::Hang) };
    let mut faults = delete_faults(vec![fault]);
    assert_eq!(faults.fault_for(Operation::Delete, &["8".to_owned()], &rng), None);
    let names = ["u-7".to_owned(), "7".to_owned()];
    assert_eq!(faults.fault_for(Operation::Delete, &names, &rng), Some(FaultKind::Hang));
}

#[test]
fn fault_probability_is_applied() {
    let rng = Rng::seeded(1);
    let hits = |probability| {
        let fault = Fault { probability: Some(probability), ..Fault::always(FaultKind::Hang) };
        let mut faults = delete_faults(vec![fault]);
        (0..1_000).filter(|_| faults.fault_for(Operation::Delete, &[], &rng).is_some()).count()
    };
    assert_eq!(hits(0.0), 0);
    assert_eq!(hits(1.0), 1_000);
    assert!((200..400).contains(&hits(0.3)));
}

#[test]
fn latency_is_a_number_or_a_range() {
    assert_eq!(Latency::parse("20"), Ok(Latency::Fixed(20)));
    assert_eq!(Latency::parse("3000 - 7000"), Ok(Latency::Between { min: 3_000, max: 7_000 }));
    for bad in ["", "-", "7-3", "x", "999999999"] {
        assert!(Latency::parse(bad).is_err(), "{bad}");
    }
    let rng = Rng::seeded(1);
    let span = Latency::Between { min: 3, max: 5 };
    let rolls: std::collections::BTreeSet<u128> = (0..100).map(|_| span.roll(&rng).as_millis()).collect();
    assert_eq!(rolls.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
}
