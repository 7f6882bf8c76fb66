//! The messages between nodes and the rest of the fleet in their JSON form of today, as `messages.rs`.

use crate::messages::{reads, strict, wire};
use contract::nodes::{
    AfterFailure, ExecuteRequest, ExecutionRequest, ExecutionResult, Fate, HeldContainer, HeldReply,
    HeldRequest, Holding, IdleContainer, InventoryReply, InventoryRequest, LeaseReply, LeaseRequest,
    NodeLease, NodePool, NodePoolsReply, NodePoolsRequest, NodeRegistration, ProvisionFailedReply,
    ProvisionFailedRequest, ProvisionWantedReply, ProvisionWantedRequest, ProvisionedRequest,
    RegisterNodeRequest, RemoveContainersReply, RemoveContainersRequest, WantedSandbox,
};
use contract::templates::TemplateSettings;
use insta::assert_snapshot;
use std::collections::BTreeMap;

const PROCESS: &str = r#"{"kind":"container","image":"host","command":["sleep","infinity"],"cpu_milli":500,"memory_mb":256,"tmpfs_mb":64,"workspace_mb":64,"workspace":"/workspace","pids":64,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"exec","command":["true"],"timeout_seconds":30},"isolation":"process","untrusted":false,"supervisor":true}"#;
const CONTAINER: &str = r#"{"kind":"container","image":"python:3.12","command":["sleep","infinity"],"cpu_milli":500,"memory_mb":256,"tmpfs_mb":64,"workspace_mb":64,"workspace":"/workspace","pids":64,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"http","port":8000,"path":"/","timeout_seconds":30},"isolation":"container","runtime":"runsc","untrusted":false,"supervisor":true}"#;

/// The settings of that JSON, which are valid.
fn settings(text: &str) -> TemplateSettings {
    let settings: TemplateSettings = serde_json::from_str(text).unwrap();
    settings.spec().unwrap();
    settings
}

fn node() -> String {
    "node-a".to_owned()
}

fn sandbox(number: usize) -> String {
    format!("ctr_{number}")
}

fn incarnation(number: usize) -> String {
    format!("0198c0de-0000-7000-8000-00000000000{number}")
}

fn lease() -> NodeLease {
    NodeLease { epoch: 1, ends_at: 1_763_697_600, grace_seconds: 60, ..NodeLease::default() }
}

#[test]
fn executions() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let full = ExecutionRequest {
        sandbox_id: sandbox(1),
        owner: "student-1".to_owned(),
        lease_epoch: Some(1),
        command: words(&["sh", "-c", "cat; echo $GREETING"]),
        env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        cwd: Some("/workspace".to_owned()),
        stdin: Some("one\n".to_owned()),
        timeout_seconds: Some(10),
        by: Some("alice".to_owned()),
    };
    assert_snapshot!(strict(&full), @r#"{"sandbox_id":"ctr_1","owner":"student-1","lease_epoch":1,"command":["sh","-c","cat; echo $GREETING"],"env":{"GREETING":"hello"},"cwd":"/workspace","stdin":"one\n","timeout_seconds":10,"by":"alice"}"#);
    let least = ExecutionRequest {
        sandbox_id: sandbox(1),
        owner: "student-1".to_owned(),
        command: words(&["true"]),
        ..ExecutionRequest::default()
    };
    assert_snapshot!(strict(&least), @r#"{"sandbox_id":"ctr_1","owner":"student-1","command":["true"]}"#);
}

#[test]
fn reports() {
    let request = RegisterNodeRequest {
        node: node(),
        engine: "namespaces".to_owned(),
        isolation: "process".to_owned(),
        version: "0.1.0".to_owned(),
    };
    assert_snapshot!(strict(&request), @r#"{"node":"node-a","engine":"namespaces","isolation":"process","version":"0.1.0"}"#);
    let request = NodePoolsRequest { node: node(), generation: 3 };
    assert_snapshot!(strict(&request), @r#"{"node":"node-a","generation":3}"#);
    let request = ProvisionWantedRequest { node: node(), generation: 3, sandbox_id: sandbox(1), epoch: 1 };
    assert_snapshot!(strict(&request), @r#"{"node":"node-a","generation":3,"sandbox_id":"ctr_1","epoch":1}"#);
    let request = ProvisionedRequest {
        node: node(),
        generation: 3,
        sandbox_id: sandbox(1),
        epoch: 1,
        incarnation: incarnation(1),
        endpoints: BTreeMap::from([(8_000, "192.0.2.7:31000".to_owned())]),
        network: Some("internal".to_owned()),
    };
    assert_snapshot!(strict(&request), @r#"{"node":"node-a","generation":3,"sandbox_id":"ctr_1","epoch":1,"incarnation":"0198c0de-0000-7000-8000-000000000001","endpoints":{"8000":"192.0.2.7:31000"},"network":"internal"}"#);
    let request = ProvisionFailedRequest {
        node: node(),
        generation: 3,
        sandbox_id: sandbox(1),
        epoch: 1,
        attempts: 1,
        reason: "not ready within 30 s".to_owned(),
        is_final: false,
    };
    assert_snapshot!(strict(&request), @r#"{"node":"node-a","generation":3,"sandbox_id":"ctr_1","epoch":1,"attempts":1,"reason":"not ready within 30 s","is_final":false}"#);
    let held = |number| HeldContainer { sandbox_id: sandbox(number), incarnation: incarnation(number) };
    let request = HeldRequest { node: node(), generation: 3, containers: vec![held(1), held(2)] };
    assert_snapshot!(strict(&request), @r#"{"node":"node-a","generation":3,"containers":[{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001"},{"sandbox_id":"ctr_2","incarnation":"0198c0de-0000-7000-8000-000000000002"}]}"#);
}

#[test]
fn replies_to_reports() {
    let reply = NodeRegistration { node: node(), generation: 3 };
    assert_snapshot!(wire(&reply), @r#"{"node":"node-a","generation":3}"#);
    let pool =
        NodePool { pool: "shells".to_owned(), template: "shell@3".to_owned(), settings: settings(PROCESS) };
    // Settings are read strictly, so a newer writer adds none to them that an older reader meets.
    let reply = serde_json::to_string(&NodePoolsReply { pools: vec![pool] }).unwrap();
    assert_snapshot!(reply, @r#"{"pools":[{"pool":"shells","template":"shell@3","settings":{"kind":"container","image":"host","command":["sleep","infinity"],"cpu_milli":500,"memory_mb":256,"tmpfs_mb":64,"workspace_mb":64,"workspace":"/workspace","pids":64,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"exec","command":["true"],"timeout_seconds":30},"isolation":"process","untrusted":false,"supervisor":true}}]}"#);
    let wanted = WantedSandbox { attempts: 1, settings: settings(CONTAINER), lease: Some(lease()) };
    let reply = serde_json::to_string(&ProvisionWantedReply { wanted: Some(wanted) }).unwrap();
    assert_snapshot!(reply, @r#"{"wanted":{"attempts":1,"settings":{"kind":"container","image":"python:3.12","command":["sleep","infinity"],"cpu_milli":500,"memory_mb":256,"tmpfs_mb":64,"workspace_mb":64,"workspace":"/workspace","pids":64,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"http","port":8000,"path":"/","timeout_seconds":30},"isolation":"container","runtime":"runsc","untrusted":false,"supervisor":true},"lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}}}"#);
    assert_snapshot!(wire(&ProvisionWantedReply::default()), @r#"{"wanted":null}"#);
    let kept = Holding { fate: Fate::Keep, lease: Some(lease()) };
    assert_snapshot!(wire(&kept), @r#"{"fate":"keep","lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}}"#);
    let reply = ProvisionFailedReply { next: AfterFailure::Retry, attempts: 2 };
    assert_snapshot!(wire(&reply), @r#"{"next":"retry","attempts":2}"#);
    let reply = HeldReply { holdings: vec![kept, Holding::REMOVE] };
    assert_snapshot!(wire(&reply), @r#"{"holdings":[{"fate":"keep","lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}},{"fate":"remove","lease":null}]}"#);
    for (written, fate) in [("keep", Fate::Keep), ("remove", Fate::Remove), ("unknown", Fate::Unknown)] {
        reads(&format!(r#"{{"fate":"{written}"}}"#), &Holding { fate, lease: None });
    }
    let next = [("retry", AfterFailure::Retry), ("park", AfterFailure::Park), ("drop", AfterFailure::Drop)];
    for (written, next) in next {
        let expected = ProvisionFailedReply { next, attempts: 2 };
        reads(&format!(r#"{{"next":"{written}","attempts":2}}"#), &expected);
    }
}

#[test]
fn requests_to_a_node() {
    let request = RemoveContainersRequest { sandbox_id: sandbox(1) };
    assert_snapshot!(strict(&request), @r#"{"sandbox_id":"ctr_1"}"#);
    let request = LeaseRequest { sandbox_id: sandbox(1), incarnation: incarnation(1), lease: lease() };
    assert_snapshot!(strict(&request), @r#"{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001","lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}}"#);
    let held = |number| HeldContainer { sandbox_id: sandbox(number), incarnation: incarnation(number) };
    let request = InventoryRequest { containers: vec![held(1), held(2)] };
    assert_snapshot!(strict(&request), @r#"{"containers":[{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001"},{"sandbox_id":"ctr_2","incarnation":"0198c0de-0000-7000-8000-000000000002"}]}"#);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let request = ExecuteRequest {
        sandbox_id: sandbox(1),
        incarnation: incarnation(1),
        command: words(&["sh", "-c", "cat; echo $GREETING"]),
        env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        cwd: Some("/workspace".to_owned()),
        stdin: Some("one\n".to_owned()),
        timeout_seconds: 10,
    };
    assert_snapshot!(strict(&request), @r#"{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001","command":["sh","-c","cat; echo $GREETING"],"env":{"GREETING":"hello"},"cwd":"/workspace","stdin":"one\n","timeout_seconds":10}"#);
    let least =
        ExecuteRequest { command: words(&["true"]), env: BTreeMap::new(), cwd: None, stdin: None, ..request };
    assert_snapshot!(strict(&least), @r#"{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001","command":["true"],"env":{},"timeout_seconds":10}"#);
}

#[test]
fn replies_of_a_node() {
    assert_snapshot!(wire(&RemoveContainersReply { removed: 1 }), @r#"{"removed":1}"#);
    assert_snapshot!(wire(&LeaseReply { lease: lease() }), @r#"{"lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}}"#);
    let held = |number| vec![HeldContainer { sandbox_id: sandbox(number), incarnation: incarnation(number) }];
    let idle = IdleContainer {
        sandbox_id: sandbox(3),
        incarnation: incarnation(3),
        runtime: domain::RuntimeState::Stopped.into(),
    };
    let reply = InventoryReply { generation: 3, missing: held(2), idle: vec![idle], load: None };
    assert_snapshot!(wire(&reply), @r#"{"generation":3,"missing":[{"sandbox_id":"ctr_2","incarnation":"0198c0de-0000-7000-8000-000000000002"}],"idle":[{"sandbox_id":"ctr_3","incarnation":"0198c0de-0000-7000-8000-000000000003","runtime":"stopped"}]}"#);
    let exited = ExecutionResult {
        reason: "exited".to_owned(),
        exit_code: Some(0),
        signal: None,
        stdout: "one\nhello\n".to_owned(),
        stderr: String::new(),
        truncated: false,
        started_ms: 2,
        ended_ms: 4,
    };
    assert_snapshot!(wire(&exited), @r#"{"reason":"exited","exit_code":0,"signal":null,"stdout":"one\nhello\n","stderr":"","truncated":false,"started_ms":2,"ended_ms":4}"#);
    let (reason, stdout) = ("timed_out".to_owned(), String::new());
    let timed_out =
        ExecutionResult { reason, exit_code: None, signal: Some(9), stdout, ended_ms: 10_004, ..exited };
    assert_snapshot!(wire(&timed_out), @r#"{"reason":"timed_out","exit_code":null,"signal":9,"stdout":"","stderr":"","truncated":false,"started_ms":2,"ended_ms":10004}"#);
}
