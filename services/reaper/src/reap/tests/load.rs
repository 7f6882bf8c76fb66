//! The metrics of the load: work in progress, its limit, and the depth of the queue.

use super::*;

#[tokio::test]
async fn work_in_progress_is_exported_with_its_limit() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let in_flight = || rig.metric("broker_reaper_in_flight_deletions", &[]);
    assert_eq!(rig.metric("broker_reaper_in_flight_limit", &[]), Some(CONFIG.in_flight_max as f64));
    assert_eq!(in_flight(), Some(0.0));
    rig.provider.hold();
    let working = tokio::spawn({
        let (reaper, work) = (Arc::clone(&rig.reaper), work.clone());
        async move { reaper.work(delivery(&work)).await }
    });
    settle().await;
    assert_eq!((rig.provider.in_flight(), in_flight()), (1, Some(1.0)));
    rig.provider.let_go();
    assert_eq!(working.await.unwrap(), Verdict::Done);
    assert_eq!(in_flight(), Some(0.0));
}

#[tokio::test]
async fn depth_of_the_queue_is_exported_until_the_pool_has_none() {
    let rig = Rig::new().await;
    let work = rig.released().await;
    let queued = || rig.metric("broker_deletions_queued", &["waiting", "main"]);
    ports::bus::Deletions::announce(&rig.bus, &work).await.unwrap();
    let showing = tokio::spawn({
        let reaper = Arc::clone(&rig.reaper);
        async move { reaper.show_queue().await }
    });
    settle().await;
    assert_eq!(queued(), Some(1.0));
    rig.work_through(&work).await;
    rig.clock.advance(crate::QUEUE_SHOW_PERIOD);
    settle().await;
    assert_eq!(queued(), None);
    showing.abort();
}
