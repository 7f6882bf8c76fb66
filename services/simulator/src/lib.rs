//! The CSP as a real HTTP server, for `broker up`, tests and game days.
//!
//! # Consumes
//! HTTP requests with the token `CSP_API_TOKEN`: the CSP's own calls (`/v2/…`, `/api/universalinfra/v1/…`) and the
//! simulator's controls (`/simulator/…`).
//!
//! # Produces
//! Answers in the CSP's shapes, faults on request, and a bounded record of every call.
//!
//! # Calls
//! Nothing except its directory, if it has one.
//!
//! # Guarantees
//! * The same seed results in the same accounts: ids, UUIDs, names.
//! * With a directory, an answered creation or deletion survives any end of the process; an id is never used
//!   twice.
//! * A deletion that has begun is carried out even if its caller has gone, so that a caller that gave up really has
//!   an unknown outcome.
//!
//! # Never
//! * It never calls the real CSP, and is used only where it is configured explicitly.
//! * It never exceeds its limits on log entries, sessions, deleted accounts and bytes of a body.

mod accounts;
mod api;
mod calls;
mod config;
mod connection;
mod control;
mod faults;
mod handle;
mod journal;
mod reply;
mod sessions;
mod state;
mod world;

pub use calls::LogEntry;
pub use config::Config;
pub use faults::{Behaviour, BrokenEntry, Fault, FaultKind, Faults, Latency, Operation};
pub use handle::SimulatorHandle;
pub use journal::JournalError;
pub use world::{AccountView, Census};

use connection::{Cut, Cuttable};
use ports::clock::Clock;
use ports::random::Random;
use state::State;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A simulator with its accounts that is not serving yet.
#[derive(Debug)]
pub struct Simulator {
    state: Arc<State>,
}

/// A simulator that serves in a task of this process. Dropping it ends it at once, like a kill.
#[derive(Debug)]
pub struct Running {
    /// The address on which it listens.
    pub address: SocketAddr,
    handle: SimulatorHandle,
    state: Arc<State>,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

/// Why a simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory cannot be used.
    #[error("the simulator's accounts cannot be loaded")]
    Journal(#[from] JournalError),
    /// Its address cannot be used.
    #[error("the simulator cannot listen")]
    Listen(#[source] std::io::Error),
}

// === impl Simulator ===

impl Simulator {
    /// Loads the accounts of the configured directory, or creates new ones.
    ///
    /// # Errors
    /// [`JournalError`] when the directory is unusable, in use, or contains invalid data.
    pub fn open(
        config: Config,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, JournalError> {
        Ok(Self { state: Arc::new(State::open(config, clock, random)?) })
    }

    /// The controls, for code in the same process.
    #[must_use]
    pub fn handle(&self) -> SimulatorHandle {
        SimulatorHandle::new(Arc::clone(&self.state))
    }

    /// Serves until `stop`; then answers calls in progress without their latency, and returns.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        let state = self.state;
        let router = api::router(Arc::clone(&state)).merge(control::router(Arc::clone(&state)));
        let service = router
            .fallback(async || reply::error(404, "no such path"))
            .into_make_service_with_connect_info::<Cut>();
        let listener = Cuttable::new(listener, state.kill.clone());
        let asked = {
            let state = Arc::clone(&state);
            async move {
                stop.cancelled().await;
                state.stop.cancel();
            }
        };
        let result = axum::serve(listener, service).with_graceful_shutdown(asked).await;
        // Deletions whose callers have gone are still being carried out.
        state.stop.cancel();
        state.work.close();
        state.work.wait().await;
        state.world().close();
        result
    }

    /// Opens, listens on the configured address (port 0 picks a free one) and serves in a separate task.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Running, StartError> {
        let listen = config.listen;
        let simulator = Self::open(config, clock, random)?;
        let listener = ops::listen(listen).await.map_err(StartError::Listen)?;
        let address = listener.local_addr().map_err(StartError::Listen)?;
        let stop = CancellationToken::new();
        let state = Arc::clone(&simulator.state);
        let handle = simulator.handle();
        let task = tokio::spawn(simulator.run(listener, stop.clone()));
        Ok(Running { address, handle, state, stop, task })
    }
}

// === impl Running ===

impl Running {
    /// The value of `CSP_BASE_URL` for this simulator.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v2", self.address)
    }

    /// The controls.
    #[must_use]
    pub fn handle(&self) -> SimulatorHandle {
        self.handle.clone()
    }

    /// Stops it in order: calls in progress are answered first.
    ///
    /// # Errors
    /// When the listener had failed.
    pub async fn stop(mut self) -> std::io::Result<()> {
        self.stop.cancel();
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => Err(std::io::Error::other(error)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        // The journal is closed first, so that calls in progress can no longer write to it.
        self.state.world().close();
        self.state.stop.cancel();
        self.state.kill.cancel();
    }
}
