//! Requests to the allocators from a shell.

use crate::transport::until_connected;
use anyhow::Context as _;
use client::{DeletionControlClient, Timeouts};
use contract::Verb;
use nats::{NatsBus, NatsConfig};
use ports::bus::DeletionControl;
use ports::clock::SystemClock;
use ports::random::Rng;
use runtime::settings::{Env, Settings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Time-outs of a call with all its repeats, and of one attempt (a page of replays makes some hundred writes).
const TIMEOUT: Timeouts = Timeouts { call: Duration::from_secs(45), attempt: Duration::from_secs(15) };
/// Name of the connections of operators, which also replaces `{role}` in `NATS_USER`.
pub(crate) const OPERATOR: &str = "operator";
/// Time-out of discovery; workers answer within milliseconds, and a short silence ends it sooner.
pub(crate) const ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time-out of connecting.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection of one command.
pub(crate) struct Client {
    bus: NatsBus,
    client: client::Client,
}

// === impl Client ===

impl Client {
    /// Connects with the settings of the environment (`NATS_URL` and so on).
    ///
    /// # Errors
    /// Mistakes in the environment; no connection in time.
    pub(crate) async fn connect(env: &dyn Env) -> anyhow::Result<Self> {
        let mut settings = Settings::new(env);
        let config = NatsConfig::read(&mut settings);
        let config = settings.finish(config)?;
        let url = nats::without_credentials(&config.url);
        let (clock, random) = (Arc::new(SystemClock), Arc::new(Rng::unseeded()));
        let bus = NatsBus::connect(OPERATOR, config, clock.clone(), random.clone()).await?;
        let transport = Arc::new(bus.clone());
        let client = client::Client::new(transport, clock, random, TIMEOUT);
        until_connected(&bus, CONNECT_TIMEOUT)
            .await
            .with_context(|| format!("cannot reach NATS at {url} (NATS_URL)"))?;
        Ok(Self { bus, client })
    }

    /// Sends a request and reads the reply.
    ///
    /// # Errors
    /// When no worker answers, or the reply is a failure or cannot be read.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        verb: Verb,
        request: &impl Serialize,
    ) -> anyhow::Result<T> {
        Ok(self.client.ask(verb, request).await?)
    }

    /// The connection, for operations without a worker.
    pub(crate) fn bus(&self) -> &NatsBus {
        &self.bus
    }

    /// Controls the provider throttle. Changes go through an allocator; reading does not.
    pub(crate) fn control(&self) -> impl DeletionControl {
        let bus = Arc::new(self.bus.clone());
        DeletionControlClient::new(self.client.clone(), bus.clone(), bus, Arc::new(SystemClock))
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        self.bus.close().await;
    }
}
