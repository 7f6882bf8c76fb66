//! Which candidates are checked, and what happens to unsound ones.

use super::*;
use crate::deletions::tests::{Rig, id};
use contract::{FaultCode, Verb};
use domain::{ExternalId, State, StateName};
use ports::provider::{Abilities, ProviderError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testkit::provider::Call;

const CONFIG: HealthConfig = HealthConfig { timeout: Duration::from_secs(1), quarantines_per_hour_max: 3 };

fn unsound() -> Result<Health, ProviderError> {
    Ok(Health::Unsound { reason: "no licence\nfor it".to_owned() })
}

fn external(number: usize) -> ExternalId {
    ExternalId::parse(&format!("identity/accounts/{number}")).unwrap()
}

async fn rig(count: usize) -> Rig {
    let rig = Rig::checking(CONFIG);
    for number in 1..=count {
        rig.add(number, "main").await;
    }
    rig
}

async fn claim(rig: &Rig, owner: &str) -> Result<Value, FaultCode> {
    rig.ask(Verb::Allocate, json!({"owner": owner})).await.map_err(|fault| fault.code)
}

#[tokio::test]
async fn unhealthy_sandbox_is_quarantined_and_the_next_is_tried() {
    let rig = rig(3).await;
    for number in [1, 3] {
        rig.provider.script_check_of(&external(number), unsound());
    }
    assert_eq!(claim(&rig, "p-1").await.unwrap()["sandbox_id"], "2");
    let mut kept = 0;
    for number in [1, 3] {
        let sandbox = rig.sandbox(number).await;
        let State::Quarantined { reason, lease, .. } = &sandbox.state else { continue };
        kept += 1;
        assert_eq!((reason.as_str(), lease), ("no licence for it", &None));
        assert_eq!(sandbox.history.last().unwrap().by.as_ref().unwrap().as_str(), CHECKER);
        assert_eq!(sandbox.epoch.get(), 0, "it was never handed out, so an operator can put it back");
    }
    let looks = rig.provider.calls().len();
    assert_eq!(looks, kept + 1, "each one is looked at once");
    // An owner that already has a sandbox gets it, even if the next free one is unsound.
    assert_eq!(claim(&rig, "p-1").await.unwrap()["sandbox_id"], "2");
}

#[tokio::test]
async fn pool_of_unhealthy_sandboxes_is_exhausted() {
    let rig = rig(2).await;
    (0..2).for_each(|_| rig.provider.script_check(unsound()));
    assert_eq!(claim(&rig, "p-1").await.unwrap_err(), FaultCode::PoolExhausted);
    for number in [1, 2] {
        assert_eq!(rig.sandbox(number).await.state.name(), StateName::Quarantined);
    }
}

#[tokio::test]
async fn quarantines_per_hour_are_limited() {
    let rig = rig(20).await;
    (0..100).for_each(|_| rig.provider.script_check(unsound()));
    for owner in ["p-1", "p-2", "p-3"] {
        assert_eq!(claim(&rig, owner).await.unwrap_err(), FaultCode::Contended);
    }
    let mut kept = 0;
    for number in 1..=20 {
        let state = rig.sandbox(number).await.state.name();
        assert!(matches!(state, StateName::Available | StateName::Quarantined), "{state}");
        kept += u64::from(state == StateName::Quarantined);
    }
    assert_eq!(kept, CONFIG.quarantines_per_hour_max);
}

#[tokio::test]
async fn failed_or_slow_health_check_is_ignored() {
    let rig = rig(2).await;
    rig.provider.script_check(Err(ProviderError::UnknownOutcome { waited_seconds: 1 }));
    assert!(claim(&rig, "p-1").await.is_ok());
    let slow = rig.provider.clone();
    slow.hold();
    let clock = rig.clock.clone();
    let answer = async {
        while slow.in_flight() == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(CONFIG.timeout);
    };
    let (claimed, ()) = tokio::join!(claim(&rig, "p-2"), answer);
    assert!(claimed.is_ok(), "{claimed:?}");
}

#[tokio::test]
async fn health_check_needs_the_setting_and_provider_support() {
    let off = Rig::new();
    off.add(1, "main").await;
    off.provider.script_check(unsound());
    assert!(claim(&off, "p-1").await.is_ok());
    let rig = rig(1).await;
    rig.provider.set_abilities(Abilities { list: true, delete: true, prepare_delete: true, check: false });
    assert!(claim(&rig, "p-1").await.is_ok());
    for rig in [off, rig] {
        assert_eq!(rig.provider.calls(), Vec::<Call>::new());
        assert_eq!(rig.store.sandbox(&id(1)).await.unwrap().unwrap().epoch.get(), 1);
    }
}

#[test]
fn health_check_is_disabled_by_default() {
    let read = |pairs: &[(&str, &str)]| {
        let env: BTreeMap<_, _> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HealthConfig::read(&mut Settings::new(&env))
    };
    assert_eq!(read(&[]), None);
    let set = read(&[("HEALTH_CHECK_ENABLED", "true")]);
    assert_eq!(set, Some(HealthConfig { quarantines_per_hour_max: 10, ..CONFIG }));
    let quarantines = Quarantines::default();
    let taken: Vec<_> = [7, 7, 7, 8].map(|hour| quarantines.take(hour, 2)).into();
    assert_eq!(taken, [true, true, false, true]);
}
