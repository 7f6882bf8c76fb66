//! Which web pages may call the API.

use crate::support::{Answer, LAB, Rig, Step, and};
use contract::FaultCode;

const ORIGIN: (&str, &str) = ("Origin", "https://console.example");
const OTHER: (&str, &str) = ("Origin", "https://evil.example");
const ASKS: (&str, &str) = ("Access-Control-Request-Method", "POST");
const TWO: (&str, &str) = ("CORS_ALLOWED_ORIGINS", "https://console.example, http://localhost:3000");

fn rig(settings: &[(&str, &str)]) -> Rig {
    Rig::with(settings, [Step::Say(None, "{}")])
}

fn assert_no_permission(answer: &Answer) {
    let permissions: Vec<_> =
        answer.headers.keys().filter(|name| name.as_str().starts_with("access-control-")).collect();
    assert!(permissions.is_empty(), "{permissions:?}");
}

#[tokio::test(start_paused = true)]
async fn no_origin_is_allowed_by_default() {
    let rig = rig(&[]);
    let answer = rig.ask("OPTIONS", "/v1/allocate", &[ORIGIN, ASKS]).await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some("POST")));
    assert_no_permission(&answer);
    let answer = rig.ask("POST", "/v1/allocate", &and(LAB, &[ORIGIN])).await;
    assert_eq!(answer.status, 200);
    assert_no_permission(&answer);
    assert_eq!(answer.header("vary"), None);
}

#[tokio::test(start_paused = true)]
async fn configured_origin_is_allowed_and_preflight_needs_no_token() {
    let rig = rig(&[TWO]);
    for origin in ["https://console.example", "http://localhost:3000"] {
        let answer = rig.ask("OPTIONS", "/v1/allocate", &[("Origin", origin), ASKS]).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST, DELETE"));
        let headers = answer.header("access-control-allow-headers").unwrap();
        for needed in
            ["Authorization", "Idempotency-Key", "Last-Event-ID", "X-Instruqt-Sandbox-ID", "X-Lab-Duration"]
        {
            assert!(headers.split(", ").any(|name| name == needed), "{needed} in {headers}");
        }
        assert_eq!(answer.header("access-control-max-age"), Some("3600"));
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let answer = rig.ask("POST", "/v1/allocate", &and(LAB, &[ORIGIN])).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://console.example"));
    let exposed = Some(
        "Location, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID",
    );
    assert_eq!(answer.header("access-control-expose-headers"), exposed);
}

#[tokio::test(start_paused = true)]
async fn error_responses_have_cors_headers() {
    let answer = rig(&[TWO]).ask("POST", "/v1/allocate", &[ORIGIN]).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://console.example"));
}

#[tokio::test(start_paused = true)]
async fn other_origins_are_not_allowed() {
    let rig = rig(&[TWO]);
    let answer = rig.ask("OPTIONS", "/v1/allocate", &[OTHER, ASKS]).await;
    assert_eq!(answer.status.as_u16(), FaultCode::MethodNotAllowed.status());
    assert_no_permission(&answer);
    let answer = rig.ask("POST", "/v1/allocate", &and(LAB, &[OTHER])).await;
    assert_no_permission(&answer);
    // A cache must not return this answer to the allowed page.
    assert_eq!(answer.header("vary"), Some("Origin"));
}

#[tokio::test(start_paused = true)]
async fn star_allows_every_origin() {
    let rig = rig(&[("CORS_ALLOWED_ORIGINS", "*")]);
    let answer = rig.ask("OPTIONS", "/v1/allocate", &[OTHER, ASKS]).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("vary"), None);
    let answer = rig.ask("POST", "/v1/allocate", LAB).await;
    assert_no_permission(&answer);
}

#[tokio::test(start_paused = true)]
async fn options_without_a_requested_method_is_no_preflight() {
    let answer = rig(&[TWO]).ask("OPTIONS", "/v1/allocate", &[ORIGIN]).await;
    assert_eq!(answer.status, 405);
}
