//! Failed runs are repeated; a sync that changed something counts.

use super::*;
use crate::tests::Rig;
use crate::{KindRunner, Reconciler, TICKS};
use contract::{Report, TickOrder};
use domain::StateName;
use ports::bus::{CensusStore as _, Runner as _, TickQueue as _, Ticks as _};
use ports::provider::ProviderError;
use testkit::clock::settle;
use tokio_util::sync::CancellationToken;

fn runner(rig: &Rig) -> KindRunner {
    let tick = TICKS.iter().find(|tick| tick.definition.kind == TickKind::SYNC).unwrap();
    let reconciler: Arc<Reconciler> = Arc::clone(&rig.reconciler);
    KindRunner { reconciler, tick, repeats: Repeats::default() }
}

fn unreachable() -> ProviderError {
    ProviderError::Unreachable { message: "no route".to_owned() }
}

#[tokio::test]
async fn failed_run_is_repeated_with_back_off() {
    let rig = Rig::new();
    rig.list(0..3);
    let (bus, runner, stop) = (rig.bus.clone(), Arc::new(runner(&rig)), CancellationToken::new());
    let running = tokio::spawn({
        let (runner, stop) = (Arc::clone(&runner), stop.clone());
        async move { bus.run_on_ticks(TickKind::SYNC, runner, stop).await }
    });
    let listings = || async {
        settle().await;
        rig.provider.calls().len()
    };
    for _ in 0..3 {
        rig.provider.script_list(Err(unreachable()));
    }
    rig.bus.tick(TickKind::SYNC, None).await.unwrap();
    assert_eq!(listings().await, 1);
    let moment = Duration::from_millis(1);
    for (pause, count) in [(5, 2), (10, 3), (20, 4)] {
        rig.clock.advance(Duration::from_secs(pause) - moment);
        assert_eq!(listings().await, count - 1, "not yet");
        rig.clock.advance(moment);
        assert_eq!(listings().await, count, "after {pause} s");
    }
    assert_eq!(rig.in_state(StateName::Available).await.len(), 3, "the last one completed");
    rig.clock.advance(REPEAT_DELAY_MAX);
    assert_eq!(listings().await, 4, "so none follows");

    // The next failure begins anew; what an operator forces is not repeated without force.
    rig.provider.script_list(Err(unreachable()));
    rig.bus.tick(TickKind::SYNC, None).await.unwrap();
    assert_eq!(listings().await, 5);
    rig.clock.advance(REPEAT_DELAY_MIN);
    assert_eq!(listings().await, 6);
    rig.provider.script_list(Err(unreachable()));
    assert_eq!(runner.run(&TickOrder::forced("alice")).await.status(), RunStatus::Failed);
    rig.clock.advance(REPEAT_DELAY_MAX);
    assert_eq!(listings().await, 7);
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn sync_that_changed_something_ends_with_a_census() {
    let rig = Rig::new();
    rig.list(0..3);
    let runner = runner(&rig);
    let Report::Sync(sync) = runner.run(&TickOrder::default()).await else { panic!("a sync") };
    assert_eq!(sync.inserted, 3);
    let census = rig.bus.last_census().await.unwrap().unwrap();
    assert_eq!((census.all.total, census.all.available), (3, 3));
    rig.clock.advance(Duration::from_secs(60));
    runner.run(&TickOrder::default()).await;
    assert_eq!(rig.bus.last_census().await.unwrap().unwrap(), census, "nothing has changed");
}
