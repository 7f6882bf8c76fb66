//! Requests restricted to pools, on ports in memory: two pools, and callers that may use one of them.

use crate::deletions::tests::{HOUR, NOW, Rig};
use contract::{Action, Fault, FaultCode, Principal, Role, Scope, Verb};
use domain::{Actor, ClaimKey, ClaimRecord, IdempotencyKey, OwnerId, PoolName, StateName};
use serde_json::{Value, json};
use strum::IntoEnumIterator as _;

/// An allocator over one free sandbox in each of the pools `dns` (number 1) and `main` (number 2).
async fn rig() -> Rig {
    let rig = Rig::new();
    rig.add(1, "dns").await;
    rig.add(2, "main").await;
    rig
}

fn refused() -> Result<Value, Fault> {
    Err(Fault::new(FaultCode::Forbidden, "this token is not for this pool"))
}

#[tokio::test]
async fn sandbox_of_another_pool_is_forbidden() {
    let rig = rig().await;
    let claim = json!({"owner": "s", "pool": "main"});
    assert_eq!(rig.ask(Verb::Allocate, claim).await.unwrap()["sandbox_id"], "2");
    for verb in [Verb::Get, Verb::Extend, Verb::Release] {
        let bounded = json!({
            "sandbox_id": "2", "owner": "s", "pools": ["dns"], "lab_duration_hours": 6,
        });
        assert_eq!(rig.ask(verb, bounded).await, refused(), "{verb:?}");
    }
    let view = rig.ask(Verb::Get, json!({"sandbox_id": "2", "owner": "s"})).await.unwrap();
    assert_eq!(view["status"], "allocated", "nothing was changed");
    let within = json!({"sandbox_id": "2", "owner": "s", "pools": ["dns", "main"]});
    assert_eq!(rig.ask(Verb::Release, within).await.unwrap()["status"], "pending_deletion");
}

#[tokio::test]
async fn scope_of_the_header_restricts_like_the_field() {
    let rig = rig().await;
    let scope = || Scope::of(&[PoolName::parse("dns").unwrap()]);
    let ask =
        async |verb, body| rig.ask_as(Principal { scope: scope(), ..Principal::default() }, verb, body).await;
    assert_eq!(ask(Verb::Allocate, json!({"owner": "s", "pool": "main"})).await, refused());
    for verb in [Verb::Get, Verb::Extend, Verb::Release] {
        let body = json!({"sandbox_id": "2", "owner": "s", "lab_duration_hours": 6});
        assert_eq!(ask(verb, body).await, refused(), "{verb:?}");
    }
    let listed = ask(Verb::Sandboxes, json!({})).await.unwrap();
    assert_eq!((&listed["count"], &listed["sandboxes"][0]["pool"]), (&json!(1), &json!("dns")));
    for body in [json!({}), json!({"pools": []}), json!({"pools": ["dns"]})] {
        assert_eq!(ask(Verb::Stats, body).await.unwrap_err().code, FaultCode::Forbidden);
    }
    // An ingress sends both, for workers that know only the field.
    let both = json!({"owner": "s", "pool": "dns", "pools": ["dns"]});
    assert_eq!(ask(Verb::Allocate, both).await.unwrap()["sandbox_id"], "1");
    for pools in [json!(["main"]), json!(["dns", "main"])] {
        let differing = json!({"sandbox_id": "1", "owner": "s", "pools": pools});
        assert_eq!(ask(Verb::Get, differing).await.unwrap_err().code, FaultCode::InvalidRequest);
    }
}

#[tokio::test]
async fn unknown_sandbox_is_not_found_for_a_bounded_caller() {
    let rig = rig().await;
    for (id, code) in [("9", FaultCode::NotFound), ("no id!", FaultCode::InvalidRequest)] {
        let bounded = json!({"sandbox_id": id, "owner": "s", "pools": ["dns"]});
        let fault = rig.ask(Verb::Get, bounded).await.unwrap_err();
        assert_eq!(fault.code, code, "{id}");
    }
}

#[tokio::test]
async fn claim_stays_in_allowed_pools_and_hides_other_leases() {
    let rig = rig().await;
    let outside = json!({"owner": "a", "pool": "main", "pools": ["dns"]});
    assert_eq!(rig.ask(Verb::Allocate, outside).await, refused());
    let within = json!({"owner": "a", "pool": "dns", "pools": ["dns"]});
    assert_eq!(rig.ask(Verb::Allocate, within).await.unwrap()["sandbox_id"], "1");
    let elsewhere = json!({"owner": "b", "pool": "main"});
    assert_eq!(rig.ask(Verb::Allocate, elsewhere).await.unwrap()["sandbox_id"], "2");
    // The same owner and key with a token of the other pool: the lease exists but is not shown.
    let repeat = json!({"owner": "b", "pool": "dns", "pools": ["dns"]});
    assert_eq!(rig.ask(Verb::Allocate, repeat).await, refused());
}

/// Leaves the claim item of an unfinished claim on that free sandbox.
async fn leave_behind(rig: &Rig, owner: &str, number: usize) {
    let claim =
        ClaimKey { owner: OwnerId::parse(owner).unwrap(), key: IdempotencyKey::parse(owner).unwrap() };
    let record = ClaimRecord::new(claim, rig.sandbox(number).await.candidate());
    rig.store.open_claim(&record, NOW.after(100 * HOUR)).await.unwrap();
}

#[tokio::test]
async fn leftover_claim_item_outside_the_allowed_pools_is_ignored() {
    let rig = rig().await;
    leave_behind(&rig, "a", 2).await;
    let bounded = json!({"owner": "a", "pool": "dns", "pools": ["dns"]});
    for _ in 0..2 {
        assert_eq!(rig.ask(Verb::Allocate, bounded.clone()).await, refused());
        for number in [1, 2] {
            assert_eq!(rig.sandbox(number).await.state.name(), StateName::Available, "{number}");
        }
    }
    // Another owner gets it, so the claim item is outdated: then the claim moves to a permitted pool.
    let elsewhere = json!({"owner": "b", "pool": "main"});
    assert_eq!(rig.ask(Verb::Allocate, elsewhere).await.unwrap()["sandbox_id"], "2");
    assert_eq!(rig.ask(Verb::Allocate, bounded).await.unwrap()["sandbox_id"], "1");
}

#[tokio::test]
async fn leftover_claim_item_within_the_allowed_pools_is_followed() {
    let rig = rig().await;
    leave_behind(&rig, "a", 1).await;
    rig.add(3, "dns").await;
    let bounded = json!({"owner": "a", "pool": "dns", "pools": ["dns"]});
    assert_eq!(rig.ask(Verb::Allocate, bounded).await.unwrap()["sandbox_id"], "1");
}

#[tokio::test]
async fn default_pool_must_be_allowed_too() {
    let rig = rig().await;
    assert_eq!(rig.ask(Verb::Allocate, json!({"owner": "a", "pools": ["dns"]})).await, refused());
    assert_eq!(rig.sandbox(2).await.state.name(), StateName::Available);
    let within = rig.ask(Verb::Allocate, json!({"owner": "a", "pools": ["main"]})).await;
    assert_eq!(within.unwrap()["sandbox_id"], "2");
}

#[tokio::test]
async fn empty_pool_list_allows_every_pool() {
    let rig = rig().await;
    let claim = json!({"owner": "a", "pool": "main", "pools": []});
    assert_eq!(rig.ask(Verb::Allocate, claim).await.unwrap()["sandbox_id"], "2");
}

#[tokio::test]
async fn operations_on_all_pools_are_forbidden_to_bounded_callers() {
    let rig = rig().await;
    for verb in [
        Verb::Stats,
        Verb::Deletions,
        Verb::Parked,
        Verb::Replay,
        Verb::ReplayAll,
        Verb::Remove,
        Verb::ReplayProvision,
        Verb::ReplayProvisions,
    ] {
        let asked = |pools| json!({"key": "2", "pools": pools});
        let fault = rig.ask(verb, asked(vec!["main"])).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden, "{verb:?}");
        let free = rig.ask(verb, asked(vec![])).await;
        assert_ne!(free.err().map(|fault| fault.code), Some(FaultCode::Forbidden), "{verb:?}");
    }
}

fn principal(name: &str, roles: &[Role]) -> Principal {
    Principal::of(Actor::parse(name).unwrap(), roles)
}

#[tokio::test]
async fn principal_is_the_owner_and_the_actor_of_a_claim() {
    let rig = rig().await;
    let service = principal("service-7", &[Role::Lab]);
    // The body of an older ingress may name an actor; what was authenticated counts.
    let claim = json!({"pool": "dns", "by": "mallory"});
    assert_eq!(rig.ask_as(service.clone(), Verb::Allocate, claim).await.unwrap()["sandbox_id"], "1");
    let longer = json!({"sandbox_id": "1", "lab_duration_hours": 6});
    rig.ask_as(service.clone(), Verb::Extend, longer).await.unwrap();
    let view = rig.ask_as(service.clone(), Verb::Get, json!({"sandbox_id": "1"})).await.unwrap();
    assert_eq!(view["allocated_to_track"], "service-7");
    let fault = rig.ask(Verb::Get, json!({"sandbox_id": "1"})).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::MissingSandboxId, "a direct caller has no name");
    rig.ask_as(service, Verb::Release, json!({"sandbox_id": "1"})).await.unwrap();
    let actors: Vec<_> = rig.sandbox(1).await.history.into_iter().skip(1).map(|entry| entry.by).collect();
    assert_eq!(actors, vec![Some(Actor::parse("service-7").unwrap()); 3]);
}

#[tokio::test]
async fn operator_action_is_recorded_with_its_principal_and_person() {
    let rig = rig().await;
    let shared =
        Principal { person: Some(Actor::parse("alice").unwrap()), ..principal("on-call", &[Role::Operator]) };
    let order = json!({"sandbox_id": "1", "reason": "smoke in it"});
    rig.ask_as(shared, Verb::Quarantine, order.clone()).await.unwrap();
    let by = |sandbox: domain::Sandbox| sandbox.history.last().unwrap().by.as_ref().unwrap().to_string();
    assert_eq!(by(rig.sandbox(1).await), "on-call/alice");
    // Of a direct caller, and of an ingress of a former build, the body says it.
    let mut order = order;
    order["by"] = json!("bob");
    rig.ask(Verb::Unquarantine, order).await.unwrap();
    assert_eq!(by(rig.sandbox(1).await), "bob");
}

#[tokio::test]
async fn worker_refuses_a_principal_without_the_role() {
    let rig = rig().await;
    let order = json!({"sandbox_id": "1", "reason": "smoke in it"});
    for role in [Role::Lab, Role::User, Role::ReadOnly] {
        let fault = rig.ask_as(principal("a", &[role]), Verb::Quarantine, order.clone()).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden, "{role:?}");
    }
    let foreign = json!({"owner": "b", "pool": "dns"});
    let fault = rig.ask_as(principal("a", &[Role::User]), Verb::Allocate, foreign.clone()).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden, "a user claims for itself");
    assert_eq!(rig.sandbox(1).await.state.name(), StateName::Available);
    rig.ask_as(principal("a", &[Role::Lab]), Verb::Allocate, foreign).await.unwrap();
}

#[tokio::test]
async fn every_verb_is_held_to_its_roles_and_pools() {
    // Whatever a verb reads of it; sandbox 1 is in the pool `dns`.
    let body = json!({
        "sandbox_id": "1", "key": "1", "owner": "a", "pool": "dns", "status": "stale", "reason": "smoke in it",
        "lab_duration_hours": 6,
    });
    for verb in Verb::iter() {
        let action = Action::Ask(verb);
        for role in Role::iter() {
            for pool in [None, Some("dns"), Some("main")] {
                let pools: Vec<_> = pool.iter().map(|pool| PoolName::parse(pool).unwrap()).collect();
                let caller = Principal { scope: Scope::of(&pools), ..principal("a", &[role]) };
                let answer = rig().await.ask_as(caller, verb, body.clone()).await;
                let is_forbidden = answer.err().is_some_and(|fault| fault.code == FaultCode::Forbidden);
                let is_held = pool.is_none() || (action.can_be_limited() && pool == Some("dns"));
                let is_allowed = action.roles().contains(&role) && is_held;
                assert_eq!(is_forbidden, !is_allowed, "{verb:?} as {role:?} for {pool:?}");
            }
        }
    }
}
