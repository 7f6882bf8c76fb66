//! Asking the allocators from a shell.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use common::bus::nats::{NatsBus, NatsConfig};
use common::bus::{Context, RequestError, Requests as _};
use common::clock::{Clock as _, SystemClock};
use common::contract::{FaultBody, Verb};
use common::random::{Dice, Random as _};
use common::runtime::settings::{Env, Settings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// How long one answer is waited for: a page of replays is some hundred writes.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection is waited for.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks at the connection, and two tries of a request.
const PAUSE: Duration = Duration::from_millis(100);
/// Tries of one request. Every one may be repeated.
const TRIES_MAX: usize = 3;

/// A connection of one command.
pub(crate) struct Client {
    bus: NatsBus,
    random: Arc<Dice>,
}

// === impl Client ===

impl Client {
    /// Connects as the environment says (`NATS_URL` and so on).
    ///
    /// # Errors
    /// Mistakes in the environment; no connection in time.
    pub(crate) async fn connect(env: &dyn Env) -> anyhow::Result<Self> {
        let mut settings = Settings::new(env);
        let config = NatsConfig::read(&mut settings);
        let config = settings.finish(config)?;
        let url = config.url.clone();
        let random = Arc::new(Dice::unseeded());
        let bus = NatsBus::connect("operator", config, Arc::new(SystemClock), random.clone()).await?;
        let connected = async {
            while !bus.connected() {
                SystemClock.sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = connected => Ok(Self { bus, random }),
            () = SystemClock.sleep(CONNECT_PATIENCE) => bail!("cannot reach NATS at {url} (NATS_URL)"),
        }
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// When nobody answers, or the answer is a failure or cannot be read.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        verb: Verb,
        request: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = Bytes::from(serde_json::to_vec(request)?);
        let mut last = RequestError::TimedOut;
        for _ in 0..TRIES_MAX {
            let deadline_ms = SystemClock.now_ms() + u64::try_from(PATIENCE.as_millis())?;
            let context = Context {
                request_id: self.random.fresh_id(),
                deadline_ms: Some(deadline_ms),
                traceparent: None,
                idempotency_key: None,
            };
            match self.bus.request(verb, &context, body.clone(), PATIENCE).await {
                Ok(reply) if reply.is_fault => {
                    let FaultBody { detail } = serde_json::from_slice(&reply.body)?;
                    bail!("{} ({}, request {})", detail.message, detail.code.as_str(), detail.request_id);
                }
                Ok(reply) => return serde_json::from_slice(&reply.body).context("an answer cannot be read"),
                Err(error) => {
                    last = error;
                    SystemClock.sleep(PAUSE).await;
                }
            }
        }
        Err(last).context("no allocator has answered")
    }

    /// The connection itself, for what needs no worker.
    pub(crate) fn bus(&self) -> &NatsBus {
        &self.bus
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        self.bus.close().await;
    }
}
