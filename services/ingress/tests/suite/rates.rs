//! How often an address, a token and an owner may ask.

use crate::support::{ADMIN, Answer, LAB, Rig, Step, request};
use axum::extract::ConnectInfo;
use contract::{Fault, FaultCode};
use ingress::Peer;
use std::time::Duration;

fn rig(settings: &[(&str, &str)]) -> Rig {
    Rig::with(settings, [Step::Say(None, r#"{"store":"ok"}"#)])
}

async fn claim(rig: &Rig, owner: &str) -> Answer {
    rig.ask("POST", "/v1/allocate", &[("Authorization", "Bearer lab-token-1"), ("X-Track-ID", owner)]).await
}

#[track_caller]
fn assert_limited(answer: &Answer, message: &str, retry_after: u32) {
    let mut fault = Fault::new(FaultCode::RateLimitExceeded, message);
    fault.retry_after_seconds = Some(retry_after);
    let request_id = answer.header("x-request-id").unwrap();
    assert_eq!(answer.json(), serde_json::to_value(fault.body(request_id)).unwrap());
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some(retry_after.to_string().as_str()));
}

#[track_caller]
fn assert_standing(answer: &Answer, limit: &str, remaining: &str, reset: &str) {
    let header = |name| answer.header(name).unwrap_or("none");
    let shown = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(header);
    assert_eq!(shown, [limit, remaining, reset], "{answer:?}");
}

async fn metric(rig: &Rig, line: &str) -> bool {
    let metrics = rig.ask("GET", "/metrics", &[]).await;
    String::from_utf8_lossy(&metrics.body).contains(line)
}

#[tokio::test(start_paused = true)]
async fn owner_over_its_rate_gets_a_429_and_others_are_served() {
    let rig = rig(&[("OWNER_RATE_PER_SECOND", "2"), ("OWNER_RATE_BURST", "3")]);
    for (remaining, reset) in [("2", "1"), ("1", "1"), ("0", "2")] {
        let answer = claim(&rig, "p-1").await;
        assert_eq!(answer.status, 200);
        assert_standing(&answer, "3", remaining, reset);
    }
    let refused = claim(&rig, "p-1").await;
    assert_limited(&refused, "too many requests of this owner; wait and repeat", 1);
    assert_standing(&refused, "3", "0", "2");
    assert_eq!(rig.workers.seen().len(), 3, "no worker hears of it");
    assert_eq!(claim(&rig, "p-2").await.status, 200);
    // The same owner by another token has its own count.
    let other = [("Authorization", "Bearer lab-token-2"), ("X-Track-ID", "p-1")];
    assert_eq!(rig.ask("POST", "/v1/allocate", &other).await.status, 200);
    assert!(metric(&rig, "broker_http_rate_limited_total{limit=\"owner\"} 1\n").await);
    assert!(metric(&rig, "broker_http_rate_limit_keys{limit=\"owner\"} 3\n").await);
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(claim(&rig, "p-1").await.status, 200);
    assert_eq!(claim(&rig, "p-1").await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn all_owner_routes_share_the_owner_limit() {
    let rig = rig(&[("OWNER_RATE_PER_SECOND", "1"), ("OWNER_RATE_BURST", "2")]);
    assert_eq!(rig.ask("GET", "/v1/sandboxes/7", LAB).await.status, 200);
    assert_eq!(rig.ask("POST", "/v1/sandboxes/7/mark-for-deletion", LAB).await.status, 200);
    assert_eq!(rig.ask("POST", "/v1/allocate", LAB).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn unauthorized_requests_do_not_use_up_the_owner_limit() {
    let rig = rig(&[("OWNER_RATE_PER_SECOND", "1"), ("OWNER_RATE_BURST", "1")]);
    for authorization in ["", "Bearer guessed", "Bearer admin-token-1"] {
        for _ in 0..5 {
            let headers = [("Authorization", authorization), ("X-Track-ID", "p-1")];
            let answer = rig.ask("POST", "/v1/allocate", &headers).await;
            assert!(matches!(answer.status.as_u16(), 401 | 403), "{answer:?}");
        }
    }
    assert!(metric(&rig, "broker_http_rate_limited_total{limit=\"owner\"} 0\n").await);
    assert_standing(&claim(&rig, "p-1").await, "1", "0", "1");
}

#[tokio::test(start_paused = true)]
async fn token_limit_covers_all_owners_and_admin_routes() {
    let rig = rig(&[("TOKEN_RATE_PER_SECOND", "1"), ("TOKEN_RATE_BURST", "2")]);
    assert_eq!(claim(&rig, "p-1").await.status, 200);
    assert_eq!(claim(&rig, "p-2").await.status, 200);
    let refused = claim(&rig, "p-3").await;
    assert_limited(&refused, "too many requests with this token; wait and repeat", 1);
    assert_standing(&refused, "2", "0", "2");
    let answer = rig.ask("GET", "/v1/admin/stats", ADMIN).await;
    assert_eq!(answer.status, 200);
    assert_standing(&answer, "2", "1", "1");
    // What is refused for another reason counts as well: it is work all the same.
    assert_eq!(rig.ask("POST", "/v1/allocate", ADMIN).await.status, 403);
    assert_eq!(rig.ask("GET", "/v1/admin/stats", ADMIN).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn zero_disables_the_limit_and_its_headers() {
    let off = [("OWNER_RATE_PER_SECOND", "0"), ("TOKEN_RATE_PER_SECOND", "0"), ("OWNER_RATE_BURST", "1")];
    let rig = rig(&off);
    for _ in 0..50 {
        let answer = claim(&rig, "p-1").await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ratelimit-limit")), (200, None));
    }
}

#[tokio::test(start_paused = true)]
async fn default_limits_admit_a_whole_class() {
    let rig = rig(&[]);
    for student in 0..1_000 {
        let answer = claim(&rig, &format!("p-{student}")).await;
        assert_eq!(answer.status, 200, "{student}");
    }
    for repeat in 1..200 {
        assert_eq!(claim(&rig, "p-0").await.status, 200, "{repeat}");
    }
    assert_eq!(claim(&rig, "p-0").await.status, 429);
}

/// A claim that comes from `peer`, who says that it comes from `forwarded_for`.
async fn claim_from(rig: &Rig, peer: &str, forwarded_for: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers =
        [("Authorization", bearer.as_str()), ("X-Track-ID", "p-1"), ("X-Forwarded-For", forwarded_for)];
    let mut request = request("POST", "/v1/allocate", &headers);
    request.extensions_mut().insert(ConnectInfo(Peer(format!("{peer}:4711").parse().unwrap())));
    rig.send(request).await
}

#[tokio::test(start_paused = true)]
async fn address_limit_applies_to_every_token() {
    let rig = rig(&[("PEER_RATE_PER_SECOND", "1"), ("PEER_RATE_BURST", "2")]);
    assert_eq!(claim_from(&rig, "1.1.1.1", "", "guessed").await.status, 401);
    assert_eq!(claim_from(&rig, "1.1.1.1", "9.9.9.9", "guessed").await.status, 401);
    // What it says of a hop before it is nothing to go by.
    let refused = claim_from(&rig, "1.1.1.1", "2.2.2.2", "lab-token-1").await;
    assert_limited(&refused, "too many requests from this address; wait and repeat", 1);
    assert_standing(&refused, "2", "0", "2");
    assert!(rig.workers.seen().is_empty());
    assert_eq!(claim_from(&rig, "2.2.2.2", "", "lab-token-1").await.status, 200);
    assert!(metric(&rig, "broker_http_rate_limited_total{limit=\"peer\"} 1\n").await);
    let mut probe = request("GET", "/healthz", &[]);
    probe.extensions_mut().insert(ConnectInfo(Peer("1.1.1.1:1".parse().unwrap())));
    assert_eq!(rig.send(probe).await.status, 200, "a probe is never refused");
}

#[tokio::test(start_paused = true)]
async fn forwarded_addresses_are_limited_separately() {
    let trusted = ("TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1");
    let rig = rig(&[("PEER_RATE_PER_SECOND", "1"), ("PEER_RATE_BURST", "1"), trusted]);
    for (forwarded_for, status) in [
        ("1.1.1.1", 200),
        ("2.2.2.2", 200),
        ("1.1.1.1", 429),
        ("6.6.6.6, 1.1.1.1", 429),
        ("1.1.1.1, 10.9.9.9", 429),
    ] {
        let answer = claim_from(&rig, "10.0.0.1", forwarded_for, "lab-token-1").await;
        assert_eq!(answer.status, status, "{forwarded_for}: {answer:?}");
    }
}
