//! The provider refuses to delete one account among others: that one is parked with its reason, and delays no other.

use crate::throttle::plan;
use contract::{DeletionsState, DeletionsStatus};
use domain::StateName;
use harness::rig::Rig;
use harness::wait::{TIMEOUT, eventually};
use simulator::{Fault, FaultKind, Operation};

async fn claim(rig: &Rig, owner: &str) -> String {
    let claim = rig.api.allocate(owner).await;
    assert_eq!(claim.status, 201, "{claim:?}");
    claim.sandbox().to_owned()
}

async fn give_back(rig: &Rig, id: &str, owner: &str) {
    assert_eq!(rig.api.release(id, owner).await.status, 200);
}

async fn line(rig: &Rig) -> DeletionsStatus {
    serde_json::from_value(rig.api.stats().await["deletions"].clone()).expect("the line is shown")
}

/// Deletes some other sandboxes, then the one whose deletion always gets this answer, and then others.
async fn odd_one(answer: u16, others_after: usize) -> (Rig, String) {
    let rig = plan(20).start().await;
    let odd = claim(&rig, "odd").await;
    let account = rig.sandbox(&odd).await.unwrap().external_id.bare().to_owned();
    let fault = Fault { account: Some(account), ..Fault::always(FaultKind::status(answer)) };
    rig.csp.fail(Operation::Delete, fault).unwrap();
    for number in 0..5 {
        let owner = format!("before-{number}");
        let id = claim(&rig, &owner).await;
        give_back(&rig, &id, &owner).await;
        rig.until_state(&id, StateName::Deleted).await;
    }
    give_back(&rig, &odd, "odd").await;
    for number in 0..others_after {
        eventually("a further try of the odd one", TIMEOUT, || async {
            match rig.sandbox(&odd).await.unwrap().deletion().unwrap().attempts {
                attempts if attempts as usize > number => Ok(()),
                attempts => Err(attempts),
            }
        })
        .await;
        let owner = format!("after-{number}");
        let id = claim(&rig, &owner).await;
        give_back(&rig, &id, &owner).await;
        rig.until_state(&id, StateName::Deleted).await;
    }
    (rig, odd)
}

#[tokio::test]
async fn permanently_failing_deletion_is_parked_without_blocking_others() {
    const ATTEMPTS_MAX: u32 = 8;
    for answer in [500, 403] {
        // With others after it, and as the last remaining one.
        for others_after in [3, 0] {
            let (rig, odd) = Box::pin(odd_one(answer, others_after)).await;
            let parked = rig.until_state(&odd, StateName::DeletionFailed).await;
            let deletion = parked.deletion().unwrap();
            assert_eq!(deletion.attempts, ATTEMPTS_MAX, "{answer}, {others_after} others");
            assert!(deletion.last_error.as_ref().unwrap().contains(&answer.to_string()), "{deletion:?}");
            let copy =
                eventually("the copy", TIMEOUT, || async { rig.parked(&odd).await.ok_or("none yet") }).await;
            assert!(copy.reason.contains(&answer.to_string()), "{copy:?}");
            let line = line(&rig).await;
            assert_eq!((line.state.as_str(), line.breaker.reason), ("running", None), "{answer}");
            let calls = rig.csp.log().into_iter().filter(|call| call.operation == Operation::Delete).count();
            assert_eq!(calls, 5 + others_after + ATTEMPTS_MAX as usize, "{answer}: each other once");
            rig.stop().await;
        }
    }
}

#[tokio::test]
async fn revoked_token_stops_deletions_and_parks_nothing() {
    for answer in [401, 403] {
        let rig = plan(30).set("DELETION_ATTEMPTS_MAX", 1).start().await;
        let first = claim(&rig, "first").await;
        give_back(&rig, &first, "first").await;
        rig.until_state(&first, StateName::Deleted).await;
        rig.csp.fail(Operation::Delete, Fault::always(FaultKind::status(answer))).unwrap();
        let mut crowd = Vec::new();
        for number in 0..12 {
            let owner = format!("student-{number}");
            let id = claim(&rig, &owner).await;
            give_back(&rig, &id, &owner).await;
            crowd.push(id);
        }
        eventually("the line to stop", TIMEOUT, || async {
            let line = line(&rig).await;
            if line.state == DeletionsState::Unauthorized.into() { Ok(()) } else { Err(line) }
        })
        .await;
        let stopped_after = rig.deletes_at_csp();
        eventually("further tries", TIMEOUT, || async {
            match rig.deletes_at_csp() {
                calls if calls >= stopped_after + 5 => Ok(()),
                calls => Err(calls),
            }
        })
        .await;
        for id in &crowd {
            let sandbox = rig.sandbox(id).await.unwrap();
            assert_eq!(sandbox.state.name(), StateName::PendingDeletion, "{answer}");
            assert_eq!(sandbox.deletion().unwrap().attempts, 0, "{answer}: no sandbox is at fault");
        }
        rig.csp.clear_faults();
        for id in &crowd {
            rig.until_state(id, StateName::Deleted).await;
        }
        assert_eq!(rig.parked_count().await, 0);
        eventually("the line to run", TIMEOUT, || async {
            let line = line(&rig).await;
            if line.state == DeletionsState::Running.into() { Ok(()) } else { Err(line) }
        })
        .await;
        rig.stop().await;
    }
}
