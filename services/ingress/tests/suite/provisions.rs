//! The operators' routes for parked creations.

use crate::support::{ADMIN, Rig, Step};
use contract::{FaultCode, Verb};
use serde_json::{Value, json};

const ALL: &str = "/v1/admin/provisions/replay?all=true";

fn page(replayed: u64, cursor: &'static str) -> Step {
    let body =
        format!(r#"{{"replayed":{replayed},"already_on_the_way":1,"gone":2,"failed":0,"cursor":{cursor}}}"#);
    Step::Say(None, body.leak())
}

fn bodies(rig: &Rig) -> Vec<(Verb, Value)> {
    let seen = rig.workers.seen();
    seen.iter().map(|seen| (seen.verb, serde_json::from_slice(&seen.body).unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn replay_of_one_names_the_sandbox_and_the_operator() {
    let rig = Rig::new([Step::Say(None, r#"{"as":"it stands"}"#)]);
    let headers = [("Authorization", "Bearer admin-token-1"), ("X-Operator", "alice")];
    let answer = rig.ask("POST", "/v1/admin/provisions/ctr_1/replay", &headers).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, br#"{"as":"it stands"}"#.as_slice()));
    assert_eq!(bodies(&rig), [(Verb::ReplayProvision, json!({"sandbox_id": "ctr_1", "by": "admin/alice"}))]);
}

#[tokio::test(start_paused = true)]
async fn replay_of_all_sums_the_counts_of_its_pages() {
    let rig = Rig::new([page(50, r#""a""#), page(7, "null")]);
    let answer = rig.ask("POST", &format!("{ALL}&pool=shells&reason=image"), ADMIN).await;
    let counts = json!({"replayed": 57, "already_on_the_way": 2, "gone": 4, "failed": 0, "cursor": null});
    assert_eq!((answer.status.as_u16(), answer.json()), (200, counts));
    let first = json!({"pool": "shells", "reason": "image", "by": "admin"});
    let mut second = first.clone();
    second["cursor"] = json!("a");
    assert_eq!(bodies(&rig), [(Verb::ReplayProvisions, first), (Verb::ReplayProvisions, second)]);

    let rig = Rig::new([page(1, r#""a""#), page(1, "null")]);
    let answer = rig.ask("POST", &format!("{ALL}&limit=1"), ADMIN).await;
    assert_eq!((&answer.json()["replayed"], &answer.json()["cursor"]), (&json!(1), &json!("a")), "one page");
}

#[tokio::test(start_paused = true)]
async fn failed_page_returns_counts_and_cursor_unless_it_is_the_first() {
    let refused = || Step::Refuse(FaultCode::StoreUnavailable, "no table");
    let rig = Rig::new([page(50, r#""a""#), refused()]);
    let answer = rig.ask("POST", ALL, ADMIN).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["cursor"]), (200, &json!("a")));
    let rig = Rig::new([refused()]);
    assert_eq!(rig.ask("POST", ALL, ADMIN).await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn invalid_replays_reach_no_worker() {
    for path in [
        "/v1/admin/provisions/replay",
        "/v1/admin/provisions/replay?all=false",
        "/v1/admin/provisions/replay?all=true&pol=shells",
        "/v1/admin/provisions/ctr_1/replay?all=true",
        "/v1/admin/provisions/_unreadable.7/replay",
    ] {
        let rig = Rig::new([Step::Say(None, "{}")]);
        assert_eq!(rig.ask("POST", path, ADMIN).await.status, 400, "{path}");
        assert!(rig.workers.seen().is_empty(), "{path}");
    }
}
