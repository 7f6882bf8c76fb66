//! Capacity while much goes wrong at once.

use super::*;
use crate::tests::everything;
use contract::ProvisionPriority;
use ports::bus::rotation::IDLE_LOOK_PERIOD;
use ports::engine::EngineError;
use ports::random::{Random as _, Rng};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Random steps. Each seed takes a few seconds at most.
const STEPS: usize = 250;
/// Seeds of the random steps.
const SEEDS: u64 = 4;

/// What the engine really has is never more than the node offers.
async fn check(rig: &Rig) {
    let specs =
        rig.containers().await.into_iter().filter_map(|container| rig.engine.spec(&container.incarnation));
    let (mut cpu_milli, mut memory_mb, mut sandboxes) = (0, 0, 0);
    for spec in specs {
        cpu_milli += u64::from(spec.limits.cpu_milli);
        memory_mb += spec.limits.memory_bytes / 1_024 / 1_024;
        sandboxes += 1;
    }
    let there = Demand { cpu_milli, memory_mb, sandboxes };
    let (used, promised) = rig.node.containers.used();
    assert!(there.fits(used), "the engine has {there:?}, the runner knows of {used:?}");
    assert!(used.plus(promised).fits(OFFERED), "{used:?} and {promised:?} of {OFFERED:?}");
}

fn random_fault(rng: &Rng) -> EngineFault {
    match rng.below(6) {
        0 => EngineFault::Fail(EngineError::failed("broken")),
        1 => EngineFault::LoseReply(EngineError::failed("broken")),
        2 => EngineFault::Fail(EngineError::unavailable("busy")),
        3 => EngineFault::Die,
        4 => EngineFault::Slow(Duration::from_secs(rng.below(4) as u64)),
        _ => EngineFault::LoseReply(EngineError::unavailable("no answer")),
    }
}

async fn storm(seed: u64) {
    let (rig, rng) = (Rig::new().await, Rng::seeded(seed));
    let (mut working, mut idle): (Vec<JoinHandle<()>>, Vec<ProvisionLane>) = (Vec::new(), Vec::new());
    let (mut admitted, mut refused) = (0, 0);
    for step in 0..STEPS {
        let priority = if rng.below(2) == 0 { ProvisionPriority::Lease } else { ProvisionPriority::Fill };
        let lane = ProvisionLane { priority, pool: pool() };
        match rng.below(8) {
            0..=2 => {
                let places = 1 + rng.below(4);
                let (count, wait) = rig.node.admit(&lane, places).await;
                assert!(count <= places && (count > 0 || !wait.is_zero()) && wait <= 5 * IDLE_LOOK_PERIOD);
                admitted += count;
                refused += usize::from(count == 0);
                idle.extend(std::iter::repeat_n(lane, count));
            }
            3 => drop(idle.pop().map(|lane| rig.node.release(&lane))),
            4 | 5 => {
                let Some(lane) = idle.pop() else { continue };
                let held = (lane.priority == ProvisionPriority::Lease).then(|| lease(1, 6_000));
                let work = rig.wanted(&format!("ctr_{step}"), held);
                let node = Arc::clone(&rig.node);
                working.push(tokio::spawn(async move {
                    node.work(Delivery { work, deliveries: 1 }).await;
                    node.release(&lane);
                }));
            }
            6 => {
                let operation = if rng.below(3) == 0 { Operation::Remove } else { Operation::Create };
                rig.engine.script(operation, random_fault(&rng));
            }
            _ => {
                let listed = rig.containers().await;
                if let Some(container) = listed.get(rng.below(listed.len())) {
                    let id = container.sandbox.to_string();
                    if rng.below(2) == 0 {
                        rig.control.put(&id, Record::Ended);
                    }
                }
                // The engine may be scripted to fail it.
                let node = Arc::clone(&rig.node);
                let reconciled = tokio::spawn(async move { node.reconcile().await.is_ok() });
                rig.pass_until(Duration::from_secs(20), || reconciled.is_finished()).await;
            }
        }
        if rng.below(2) == 0 {
            rig.pass(Duration::from_millis(rng.below(1_000) as u64)).await;
        }
        everything().await;
        check(&rig).await;
    }
    assert!(admitted > 10 && refused > 10, "seed {seed}: admitted {admitted}, refused {refused}");
    rig.pass_until(Duration::from_secs(400), || working.iter().all(JoinHandle::is_finished)).await;
    for work in working {
        work.await.unwrap();
    }
    idle.drain(..).for_each(|lane| rig.node.release(&lane));
    assert!(rig.node.containers.has_no_reservation(), "seed {seed}");
    for container in rig.containers().await {
        rig.control.put(container.sandbox.as_str(), Record::Ended);
    }
    // A scripted fault may be left.
    for _ in 0..STEPS {
        let _ = rig.node.reconcile().await;
    }
    assert_eq!(rig.containers().await, [], "seed {seed}");
    assert_eq!(rig.node.containers.used(), (Demand::default(), Demand::default()), "seed {seed}");
}

#[test]
fn capacity_is_neither_exceeded_nor_lost_in_a_storm() {
    for seed in 0..SEEDS {
        run(storm(seed));
    }
}
