//! Commands in containers.

use super::*;
use crate::tests::{Rig, request, run};
use contract::templates::TemplateSettings;
use parking_lot::Mutex;
use ports::bus::Handler as _;
use ports::engine::Usage;
use serde_json::{Value, json};
use testkit::engine::{EngineFault, Operation, Play};

fn body(incarnation: &Incarnation, change: Value) -> Value {
    let mut body = json!({
        "sandbox_id": "ctr_1", "incarnation": incarnation.to_string(), "command": ["run"], "timeout_seconds": 5,
    });
    let Value::Object(change) = change else { panic!("fields") };
    body.as_object_mut().unwrap().extend(change);
    body
}

async fn execute(rig: &Rig, body: &Value) -> Result<ExecutionResult, Fault> {
    let answer = rig.node.handle(request(NodeVerb::Execute, body)).await;
    answer.body.map(|body| serde_json::from_slice(&body).unwrap())
}

/// Runs a command of which the script says what it does.
async fn played(play: Play) -> Result<ExecutionResult, Fault> {
    let rig = Rig::new().await;
    rig.engine.set_jobs(move |_| play.clone());
    let one = rig.created("ctr_1", None).await;
    execute(&rig, &body(&one, json!({}))).await
}

fn ending(end: End) -> Play {
    Play { end: Some(end), ..Play::default() }
}

#[test]
fn output_and_status_are_returned() {
    run(async {
        let play = Play { stdout: b"out\n".to_vec(), stderr: b"e\xffr".to_vec(), end: Some(End::Exited(3)) };
        let result = played(play).await.unwrap();
        assert_eq!((result.reason.as_str(), result.exit_code, result.signal), ("exited", Some(3), None));
        assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("out\n", "e\u{fffd}r"));
        assert!(!result.truncated && result.started_ms <= result.ended_ms);
        let result = played(ending(End::Signalled(15))).await.unwrap();
        assert_eq!((result.reason.as_str(), result.exit_code, result.signal), ("signalled", None, Some(15)));
        assert_eq!(played(ending(End::TimedOut)).await.unwrap().reason, "timed_out");
    });
}

#[test]
fn ends_without_a_result_are_faults() {
    run(async {
        for (end, code) in [
            (End::FailedToStart("no such file".to_owned()), FaultCode::InvalidRequest),
            (End::Crashed("lost".to_owned()), FaultCode::UpstreamUnavailable),
            (End::Killed, FaultCode::InvalidState),
        ] {
            assert_eq!(played(ending(end.clone())).await.unwrap_err().code, code, "{end:?}");
        }
    });
}

#[test]
fn job_has_what_template_and_request_say() {
    run(async {
        let rig = Rig::new().await;
        let jobs = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&jobs);
        rig.engine.set_jobs(move |job| {
            seen.lock().push(job.clone());
            Play::default()
        });
        rig.control.set_template(TemplateSettings {
            image: "host".to_owned(),
            env: [("A".to_owned(), "template".to_owned()), ("B".to_owned(), "template".to_owned())].into(),
            user: Some(77),
            ..TemplateSettings::default()
        });
        let one = rig.created("ctr_1", None).await;
        let change =
            json!({"command": ["sh", "-c", "x"], "env": {"B": "request"}, "cwd": "/tmp", "stdin": "in"});
        execute(&rig, &body(&one, change)).await.unwrap();
        execute(&rig, &body(&one, json!({}))).await.unwrap();
        let jobs = jobs.lock();
        let [first, second] = jobs.as_slice() else { panic!("two jobs") };
        assert_eq!((first.command.join(" ").as_str(), first.uid, first.stdin), ("sh -c x", Some(77), true));
        assert_eq!((first.env["A"].as_str(), first.env["B"].as_str()), ("template", "request"));
        assert_eq!((first.cwd.as_deref(), second.cwd.as_deref()), (Some("/tmp"), Some("/workspace")));
        assert_ne!(first.id, second.id);
        assert_eq!(first.timeout_ms, Some(12_000), "if the runner does not end it after 5 s");
        assert_eq!(first.output_max_bytes, EXECUTION_OUTPUT_BYTES_MAX as u64);
    });
}

#[test]
fn command_that_takes_too_long_is_killed() {
    run(async {
        let rig = Rig::new().await;
        rig.engine.set_jobs(|_| Play { stdout: b"begun".to_vec(), ..Play::held() });
        let one = rig.created("ctr_1", None).await;
        let (node, body) = (Arc::clone(&rig.node), body(&one, json!({"timeout_seconds": 2})));
        let task = tokio::spawn(async move { node.handle(request(NodeVerb::Execute, &body)).await });
        rig.pass(Duration::from_millis(1_900)).await;
        assert!(!task.is_finished());
        rig.pass(Duration::from_millis(200)).await;
        let answer = task.await.unwrap().body.unwrap();
        let result: ExecutionResult = serde_json::from_slice(&answer).unwrap();
        assert_eq!((result.reason.as_str(), result.exit_code), ("timed_out", None));
        assert_eq!(result.stdout, "begun");
        assert!((2_000..2_200).contains(&result.ended_ms), "{}", result.ended_ms);
        assert_eq!(jobs_left(&rig, &one).await, 0);
    });
}

#[test]
fn command_whose_caller_gave_up_is_ended_and_forgotten() {
    run(async {
        let rig = Rig::new().await;
        rig.engine.set_jobs(|_| Play::held());
        let one = rig.created("ctr_1", None).await;
        let (node, body) = (Arc::clone(&rig.node), body(&one, json!({"timeout_seconds": 2})));
        let task = tokio::spawn(async move { node.handle(request(NodeVerb::Execute, &body)).await });
        rig.pass(Duration::from_secs(1)).await;
        assert_eq!(jobs_left(&rig, &one).await, 1);
        task.abort();
        rig.pass(Duration::from_secs(2)).await;
        assert_eq!(jobs_left(&rig, &one).await, 0);
    });
}

async fn jobs_left(rig: &Rig, incarnation: &Incarnation) -> usize {
    let connection = rig.engine.connect(incarnation).await.unwrap();
    Client::connect(connection).await.unwrap().list().await.unwrap().len()
}

#[test]
fn long_output_is_cut() {
    run(async {
        let long = Play::printing("x".repeat(EXECUTION_OUTPUT_BYTES_MAX + 1));
        let result = played(long).await.unwrap();
        assert_eq!((result.stdout.len(), result.truncated), (EXECUTION_OUTPUT_BYTES_MAX, true));
        let whole = played(Play::printing("x".repeat(EXECUTION_OUTPUT_BYTES_MAX))).await.unwrap();
        assert_eq!((whole.stdout.len(), whole.truncated), (EXECUTION_OUTPUT_BYTES_MAX, false));
    });
}

#[test]
fn reply_fits_into_a_message_whatever_a_command_writes() {
    for byte in [0, b'\n', b'"', 0xff, b'x', 0x7f] {
        let (text, _) = text_of(&vec![byte; EXECUTION_OUTPUT_BYTES_MAX + 1]);
        let json = serde_json::to_string(&text).unwrap();
        assert!(json.len() <= OUTPUT_JSON_BYTES_MAX + 2 && !text.is_empty(), "{byte}: {}", json.len());
    }
    let euros = "\u{20ac}".repeat(EXECUTION_OUTPUT_BYTES_MAX / 3);
    assert_eq!(text_of(euros.as_bytes()), (euros.clone(), false));
}

#[test]
fn memory_limit_is_the_reason_if_it_was_reached() {
    run(async {
        let rig = Rig::new().await;
        let engine = rig.engine.clone();
        engine.set_usage(Usage { oom_kills: Some(1), ..Usage::default() });
        rig.engine.set_jobs(move |job| {
            if job.command == ["eat"] {
                engine.set_usage(Usage { oom_kills: Some(2), ..Usage::default() });
            }
            ending(End::Signalled(SIGKILL))
        });
        let one = rig.created("ctr_1", None).await;
        let plain = execute(&rig, &body(&one, json!({}))).await.unwrap();
        assert_eq!(plain.reason, "signalled");
        let eaten = execute(&rig, &body(&one, json!({"command": ["eat"]}))).await.unwrap();
        assert_eq!((eaten.reason.as_str(), eaten.signal), ("oom_killed", Some(SIGKILL)));
    });
}

#[test]
fn requests_that_cannot_be_served_say_why() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", None).await;
        let many = vec!["x"; COMMAND_PARTS_MAX + 1];
        for (change, words) in [
            (json!({"command": []}), "command must begin"),
            (json!({"command": [""]}), "command must begin"),
            (json!({"command": ["a\u{0}"]}), "command must hold no NUL"),
            (json!({"command": many}), "command must have at most"),
            (json!({"env": {"A=B": ""}}), "env must have names"),
            (json!({"env": {"1": ""}}), "env must have names"),
            (json!({"env": {"": ""}}), "env must have names"),
            (json!({"env": {"A": "\u{0}"}}), "env must have values"),
            (json!({"cwd": "tmp"}), "cwd must be"),
            (json!({"cwd": format!("/{}", "x".repeat(CWD_BYTES_MAX))}), "cwd must be"),
            (json!({"timeout_seconds": 0}), "timeout_seconds must be from 1 to 60"),
            (json!({"timeout_seconds": 61}), "timeout_seconds must be from 1 to 60"),
            (json!({"sandbox_id": "a b"}), "sandbox_id"),
            (json!({"incarnation": "x"}), "incarnation"),
            (json!({"user": 0}), "the body"),
        ] {
            let fault = execute(&rig, &body(&one, change)).await.unwrap_err();
            assert_eq!(fault.code, FaultCode::InvalidRequest, "{words}");
            assert!(fault.message.starts_with(words), "{}", fault.message);
        }
        let variables: BTreeMap<_, _> =
            (0..=VARIABLES_MAX).map(|number| (format!("V{number}"), String::new())).collect();
        let fault = execute(&rig, &body(&one, json!({"env": variables}))).await.unwrap_err();
        assert!(fault.message.starts_with("env must have at most"), "{}", fault.message);
        assert_eq!(rig.calls(Operation::Connect), 0, "no supervisor was asked");
    });
}

#[test]
fn container_that_does_not_run_is_reported() {
    run(async {
        let rig = Rig::new().await;
        let one = rig.created("ctr_1", None).await;
        let code = async |body: &Value| execute(&rig, body).await.unwrap_err().code;
        let other = json!({"sandbox_id": "ctr_2"});
        assert_eq!(code(&body(&one, other)).await, FaultCode::NotFound);
        rig.engine.script(Operation::Connect, EngineFault::Fail(EngineError::unavailable("busy")));
        assert_eq!(code(&body(&one, json!({}))).await, FaultCode::UpstreamUnavailable);
        // The supervisor dies behind its connection.
        rig.engine.script(Operation::Connect, EngineFault::Die);
        assert_eq!(code(&body(&one, json!({}))).await, FaultCode::UpstreamUnavailable);
        assert_eq!(code(&body(&one, json!({}))).await, FaultCode::InvalidState);
        rig.engine.remove(&one).await.unwrap();
        assert_eq!(code(&body(&one, json!({}))).await, FaultCode::NotFound);
    });
}
