//! Output and results outlive connections, and a client that does not read holds up no other.

use crate::rig::{Rig, end, line, script, within};
use std::time::Duration;
use supervisor::frames::{CHUNK_BYTES_MAX, write_message};
use supervisor::{
    Attached, Call, Client, ClientError, End, Job, JobEvent, JobId, Offsets, RefusalCode, Request, Stream,
    VERSION_MAX,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn refusal<T>(result: Result<T, ClientError>) -> RefusalCode {
    match result {
        Err(ClientError::Refused(refusal)) => refusal.code,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

/// What a client has got so far.
#[derive(Default)]
struct Got {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Got {
    fn offsets(&self) -> Offsets {
        Offsets { stdout: self.stdout.len() as u64, stderr: self.stderr.len() as u64 }
    }

    /// Takes events until there are this many bytes of standard output, or the end.
    async fn take(&mut self, attached: &mut Attached, bytes: usize) {
        within(async {
            while self.stdout.len() < bytes {
                let Some(JobEvent::Output(chunk)) = attached.next().await.unwrap() else { return };
                let stream = if chunk.stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
                assert_eq!(chunk.offset, stream.len() as u64, "neither a gap nor a duplicate");
                stream.extend(chunk.bytes);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn another_client_continues_where_one_died() {
    let rig = Rig::sandbox();
    let mut job = script("a", "seq 300000 & seq 100000 >&2; wait");
    job.output_max_bytes = 4 * 1024 * 1024;
    let mut got = Got::default();
    let mut attached = rig.client().await.start(job).await.unwrap();
    let id = attached.id().clone();
    for bytes in [1, 50_000, 700_000, usize::MAX] {
        got.take(&mut attached, bytes).await;
        drop(attached);
        let client = rig.client().await;
        assert_eq!(client.list().await.unwrap().iter().map(|job| &job.id).collect::<Vec<_>>(), [&id]);
        attached = client.attach(&id, got.offsets()).await.unwrap().1;
    }
    let numbers =
        |until: u32| (1..=until).map(|number| format!("{number}\n")).collect::<String>().into_bytes();
    assert!(got.stdout == numbers(300_000), "{} bytes", got.stdout.len());
    assert!(got.stderr == numbers(100_000), "{} bytes", got.stderr.len());
    assert_eq!(end(&mut attached).await.end, End::Exited(0));
}

#[tokio::test]
async fn result_is_kept_until_it_is_acknowledged() {
    let rig = Rig::sandbox();
    let mut attached = rig.client().await.start(script("a", "echo kept; exit 7")).await.unwrap();
    let ended = end(&mut attached).await;
    let client = rig.client().await;
    for _ in 0..2 {
        let (state, mut again) = client.attach(attached.id(), Offsets::default()).await.unwrap();
        assert_eq!(state.ended.as_ref(), Some(&ended));
        line(&mut again, "kept").await;
        assert_eq!(end(&mut again).await, ended);
        assert_eq!(again.next().await.unwrap(), None);
    }
    client.acknowledge(attached.id()).await.unwrap();
    assert!(client.list().await.unwrap().is_empty());
    assert_eq!(refusal(client.attach(attached.id(), Offsets::default()).await), RefusalCode::NotFound);
    assert_eq!(refusal(client.acknowledge(attached.id()).await), RefusalCode::NotFound);
}

#[tokio::test]
async fn id_in_use_is_refused() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let mut first = client.start(script("a", "sleep 8640006")).await.unwrap();
    assert_eq!(refusal(client.start(script("a", "true")).await), RefusalCode::Exists);
    assert_eq!(refusal(client.acknowledge(first.id()).await), RefusalCode::Running);
    client.kill(first.id(), Duration::ZERO).await.unwrap();
    assert_eq!(end(&mut first).await.end, End::Killed);
    assert_eq!(refusal(client.start(script("a", "true")).await), RefusalCode::Exists);
}

#[tokio::test]
async fn consumed_output_makes_room_for_more() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let mut job = Job::new(JobId::parse("a").unwrap(), ["cat"]);
    (job.stdin, job.output_max_bytes) = (true, CHUNK_BYTES_MAX as u64);
    let mut attached = client.start(job).await.unwrap();
    let mut got = Got::default();
    let part = vec![b'x'; CHUNK_BYTES_MAX];
    for round in 1..=20 {
        attached.write_stdin(&part).await.unwrap();
        got.take(&mut attached, round * CHUNK_BYTES_MAX).await;
        client.consumed(attached.id(), got.offsets()).await.unwrap();
    }
    attached.end_stdin().await.unwrap();
    let ended = end(&mut attached).await;
    assert_eq!((ended.truncated, ended.written), (false, got.offsets()));
}

#[tokio::test]
async fn another_client_continues_standard_input() {
    let rig = Rig::sandbox();
    let mut job = Job::new(JobId::parse("a").unwrap(), ["cat"]);
    job.stdin = true;
    let mut attached = rig.client().await.start(job).await.unwrap();
    attached.write_stdin(b"first\n").await.unwrap();
    line(&mut attached, "first").await;
    let (state, mut other) = rig.client().await.attach(attached.id(), Offsets::default()).await.unwrap();
    assert_eq!(state.stdin_received, 6);
    other.write_stdin(b"second\n").await.unwrap();
    other.end_stdin().await.unwrap();
    line(&mut other, "second").await;
    let ended = end(&mut other).await;
    assert_eq!((ended.end, ended.written.stdout), (End::Exited(0), 13));
}

#[tokio::test]
async fn job_that_is_not_read_holds_up_no_other_of_its_client() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let mut loud = script("loud", "head -c 8000000 /dev/zero");
    loud.output_max_bytes = 8_000_000;
    let mut loud = client.start(loud).await.unwrap();
    for number in 0..5 {
        let outcome =
            within(client.run(script(&format!("quiet-{number}"), "echo quiet"), b"")).await.unwrap();
        assert_eq!(outcome.stdout, b"quiet\n");
    }
    let mut got = Got::default();
    got.take(&mut loud, usize::MAX).await;
    assert_eq!(got.stdout.len(), 8_000_000);
}

#[tokio::test]
async fn client_that_never_reads_holds_up_no_job() {
    let rig = Rig::sandbox();
    let silent = rig.stream().await;
    let mut bytes = Vec::new();
    let hello = Request::Hello { version_min: VERSION_MAX, version_max: VERSION_MAX };
    write_message(&Call { seq: 1, request: hello }, &mut bytes).unwrap();
    for number in 0..10 {
        let job = script(&format!("job-{number}"), "head -c 2000000 /dev/zero; echo done >&2");
        write_message(&Call { seq: 2, request: Request::Start(Box::new(job)) }, &mut bytes).unwrap();
    }
    // More responses than are held for a client that does not take them.
    for seq in 0..3000 {
        write_message(&Call { seq, request: Request::List }, &mut bytes).unwrap();
    }
    let (mut reader, mut writer) = silent.into_split();
    let writing = tokio::spawn(async move { writer.write_all(&bytes).await });
    let client: Client = rig.client().await;
    for number in 0..10 {
        let id = JobId::parse(&format!("job-{number}")).unwrap();
        let started = async {
            loop {
                if let Ok((_, attached)) = client.attach(&id, Offsets::default()).await {
                    return attached;
                }
            }
        };
        assert_eq!(end(&mut within(started).await).await.end, End::Exited(0));
    }
    // It gets all of it when it reads, and is served again.
    let (mut received, mut buffer) = (0, vec![0; 65_536]);
    within(async {
        while received < 3_000_000 || !writing.is_finished() {
            received += reader.read(&mut buffer).await.unwrap();
        }
    })
    .await;
}
