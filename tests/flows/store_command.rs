//! `broker store`: the embedded table as a process.

use crate::unready::Role;
use ::dynamodb::DynamoStore;
use domain::PoolName;
use harness::dynamodb;
use harness::process::{self, Broker};
use harness::rig::Plan;
use harness::wait::{TIMEOUT, eventually};
use ports::store::Layout as _;
use std::collections::BTreeSet;

#[tokio::test]
async fn embedded_table_runs_standalone_and_persists() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments = ["store", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    // Without a scheduler, whose census would record another table.
    let rig = Plan::new(1).counts(|counts| counts.schedulers = 0).start_unsynced().await;
    // The bus has a record of the rig's own table under the rig's subject prefix, and this table would not match it.
    let prefix = format!("{}s", rig.env["SUBJECT_PREFIX"]);
    let pool = |round: usize| PoolName::parse(&format!("pool-{round}")).unwrap();
    let mut kept = Vec::new();
    for round in 0..2 {
        let broker = Broker::start(folder.path(), &arguments, &[]).await;
        let endpoint = eventually("the table to listen", TIMEOUT, || async {
            let output = broker.output();
            let found = output.split_whitespace().find(|word| word.starts_with("http://"));
            found.map(ToOwned::to_owned).ok_or(output.clone())
        })
        .await;
        let store = DynamoStore::connect(&dynamodb::config(&endpoint, "broker", 1)).await;
        store.ensure_table().await.unwrap();
        store.note_pools(&BTreeSet::from([pool(round)])).await.unwrap();
        let pools = store.pools().await.unwrap();
        kept.push((0..2).filter(|round| pools.contains(&pool(*round))).count());
        let variables = [
            ("DYNAMODB_ENDPOINT", endpoint.as_str()),
            ("DYNAMODB_TABLE", "broker"),
            ("SUBJECT_PREFIX", &prefix),
        ];
        let role = Role::start_with(&rig, folder.path(), "allocator", &variables).await;
        role.until("an allocator on it", |status, _| status == 200).await;
        role.stop().await;
        // Only one process may use a folder.
        let second = process::run(&arguments, &[]).await;
        assert!(!second.status.success());
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(said.contains("another broker runs on the data directory"), "{said}");
        assert_eq!(broker.stop(TIMEOUT).await, Some(0), "round {round}: {}", broker.output());
    }
    rig.stop().await;
    assert_eq!(kept, [1, 2], "what was written is there after a restart");
    assert!(data.join("table.sqlite").exists());
}
