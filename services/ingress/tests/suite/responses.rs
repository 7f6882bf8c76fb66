//! Properties of every answer: request id, body format, headers, sizes.

use crate::support::{ADMIN, Answer, FRESH_ID, LAB, Rig, Step, and, request};
use axum::body::Body;
use bytes::Bytes;
use contract::FaultCode;
use futures_util::stream;
use ports::bus::RequestError;
use std::convert::Infallible;
use std::time::Duration;
use strum::IntoEnumIterator as _;

const TOO_LARGE: &str = "the body may have at most 65536 bytes";
const OURS: &str = "the broker made a mistake; it has been logged";

fn rig() -> Rig {
    Rig::new([Step::Say(None, "{}")])
}

/// One answer of every kind, each with its name.
async fn every_kind(settings: &[(&str, &str)]) -> Vec<(&'static str, Answer)> {
    let rig = Rig::with(settings, [Step::Say(None, r#"{"store":"ok"}"#)]);
    let mut answers = vec![
        ("200", rig.ask("GET", "/v1/admin/stats", ADMIN).await),
        ("about", rig.ask("GET", "/", &[]).await),
        ("healthz", rig.ask("GET", "/healthz", &[]).await),
        ("readyz", rig.ask("GET", "/readyz", &[]).await),
        ("metrics", rig.ask("GET", "/metrics", &[]).await),
        ("202", rig.ask("POST", "/v1/admin/sync", ADMIN).await),
        ("400", rig.ask("POST", "/v1/allocate", &[("Authorization", "Bearer lab-token-1")]).await),
        ("bad path", rig.ask("GET", "/v1/sandboxes/%FF", LAB).await),
        ("401", rig.ask("POST", "/v1/allocate", &[]).await),
        ("403", rig.ask("POST", "/v1/allocate", ADMIN).await),
        ("404", rig.ask("GET", "/v1/nothing", &[]).await),
        ("405", rig.ask("GET", "/v1/allocate", &[]).await),
        ("413", rig.send(with_body(Body::from(vec![0; 65_537]))).await),
    ];
    let steps = [
        ("500", Step::Panic),
        ("409", Step::Refuse(FaultCode::PoolExhausted, "empty")),
        ("503", Step::Fail(RequestError::Disconnected)),
        ("504", Step::Fail(RequestError::TimedOut)),
    ];
    for (name, step) in steps {
        rig.workers.follow([step]);
        answers.push((name, rig.ask("POST", "/v1/allocate", LAB).await));
    }
    answers
}

fn with_body(body: Body) -> axum::http::Request<Body> {
    let mut request = request("POST", "/v1/allocate", LAB);
    *request.body_mut() = body;
    request
}

#[tokio::test(start_paused = true)]
async fn every_response_has_security_headers_and_a_request_id() {
    for (name, answer) in every_kind(&[]).await {
        for (header, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("x-xss-protection", "1; mode=block"),
            ("permissions-policy", "geolocation=(), microphone=(), camera=()"),
            (
                "content-security-policy",
                "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
            ("x-request-id", FRESH_ID),
        ] {
            assert_eq!(answer.header(header), Some(value), "{header} of {name}");
            assert_eq!(answer.headers.get_all(header).iter().count(), 1, "{header} of {name}");
        }
        assert_eq!(answer.header("strict-transport-security"), None, "{name}");
        assert_eq!(answer.header("connection"), None, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn hsts_is_sent_only_when_enabled() {
    for (name, answer) in every_kind(&[("HSTS_ENABLED", "true")]).await {
        let value = answer.header("strict-transport-security");
        assert_eq!(value, Some("max-age=31536000; includeSubDomains"), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_error_has_the_same_shape() {
    for (name, answer) in every_kind(&[]).await {
        let Ok(status) = name.parse::<u16>() else { continue };
        assert_eq!(answer.status.as_u16(), status);
        if status >= 400 {
            let body = answer.json();
            let detail = body["detail"].as_object().unwrap();
            assert_eq!(body.as_object().unwrap().len(), 1, "{name}");
            assert_eq!(detail["request_id"], FRESH_ID, "{name}");
            let code = FaultCode::iter().find(|code| detail["code"] == code.as_str()).unwrap();
            answer.assert_fault(code, detail["message"].as_str().unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn valid_request_id_is_echoed_and_an_invalid_one_replaced() {
    let rig = rig();
    let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
    for sane in ["r-1", "a/b:c~!", longest.as_str()] {
        let answer = rig.ask("GET", "/v1/nothing", &[("X-Request-ID", sane)]).await;
        assert_eq!(answer.header("x-request-id"), Some(sane));
        assert_eq!(answer.json()["detail"]["request_id"], sane);
    }
    for odd in ["", "a b", "größe", too_long.as_str()] {
        let answer = rig.ask("GET", "/v1/nothing", &[("X-Request-ID", odd)]).await;
        assert_eq!(answer.header("x-request-id"), Some(FRESH_ID), "{odd:?}");
        assert_eq!(answer.json()["detail"]["request_id"], FRESH_ID);
    }
    let twice = [("X-Request-ID", "a"), ("X-Request-ID", "b")];
    assert_eq!(rig.ask("GET", "/healthz", &twice).await.header("x-request-id"), Some(FRESH_ID));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_path_is_404_with_and_without_a_token() {
    let rig = rig();
    for path in [
        "/nothing",
        "/v1",
        "/v1/",
        "/v1/allocate//",
        "/v1/healthz",
        "/v2/allocate",
        "/v1/sandboxes//x",
        "//v1/allocate/",
    ] {
        for headers in [&[], LAB, ADMIN] {
            let answer = rig.ask("POST", path, headers).await;
            answer.assert_fault(FaultCode::NotFound, "there is no such path");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slash_at_the_end_of_a_path_is_redirected() {
    let rig = rig();
    for (method, path, location) in [
        ("POST", "/v1/allocate/", "/v1/allocate"),
        ("GET", "/v1/sandboxes/7/", "/v1/sandboxes/7"),
        ("GET", "/v1/admin/sandboxes/?limit=1&pool=a%20b", "/v1/admin/sandboxes?limit=1&pool=a%20b"),
        ("GET", "/healthz/", "/healthz"),
        ("GET", "/console/", "/console"),
        ("GET", "//", "/"),
    ] {
        let answer = rig.ask(method, path, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (307, Some(location)), "{path}");
    }
    assert!(rig.workers.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn wrong_method_is_405_with_the_allowed_ones() {
    let rig = rig();
    let cases = [
        ("GET", "/v1/allocate", "POST"),
        ("OPTIONS", "/v1/allocate", "POST"),
        ("BREW", "/v1/allocate", "POST"),
        ("DELETE", "/v1/sandboxes/7", "GET,HEAD"),
        ("GET", "/v1/sandboxes/7/mark-for-deletion", "POST"),
        ("GET", "/v1/admin/sync", "POST"),
        ("POST", "/healthz", "GET,HEAD"),
        ("POST", "/", "GET,HEAD"),
    ];
    for (method, path, allowed) in cases {
        let answer = rig.ask(method, path, LAB).await;
        let message = "this path does not know this method; see `Allow`";
        answer.assert_fault(FaultCode::MethodNotAllowed, message);
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_to_its_limit_and_ignored() {
    let rig = rig();
    for body in ["", "{}", "no json at all"] {
        assert_eq!(rig.send(with_body(Body::from(body))).await.status, 200, "{body}");
    }
    assert_eq!(rig.send(with_body(Body::from(vec![b'x'; 65_536]))).await.status, 200);
    let seen = rig.workers.seen().len();
    // With `Content-Length`, and chunked without it.
    let pieces = || stream::iter((0..65).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1_024]))));
    for body in [Body::from(vec![b'x'; 65_537]), Body::from_stream(pieces())] {
        let answer = rig.send(with_body(body)).await;
        answer.assert_fault(FaultCode::BodyTooLarge, TOO_LARGE);
    }
    assert_eq!(rig.workers.seen().len(), seen);
}

#[tokio::test(start_paused = true)]
async fn oversized_content_length_is_rejected_immediately() {
    let rig = rig();
    let mut request = request("POST", "/v1/allocate", &and(LAB, &[("Content-Length", "65537")]));
    *request.body_mut() = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let began = tokio::time::Instant::now();
    rig.send(request).await.assert_fault(FaultCode::BodyTooLarge, TOO_LARGE);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn stalled_or_aborted_body_is_rejected() {
    let rig = rig();
    let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let answer = rig.send(with_body(never)).await;
    answer.assert_fault(FaultCode::RequestTimeout, "the body did not arrive within 15000 ms");
    let broken = Body::from_stream(stream::iter([Err::<Bytes, _>(std::io::Error::other("reset"))]));
    let answer = rig.send(with_body(broken)).await;
    answer.assert_fault(FaultCode::InvalidRequest, "the body could not be read");
    assert!(rig.workers.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn panic_is_a_500_without_its_cause() {
    let rig = Rig::new([Step::Panic, Step::Say(None, "{}")]);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    answer.assert_fault(FaultCode::InternalError, OURS);
    assert!(!String::from_utf8_lossy(&answer.body).contains("secret cause"));
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn root_returns_service_and_version() {
    let answer = rig().ask("GET", "/", &[]).await;
    let expected = serde_json::json!({"service": "sandbox-broker", "version": env!("CARGO_PKG_VERSION")});
    assert_eq!(answer.json(), expected);
}
