//! The checks behind `/readyz` of the ingress: whether NATS answers, and whether a worker reaches the store.

use async_trait::async_trait;
use bytes::Bytes;
use contract::{HealthReply, Verb};
use ports::bus::{Context, RequestError, Requests};
use ports::clock::Clock;
use ports::random::Random;
use runtime::check::Check;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

use crate::error::public_words;

/// Time-out of a worker's answer; shorter than the 2 s that `/readyz` gives every check.
pub const HEALTH_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long a result about the store is cached. `/readyz` is open to any caller, who could otherwise cause any rate of
/// requests to the store.
pub const HEALTH_FRESH_MS: u64 = 1_000;

/// Whether NATS answers.
struct QueueCheck {
    requests: Arc<dyn Requests>,
}

/// Whether a worker and its store answer.
struct StoreCheck {
    requests: Arc<dyn Requests>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    // Held during a check, so that concurrent requests wait for its result and do not check again.
    last: Mutex<Option<Finding>>,
}

struct Finding {
    found_at_ms: u64,
    finding: Result<(), String>,
}

/// The checks of an ingress that relays through `requests`.
#[must_use]
pub fn checks(
    requests: &Arc<dyn Requests>,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> Vec<Arc<dyn Check>> {
    let store = StoreCheck {
        requests: Arc::clone(requests),
        clock: Arc::clone(clock),
        random: Arc::clone(random),
        last: Mutex::new(None),
    };
    vec![Arc::new(QueueCheck { requests: Arc::clone(requests) }), Arc::new(store)]
}

// === impl QueueCheck ===

#[async_trait]
impl Check for QueueCheck {
    fn name(&self) -> &'static str {
        "queue"
    }

    async fn check(&self) -> Result<(), String> {
        self.requests.probe().await
    }
}

// === impl StoreCheck ===

impl StoreCheck {
    async fn ask(&self) -> Result<(), String> {
        let context = Context::own(self.clock.as_ref(), self.random.as_ref(), HEALTH_TIMEOUT);
        let body = Bytes::from_static(b"{}");
        match self.requests.request(Verb::Health, &context, body, HEALTH_TIMEOUT).await {
            Ok(reply) if reply.is_fault => Err("a worker answers with a fault".to_owned()),
            Ok(reply) => match serde_json::from_slice::<HealthReply>(&reply.body) {
                Ok(HealthReply { store }) if store == "ok" => Ok(()),
                Ok(HealthReply { store }) => Err(public_words(&store)),
                Err(_) => Err("a worker's answer could not be read".to_owned()),
            },
            Err(RequestError::NoResponders) => Err("no worker is available".to_owned()),
            Err(RequestError::TimedOut) => Err("no worker answers in time".to_owned()),
            Err(RequestError::Disconnected) => Err("not connected to the queue".to_owned()),
        }
    }
}

#[async_trait]
impl Check for StoreCheck {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn check(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        let now_ms = self.clock.now_ms();
        if let Some(Finding { found_at_ms, finding }) = &*last
            && now_ms.saturating_sub(*found_at_ms) < HEALTH_FRESH_MS
        {
            return finding.clone();
        }
        let finding = self.ask().await;
        *last = Some(Finding { found_at_ms: self.clock.now_ms(), finding: finding.clone() });
        finding
    }
}
