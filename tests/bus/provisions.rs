//! The queue of work that creates sandboxes.

use crate::engines::{Engine, ProvisionBus, World};
use crate::fixtures::{Running, run, until};
use crate::manual_worker::{Case, Inbox, ManualWorker, manual_worker};
use async_trait::async_trait;
use contract::{ProvisionLane, ProvisionWork};
use domain::{PoolName, UnixSeconds};
use harness::wait::{TIMEOUT, eventually, moment};
use parking_lot::Mutex;
use ports::bus::{Announced, Delivery, ServedPools, Verdict, Worker};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

mod on_nats;

/// A delay that no test waits out.
const MUCH_LATER: Duration = Duration::from_secs(3_600);

/// A node: its room, and a worker whose verdicts come from the test.
struct Node {
    cases: Arc<ManualWorker<Delivery<ProvisionWork>, Verdict>>,
    room: Mutex<Room>,
}

#[derive(Default)]
struct Room {
    free: usize,
    closed: BTreeSet<String>,
    /// How often each pool was refused.
    refused: BTreeMap<String, usize>,
}

type NodeInbox = Inbox<Delivery<ProvisionWork>, Verdict>;

/// A runner that consumes for a node.
struct Runner {
    node: Arc<Node>,
    inbox: NodeInbox,
    pools: watch::Sender<ServedPools>,
    running: Running,
}

#[async_trait]
impl Worker<ProvisionWork> for Node {
    async fn work(&self, delivery: Delivery<ProvisionWork>) -> Verdict {
        self.cases.ask(delivery).await
    }

    async fn admit(&self, lane: &ProvisionLane, places: usize) -> (usize, Duration) {
        let mut room = self.room.lock();
        let pool = lane.pool.to_string();
        let count = if room.closed.contains(&pool) { 0 } else { places.min(room.free) };
        if count == 0 {
            *room.refused.entry(pool).or_default() += 1;
        }
        room.free -= count;
        (count, Duration::from_millis(10))
    }

    fn release(&self, _lane: &ProvisionLane) {
        self.room.lock().free += 1;
    }
}

// === impl Runner ===

impl Runner {
    /// A runner with that room and a connection of its own, which serves these pools with equal weights.
    async fn start(world: &World, free: usize, pools: &[&str]) -> Self {
        Self::on(world.connect_provisions().await, free, pools)
    }

    fn on(bus: Arc<dyn ProvisionBus>, free: usize, pools: &[&str]) -> Self {
        let (cases, inbox) = manual_worker();
        let node = Arc::new(Node { cases, room: Mutex::new(Room { free, ..Room::default() }) });
        let (pools, served) = watch::channel(served(pools));
        let worker = Arc::clone(&node);
        let running = run(|stop| async move { bus.consume(worker, served, stop).await });
        Self { node, inbox, pools, running }
    }

    /// Waits until the runner has refused that pool more often than now by two: it has looked at it since.
    async fn until_refused(&self, pool: &str) {
        let refused = || self.node.room.lock().refused.get(pool).copied().unwrap_or_default();
        let before = refused();
        until("refusals", || refused() >= before + 2).await;
    }

    /// Waits until all places are free again.
    async fn until_free(&self, places: usize) {
        until("free places", || self.node.room.lock().free == places).await;
    }

    async fn next(&mut self) -> Case<Delivery<ProvisionWork>, Verdict> {
        self.inbox.next().await
    }
}

fn served(pools: &[&str]) -> ServedPools {
    pools.iter().map(|pool| (PoolName::parse(pool).unwrap(), 4)).collect()
}

fn work(number: usize, pool: &str, is_leased: bool) -> ProvisionWork {
    ProvisionWork {
        version: 1,
        sandbox_id: format!("ctr_{number}"),
        pool: pool.to_owned(),
        epoch: 1,
        template: "shell@3".to_owned(),
        is_leased,
        requested_at: 1_763_683_200,
    }
}

async fn announce(bus: &Arc<dyn ProvisionBus>, works: impl IntoIterator<Item = ProvisionWork>) {
    for work in works {
        assert_eq!(bus.announce(&work).await.unwrap(), Announced::Queued, "{work:?}");
    }
}

pub(crate) async fn sandbox_has_at_most_one_provision(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, [work(1, "a", false)]).await;
    let again = async |why: &str| {
        for is_leased in [false, true] {
            let announced = bus.announce(&work(1, "a", is_leased)).await.unwrap();
            assert_eq!(announced, Announced::AlreadyQueued, "{why}");
        }
    };
    again("while it waits").await;
    let mut runner = Runner::start(&world, 4, &["a"]).await;
    let case = runner.next().await;
    again("while it is under way").await;
    case.answer(Verdict::Retry { delay: MUCH_LATER });
    world.until_provisions(1, 1).await;
    again("while it waits for its next attempt").await;
    announce(&bus, [work(2, "a", false), work(1, "b", false)]).await;
    runner.next().await.answer(Verdict::Done);
    world.until_provisions(2, 1).await;
    announce(&bus, [work(2, "a", true)]).await;
    assert_eq!(runner.next().await.what, Delivery { work: work(2, "a", true), deliveries: 1 });
}

pub(crate) async fn invalid_provision_is_rejected(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    let bad = [
        ProvisionWork { sandbox_id: "a.b".to_owned(), ..work(1, "a", true) },
        ProvisionWork { template: "no version".to_owned(), ..work(1, "a", true) },
        work(1, "*", true),
    ];
    for work in bad {
        assert!(bus.announce(&work).await.is_err(), "{work:?}");
    }
    assert_eq!(world.provisions_queued().await, (0, 0));
}

pub(crate) async fn leases_are_delivered_before_other_work(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, (0..4).map(|number| work(number, "a", false))).await;
    announce(&bus, (4..7).map(|number| work(number, "b", true))).await;
    let mut runner = Runner::start(&world, 1, &["a", "b"]).await;
    for _ in 0..3 {
        let case = runner.next().await;
        assert!(case.what.work.is_leased, "{case:?}");
        case.answer(Verdict::Done);
    }
    let case = runner.next().await;
    assert_eq!(case.what.work, work(0, "a", false));
    announce(&bus, [work(7, "b", true)]).await;
    case.answer(Verdict::Done);
    let case = runner.next().await;
    assert_eq!(case.what.work, work(7, "b", true), "the first place that is free");
    case.answer(Verdict::Done);
    for _ in 1..4 {
        runner.next().await.answer(Verdict::Done);
    }
    world.until_provisions(0, 0).await;
}

pub(crate) async fn full_node_does_not_fetch(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    let mut full = Runner::start(&world, 0, &["a"]).await;
    announce(&bus, (0..3).map(|number| work(number, "a", number == 0))).await;
    full.until_refused("a").await;
    let mut free = Runner::start(&world, 8, &["a"]).await;
    for _ in 0..3 {
        let case = free.next().await;
        assert_eq!(case.what.deliveries, 1, "the full node has not fetched it: {case:?}");
        case.answer(Verdict::Done);
    }
    world.until_provisions(0, 0).await;
    free.running.stop().await;
    announce(&bus, [work(3, "a", false)]).await;
    full.node.room.lock().free = 1;
    full.next().await.answer(Verdict::Done);
    world.until_provisions(0, 0).await;
}

pub(crate) async fn closed_pool_does_not_stop_the_others(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, [work(0, "a", true), work(1, "a", false), work(2, "b", false), work(3, "c", true)]).await;
    let mut runner = Runner::start(&world, 0, &["a", "b", "c"]).await;
    {
        let mut room = runner.node.room.lock();
        room.closed.insert("a".to_owned());
        room.free = 8;
    }
    let mut pools = BTreeSet::new();
    for _ in 0..2 {
        let case = runner.next().await;
        pools.insert(case.what.work.pool.clone());
        case.answer(Verdict::Done);
    }
    assert_eq!(pools.iter().map(String::as_str).collect::<Vec<_>>(), ["b", "c"]);
    runner.until_refused("a").await;
    world.until_provisions(2, 0).await;
    runner.node.room.lock().closed.clear();
    // The runner may be between its lanes, so either of them may be the first.
    let mut leased = BTreeSet::new();
    for _ in 0..2 {
        let case = runner.next().await;
        assert_eq!(case.what.deliveries, 1);
        leased.insert(case.what.work.is_leased);
        case.answer(Verdict::Done);
    }
    assert_eq!(leased, BTreeSet::from([true, false]));
    runner.until_free(8).await;
}

pub(crate) async fn admitted_places_limit_the_work_in_progress(engine: Engine) {
    const WORKS: usize = 24;
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    let pools = ["a", "b", "c"];
    announce(&bus, (0..WORKS).map(|number| work(number, pools[number % 3], number % 2 == 0))).await;
    let mut runner = Runner::start(&world, 3, &pools).await;
    for done in 0..WORKS {
        let expected = 3.min(WORKS - done);
        until("all places to be used", || runner.inbox.at_once() == expected).await;
        runner.next().await.answer(Verdict::Done);
    }
    world.until_provisions(0, 0).await;
    assert_eq!(runner.inbox.at_once_max(), 3);
    runner.until_free(3).await;
}

pub(crate) async fn slow_provision_is_kept_alive(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, [work(1, "a", true)]).await;
    let mut one = Runner::start(&world, 4, &["a"]).await;
    let case = one.next().await;
    let mut two = Runner::start(&world, 4, &["a"]).await;
    // Twice the acknowledgement wait.
    moment(Duration::from_secs(2)).await;
    assert!(one.inbox.poll().is_none() && two.inbox.poll().is_none(), "no other runner got it");
    assert!(!case.is_abandoned());
    case.answer(Verdict::Done);
    world.until_provisions(0, 0).await;
}

pub(crate) async fn provision_of_a_dead_runner_is_redelivered(engine: Engine) {
    let world = Arc::new(engine.world().await);
    let bus = world.connect_provisions().await;
    announce(&bus, [work(0, "a", true), work(1, "a", false)]).await;
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // The connection belongs to this runtime and ends with it.
    let (connected, connection) = tokio::sync::oneshot::channel();
    process.spawn({
        let world = Arc::clone(&world);
        async move { drop(connected.send(world.connect_provisions().await)) }
    });
    let own = connection.await.unwrap();
    let mut dying = {
        let _inside = process.enter();
        Runner::on(own, 4, &["a"])
    };
    let lost = [dying.next().await, dying.next().await];
    let mut survivor = Runner::start(&world, 4, &["a"]).await;
    process.shutdown_background();
    for _ in 0..2 {
        let case = survivor.next().await;
        assert_eq!(case.what.deliveries, 2);
        case.answer(Verdict::Done);
    }
    world.until_provisions(0, 0).await;
    assert!(lost.iter().all(Case::is_abandoned));
}

pub(crate) async fn retry_is_delayed_and_counts_anew(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, [work(1, "a", true)]).await;
    let mut runner = Runner::start(&world, 1, &["a"]).await;
    let (since, delay) = (Instant::now(), Duration::from_secs(1));
    runner.next().await.answer(Verdict::Retry { delay });
    world.until_provisions(1, 1).await;
    announce(&bus, [work(2, "a", false)]).await;
    let other = runner.next().await;
    assert_eq!(other.what.work, work(2, "a", false), "the only place is free in the meantime");
    other.answer(Verdict::Done);
    let again = runner.next().await;
    assert!(since.elapsed() >= delay, "after {:?}", since.elapsed());
    assert_eq!(again.what, Delivery { work: work(1, "a", true), deliveries: 1 }, "a retry is a new message");
    // The worker panics, and the message returns after the acknowledgement wait.
    drop(again);
    let third = runner.next().await;
    assert_eq!(third.what.deliveries, 2);
    third.answer(Verdict::Retry { delay: Duration::ZERO });
    let fourth = runner.next().await;
    assert_eq!(fourth.what, Delivery { work: work(1, "a", true), deliveries: 1 });
    fourth.answer(Verdict::Done);
    world.until_provisions(0, 0).await;
    runner.until_free(1).await;
}

pub(crate) async fn provision_that_was_given_up_is_parked(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    let newer = serde_json::to_string(&work(1, "a", true)).unwrap().replacen('{', r#"{"new":"field","#, 1);
    announce(&bus, [work(2, "a", true)]).await;
    world.publish_raw_provision(&work(1, "a", true), &newer).await;
    let mut runner = Runner::start(&world, 1, &["a"]).await;
    runner.next().await.answer(Verdict::Done);
    runner.next().await.answer(Verdict::Retry { delay: Duration::ZERO });
    runner.next().await.answer(Verdict::GiveUp { reason: "no image\r\nof that name".to_owned() });
    world.until_provisions(0, 0).await;
    let parked = world.parked_provisions().await;
    let [(reason, attempts, payload)] = parked.as_slice() else { panic!("one copy: {parked:?}") };
    assert_eq!((reason.replace("  ", " ").as_str(), *attempts), ("no image of that name", Some(1)));
    assert_eq!(payload, newer.as_bytes(), "as it came");
    announce(&bus, [work(1, "a", true)]).await;
    assert_eq!(runner.next().await.what.deliveries, 1, "a new request counts anew");
}

pub(crate) async fn unreadable_provision_is_parked(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, [work(9, "a", true)]).await;
    let text = |number: usize| serde_json::to_string(&work(number, "a", true)).unwrap();
    let bad = [
        ("this is no work".to_owned(), "no provision work"),
        (text(1).replace(r#""version":1"#, r#""version":99"#), "version 99"),
        (text(2).replace("shell@3", "no version"), "template"),
    ];
    for (number, (payload, _)) in bad.iter().enumerate() {
        world.publish_raw_provision(&work(number, "a", true), payload).await;
    }
    let mut runner = Runner::start(&world, 1, &["a"]).await;
    let case = runner.next().await;
    assert_eq!(case.what.work, work(9, "a", true), "no runner sees the others");
    case.answer(Verdict::Done);
    world.until_provisions(0, 0).await;
    let parked = world.parked_provisions().await;
    assert_eq!(parked.len(), bad.len());
    for ((reason, attempts, payload), (sent, why)) in parked.iter().zip(&bad) {
        assert!(reason.contains(why) && attempts.is_none(), "{reason}");
        assert_eq!(payload, sent.as_bytes());
    }
    runner.until_free(1).await;
}

pub(crate) async fn old_parked_provisions_are_removed(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, (1..=2).map(|number| work(number, "a", true))).await;
    world.publish_raw_provision(&work(3, "a", true), "this is no work").await;
    let mut runner = Runner::start(&world, 2, &["a"]).await;
    for _ in 1..=2 {
        runner.next().await.answer(Verdict::GiveUp { reason: "no image".to_owned() });
    }
    world.until_provisions(0, 0).await;
    let drop = async |before: u64, limit: usize| {
        world.bus.drop_parked_provisions(UnixSeconds::new(before), limit).await.unwrap()
    };
    // Both clocks are between these.
    let (long_ago, one_day) = (1_000_000_000, 10_000_000_000);
    assert_eq!(drop(long_ago, 10).await, 0);
    assert_eq!(drop(one_day, 1).await, 1);
    assert_eq!(world.parked_provisions().await.len(), 2);
    assert_eq!(drop(one_day, 10).await, 2, "unreadable ones as well");
    assert_eq!(world.parked_provisions().await.len(), 0);
    runner.until_free(2).await;
}

pub(crate) async fn provisions_resume_after_an_outage(engine: Engine) {
    const WORKS: usize = 10;
    let mut world = engine.world_that_stops(|_| {}).await;
    let bus = world.connect_provisions().await;
    announce(&bus, (0..WORKS).map(|number| work(number, "a", number % 2 == 0))).await;
    let mut runner = Runner::start(&world, 2, &["a"]).await;
    runner.next().await.answer(Verdict::Retry { delay: Duration::from_secs(1) });
    world.until_provisions(WORKS, 1).await;
    let under_way = [runner.next().await, runner.next().await];
    world.stop_server().await;
    for case in under_way {
        case.answer(Verdict::Done);
    }
    world.start_server().await;
    let mut done = BTreeSet::new();
    eventually("every work to be done", TIMEOUT, || {
        while let Some(case) = runner.inbox.poll() {
            done.insert(case.what.work.sandbox_id.clone());
            case.answer(Verdict::Done);
        }
        async {
            match world.provisions_queued().await {
                (0, 0) => Ok(()),
                left => Err(left),
            }
        }
    })
    .await;
    assert!(done.len() >= WORKS - 2, "all but those that were answered during the outage: {done:?}");
    announce(&bus, [work(0, "a", true)]).await;
    runner.next().await.answer(Verdict::Done);
    world.until_provisions(0, 0).await;
    runner.until_free(2).await;
}

pub(crate) async fn runners_share_the_work(engine: Engine) {
    const WORKS: usize = 20;
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    let mut runners = [Runner::start(&world, 2, &["a"]).await, Runner::start(&world, 2, &["a"]).await];
    announce(&bus, (0..WORKS).map(|number| work(number, "a", number % 3 == 0))).await;
    for runner in &runners {
        until("both to be busy", || runner.inbox.at_once() == 2).await;
    }
    let mut done = BTreeSet::new();
    while done.len() < WORKS {
        for runner in &mut runners {
            while let Some(case) = runner.inbox.poll() {
                assert_eq!(case.what.deliveries, 1);
                assert!(done.insert(case.what.work.sandbox_id.clone()), "{case:?}");
                case.answer(Verdict::Done);
            }
        }
        let is_over = done.len() == WORKS;
        until("the next work", || is_over || runners.iter().any(|runner| runner.inbox.has_case())).await;
    }
    world.until_provisions(0, 0).await;
}

pub(crate) async fn served_pools_change_while_running(engine: Engine) {
    let world = engine.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, [work(0, "a", false), work(1, "b", true)]).await;
    let mut runner = Runner::start(&world, 8, &["a", "unknown"]).await;
    let from_a = runner.next().await;
    assert_eq!(from_a.what.work.pool, "a");
    runner.pools.send(served(&["b"])).unwrap();
    let case = runner.next().await;
    assert_eq!(case.what.work, work(1, "b", true));
    case.answer(Verdict::Done);
    announce(&bus, [work(2, "a", true), work(3, "b", false)]).await;
    let case = runner.next().await;
    assert_eq!(case.what.work, work(3, "b", false), "the other pool is not served any more");
    case.answer(Verdict::Done);
    // Its work in progress goes on.
    assert!(!from_a.is_abandoned());
    from_a.answer(Verdict::Done);
    world.until_provisions(1, 0).await;
    runner.pools.send(served(&["a"])).unwrap();
    assert_eq!(runner.next().await.what, Delivery { work: work(2, "a", true), deliveries: 1 });
}

pub(crate) async fn stopping_runner_finishes_or_returns_its_work(engine: Engine) {
    let change = |config: &mut testkit::bus::MemoryConfig| {
        config.finish_timeout = Duration::from_millis(500);
        // Far longer than the test: a message that is delivered again was returned by its runner.
        config.provision_ack_wait = Duration::from_secs(600);
    };
    let world = engine.world_with(change).await;
    let bus = world.connect_provisions().await;
    announce(&bus, (0..3).map(|number| work(number, "a", true))).await;
    let mut runner = Runner::start(&world, 2, &["a"]).await;
    let (finished, cut) = (runner.next().await, runner.next().await);
    let left = cut.what.work.clone();
    runner.running.stop.cancel();
    finished.answer(Verdict::Done);
    runner.running.ended().await;
    assert!(cut.is_abandoned(), "it was cut off");
    assert!(runner.inbox.poll().is_none(), "it took no more");
    let mut next = Runner::start(&world, 2, &["a"]).await;
    let mut deliveries = BTreeMap::new();
    for _ in 0..2 {
        let case = next.next().await;
        deliveries.insert(case.what.work.sandbox_id.clone(), case.what.deliveries);
        case.answer(Verdict::Done);
    }
    assert_eq!(deliveries, BTreeMap::from([(left.sandbox_id, 2), ("ctr_2".to_owned(), 1)]));
    world.until_provisions(0, 0).await;
}
