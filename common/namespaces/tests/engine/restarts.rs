//! What survives: of a sandbox that is paused, stopped or started again, and of the adapter's process.

use crate::machine::Machine;
use domain::SandboxId;
use ports::engine::{
    ContainerSpec, ContainerState, Engine as _, EngineError, Image, Network, PublishedPort, Workspace,
};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use supervisor::{Client, Job, JobId, Offsets};
use testkit::engine::suite::{Failure, Subject as _, fresh, remove_all};

#[tokio::test]
async fn workspace_survives_a_stop() -> Result<(), Failure> {
    let machine = Machine::new();
    for workspace in [Workspace::Memory, Workspace::Disk] {
        let id = machine.create(|spec| spec.workspace = workspace).await?;
        machine.text(&id, "echo kept >/workspace/x; echo lost >/tmp/x").await?;
        machine.engine().stop(&id).await?;
        machine.reopened().await.start(&id).await?;
        assert_eq!(machine.text(&id, "cat /workspace/x; ls /tmp").await?, "kept");
    }
    Ok(())
}

#[tokio::test]
async fn paused_processes_use_no_time() -> Result<(), Failure> {
    let machine = Machine::new();
    let id = machine.create(|_| {}).await?;
    let client = Client::connect(machine.engine().connect(&id).await?).await?;
    let job = JobId::parse("busy")?;
    drop(client.start(Job::new(job.clone(), ["sh", "-c", "while :; do :; done"])).await?);
    machine.engine().pause(&id).await?;
    let before = machine.engine().usage(&id).await?.cpu;
    // Another sandbox works meanwhile.
    let other = machine.create(|_| {}).await?;
    machine.text(&other, "for i in $(seq 1000); do :; done").await?;
    assert_eq!(machine.engine().usage(&id).await?.cpu, before);
    machine.engine().resume(&id).await?;
    let (state, _) = client.attach(&job, Offsets::default()).await?;
    assert_eq!(state.ended, None);
    Ok(())
}

#[tokio::test]
async fn jobs_survive_a_new_process_of_the_adapter() -> Result<(), Failure> {
    let machine = Machine::new();
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
    Ok(())
}

#[tokio::test]
async fn damaged_record_is_removed() -> Result<(), Failure> {
    let machine = Machine::new();
    let (damaged, sound) = (machine.create(|_| {}).await?, machine.create(|_| {}).await?);
    let record = |id: &ports::engine::Incarnation| {
        machine.state().join("run").join(id.to_string()).join("record.json")
    };
    fs::write(record(&damaged), "{")?;
    let listed: Vec<_> = machine.engine().list().await?.into_iter().map(|one| one.incarnation).collect();
    assert_eq!(listed, [sound]);
    machine.engine().remove(&damaged).await?;
    assert!(!record(&damaged).exists());
    // At its start the adapter does the same.
    fs::write(record(&sound), "{")?;
    assert_eq!(machine.reopened().await.list().await?, []);
    testkit::engine::suite::assert_nothing_left(&machine).await;
    Ok(())
}

#[tokio::test]
async fn mounts_do_not_survive_a_restart_of_the_machine() -> Result<(), Failure> {
    let machine = Machine::new();
    for workspace in [Workspace::Memory, Workspace::Disk] {
        let id = machine.create(|spec| spec.workspace = workspace).await?;
        machine.engine().stop(&id).await?;
        let path = machine.state().join("run").join(id.to_string()).join("record.json");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        record["boot"] = "another".into();
        fs::write(path, record.to_string())?;
        let started = machine.engine().start(&id).await;
        match workspace {
            Workspace::Memory => assert!(matches!(started, Err(EngineError::Failed { .. })), "{started:?}"),
            Workspace::Disk => {
                started?;
                machine.text(&id, "true").await?;
            }
        }
        machine.engine().remove(&id).await?;
    }
    Ok(())
}

#[tokio::test]
async fn files_of_the_adapter_are_private() -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = Machine::new();
    let id = machine.create(|_| {}).await?;
    let folder = machine.state().join("run").join(id.to_string());
    for path in [machine.state(), &folder, &folder.join("workspace")] {
        assert_eq!(fs::metadata(path)?.permissions().mode() & 0o777, 0o700, "{}", path.display());
    }
    Ok(())
}

/// Names the folder in which [`sandboxes_come_and_go`] runs until it is killed.
const KILLED_IN: &str = "TEST_KILLED_IN";
/// Moments at which the adapter is killed, from the beginning of a creation to the end of a removal.
const DEATHS: u32 = 16;
/// Time between two such moments.
const STEP: Duration = Duration::from_millis(6);

#[tokio::test]
async fn sandboxes_come_and_go() -> Result<(), Failure> {
    let Some(folder) = std::env::var_os(KILLED_IN) else {
        let machine = Machine::new();
        let id = machine.create(|_| {}).await?;
        return Ok(machine.engine().remove(&id).await?);
    };
    let engine = crate::machine::open(&crate::machine::config(Path::new(&folder)));
    for network in [Network::Open, Network::Internal].into_iter().cycle() {
        let mut spec = ContainerSpec::new(SandboxId::parse("s-1")?, fresh(), Image::Host);
        (spec.network, spec.ports) = (network, vec![PublishedPort { inside: 80, outside: None }]);
        if engine.info().check(&spec).is_err() {
            (spec.network, spec.ports) = (Network::None, Vec::new());
        }
        engine.create(&spec).await?;
        engine.attach_network(&spec.incarnation).await?;
        fs::write(Path::new(&folder).join("created"), "")?;
        engine.remove(&spec.incarnation).await?;
    }
    Ok(())
}

/// Starts that test in a process of its own, and kills it as soon as this is true.
fn killed(folder: &Path, mut is_time: impl FnMut() -> bool) -> Result<(), Failure> {
    let mut adapter = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "restarts::sandboxes_come_and_go"])
        .env(KILLED_IN, folder)
        .stdout(std::process::Stdio::null())
        .spawn()?;
    while !is_time() {
        assert_eq!(adapter.try_wait()?, None);
        std::thread::yield_now();
    }
    adapter.kill()?;
    adapter.wait()?;
    Ok(())
}

#[tokio::test]
async fn sandbox_survives_the_death_of_the_adapter() -> Result<(), Failure> {
    // Killed between the two, most of the time.
    for _ in 0..DEATHS {
        let folder = tempfile::tempdir()?;
        let created = folder.path().join("created");
        killed(folder.path(), || created.exists())?;
        let machine = Machine::at(folder);
        let found = machine.engine().list().await?;
        if let Some(sandbox) = found.first().filter(|sandbox| sandbox.state == ContainerState::Running) {
            assert_eq!(machine.text(&sandbox.incarnation, "echo alive").await?, "alive");
            return remove_all(&machine).await;
        }
    }
    panic!("the adapter was never killed in time");
}

#[tokio::test]
async fn death_at_any_moment_leaves_only_what_is_listed() -> Result<(), Failure> {
    for death in 0..DEATHS {
        let folder = tempfile::tempdir()?;
        let run = folder.path().join("state/run");
        let is_begun = || fs::read_dir(&run).is_ok_and(|mut entries| entries.next().is_some());
        let mut begun = None;
        killed(folder.path(), || {
            let began = begun.or_else(|| is_begun().then(Instant::now));
            begun = began;
            began.is_some_and(|began| began.elapsed() >= STEP * death)
        })?;
        remove_all(&Machine::at(folder)).await?;
    }
    Ok(())
}
