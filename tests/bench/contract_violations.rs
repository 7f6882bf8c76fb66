//! Brokers that break the contract: a real ingress in front of a worker that breaks one promise.

use crate::tool::{TRANSPORTS, Transport, claim, claim_command, ports};
use async_trait::async_trait;
use bench::claim::command;
use bytes::Bytes;
use contract::{AllocateRequest, Allocation, Fault, FaultCode, Outcome, Verb, WorkerRole};
use harness::rig::{Plan, Rig};
use parking_lot::Mutex;
use ports::bus::{Answer, BusError, Handler, Request, Serve};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The promise that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Violation {
    /// None: an honest worker, to show that the violation is what is detected.
    None,
    /// The worker grants the third owner's sandbox to the seventh owner as well.
    TwoWinners,
    /// The answer to a repeat has a later end of the lease.
    LaterEnd,
    /// A repeat gets another sandbox, as if it were a new claim.
    SecondLease,
    /// The answer to a repeat says that the pool is empty.
    Exhausted,
    /// A grant that names no sandbox.
    Nothing,
}

/// Answers claims with consecutive sandbox numbers.
struct FaultyWorker {
    violation: Violation,
    next: AtomicU64,
    leases: Mutex<HashMap<String, Allocation>>,
}

/// A fleet whose only worker breaks the contract.
struct FaultyFleet {
    rig: Rig,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), BusError>>,
}

fn allocation(number: u64, expires_at: u64) -> Allocation {
    Allocation {
        sandbox_id: number.to_string(),
        name: format!("lab-{number}"),
        external_id: format!("u-{number}"),
        allocated_at: 1_000,
        expires_at,
        sfdc_account_id: None,
        lease_epoch: 1,
        status: None,
    }
}

impl FaultyWorker {
    fn allocate(&self, owner: &str) -> Result<(Outcome, Allocation), Fault> {
        let mut leases = self.leases.lock();
        if let Some(lease) = leases.get(owner).cloned() {
            return match self.violation {
                Violation::LaterEnd => Ok((Outcome::Existing, Allocation { expires_at: 9_999, ..lease })),
                Violation::SecondLease => Ok((Outcome::Created, lease)),
                Violation::Exhausted => Err(Fault::new(FaultCode::PoolExhausted, "no free sandbox")),
                _ => Ok((Outcome::Existing, lease)),
            };
        }
        let number = match self.next.fetch_add(1, Ordering::SeqCst) {
            7 if self.violation == Violation::TwoWinners => 3,
            number => number,
        };
        let lease = allocation(number, 2_000);
        leases.insert(owner.to_owned(), lease.clone());
        Ok((Outcome::Created, lease))
    }
}

#[async_trait]
impl Handler for FaultyWorker {
    async fn handle(&self, request: Request) -> Answer {
        if request.verb != Verb::Allocate {
            return Answer { outcome: None, body: Ok(Bytes::from_static(b"{}")) };
        }
        let claim: AllocateRequest = serde_json::from_slice(&request.body).unwrap();
        match self.allocate(&claim.owner) {
            Ok((outcome, _)) if self.violation == Violation::Nothing => {
                Answer { outcome: Some(outcome), body: Ok(Bytes::from_static(b"{}")) }
            }
            Ok((outcome, lease)) => {
                Answer { outcome: Some(outcome), body: Ok(serde_json::to_vec(&lease).unwrap().into()) }
            }
            Err(fault) => Answer { outcome: None, body: Err(fault) },
        }
    }
}

impl FaultyFleet {
    async fn start(violation: Violation) -> Self {
        let rig = Plan::new(0).counts(|counts| counts.allocators = 0).start_unsynced().await;
        let bus = rig.another_bus().await;
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let worker = Arc::new(FaultyWorker { violation, next: AtomicU64::new(0), leases: Mutex::default() });
        let serving =
            tokio::spawn(async move { bus.serve(WorkerRole::Allocator, worker, 64, stopping).await });
        // The ingress waits for a worker to appear, so a first claim shows that it has.
        assert_eq!(rig.api.allocate("first").await.status, 201);
        Self { rig, stop, serving }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
        self.rig.stop().await;
    }
}

async fn assert_detected(violation: Violation, words: &str, violations: u64) {
    let fleet = Box::pin(FaultyFleet::start(violation)).await;
    let arguments = ["--callers", "2", "--claims", "10", "--replay"];
    for transport in TRANSPORTS {
        if violation == Violation::TwoWinners && matches!(transport, Transport::Nats) {
            // It breaks the contract once.
            continue;
        }
        let report = claim(&fleet.rig, transport, &arguments).await;
        assert_eq!(report.check.violations, violations, "{violation:?} {transport:?}: {report:?}");
        assert!(report.check.shown[0].contains(words), "{violation:?} {transport:?}: {:?}", report.check);
        assert!(report.text().contains("BROKEN"), "{}", report.text());
    }
    fleet.stop().await;
}

#[tokio::test]
async fn sandbox_granted_to_two_owners_is_detected() {
    assert_detected(Violation::TwoWinners, "sandbox 3 was given to", 1).await;
}

#[tokio::test]
async fn repeat_with_changed_times_is_detected() {
    assert_detected(Violation::LaterEnd, "asking again", 10).await;
}

#[tokio::test]
async fn repeat_that_creates_a_lease_is_detected() {
    assert_detected(Violation::SecondLease, "second lease", 10).await;
}

#[tokio::test]
async fn refused_repeat_is_detected() {
    assert_detected(Violation::Exhausted, "POOL_EXHAUSTED", 10).await;
}

#[tokio::test]
async fn grant_without_a_sandbox_is_detected() {
    assert_detected(Violation::Nothing, "cannot be read", 10).await;
}

#[tokio::test]
async fn only_a_contract_violation_fails_the_command() {
    let env = BTreeMap::new();
    for (violation, passes) in [(Violation::None, true), (Violation::TwoWinners, false)] {
        let fleet = FaultyFleet::start(violation).await;
        let arguments = ["--callers", "2", "--claims", "10", "--output", "json"];
        let (options, _token) = claim_command(&fleet.rig, Transport::Nats, &arguments);
        let ended = command(options, &env, &ports()).await;
        assert_eq!(ended.is_ok(), passes, "{violation:?}: {ended:?}");
        if let Err(error) = ended {
            assert!(error.to_string().contains("sandbox 3 was given to"), "{error:#}");
        }
        fleet.stop().await;
    }
}
