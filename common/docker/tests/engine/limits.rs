//! Limits as a sandbox meets them.

use crate::machine::Machine;
use ports::engine::{ContainerSpec, Feature, Workspace};
use std::time::{Duration, Instant};
use supervisor::End;
use testkit::engine::suite::{Failure, Subject as _};

const MIB: u64 = 1024 * 1024;
/// The user of commands.
const USER: u32 = ContainerSpec::USER_DEFAULT;
/// What the supervisor needs besides the processes of commands.
const OWN_PIDS: u64 = 3;

#[tokio::test]
async fn processes_are_limited() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|spec| spec.limits.pids = 16).await?;
    let script = "for i in $(seq 40); do sleep 60 & done; echo started";
    let outcome = machine.sh_as(USER, &id, script).await?;
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("can't fork"), "{outcome:?}");
    // The supervisor still works.
    machine.text(&id, "true").await?;
    let pids = machine.engine().usage(&id).await?.pids;
    assert!(pids.is_some_and(|pids| pids <= 16 + OWN_PIDS), "{pids:?}");
    Ok(())
}

#[tokio::test]
async fn memory_is_limited() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|spec| spec.limits.memory_bytes = 48 * MIB).await?;
    assert_eq!(machine.engine().usage(&id).await?.oom_kills, Some(0));
    let outcome = machine.sh_as(USER, &id, "tail /dev/zero; echo the shell survives").await?;
    assert_eq!(
        (outcome.stdout.as_slice(), &outcome.ended.end),
        (&b"the shell survives\n"[..], &End::Exited(0))
    );
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("Killed"), "{outcome:?}");
    let usage = machine.engine().usage(&id).await?;
    assert!(usage.oom_kills.is_some_and(|kills| kills >= 1), "{usage:?}");
    assert!(usage.memory_peak_bytes.is_some_and(|peak| peak <= 48 * MIB), "{usage:?}");
    machine.text(&id, "true").await?;
    Ok(())
}

#[tokio::test]
async fn files_in_memory_count_as_memory() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let change = |spec: &mut ContainerSpec| {
        (spec.limits.memory_bytes, spec.limits.disk_bytes) = (32 * MIB, 256 * MIB);
    };
    let id = machine.create(change).await?;
    let outcome = machine.sh_as(USER, &id, "dd if=/dev/zero of=/workspace/x bs=1M count=100").await?;
    assert_ne!(outcome.ended.end, End::Exited(0), "{outcome:?}");
    let usage = machine.engine().usage(&id).await?;
    assert!(usage.memory_peak_bytes.is_some_and(|peak| peak > 24 * MIB && peak <= 32 * MIB), "{usage:?}");
    Ok(())
}

#[tokio::test]
async fn processor_time_is_limited() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|spec| spec.limits.cpu_milli = 100).await?;
    let began = Instant::now();
    let before = machine.engine().usage(&id).await?.cpu.unwrap();
    machine.sh_as(USER, &id, "timeout 2 sh -c 'while :; do :; done'").await?;
    let used = machine.engine().usage(&id).await?.cpu.unwrap() - before;
    // Each period may exceed the quota a little.
    let allowed = began.elapsed() / 10 * 2;
    assert!(used < allowed && used > Duration::from_millis(20), "used {used:?}, allowed {allowed:?}");
    Ok(())
}

#[tokio::test]
async fn sizes_are_limited() -> Result<(), Failure> {
    let machine = Machine::new().await;
    for workspace in [Workspace::Memory, Workspace::Disk] {
        let change = |spec: &mut ContainerSpec| {
            spec.workspace = workspace;
            spec.limits.file_bytes = 2 * MIB;
            (spec.limits.tmp_bytes, spec.limits.disk_bytes) = (3 * MIB, 5 * MIB);
        };
        let id = machine.create(change).await?;
        let written = |user: u32, folder: &'static str| {
            let script = format!(
                "for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of={folder}/$i bs=64k count=48 2>/dev/null; done; \
                 cat {folder}/1 | wc -c; cat {folder}/? | wc -c"
            );
            let machine = &machine;
            async move {
                let text = machine.text_as(user, &id, &script).await?;
                Ok::<_, Failure>(text.lines().map(|line| line.parse::<u64>()).collect::<Result<Vec<_>, _>>()?)
            }
        };
        assert_eq!(written(USER, "/tmp").await?, [2 * MIB, 3 * MIB]);
        assert_eq!(written(USER, "/dev/shm").await?, [2 * MIB, 3 * MIB]);
        assert_eq!(written(0, "/run").await?, [2 * MIB, 3 * MIB]);
        match workspace {
            Workspace::Memory => assert_eq!(written(USER, "/workspace").await?, [2 * MIB, 5 * MIB]),
            Workspace::Disk => {
                // Only each file is limited, which the engine reports.
                assert_eq!(written(USER, "/workspace").await?, [2 * MIB, 18 * MIB]);
                assert!(machine.engine().info().why_not(Feature::DiskLimit).is_some());
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn open_files_are_limited() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|spec| spec.limits.files = 2_000).await?;
    assert_eq!(machine.text(&id, "ulimit -Hn; ulimit -c").await?, "2000\n0");
    Ok(())
}
