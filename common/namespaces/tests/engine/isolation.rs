//! What a sandbox sees, and what it may write to.

use crate::machine::Machine;
use ports::engine::Image;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use testkit::engine::suite::{Failure, assert_nothing_left};

/// What a sandbox must not find, besides the adapter's own folder.
const HIDDEN: [&str; 9] =
    ["/etc/shadow", "/etc/hostname", "/root", "/home", "/var", "/sys", "/boot", "/opt", "/mnt"];
/// Where even root inside cannot write.
const READ_ONLY: [&str; 7] = ["/", "/usr", "/usr/bin", "/etc", "/bin", "/dev", "/proc/sys/kernel"];

#[tokio::test]
async fn processes_of_the_machine_are_hidden() -> Result<(), Failure> {
    let machine = Machine::new();
    let (id, other) = (machine.create(|_| {}).await?, machine.create(|_| {}).await?);
    let text = machine.text(&id, "cd /proc; echo $$ $(ls -d [0-9]*); cat 1/comm").await?;
    let (numbers, name) = text.split_once('\n').unwrap();
    let numbers: Vec<i32> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
    assert!(name == "supervisor" && numbers.iter().all(|number| *number < 20), "{text}");
    assert!(!numbers.contains(&machine.pid(&other)));
    Ok(())
}

#[tokio::test]
async fn files_of_the_machine_are_hidden() -> Result<(), Failure> {
    let machine = Machine::new();
    for user in [1_000, 0] {
        let id = machine.create(|spec| spec.user = user).await?;
        let state = machine.state().to_string_lossy();
        for path in HIDDEN.into_iter().chain([&*state]) {
            machine.text(&id, &format!("! test -e {path}")).await?;
        }
        let users = machine.text(&id, "cut -d: -f1 /etc/passwd").await?;
        assert_eq!(users.lines().any(|name| name == "sandbox"), user != 0, "{users}");
        let top = machine.text(&id, "ls /").await?;
        for name in top.split_whitespace() {
            let known = ["bin", "dev", "etc", "proc", "run", "sbin", "tmp", "usr", "workspace"];
            assert!(known.contains(&name) || name.starts_with("lib"), "{name} is visible");
        }
    }
    Ok(())
}

#[tokio::test]
async fn workspaces_of_others_are_hidden() -> Result<(), Failure> {
    let machine = Machine::new();
    let (id, other) = (machine.create(|_| {}).await?, machine.create(|_| {}).await?);
    machine.text(&other, "echo secret >/workspace/of-another; echo secret >/tmp/of-another").await?;
    machine.text(&id, "echo own >/workspace/own").await?;
    assert_eq!(
        machine.text(&id, "find / -name of-another -o -name own 2>/dev/null || true").await?,
        "/workspace/own"
    );
    Ok(())
}

#[tokio::test]
async fn network_is_only_loopback() -> Result<(), Failure> {
    let machine = Machine::new();
    let id = machine.create(|_| {}).await?;
    let open = TcpListener::bind("127.0.0.1:0")?;
    let port = open.local_addr()?.port();
    let name = machine.folder().to_string_lossy().into_owned();
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    assert!(std::fs::read_to_string("/proc/net/unix")?.contains(&name));
    let interfaces = machine.interfaces(&id).await?;
    assert_eq!(interfaces, "lo");
    let sockets = machine.text(&id, "cat /proc/net/unix").await?;
    assert!(!sockets.contains(&name), "{sockets}");
    let outcome = machine.sh(&id, &format!("bash -c ': </dev/tcp/127.0.0.1/{port}'")).await?;
    assert_eq!(outcome.ended.end, supervisor::End::Exited(1), "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn only_workspace_and_memory_can_be_written() -> Result<(), Failure> {
    let machine = Machine::new();
    for user in [1_000, 0] {
        let id = machine.create(|spec| spec.user = user).await?;
        for folder in READ_ONLY {
            machine.text(&id, &format!("! touch {folder}/written-by-a-test 2>/dev/null")).await?;
        }
        for folder in ["/workspace", "/tmp", "/dev/shm"] {
            machine.text(&id, &format!("touch {folder}/x && test -O {folder}/x")).await?;
        }
        machine.text(&id, "echo hello >/dev/null && head -c 4 /dev/urandom | wc -c").await?;
    }
    Ok(())
}

#[tokio::test]
async fn commands_have_no_rights() -> Result<(), Failure> {
    let machine = Machine::new();
    for user in [1_000, 0] {
        let id = machine.create(|spec| spec.user = user).await?;
        let status = machine.text(&id, "cat /proc/self/status").await?;
        for line in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert!(status.contains(&format!("{line}\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
        assert_eq!(machine.text(&id, "hostname; ls /proc/self/fd | wc -l").await?, "s-1\n4");
        for forbidden in
            ["mount -t tmpfs x /tmp", "unshare -U true", "mknod /tmp/x b 7 0", "cat /proc/1/environ"]
        {
            machine.text(&id, &format!("! {forbidden} 2>/dev/null")).await?;
        }
        // The kernel keeps process 1 from signals of its own namespace.
        machine.sh(&id, "kill -9 1").await?;
        machine.text(&id, "true").await?;
    }
    Ok(())
}

#[tokio::test]
async fn processes_of_the_machine_cannot_be_signalled() -> Result<(), Failure> {
    let machine = Machine::new();
    let id = machine.create(|spec| spec.user = 0).await?;
    let mut victim = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
    machine.text(&id, &format!("! kill -9 {} 2>/dev/null", victim.id())).await?;
    machine.sh(&id, "kill -9 -1").await?;
    assert_eq!(victim.try_wait()?, None);
    victim.kill()?;
    victim.wait()?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_supported_is_refused() -> Result<(), Failure> {
    use ports::engine::EngineError;
    let machine = Machine::new();
    for refused in [
        (|spec| spec.image = Image::Reference("debian".to_owned())) as fn(&mut ports::engine::ContainerSpec),
        |spec| spec.read_only_root = false,
        |spec| spec.limits.files = u64::MAX,
        |spec| spec.image = Image::Folder("/nonexistent".into()),
    ] {
        let error = machine.create(refused).await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(EngineError::Refused { .. })), "{error:?}");
    }
    assert_nothing_left(&machine).await;
    Ok(())
}
