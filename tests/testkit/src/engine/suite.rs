//! What every engine has to pass, the fake one too.
//!
//! `engine_suite!` makes a test of each function. A function ends with an error or a failed assertion if the engine is wrong.

mod networks;

pub use networks::{
    networked, networks_are_attached_once, networks_that_a_machine_lacks_are_refused,
    published_ports_are_distinct_and_stay,
};

use async_trait::async_trait;
use domain::SandboxId;
use ports::engine::{
    Container, ContainerSpec, ContainerState, Engine, EngineError, Incarnation, Limits, Network,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use supervisor::{Client, Job, JobId, Outcome};

/// Creations that are removed at different moments in [`a_removal_ends_a_creation`].
const RACES: u32 = 20;
/// Time-out for what takes milliseconds on a machine that is not busy.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a test may fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An engine under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The engine.
    fn engine(&self) -> Arc<dyn Engine>;

    /// The engine as a new process on this machine opens it.
    async fn reopened(&self) -> Arc<dyn Engine>;

    /// A small container with the default features.
    fn spec(&self, sandbox: SandboxId, incarnation: Incarnation) -> ContainerSpec;

    /// Kills the supervisor of a container from outside.
    async fn kill(&self, incarnation: &Incarnation);

    /// What is left of removed containers: processes, control groups, mounts, files.
    fn leftovers(&self) -> Vec<String>;
}

/// Makes a test of each function of the suite; `$subject` makes a fresh subject.
#[macro_export]
macro_rules! engine_suite {
    ($subject:expr) => {
        $crate::engine_suite!($subject;
            containers_are_created_listed_and_removed
            calls_can_be_repeated
            two_incarnations_of_a_sandbox_are_separate
            a_removal_ends_a_creation
            an_abandoned_creation_is_listed_until_it_is_removed
            paused_containers_continue
            stopped_containers_start_again
            dead_containers_are_exited
            unknown_containers_are_gone
            wrong_specs_are_refused
            a_new_process_finds_every_container
            networks_that_a_machine_lacks_are_refused
            networks_are_attached_once
            published_ports_are_distinct_and_stay
        );
    };
    ($subject:expr; $($name:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> Result<(), $crate::engine::suite::Failure> {
            let subject = $subject;
            $crate::engine::suite::$name(&subject).await?;
            $crate::engine::suite::remove_all(&subject).await
        })+
    };
}

/// A fresh incarnation.
#[must_use]
pub fn fresh() -> Incarnation {
    Incarnation::new(uuid::Uuid::now_v7())
}

/// Runs a command in a container and collects its output.
///
/// # Errors
/// The container or its supervisor cannot be reached, or the command could not be started.
pub async fn run(
    engine: &dyn Engine,
    incarnation: &Incarnation,
    command: &[&str],
) -> Result<Outcome, Failure> {
    run_job(engine, incarnation, Job::new(fresh_job()?, command.iter().copied())).await
}

/// Runs a job in a container and collects its output.
///
/// # Errors
/// The container or its supervisor cannot be reached, or the job was refused.
pub async fn run_job(engine: &dyn Engine, incarnation: &Incarnation, job: Job) -> Result<Outcome, Failure> {
    let client = Client::connect(engine.connect(incarnation).await?).await?;
    Ok(client.run(job, &[]).await?)
}

/// The standard output of a script that has to succeed, without the final end of line.
///
/// # Panics
/// If it did not.
#[must_use]
pub fn text_of(script: &str, outcome: &Outcome) -> String {
    let (stdout, stderr) =
        (String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(outcome.ended.end, supervisor::End::Exited(0), "{script}: {stdout}{stderr}");
    stdout.trim_end().to_owned()
}

/// Removes what a failed test has left, from a destructor.
pub fn remove_left(engine: Arc<dyn Engine>) {
    let remove = async move {
        for container in engine.list().await.unwrap_or_default() {
            let _ = engine.remove(&container.incarnation).await;
        }
    };
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
        let _ = std::thread::spawn(move || runtime.block_on(remove)).join();
    }
}

/// The limits of a small container.
#[must_use]
pub fn small_limits() -> Limits {
    const MIB: u64 = 1024 * 1024;
    Limits {
        memory_bytes: 128 * MIB,
        pids: 32,
        disk_bytes: 16 * MIB,
        tmp_bytes: 4 * MIB,
        ..Limits::default()
    }
}

/// A fresh id of a job.
///
/// # Errors
/// Never.
pub fn fresh_job() -> Result<JobId, Failure> {
    Ok(JobId::parse(&uuid::Uuid::now_v7().to_string())?)
}

/// Removes every container; then nothing is left.
///
/// # Errors
/// A container cannot be removed.
pub async fn remove_all(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    for container in engine.list().await? {
        engine.remove(&container.incarnation).await?;
    }
    assert_eq!(engine.list().await?, []);
    assert_nothing_left(subject).await;
    Ok(())
}

/// Waits until nothing is left: a process that has ended is there until its parent has looked.
pub async fn assert_nothing_left(subject: &dyn Subject) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let leftovers = subject.leftovers();
        if leftovers.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {leftovers:#?}");
        tokio::task::yield_now().await;
    }
}

async fn states(engine: &dyn Engine) -> Result<Vec<(Incarnation, ContainerState)>, EngineError> {
    let containers = engine.list().await?;
    Ok(containers.into_iter().map(|Container { incarnation, state, .. }| (incarnation, state)).collect())
}

async fn create(subject: &dyn Subject) -> Result<Incarnation, Failure> {
    let spec = subject.spec(SandboxId::parse("s-1")?, fresh());
    subject.engine().create(&spec).await?;
    Ok(spec.incarnation)
}

/// A container is listed with its labels from its creation to its removal, and runs commands.
///
/// # Errors
/// A call failed.
pub async fn containers_are_created_listed_and_removed(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let spec = subject.spec(SandboxId::parse("s-1")?, fresh());
    let created = engine.create(&spec).await?;
    assert_eq!((&created.sandbox, created.incarnation), (&spec.sandbox, spec.incarnation));
    assert_eq!(created.state, ContainerState::Running);
    assert_eq!(engine.list().await?, [created]);
    let outcome = run(engine.as_ref(), &spec.incarnation, &["true"]).await?;
    assert_eq!(outcome.ended.end, supervisor::End::Exited(0));
    engine.usage(&spec.incarnation).await?;
    engine.remove(&spec.incarnation).await?;
    assert_eq!(engine.list().await?, []);
    Ok(())
}

/// Repeats change nothing and succeed.
///
/// # Errors
/// A call failed.
pub async fn calls_can_be_repeated(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let spec = subject.spec(SandboxId::parse("s-1")?, fresh());
    let created = engine.create(&spec).await?;
    assert_eq!(engine.create(&spec).await?, created);
    for _ in 0..2 {
        engine.start(&spec.incarnation).await?;
        engine.resume(&spec.incarnation).await?;
    }
    for _ in 0..2 {
        engine.pause(&spec.incarnation).await?;
    }
    for _ in 0..2 {
        engine.stop(&spec.incarnation).await?;
    }
    assert_eq!(engine.list().await?.len(), 1);
    for _ in 0..2 {
        engine.remove(&spec.incarnation).await?;
    }
    assert_eq!(engine.list().await?, []);
    Ok(())
}

/// Two attempts at one sandbox are two containers.
///
/// # Errors
/// A call failed.
pub async fn two_incarnations_of_a_sandbox_are_separate(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let (first, second) = (create(subject).await?, create(subject).await?);
    let sandboxes: Vec<_> = engine.list().await?.into_iter().map(|container| container.sandbox).collect();
    assert_eq!(sandboxes, [SandboxId::parse("s-1")?, SandboxId::parse("s-1")?]);
    engine.remove(&first).await?;
    assert_eq!(states(engine.as_ref()).await?, [(second, ContainerState::Running)]);
    run(engine.as_ref(), &second, &["true"]).await?;
    Ok(())
}

/// A removal at any moment of a creation leaves nothing.
///
/// # Errors
/// A call failed.
pub async fn a_removal_ends_a_creation(subject: &dyn Subject) -> Result<(), Failure> {
    for race in 0..RACES {
        let (creating, removing) = (subject.engine(), subject.engine());
        let spec = subject.spec(SandboxId::parse("s-1")?, fresh());
        let incarnation = spec.incarnation;
        let creation = tokio::spawn(async move { creating.create(&spec).await });
        // From before its start to about its end.
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(700) * race {
            tokio::task::yield_now().await;
        }
        removing.remove(&incarnation).await?;
        match creation.await? {
            // It began only after the removal.
            Ok(_) => removing.remove(&incarnation).await?,
            Err(error) => assert_eq!(error, EngineError::Gone),
        }
        assert_eq!(removing.list().await?, []);
    }
    assert_nothing_left(subject).await;
    Ok(())
}

/// A creation whose caller gave up is listed as failed, or it was finished or never began. It can be removed.
///
/// # Errors
/// A call failed.
pub async fn an_abandoned_creation_is_listed_until_it_is_removed(
    subject: &dyn Subject,
) -> Result<(), Failure> {
    let engine = subject.engine();
    for patience in (0..10).map(Duration::from_millis) {
        let spec = subject.spec(SandboxId::parse("s-1")?, fresh());
        let is_finished = tokio::time::timeout(patience, engine.create(&spec)).await.is_ok();
        for container in settled(engine.as_ref()).await? {
            match container.state {
                ContainerState::Running if is_finished => {}
                ContainerState::Failed { .. } if !is_finished => {
                    let again = engine.create(&spec).await?;
                    assert!(matches!(again.state, ContainerState::Failed { .. }), "{again:?}");
                }
                state => assert_eq!(state, ContainerState::Exited, "after {patience:?}"),
            }
        }
        // Also one that began so late that it was not listed.
        engine.remove(&spec.incarnation).await?;
        assert_eq!(engine.list().await?, []);
    }
    Ok(())
}

/// The containers when none is being created any more: an engine may have to finish what it has begun.
async fn settled(engine: &dyn Engine) -> Result<Vec<Container>, EngineError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let listed = engine.list().await?;
        if listed.iter().all(|container| container.state != ContainerState::Creating) {
            return Ok(listed);
        }
        assert!(Instant::now() < deadline, "{listed:?}");
        tokio::task::yield_now().await;
    }
}

/// A paused container takes no connections and continues where it was.
///
/// # Errors
/// A call failed.
pub async fn paused_containers_continue(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let incarnation = create(subject).await?;
    engine.pause(&incarnation).await?;
    assert_eq!(states(engine.as_ref()).await?, [(incarnation, ContainerState::Paused)]);
    let refused = engine.connect(&incarnation).await.err();
    assert!(matches!(refused, Some(EngineError::Refused { .. })), "{refused:?}");
    engine.usage(&incarnation).await?;
    engine.resume(&incarnation).await?;
    assert_eq!(states(engine.as_ref()).await?, [(incarnation, ContainerState::Running)]);
    run(engine.as_ref(), &incarnation, &["true"]).await?;
    engine.pause(&incarnation).await?;
    engine.remove(&incarnation).await?;
    Ok(())
}

/// A stopped container keeps its entry and starts again.
///
/// # Errors
/// A call failed.
pub async fn stopped_containers_start_again(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let incarnation = create(subject).await?;
    engine.stop(&incarnation).await?;
    assert_eq!(states(engine.as_ref()).await?, [(incarnation, ContainerState::Stopped)]);
    for refused in [engine.connect(&incarnation).await.err(), engine.pause(&incarnation).await.err()] {
        assert!(matches!(refused, Some(EngineError::Refused { .. })), "{refused:?}");
    }
    engine.start(&incarnation).await?;
    assert_eq!(states(engine.as_ref()).await?, [(incarnation, ContainerState::Running)]);
    run(engine.as_ref(), &incarnation, &["true"]).await?;
    engine.stop(&incarnation).await?;
    engine.remove(&incarnation).await?;
    Ok(())
}

/// A container whose supervisor died is listed as exited, starts again, and can be removed.
///
/// # Errors
/// A call failed.
pub async fn dead_containers_are_exited(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let incarnation = create(subject).await?;
    subject.kill(&incarnation).await;
    let deadline = Instant::now() + TIMEOUT;
    while states(engine.as_ref()).await? != [(incarnation, ContainerState::Exited)] {
        assert!(Instant::now() < deadline, "{:?}", engine.list().await?);
        tokio::task::yield_now().await;
    }
    assert!(engine.connect(&incarnation).await.is_err());
    engine.start(&incarnation).await?;
    run(engine.as_ref(), &incarnation, &["true"]).await?;
    subject.kill(&incarnation).await;
    engine.remove(&incarnation).await?;
    Ok(())
}

/// Every call with an unknown incarnation says so; a removal has nothing to do.
///
/// # Errors
/// A call failed.
pub async fn unknown_containers_are_gone(subject: &dyn Subject) -> Result<(), Failure> {
    let (engine, unknown) = (subject.engine(), fresh());
    engine.remove(&unknown).await?;
    let results = [
        engine.attach_network(&unknown).await,
        engine.start(&unknown).await,
        engine.stop(&unknown).await,
        engine.pause(&unknown).await,
        engine.resume(&unknown).await,
        engine.connect(&unknown).await.map(drop),
        engine.usage(&unknown).await.map(drop),
    ];
    for result in results {
        assert_eq!(result, Err(EngineError::Gone));
    }
    Ok(())
}

/// A spec that no engine can serve is refused, and nothing is made for it.
///
/// # Errors
/// A call failed.
pub async fn wrong_specs_are_refused(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let good = subject.spec(SandboxId::parse("s-1")?, fresh());
    let (mut memory, mut image, mut ports) = (good.clone(), good.clone(), good);
    memory.limits.memory_bytes = 1;
    image.image = ports::engine::Image::Folder("relative".into());
    ports.ports = vec![ports::engine::PublishedPort { inside: 0, outside: None }];
    for wrong in [memory, image, ports] {
        let refused = engine.create(&wrong).await;
        assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");
    }
    assert_eq!(engine.list().await?, []);
    Ok(())
}

/// A new process finds the containers of the former one and reaches them; half-created ones are failed.
///
/// # Errors
/// A call failed.
pub async fn a_new_process_finds_every_container(subject: &dyn Subject) -> Result<(), Failure> {
    let (running, stopped) = (create(subject).await?, create(subject).await?);
    subject.engine().stop(&stopped).await?;
    let engine = subject.reopened().await;
    assert_eq!(engine.list().await?, subject.engine().list().await?);
    run(engine.as_ref(), &running, &["true"]).await?;
    engine.pause(&running).await?;
    engine.resume(&running).await?;
    engine.start(&stopped).await?;
    run(engine.as_ref(), &stopped, &["true"]).await?;
    engine.remove(&running).await?;
    assert_eq!(states(engine.as_ref()).await?, [(stopped, ContainerState::Running)]);
    Ok(())
}

/// A container with a published port, in this network, as far as this machine has them.
async fn attached(subject: &dyn Subject, network: Network) -> Result<Incarnation, Failure> {
    let Some(spec) = networked(subject, network, &[8_080])? else { return create(subject).await };
    subject.engine().create(&spec).await?;
    subject.engine().attach_network(&spec.incarnation).await?;
    Ok(spec.incarnation)
}

/// So many containers, two at a time, leave nothing: processes, groups, mounts, files, networks, and descriptors of this process,
/// which must do nothing else meanwhile.
///
/// # Errors
/// A call failed.
pub async fn cycles_leave_nothing(subject: &dyn Subject, cycles: usize) -> Result<(), Failure> {
    // What is opened once, at the first creation, stays open.
    subject.engine().remove(&create(subject).await?).await?;
    assert_nothing_left(subject).await;
    let before = descriptors()?;
    let networks = [(Network::None, Network::Open), (Network::Internal, Network::Internal)];
    for (one, other) in networks.into_iter().cycle().take(cycles / 2) {
        let (first, second) = tokio::join!(attached(subject, one), attached(subject, other));
        let engine = subject.engine();
        let (first, second) = (first?, second?);
        let (first, second) = tokio::join!(engine.remove(&first), engine.remove(&second));
        first.and(second)?;
    }
    assert_nothing_left(subject).await;
    assert_eq!(descriptors()?, before);
    Ok(())
}

/// What the open descriptors of this process are.
fn descriptors() -> std::io::Result<Vec<String>> {
    let links =
        std::fs::read_dir("/proc/self/fd")?.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let kind =
        |link: std::path::PathBuf| link.to_string_lossy().split(':').next().unwrap_or_default().to_owned();
    // The folder that is being read has another name each time.
    let mut found: Vec<_> = links.map(kind).filter(|kind| !kind.starts_with("/proc/")).collect();
    found.sort();
    Ok(found)
}
