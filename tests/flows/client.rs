//! The typed client (`client`, `broker client`): the same cases over NATS and over HTTP.

use async_trait::async_trait;
use bytes::Bytes;
use client::{Claim, Client, ClientError, Timeouts};
use contract::{FaultCode, Outcome, Verb};
use domain::{IdempotencyKey, LabId, OwnerId, SandboxId, StateName};
use harness::process;
use harness::rig::{Plan, Rig};
use harness::servers::as_test_user;
use harness::wait::{TIMEOUT, eventually};
use http_client::HttpRequests;
use parking_lot::Mutex;
use ports::bus::{Context, Reply, RequestError, Requests};
use ports::clock::SystemClock;
use ports::random::Rng;
use runtime::settings::Secret;
use serde_json::Value;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A transport that counts its requests, and handles the first ones as the test wants.
struct Watched {
    transport: Arc<dyn Requests>,
    asked: AtomicUsize,
    mishaps: Mutex<Vec<Mishap>>,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// It is carried out, and its reply is lost.
    ReplyLost,
    /// A worker answers that all workers are busy.
    Busy,
    /// A worker answers that the table is unavailable.
    StoreAway,
}

#[async_trait]
impl Requests for Watched {
    async fn request(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        patience: Duration,
    ) -> Result<Reply, RequestError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mishap = self.mishaps.lock().pop();
        let refused = |code, seconds| {
            let mut fault = contract::Fault::new(code, "not now");
            fault.retry_after_seconds = Some(seconds);
            let body = serde_json::to_vec(&fault.body(&context.request_id)).unwrap();
            Ok(Reply { outcome: None, is_fault: true, body: body.into() })
        };
        match mishap {
            None => self.transport.request(verb, context, body, patience).await,
            Some(Mishap::ReplyLost) => {
                self.transport.request(verb, context, body, patience).await?;
                Err(RequestError::TimedOut)
            }
            Some(Mishap::Busy) => refused(FaultCode::NoWorkers, 0),
            Some(Mishap::StoreAway) => refused(FaultCode::StoreUnavailable, 1),
        }
    }

    fn is_connected(&self) -> bool {
        self.transport.is_connected()
    }
}

/// Both transports of a fleet, by name, each watched. `token` is for HTTP.
fn transports(rig: &Rig, token: &str) -> [(&'static str, Arc<Watched>); 2] {
    let http = HttpRequests::new(&rig.api.root, Secret::new(token)).unwrap();
    let watched = |transport: Arc<dyn Requests>| {
        Arc::new(Watched { transport, asked: AtomicUsize::new(0), mishaps: Mutex::default() })
    };
    [("nats", watched(Arc::new(rig.bus.clone()))), ("http", watched(Arc::new(http)))]
}

fn client(transport: &Arc<Watched>, call: Duration) -> Client {
    // On a busy machine, a slow attempt must not count as lost.
    let timeouts = Timeouts { call, attempt: Duration::from_secs(20) };
    Client::new(transport.clone(), Arc::new(SystemClock), Arc::new(Rng::unseeded()), timeouts)
}

const CALL: Duration = Duration::from_secs(60);

fn owner(name: &str) -> OwnerId {
    OwnerId::parse(name).unwrap()
}

fn code_of<T>(ended: &Result<T, ClientError>) -> Option<FaultCode> {
    match ended {
        Err(ClientError::Refused(refusal)) => Some(refusal.code),
        _ => None,
    }
}

#[tokio::test]
async fn claim_read_extend_release_over_http_and_nats() {
    let rig = Plan::new(4).start().await;
    for (name, transport) in transports(&rig, &rig.api.lab_token) {
        let client = client(&transport, CALL);
        let owner = owner(&format!("student-{name}"));
        let claim = Claim {
            key: Some(IdempotencyKey::parse("first").unwrap()),
            lab: Some(LabId::parse("dns-basics").unwrap()),
            ..Claim::of(owner.clone())
        };
        let claimed = client.allocate(&claim).await.unwrap();
        assert_eq!(claimed.outcome, Outcome::Created, "{name}");
        let again = client.allocate(&claim).await.unwrap();
        assert_eq!((again.outcome, &again.lease), (Outcome::Existing, &claimed.lease), "{name}");
        let other = Claim { key: Some(IdempotencyKey::parse("second").unwrap()), ..claim.clone() };
        let other = client.allocate(&other).await.unwrap().lease;
        assert_ne!(other.sandbox_id, claimed.lease.sandbox_id, "{name}: another key is another claim");

        let id = SandboxId::parse(&claimed.lease.sandbox_id).unwrap();
        let view = client.get(&id, &owner).await.unwrap();
        assert_eq!((view.status.as_str(), view.track_name.as_deref()), ("allocated", Some("dns-basics")));
        let epoch = claimed.lease.lease_epoch;
        let longer = client.extend(&id, &owner, 6, Some(epoch)).await.unwrap();
        assert_eq!(longer.expires_at, claimed.lease.allocated_at + 6 * 3_600, "{name}");
        let ended = client.extend(&id, &owner, 7, Some(epoch + 1)).await;
        assert_eq!(code_of(&ended), Some(FaultCode::InvalidState), "{name}: another lease");

        let released = client.release(&id, &owner, None).await.unwrap();
        assert_eq!(client.release(&id, &owner, None).await.unwrap(), released, "{name}");
        rig.until_state(id.as_str(), StateName::Deleted).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn stats_are_forbidden_for_a_lab_token() {
    let rig = Plan::new(3).start().await;
    for (name, transport) in transports(&rig, &rig.api.admin_token) {
        assert_eq!(client(&transport, CALL).stats().await.unwrap().all.available, 3, "{name}");
    }
    let [(_, nats), (_, http)] = transports(&rig, &rig.api.lab_token);
    assert_eq!(code_of(&client(&http, CALL).stats().await), Some(FaultCode::Forbidden));
    assert_eq!(client(&nats, CALL).health().await.unwrap().store, "ok");
    rig.stop().await;
}

#[tokio::test]
async fn permanent_refusal_is_not_retried() {
    let rig = Plan::new(2).start().await;
    let mine = client(&transports(&rig, &rig.api.lab_token)[0].1, CALL);
    let lease = mine.allocate(&Claim::of(owner("student-1"))).await.unwrap().lease;
    let id = SandboxId::parse(&lease.sandbox_id).unwrap();
    let nowhere = SandboxId::parse("nowhere").unwrap();
    for (name, transport) in transports(&rig, &rig.api.lab_token) {
        let client = client(&transport, CALL).named("r-refused");
        let ended = client.get(&id, &owner("student-2")).await;
        assert_eq!(code_of(&ended), Some(FaultCode::NotSandboxOwner), "{name}");
        let Err(ClientError::Refused(refusal)) = ended else { panic!("{name}") };
        assert_eq!(refusal.request_id, "r-refused", "{name}");
        let ended = client.release(&nowhere, &owner("student-2"), None).await;
        assert_eq!(code_of(&ended), Some(FaultCode::NotFound), "{name}");
        assert_eq!(transport.asked.load(Ordering::SeqCst), 2, "{name}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn call_survives_lost_reply_busy_workers_and_table_outage() {
    let rig = Plan::new(4).start().await;
    for (name, transport) in transports(&rig, &rig.api.lab_token) {
        // The last element applies first.
        *transport.mishaps.lock() = vec![Mishap::StoreAway, Mishap::ReplyLost, Mishap::Busy];
        let owner = owner(&format!("student-{name}"));
        let before = rig.count(StateName::Allocated).await;
        let claimed = client(&transport, CALL).allocate(&Claim::of(owner.clone())).await.unwrap();
        assert_eq!(transport.asked.load(Ordering::SeqCst), 4, "{name}");
        // Over NATS all attempts are one request, which made the lease; over HTTP each is a separate request.
        let outcome = if name == "nats" { Outcome::Created } else { Outcome::Existing };
        assert_eq!(claimed.outcome, outcome, "{name}: the lease of the lost reply");
        assert_eq!(rig.count(StateName::Allocated).await, before + 1, "{name}: no second one");
        *transport.mishaps.lock() = vec![Mishap::ReplyLost];
        let id = SandboxId::parse(&claimed.lease.sandbox_id).unwrap();
        let released = client(&transport, CALL).release(&id, &owner, None).await.unwrap();
        assert_eq!(
            (released.status.as_str(), transport.asked.load(Ordering::SeqCst)),
            ("pending_deletion", 6)
        );
    }
    rig.stop().await;
}

#[tokio::test]
async fn call_without_workers_fails_at_the_deadline() {
    let mut rig = Plan::new(1).counts(|counts| counts.allocators = 0).start_unsynced().await;
    let [(_, nats), (_, http)] = transports(&rig, &rig.api.lab_token);
    eventually("a connection", TIMEOUT, || async { if nats.is_connected() { Ok(()) } else { Err("none") } })
        .await;
    let call = Duration::from_secs(5);
    let claim = Claim::of(owner("student-1"));
    let ended = client(&nats, call).allocate(&claim).await.unwrap_err();
    assert!(matches!(ended, ClientError::Unanswered { .. }) && ended.may_pass(), "{ended}");
    assert!(nats.asked.load(Ordering::SeqCst) > 1, "an absent worker is known at once, and asked again");
    let ended = client(&http, call).allocate(&claim).await;
    // Over HTTP the ingress reports the missing workers; on a slow machine its answer may come after the call's
    // deadline.
    let is_lost = matches!(ended, Err(ClientError::Unanswered { .. }));
    assert!(is_lost || code_of(&ended) == Some(FaultCode::NoWorkers), "{ended:?}");
    rig.stop_fleet().await.unwrap();
    let ended = client(&http, call).allocate(&claim).await.unwrap_err();
    assert!(matches!(ended, ClientError::Unanswered { .. }), "{ended}");
}

#[tokio::test]
async fn client_command_names_a_server_that_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "lab-token").unwrap();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (http, nats) = (format!("http://{unused}"), format!("nats://user:s3cret@{unused}"));
    let short = ["--patience-seconds", "1", "health"];
    for (transport, expected) in [
        (
            &["--http", &http, "--token-file", token.to_str().unwrap()][..],
            "the broker has not answered: no connection",
        ),
        (&["--nats", &nats], "no connection to NATS"),
    ] {
        let output = process::run(&[&["client"], transport, &short].concat(), &[]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains(expected) && said.contains(&unused.to_string()), "{said}");
        assert!(!said.contains("message queue") && !said.contains("s3cret"), "{said}");
    }
    let output = process::run(&["client", "health"], &[("HOME", folder.path().to_str().unwrap())]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("--http, --nats or a context"), "{said}");
}

/// Runs `broker client` over a transport; returns its exit code and its output.
async fn run(rig: &Rig, transport: &[&str], call: &[&str]) -> (i32, Value, String) {
    let arguments = [&["client"], transport, call].concat();
    let variables = [("SUBJECT_PREFIX", rig.env["SUBJECT_PREFIX"].as_str())];
    let output = process::run(&arguments, &variables).await;
    let printed = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), serde_json::from_str(&printed).unwrap_or(Value::Null), said)
}

#[tokio::test]
async fn client_command_uses_http_or_nats_and_maps_exit_codes() {
    let rig = Plan::new(4).start().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, &rig.api.lab_token).unwrap();
    let nats_url = as_test_user(&rig.env["NATS_URL"]);
    let http = ["--http", rig.api.root.as_str(), "--token-file", token.to_str().unwrap()];
    for transport in [&["--nats", nats_url.as_str()][..], &http] {
        let owner = format!("student-{}", &transport[0][2..]);
        let claim = ["allocate", &owner, "--key", "first", "--lab", "dns-basics"];
        let (code, lease, said) = run(&rig, transport, &claim).await;
        // On a slow machine the first attempt counts as lost, and the second one returns the same lease.
        assert!(code == 0 && lease["outcome"].is_string(), "{code} {lease} {said}");
        let (_, again, _) = run(&rig, transport, &claim).await;
        assert_eq!(
            (&again["outcome"], &again["sandbox_id"]),
            (&Value::from("existing"), &lease["sandbox_id"])
        );
        let id = lease["sandbox_id"].as_str().unwrap();
        let (code, longer, said) = run(&rig, transport, &["extend", id, &owner, "--hours", "6"]).await;
        assert_eq!((code, longer["expires_at"].is_u64()), (0, true), "{said}");
        let (code, health, said) = run(&rig, transport, &["health"]).await;
        assert_eq!((code, &health["store"]), (0, &Value::from("ok")), "{said}");
        let (code, _, said) =
            run(&rig, transport, &["--request-id", "by-hand", "get", id, "a-stranger"]).await;
        assert_eq!((code, said.contains("NOT_SANDBOX_OWNER, request by-hand")), (3, true), "{said}");
        let (code, released, said) = run(&rig, transport, &["release", id, &owner]).await;
        assert_eq!((code, &released["status"]), (0, &Value::from("pending_deletion")), "{said}");
        // There is not enough time for the half minute that this failure's `Retry-After` asks for.
        let short = ["--patience-seconds", "20", "allocate", &owner, "--name-prefix", "no-such-name"];
        let (code, _, said) = run(&rig, transport, &short).await;
        assert_eq!((code, said.contains("POOL_EXHAUSTED")), (4, true), "{said}");
    }
    rig.stop().await;
}
