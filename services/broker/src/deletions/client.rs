//! Asking the allocators from a shell.

use anyhow::bail;
use client::{DeletionControlClient, Timeouts};
use contract::Verb;
use nats::{NatsBus, NatsConfig};
use ports::bus::DeletionControl;
use ports::clock::{Clock as _, SystemClock};
use ports::random::Rng;
use runtime::settings::{Env, Settings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// How long one answer is waited for (a page of replays is some hundred writes), and all repeats together.
const TIMEOUT: Timeouts = Timeouts { call: Duration::from_secs(45), attempt: Duration::from_secs(15) };
/// How long a connection is waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at the connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection of one command.
pub(crate) struct Client {
    bus: NatsBus,
    client: client::Client,
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
        let (clock, random) = (Arc::new(SystemClock), Arc::new(Rng::unseeded()));
        let bus = NatsBus::connect("operator", config, clock.clone(), random.clone()).await?;
        let transport = Arc::new(bus.clone());
        let client = client::Client::new(transport, clock, random, TIMEOUT);
        let connected = async {
            while !bus.connected() {
                SystemClock.sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = connected => Ok(Self { bus, client }),
            () = SystemClock.sleep(CONNECT_TIMEOUT) => bail!("cannot reach NATS at {url} (NATS_URL)"),
        }
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// When no worker answers, or the answer is a failure or cannot be read.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        verb: Verb,
        request: &impl Serialize,
    ) -> anyhow::Result<T> {
        Ok(self.client.ask(verb, request).await?)
    }

    /// The connection itself, for what needs no worker.
    pub(crate) fn bus(&self) -> &NatsBus {
        &self.bus
    }

    /// The provider throttle. An allocator turns its switch; looking needs none.
    pub(crate) fn control(&self) -> impl DeletionControl {
        let bus = Arc::new(self.bus.clone());
        DeletionControlClient::new(self.client.clone(), bus.clone(), bus, Arc::new(SystemClock))
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        self.bus.close().await;
    }
}
