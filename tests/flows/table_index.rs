//! `broker table index`: from `LabIndex` to `GroupIndex` on a running fleet.

use ::dynamodb::DynamoStore;
use ::dynamodb::indexes::OptionalIndex;
use aws_sdk_dynamodb::types::AttributeValue;
use harness::dynamodb;
use harness::process::{Broker, run};
use harness::rig::{Plan, Rig};
use harness::wait::TIMEOUT;
use reqwest::Method;
use serde_json::Value;

/// What a subcommand prints, or why it is refused.
async fn index(rig: &Rig, arguments: &[&str]) -> Result<Value, String> {
    let variables: Vec<_> = rig.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = run(&[&["table", "--json", "index"], arguments].concat(), &variables).await;
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

async fn next(rig: &Rig, arguments: &[&str], wanted: &str) -> Value {
    let shown = index(rig, arguments).await.unwrap();
    assert!(shown["next"].as_str().unwrap().contains(wanted), "{wanted:?} is not in {shown}");
    shown
}

async fn refused(rig: &Rig, arguments: &[&str], wanted: &str) {
    let refusal = index(rig, arguments).await.unwrap_err();
    assert!(refusal.contains(wanted), "{wanted:?} is not in {refusal}");
}

/// Makes it a table of the previous build: without `GroupIndex`, and with leases that have no group.
async fn take_back(rig: &Rig, sandbox: &str) {
    let (endpoint, table) = (&rig.env["DYNAMODB_ENDPOINT"], &rig.env["DYNAMODB_TABLE"]);
    let store = DynamoStore::connect(&dynamodb::config(endpoint, table, 1)).await;
    store.drop_index(OptionalIndex::Group).await.unwrap();
    let client = dynamodb::client(endpoint);
    let text = |value: &str| AttributeValue::S(value.to_owned());
    client
        .delete_item()
        .table_name(table)
        .key("PK", text("TABLE"))
        .key("SK", text("GROUPS"))
        .send()
        .await
        .unwrap();
    client
        .update_item()
        .table_name(table)
        .key("PK", text(&format!("SBX#{sandbox}")))
        .key("SK", text("META"))
        .update_expression("REMOVE #group, group_sort")
        .expression_attribute_names("#group", "group")
        .send()
        .await
        .unwrap();
}

/// The sandboxes that the API lists for the lab.
async fn listed(rig: &Rig) -> Vec<String> {
    let listed = rig.api.admin(Method::GET, "/v1/admin/sandboxes?lab=lab-a").await;
    assert_eq!(listed.status, 200, "{listed:?}");
    let sandboxes = listed.body["sandboxes"].as_array().unwrap();
    sandboxes.iter().map(|sandbox| sandbox["sandbox_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn commands_lead_from_lab_index_to_group_index() {
    let mut rig = Plan::new(3).start().await;
    let held = rig.api.allocate_with("student-1", &[("X-Instruqt-Track-ID", "lab-a")]).await;
    let held = held.sandbox().to_owned();
    take_back(&rig, &held).await;
    let shown = next(&rig, &["show"], "`broker table index add`").await;
    assert_eq!(shown["back_fill"]["is_complete"], false, "{shown}");
    assert_eq!(shown["indexes"][2]["status"], "absent", "{shown}");
    // Two allocators, a reaper, a reconciler and a registry; the others do not use the table.
    assert_eq!(shown["roles"].as_array().unwrap().len(), 5, "{shown}");
    refused(&rig, &["drop", "--yes"], "GroupIndex is absent").await;
    next(&rig, &["add"], "`broker table index back-fill`").await;
    refused(&rig, &["drop", "--yes"], "the back-fill of GroupIndex is not complete").await;

    let folder = tempfile::tempdir().unwrap();
    let mut env = rig.env.clone();
    env.insert("OPS_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
    env.insert("STORE_READ_GROUP_INDEX".to_owned(), "true".to_owned());
    let variables: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let early = Broker::start(folder.path(), &["allocator"], &variables).await;
    let ended = tokio::time::timeout(TIMEOUT, early.child.ended()).await.expect("it ends by itself");
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{}", early.output());
    for part in ["it is not back-filled", "STORE_READ_GROUP_INDEX", "broker table index show"] {
        assert!(early.output().contains(part), "{part:?} is not in\n{}", early.output());
    }

    let shown =
        next(&rig, &["back-fill", "--items-per-second", "10000"], "with STORE_READ_GROUP_INDEX=true").await;
    assert_eq!((&shown["back_fill"]["is_complete"], &shown["back_fill"]["set"]), (&true.into(), &1.into()));
    refused(&rig, &["drop", "--yes"], "may read it; restart them with STORE_READ_GROUP_INDEX=true").await;
    assert_eq!(listed(&rig).await, [held.as_str()]);

    rig.stop_fleet().await.unwrap();
    rig.env.insert("STORE_READ_GROUP_INDEX".to_owned(), "true".to_owned());
    rig.start_again().await;
    assert_eq!(listed(&rig).await, [held.as_str()]);
    next(&rig, &["show"], "`broker table index drop --yes`").await;
    refused(&rig, &["drop"], "nothing was changed. With --yes").await;
    let shown = next(&rig, &["drop", "--yes"], "nothing: LabIndex is gone").await;
    assert_eq!(shown["indexes"][1]["status"], "absent", "{shown}");
    assert_eq!(listed(&rig).await, [held.as_str()]);
    next(&rig, &["add", "--lab-index"], "drop --yes").await;
    rig.stop().await;
}
