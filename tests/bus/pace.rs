//! The fleet's common pace. The clock is the test's own, so slots are exact.

use crate::engines::{Bus, Engine, World};
use common::clock::{Clock as _, ManualClock};
use common::domain::UnixSeconds;
use common::random::{Dice, Random as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const MINUTE_MS: u64 = 60_000;

async fn world(engine: Engine, per_minute: u64) -> (World, ManualClock) {
    let clock = ManualClock::at(UnixSeconds::new(1_763_683_200));
    let change = |config: &mut common::bus::memory::MemoryConfig| config.deletions_per_minute = per_minute;
    (engine.world_at(Arc::new(clock.clone()), change).await, clock)
}

async fn take_ms(bus: &dyn Bus) -> u64 {
    u64::try_from(bus.take().await.unwrap().as_millis()).unwrap()
}

pub(crate) async fn slots_lie_evenly_apart(engine: Engine) {
    let (world, clock) = world(engine, 600).await;
    let other = world.connect().await;
    for number in 0..6 {
        let bus = if number % 2 == 0 { &world.bus } else { &other };
        assert_eq!(take_ms(bus.as_ref()).await, number * 100);
    }
    clock.advance(Duration::from_millis(250));
    assert_eq!(take_ms(world.bus.as_ref()).await, 350, "the line moves with the clock");
}

pub(crate) async fn time_without_work_is_not_saved_up(engine: Engine) {
    let (world, clock) = world(engine, 600).await;
    assert_eq!(take_ms(world.bus.as_ref()).await, 0);
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(take_ms(world.bus.as_ref()).await, 0);
    assert_eq!(take_ms(world.bus.as_ref()).await, 100);
}

pub(crate) async fn a_hold_keeps_everybody_away(engine: Engine) {
    let (world, clock) = world(engine, 600).await;
    let other = world.connect().await;
    assert_eq!(take_ms(world.bus.as_ref()).await, 0);
    other.hold(Duration::from_secs(30)).await.unwrap();
    assert_eq!(take_ms(world.bus.as_ref()).await, 30_000);
    assert_eq!(take_ms(other.as_ref()).await, 30_100);
    clock.advance(Duration::from_secs(10));
    other.hold(Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        take_ms(world.bus.as_ref()).await,
        20_200,
        "a shorter hold does not make a longer one shorter"
    );
    other.hold(Duration::from_secs(60)).await.unwrap();
    assert_eq!(take_ms(world.bus.as_ref()).await, 60_000);
}

pub(crate) async fn takers_at_once_get_slots_of_their_own(engine: Engine) {
    const TAKERS: u64 = 24;
    let (world, _clock) = world(engine, 60).await;
    let buses = [Arc::clone(&world.bus), world.connect().await, world.connect().await];
    let taking: Vec<_> = (0..TAKERS)
        .map(|number| {
            let bus = Arc::clone(&buses[usize::try_from(number % 3).unwrap()]);
            tokio::spawn(async move { take_ms(bus.as_ref()).await })
        })
        .collect();
    let mut slots = BTreeSet::new();
    for taking in taking {
        slots.insert(taking.await.unwrap());
    }
    assert_eq!(slots, (0..TAKERS).map(|number| number * 1_000).collect());
}

pub(crate) async fn no_minute_has_more_than_its_share(engine: Engine) {
    // More than twice the largest share, so that several full minutes lie among them.
    const SLOTS: usize = 150;
    for per_minute in [1, 7, 60] {
        let (world, clock) = world(engine, per_minute).await;
        let dice = Dice::seeded(per_minute);
        let mut slots = Vec::new();
        for _ in 0..SLOTS {
            slots.push(clock.now_ms() + take_ms(world.bus.as_ref()).await);
            if dice.below(3) == 0 {
                clock.advance(Duration::from_millis(dice.below(5_000) as u64));
            }
            if dice.below(20) == 0 {
                world.bus.hold(Duration::from_millis(dice.below(5_000) as u64)).await.unwrap();
            }
        }
        assert!(slots.is_sorted());
        let fullest = slots
            .iter()
            .map(|from| slots.iter().filter(|slot| (*from..from + MINUTE_MS).contains(slot)).count())
            .max();
        assert!(fullest <= Some(usize::try_from(per_minute).unwrap()), "{fullest:?} of {per_minute}");
    }
}
