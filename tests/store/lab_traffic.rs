//! Claims and releases for a few labs while something else happens, and what the lists of these labs show afterwards.

use crate::fixtures::{LATER, NOW, claim_key, grant_of, id, new_sandbox};
use ::dynamodb::DynamoStore;
use domain::{LabId, SandboxId, UnixSeconds};
use ports::store::{Store, StoreError};
use std::collections::BTreeSet;
use std::ops::Range;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Sandboxes are held for these labs in turn.
pub(crate) const LABS: u32 = 3;
/// Claims that have to succeed before and after a step.
const CLAIMS: u32 = 12;
/// Attempts of one call; each takes several of the SDK.
const ATTEMPTS_MAX: u32 = 100;
/// Page size of a list: small, so that it takes several pages.
const PAGE: u16 = 5;

/// Claims sandboxes, and releases every second one, until it is stopped.
pub(crate) struct Traffic {
    /// Also stops it if the case is given up.
    stop: DropGuard,
    first: u32,
    /// The number of the next sandbox.
    next: watch::Receiver<u32>,
    running: JoinHandle<()>,
}

/// Repeats a call until it is answered. DynamoDB Local fails some writes while it adds an index, and nothing else writes
/// to the same sandbox, so the answer does not matter.
async fn answered<T, F: Future<Output = Result<T, StoreError>>>(call: impl Fn() -> F) -> T {
    for _ in 0..ATTEMPTS_MAX {
        match call().await {
            Err(StoreError::Unavailable { .. }) => {}
            answer => return answer.expect("the engine fails only for a while"),
        }
    }
    panic!("no answer after {ATTEMPTS_MAX} attempts");
}

pub(crate) fn lab(number: u32) -> LabId {
    LabId::parse(&format!("lab-{}", number % LABS)).unwrap()
}

// === impl Traffic ===

impl Traffic {
    /// Numbers the sandboxes from `first` on.
    pub(crate) fn start(store: &DynamoStore, first: u32) -> Self {
        let (sender, next) = watch::channel(first);
        let (store, stop) = (store.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            let store: &dyn Store = &store;
            let mut number = first;
            while !stopped.is_cancelled() {
                let fresh = new_sandbox(number);
                answered(|| store.insert(&fresh, NOW)).await;
                let candidate =
                    answered(|| store.sandbox(&fresh.id)).await.expect("it was added").candidate();
                let mut grant = grant_of(&candidate, &claim_key("owner-1", &format!("key-{number}")));
                grant.lab = Some(lab(number));
                grant.granted_at = UnixSeconds::new(NOW.get() + u64::from(number / 4));
                answered(|| store.grant(&grant)).await;
                // Six numbers have every combination of lab and release.
                if number % 6 < LABS {
                    answered(|| store.release(&fresh.id, &grant.claim.owner, None, None, LATER)).await;
                }
                number += 1;
                sender.send_replace(number);
            }
        });
        Self { stop: stop.drop_guard(), first, next, running }
    }

    /// Waits for some more claims.
    pub(crate) async fn goes_on(&mut self) {
        let wanted = *self.next.borrow() + CLAIMS;
        self.next.wait_for(|next| *next >= wanted).await.expect("the traffic does not fail");
    }

    /// Ends it; returns the numbers of its sandboxes.
    pub(crate) async fn end(self) -> Range<u32> {
        drop(self.stop);
        self.running.await.unwrap();
        self.first..*self.next.borrow()
    }
}

/// What `stores` list for a lab; they answer in turn, page by page.
pub(crate) async fn listed(stores: &[&DynamoStore], lab: &LabId) -> Vec<SandboxId> {
    let (mut found, mut after) = (Vec::new(), None);
    for store in stores.iter().cycle() {
        let page = store.held_by_lab(lab, after.as_ref(), PAGE).await.unwrap();
        assert_eq!(page.unreadable, []);
        found.extend(page.sandboxes.into_iter().map(|sandbox| sandbox.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    found
}

/// Every lab lists exactly the sandboxes that are held for it. These are the numbers of all sandboxes.
pub(crate) async fn assert_lists_the_truth(store: &DynamoStore, numbers: &[Range<u32>]) {
    let mut held = vec![BTreeSet::new(); LABS as usize];
    for number in numbers.iter().cloned().flatten() {
        let sandbox = store.sandbox(&id(number)).await.unwrap().expect("sandboxes do not vanish");
        if let Some(held_for) = sandbox.lease().and_then(|lease| lease.lab.as_ref()) {
            assert_eq!(*held_for, lab(number));
            held[(number % LABS) as usize].insert(sandbox.id);
        }
    }
    for (number, held) in (0..LABS).zip(held) {
        assert!(!held.is_empty(), "the test holds sandboxes for every lab");
        let found = listed(&[store], &lab(number)).await;
        assert_eq!(found.len(), held.len(), "twice in the list");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), held, "{}", lab(number));
    }
}
