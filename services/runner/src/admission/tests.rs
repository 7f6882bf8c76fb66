//! When a node fetches.

use super::*;
use crate::Demand;
use crate::tests::{OFFERED, Rig, pool, run};
use contract::ProvisionPriority;
use domain::PoolName;

const MS: Duration = Duration::from_millis(1);

fn lane(priority: ProvisionPriority, pool: &PoolName) -> ProvisionLane {
    ProvisionLane { priority, pool: pool.clone() }
}

#[test]
fn node_with_more_load_fetches_later() {
    run(async {
        let rig = Rig::new().await;
        let node = &rig.node;
        let admit = |priority| {
            let (lane, now_ms) = (lane(priority, &pool()), ports::clock::Clock::now_ms(&rig.clock));
            node.admission.admit(now_ms, &lane, 1, &node.pools, &node.containers)
        };
        assert_eq!(admit(ProvisionPriority::Fill), (1, Duration::ZERO), "without any load");
        // A quarter of the memory is promised.
        assert_eq!(admit(ProvisionPriority::Fill), (0, 12 * MS));
        assert_eq!(admit(ProvisionPriority::Lease), (0, 12 * MS), "each lane waits for itself");
        rig.clock.advance(5 * MS);
        assert_eq!(admit(ProvisionPriority::Fill), (0, 7 * MS), "the rest of its wait");
        rig.clock.advance(7 * MS);
        assert_eq!(admit(ProvisionPriority::Fill), (1, Duration::ZERO));
        rig.clock.advance(Duration::from_millis(REST_MS));
        assert_eq!(admit(ProvisionPriority::Fill), (0, 25 * MS), "half of it is promised");
        rig.clock.advance(Duration::from_secs(60));
        assert_eq!(admit(ProvisionPriority::Fill), (0, 25 * MS), "an old wait does not count");
        rig.clock.advance(25 * MS);
        assert_eq!(admit(ProvisionPriority::Fill).0, 1);
        rig.clock.advance(37 * MS);
        assert_eq!(admit(ProvisionPriority::Lease).0, 0);
        rig.clock.advance(37 * MS);
        assert_eq!(admit(ProvisionPriority::Lease).0, 1);
        assert_eq!(admit(ProvisionPriority::Lease), (0, FULL_WAIT), "it is full");
        assert_eq!(node.containers.used().1.memory_mb, OFFERED.memory_mb);
    });
}

#[test]
fn waits_of_two_lanes_do_not_begin_each_other_again() {
    run(async {
        let rig = Rig::new().await;
        let node = &rig.node;
        let look = |priority| {
            let (lane, now_ms) = (lane(priority, &pool()), ports::clock::Clock::now_ms(&rig.clock));
            let (places, wait) = node.admission.admit(now_ms, &lane, 1, &node.pools, &node.containers);
            // Nothing is found there.
            (0..places).for_each(|_| node.containers.release(&lane));
            wait
        };
        let one = lane(ProvisionPriority::Fill, &PoolName::parse("other").unwrap());
        assert_eq!(node.containers.reserve(&one, Demand { memory_mb: 512, ..Demand::default() }, 1), 1);
        assert_eq!(look(ProvisionPriority::Lease), 12 * MS);
        rig.clock.advance(6 * MS);
        assert_eq!(look(ProvisionPriority::Fill), 12 * MS, "it began later");
        rig.clock.advance(6 * MS);
        assert_eq!(look(ProvisionPriority::Lease), Duration::ZERO);
        rig.clock.advance(6 * MS);
        let looks = [look(ProvisionPriority::Lease), look(ProvisionPriority::Fill)];
        assert_eq!(looks, [Duration::ZERO; 2], "the node comes to rest");
    });
}

#[test]
fn nothing_is_fetched_for_other_pools_or_while_the_engine_fails() {
    run(async {
        let rig = Rig::new().await;
        let (node, fill) = (&rig.node, ProvisionPriority::Fill);
        let other = lane(fill, &PoolName::parse("other").unwrap());
        let admit = |now_ms, lane: &ProvisionLane| {
            node.admission.admit(now_ms, lane, 9, &node.pools, &node.containers)
        };
        assert_eq!(admit(0, &other), (0, IDLE_LOOK_PERIOD));
        node.admission.close(10_000);
        assert_eq!(admit(14_999, &lane(fill, &pool())), (0, MS));
        assert_eq!(admit(15_000, &lane(fill, &pool())).0, 4);
        assert_eq!(node.containers.used().1, Demand { cpu_milli: 4_000, memory_mb: 2_048, sandboxes: 4 });
    });
}
