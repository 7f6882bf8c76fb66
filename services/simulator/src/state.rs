//! The state that all calls share, and the processing that all calls of the CSP's API have in common.

use crate::calls::Calls;
use crate::config::Config;
use crate::connection::Cut;
use crate::faults::{FaultKind, Faults, Latency, Operation};
use crate::journal::JournalError;
use crate::reply;
use crate::world::World;
use axum::response::Response;
use parking_lot::{Mutex, MutexGuard};
use ports::clock::Clock;
use ports::random::Random;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The window of the rate limit, in ms.
const WINDOW_MS: u64 = 60_000;

/// The simulator.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) calls: Calls,
    world: Mutex<World>,
    faults: Mutex<Faults>,
    window: Mutex<Window>,
    /// Cancelled when calls in progress should finish.
    pub(crate) stop: CancellationToken,
    /// Cancelled to cut every connection.
    pub(crate) kill: CancellationToken,
    /// Calls in progress, including those whose callers have gone.
    pub(crate) work: TaskTracker,
}

#[derive(Debug, Default)]
struct Window {
    begun_ms: u64,
    calls: u32,
}

/// A call of the CSP's API.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    /// The account in the path, unchanged, for the log.
    pub(crate) account_text: Option<String>,
    /// The account of the call.
    pub(crate) account: Option<Uuid>,
    /// The problem with its credentials, if any.
    pub(crate) refused: Option<&'static str>,
}

/// The end of a call.
enum End {
    Answer(Response),
    Hang,
    Reset,
}

impl State {
    pub(crate) fn open(
        config: Config,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, JournalError> {
        let world = World::open(&config, clock.now_ms())?;
        let census = world.census();
        tracing::info!(
            csp.accounts = census.live,
            "the simulated CSP has {} accounts{}",
            census.live,
            if config.data.is_some() { "" } else { ", in memory" }
        );
        Ok(Self {
            config,
            clock,
            random,
            calls: Calls::default(),
            world: Mutex::new(world),
            faults: Mutex::default(),
            window: Mutex::default(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            work: TaskTracker::new(),
        })
    }

    /// Never held across an await.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    /// Never held across an await.
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock()
    }

    /// Passes one call through credentials, rate limit, latency and faults to `work`, which gets the fault that
    /// determines the answer, if there is one.
    pub(crate) async fn serve(
        self: Arc<Self>,
        cut: Cut,
        call: Call,
        work: impl FnOnce(&Self, Option<&FaultKind>) -> Response + Send + 'static,
    ) -> Response {
        let arrival = self.calls.arrive(call.operation, self.clock.now_ms());
        let state = Arc::clone(&self);
        // A separate task, which finishes even if the caller has gone.
        let task = self.work.spawn(async move {
            let account = call.account_text.clone();
            let (end, fault) = state.carry_out(call, work).await;
            let status = match &end {
                End::Answer(response) => Some(response.status().as_u16()),
                End::Hang | End::Reset => None,
            };
            state.calls.record(&arrival, account, status, fault, state.clock.now_ms());
            (end, arrival)
        });
        match task.await {
            Ok((End::Answer(response), _arrival)) => response,
            Ok((End::Hang, _arrival)) => {
                // The caller gives up first, unless the simulator ends.
                self.stop.cancelled().await;
                cut.cut();
                reply::error(503, "stopping")
            }
            // The answer is not sent: the connection is cut before.
            Ok((End::Reset, _arrival)) => {
                cut.cut();
                reply::error(500, "cut")
            }
            Err(error) => {
                tracing::error!(%error, "a call could not be carried out");
                reply::error(500, "the simulator failed")
            }
        }
    }

    async fn carry_out(
        &self,
        call: Call,
        work: impl FnOnce(&Self, Option<&FaultKind>) -> Response,
    ) -> (End, Option<&'static str>) {
        if let Some(refused) = call.refused {
            return (End::Answer(reply::error(401, refused)), None);
        }
        if let Some(wait_seconds) = self.over_the_limit() {
            let retry_after = reply::retry_after(wait_seconds, false, 0);
            return (End::Answer(reply::failure(429, None, Some(retry_after))), Some("rate_limit"));
        }
        let names = call.account.map(|uuid| self.world().names(uuid)).unwrap_or_default();
        let (fault, latency) = {
            let mut faults = self.faults();
            let fault = faults.fault_for(call.operation, &names, self.random.as_ref());
            let latency = faults.operations.get(&call.operation).and_then(|behaviour| behaviour.latency_ms);
            (fault, latency.unwrap_or_else(|| self.configured_latency(call.operation)))
        };
        let latency = latency.roll(self.random.as_ref());
        if !latency.is_zero() {
            tokio::select! {
                () = self.clock.sleep(latency) => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.end(fault.as_ref(), work)
    }

    fn end(
        &self,
        fault: Option<&FaultKind>,
        work: impl FnOnce(&Self, Option<&FaultKind>) -> Response,
    ) -> (End, Option<&'static str>) {
        match fault {
            None => (End::Answer(work(self, None)), None),
            Some(FaultKind::Status { status, message, retry_after_seconds, retry_after_as_date }) => {
                let now_ms = self.clock.now_ms();
                let retry_after =
                    retry_after_seconds.map(|wait| reply::retry_after(wait, *retry_after_as_date, now_ms));
                let failure = reply::failure(*status, message.as_deref(), retry_after);
                (End::Answer(failure), Some("status"))
            }
            Some(FaultKind::Hang) => (End::Hang, Some("hang")),
            Some(FaultKind::Reset) => (End::Reset, Some("reset")),
            Some(FaultKind::Garbage) => (End::Answer(reply::garbage()), Some("garbage")),
            Some(FaultKind::Flood { bytes }) => (End::Answer(reply::flood(*bytes)), Some("flood")),
            Some(FaultKind::DeleteThenHang) => {
                // The caller never gets this answer.
                drop(work(self, None));
                (End::Hang, Some("delete_then_hang"))
            }
            Some(FaultKind::EmptyList) => (End::Answer(work(self, fault)), Some("empty_list")),
            Some(FaultKind::ShortList { .. }) => (End::Answer(work(self, fault)), Some("short_list")),
            Some(FaultKind::OverlappingPages) => (End::Answer(work(self, fault)), Some("overlapping_pages")),
            Some(FaultKind::MalformedEntry(_)) => (End::Answer(work(self, fault)), Some("malformed_entry")),
        }
    }

    fn configured_latency(&self, operation: Operation) -> Latency {
        match operation {
            Operation::List => self.config.list_latency,
            Operation::Delete => self.config.delete_latency,
            Operation::SignIn
            | Operation::AccountSwitch
            | Operation::ListServices
            | Operation::DeleteService => Latency::NONE,
        }
    }

    /// Counts a call; if it exceeds the limit, returns how many seconds to wait.
    fn over_the_limit(&self) -> Option<u64> {
        let limit = self.faults().rate_limit_per_minute?;
        let now_ms = self.clock.now_ms();
        let mut window = self.window.lock();
        if now_ms.saturating_sub(window.begun_ms) >= WINDOW_MS {
            *window = Window { begun_ms: now_ms, calls: 0 };
        }
        window.calls = window.calls.saturating_add(1);
        let left_ms = (window.begun_ms + WINDOW_MS).saturating_sub(now_ms);
        (window.calls > limit).then(|| left_ms.div_ceil(1_000))
    }

    /// Resets the window, so that a new limit starts with a full minute.
    pub(crate) fn reset_window(&self) {
        *self.window.lock() = Window::default();
    }
}
