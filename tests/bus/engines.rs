//! The buses that the suite runs on.

use async_nats::jetstream::{self, stream};
use contract::{DeletionWork, Event, ParkedDeletion, Subjects, ThrottleState, TickKind, headers};
use domain::{SandboxId, UnixSeconds};
use futures_util::TryStreamExt as _;
use harness::servers;
use harness::wait::{TIMEOUT, eventually};
use nats::{LinkConfig, NatsBus, NatsConfig};
use ports::bus::{
    CensusStore, DeletionControl, DeletionQueue, Deletions, Discovery, EventFeed, EventLog, NodeRequests,
    ProviderThrottle, Requests, Serve, ServeNode, TableMarks, TickQueue, TickTurns, Ticks, Upkeep,
};
use ports::clock::{Clock, SystemClock};
use ports::random::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use testkit::bus::{MemoryBus, MemoryConfig, ParkedCopy};
use testkit::clock::settle;
use tokio_util::sync::CancellationToken;

mod provisions;

pub(crate) use provisions::ProvisionBus;

/// A trait that combines all these, implemented by every type that has them.
macro_rules! all_of {
    ($(#[$doc:meta])* $name:ident: $first:ident $(+ $port:ident)+) => {
        $(#[$doc])*
        pub(crate) trait $name: $first $(+ $port)+ {}

        impl<B> $name for B where B: $first $(+ $port)+ {}
    };
}

all_of! {
    /// All ports of a bus.
    Bus: Requests + Serve + Deletions + DeletionQueue + Ticks + TickQueue + TickTurns + ProviderThrottle + DeletionControl + Upkeep + EventLog
        + CensusStore + TableMarks + EventFeed + Discovery + NodeRequests + ServeNode
}

/// The kind of bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Memory,
    Nats,
}

/// The bus of one test, with what an operator could see of it.
pub(crate) struct World {
    /// A connection.
    pub(crate) bus: Arc<dyn Bus>,
    inside: Inside,
}

enum Inside {
    Memory(MemoryBus),
    Nats(Box<Nats>),
}

struct Nats {
    config: NatsConfig,
    clock: Arc<dyn Clock>,
    streams: jetstream::Context,
    own_server: Option<OwnServer>,
}

/// A server that the test may stop and start.
struct OwnServer {
    address: SocketAddr,
    folder: PathBuf,
    child: Option<broker::child::Child>,
}

/// The bus settings of a test that changes nothing.
pub(crate) fn config() -> MemoryConfig {
    MemoryConfig {
        deletions_in_flight_max: 8,
        deletion_ack_wait: Duration::from_secs(1),
        provision_ack_wait: Duration::from_secs(1),
        finish_timeout: Duration::from_secs(20),
        ..MemoryConfig::default()
    }
}

// === impl Engine ===

impl Engine {
    /// A bus with the default settings of the tests.
    pub(crate) async fn world(self) -> World {
        self.world_with(|_| {}).await
    }

    /// A bus with other settings.
    pub(crate) async fn world_with(self, change: impl FnOnce(&mut MemoryConfig)) -> World {
        self.world_at(Arc::new(SystemClock), change).await
    }

    /// A bus with the test's own clock. (A NATS server still uses its own clock.)
    pub(crate) async fn world_at(
        self,
        clock: Arc<dyn Clock>,
        change: impl FnOnce(&mut MemoryConfig),
    ) -> World {
        self.make(clock, change, false).await
    }

    /// A bus whose server can be stopped.
    pub(crate) async fn world_that_stops(self, change: impl FnOnce(&mut MemoryConfig)) -> World {
        self.make(Arc::new(SystemClock), change, true).await
    }

    async fn make(
        self,
        clock: Arc<dyn Clock>,
        change: impl FnOnce(&mut MemoryConfig),
        can_stop: bool,
    ) -> World {
        let mut settings = config();
        change(&mut settings);
        match self {
            Self::Memory => {
                let bus = MemoryBus::new(settings, clock, Arc::new(Rng::unseeded()));
                World { bus: Arc::new(bus.clone()), inside: Inside::Memory(bus) }
            }
            Self::Nats => Nats::start(settings, clock, can_stop).await,
        }
    }
}

// === impl Nats ===

/// A separate fleet on the servers at `url`.
pub(crate) fn nats_config(url: String, settings: MemoryConfig) -> NatsConfig {
    let MemoryConfig {
        deletions_in_flight_max,
        deletion_ack_wait,
        provision_ack_wait,
        throttle,
        finish_timeout,
    } = settings;
    let id = uuid::Uuid::now_v7().simple().to_string();
    let (user, password) = servers::test_user();
    NatsConfig {
        url,
        credentials_file: None,
        user,
        password,
        password_file: None,
        link: LinkConfig::default(),
        subjects: Subjects::with_prefix(&format!("t{}", &id[16..])).expect("a prefix"),
        replicas: 1,
        deletions_in_flight_max,
        deletion_ack_wait,
        provision_ack_wait,
        throttle,
        further_throttles: BTreeMap::new(),
        events_kept: Duration::from_secs(24 * 3_600),
        events_bytes_max: 1024 * 1024,
        check_period: Duration::from_secs(10),
        finish_timeout,
        clock_skew_max: None,
    }
}

impl Nats {
    async fn start(settings: MemoryConfig, clock: Arc<dyn Clock>, can_stop: bool) -> World {
        let (url, own_server) = if can_stop {
            let (server, folder) = servers::start_nats().await;
            let own = OwnServer { address: server.address, folder, child: Some(server.child) };
            (servers::nats_url(own.address), Some(own))
        } else {
            (servers::shared().await.nats_url.clone(), None)
        };
        let config = nats_config(url, settings);
        let client = servers::nats_client(&config.url).await;
        let nats = Self { config, clock, streams: jetstream::new(client), own_server };
        let bus = nats.connect().await;
        bus.set_up(&CancellationToken::new()).await.expect("the streams are set up");
        World { bus: Arc::new(bus), inside: Inside::Nats(Box::new(nats)) }
    }

    async fn connect(&self) -> NatsBus {
        let rng = Arc::new(Rng::unseeded());
        let bus = NatsBus::connect("test", self.config.clone(), Arc::clone(&self.clock), rng).await;
        let bus = bus.expect("a connection");
        until_connected(&bus).await;
        bus
    }

    async fn deletions(&self) -> stream::Stream {
        self.stream(self.config.subjects.deletions_stream()).await
    }

    async fn parked(&self) -> stream::Stream {
        self.stream(self.config.subjects.parked_stream()).await
    }

    async fn stream(&self, name: String) -> stream::Stream {
        self.streams.get_stream(name).await.expect("the stream is there")
    }
}

pub(crate) async fn until_connected(bus: &dyn Requests) {
    eventually("a connection", TIMEOUT, || async {
        if bus.is_connected() { Ok(()) } else { Err("not connected") }
    })
    .await;
}

// === impl World ===

impl World {
    /// Another connection to the same bus.
    pub(crate) async fn connect(&self) -> Arc<dyn Bus> {
        match &self.inside {
            Inside::Memory(bus) => Arc::new(bus.clone()),
            Inside::Nats(nats) => Arc::new(nats.connect().await),
        }
    }

    /// Another connection, of a process with that clock, which it compares with the server's.
    pub(crate) async fn connect_at(&self, clock: Arc<dyn Clock>, skew_max: Option<Duration>) -> Arc<NatsBus> {
        let Inside::Nats(nats) = &self.inside else { panic!("there is no NATS here") };
        let config = NatsConfig { clock_skew_max: skew_max, ..nats.config.clone() };
        let bus = NatsBus::connect("test", config, clock, Arc::new(Rng::unseeded())).await;
        let bus = bus.expect("a connection");
        until_connected(&bus).await;
        Arc::new(bus)
    }

    /// Messages in the queue: waiting work, work in flight, and scheduled retries.
    pub(crate) async fn queued(&self) -> usize {
        match &self.inside {
            Inside::Memory(bus) => bus.queued_count(),
            Inside::Nats(nats) => nats.deletions().await.cached_info().state.messages as usize,
        }
    }

    /// Waits until the queue is empty.
    pub(crate) async fn until_empty(&self) {
        eventually("an empty queue", TIMEOUT, || async {
            match self.queued().await {
                0 => Ok(()),
                left => Err(left),
            }
        })
        .await;
    }

    /// Waits until no tick of that kind is waiting or running.
    pub(crate) async fn until_no_tick(&self, kind: TickKind) {
        eventually("the end of the ticks", TIMEOUT, || async {
            let left = match &self.inside {
                Inside::Memory(bus) => bus.ticks_queued(kind),
                Inside::Nats(nats) => {
                    let stream = nats.stream(nats.config.subjects.ticks_stream()).await;
                    let of_kind = stream.info_with_subjects(nats.config.subjects.tick(kind)).await;
                    of_kind.expect("stream info").try_collect::<Vec<_>>().await.expect("stream info").len()
                }
            };
            if left == 0 { Ok(()) } else { Err(left) }
        })
        .await;
    }

    /// Scheduled retries.
    pub(crate) async fn retries(&self) -> usize {
        match &self.inside {
            Inside::Memory(bus) => bus.retries_scheduled(),
            Inside::Nats(nats) => {
                let subject = nats.config.subjects.deletion_retry_all();
                let found = nats.deletions().await.info_with_subjects(subject).await.expect("stream info");
                found.try_collect::<Vec<_>>().await.expect("stream info").len()
            }
        }
    }

    /// Waits until a retry is scheduled.
    pub(crate) async fn until_a_retry_waits(&self) {
        eventually("a scheduled retry", TIMEOUT, || async {
            match self.retries().await {
                1 => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// The number of deliveries in flight by `count`, once `consumers` consumers would take more and the bus delivers
    /// no more. The server's view lags behind the workers' answers, so the test waits until the server reports at least
    /// `expected` in flight and the same number as `count`.
    pub(crate) async fn in_hand(
        &self,
        count: impl Fn() -> usize,
        expected: usize,
        consumers: usize,
    ) -> usize {
        let Inside::Nats(nats) = &self.inside else {
            // A task that waits for a message gets it as soon as the test yields.
            settle().await;
            return count();
        };
        let stream = nats.deletions().await;
        eventually("consumers that wait", TIMEOUT, || async {
            let info = stream.consumer_info("reaper-main").await.expect("consumer info");
            let counted = count();
            let settled = info.num_waiting >= consumers && info.num_ack_pending == counted;
            if settled && counted >= expected { Ok(counted) } else { Err((counted, info)) }
        })
        .await
    }

    /// Every parked copy.
    pub(crate) async fn parked(&self) -> Vec<ParkedCopy> {
        let nats = match &self.inside {
            Inside::Memory(bus) => return bus.all_parked(),
            Inside::Nats(nats) => nats,
        };
        let stream = nats.parked().await;
        let mut copies = Vec::new();
        let state = &stream.cached_info().state;
        for sequence in state.first_sequence..=state.last_sequence {
            // A replaced copy does not exist any more.
            let Ok(message) = stream.get_raw_message(sequence).await else { continue };
            let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
            let parked_at = match serde_json::from_slice::<ParkedDeletion>(&message.payload) {
                Ok(parked) => parked.parked_at,
                // Only the header has the time, as text for people.
                Err(_) => {
                    assert!(header(headers::PARKED_AT).expect("a time").starts_with("20"));
                    self.now()
                }
            };
            copies.push(ParkedCopy {
                reason: header(headers::PARKED_REASON).expect("a reason"),
                parked_at: UnixSeconds::new(parked_at),
                attempts: header(headers::ATTEMPTS).map(|attempts| attempts.parse().expect("a number")),
                payload: message.payload.clone(),
            });
        }
        copies
    }

    /// Every event of the event log, oldest first.
    pub(crate) async fn events(&self) -> Vec<Event> {
        let nats = match &self.inside {
            Inside::Memory(bus) => return bus.events(),
            Inside::Nats(nats) => nats,
        };
        let stream = nats.stream(nats.config.subjects.events_stream()).await;
        let state = &stream.cached_info().state;
        let mut events = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.expect("an event");
            let event: Event = serde_json::from_slice(&message.payload).expect("an event");
            let cause = event.kind.known().expect("a known type");
            let id = SandboxId::parse(&event.subject).expect("a sandbox");
            assert_eq!(message.subject.as_str(), nats.config.subjects.event(cause, &id));
            events.push(event);
        }
        events
    }

    fn now(&self) -> u64 {
        SystemClock.now().get()
    }

    /// Removes every message from the queue, as a lost stream would.
    pub(crate) async fn purge_deletions(&self) {
        match &self.inside {
            Inside::Memory(bus) => bus.purge_deletions(),
            Inside::Nats(nats) => drop(nats.deletions().await.purge().await.expect("a purge")),
        }
    }

    /// Publishes a message on the work subject of `place`, as a foreign publisher might.
    pub(crate) async fn publish_raw_deletion(&self, place: &DeletionWork, payload: &str) {
        let (id, pool, _) = place.parts().expect("a sandbox");
        match &self.inside {
            Inside::Memory(bus) => bus.publish_raw_deletion(&pool, &id, payload.to_owned()),
            Inside::Nats(nats) => {
                let subject = nats.config.subjects.deletion_work(&pool, &id);
                let published = nats.streams.publish(subject, payload.to_owned().into()).await;
                published.expect("published").await.expect("stored");
            }
        }
    }

    /// Writes a throttle state as a worker with a wrong clock could.
    pub(crate) async fn put_throttle_state(&self, state: &ThrottleState) {
        match &self.inside {
            Inside::Memory(bus) => bus.put_throttle_state(state.clone()),
            Inside::Nats(nats) => {
                let bucket =
                    nats.streams.get_key_value(nats.config.subjects.bucket()).await.expect("a bucket");
                let value = serde_json::to_vec(state).expect("JSON");
                bucket.put("line.provider", value.into()).await.expect("kept");
            }
        }
    }

    /// The payload of the scheduled retry of `place`.
    pub(crate) async fn raw_retry(&self, place: &DeletionWork) -> String {
        let (id, pool, _) = place.parts().expect("a sandbox");
        let payload = match &self.inside {
            Inside::Memory(bus) => bus.raw_retry(&pool, &id).expect("a retry"),
            Inside::Nats(nats) => {
                let subject = nats.config.subjects.deletion_retry(&pool, &id);
                let stream = nats.deletions().await;
                stream.get_last_raw_message_by_subject(&subject).await.expect("a retry").payload.clone()
            }
        };
        String::from_utf8(payload.to_vec()).expect("text")
    }

    /// Stops the server, or cuts every connection.
    pub(crate) async fn stop_server(&mut self) {
        match &mut self.inside {
            Inside::Memory(bus) => bus.set_connected(false),
            Inside::Nats(nats) => {
                let child = nats.own_server.as_mut().and_then(|own| own.child.take());
                // Kills the server, as in a crash: it writes nothing before it exits.
                child.expect("a server that runs").kill().await;
            }
        }
    }

    /// Starts the server again, at the same address and with the same streams.
    pub(crate) async fn start_server(&mut self) {
        match &mut self.inside {
            Inside::Memory(bus) => bus.set_connected(true),
            Inside::Nats(nats) => {
                let own = nats.own_server.as_mut().expect("a server of its own");
                let (server, _) = servers::start_nats_on(own.address, Some(own.folder.clone())).await;
                own.child = Some(server.child);
            }
        }
        until_connected(self.bus.as_ref()).await;
    }

    /// The fleet's subjects and a plain NATS client.
    pub(crate) fn nats(&self) -> (&Subjects, async_nats::Client) {
        match &self.inside {
            Inside::Memory(_) => panic!("there is no NATS here"),
            Inside::Nats(nats) => (&nats.config.subjects, nats.streams.client().clone()),
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            child.ask_to_stop();
        }
    }
}
