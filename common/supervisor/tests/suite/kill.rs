//! Jobs end when a client ends them, with all of their processes.

use crate::rig::{Rig, end, line, processes, python, script, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;
use supervisor::{ClientError, End, RefusalCode, TIMEOUT_GRACE_MS};

const AT_ONCE: Duration = Duration::ZERO;
/// Enough for a shell to set its traps on a busy machine.
const TIME_MS: u64 = 3_000;

#[tokio::test]
async fn job_over_its_time_gets_sigterm() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let mut job = script("a", "trap 'echo asked; exit 0' TERM; while :; do read line; done");
    (job.timeout_ms, job.stdin) = (Some(TIME_MS), true);
    let mut attached = client.start(job).await.unwrap();
    line(&mut attached, "asked").await;
    let ended = end(&mut attached).await;
    assert_eq!(ended.end, End::TimedOut);
    assert!(ended.usage.wall_ms >= TIME_MS, "{ended:?}");
}

#[tokio::test]
async fn job_that_ignores_sigterm_is_killed_after_the_grace() {
    let rig = Rig::sandbox();
    let mut job = script("a", "trap '' TERM; sleep 8640002; sleep 8640002");
    job.timeout_ms = Some(TIME_MS);
    let outcome = within(rig.client().await.run(job, b"")).await.unwrap();
    assert_eq!(outcome.ended.end, End::TimedOut);
    assert!(outcome.ended.usage.wall_ms >= TIME_MS + TIMEOUT_GRACE_MS, "{outcome:?}");
    assert!(processes("sleep 8640002").is_empty());
}

#[tokio::test]
async fn kill_ends_daemons_and_what_ignores_signals() {
    for (rig, uid) in
        [(Rig::sandbox(), 1000), (Rig::plain(), 1000), (Rig::container(), 7), (Rig::user_namespace(), 0)]
    {
        let client = rig.client().await;
        let text = "trap '' TERM INT HUP; setsid sleep 8640003 & \
                    (setsid sh -c 'setsid sleep 8640003 & setsid sleep 8640003 &' &); echo ready; sleep 8640003";
        let mut job = script("a", text);
        job.uid = Some(uid);
        let mut attached = client.start(job).await.unwrap();
        line(&mut attached, "ready").await;
        client.kill(attached.id(), AT_ONCE).await.unwrap();
        let ended = end(&mut attached).await;
        assert_eq!(ended.end, End::Killed);
        assert_eq!(processes("sleep 8640003"), [0; 0]);
    }
}

#[tokio::test]
async fn kill_with_a_grace_lets_the_command_end_itself() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let job = script("a", "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.01; done");
    let mut attached = client.start(job).await.unwrap();
    line(&mut attached, "ready").await;
    client.kill(attached.id(), Duration::from_secs(30)).await.unwrap();
    line(&mut attached, "bye").await;
    let ended = end(&mut attached).await;
    assert_eq!(ended.end, End::Killed);
    assert!(ended.usage.wall_ms < 30_000);
    let error = client.kill(attached.id(), AT_ONCE).await;
    assert!(matches!(error, Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Ended));
}

#[tokio::test]
async fn fork_bomb_is_killed() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    // Processes that start others for ever and leave their parents; the limit counts those of this user.
    let bomb = "import os, resource, sys
resource.setrlimit(resource.RLIMIT_NPROC, (150, 150))
print('ready', flush=True)
main = os.getpid()
while True:
    try:
        if os.fork() == 0: os.setsid()
        elif os.getpid() % 3 == 0 and os.getpid() != main: os._exit(0)
    except OSError: pass
";
    let mut job = python("a", bomb);
    job.uid = Some(54_321);
    let mut attached = client.start(job).await.unwrap();
    line(&mut attached, "ready").await;
    crate::rig::until("the bomb has spread", || processes("RLIMIT_NPROC").len() > 100).await;
    client.kill(attached.id(), AT_ONCE).await.unwrap();
    let ended = end(&mut attached).await;
    assert_eq!(ended.end, End::Killed);
    assert_eq!(processes("RLIMIT_NPROC"), [0; 0]);
    let outcome = within(client.run(script("b", "echo alive"), b"")).await.unwrap();
    assert_eq!(outcome.stdout, b"alive\n");
}

#[tokio::test]
async fn process_that_is_never_the_same_is_killed() {
    for rig in [Rig::sandbox(), Rig::plain()] {
        let client = rig.client().await;
        // Each process starts the next one, in a session of its own, and ends.
        let text = r#"perl -MPOSIX -e 'while (1) {
            syswrite STDOUT, "ready\n" if $n++ == 50; # 8640009
            POSIX::_exit(0) if fork; POSIX::setsid()
        }' & sleep 8640009"#;
        let mut attached = client.start(script("a", text)).await.unwrap();
        line(&mut attached, "ready").await;
        client.kill(attached.id(), AT_ONCE).await.unwrap();
        let ended = end(&mut attached).await;
        assert_eq!(ended.end, End::Killed);
        assert_eq!(processes("8640009"), [0; 0]);
    }
}

#[tokio::test]
async fn signal_reaches_the_process_group() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let job = script("a", "trap 'echo got' USR1; echo ready; while :; do sleep 0.01; done");
    let mut attached = client.start(job).await.unwrap();
    line(&mut attached, "ready").await;
    client.signal(attached.id(), Signal::SIGUSR1 as u8).await.unwrap();
    line(&mut attached, "got").await;
    client.signal(attached.id(), Signal::SIGTERM as u8).await.unwrap();
    assert_eq!(end(&mut attached).await.end, End::Signalled(Signal::SIGTERM as i32));
    let error = client.signal(attached.id(), 64).await;
    assert!(matches!(error, Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Invalid));
}

#[tokio::test]
async fn orphans_are_reaped_while_their_job_runs() {
    let rig = Rig::sandbox();
    let text =
        "for i in $(seq 50); do (sleep 0 &); done; while ps -eo stat= | grep -q Z; do :; done; echo clean";
    let mut job = script("a", text);
    job.timeout_ms = Some(30_000);
    let outcome = within(rig.client().await.run(job, b"")).await.unwrap();
    assert_eq!((outcome.ended.end, outcome.stdout), (End::Exited(0), b"clean\n".to_vec()));
    let left = within(rig.client().await.run(script("b", "ps -eo stat=,args="), b"")).await.unwrap();
    let left = String::from_utf8(left.stdout).unwrap();
    let is_ours = |line: &&str| line.ends_with("/supervisor") || line.contains("/proc/self/exe");
    // The shell and ps.
    assert!(left.lines().filter(|line| !is_ours(line)).count() <= 2, "{left}");
}

#[tokio::test]
async fn sigterm_ends_all_jobs_and_the_supervisor() {
    for mut rig in [Rig::sandbox(), Rig::plain()] {
        let client = rig.client().await;
        let polite = script("a", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
        let mut polite = client.start(polite).await.unwrap();
        let mut rude = client.start(script("b", "trap '' TERM; echo ready; sleep 8640004")).await.unwrap();
        line(&mut polite, "ready").await;
        line(&mut rude, "ready").await;
        kill(Pid::from_raw(rig.pid().try_into().unwrap()), Signal::SIGTERM).unwrap();
        line(&mut polite, "bye").await;
        assert_eq!(end(&mut polite).await.end, End::Killed);
        assert_eq!(end(&mut rude).await.end, End::Killed);
        let status = rig.ended().await;
        assert_eq!((status.code(), status.signal()), (Some(0), None));
        assert!(processes("sleep 8640004").is_empty());
        assert!(matches!(client.list().await, Err(ClientError::Closed)));
    }
}

#[tokio::test]
async fn jobs_end_with_a_supervisor_that_is_killed() {
    for mut rig in [Rig::sandbox(), Rig::plain()] {
        let client = rig.client().await;
        let mut attached =
            client.start(script("a", "setsid sleep 8640005 & echo ready; wait")).await.unwrap();
        line(&mut attached, "ready").await;
        kill(Pid::from_raw(rig.pid().try_into().unwrap()), Signal::SIGKILL).unwrap();
        rig.ended().await;
        crate::rig::until("the job is gone", || processes("sleep 8640005").is_empty()).await;
    }
}
