//! Claims in pools whose sandboxes are created if none is free (rule P1).

use crate::engines::Engine;
use crate::settings::{OWNER, Subject, call_of};
use crate::soundness::assert_one_lease_a_key;
use crate::world::{CONTAINER_POOLS, POOL, TEMPLATE, World, key_of};
use contract::{FaultCode, Outcome, Verb};
use domain::{Cause, StateName};
use harness::wait::{TIMEOUT, eventually};
use ports::clock::Clock as _;
use testkit::faulty::Fault;

const SEED: u64 = 3;

/// A world in which the owner's claim has stopped before it creates its sandbox.
async fn stalled(engine: Engine) -> (World, Subject, crate::settings::Started) {
    let call = call_of("create", World::of_containers(engine, SEED).await).await;
    let world = World::of_containers(engine, SEED).await;
    let stalled = Subject::new(&world, Some((call, Fault::PauseBefore)));
    let started = stalled.start().await;
    assert_eq!(stalled.store.calls().last(), Some(&"create"));
    (world, stalled, started)
}

/// An attempt that took the absent sandbox for lost and moved on to a free one would hold two.
pub(crate) async fn twin_of_a_stalled_claim_creates_its_sandbox(engine: Engine) {
    let (world, stalled, started) = stalled(engine).await;
    let item = world.store.find_claim(&key_of(OWNER)).await.unwrap().unwrap();
    assert!(item.candidate.is_absent());
    assert_eq!(item.creation.unwrap().template.as_str(), TEMPLATE);
    let free = world.add_container(POOL).await;
    let other = world.process();
    let twins = other.claim(OWNER).await.unwrap();
    assert_eq!((twins.outcome, twins.id()), (Outcome::Created, item.candidate.id.clone()));
    stalled.store.resume();
    let lates = started.answer().await.unwrap();
    assert_eq!((lates.outcome, &lates.body), (Outcome::Existing, &twins.body));
    assert_eq!(world.store.sandbox(&free.id).await.unwrap(), Some(free), "it stays free");
    let held = world.held_by(OWNER).await;
    assert_eq!((held.len(), held[0].state.name()), (1, StateName::Provisioning));
    world.assert_sound(&[&stalled.process, &other]).await;
}

pub(crate) async fn drained_pool_gives_up_an_absent_sandbox(engine: Engine) {
    let (mut world, stalled, started) = stalled(engine).await;
    let absent = world.store.find_claim(&key_of(OWNER)).await.unwrap().unwrap().candidate.id;
    world.drain(POOL);
    assert_eq!(world.process().claim(OWNER).await, Err(FaultCode::PoolExhausted));
    let gone = world.store.sandbox(&absent).await.unwrap().unwrap();
    assert_eq!((gone.state.name(), gone.history[0].cause), (StateName::Deleted, Cause::Abandoned));
    // Its process does not know of the draining yet.
    stalled.store.resume();
    let lates = started.answer().await.unwrap();
    assert_eq!(lates.outcome, Outcome::Created);
    assert_ne!(lates.id(), absent, "an id is never used again");
    assert_eq!(world.store.sandbox(&absent).await.unwrap(), Some(gone));
    assert_eq!(world.held_by(OWNER).await.len(), 1);
}

pub(crate) async fn key_of_another_request_is_refused_until_its_lease_ends(engine: Engine) {
    let [first, second] = CONTAINER_POOLS;
    let (world, stalled, started) = stalled(engine).await;
    let other = world.process();
    assert_eq!(other.claim_in(OWNER, second).await, Err(FaultCode::KeyInUse), "it may go on at any time");
    stalled.store.resume();
    let lent = started.answer().await.unwrap();
    assert_eq!(other.claim_in(OWNER, second).await, Err(FaultCode::KeyInUse));
    let again = other.claim_in(OWNER, first).await.unwrap();
    assert_eq!((again.outcome, &again.body), (Outcome::Existing, &lent.body));
    other.release(lent.id().as_str(), OWNER).await.unwrap();
    let next = other.claim_in(OWNER, second).await.unwrap();
    assert_eq!(next.outcome, Outcome::Created);
    assert_eq!(
        other.claim_in(OWNER, first).await,
        Err(FaultCode::KeyInUse),
        "the key is the new request's now"
    );
    assert_eq!(world.held_by(OWNER).await.len(), 1);
}

pub(crate) async fn released_creation_is_not_revived(engine: Engine) {
    let (world, stalled, started) = stalled(engine).await;
    let other = world.process();
    let first = other.claim(OWNER).await.unwrap();
    let wanted = world.store.sandbox(&first.id()).await.unwrap().unwrap();
    other.release(first.id().as_str(), OWNER).await.unwrap();
    let now = world.clock.now();
    let late = world.store.finish_provision(&wanted, &wanted.descriptor, now).await.unwrap();
    assert!(matches!(late, ports::store::Write::Lost(Some(_))), "the report of a runner: {late:?}");
    let second = other.claim(OWNER).await.unwrap();
    assert_ne!(second.id(), first.id());
    stalled.store.resume();
    let lates = started.answer().await.unwrap();
    assert_eq!((lates.outcome, &lates.body), (Outcome::Existing, &second.body));
    let ended = world.store.sandbox(&first.id()).await.unwrap().unwrap();
    assert_eq!(ended.state.name(), StateName::PendingDeletion);
    assert_one_lease_a_key(&world.sandboxes().await);
}

pub(crate) async fn free_sandbox_is_taken_before_one_is_created(engine: Engine) {
    let world = World::of_containers(engine, SEED).await;
    let free = world.add_container(POOL).await;
    let process = world.process();
    assert_eq!(process.claim(OWNER).await.unwrap().id(), free.id);
    assert_eq!(world.provisions.provisions(), []);
    let created = process.claim("another").await.unwrap();
    let work = eventually_queued(&world).await;
    assert_eq!((work.sandbox_id.as_str(), work.is_leased), (created.id().as_str(), true));
    assert_eq!(work.template, TEMPLATE);
    assert!(created.id().as_str().starts_with("ctr_"), "{created:?}");
}

/// The attempt that created the sandbox stops before it announces that.
pub(crate) async fn repeat_announces_a_creation_again(engine: Engine) {
    let call = call_of("create", World::of_containers(engine, SEED).await).await;
    let world = World::of_containers(engine, SEED).await;
    let crashed = Subject::new(&world, Some((call, Fault::PauseAfter)));
    assert!(crashed.start().await.drop_it().await.is_none());
    let held = world.held_by(OWNER).await;
    assert_eq!((held.len(), world.provisions.provisions()), (1, Vec::new()));
    let again = world.process().claim(OWNER).await.unwrap();
    assert_eq!((again.outcome, again.id()), (Outcome::Existing, held[0].id.clone()));
    assert_eq!(eventually_queued(&world).await.sandbox_id, held[0].id.as_str());
}

pub(crate) async fn creation_cannot_be_extended(engine: Engine) {
    let world = World::of_containers(engine, SEED).await;
    let process = world.process();
    let lent = process.claim(OWNER).await.unwrap();
    let body = serde_json::json!({"sandbox_id": lent.id().as_str(), "owner": OWNER, "lab_duration_hours": 8});
    let refused = process.plain::<serde_json::Value>(Verb::Extend, body.to_string().into_bytes()).await;
    assert_eq!(refused, Err(FaultCode::InvalidState));
}

async fn eventually_queued(world: &World) -> contract::ProvisionWork {
    eventually("the work is announced", TIMEOUT, || async {
        world.provisions.provisions().into_iter().next().ok_or("nothing")
    })
    .await
}
