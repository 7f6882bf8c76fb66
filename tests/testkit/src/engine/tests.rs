use super::*;
use crate::clock::{ManualClock, settle};
use domain::{SandboxId, UnixSeconds};
use ports::engine::Image;
use suite::{Failure, Subject, fresh, run};
use supervisor::{Client, End, Job, JobEvent, JobId, Offsets};

#[async_trait]
impl Subject for FakeEngine {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.clone())
    }

    async fn reopened(&self) -> Arc<dyn Engine> {
        Arc::new(FakeEngine::reopened(self))
    }

    fn spec(&self, sandbox: SandboxId, incarnation: Incarnation) -> ContainerSpec {
        ContainerSpec::new(sandbox, incarnation, Image::Host)
    }

    async fn kill(&self, incarnation: &Incarnation) {
        FakeEngine::kill(self, incarnation);
    }

    fn leftovers(&self) -> Vec<String> {
        self.inside.lock().containers.keys().map(ToString::to_string).collect()
    }
}

crate::engine_suite!(FakeEngine::default());

fn spec() -> ContainerSpec {
    ContainerSpec::new(SandboxId::parse("s-1").unwrap(), fresh(), Image::Host)
}

#[tokio::test]
async fn faults_come_in_their_order() {
    let (fake, spec) = (FakeEngine::default(), spec());
    let broken = EngineError::unavailable("on purpose");
    fake.script(Operation::Create, EngineFault::Fail(broken.clone()));
    fake.script(Operation::Create, EngineFault::LoseReply(broken.clone()));
    assert_eq!(fake.create(&spec).await, Err(broken.clone()));
    assert_eq!(fake.list().await.unwrap(), []);
    assert_eq!(fake.create(&spec).await, Err(broken));
    assert_eq!(fake.list().await.unwrap().len(), 1, "it happened");
    assert_eq!(fake.create(&spec).await.unwrap().state, ContainerState::Running);
    fake.script(Operation::Resume, EngineFault::Die);
    fake.resume(&spec.incarnation).await.unwrap();
    assert_eq!(fake.list().await.unwrap()[0].state, ContainerState::Exited);
    let calls = fake.calls();
    assert_eq!(calls.iter().filter(|call| **call == (Operation::Create, Some(spec.incarnation))).count(), 3);
}

#[tokio::test]
async fn hanging_creation_is_interrupted_by_a_restart() {
    let (fake, spec) = (FakeEngine::default(), spec());
    fake.script(Operation::Create, EngineFault::Hang);
    let creation = tokio::spawn({
        let (fake, spec) = (fake.clone(), spec.clone());
        async move { fake.create(&spec).await }
    });
    settle().await;
    assert_eq!(fake.list().await.unwrap()[0].state, ContainerState::Creating);
    assert_eq!(FakeEngine::reopened(&fake).list().await.unwrap()[0].state, interrupted());
    creation.abort();
    assert!(creation.await.is_err());
    assert_eq!(fake.list().await.unwrap()[0].state, interrupted());
}

#[tokio::test]
async fn slow_call_waits_on_the_clock() {
    let clock = Arc::new(ManualClock::at(UnixSeconds::new(0)));
    let fake = FakeEngine::new(Arc::clone(&clock) as Arc<dyn Clock>);
    fake.script(Operation::List, EngineFault::Slow(Duration::from_secs(60)));
    let list = tokio::spawn(async move { fake.list().await });
    settle().await;
    assert!(!list.is_finished());
    clock.advance(Duration::from_secs(60));
    assert_eq!(list.await.unwrap(), Ok(Vec::new()));
}

#[tokio::test]
async fn full_engine_says_so() {
    let fake = FakeEngine::default();
    fake.set_capacity(1);
    fake.create(&spec()).await.unwrap();
    assert!(matches!(fake.create(&spec()).await, Err(EngineError::Full { .. })));
}

#[tokio::test]
async fn jobs_follow_their_script() -> Result<(), Failure> {
    let (fake, spec) = (FakeEngine::default(), spec());
    fake.set_jobs(|job| match job.command.first().map(String::as_str) {
        Some("echo") => Play::printing("hello\n"),
        Some("false") => Play { end: Some(End::Exited(1)), ..Play::default() },
        _ => Play::held(),
    });
    fake.create(&spec).await?;
    let outcome = run(&fake, &spec.incarnation, &["echo"]).await?;
    assert_eq!((outcome.stdout.as_slice(), outcome.ended.end), (b"hello\n".as_slice(), End::Exited(0)));
    assert_eq!(run(&fake, &spec.incarnation, &["false"]).await?.ended.end, End::Exited(1));

    // A held job outlives its connection.
    let id = JobId::parse("job-1")?;
    let client = Client::connect(fake.connect(&spec.incarnation).await?).await?;
    drop(client.start(Job::new(id.clone(), ["sleep"])).await?);
    drop(client);
    let client = Client::connect(fake.connect(&spec.incarnation).await?).await?;
    let (_, mut attached) = client.attach(&id, Offsets::default()).await?;
    fake.finish(&spec.incarnation, &id, End::Exited(7));
    let event = attached.next().await?;
    assert!(matches!(&event, Some(JobEvent::Ended(ended)) if ended.end == End::Exited(7)), "{event:?}");
    client.acknowledge(&id).await?;
    assert_eq!(client.list().await?.len(), 0);

    // The end of the container ends its connections.
    fake.stop(&spec.incarnation).await?;
    assert!(client.list().await.is_err());
    Ok(())
}

#[tokio::test]
async fn thousands_of_containers_are_cheap() {
    let fake = FakeEngine::default();
    for _ in 0..10_000 {
        fake.create(&spec()).await.unwrap();
    }
    assert_eq!(fake.list().await.unwrap().len(), 10_000);
}
