//! A whole runner, as a process runs it.

use super::*;
use contract::Verb;
use ports::bus::Provisions as _;
use testkit::engine::EngineFault;

/// Adds the work of a sandbox to the queue.
async fn announce(rig: &Rig, id: &str, lease: Option<NodeLease>) {
    let work = rig.wanted(id, lease);
    rig.bus.announce(&work).await.unwrap();
}

/// A runner on the ports of a rig whose own node does nothing any more, and its end.
struct Process {
    rig: Rig,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), BusError>>,
}

/// A runner on the ports of a rig, with its folder.
fn runner(rig: &Rig) -> Result<Runner, StateError> {
    let ports = Ports {
        clock: Arc::new(rig.clock.clone()),
        random: Arc::new(Rng::seeded(8)),
        engine: Arc::new(rig.engine.clone()),
        requests: rig.control.clone(),
        provisions: Arc::new(rig.bus.clone()),
        serve: Arc::new(NoRequests),
        is_clock_off: Arc::new(|| false),
    };
    Runner::new(config(rig.data(), OFFERED), ports, Metrics::register(&Registry::new()).unwrap())
}

fn begin(rig: Rig) -> Process {
    let stop = CancellationToken::new();
    let ended = tokio::spawn(runner(&rig).unwrap().run(stop.clone()));
    Process { rig, stop, ended }
}

/// The rig with the folder of its node, which has ended. The node of the result has another folder and does nothing.
async fn without_node(rig: Rig) -> Rig {
    let Rig { node, clock, engine, control, bus, data, background, is_clock_off: _ } = rig;
    background.abort();
    drop((node, background));
    everything().await;
    let idle = Rig::on(clock, engine, control, Arc::new(tempfile::tempdir().unwrap()), OFFERED);
    idle.background.abort();
    Rig { bus, data, ..idle }
}

async fn process() -> Process {
    begin(without_node(Rig::new().await).await)
}

#[test]
fn announced_work_is_done_until_the_runner_stops() {
    run(async {
        let Process { rig, stop, ended } = process().await;
        announce(&rig, "ctr_1", None).await;
        announce(&rig, "ctr_2", Some(lease(1, 600))).await;
        let are_ready = || ["ctr_1", "ctr_2"].iter().all(|id| rig.control.incarnation(id).is_some());
        assert!(rig.pass_until(Duration::from_secs(30), are_ready).await);
        rig.pass(Duration::from_secs(1)).await;
        assert_eq!(rig.bus.provisions_queued(), (0, 0));
        // What has begun is finished.
        rig.engine.script(Operation::Create, EngineFault::Slow(Duration::from_secs(2)));
        announce(&rig, "ctr_3", None).await;
        let calls = || rig.calls(Operation::Create) == 3;
        assert!(rig.pass_until(Duration::from_secs(5), calls).await);
        stop.cancel();
        assert!(rig.pass_until(Duration::from_secs(10), || ended.is_finished()).await);
        ended.await.unwrap().unwrap();
        assert!(rig.control.incarnation("ctr_3").is_some());
        assert_eq!(rig.containers().await.len(), 3, "containers go on");
    });
}

#[test]
fn full_node_leaves_work_in_the_queue() {
    run(async {
        let Process { rig, stop, ended } = process().await;
        for number in 1..=6 {
            announce(&rig, &format!("ctr_{number}"), None).await;
        }
        rig.pass(Duration::from_secs(20)).await;
        assert_eq!((rig.containers().await.len(), rig.bus.provisions_queued()), (4, (2, 0)));
        let first = rig.containers().await[0].sandbox.to_string();
        rig.control.put(&first, Record::Ended);
        // The next reconciliation removes it, and the next work takes its room.
        rig.pass(Duration::from_secs(60)).await;
        assert_eq!((rig.containers().await.len(), rig.bus.provisions_queued()), (4, (1, 0)));
        stop.cancel();
        assert!(rig.pass_until(Duration::from_secs(10), || ended.is_finished()).await);
    });
}

#[test]
fn runner_that_was_taken_for_lost_registers_again_and_reconciles() {
    run(async {
        let Process { rig, stop, ended } = process().await;
        announce(&rig, "ctr_1", None).await;
        let is_ready = || rig.control.incarnation("ctr_1").is_some();
        assert!(rig.pass_until(Duration::from_secs(30), is_ready).await);
        rig.control.put("ctr_1", Record::Ended);
        let before = rig.control.generation();
        rig.control.end_generation();
        announce(&rig, "ctr_2", None).await;
        let is_ready = || rig.control.incarnation("ctr_2").is_some();
        assert!(rig.pass_until(Duration::from_secs(10), is_ready).await);
        rig.pass(Duration::from_secs(1)).await;
        assert_eq!(rig.control.generation(), before + 2, "registered once");
        let left: Vec<_> =
            rig.containers().await.iter().map(|container| container.sandbox.to_string()).collect();
        assert_eq!(left, ["ctr_2"], "reconciled long before the next period");
        stop.cancel();
        assert!(rig.pass_until(Duration::from_secs(10), || ended.is_finished()).await);
    });
}

#[test]
fn nothing_is_served_before_the_control_plane_and_the_engine_answer() {
    run(async {
        let first = Rig::new().await;
        first.created("ctr_0", None).await;
        first.control.set_down(true);
        first.engine.script(Operation::List, EngineFault::Fail(ports::engine::EngineError::unavailable("x")));
        let Process { rig, stop, ended } = begin(without_node(first).await);
        announce(&rig, "ctr_1", None).await;
        rig.pass(Duration::from_secs(60)).await;
        assert_eq!((rig.calls(Operation::Create), rig.bus.provisions_queued()), (1, (1, 0)));
        rig.control.set_down(false);
        let is_ready = || rig.control.incarnation("ctr_1").is_some();
        assert!(rig.pass_until(Duration::from_secs(30), is_ready).await);
        assert!(!rig.control.reports(Verb::Held).is_empty(), "it has asked about what it had");
        stop.cancel();
        assert!(rig.pass_until(Duration::from_secs(10), || ended.is_finished()).await);
    });
}

#[test]
fn runner_stops_while_it_waits_for_the_control_plane() {
    run(async {
        let rig = Rig::new().await;
        rig.control.set_down(true);
        let Process { rig, stop, ended } = begin(without_node(rig).await);
        rig.pass(Duration::from_secs(1)).await;
        stop.cancel();
        assert!(rig.pass_until(Duration::from_secs(1), || ended.is_finished()).await);
        assert!(ended.await.unwrap().is_ok());
    });
}

#[test]
fn second_runner_on_the_same_folder_is_refused() {
    run(async {
        let rig = Rig::new().await;
        let refused = runner(&rig);
        assert!(matches!(refused.err(), Some(StateError::InUse { .. })));
    });
}
