//! The transport to a broker: HTTP or NATS.

use crate::up::Overlay;
use anyhow::{Context as _, bail};
use http_client::HttpRequests;
use nats::{NatsBus, NatsConfig};
use ports::bus::Requests;
use ports::clock::Clock;
use ports::random::Random;
use runtime::settings::{Env, Secret, Settings};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::error::Elapsed;

/// Time-out of connecting to NATS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two checks of the connection.
const CONNECT_POLL_PAUSE: Duration = Duration::from_millis(10);

/// The ports of a connection.
#[derive(Clone, Debug)]
pub struct Ports {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
}

/// The arguments that select a transport.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Address of the broker's HTTP API.
    #[arg(long, value_name = "URL", conflicts_with = "nats", requires = "token_file")]
    pub http: Option<String>,
    /// File with the lab token of the HTTP API.
    #[arg(long, value_name = "FILE", conflicts_with = "nats")]
    pub token_file: Option<PathBuf>,
    /// Address of the broker's NATS server; credentials come from the environment (`NATS_CREDENTIALS_FILE`,
    /// `NATS_USER`).
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Prefix of the fleet's subjects.
    #[arg(long, value_name = "PREFIX", requires = "nats")]
    pub subject_prefix: Option<String>,
}

/// An open transport.
pub enum Transport {
    /// Over HTTP.
    Http(HttpRequests),
    /// Over NATS.
    Nats(Box<NatsBus>),
}

// === impl Options ===

impl Options {
    /// Its name in reports: the address without users and passwords.
    #[must_use]
    pub fn name(&self) -> String {
        let address = self.http.as_deref().or(self.nats.as_deref()).unwrap_or_default();
        nats::without_credentials(address)
    }
}

// === impl Transport ===

impl Transport {
    /// Opens the transport; `name` is the name of a NATS connection.
    ///
    /// # Errors
    /// When the token cannot be read, a setting is wrong, or NATS cannot be reached within ten seconds.
    pub async fn open(options: &Options, env: &dyn Env, ports: &Ports, name: &str) -> anyhow::Result<Self> {
        match (&options.http, &options.nats) {
            (Some(root), _) => {
                let file = options.token_file.as_ref().context("--http needs --token-file")?;
                let token = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read the token in {}", file.display()))?;
                Ok(Self::Http(HttpRequests::new(root, Secret::new(token.trim()))?))
            }
            (None, Some(url)) => {
                let mut overlay = Overlay::over(env);
                overlay.set("NATS_URL", url);
                if let Some(prefix) = &options.subject_prefix {
                    overlay.set("SUBJECT_PREFIX", prefix);
                }
                let mut settings = Settings::new(&overlay);
                let config = NatsConfig::read(&mut settings);
                let bus = connect(settings.finish(config)?, ports, name).await?;
                Ok(Self::Nats(Box::new(bus)))
            }
            (None, None) => {
                bail!("--http, --nats or a context (`broker context add`) has to say where the broker is")
            }
        }
    }

    /// The port for requests.
    #[must_use]
    pub fn requests(&self) -> Arc<dyn Requests> {
        match self {
            Self::Http(http) => Arc::new(http.clone()),
            Self::Nats(bus) => Arc::new(bus.as_ref().clone()),
        }
    }

    /// Closes it.
    pub async fn close(self) {
        if let Self::Nats(bus) = self {
            bus.close().await;
        }
    }
}

/// An established connection to NATS, called `name`.
///
/// # Errors
/// When it is not established within ten seconds.
pub async fn connect(config: NatsConfig, ports: &Ports, name: &str) -> anyhow::Result<NatsBus> {
    let url = nats::without_credentials(&config.url);
    let bus = NatsBus::connect(name, config, Arc::clone(&ports.clock), Arc::clone(&ports.random)).await?;
    until_connected(&bus, CONNECT_TIMEOUT)
        .await
        .with_context(|| format!("no connection to NATS at {url} (NATS_URL)"))?;
    Ok(bus)
}

/// Waits until there is a connection.
///
/// # Errors
/// When there is none in time.
pub(crate) async fn until_connected(bus: &NatsBus, timeout: Duration) -> Result<(), Elapsed> {
    let connected = async {
        while !bus.connected() {
            tokio::time::sleep(CONNECT_POLL_PAUSE).await;
        }
    };
    tokio::time::timeout(timeout, connected).await
}
