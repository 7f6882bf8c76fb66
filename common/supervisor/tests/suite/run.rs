//! What a job gets and what its result says.

use crate::rig::{Rig, processes, python, script, within};
use supervisor::{ClientError, End, Job, JobId, Limits, OUTPUT_BYTES_DEFAULT, Outcome, PATH_DEFAULT};

const DEFAULT: usize = OUTPUT_BYTES_DEFAULT as usize;

async fn run(rig: &Rig, job: Job) -> Outcome {
    within(rig.client().await.run(job, b"")).await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn status_and_streams_of_a_command_are_reported() {
    for rig in [Rig::sandbox(), Rig::plain()] {
        let outcome = run(&rig, script("a", "echo out; echo err >&2; echo more; exit 3")).await;
        assert_eq!(outcome.ended.end, End::Exited(3));
        assert_eq!((text(&outcome.stdout), text(&outcome.stderr)), ("out\nmore\n", "err\n"));
        assert_eq!((outcome.ended.written.stdout, outcome.ended.written.stderr), (9, 4));
        assert!(!outcome.ended.truncated);
        assert!(outcome.ended.usage.rss_max_bytes > 0);
    }
}

#[tokio::test]
async fn usage_is_measured() {
    let rig = Rig::plain();
    let outcome = run(&rig, python("a", "x = sum(range(3_000_000)); b = bytearray(50_000_000)")).await;
    let usage = outcome.ended.usage;
    assert!(usage.cpu_ms >= 20 && usage.rss_max_bytes > 50_000_000 && usage.wall_ms >= 20, "{usage:?}");
}

#[tokio::test]
async fn signal_that_ends_a_command_is_reported() {
    let outcome = run(&Rig::sandbox(), script("a", "kill -9 $$")).await;
    assert_eq!(outcome.ended.end, End::Signalled(9));
}

#[tokio::test]
async fn command_that_cannot_be_executed_fails_with_the_reason() {
    let rig = Rig::sandbox();
    let mut nowhere = script("b", "true");
    nowhere.cwd = Some("/nowhere".to_owned());
    let outcome = run(&Rig::user_namespace(), script("a", "true")).await;
    assert!(matches!(&outcome.ended.end, End::FailedToStart(step) if step.starts_with("set")), "{outcome:?}");
    for (job, reason) in [
        (Job::new(JobId::parse("a").unwrap(), ["/no/such/program"]), "/no/such/program"),
        (nowhere, "/nowhere"),
        (Job::new(JobId::parse("c").unwrap(), ["/etc/passwd"]), "ermission denied"),
    ] {
        let outcome = run(&rig, job).await;
        let End::FailedToStart(found) = &outcome.ended.end else { panic!("{outcome:?}") };
        assert!(found.contains(reason), "{found}");
    }
}

#[tokio::test]
async fn job_that_is_not_valid_is_refused() {
    let client = Rig::plain();
    let client = client.client().await;
    let error = within(client.run(Job::new(JobId::parse("a").unwrap(), [""]), b"")).await;
    assert!(matches!(error, Err(ClientError::Refused(_))), "{error:?}");
}

#[tokio::test]
async fn environment_is_only_what_was_given() {
    let mut job = Job::new(JobId::parse("a").unwrap(), ["env"]);
    let outcome = run(&Rig::sandbox(), job.clone()).await;
    let mut lines: Vec<_> = text(&outcome.stdout).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["HOME=/", &format!("PATH={PATH_DEFAULT}")]);
    job.env = [("A", "1 2"), ("PATH", "/usr/bin")].map(|(name, value)| (name.into(), value.into())).into();
    job.cwd = Some("/tmp".to_owned());
    let outcome = run(&Rig::sandbox(), job).await;
    let mut lines: Vec<_> = text(&outcome.stdout).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=1 2", "HOME=/tmp", "PATH=/usr/bin"]);
}

#[tokio::test]
async fn a_supervisor_that_makes_its_socket_passes_on_its_environment() {
    let rig = Rig::listening(&[("PATH", "/opt/bin:/usr/bin:/bin"), ("VERSION", "3")]).await;
    let mut job = Job::new(JobId::parse("a").unwrap(), ["env"]);
    job.env = [("VERSION".to_owned(), "4".to_owned())].into();
    let outcome = run(&rig, job).await;
    let mut lines: Vec<_> = text(&outcome.stdout).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["HOME=/", "PATH=/opt/bin:/usr/bin:/bin", "VERSION=4"]);
}

#[tokio::test]
async fn no_descriptor_of_ours_reaches_a_job() {
    // Not closed on exec, as by a careless runner; it comes to the supervisor.
    let leak = rustix::io::dup(std::io::stderr()).unwrap();
    let outcome = run(&Rig::sandbox(), Job::new(JobId::parse("a").unwrap(), ["ls", "/proc/self/fd"])).await;
    drop(leak);
    // The last one is the folder itself.
    assert_eq!(text(&outcome.stdout), "0\n1\n2\n3\n");
}

#[tokio::test]
async fn user_and_limits_are_what_was_asked_for() {
    let rig = Rig::sandbox();
    let what = "id -u; id -g; id -G; ulimit -n; ulimit -f; ulimit -c; umask";
    let mut job = script("a", what);
    job.limits = Limits { open_files: Some(77), file_bytes: Some(1024 * 1024) };
    let outcome = run(&rig, job).await;
    // `ulimit -f` counts in blocks of 512 bytes.
    assert_eq!(text(&outcome.stdout), "1000\n1000\n1000\n77\n2048\n0\n0022\n");
    let mut root = script("b", "id -u; id -G");
    root.uid = Some(0);
    assert_eq!(text(&run(&rig, root).await.stdout), "0\n0\n");
    let mut group = script("c", "id -u; id -G");
    (group.uid, group.gid) = (Some(7), Some(8));
    assert_eq!(text(&run(&rig, group).await.stdout), "7\n8\n");
}

#[tokio::test]
async fn supervisor_without_root_serves_its_own_user_only() {
    let rig = Rig::of_user(1000);
    let stream = rig.stream().await;
    // Another user, even root, is not who started it; and no process namespace tells more.
    assert!(supervisor::Client::connect(stream).await.is_err());
    let socket = rig.socket();
    let program = include_str!("as_user.py");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "/usr/bin/python3", "-c", program])
        .arg(socket)
        .output()
        .unwrap();
    let output = text(&output.stdout).to_owned() + text(&output.stderr);
    assert!(output.contains(r#""end":{"exited":0}"#), "{output}");
    assert!(output.contains("is user 1000:1000 and cannot become 1001:1001"), "{output}");
}

#[tokio::test]
async fn standard_input_reaches_the_command() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let bytes: Vec<u8> = (0..DEFAULT).map(|number| (number % 251) as u8).collect();
    let outcome = within(client.run(Job::new(JobId::parse("a").unwrap(), ["cat"]), &bytes)).await.unwrap();
    assert!(outcome.stdout == bytes, "{} bytes came back", outcome.stdout.len());
    // Without input there is an end of file at once.
    let outcome = run(&rig, script("b", "cat; echo end")).await;
    assert_eq!(text(&outcome.stdout), "end\n");
}

#[tokio::test]
async fn command_that_reads_no_input_still_ends() {
    let client = Rig::sandbox();
    let client = client.client().await;
    for text in ["exit 5", "exec <&-; exit 5", "head -c 10 >/dev/null; exit 5"] {
        let outcome = within(client.run(script("a", text), &vec![0; 2 * DEFAULT])).await.unwrap();
        assert_eq!(outcome.ended.end, End::Exited(5), "{text}");
    }
}

#[tokio::test]
async fn output_over_the_limit_is_counted_and_dropped() {
    let rig = Rig::sandbox();
    let outcome = run(&rig, script("a", "head -c 3000000 /dev/zero; head -c 10 /dev/zero >&2")).await;
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (DEFAULT, 10));
    assert_eq!(outcome.ended.written.stdout, 3_000_000);
    assert!(outcome.ended.truncated && outcome.ended.end == End::Exited(0));
    let mut small = script("b", "printf 123456789");
    small.output_max_bytes = 4;
    let outcome = run(&rig, small).await;
    assert_eq!((text(&outcome.stdout), outcome.ended.written.stdout), ("1234", 9));
    let outcome = run(&rig, script("c", &format!("head -c {DEFAULT} /dev/zero"))).await;
    assert!(!outcome.ended.truncated, "exactly as much as is kept");
}

#[tokio::test]
async fn hundred_jobs_run_at_once() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    // Each waits for a line, so none has ended before all have started.
    let mut jobs = Vec::new();
    for number in 0..100 {
        let mut job = script(&format!("job-{number}"), "read line; echo $line; exit $line");
        job.stdin = true;
        jobs.push(within(client.start(job)).await.unwrap());
    }
    assert_eq!(client.list().await.unwrap().len(), 100);
    for (number, job) in jobs.iter_mut().enumerate() {
        job.write_stdin(format!("{number}\n").as_bytes()).await.unwrap();
    }
    for (number, mut job) in jobs.into_iter().enumerate() {
        let ended = crate::rig::end(&mut job).await;
        assert_eq!(ended.end, End::Exited(number as i32));
        client.acknowledge(job.id()).await.unwrap();
    }
    assert!(client.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed() {
    let rig = Rig::sandbox();
    let text = "setsid sleep 8640001 & (setsid setsid sleep 8640001 &) ; sleep 8640001 & exit 0";
    let outcome = run(&rig, script("a", text)).await;
    assert_eq!(outcome.ended.end, End::Exited(0));
    assert!(processes("sleep 8640001").is_empty());
}
