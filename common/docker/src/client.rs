//! The connection to the engine's socket.

use crate::failure::of_engine;
use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker as Bollard};
use parking_lot::Mutex;
use ports::engine::EngineError;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// Time-out of a call, in seconds. A start on a machine that is busy with compilers takes some; calls that take longer, such as
/// fetching an image, answer piece by piece.
const CALL_SECONDS_MAX: u64 = 60;

/// Time-out for the end of a state that only Podman has, and the pause between two questions.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
const SETTLE_PAUSE: Duration = Duration::from_millis(10);
/// How bollard says that it does not know that state.
const PODMAN_STOPPED: &str = "unknown variant `stopped`";

/// Connects when that is needed. After a failure of the connection the engine may be another one, so its version is
/// negotiated again.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    connected: Mutex<Option<Bollard>>,
}

// === impl Client ===

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, connected: Mutex::default() }
    }

    /// The engine, in a version of its API that both know.
    pub(crate) async fn get(&self) -> Result<Bollard, EngineError> {
        if let Some(connected) = self.connected.lock().clone() {
            return Ok(connected);
        }
        let socket = self.socket.to_string_lossy();
        let connected = Bollard::connect_with_unix(&socket, CALL_SECONDS_MAX, API_DEFAULT_VERSION);
        let connected = connected.map_err(|error| self.failed(error))?;
        let connected = connected.negotiate_version().await.map_err(|error| self.failed(error))?;
        *self.connected.lock() = Some(connected.clone());
        Ok(connected)
    }

    /// Whether the engine is in the same namespace of this kind as this process.
    pub(crate) async fn shares(&self, kind: &str) -> bool {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).ok();
        let Ok(stream) = UnixStream::connect(&self.socket).await else { return false };
        let engine = stream.peer_cred().ok().and_then(|peer| peer.pid());
        engine.is_some_and(|pid| of(&pid.to_string()).is_some_and(|its| Some(its) == of("self")))
    }

    /// Repeats a question while a container is in a state that only Podman has: its process has ended, and that is not noted yet.
    pub(crate) async fn settled<T, F: Future<Output = Result<T, Error>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, EngineError> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            match ask().await {
                Err(Error::JsonDataError { message, .. })
                    if message.contains(PODMAN_STOPPED) && Instant::now() < deadline =>
                {
                    tokio::time::sleep(SETTLE_PAUSE).await;
                }
                answer => return answer.map_err(|error| self.failed(error)),
            }
        }
    }

    /// What follows from the failure of a call.
    pub(crate) fn failed(&self, error: Error) -> EngineError {
        let error = of_engine(error);
        if matches!(error, EngineError::Unavailable { .. }) {
            *self.connected.lock() = None;
        }
        error
    }
}
