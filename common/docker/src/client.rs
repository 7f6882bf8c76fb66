//! The connection to the engine's socket.

use crate::failure::of_engine;
use bollard::{API_DEFAULT_VERSION, Docker as Bollard};
use parking_lot::Mutex;
use ports::engine::EngineError;
use std::path::PathBuf;

/// Time-out of a call, in seconds. A start on a machine that is busy with compilers takes some; calls that take longer, such as
/// fetching an image, answer piece by piece.
const CALL_SECONDS_MAX: u64 = 60;

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

    /// What follows from the failure of a call.
    pub(crate) fn failed(&self, error: bollard::errors::Error) -> EngineError {
        let error = of_engine(error);
        if matches!(error, EngineError::Unavailable { .. }) {
            *self.connected.lock() = None;
        }
        error
    }
}
