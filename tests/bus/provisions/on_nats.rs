//! What only NATS has: users, and consumers that an operator pauses.

use super::{Runner, announce, work};
use crate::engines::Engine;
use crate::users::{connect, server};
use async_nats::jetstream;
use harness::servers::PASSWORD;
use harness::wait::{TIMEOUT, eventually};
use ports::bus::Verdict;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn runner_has_the_rights_that_it_needs() {
    let (server, _folder) = server().await;
    for (number, user) in ["allocator", "reconciler"].into_iter().enumerate() {
        let publisher = connect(&server, user).await;
        publisher.set_up(&CancellationToken::new()).await.unwrap();
        let publisher = Arc::new(publisher) as Arc<dyn crate::engines::ProvisionBus>;
        announce(&publisher, [work(number, "a", number == 0), work(number, "b", number == 1)]).await;
    }
    let runner = connect(&server, "runner").await;
    let mut runner = Runner::on(Arc::new(runner), 4, &["a", "b"]);
    for _ in 0..3 {
        runner.next().await.answer(Verdict::Done);
    }
    runner.next().await.answer(Verdict::Retry { delay: Duration::ZERO });
    let again = runner.next().await;
    assert_eq!(again.what.deliveries, 1, "a retry is a new message");
    again.answer(Verdict::GiveUp { reason: "no such image".to_owned() });
    let options =
        async_nats::ConnectOptions::with_user_and_password("operator".to_owned(), PASSWORD.to_owned());
    let streams = jetstream::new(options.connect(server.address.to_string()).await.unwrap());
    let messages =
        async |stream: &str| streams.get_stream(stream).await.unwrap().cached_info().state.messages;
    eventually("the end of the work", TIMEOUT, || async {
        let found = (messages("PROVISIONS").await, messages("PARKED").await);
        if found == (0, 1) { Ok(()) } else { Err(found) }
    })
    .await;
    runner.running.stop().await;
    server.child.stop(TIMEOUT).await;
}

#[tokio::test]
async fn paused_consumer_does_not_delay_other_pools() {
    // Far more than fit into the time-out if each look at the paused lane took one fetch's time-out.
    const WORKS: usize = 40;
    let world = Engine::Nats.world().await;
    let bus = world.connect_provisions().await;
    announce(&bus, [work(WORKS, "a", true)]).await;
    let (subjects, client) = world.nats();
    let stream = jetstream::new(client).get_stream(subjects.provisions_stream()).await.unwrap();
    let until = time::OffsetDateTime::now_utc() + Duration::from_secs(3_600);
    stream.pause_consumer("runner-lease-a", until).await.unwrap();
    let mut runner = Runner::start(&world, 4, &["a", "b"]).await;
    let others = async {
        for number in 0..WORKS {
            announce(&bus, [work(number, "b", true)]).await;
            let case = runner.next().await;
            assert_eq!(case.what.work.pool, "b");
            case.answer(Verdict::Done);
        }
    };
    tokio::time::timeout(TIMEOUT, others).await.expect("the paused lane holds up the others");
    world.until_provisions(1, 0).await;
}
