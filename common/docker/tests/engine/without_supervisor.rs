//! Containers whose process 1 is that of the image or the template: the engine itself runs their commands.

use crate::machine::{IMAGE, Machine, TIMEOUT, name};
use ports::engine::{ContainerSpec, ContainerState, EngineError, Image, Incarnation, PublishedPort};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use supervisor::{Client, End, Job, JobEvent, Outcome};
use testkit::engine::suite::{Failure, Subject as _, fresh_job, remove_all, run_job};

/// A container that sleeps.
async fn sleeping(machine: &Machine) -> Result<Incarnation, Failure> {
    machine.create(|spec| spec.first = Some(["sleep", "100000"].map(str::to_owned).to_vec())).await
}

fn job(script: &str) -> Result<Job, Failure> {
    Ok(Job::new(fresh_job()?, ["sh", "-c", script]))
}

async fn run(machine: &Machine, id: &Incarnation, job: Job) -> Result<Outcome, Failure> {
    run_job(machine.engine().as_ref(), id, job).await
}

/// Waits until no process of a container has this in its command line.
async fn ends(machine: &Machine, id: &Incarnation, word: &str) {
    let deadline = Instant::now() + TIMEOUT;
    while machine.docker(&["top", &name(id)]).contains(word) {
        assert!(Instant::now() < deadline, "{word} runs");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_run_by_the_engine() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = sleeping(&machine).await?;
    let mut asked = job("echo $A $(id -u) $(pwd); echo wrong >&2; exit 3")?;
    asked.env = [("A".to_owned(), "1 2".to_owned())].into();
    (asked.uid, asked.cwd) = (Some(7), Some("/workspace".to_owned()));
    let outcome = run(&machine, &id, asked).await?;
    assert_eq!(outcome.ended.end, End::Exited(3));
    assert_eq!(
        (outcome.stdout.as_slice(), outcome.stderr.as_slice()),
        (&b"1 2 7 /workspace\n"[..], &b"wrong\n"[..])
    );
    let missing = run(&machine, &id, Job::new(fresh_job()?, ["/no/such/program"])).await?;
    assert!(
        matches!(&missing.ended.end, End::FailedToStart(reason) if reason.contains("exec")),
        "{missing:?}"
    );
    let killed = run(&machine, &id, job("kill -9 $$")?).await?;
    assert_eq!(killed.ended.end, End::Signalled(9));
    // More than a window, and than a connection holds.
    let client = Client::connect(machine.engine().connect(&id).await?).await?;
    let bytes: Vec<u8> = (0..600_000_u32).map(|number| (number % 251) as u8).collect();
    let echoed = client.run(Job::new(fresh_job()?, ["cat"]), &bytes).await?;
    assert!(echoed.stdout == bytes && echoed.ended.end == End::Exited(0), "{} bytes", echoed.stdout.len());
    // What it leaves behind holds its output, and goes on.
    let left = tokio::time::timeout(TIMEOUT, run(&machine, &id, job("sleep 66666 & echo said")?)).await??;
    assert_eq!((left.ended.end, left.stdout.as_slice()), (End::Exited(0), &b"said\n"[..]));
    assert!(machine.docker(&["top", &name(&id)]).contains("66666"));
    let mut short = job("seq 100000")?;
    short.output_max_bytes = 10;
    let outcome = run(&machine, &id, short).await?;
    assert_eq!((outcome.stdout.as_slice(), outcome.ended.truncated), (&b"1\n2\n3\n4\n5\n"[..], true));
    assert!(outcome.ended.written.stdout > 500_000, "{outcome:?}");
    remove_all(&machine).await
}

/// Neither a command that does not read its input nor one that writes first is in the way of what its client asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_and_output_wait_for_themselves_only() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = sleeping(&machine).await?;
    let client = Client::connect(machine.engine().connect(&id).await?).await?;
    let bytes = vec![b'x'; 1_000_000];
    let mut deaf = job("exec sleep 44444")?;
    deaf.timeout_ms = Some(300);
    let ended = tokio::time::timeout(TIMEOUT, client.run(deaf, &bytes)).await?;
    assert_eq!(ended?.ended.end, End::TimedOut);
    let first = job("head -c 1000000 /dev/zero; cat | wc -c >&2")?;
    let ended = tokio::time::timeout(TIMEOUT, client.run(first, &bytes)).await??;
    assert_eq!((ended.stdout.len(), ended.stderr.as_slice()), (1_000_000, &b"1000000\n"[..]));
    // The command handled the signal; its status counts.
    let handled = job("trap 'exit 4' USR1; echo begun; while :; do sleep 0.1; done")?;
    let handled_id = handled.id.clone();
    let mut attached = client.start(handled).await?;
    assert!(matches!(attached.next().await?, Some(JobEvent::Output(_))));
    client.signal(&handled_id, 10).await?;
    let Some(JobEvent::Ended(ended)) = attached.next().await? else { panic!("it ends") };
    assert_eq!(ended.end, End::Exited(4));
    remove_all(&machine).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_ended_from_outside() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = sleeping(&machine).await?;
    let mut late = job("trap '' TERM; sleep 11111 & sleep 11111")?;
    late.timeout_ms = Some(200);
    assert_eq!(run(&machine, &id, late).await?.ended.end, End::TimedOut);
    ends(&machine, &id, "11111").await;
    // What its first process leaves behind when it obeys ends too.
    let mut late = job("sleep 55555 & sleep 55555; true")?;
    late.timeout_ms = Some(200);
    assert_eq!(run(&machine, &id, late).await?.ended.end, End::TimedOut);
    ends(&machine, &id, "55555").await;

    let client = Client::connect(machine.engine().connect(&id).await?).await?;
    for (expected, signal) in [(End::Killed, None), (End::Signalled(15), Some(15))] {
        let asked = job("echo begun; exec sleep 22222")?;
        let job_id = asked.id.clone();
        let mut attached = client.start(asked).await?;
        assert!(matches!(attached.next().await?, Some(JobEvent::Output(_))));
        match signal {
            Some(signal) => client.signal(&job_id, signal).await?,
            None => client.kill(&job_id, Duration::ZERO).await?,
        }
        let Some(JobEvent::Ended(ended)) = attached.next().await? else { panic!("it ends") };
        assert_eq!(ended.end, expected);
        ends(&machine, &id, "22222").await;
    }
    // It goes on without its client, and ends with its container.
    let asked = job("echo begun; exec sleep 33333")?;
    let mut attached = client.start(asked).await?;
    assert!(matches!(attached.next().await?, Some(JobEvent::Output(_))));
    drop((attached, client));
    assert!(machine.docker(&["top", &name(&id)]).contains("33333"));
    remove_all(&machine).await
}

#[tokio::test]
async fn image_runs_without_supervisor() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine
        .create(|spec| {
            spec.image = Image::Reference("nginx:alpine".to_owned());
            spec.first = Some(Vec::new());
            spec.ports = vec![PublishedPort { inside: 80, outside: None }];
        })
        .await?;
    let listed = machine.listed(&id).await.unwrap();
    assert_eq!(listed.state, ContainerState::Running);
    let get = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(listed.endpoints[0].address)?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let deadline = Instant::now() + TIMEOUT;
    while !get().is_ok_and(|text| text.ends_with("test image of nginx\n")) {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    // Its rights are those of commands.
    let status = std::fs::read_to_string(format!("/proc/{}/status", machine.pid(&id)))?;
    for line in [
        "Uid:\t1000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{status}");
    }
    assert!(machine.engine().usage(&id).await?.memory_bytes.is_some());
    let version = run(&machine, &id, job("echo $NGINX_VERSION")?).await?;
    assert_ne!(version.stdout, b"\n", "commands have the environment of the image");
    machine.engine().stop(&id).await?;
    machine.settles(&id, ContainerState::Stopped).await;
    machine.engine().start(&id).await?;
    machine.settles(&id, ContainerState::Running).await;
    remove_all(&machine).await
}

#[tokio::test]
async fn command_runs_without_supervisor() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let script = "echo $WORD $(id -u) >/workspace/x; echo written; exec sleep 600";
    let with = |words: &[&str]| {
        let first = words.iter().map(|word| (*word).to_owned()).collect();
        move |spec: &mut ContainerSpec| {
            spec.first = Some(first);
            spec.env.insert("WORD".to_owned(), "two words".to_owned());
        }
    };
    let id = machine.create(with(&["sh", "-c", script])).await?;
    let deadline = Instant::now() + TIMEOUT;
    while machine.docker(&["logs", &name(&id)]) != "written" {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert_eq!(std::fs::read_to_string(machine.folder_of(&id).join("workspace/x"))?, "two words 1000\n");
    // One that ends at once was started nevertheless, and one that cannot start was not.
    let ended = machine.create(with(&["true"])).await?;
    machine.settles(&ended, ContainerState::Exited).await;
    let missing = machine.create(with(&["/no/such/program"])).await.unwrap_err();
    assert!(
        matches!(missing.downcast_ref(), Some(EngineError::Failed { .. } | EngineError::Refused { .. })),
        "{missing:?}"
    );
    assert_eq!(machine.engine().list().await?.len(), 2);
    assert_eq!(machine.docker(&["inspect", "--format", "{{.Config.Image}}", &name(&id)]), IMAGE);
    remove_all(&machine).await
}
