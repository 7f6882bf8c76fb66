//! What an operator sees of a request: one log line, and metrics.

use crate::support::{ADMIN, LAB, Rig, Step, and};
use contract::{FaultCode, Outcome};
use parking_lot::Mutex;
use ports::bus::RequestError;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Once};
use std::time::Duration;
use strum::IntoEnumIterator as _;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Records every line of this thread until the guard is dropped.
    fn record() -> (Self, tracing::subscriber::DefaultGuard) {
        // With a single subscriber in the process, tracing caches the interest of the first thread that reaches a call
        // site; a thread of another test, which records nothing, would disable the call site for good. A second
        // subscriber, for all threads and interested in everything, disables that cache.
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
            tracing::subscriber::set_global_default(all.with_writer(std::io::sink).finish()).unwrap();
        });
        let lines = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(lines.clone())
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    /// The request log lines, without fields that differ from run to run.
    fn requests(&self) -> Vec<Value> {
        let all = self.text();
        let lines = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line.get("http.status").is_some())
            .map(|mut line| {
                let fields = line.as_object_mut().unwrap();
                fields.remove("timestamp").unwrap();
                fields.remove("target").unwrap();
                assert!(fields.remove("duration_ms").unwrap().is_f64());
                line
            })
            .collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn claim_is_logged_once_with_owner_and_sandbox() {
    let (lines, _guard) = Lines::record();
    let rig = Rig::new([Step::Say(Some(Outcome::Created), r#"{"sandbox_id":"7"}"#)]);
    rig.ask("POST", "/v1/allocate", &and(LAB, &[("X-Request-ID", "r-1")])).await;
    assert_eq!(
        lines.requests(),
        [json!({
            "level": "INFO", "message": "POST /v1/allocate 201", "http.method": "POST",
            "http.route": "/v1/allocate", "http.status": 201, "request.id": "r-1",
            "caller.name": "lab", "owner.id": "p-1",
            "sandbox.id": "7",
        })]
    );
}

#[tokio::test(start_paused = true)]
async fn error_is_logged_once_with_its_code_and_level() {
    let (lines, _guard) = Lines::record();
    let rig = Rig::new([Step::Refuse(FaultCode::NotFound, "m")]);
    rig.ask("GET", "/v1/sandboxes/9", LAB).await;
    assert_eq!(
        lines.requests(),
        [json!({
            "level": "INFO", "message": "GET /v1/sandboxes/{id} 404", "http.method": "GET",
            "http.route": "/v1/sandboxes/{id}", "http.status": 404, "request.id": "fresh-1",
            "caller.name": "lab", "owner.id": "p-1", "sandbox.id": "9", "fault.code": "NOT_FOUND",
        })]
    );
    for code in FaultCode::iter() {
        let before = lines.requests().len();
        rig.workers.follow([Step::Refuse(code, "m")]);
        rig.ask("POST", "/v1/allocate", LAB).await;
        let all = lines.requests();
        assert_eq!(all.len(), before + 1);
        let expected = match code.status() {
            ..500 => "INFO",
            500 => "ERROR",
            _ => "WARN",
        };
        let line = all.last().unwrap();
        assert_eq!((&line["level"], &line["fault.code"]), (&json!(expected), &json!(code.as_str())));
    }
}

#[tokio::test(start_paused = true)]
async fn log_contains_no_token_and_no_raw_path() {
    let (lines, _guard) = Lines::record();
    let rig = Rig::new([Step::Panic]);
    rig.ask("POST", "/v1/allocate", LAB).await;
    rig.ask("POST", "/v1/admin/sync", ADMIN).await;
    rig.ask("POST", "/v1/allocate", &[("Authorization", "Bearer guessed-token")]).await;
    rig.ask("GET", "/v1/guessed-path?token=guessed-token", &[]).await;
    assert_eq!(lines.requests().len(), 4);
    for secret in ["lab-token-1", "admin-token-1", "guessed-token", "guessed-path"] {
        assert!(!lines.text().contains(secret), "{secret} in {}", lines.text());
    }
    assert!(lines.text().contains("secret cause"), "the cause of a panic is for the log");
}

#[tokio::test(start_paused = true)]
async fn successful_probes_are_logged_at_debug() {
    let (lines, _guard) = Lines::record();
    let rig = Rig::new([Step::Say(None, r#"{"store":"ok"}"#)]);
    for path in ["/healthz", "/readyz", "/metrics"] {
        rig.ask("GET", path, &[]).await;
    }
    rig.workers.disconnect();
    rig.ask("GET", "/readyz", &[]).await;
    let levels: Vec<_> = lines.requests().iter().map(|line| line["level"].clone()).collect();
    assert_eq!(levels, ["DEBUG", "DEBUG", "DEBUG", "WARN"]);
}

#[tokio::test(start_paused = true)]
async fn disconnected_caller_is_counted_and_logged() {
    let (lines, _guard) = Lines::record();
    let rig = Rig::new([Step::Hang]);
    let gone = tokio::time::timeout(Duration::from_millis(5), rig.ask("POST", "/v1/allocate", LAB)).await;
    assert!(gone.is_err());
    let line = lines.requests().pop().unwrap();
    assert_eq!((&line["http.status"], &line["owner.id"]), (&json!(499), &json!("p-1")));
    let metrics = metrics(&rig).await;
    assert!(
        metrics.contains(r#"broker_http_requests_total{method="POST",route="/v1/allocate",status="499"} 1"#)
    );
    // This request itself is the one in flight.
    assert!(metrics.contains("broker_http_in_flight_requests 1\n"), "{metrics}");
}

async fn metrics(rig: &Rig) -> String {
    let answer = rig.ask("GET", "/metrics", &[]).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_by_route_method_and_status() {
    let rig = Rig::new([Step::Say(Some(Outcome::Created), "{}")]);
    rig.ask("POST", "/v1/allocate", LAB).await;
    rig.ask("POST", "/v1/allocate", &[]).await;
    for id in ["7", "8", "9"] {
        rig.ask("GET", &format!("/v1/sandboxes/{id}"), LAB).await;
        rig.ask("GET", &format!("/nothing/{id}"), LAB).await;
        rig.ask(&format!("BREW{id}"), "/v1/allocate", LAB).await;
    }
    let metrics = metrics(&rig).await;
    for line in [
        r#"broker_http_requests_total{method="POST",route="/v1/allocate",status="201"} 1"#,
        r#"broker_http_requests_total{method="POST",route="/v1/allocate",status="401"} 1"#,
        r#"broker_http_requests_total{method="GET",route="/v1/sandboxes/{id}",status="200"} 3"#,
        r#"broker_http_requests_total{method="GET",route="unmatched",status="404"} 3"#,
        r#"broker_http_requests_total{method="other",route="/v1/allocate",status="405"} 3"#,
        r#"broker_http_request_duration_seconds_count{method="GET",route="/v1/sandboxes/{id}"} 3"#,
        r#"broker_http_request_duration_seconds_bucket{method="POST",route="/v1/allocate",le="0.0005"} 2"#,
        r#"broker_relay_retries_total{reason="busy"} 0"#,
        r#"broker_http_faults_total{code="UNAUTHORIZED"} 1"#,
        r#"broker_http_faults_total{code="NOT_FOUND"} 3"#,
        "broker_relay_in_flight_requests 0\n",
        "broker_relay_in_flight_limit 16384\n",
    ] {
        assert!(metrics.contains(line), "{line} not in\n{metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_are_counted_by_reason_with_their_wait() {
    let rig = Rig::new([
        Step::Fail(RequestError::NoResponders),
        Step::Fail(RequestError::NoResponders),
        Step::Refuse(FaultCode::NoWorkers, "busy"),
        Step::Fail(RequestError::TimedOut),
        Step::Say(None, "{}"),
    ]);
    rig.ask("POST", "/v1/allocate", LAB).await;
    let metrics = metrics(&rig).await;
    for line in [
        r#"broker_relay_retries_total{reason="no_responders"} 2"#,
        r#"broker_relay_retries_total{reason="busy"} 1"#,
        r#"broker_relay_retries_total{reason="timed_out"} 1"#,
        r#"broker_http_request_duration_seconds_bucket{method="POST",route="/v1/allocate",le="2.5"} 0"#,
        r#"broker_http_request_duration_seconds_bucket{method="POST",route="/v1/allocate",le="5"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} not in\n{metrics}");
    }
}

#[tokio::test]
async fn registering_metrics_twice_fails() {
    let rig = Rig::new([Step::Hang]);
    assert!(!rig.registry.gather().is_empty());
    assert!(rig.try_again().is_err());
}
