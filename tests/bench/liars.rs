//! Brokers that lie: an ingress like any other, and behind it a worker that breaks one promise.

use crate::tool::{DOORS, Door, claim, claim_command, ports};
use async_trait::async_trait;
use bench::claim::command;
use bytes::Bytes;
use contract::{AllocateRequest, Allocation, Fault, FaultCode, Outcome, Verb};
use harness::rig::{Plan, Rig};
use ports::bus::{Answer, BusError, Handler, Request, Serve};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The promise that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// None: an honest worker, to show that it is the lie that is caught.
    None,
    /// The seventh owner gets the sandbox of the third.
    TwoWinners,
    /// The answer to a repeat names a later end.
    LaterEnd,
    /// A repeat gets another sandbox, as if it were new.
    SecondLease,
    /// The answer to a repeat says that there is nothing left.
    Exhausted,
    /// A grant that names no sandbox.
    Nothing,
}

/// Hands out numbers.
struct Liar {
    lie: Lie,
    next: AtomicU64,
    leases: Mutex<HashMap<String, Allocation>>,
}

/// A fleet whose only worker is a liar.
struct Lying {
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
    }
}

impl Liar {
    fn allocate(&self, owner: &str) -> Result<(Outcome, Allocation), Fault> {
        let mut leases = self.leases.lock().unwrap();
        if let Some(lease) = leases.get(owner).cloned() {
            return match self.lie {
                Lie::LaterEnd => Ok((Outcome::Existing, Allocation { expires_at: 9_999, ..lease })),
                Lie::SecondLease => Ok((Outcome::Created, lease)),
                Lie::Exhausted => Err(Fault::new(FaultCode::PoolExhausted, "no free sandbox")),
                _ => Ok((Outcome::Existing, lease)),
            };
        }
        let number = match self.next.fetch_add(1, Ordering::SeqCst) {
            7 if self.lie == Lie::TwoWinners => 3,
            number => number,
        };
        let lease = allocation(number, 2_000);
        leases.insert(owner.to_owned(), lease.clone());
        Ok((Outcome::Created, lease))
    }
}

#[async_trait]
impl Handler for Liar {
    async fn handle(&self, request: Request) -> Answer {
        if request.verb != Verb::Allocate {
            return Answer { outcome: None, body: Ok(Bytes::from_static(b"{}")) };
        }
        let claim: AllocateRequest = serde_json::from_slice(&request.body).unwrap();
        match self.allocate(&claim.owner) {
            Ok((outcome, _)) if self.lie == Lie::Nothing => {
                Answer { outcome: Some(outcome), body: Ok(Bytes::from_static(b"{}")) }
            }
            Ok((outcome, lease)) => {
                Answer { outcome: Some(outcome), body: Ok(serde_json::to_vec(&lease).unwrap().into()) }
            }
            Err(fault) => Answer { outcome: None, body: Err(fault) },
        }
    }
}

impl Lying {
    async fn start(lie: Lie) -> Self {
        let rig = Plan::new(0).counts(|counts| counts.allocators = 0).start_unsynced().await;
        let bus = rig.another_bus().await;
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let liar = Arc::new(Liar { lie, next: AtomicU64::new(0), leases: Mutex::default() });
        let serving = tokio::spawn(async move { bus.serve(liar, 64, stopping).await });
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

async fn assert_caught(lie: Lie, words: &str, violations: u64) {
    let lying = Box::pin(Lying::start(lie)).await;
    let arguments = ["--callers", "2", "--claims", "10", "--replay"];
    for door in DOORS {
        if lie == Lie::TwoWinners && matches!(door, Door::Nats) {
            // It lies once.
            continue;
        }
        let report = claim(&lying.rig, door, &arguments).await;
        assert_eq!(report.check.violations, violations, "{lie:?} {door:?}: {report:?}");
        assert!(report.check.shown[0].contains(words), "{lie:?} {door:?}: {:?}", report.check);
        assert!(report.text().contains("BROKEN"), "{}", report.text());
    }
    lying.stop().await;
}

#[tokio::test]
async fn a_sandbox_for_two_owners_is_caught() {
    assert_caught(Lie::TwoWinners, "sandbox 3 was given to", 1).await;
}

#[tokio::test]
async fn a_repeat_with_other_times_is_caught() {
    assert_caught(Lie::LaterEnd, "asking again", 10).await;
}

#[tokio::test]
async fn a_repeat_that_makes_a_lease_is_caught() {
    assert_caught(Lie::SecondLease, "second lease", 10).await;
}

#[tokio::test]
async fn a_repeat_that_is_refused_is_caught() {
    assert_caught(Lie::Exhausted, "POOL_EXHAUSTED", 10).await;
}

#[tokio::test]
async fn a_grant_of_nothing_is_caught() {
    assert_caught(Lie::Nothing, "cannot be read", 10).await;
}

#[tokio::test]
async fn an_honest_worker_passes_and_a_lie_fails_the_command() {
    let env = BTreeMap::new();
    for (lie, passes) in [(Lie::None, true), (Lie::TwoWinners, false)] {
        let lying = Lying::start(lie).await;
        let arguments = ["--callers", "2", "--claims", "10", "--output", "json"];
        let (options, _token) = claim_command(&lying.rig, Door::Nats, &arguments);
        let ended = command(options, &env, &ports()).await;
        assert_eq!(ended.is_ok(), passes, "{lie:?}: {ended:?}");
        if let Err(error) = ended {
            assert!(error.to_string().contains("sandbox 3 was given to"), "{error:#}");
        }
        lying.stop().await;
    }
}
