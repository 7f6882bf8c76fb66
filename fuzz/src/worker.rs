//! A NATS request, as an allocator processes it: the verb on the first line, then the body.

use crate::{is_refusal, split_line};
use allocator::{Allocator, Config, Metrics, Ports};
use bytes::Bytes;
use contract::{Allocation, Fault, FaultCode, Verb, WorkerRole};
use domain::{ExternalId, LeasePolicy, NewSandbox, PoolName, Pools, ProviderName, SandboxId, SandboxName};
use ports::bus::{Context, Handler as _, Request};
use ports::provider::Providers;
use ports::random::Rng;
use ports::store::Store as _;
use prometheus::Registry;
use runtime::pools::PoolWatch;
use runtime::recorder::{EventLogMetrics, Recorder};
use runtime::settings::Settings;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig};
use testkit::clock::ManualClock;
use testkit::store::MemoryStore;
use tokio::runtime::{Builder, Runtime};

/// Sandboxes in the world of each input.
const SANDBOXES: usize = 3;
const SHARDS: u16 = 2;
/// As the settings have it by default.
const LEASES: LeasePolicy = LeasePolicy {
    duration: Duration::from_secs(4 * 3_600),
    duration_max: Duration::from_secs(48 * 3_600),
    total_max: Duration::from_secs(72 * 3_600),
    grace: Duration::from_secs(1_800),
};

/// What all inputs share.
struct Frame {
    runtime: Runtime,
    config: Config,
    metrics: Metrics,
    event_log: EventLogMetrics,
}

static FRAME: LazyLock<Frame> = LazyLock::new(Frame::new);

/// Every body has an answer that its caller can act on, an unknown field changes nothing in a caller's request and refuses
/// an operator's, and no cursor shows a sandbox of another pool.
pub fn hold(input: &[u8]) {
    let Some((verb, body)) = split_line(input) else { return };
    let Some(verb) = Verb::of(WorkerRole::Allocator).find(|known| known.as_str() == verb) else { return };
    judge(verb, &ask(verb, Bytes::copy_from_slice(body)));
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else { return };
    let plain = ask(verb, Value::Object(fields.clone()).to_string().into());
    let entries = plain.as_ref().ok().and_then(|page| page.get("sandboxes")?.as_array());
    if let Some(pool) = fields.get("pool").filter(|pool| pool.is_string()) {
        for entry in entries.into_iter().flatten() {
            assert_eq!(entry.get("pool"), Some(pool), "a sandbox of another pool: {fields:?}");
        }
    }
    if fields.insert("of_a_later_build".to_owned(), Value::Bool(true)).is_some() {
        return;
    }
    let later = comparable(ask(verb, Value::Object(fields).to_string().into()));
    match verb {
        Verb::Allocate
        | Verb::Release
        | Verb::Get
        | Verb::Extend
        | Verb::Stats
        | Verb::Health
        | Verb::Pools => assert_eq!(later, comparable(plain), "an unknown field is passed over"),
        // A misspelled filter would select more than is meant, and a pause without its end would last for ever.
        _ => assert!(
            matches!(later, Err(FaultCode::InvalidRequest | FaultCode::Forbidden)),
            "an unknown field is refused: {later:?}"
        ),
    }
}

/// The parts that are equal in two worlds. Refusals may state a position in the body.
fn comparable(answer: Result<Value, Fault>) -> Result<Value, FaultCode> {
    answer.map_err(|fault| fault.code)
}

fn judge(verb: Verb, answer: &Result<Value, Fault>) {
    match answer {
        Err(fault) => {
            assert_ne!(fault.code, FaultCode::InternalError, "{}", fault.message);
            assert!(is_refusal(&fault.message), "{:?}", fault.message);
        }
        Ok(body) => {
            assert!(body.is_object(), "an answer is an object: {body}");
            if verb == Verb::Allocate {
                let claim: Allocation = serde_json::from_value(body.clone()).expect("an allocation");
                assert!(claim.expires_at > claim.allocated_at, "a lease of no length");
                assert_eq!(claim.allocated_at, crate::NOW.get());
            }
        }
    }
}

/// The answer of an allocator in a separate world.
fn ask(verb: Verb, body: Bytes) -> Result<Value, Fault> {
    let frame = &*FRAME;
    frame.runtime.block_on(async {
        let allocator = frame.allocator().await;
        let context = Context {
            request_id: "r-1".to_owned(),
            deadline_ms: None,
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: contract::Principal::default(),
        };
        let answer = allocator.handle(Request { verb, context, body }).await;
        answer.body.map(|body| serde_json::from_slice(&body).expect("an answer is JSON"))
    })
}

fn sandbox(number: usize) -> Option<NewSandbox> {
    Some(NewSandbox {
        id: SandboxId::parse(&number.to_string()).ok()?,
        name: SandboxName::parse(&format!("lab-{number}")).ok()?,
        external_id: ExternalId::parse(&format!("identity/accounts/{number}")).ok()?,
        pool: PoolName::parse("main").ok()?,
        descriptor: domain::Descriptor::default(),
    })
}

// === impl Frame ===

impl Frame {
    fn new() -> Self {
        let env = BTreeMap::new();
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        let config = settings.finish(config).expect("good settings");
        let registry = Registry::new();
        Self {
            runtime: Builder::new_current_thread().enable_all().build().expect("a runtime"),
            config,
            metrics: Metrics::register(&registry).expect("an empty registry"),
            event_log: EventLogMetrics::register(&registry).expect("an empty registry"),
        }
    }

    async fn allocator(&self) -> Allocator {
        let clock = Arc::new(ManualClock::at(crate::NOW));
        let random = Arc::new(Rng::seeded(7));
        let store = Arc::new(MemoryStore::new(SHARDS));
        for sandbox in (1..=SANDBOXES).filter_map(sandbox) {
            let inserted = store.insert(&sandbox, crate::NOW).await;
            inserted.expect("memory takes it");
        }
        let pools = PoolWatch::new(Pools::parse("dns=dns-,main").expect("good pools"), LEASES);
        pools.open(store.as_ref()).await.expect("memory takes them");
        let bus = Arc::new(MemoryBus::new(MemoryConfig::default(), clock.clone(), random.clone()));
        let ports = Ports {
            clock: clock.clone(),
            random,
            store,
            deletions: bus.clone(),
            provisions: bus.clone(),
            nodes: bus.clone(),
            deletion_control: bus.clone(),
            switch: bus.clone(),
            census: bus.clone(),
            upkeep: bus.clone(),
            recorder: Recorder::new(clock, bus, self.event_log.clone()),
            providers: Providers::default(),
            provider_names: Arc::new([ProviderName::csp()].into()),
            pools,
        };
        Allocator::new(self.config.clone(), ports, self.metrics.clone())
    }
}
