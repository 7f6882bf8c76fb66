//! The bus in memory, for tests of services and for simulations of a whole fleet in one process.
//!
//! It behaves like the bus on NATS: `tests/bus` runs one suite on both. All time comes from the clock and all
//! randomness from the random numbers, so a run on one thread can be repeated from its seed. Clones are further
//! connections to the same bus. Connections can be cut and single messages lost, before or after they had their effect.
//! Nothing is persistent.

use contract::{Census, KnownMark};
use parking_lot::{Mutex, MutexGuard};
use ports::bus::{BusError, PROVISION_ACK_WAIT};
use ports::clock::Clock;
use ports::random::Random;
use runtime::throttle::ThrottleRules;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

mod census;
mod deletions;
mod event_log;
mod feed;
mod held;
mod marks;
mod provisions;
mod queue;
mod requests;
mod throttle;
mod ticks;
mod upkeep;
mod work;

pub use work::ParkedCopy;

/// The settings of a memory bus, with the defaults of the bus on NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Most concurrent deletions of one pool on the whole bus.
    pub deletions_in_flight_max: usize,
    /// Time after the end of a worker without a verdict, until its deletion is given to another one.
    pub deletion_ack_wait: Duration,
    /// The same for the work of a runner.
    pub provision_ack_wait: Duration,
    /// The provider throttle.
    pub throttle: ThrottleRules,
    /// Longest wait for work in progress when a consumer stops.
    pub finish_timeout: Duration,
}

/// A bus in memory that implements [`ports::bus`].
#[derive(Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

/// Calls that can be lost; see [`MemoryBus::lose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// A request.
    Request,
    /// The announcement of work.
    Announce,
    /// The copy of a parked deletion.
    Park,
    /// The removal of a message from the queue.
    Unqueue,
    /// The removal of a parked message.
    Unpark,
    /// An event for the event log.
    Append,
    /// A retry, published on behalf of a worker.
    ScheduleRetry,
    /// The acknowledgement of a worker or a runner.
    Finish,
    /// A tick.
    Tick,
    /// The report of a run.
    Report,
    /// A census to be stored.
    KeepCensus,
    /// The request for a slot.
    AcquirePermit,
    /// The check of a slot that has come.
    ConfirmPermit,
    /// The outcome of a call to the provider.
    ReportOutcome,
    /// A change of the operators' switch.
    Switch,
}

/// What is lost of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The message: it has no effect.
    Message,
    /// The answer: it had its effect, and its caller does not know.
    Answer,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Broken {
    #[error("not connected")]
    Disconnected,
    #[error("lost on purpose")]
    Lost,
}

struct Shared {
    config: MemoryConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    inside: Mutex<Inside>,
    /// Grows with every change, to wake waiting tasks.
    changes: watch::Sender<u64>,
}

/// The state that a server would have.
struct Inside {
    is_connected: bool,
    losses: BTreeMap<Call, VecDeque<Loss>>,
    members: requests::Members,
    deletions: work::WorkStreams,
    provisions: work::WorkStreams,
    events: event_log::EventStream,
    ticks: ticks::TickStream,
    throttle: throttle::Throttle,
    census: Option<Census>,
    mark: Option<KnownMark>,
    services: feed::Services,
}

// === impl MemoryConfig ===

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            deletions_in_flight_max: 8,
            deletion_ack_wait: Duration::from_secs(15),
            provision_ack_wait: PROVISION_ACK_WAIT,
            throttle: ThrottleRules::default(),
            finish_timeout: Duration::from_secs(18),
        }
    }
}

// === impl Call ===

impl Call {
    const fn operation(self) -> &'static str {
        match self {
            Self::Request => "send a request",
            Self::Announce => "announce work",
            Self::Park => "park a deletion",
            Self::Unqueue | Self::Unpark => "remove a message",
            Self::Append => "append an event",
            Self::ScheduleRetry => "schedule a retry",
            Self::Finish => "finish a message",
            Self::Tick => "publish a tick",
            Self::Report => "publish a report",
            Self::KeepCensus => "keep a census",
            Self::AcquirePermit | Self::ConfirmPermit | Self::ReportOutcome => "update the throttle state",
            Self::Switch => "switch deletions",
        }
    }
}

// === impl MemoryBus ===

impl fmt::Debug for MemoryBus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryBus").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl MemoryBus {
    /// An empty bus.
    #[must_use]
    pub fn new(config: MemoryConfig, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        let inside = Inside {
            is_connected: true,
            losses: BTreeMap::new(),
            members: requests::Members::default(),
            deletions: work::WorkStreams::default(),
            provisions: work::WorkStreams::default(),
            events: event_log::EventStream::default(),
            ticks: ticks::TickStream::default(),
            throttle: throttle::Throttle::default(),
            census: None,
            mark: None,
            services: feed::Services::default(),
        };
        let changes = watch::Sender::new(0);
        Self { shared: Arc::new(Shared { config, clock, random, inside: Mutex::new(inside), changes }) }
    }

    /// Cuts or restores every connection. Without a connection, calls fail, nothing is delivered, and acknowledgements
    /// have no effect.
    pub fn set_connected(&self, is_connected: bool) {
        self.change(|inside, _| inside.is_connected = is_connected);
    }

    /// Loses the next call of that kind without a planned loss.
    pub fn lose(&self, call: Call, loss: Loss) {
        self.change(|inside, _| inside.losses.entry(call).or_default().push_back(loss));
    }

    /// Performs a step at the server, unless message or answer is lost.
    fn call<T>(&self, call: Call, step: impl FnOnce(&mut Inside, u64) -> T) -> Result<T, BusError> {
        self.try_call(call, step).map_err(failed(call.operation()))
    }

    fn try_call<T>(&self, call: Call, step: impl FnOnce(&mut Inside, u64) -> T) -> Result<T, Broken> {
        self.change(|inside, now_ms| {
            if !inside.is_connected {
                return Err(Broken::Disconnected);
            }
            let loss = inside.losses.get_mut(&call).and_then(VecDeque::pop_front);
            if loss == Some(Loss::Message) {
                return Err(Broken::Lost);
            }
            let answer = step(inside, now_ms);
            if loss == Some(Loss::Answer) { Err(Broken::Lost) } else { Ok(answer) }
        })
    }

    /// Reads at the server, unless there is no connection.
    fn read<T>(&self, operation: &'static str, step: impl FnOnce(&Inside) -> T) -> Result<T, BusError> {
        self.look(|inside, _| if inside.is_connected { Ok(step(inside)) } else { Err(Broken::Disconnected) })
            .map_err(failed(operation))
    }

    /// Changes the state and wakes waiting tasks.
    fn change<T>(&self, step: impl FnOnce(&mut Inside, u64) -> T) -> T {
        let answer = self.look(step);
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
        answer
    }

    /// Reads the state after performing everything that is due.
    fn look<T>(&self, step: impl FnOnce(&mut Inside, u64) -> T) -> T {
        let now_ms = self.shared.clock.now_ms();
        let mut inside = self.inside();
        inside.deletions.settle(now_ms);
        inside.provisions.settle(now_ms);
        step(&mut inside, now_ms)
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.shared.inside.lock()
    }
}

fn failed<E>(operation: &'static str) -> impl FnOnce(E) -> BusError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| BusError { operation, source: error.into() }
}
