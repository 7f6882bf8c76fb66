//! Failures: of the engine, of its disk, of the adapter's process and folder, and what others do to containers.

use crate::dockerd::Dockerd;
use crate::machine::{Machine, TIMEOUT, config, name, open, variable};
use crate::outside::listener_of;
use crate::registry::{Registry, arrives, push};
use domain::SandboxId;
use ports::engine::{
    Container, ContainerSpec, ContainerState, EngineError, Feature, Image, Network, PublishedPort,
};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use supervisor::{Client, Job, JobId, Offsets};
use testkit::engine::suite::{Failure, Subject as _, assert_nothing_left, fresh, remove_all};

fn is_unavailable<T>(result: Result<T, EngineError>) -> bool {
    matches!(result, Err(EngineError::Unavailable { .. }))
}

fn failed(container: Option<Container>) -> String {
    match container.map(|container| container.state) {
        Some(ContainerState::Failed { reason }) => reason,
        other => format!("it has not failed: {other:?}"),
    }
}

#[tokio::test]
async fn engine_that_is_gone_comes_back() -> Result<(), Failure> {
    let mut dockerd = Dockerd::new("{}");
    let machine = Machine::on(dockerd.socket()).await;
    let engine = machine.engine();
    let id = machine.create(|_| {}).await?;
    machine.text(&id, "echo kept >/workspace/x").await?;
    let spec = machine.spec(SandboxId::parse("s-2")?, fresh());
    for signal in [Signal::TERM, Signal::KILL] {
        dockerd.end(signal);
        assert!(is_unavailable(engine.list().await) && is_unavailable(engine.create(&spec).await));
        assert!(is_unavailable(engine.connect(&id).await) && is_unavailable(engine.usage(&id).await));
        assert!(is_unavailable(engine.start(&id).await) && is_unavailable(engine.stop(&id).await));
        assert!(is_unavailable(engine.remove(&id).await) && is_unavailable(engine.images().await));
        dockerd.start();
        // The engine ended its containers, or ends them when it starts.
        machine.settles(&id, ContainerState::Exited).await;
        engine.start(&id).await?;
        assert_eq!(machine.text(&id, "cat /workspace/x").await?, "kept");
    }
    assert_eq!(engine.list().await?.len(), 1);
    // Its networks are out of reach for the adapter.
    assert!(engine.info().why_not(Feature::OpenNetwork).is_some());
    remove_all(&machine).await
}

#[tokio::test]
async fn containers_outlive_an_engine_that_leaves_them_running() -> Result<(), Failure> {
    let mut dockerd = Dockerd::new(r#"{"live-restore": true}"#);
    let machine = Machine::on(dockerd.socket()).await;
    let id = machine.create(|_| {}).await?;
    let job = JobId::parse("held")?;
    let client = Client::connect(machine.engine().connect(&id).await?).await?;
    drop(client.start(Job::new(job.clone(), ["sh", "-c", "exec sleep 600"])).await?);
    for signal in [Signal::TERM, Signal::KILL] {
        dockerd.end(signal);
        // A connection that is there stays.
        assert_eq!(client.attach(&job, Offsets::default()).await?.0.ended, None);
        assert!(is_unavailable(machine.engine().connect(&id).await));
        dockerd.start();
        machine.settles(&id, ContainerState::Running).await;
        machine.text(&id, "true").await?;
    }
    assert_eq!(client.attach(&job, Offsets::default()).await?.0.ended, None);
    remove_all(&machine).await
}

#[tokio::test]
async fn full_disk_of_the_engine_is_reported() -> Result<(), Failure> {
    let dockerd = Dockerd::new("{}");
    let machine = Machine::on(dockerd.socket()).await;
    let before = machine.create(|_| {}).await?;
    let filling = dockerd.fill();
    for _ in 0..3 {
        let error = machine.create(|_| {}).await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(EngineError::Full { .. })), "{error:?}");
        assert_eq!(machine.engine().list().await?.len(), 1);
    }
    // One that runs goes on.
    machine.text(&before, "echo x >/workspace/x").await?;
    fs::remove_file(filling)?;
    let after = machine.create(|_| {}).await?;
    machine.text(&after, "true").await?;
    remove_all(&machine).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_gets_full_ends_a_fetch() -> Result<(), Failure> {
    let dockerd = Dockerd::new("{}");
    let machine = Machine::on(dockerd.socket()).await;
    let path = push(&Machine::new().await, "too-large");
    let registry = Registry::slow(listener_of(dockerd.id(), "127.0.0.1"))?;
    let image = format!("{}/{path}", registry.address);
    let creation = machine.create(|spec| spec.image = Image::Reference(image.clone()));
    let filled = async {
        arrives(&machine, &image).await;
        let filling = dockerd.fill();
        registry.release();
        filling
    };
    let (created, filling) = tokio::join!(creation, filled);
    let error = created.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(EngineError::Full { .. })), "{error:?}");
    assert_nothing_left(&machine).await;
    fs::remove_file(filling)?;
    machine.create(|spec| spec.image = Image::Reference(image)).await?;
    remove_all(&machine).await
}

#[tokio::test]
async fn containers_that_others_change_are_seen_as_they_are() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let engine = machine.engine();
    let id = machine.create(|_| {}).await?;
    machine.text(&id, "echo kept >/workspace/x").await?;
    for (command, state) in [
        ("kill", ContainerState::Exited),
        ("stop", ContainerState::Exited),
        ("pause", ContainerState::Paused),
    ] {
        machine.docker(&[command, &name(&id)]);
        machine.settles(&id, state.clone()).await;
        assert!(engine.connect(&id).await.is_err());
        if state == ContainerState::Paused {
            engine.resume(&id).await?
        } else {
            engine.start(&id).await?
        }
        assert_eq!(machine.text(&id, "cat /workspace/x").await?, "kept");
    }
    machine.docker(&["rm", "--force", &name(&id)]);
    let reason = failed(machine.listed(&id).await);
    assert!(reason.contains("does not have it any more"), "{reason}");
    assert_eq!(engine.connect(&id).await.err(), Some(EngineError::Gone));
    assert_eq!(engine.start(&id).await, Err(EngineError::Gone));
    engine.remove(&id).await?;
    assert_nothing_left(&machine).await;
    Ok(())
}

#[tokio::test]
async fn lost_folder_leaves_containers_that_can_be_removed() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let networked = |spec: &mut ContainerSpec| {
        spec.network = Network::Open;
        spec.ports = vec![PublishedPort { inside: 80, outside: None }];
    };
    let (id, other) = (machine.create(|_| {}).await?, machine.create(networked).await?);
    machine.engine().attach_network(&other).await?;
    for id in [&id, &other] {
        let workspace = machine.folder_of(id).join("workspace");
        assert!(Command::new("umount").arg("--lazy").arg(workspace).status()?.success());
    }
    fs::remove_dir_all(&machine.config().state)?;
    // As after a restart of the machine.
    let engine = machine.reopened().await;
    for id in [id, other] {
        let found = engine.list().await?.into_iter().find(|container| container.incarnation == id);
        let reason = failed(found);
        assert!(reason.contains("its folder is gone"), "{reason}");
        assert_eq!(engine.connect(&id).await.err(), Some(EngineError::Gone));
        engine.remove(&id).await?;
    }
    assert_eq!(engine.list().await?, []);
    assert_nothing_left(&machine).await;
    Ok(())
}

#[tokio::test]
async fn damaged_record_is_removed() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let (damaged, sound) = (machine.create(|_| {}).await?, machine.create(|_| {}).await?);
    fs::write(machine.folder_of(&damaged).join("record.json"), "{")?;
    assert!(machine.listed(&sound).await.is_some());
    machine.engine().remove(&damaged).await?;
    assert!(!machine.folder_of(&damaged).exists());
    // At its start the adapter does the same.
    fs::write(machine.folder_of(&sound).join("record.json"), "{")?;
    assert_eq!(machine.reopened().await.list().await?, []);
    assert_nothing_left(&machine).await;
    Ok(())
}

#[tokio::test]
async fn jobs_survive_a_new_process_of_the_adapter() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|_| {}).await?;
    let job = JobId::parse("held")?;
    let client = Client::connect(machine.engine().connect(&id).await?).await?;
    let mut held = Job::new(job.clone(), ["sh", "-c", "echo before; read line; echo $line"]);
    held.stdin = true;
    drop(client.start(held).await?);
    drop(client);
    let client = Client::connect(machine.reopened().await.connect(&id).await?).await?;
    let (_, mut attached) = client.attach(&job, Offsets::default()).await?;
    attached.write_stdin(b"after\n").await?;
    let mut output = Vec::new();
    while let Some(event) = attached.next().await? {
        if let supervisor::JobEvent::Output(chunk) = event {
            output.extend(chunk.bytes);
        }
    }
    assert_eq!(String::from_utf8(output)?, "before\nafter\n");
    remove_all(&machine).await
}

/// Names the folder in which [`sandboxes_come_and_go`] runs until it is killed.
const KILLED_IN: &str = "TEST_KILLED_IN";
/// Moments at which the adapter is killed, from the beginning of a creation to the end of a removal.
const DEATHS: u32 = 12;
/// Time between two such moments.
const STEP: Duration = Duration::from_millis(80);

#[tokio::test]
async fn sandboxes_come_and_go() -> Result<(), Failure> {
    let Some(folder) = std::env::var_os(KILLED_IN) else {
        let machine = Machine::new().await;
        let id = machine.create(|_| {}).await?;
        return Ok(machine.engine().remove(&id).await?);
    };
    let config = config(Path::new(&folder), variable("TEST_DOCKER_SOCKET").into());
    let engine = open(&config).await;
    fs::write(Path::new(&folder).join("begun"), "")?;
    for network in [Network::Open, Network::None].into_iter().cycle() {
        let image = Image::Reference(crate::machine::IMAGE.to_owned());
        let mut spec = ContainerSpec::new(SandboxId::parse("s-1")?, fresh(), image);
        (spec.network, spec.ports) = (network, vec![PublishedPort { inside: 80, outside: None }]);
        ports::engine::Engine::create(engine.as_ref(), &spec).await?;
        ports::engine::Engine::attach_network(engine.as_ref(), &spec.incarnation).await?;
        ports::engine::Engine::remove(engine.as_ref(), &spec.incarnation).await?;
    }
    Ok(())
}

/// Runs that test in a process of its own, and kills it this long after its beginning.
fn killed(folder: &Path, after: Duration) -> Result<(), Failure> {
    let mut adapter = Command::new(std::env::current_exe()?)
        .args(["--exact", "failures::sandboxes_come_and_go"])
        .env(KILLED_IN, folder)
        .stdout(Stdio::null())
        .spawn()?;
    let mut begun: Option<Instant> = None;
    while begun.is_none_or(|begun| begun.elapsed() < after) {
        assert_eq!(adapter.try_wait()?, None);
        begun = begun.or_else(|| folder.join("begun").exists().then(Instant::now));
        std::thread::yield_now();
    }
    adapter.kill()?;
    adapter.wait()?;
    Ok(())
}

#[tokio::test]
async fn death_at_any_moment_leaves_only_what_is_listed() -> Result<(), Failure> {
    for death in 0..DEATHS {
        let folder = tempfile::tempdir()?;
        killed(folder.path(), STEP * death)?;
        let config = config(folder.path(), variable("TEST_DOCKER_SOCKET").into());
        let machine = Machine::with(folder, config).await;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            // The engine may finish a creation whose caller is gone: that is listed when it is done.
            for container in machine.engine().list().await? {
                machine.engine().remove(&container.incarnation).await?;
            }
            let left = machine.leftovers();
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "after {:?}: {left:#?}", STEP * death);
        }
    }
    Ok(())
}
