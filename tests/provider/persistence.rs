//! The simulator's accounts survive any kind of exit.

use crate::rig::{Rig, client, csp_config, external_id, simulator_config, start, target};
use domain::NamePrefix;
use ports::provider::{Deleted, Provider};
use ports::random::Rng;
use simulator::{Config, JournalError, Running, Simulator};
use std::path::Path;
use std::sync::Arc;

fn config(directory: &Path, accounts: usize) -> Config {
    Config { data: Some(directory.to_owned()), ..simulator_config(accounts) }
}

/// Deletes two accounts, over HTTP, and adds two others.
async fn change(simulator: &Running) {
    let provider = client(csp_config(&simulator.base_url(), &[]));
    let accounts = simulator.handle().accounts();
    for account in [&accounts[0], &accounts[9]] {
        assert_eq!(provider.delete(&target(account)).await, Ok(Deleted::Now));
    }
    let prefix = NamePrefix::parse("demo-").unwrap();
    assert_eq!(simulator.handle().add_accounts(2, Some(&prefix)).unwrap()[1].name, "demo-00012");
}

#[tokio::test]
async fn accounts_survive_a_graceful_stop_and_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    for is_orderly in [true, false] {
        let directory = directory.path().join(is_orderly.to_string());
        let simulator = start(config(&directory, 10)).await;
        change(&simulator).await;
        let expected = simulator.handle().accounts();
        assert_eq!(expected.len(), 10);
        if is_orderly {
            simulator.stop().await.unwrap();
        } else {
            drop(simulator);
        }
        // The larger number of accounts has no effect on a directory that has accounts already.
        let again = start(config(&directory, 50)).await;
        assert_eq!(again.handle().accounts(), expected, "orderly: {is_orderly}");
        let next = again.handle().add_accounts(1, None).unwrap();
        assert_eq!(next[0].csp_id, expected[9].csp_id + 1, "ids are not used again");
    }
}

#[tokio::test]
async fn deletion_is_written_before_it_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let simulator = start(config(directory.path(), 10)).await;
    let provider = client(csp_config(&simulator.base_url(), &[]));
    for account in simulator.handle().accounts() {
        provider.delete(&target(&account)).await.unwrap();
        // What another process reads now would also survive a SIGKILL now.
        let written = std::fs::read_to_string(directory.path().join("accounts.jsonl")).unwrap();
        let last = written.lines().last().unwrap();
        assert!(last.contains("deleted") && last.contains(external_id(&account).bare()), "{last}");
        assert!(written.ends_with('\n'));
    }
}

#[tokio::test]
async fn directory_is_locked_by_one_simulator_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let simulator = start(config(directory.path(), 1)).await;
    let clock = Arc::new(ports::clock::SystemClock);
    let second = Simulator::open(config(directory.path(), 1), clock, Arc::new(Rng::seeded(1)));
    assert!(matches!(second, Err(JournalError::InUse { .. })), "{second:?}");
    drop(simulator);
    start(config(directory.path(), 1)).await.stop().await.unwrap();
}

#[tokio::test]
async fn thirty_thousand_accounts_are_restored() {
    let directory = tempfile::tempdir().unwrap();
    let simulator = start(config(directory.path(), 30_000)).await;
    let provider = client(csp_config(&simulator.base_url(), &[]));
    let gone = simulator.handle().accounts()[12_345].clone();
    provider.delete(&target(&gone)).await.unwrap();
    drop(simulator);
    let again = start(config(directory.path(), 0)).await;
    assert_eq!(again.handle().census().live, 29_999);
    assert!(!again.handle().exists(&external_id(&gone)));
}

#[tokio::test]
async fn without_a_directory_nothing_is_kept() {
    let first = Rig::new(3, &[]).await;
    first.provider.delete(&first.target()).await.unwrap();
    let second = Rig::new(3, &[]).await;
    assert_eq!(second.handle.census().live, 3);
}
