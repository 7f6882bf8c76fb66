//! Ticks: one for each slot with any number of schedulers, and never two runs at once.

use async_trait::async_trait;
use contract::RunStatus;
use contract::{Report, SweepReport, TickKind, TickOrder};
use harness::rig::Plan;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{Runner, TickQueue as _, Ticks as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A run that lasts until the test ends it, and that is counted.
struct Gate {
    runs: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    passes: Semaphore,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self {
            runs: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            at_once_max: AtomicUsize::new(0),
            passes: Semaphore::new(0),
        })
    }

    fn open(&self) {
        self.passes.add_permits(1_000);
    }
}

#[async_trait]
impl Runner for Gate {
    async fn run(&self, _order: &TickOrder) -> Report {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once_max.fetch_max(now, Ordering::SeqCst);
        self.passes.acquire().await.unwrap().forget();
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        self.runs.fetch_add(1, Ordering::SeqCst);
        Report::Sweep(SweepReport { status: RunStatus::Completed, ..SweepReport::default() })
    }
}

#[tokio::test]
async fn three_schedulers_publish_one_tick_for_each_slot() {
    // Real schedulers and real time: a slot each second, counted by the fleet's metric.
    let rig =
        Plan::new(3).set("SWEEP_INTERVAL_SECONDS", 1).counts(|counts| counts.schedulers = 3).start().await;
    let ticks = |result: &str| {
        let families = rig.registry.gather();
        let family = families.iter().find(|family| family.name() == "broker_ticks_total").unwrap();
        let of = |metric: &prometheus::proto::Metric, name: &str| {
            metric.get_label().iter().find(|label| label.name() == name).unwrap().value().to_owned()
        };
        family
            .get_metric()
            .iter()
            .filter(|metric| of(metric, "kind") == "sweep" && of(metric, "result") == result)
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum::<u64>()
    };
    let (first, duplicate) = eventually("four slots by all three", TIMEOUT, || async {
        let counts = (ticks("first"), ticks("duplicate"));
        if counts.0 >= 4 && counts.1 == 2 * counts.0 { Ok(counts) } else { Err(counts) }
    })
    .await;
    assert_eq!((duplicate, ticks("failed")), (2 * first, 0));
    // Each stored tick starts one run; the last one may still be in progress.
    let runs = rig.run(TickKind::SWEEP).await.tick;
    assert!(runs >= first, "{runs} ticks kept, {first} slots");
    rig.stop().await;
}

#[tokio::test]
async fn published_slot_is_not_published_again() {
    let rig = Plan::new(3).start().await;
    let turn = Some((7, std::time::Duration::from_secs(60)));
    let first = rig.bus.tick(TickKind::SWEEP, turn).await.unwrap();
    let second = rig.bus.tick(TickKind::SWEEP, turn).await.unwrap();
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!(first.sequence, second.sequence);
    let other_kind = rig.bus.tick(TickKind::EXPIRY, turn).await.unwrap();
    assert!(!other_kind.duplicate);
    rig.stop().await;
}

#[tokio::test]
async fn tick_during_a_run_waits_and_runs_never_overlap() {
    // A stopped fleet leaves its streams; two reconcilers of the test take its ticks.
    let mut rig = Plan::new(3).start().await;
    rig.stop_fleet().await.unwrap();
    let bus = rig.another_bus().await;
    let gate = Gate::closed();
    let stop = CancellationToken::new();
    let running: Vec<_> = (0..2)
        .map(|_| {
            let (bus, gate, stop) = (bus.clone(), Arc::clone(&gate), stop.clone());
            tokio::spawn(async move { bus.run_on_ticks(TickKind::SWEEP, gate, stop).await })
        })
        .collect();
    bus.tick(TickKind::SWEEP, None).await.unwrap();
    eventually("the first run", TIMEOUT, || async {
        match gate.at_once.load(Ordering::SeqCst) {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    // More ticks during the run: they fold into one waiting tick.
    let mut last = 0;
    for _ in 0..5 {
        last = bus.tick(TickKind::SWEEP, None).await.unwrap().sequence;
    }
    gate.open();
    eventually("a run after the last tick", TIMEOUT, || async {
        match bus.last_report(TickKind::SWEEP).await.unwrap() {
            Some(report) if report.tick >= last => Ok(()),
            other => Err(other),
        }
    })
    .await;
    stop.cancel();
    for reconciler in running {
        reconciler.await.unwrap().unwrap();
    }
    assert_eq!(gate.at_once_max.load(Ordering::SeqCst), 1);
    assert!(gate.runs.load(Ordering::SeqCst) <= 3, "a slow run builds no backlog");
    bus.close().await;
}
