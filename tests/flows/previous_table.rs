//! A table that the build before wrote: every record is read, and the fleet goes on with it.

use aws_sdk_dynamodb::types::AttributeValue;
use domain::{PoolName, StateName, UnixSeconds};
use dynamodb::{DynamoConfig, DynamoStore};
use harness::dynamodb::client;
use harness::rig::Plan;
use harness::servers;
use ports::clock::{Clock as _, SystemClock};
use reqwest::Method;
use runtime::settings::Settings;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// What the clock of the recorded fleet showed.
const RECORDED_AT: u64 = 1_795_952_642;
/// Times in the recording: no other number lies there.
const TIMES: std::ops::Range<u64> = 1_795_000_000..1_800_000_000;

/// The recorded items, with their times moved to now and the settings of this fleet.
fn items(now: UnixSeconds, prefix: &str) -> Vec<HashMap<String, AttributeValue>> {
    let recorded: Vec<Value> = serde_json::from_str(include_str!("previous_table/items.json")).unwrap();
    let later = |text: &str| match text.parse::<u64>() {
        Ok(time) if TIMES.contains(&time) => {
            let (time, width) = (time + now.get() - RECORDED_AT, text.len());
            format!("{time:0width$}")
        }
        _ if text == "sandbox" => prefix.to_owned(),
        _ => text.to_owned(),
    };
    recorded.iter().map(|item| fields(item, &later)).collect()
}

fn fields(item: &Value, later: &impl Fn(&str) -> String) -> HashMap<String, AttributeValue> {
    let fields = item.as_object().unwrap().iter();
    fields.map(|(name, value)| (name.clone(), attribute(value, later))).collect()
}

fn attribute(value: &Value, later: &impl Fn(&str) -> String) -> AttributeValue {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    let list = || value.as_array().unwrap().iter();
    match kind.as_str() {
        "S" => AttributeValue::S(later(value.as_str().unwrap())),
        "N" => AttributeValue::N(later(value.as_str().unwrap())),
        "BOOL" => AttributeValue::Bool(value.as_bool().unwrap()),
        "L" => AttributeValue::L(list().map(|one| attribute(one, later)).collect()),
        "SS" => AttributeValue::Ss(list().map(|one| one.as_str().unwrap().to_owned()).collect()),
        "M" => AttributeValue::M(fields(value, later)),
        other => panic!("{other} is not in the recording"),
    }
}

#[tokio::test]
async fn table_of_the_previous_build_is_used_on() {
    // The accounts of the recording are not at this provider, so its empty listing is refused.
    let plan = Plan::new(0).set("POOLS", "dns=lab-0000,main");
    let (prefix, endpoint) = (plan.prefix().to_owned(), servers::shared().await.table_endpoint.clone());
    let env = [("DYNAMODB_ENDPOINT", endpoint.clone()), ("DYNAMODB_TABLE", format!("broker-{prefix}"))];
    let env: BTreeMap<_, _> = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let config = DynamoConfig::read(&mut Settings::new(&env));
    let table = DynamoStore::connect(&config).await;
    table.ensure_table().await.unwrap();
    let recorded = items(SystemClock.now(), &prefix);
    assert_eq!(recorded.len(), 77);
    for item in recorded {
        let client = client(&endpoint);
        client.put_item().table_name(format!("broker-{prefix}")).set_item(Some(item)).send().await.unwrap();
    }
    let rig = plan.start_unsynced().await;
    let census = rig.census().await;
    assert_eq!((census.unreadable, census.census.all.total), (0, 28), "{census:?}");
    assert!(census.census.violations.values().all(|count| *count == 0), "{census:?}");
    let counts = census.census.all;
    assert_eq!((counts.available, counts.allocated, counts.pending_deletion), (19, 4, 2), "{counts:?}");
    assert_eq!((counts.stale, counts.deletion_failed, counts.quarantined), (1, 1, 1), "{counts:?}");

    // Pools that had no items have them now, as the settings say.
    let names: Vec<_> = rig.store.pool_specs().await.unwrap().into_iter().map(|spec| spec.name).collect();
    assert_eq!(names, ["dns", "main"].map(|name| PoolName::parse(name).unwrap()));

    // Leases go on: the same answers, extensions, the lab's list, releases.
    let held = rig.api.allocate_with("p0", &[("X-Sandbox-Pool", "dns")]).await;
    assert_eq!((held.status, held.sandbox()), (200, "2000006"), "{held:?}");
    assert_eq!(rig.api.get("2000009", "p1").await.status, 200);
    assert_eq!(rig.api.extend("2000009", "p1", 21).await.status, 200);
    let of_lab = rig.api.admin(Method::GET, "/v1/admin/sandboxes?lab=dns-basics&status=allocated").await;
    assert_eq!(of_lab.body["count"], json!(2), "{of_lab:?}");
    let again = rig.api.allocate_with("p3", &[("X-Sandbox-Pool", "dns")]).await;
    assert_eq!(again.status, 201, "a claim item of an ended lease: {again:?}");
    let new = rig.api.allocate("new").await;
    assert_eq!(new.status, 201, "{new:?}");

    // The pause is in the table, and what was announced to the old queue is announced again.
    let status = rig.api.stats().await["deletions"]["state"].clone();
    assert_eq!(status, json!("paused"));
    assert_eq!(rig.api.admin(Method::POST, "/v1/admin/deletions/resume").await.status, 200);
    rig.sweep().await;
    for id in ["2000007", "2000027"] {
        rig.until_state(id, StateName::Deleted).await;
    }
    assert_eq!(rig.api.release("2000021", "p6").await.status, 200);
    rig.until_state("2000021", StateName::Deleted).await;
    let replayed = rig.api.admin(Method::POST, "/v1/admin/deletions/2000004/replay").await;
    assert_eq!(replayed.status, 200, "{replayed:?}");
    rig.until_state("2000004", StateName::Deleted).await;
    rig.stop().await;
}
