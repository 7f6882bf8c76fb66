//! The throttles of the providers: a key for each with its state, changed by compare-and-set, and one key with the
//! operators' switch.
//! [`runtime::throttle`] has the rules; this module stores the state for the fleet.

use super::judge::Refusal;
use super::publish::encode;
use super::{NatsBus, failed};
use async_nats::jetstream::consumer;
use async_nats::jetstream::kv::{CreateErrorKind, Entry, Operation, Store};
use async_trait::async_trait;
use bytes::Bytes;
use contract::throttle::{PoolDeletions, ProviderDeletions};
use contract::{DeletionsStatus, Pause, ThrottleState};
use domain::{ProviderName, SandboxId};
use futures_util::TryStreamExt as _;
use ports::bus::{
    Admission, BusError, CachedSwitch, CallOutcome, Confirmed, DeletionControl, OutcomeEffect, Permit,
    ProviderThrottle, SwitchCache, ThrottleView,
};
use runtime::throttle::{ThrottleRules, by_the_clock_of};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Key of the first provider's state.
const THROTTLE_KEY: &str = "line.provider";
/// What the keys of further providers begin with.
const FURTHER_THROTTLES: &str = "line.provider.";
/// Key of the operators' switch.
const PAUSE_KEY: &str = "deletions.pause";
/// Attempts of a writer before it gives up. Each failed one is another worker's progress, so only a broken bucket gets
/// there.
const ROUNDS_MAX: u32 = 1_000;
/// Time-out of reading the queue; the throttle itself is shown without it.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// A pause as stored in the bucket.
#[derive(Serialize, Deserialize)]
struct KeptPause {
    #[serde(flatten)]
    pause: Pause,
    /// The version of the switch in the table; absent if an operator or an older build wrote the entry directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

/// The throttle of one provider.
#[derive(Clone, Debug)]
pub struct KvThrottle {
    bus: NatsBus,
    key: String,
    rules: ThrottleRules,
    /// Held by the task of this process that changes the state.
    lock: Arc<Mutex<()>>,
}

#[async_trait]
impl ProviderThrottle for KvThrottle {
    async fn acquire(&self) -> Result<Admission, BusError> {
        let pause = self.bus.pause_switch().await?;
        self.move_on(|throttle, now_ms| self.rules.acquire(throttle, pause.as_ref(), now_ms)).await
    }

    async fn confirm(&self, permit: Permit) -> Result<Confirmed, BusError> {
        let (throttle, pause) = self.read().await?;
        Ok(self.rules.confirm(&throttle, pause.as_ref(), permit, self.bus.time.now_ms()))
    }

    async fn report_outcome(
        &self,
        permit: Permit,
        sandbox: &SandboxId,
        end: CallOutcome,
    ) -> Result<OutcomeEffect, BusError> {
        self.move_on(|throttle, now_ms| {
            self.rules.report_outcome(throttle, permit, sandbox.as_str(), end, now_ms)
        })
        .await
    }

    async fn view(&self) -> Result<ThrottleView, BusError> {
        let (throttle, pause) = self.read().await?;
        Ok(self.rules.view(&throttle, pause.as_ref(), self.bus.time.now_ms()))
    }
}

#[async_trait]
impl ProviderThrottle for NatsBus {
    async fn acquire(&self) -> Result<Admission, BusError> {
        self.throttle_of(&ProviderName::csp()).acquire().await
    }

    async fn confirm(&self, permit: Permit) -> Result<Confirmed, BusError> {
        self.throttle_of(&ProviderName::csp()).confirm(permit).await
    }

    async fn report_outcome(
        &self,
        permit: Permit,
        sandbox: &SandboxId,
        end: CallOutcome,
    ) -> Result<OutcomeEffect, BusError> {
        self.throttle_of(&ProviderName::csp()).report_outcome(permit, sandbox, end).await
    }

    async fn view(&self) -> Result<ThrottleView, BusError> {
        self.throttle_of(&ProviderName::csp()).view().await
    }
}

#[async_trait]
impl DeletionControl for NatsBus {
    async fn pause(&self, pause: &Pause) -> Result<(), BusError> {
        let value = serde_json::to_vec(pause).map_err(failed("pause deletions"))?;
        self.refuse_unconnected("pause deletions")?;
        let put = self.bucket().await?.put(PAUSE_KEY, value.into()).await;
        put.map(|_| ()).map_err(failed("pause deletions"))
    }

    async fn resume(&self, _by: &str) -> Result<Option<Pause>, BusError> {
        self.refuse_unconnected("resume deletions")?;
        let pause = self.pause_switch().await?;
        if pause.is_some() {
            self.bucket().await?.purge(PAUSE_KEY).await.map_err(failed("resume deletions"))?;
        }
        let now_ms = self.clock.now_ms();
        Ok(pause.filter(|pause| pause.is_on(now_ms)))
    }

    async fn status(&self) -> Result<DeletionsStatus, BusError> {
        let mut status = self.throttle_of(&ProviderName::csp()).status().await?;
        for provider in self.config.further_throttles.keys() {
            let one = self.throttle_of(provider).status().await?;
            status.providers.insert(provider.to_string(), ProviderDeletions::of(one));
        }
        // Listing waits as long as the server allows; the caller has less time.
        status.pools = tokio::time::timeout(QUEUE_TIMEOUT, self.pool_queues())
            .await
            .map_err(failed("look at the queue"))??
            .into_iter()
            .collect();
        let pauses = status.pools.values().map(|pool| pool.consumer_paused_until);
        status.consumer_paused_until = pauses.max().flatten();
        Ok(status)
    }
}

#[async_trait]
impl SwitchCache for NatsBus {
    async fn cached_switch(&self) -> Result<(u64, CachedSwitch), BusError> {
        let found = self.bucket().await?.entry(PAUSE_KEY).await.map_err(failed("read the switch"))?;
        let Some(entry) = found else { return Ok((0, CachedSwitch::Lost)) };
        if entry.operation != Operation::Put {
            return Ok((entry.revision, CachedSwitch::Off));
        }
        // The writer of an unreadable entry wanted to stop the deletions.
        let KeptPause { pause, version } = serde_json::from_slice(&entry.value).unwrap_or_else(|_| {
            let reason = Some("the switch holds something that cannot be read".to_owned());
            KeptPause { pause: Pause { by: "unknown".to_owned(), reason, ..Pause::default() }, version: None }
        });
        Ok((entry.revision, CachedSwitch::On { pause, version }))
    }

    async fn cache_switch(&self, revision: u64, pause: Option<(&Pause, u64)>) -> Result<bool, BusError> {
        self.refuse_unconnected("turn the switch")?;
        let store = self.bucket().await?;
        let Some((pause, version)) = pause else {
            return match store.purge_expect_revision(PAUSE_KEY, Some(revision)).await {
                Ok(()) => Ok(true),
                Err(error) if Refusal::of(&error).is_conflict() => Ok(false),
                Err(error) => Err(failed("turn the switch")(error)),
            };
        };
        let kept = KeptPause { pause: pause.clone(), version: Some(version) };
        let value = encode(&kept, "turn the switch")?;
        Ok(write(&store, PAUSE_KEY, Some(revision), value).await?.is_some())
    }
}

// === impl KvThrottle ===

impl KvThrottle {
    /// Replaces the state by the result of `step`, if it has one, and returns the answer of `step`.
    async fn move_on<T>(
        &self,
        step: impl Fn(&ThrottleState, u64) -> (T, Option<ThrottleState>) + Send,
    ) -> Result<T, BusError> {
        let store = self.bus.bucket().await?;
        // One writer of this process at a time; several would only conflict with each other.
        let _guard = self.lock.lock().await;
        for _ in 0..ROUNDS_MAX {
            let entry = put_entry(&store, &self.key).await?;
            let throttle = entry.as_ref().map(|entry| self.state_in(entry)).unwrap_or_default();
            let now_ms = self.bus.time.now_ms();
            let (answer, next) = step(&throttle, now_ms);
            let Some(next) = next else { return Ok(answer) };
            let next = ThrottleState { written_ms: now_ms, ..next };
            let value = encode(&next, "move the throttle on")?;
            if write(&store, &self.key, entry.map(|entry| entry.revision), value).await?.is_some() {
                return Ok(answer);
            }
        }
        Err(failed("move the throttle on")("too many lost rounds"))
    }

    async fn read(&self) -> Result<(ThrottleState, Option<Pause>), BusError> {
        let store = self.bus.bucket().await?;
        let (throttle, pause) = tokio::join!(put_entry(&store, &self.key), self.bus.pause_switch());
        Ok((throttle?.as_ref().map(|entry| self.state_in(entry)).unwrap_or_default(), pause?))
    }

    async fn status(&self) -> Result<DeletionsStatus, BusError> {
        let (throttle, pause) = self.read().await?;
        Ok(self.rules.status(&throttle, pause.as_ref(), self.bus.time.now_ms()))
    }

    /// The state in an entry, relative to when the server stored it. An unreadable value counts as a new throttle,
    /// which the next writer stores.
    fn state_in(&self, entry: &Entry) -> ThrottleState {
        let throttle: ThrottleState = serde_json::from_slice(&entry.value).unwrap_or_default();
        let taken_ms = u64::try_from(entry.created.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let throttle =
            if self.bus.time.is_compared() { by_the_clock_of(throttle, taken_ms) } else { throttle };
        self.rules.bounded(&throttle, taken_ms)
    }
}

// === impl NatsBus ===

impl NatsBus {
    /// The throttle of a provider. One without settings has those of the first.
    #[must_use]
    pub fn throttle_of(&self, provider: &ProviderName) -> KvThrottle {
        let (key, lock) = if provider.is_csp() {
            (THROTTLE_KEY.to_owned(), Arc::clone(&self.throttle_lock))
        } else {
            (format!("{FURTHER_THROTTLES}{provider}"), Arc::default())
        };
        let rules = *self.config.further_throttles.get(provider).unwrap_or(&self.config.throttle);
        KvThrottle { bus: self.clone(), key, rules, lock }
    }

    async fn pause_switch(&self) -> Result<Option<Pause>, BusError> {
        Ok(match self.cached_switch().await? {
            (_, CachedSwitch::On { pause, .. }) => Some(pause),
            (_, CachedSwitch::Lost | CachedSwitch::Off) => None,
        })
    }

    /// The waiting and running deletions, from the server's consumers.
    async fn pool_queues(&self) -> Result<Vec<(String, PoolDeletions)>, BusError> {
        let stream = self
            .jetstream
            .get_stream_no_info(self.config.subjects.deletions_stream())
            .await
            .map_err(failed("look at the queue"))?;
        let infos: Vec<consumer::Info> =
            stream.consumers().try_collect().await.map_err(failed("look at the queue"))?;
        let pool = |info: &consumer::Info| self.config.subjects.pool_of_consumer(&info.name);
        Ok(infos.iter().filter_map(|info| Some((pool(info)?.to_string(), pool_deletions(info)))).collect())
    }
}

fn pool_deletions(info: &consumer::Info) -> PoolDeletions {
    let until = info.config.pause_until.filter(|_| info.paused);
    PoolDeletions {
        waiting: info.num_pending,
        under_way: u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX),
        consumer_paused_until: until.and_then(|until| u64::try_from(until.unix_timestamp()).ok()),
    }
}

pub(super) async fn put_entry(store: &Store, key: &str) -> Result<Option<Entry>, BusError> {
    let entry = store.entry(key).await.map_err(failed("read a key"))?;
    Ok(entry.filter(|entry| entry.operation == Operation::Put))
}

/// Writes a key if it still has that revision, or does not exist. Returns the new revision, or none if another writer
/// was faster.
pub(super) async fn write(
    store: &Store,
    key: &str,
    revision: Option<u64>,
    value: Bytes,
) -> Result<Option<u64>, BusError> {
    let error: Box<dyn std::error::Error + Send + Sync> = match revision {
        Some(revision) => match store.update(key, value, revision).await {
            Ok(revision) => return Ok(Some(revision)),
            Err(error) => error.into(),
        },
        None => match store.create(key, value).await {
            Ok(revision) => return Ok(Some(revision)),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => return Ok(None),
            Err(error) => error.into(),
        },
    };
    if Refusal::of(error.as_ref()).is_conflict() { Ok(None) } else { Err(failed("change a key")(error)) }
}
