//! The time of a short job over a connection that exists.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run has to panic")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use supervisor::{Client, End, Job, JobId};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 500, sample_size = 1)]
fn run_true(bencher: divan::Bencher<'_, '_>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_supervisor"));
    let mut supervisor = command.stdin(OwnedFd::from(listener)).spawn().expect("a supervisor");
    let runtime = Runtime::new().expect("a runtime");
    let client = runtime.block_on(async {
        Client::connect(UnixStream::connect(&path).await.expect("a connection")).await.expect("a client")
    });
    let job = Job::new(JobId::parse("true").expect("an id"), ["/bin/true"]);
    bencher.bench_local(|| {
        let outcome = runtime.block_on(client.run(job.clone(), b"")).expect("an outcome");
        assert_eq!(outcome.ended.end, End::Exited(0));
    });
    supervisor.kill().expect("it runs");
    supervisor.wait().expect("it ends");
}
