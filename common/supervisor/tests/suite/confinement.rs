//! What jobs may not do, as the default user and as root.

use crate::rig::{Rig, end, line, processes, python, script, within};
use supervisor::{End, Job};

const USERS: [u32; 2] = [1000, 0];

async fn output(rig: &Rig, mut job: Job, uid: u32) -> String {
    job.uid = Some(uid);
    let outcome = within(rig.client().await.run(job, b"")).await.unwrap();
    String::from_utf8_lossy(&[outcome.stdout, outcome.stderr].concat()).into_owned()
}

#[tokio::test]
async fn job_has_no_capability_and_cannot_get_one() {
    let all = [Rig::sandbox(), Rig::container(), Rig::plain()].map(|rig| (rig, USERS.as_slice()));
    for (rig, users) in all.into_iter().chain([(Rig::user_namespace(), [0].as_slice())]) {
        for uid in users.iter().copied() {
            let status = output(&rig, script("a", "cat /proc/self/status"), uid).await;
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
                line.split_whitespace().nth(1).unwrap_or_default().to_owned()
            };
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(set), "0000000000000000", "{set} of {uid}");
            }
            assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
            assert_eq!(field("SigBlk"), "0000000000000000", "signals reach it");
        }
    }
}

#[tokio::test]
async fn forbidden_calls_fail() {
    let rig = Rig::sandbox();
    let program = "import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(number, *[ctypes.c_long(arg) for arg in args])
    print(name, errno.errorcode.get(ctypes.get_errno(), result))
call('mount', 165, 0, 0, 0, 0, 0)
call('umount2', 166, 0, 0)
call('unshare', 272, 0x10000000)
call('setns', 308, 0, 0)
call('clone-newuser', 56, 0x10000011, 0, 0, 0, 0)
call('clone-newnet', 56, 0x40000011, 0, 0, 0, 0)
call('clone3', 435, 0, 0)
call('ptrace', 101, 16, 1, 0, 0)
call('process_vm_readv', 310, 1, 0, 0, 0, 0, 0)
call('bpf', 321, 0, 0, 0)
call('keyctl', 250, 0, 0, 0, 0, 0)
call('userfaultfd', 323, 0)
call('io_uring_setup', 425, 1, 0)
call('x32-unshare', 0x40000000 + 272, 0x10000000)
call('x32-ptrace', 0x40000000 + 521, 16, 1, 0, 0)
call('getpid', 39)
";
    for uid in USERS {
        let found = output(&rig, python("a", program), uid).await;
        for line in found.lines() {
            let (name, error) = line.split_once(' ').unwrap();
            match name {
                "clone3" | "io_uring_setup" => assert_eq!(error, "ENOSYS", "{name}"),
                "getpid" => assert!(error.parse::<u32>().is_ok(), "{error}"),
                _ => assert_eq!(error, "EPERM", "{name}"),
            }
        }
        assert_eq!(found.lines().count(), 16, "{found}");
    }
}

#[tokio::test]
async fn threads_and_processes_work() {
    let program = "import subprocess, threading
thread = threading.Thread(target=lambda: print('thread', flush=True)); thread.start(); thread.join()
print(subprocess.run(['echo', 'process'], capture_output=True, text=True).stdout, end='')";
    assert_eq!(output(&Rig::sandbox(), python("a", program), 1000).await, "thread\nprocess\n");
}

#[tokio::test]
async fn job_cannot_touch_the_supervisor() {
    let rig = Rig::sandbox();
    for uid in USERS {
        let text = "kill -TERM 1; kill -KILL 1; kill -STOP 1; kill -TERM $PPID
                    for file in environ mem maps fd/0 exe; do cat /proc/1/$file >/dev/null && echo leaked $file; done
                    ls /proc/1/fd; ls /proc/1/cwd/; ls /proc/$PPID/fd";
        let found = output(&rig, script("a", text), uid).await;
        assert!(!found.contains("leaked"), "{found}");
        assert!(!found.contains("socket"), "{found}");
    }
    assert_eq!(output(&rig, script("b", "echo alive"), 1000).await, "alive\n");
}

#[tokio::test]
async fn job_whose_keeper_is_killed_has_crashed_and_leaves_nothing() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let mut victim = script("victim", "setsid sleep 8640008 & echo ready; sleep 8640008");
    // Only root can do it, and root inside of a sandbox can do no worse.
    victim.uid = Some(0);
    let mut victim = client.start(victim).await.unwrap();
    line(&mut victim, "ready").await;
    let text =
        "for keeper in $(pgrep -f '^/proc/self/exe job'); do [ $keeper = $PPID ] || kill -9 $keeper; done";
    output(&rig, script("killer", text), 0).await;
    let ended = end(&mut victim).await;
    assert!(matches!(ended.end, End::Crashed(_)), "{ended:?}");
    crate::rig::until("nothing is left", || processes("sleep 8640008").is_empty()).await;
    assert_eq!(output(&rig, script("b", "echo alive"), 1000).await, "alive\n");
}
