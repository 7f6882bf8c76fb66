//! The simulator's control API, its limits and its stop.

use crate::rig::{Rig, TOKEN, client, csp_config, simulator_config, start_at, target, until};
use domain::UnixSeconds;
use ports::provider::{Deleted, Provider, ProviderError};
use reqwest::Method;
use serde_json::{Value, json};
use simulator::{FaultKind, Faults, Latency, Operation};
use std::sync::Arc;
use std::time::Duration;
use testkit::clock::ManualClock;

async fn call(rig: &Rig, method: Method, path: &str, token: &str, body: Option<Value>) -> (u16, Value) {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let mut request = http
        .request(method, format!("http://{}{path}", rig.simulator.address))
        .header("authorization", format!("Token {token}"));
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

#[tokio::test]
async fn faults_are_set_shown_used_up_and_cleared_over_http() {
    let rig = Rig::new(3, &[]).await;
    let faults = json!({"operations": {"delete": {"faults": [
        {"kind": "status", "status": 500, "message": "no luck", "next": 2},
    ]}}});
    let (status, shown) = call(&rig, Method::PUT, "/simulator/faults", TOKEN, Some(faults)).await;
    assert_eq!((status, &shown["operations"]["delete"]["faults"][0]["next"]), (200, &json!(2)));
    let expected = Err(ProviderError::Failed { message: "status 500: no luck".to_owned() });
    assert_eq!(rig.provider.delete(&rig.target()).await, expected);
    let (_, shown) = call(&rig, Method::GET, "/simulator/faults", TOKEN, None).await;
    assert_eq!(shown["operations"]["delete"]["faults"][0]["next"], json!(1));
    assert_eq!(call(&rig, Method::DELETE, "/simulator/faults", TOKEN, None).await.0, 204);
    assert_eq!(rig.provider.delete(&rig.target()).await, Ok(Deleted::Now));
    for bad in
        [json!({"operation": {}}), json!({"operations": {"delete": {"faults": [{"kind": "x"}]}}}), json!(1)]
    {
        let (status, body) = call(&rig, Method::PUT, "/simulator/faults", TOKEN, Some(bad.clone())).await;
        assert_eq!(status, 400, "{bad}");
        assert!(body["error"][0]["message"].is_string());
    }
}

#[tokio::test]
async fn accounts_are_added_and_shown_over_http() {
    let rig = Rig::new(2, &[]).await;
    let add = async |body: Value| call(&rig, Method::POST, "/simulator/accounts", TOKEN, Some(body)).await;
    let (status, body) = add(json!({"count": 3, "name_prefix": "demo-"})).await;
    assert_eq!(status, 201);
    assert_eq!(body, json!({"added": 3, "first_csp_id": 2_000_003, "last_csp_id": 2_000_005}));
    assert_eq!(add(json!({"count": 1})).await.0, 201);
    for bad in [json!({"count": 0}), json!({"count": 100_001}), json!({"count": 1, "prefix": "x"}), json!({})]
    {
        assert_eq!(add(bad.clone()).await.0, 400, "{bad}");
    }
    let (_, body) = call(&rig, Method::GET, "/simulator/accounts?_limit=2&_offset=4", TOKEN, None).await;
    assert_eq!(body["census"], json!({"live": 6, "deleted": 0, "orphaned_services": 0}));
    let names: Vec<&Value> = body["accounts"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["demo-00005", "lab-00006"]);
    let id = rig.handle.accounts()[0].id.clone();
    let services = json!({"id": id, "names": ["A", "B"]});
    assert_eq!(call(&rig, Method::PUT, "/simulator/services", TOKEN, Some(services)).await.0, 204);
    assert_eq!(rig.handle.accounts()[0].services, ["A", "B"]);
    assert_eq!(rig.list_all().await.unwrap().accounts.len(), 6);
}

#[tokio::test]
async fn call_log_records_every_call() {
    let rig = Rig::new(2, &[]).await;
    let uuid = rig.target().external_id.bare().to_owned();
    rig.provider.list(0).await.unwrap();
    rig.fail_next(Operation::Delete, FaultKind::Reset);
    rig.provider.delete(&rig.target()).await.unwrap_err();
    rig.provider.delete(&rig.target()).await.unwrap();
    let (_, body) = call(&rig, Method::GET, "/simulator/log", TOKEN, None).await;
    assert_eq!(body["dropped"], 0);
    let field = |name: &str| -> Vec<Value> {
        body["calls"].as_array().unwrap().iter().map(|entry| entry[name].clone()).collect()
    };
    assert_eq!(field("operation"), ["list", "delete", "delete"]);
    assert_eq!(field("account"), [Value::Null, json!(uuid), json!(uuid)]);
    assert_eq!(field("status"), [json!(200), Value::Null, json!(204)]);
    assert_eq!(field("fault"), [Value::Null, json!("reset"), Value::Null]);
    assert_eq!(field("in_flight")[0], 1);
    assert!(field("at_ms").iter().all(|at_ms| at_ms.as_u64() > Some(1_600_000_000_000)));
    assert_eq!(call(&rig, Method::DELETE, "/simulator/log", TOKEN, None).await.0, 204);
    assert!(rig.handle.log().is_empty());
}

#[tokio::test]
async fn every_control_needs_the_token() {
    let rig = Rig::new(1, &[]).await;
    for (method, path) in [
        (Method::GET, "/simulator/faults"),
        (Method::PUT, "/simulator/faults"),
        (Method::DELETE, "/simulator/faults"),
        (Method::GET, "/simulator/accounts"),
        (Method::POST, "/simulator/accounts"),
        (Method::PUT, "/simulator/services"),
        (Method::DELETE, "/simulator/sessions"),
        (Method::GET, "/simulator/log"),
        (Method::DELETE, "/simulator/log"),
    ] {
        assert_eq!(call(&rig, method.clone(), path, "another", None).await.0, 401, "{method} {path}");
    }
    assert_eq!(call(&rig, Method::GET, "/nowhere", TOKEN, None).await.0, 404);
}

#[tokio::test]
async fn the_rate_limit_answers_429_until_its_minute_is_over() {
    let clock = ManualClock::at(UnixSeconds::new(1_000_000));
    let simulator = start_at(simulator_config(5), Arc::new(clock.clone())).await;
    let provider = client(csp_config(&simulator.base_url(), &[]));
    let handle = simulator.handle();
    handle.set_faults(Faults { rate_limit_per_minute: Some(2), ..Faults::default() }).unwrap();
    for _ in 0..2 {
        provider.list(0).await.unwrap();
    }
    clock.advance(Duration::from_secs(20));
    let error = provider.delete(&target(&handle.accounts()[0])).await.unwrap_err();
    let ProviderError::Throttled { retry_after, .. } = error else { panic!("{error}") };
    assert_eq!(retry_after, Some(Duration::from_secs(40)));
    clock.advance(Duration::from_secs(40));
    assert_eq!(provider.delete(&target(&handle.accounts()[0])).await, Ok(Deleted::Now));
}

#[tokio::test]
async fn calls_run_concurrently_and_are_logged() {
    let clock = ManualClock::at(UnixSeconds::new(1_000_000));
    let simulator = start_at(simulator_config(8), Arc::new(clock.clone())).await;
    let provider = Arc::new(client(csp_config(&simulator.base_url(), &[])));
    let handle = simulator.handle();
    handle.slow_down(Operation::Delete, Latency::Between { min: 3_000, max: 7_000 }).unwrap();
    let calls: Vec<_> = handle
        .accounts()
        .iter()
        .map(|account| {
            let (provider, target) = (Arc::clone(&provider), target(account));
            tokio::spawn(async move { provider.delete(&target).await })
        })
        .collect();
    // The clock does not move until all of them wait.
    until("all are under way", || handle.in_flight() == 8).await;
    assert_eq!(handle.census().live, 8);
    until("all are deleted", || {
        clock.advance(Duration::from_secs(1));
        handle.census().live == 0
    })
    .await;
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(Deleted::Now));
    }
    assert_eq!(handle.log().iter().map(|entry| entry.in_flight).max(), Some(8));
    assert!(handle.log().iter().all(|entry| entry.took_ms >= 3_000));
}

#[tokio::test]
async fn graceful_stop_answers_calls_in_flight() {
    let rig = Rig::new(2, &[]).await;
    rig.handle.slow_down(Operation::Delete, Latency::Fixed(600_000)).unwrap();
    let (provider, deleted) = (Arc::clone(&rig.provider), rig.target());
    let slow = tokio::spawn(async move { provider.delete(&deleted).await });
    rig.handle.fail(Operation::List, simulator::Fault::always(FaultKind::Hang)).unwrap();
    let provider = Arc::clone(&rig.provider);
    let hanging = tokio::spawn(async move { provider.list(0).await });
    until("both are under way", || rig.handle.in_flight() == 2).await;
    rig.simulator.stop().await.unwrap();
    assert_eq!(slow.await.unwrap(), Ok(Deleted::Now));
    let hanging = hanging.await.unwrap();
    assert!(matches!(hanging, Err(ProviderError::Unreachable { .. })), "{hanging:?}");
}
