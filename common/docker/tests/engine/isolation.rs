//! What a sandbox sees, and what it may write to.

use crate::machine::{Machine, variable};
use ports::engine::{ContainerSpec, Image};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};
use supervisor::End;
use testkit::engine::suite::Failure;

/// Commands run as the default user, or as root inside.
const USERS: [u32; 2] = [ContainerSpec::USER_DEFAULT, 0];
/// What the image has in its root folder, and what the engine adds.
const TOP: [&str; 15] = [
    ".dockerenv",
    "TEST-IMAGE",
    "bin",
    "dev",
    "etc",
    "home",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "usr",
    "var",
    "workspace",
];
/// Where something is mounted, besides folders below `/proc` and `/sys` that the engine hides.
const MOUNTS: [&str; 15] = [
    "/",
    "/dev",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc",
    "/run",
    "/run/control",
    "/run/supervisor",
    "/sys",
    "/tmp",
    "/workspace",
];
/// Where even root inside cannot write.
const READ_ONLY: [&str; 11] = [
    "/",
    "/bin",
    "/etc",
    "/home/user",
    "/proc/sys/kernel",
    "/root",
    "/run/control",
    "/sys",
    "/sys/fs/cgroup",
    "/usr",
    "/var/tmp",
];
/// Files that even root inside cannot change.
const READ_ONLY_FILES: [&str; 6] = [
    "/bin/busybox",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc/sysrq-trigger",
    "/run/supervisor",
];

#[tokio::test]
async fn commands_have_no_rights() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|_| {}).await?;
    for user in USERS {
        let status = machine.text_as(user, &id, "cat /proc/self/status").await?;
        for line in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert!(status.contains(&format!("{line}\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
        assert_eq!(
            machine.text_as(user, &id, "hostname; id -u; id -g; ls /proc/self/fd | wc -l").await?,
            format!("s-1\n{user}\n{user}\n4")
        );
        for forbidden in [
            "mount -t tmpfs x /tmp",
            "mount -o remount,rw /",
            "umount /run/supervisor",
            "unshare -U true",
            "unshare -n true",
            "mknod /tmp/x b 7 0",
            "cat /proc/1/environ",
            "chroot / true",
            "hostname other",
            "nice -n -5 true && renice -n -5 -p $$",
        ] {
            machine.text_as(user, &id, &format!("! ({forbidden}) 2>/dev/null")).await?;
        }
        // The kernel keeps process 1 from signals of its own namespace.
        machine.sh_as(user, &id, "kill -9 1").await?;
        machine.sh_as(user, &id, "kill -9 -1").await?;
        machine.text_as(user, &id, "true").await?;
    }
    Ok(())
}

#[tokio::test]
async fn processes_of_the_machine_are_hidden() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let (id, other) = (machine.create(|_| {}).await?, machine.create(|_| {}).await?);
    let mut victim = Command::new("cat").stdin(Stdio::piped()).spawn()?;
    for user in USERS {
        let text = machine.text_as(user, &id, "cd /proc; echo $$ $(ls -d [0-9]*); cat 1/comm").await?;
        let (numbers, name) = text.split_once('\n').unwrap();
        let numbers: Vec<i32> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
        assert!(name == "supervisor" && numbers.iter().all(|number| *number < 30), "{text}");
        for pid in [machine.pid(&other).to_string(), victim.id().to_string()] {
            machine.text_as(user, &id, &format!("! kill -9 {pid} 2>/dev/null")).await?;
        }
    }
    assert_eq!(victim.try_wait()?, None);
    victim.kill()?;
    victim.wait()?;
    machine.text(&other, "true").await?;
    Ok(())
}

#[tokio::test]
async fn files_of_the_machine_are_hidden() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|_| {}).await?;
    let images = variable("TEST_DOCKER_IMAGES").into_string().unwrap();
    let (state, socket) = (machine.config().state.display(), machine.config().socket.display());
    for user in USERS {
        for path in [&state.to_string(), &socket.to_string(), &images, "/run/docker.sock", "/etc/shadow"] {
            machine.text_as(user, &id, &format!("! test -e {path}")).await?;
        }
        let top = machine.text_as(user, &id, "ls -A /").await?;
        assert_eq!(top.lines().find(|name| !TOP.contains(name)), None, "{top}");
        let mounts = machine.text_as(user, &id, "cut -d ' ' -f 5 /proc/self/mountinfo").await?;
        let is_known =
            |path: &&str| MOUNTS.contains(path) || path.starts_with("/proc/") || path.starts_with("/sys/");
        assert!(mounts.lines().all(|path| is_known(&path)), "{mounts}");
    }
    Ok(())
}

#[tokio::test]
async fn workspaces_of_others_are_hidden() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let (id, other) = (machine.create(|_| {}).await?, machine.create(|_| {}).await?);
    machine.text(&other, "echo secret >/workspace/of-another; echo secret >/tmp/of-another").await?;
    machine.text(&id, "echo own >/workspace/own").await?;
    let find = "find / -path /proc -prune -o -path /sys -prune -o -name 'of-another' -print -o -name own -print 2>/dev/null || true";
    assert_eq!(machine.text(&id, find).await?, "/workspace/own");
    Ok(())
}

#[tokio::test]
async fn network_is_only_loopback() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|_| {}).await?;
    let open = TcpListener::bind("127.0.0.1:0")?;
    let port = open.local_addr()?.port();
    let name = machine.folder().to_string_lossy().into_owned();
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    assert!(std::fs::read_to_string("/proc/net/unix")?.contains(&name));
    assert_eq!(machine.text(&id, "ls /sys/class/net").await?, "lo");
    let sockets = machine.text(&id, "cat /proc/net/unix").await?;
    assert!(!sockets.contains(&name), "{sockets}");
    let outcome = machine.sh_as(0, &id, &format!("nc -w 2 127.0.0.1 {port} </dev/null")).await?;
    assert_eq!(outcome.ended.end, End::Exited(1), "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn only_workspace_and_memory_can_be_written() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|_| {}).await?;
    for user in USERS {
        for folder in READ_ONLY {
            machine.text_as(user, &id, &format!("! touch {folder}/written-by-a-test 2>/dev/null")).await?;
        }
        for file in READ_ONLY_FILES {
            machine.text_as(user, &id, &format!("! (echo x >>{file}) 2>/dev/null")).await?;
        }
        for folder in ["/tmp", "/dev/shm"] {
            machine.text_as(user, &id, &format!("touch {folder}/{user} && test -O {folder}/{user}")).await?;
        }
        machine.text_as(user, &id, "echo hello >/dev/null && head -c 4 /dev/urandom | wc -c").await?;
    }
    machine
        .text(&id, "touch /workspace/x && ! touch /run/x 2>/dev/null && ! touch /dev/x 2>/dev/null")
        .await?;
    // Without capabilities root has no more rights to the files of others than they give.
    machine.text_as(0, &id, "! touch /workspace/y 2>/dev/null").await?;
    Ok(())
}

#[tokio::test]
async fn environment_of_the_image_reaches_commands() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let python = Image::Reference("python:3.11-slim".to_owned());
    let id = machine.create(|spec| spec.image = python).await?;
    let text = machine.text(&id, "echo $PATH $LANG $PYTHON_VERSION; python3").await?;
    let path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(text, format!("{path} C.UTF-8 3.11.0\npython stand-in"));
    Ok(())
}
