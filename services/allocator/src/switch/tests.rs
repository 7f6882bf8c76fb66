use crate::deletions::tests::{NOW, Rig};
use contract::{FaultCode, Pause, Verb};
use ports::bus::DeletionControl as _;
use serde_json::json;
use testkit::bus::{Call, Loss};

async fn paused(rig: &Rig) -> Option<Pause> {
    rig.bus.status().await.unwrap().paused
}

#[tokio::test]
async fn pause_is_stored_in_table_and_bucket_until_resumed() {
    let rig = Rig::new();
    let reply =
        rig.ask(Verb::Pause, json!({"until_seconds": 60, "reason": "work", "by": "alice"})).await.unwrap();
    let until = NOW.get() + 60;
    assert_eq!(reply, json!({"by": "alice", "since": NOW.get(), "until": until, "reason": "work"}));
    let kept = rig.store.deletion_switch().await.unwrap().unwrap();
    assert_eq!((kept.is_paused, kept.by.as_str(), kept.version), (true, "alice", 1));
    assert_eq!(serde_json::to_value(paused(&rig).await).unwrap(), reply);

    let resumed = rig.ask(Verb::Resume, json!({"by": "bob"})).await.unwrap();
    assert_eq!(resumed["was_paused"], reply);
    let kept = rig.store.deletion_switch().await.unwrap().unwrap();
    assert_eq!((kept.is_paused, kept.by.as_str(), kept.version), (false, "bob", 2));
    assert_eq!(paused(&rig).await, None);
    let again = rig.ask(Verb::Resume, json!({})).await.unwrap();
    assert_eq!(again["was_paused"], json!(null), "there was nothing to resume");
}

#[tokio::test]
async fn pause_without_a_name_is_attributed_to_operator() {
    let rig = Rig::new();
    let reply = rig.ask(Verb::Pause, json!({})).await.unwrap();
    assert_eq!((&reply["by"], &reply["until"]), (&json!("operator"), &json!(null)));
    rig.ask(Verb::Resume, json!({})).await.unwrap();
    assert_eq!(rig.store.deletion_switch().await.unwrap().unwrap().by, "operator");
}

#[tokio::test]
async fn invalid_pause_request_changes_nothing() {
    let rig = Rig::new();
    for body in [
        json!({"until_seconds": 60, "until": NOW.get() + 60}),
        json!({"until_seconds": 0}),
        json!({"until": NOW.get()}),
        json!({"by": "a\nb"}),
        json!({"reason": 7}),
        json!([]),
    ] {
        let refused = rig.ask(Verb::Pause, body.clone()).await.unwrap_err();
        assert_eq!(refused.code, FaultCode::InvalidRequest, "{body}");
    }
    let refused = rig.ask(Verb::Resume, json!({"by": "a\nb"})).await.unwrap_err();
    assert_eq!(refused.code, FaultCode::InvalidRequest);
    assert_eq!(rig.store.deletion_switch().await.unwrap(), None);
    assert_eq!(paused(&rig).await, None);
}

#[tokio::test]
async fn pause_with_a_lost_bucket_write_is_completed_by_a_retry() {
    for loss in [Loss::Message, Loss::Answer] {
        let rig = Rig::new();
        // An empty bucket is restored from the table before the change.
        rig.ask(Verb::Resume, json!({})).await.unwrap();
        rig.bus.lose(Call::Switch, loss);
        let broken = rig.ask(Verb::Pause, json!({"by": "alice"})).await.unwrap_err();
        assert_eq!(broken.code, FaultCode::UpstreamUnavailable, "{loss:?}");
        assert!(rig.store.deletion_switch().await.unwrap().unwrap().is_paused, "the table has it already");
        rig.ask(Verb::Pause, json!({"by": "alice"})).await.unwrap();
        assert_eq!(paused(&rig).await.map(|pause| pause.by).as_deref(), Some("alice"), "{loss:?}");
    }
}
