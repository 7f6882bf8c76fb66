//! The bus on NATS: one connection, shared by everything that a process does there.

use async_nats::connection::State;
use async_nats::jetstream::{self, kv};
use async_nats::{Client, ConnectOptions, Event};
use contract::Subjects;
use domain::PoolName;
use ports::bus::BusError;
use ports::clock::Clock;
use ports::random::{Random, full_jitter};
use runtime::policy::read_stop_grace;
use runtime::restored::TableGuard;
use runtime::server_time::ServerTime;
use runtime::settings::{Secret, Settings};
use runtime::throttle::ThrottleRules;
use runtime::upkeep::UpkeepMetrics;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell, watch};

pub mod baseline;
mod census;
mod credentials;
mod discovery;
mod event_log;
mod feed;
mod judge;
mod lanes;
mod link;
mod marks;
mod publish;
mod requests;
mod serving;
mod streams;
mod throttle;
mod time;
mod topology;
mod turns;
mod upkeep;
mod whole;

pub use link::LinkConfig;
pub use topology::Definition;
pub use whole::Maintenance;

use credentials::{Credentials, Login};
use link::{Chooser, Seen};

/// Commands that may wait for the connection; one more makes the caller wait inside its own deadline.
const CLIENT_CAPACITY_COMMANDS: usize = 2_048;
/// Messages that one subscription may hold. Our loops never stop reading, so a full one means that the
/// process is stuck, and the server's slow-consumer rule should see it.
const SUBSCRIPTION_CAPACITY_MESSAGES: usize = 16_384;
/// Longest wait for an answer of JetStream: a new leader of a replicated stream takes about 5 s (measured).
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// Part of a process's stopping time that is kept for what comes after the work: a fetch that ends, messages
/// that are given back, replies that are sent.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// Longest time that closing a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
const DAY_SECONDS: u64 = 24 * 3_600;
/// Longest pause between two attempts to connect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// First pause between two attempts to connect; it doubles.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);

/// What stands for the name of the connection in `NATS_USER`, so that one environment does for every role.
const ROLE_IN_USER: &str = "{role}";

/// How to reach NATS, and how a fleet uses it.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// `nats://` or `tls://` addresses, separated by commas.
    pub url: String,
    /// Credentials file of the role, if the server wants one.
    pub credentials_file: Option<PathBuf>,
    /// User name, if the server wants one; `{role}` in it stands for the name of the connection.
    pub user: Option<String>,
    /// Password of that user.
    pub password: Option<Secret>,
    /// File with the password, in its place.
    pub password_file: Option<PathBuf>,
    /// How the connection is kept.
    pub link: LinkConfig,
    /// The fleet's names.
    pub subjects: Subjects,
    /// Copies of each stream: 1 alone, 3 in a cluster.
    pub replicas: usize,
    /// Deletions of one pool that may be under way in the whole fleet.
    pub deletions_in_flight_max: usize,
    /// Time without a word from a reaper after which a deletion is given to another one.
    pub deletion_ack_wait: Duration,
    /// The provider throttle.
    pub throttle: ThrottleRules,
    /// How long events are kept.
    pub events_kept: Duration,
    /// Most bytes of events; beyond that the oldest go.
    pub events_bytes_max: u64,
    /// Time between two looks whether every stream, consumer and bucket is there.
    pub check_period: Duration,
    /// Longest time that work under way is waited for when a consumer stops.
    pub finish_timeout: Duration,
    /// How far the clock of a process may be from the server's before it takes no work; none: not compared.
    pub clock_skew_max: Option<Duration>,
}

/// A connection to NATS that keeps every promise of [`ports::bus`].
#[derive(Clone, Debug)]
pub struct NatsBus {
    client: Client,
    jetstream: jetstream::Context,
    config: Arc<NatsConfig>,
    clock: Arc<dyn Clock>,
    /// The server's time.
    time: Arc<ServerTime>,
    /// Whether the table of this process, if it has one, may be worked on.
    guard: TableGuard,
    /// Settings of this process that discovery shows.
    settings: Arc<BTreeMap<String, String>>,
    random: Arc<dyn Random>,
    /// The bucket, once it was there.
    bucket: Arc<OnceCell<kv::Store>>,
    /// Held by the one task of this process that changes the provider throttle.
    throttle_lock: Arc<Mutex<()>>,
    chooser: Arc<Chooser>,
    seen: Seen,
    /// What the last look for streams, consumers and bucket found.
    whole: watch::Sender<Result<(), String>>,
    /// Why the server could not store the last message, if it could not.
    storing: watch::Sender<Result<(), String>>,
    /// Pools whose consumer this process has made sure of.
    opened: Arc<std::sync::Mutex<BTreeSet<PoolName>>>,
    /// Where upkeep counts what it did.
    mended: Option<UpkeepMetrics>,
}

// === impl NatsConfig ===

impl NatsConfig {
    /// Reads the variables of the connection.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let Login { url, credentials_file, user, password, password_file } = Login::read(settings);
        let link = LinkConfig::read(settings);
        let subjects = settings
            .parsed(
                "SUBJECT_PREFIX",
                contract::subjects::DEFAULT_PREFIX,
                "what the fleet's subjects begin with; other than the default, stream names carry it too",
                |text| Subjects::with_prefix(text).map_err(|problem| problem.to_string()),
            )
            .unwrap_or_default();
        let replicas = settings.size("NATS_REPLICAS", 1, 1..=5, "copies of each stream (3 in a cluster)");
        let deletions_in_flight_max = settings.size(
            "DELETIONS_IN_FLIGHT_MAX",
            8,
            1..=1_000,
            "deletions of one pool that may be under way in the whole fleet",
        );
        let deletion_ack_wait = settings.seconds(
            "DELETION_ACK_WAIT_SECONDS",
            15,
            3..=3_600,
            "silence of a reaper after which its deletion is given to another one; it speaks every third of it",
        );
        let throttle = ThrottleRules::read(settings);
        let events_days =
            settings.number("EVENTS_DAYS", 30, 1..=3_650, "days that events of the event log are kept");
        let events_bytes_max = settings.number(
            "EVENTS_BYTES_MAX",
            256 * 1024 * 1024,
            1024 * 1024..=1024 * 1024 * 1024 * 1024,
            "bytes of events that are kept; beyond that the oldest go (a life of a sandbox takes about 3 KiB)",
        );
        let check_period = settings.seconds(
            "NATS_CHECK_SECONDS",
            10,
            1..=3_600,
            "time between two looks whether every stream, consumer and bucket is there; the reconciler also puts edited settings right",
        );
        // What is left of the process's time is for giving back what did not finish and for closing.
        let finish_timeout = read_stop_grace(settings).saturating_sub(CLOSING_TIME);
        let clock_skew_max = settings.seconds(
            "CLOCK_SKEW_MAX_SECONDS",
            10,
            0..=3_600,
            "how far the clock of a process may be from the clock of NATS; beyond it, it takes no work and is not ready; \
             0: not compared",
        );
        Self {
            url,
            credentials_file,
            user,
            password,
            password_file,
            link,
            subjects,
            replicas,
            deletions_in_flight_max,
            deletion_ack_wait,
            throttle,
            events_kept: Duration::from_secs(events_days * DAY_SECONDS),
            events_bytes_max,
            check_period,
            finish_timeout,
            clock_skew_max: Some(clock_skew_max).filter(|max| !max.is_zero()),
        }
    }
}

// === impl NatsBus ===

impl NatsBus {
    /// Starts to connect, as `name`, and returns at once; keeps trying for ever, with a log line at each change.
    ///
    /// # Errors
    /// [`BusError`] when the address or the credentials cannot even be read.
    pub async fn connect(
        name: &str,
        config: NatsConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, BusError> {
        crypto::install_crypto();
        let chooser = Arc::new(Chooser::new(Arc::clone(&random)));
        let seen = Seen::new();
        let options = connect_options(name, &config, &chooser, &seen, &random).await?;
        let servers: Vec<&str> = config.url.split(',').map(str::trim).collect();
        let client = options.connect(servers).await.map_err(failed("connect to NATS"))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(JETSTREAM_TIMEOUT)
            .ack_timeout(JETSTREAM_TIMEOUT)
            .build(client.clone());
        let time = Arc::new(ServerTime::new(Arc::clone(&clock), config.clock_skew_max));
        Ok(Self {
            client,
            jetstream,
            config: Arc::new(config),
            clock,
            time,
            guard: TableGuard::default(),
            settings: Arc::default(),
            random,
            bucket: Arc::default(),
            throttle_lock: Arc::default(),
            chooser,
            seen,
            whole: watch::Sender::new(Err("not looked at yet".to_owned())),
            storing: watch::Sender::new(Ok(())),
            opened: Arc::default(),
            mended: None,
        })
    }

    /// The same connection, whose upkeep counts what it does.
    #[must_use]
    pub fn counting(self, metrics: UpkeepMetrics) -> Self {
        Self { mended: Some(metrics), ..self }
    }

    /// This connection, which takes no work while this guard has found the table put back to an earlier time.
    #[must_use]
    pub fn guarded_by(self, guard: TableGuard) -> Self {
        Self { guard, ..self }
    }

    /// This connection, which shows these settings in discovery. None of them may be a secret.
    #[must_use]
    pub fn showing(self, settings: BTreeMap<String, String>) -> Self {
        Self { settings: Arc::new(settings), ..self }
    }

    /// The fleet's names.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.config.subjects
    }

    /// Whether there is a connection right now.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Refuses at once while there is no connection. The client library would keep what it is given and send it, stale,
    /// after a reconnect; an order that was refused has to stay undone.
    fn refuse_unconnected(&self, operation: &'static str) -> Result<(), BusError> {
        if self.connected() { Ok(()) } else { Err(failed(operation)("not connected")) }
    }

    /// Sends what is still buffered and closes the connection. The last thing that a process does with it.
    pub async fn close(&self) {
        self.send_rest().await;
        // Returns once the command is taken; without a connection nothing takes it.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.client.drain()).await;
    }

    /// Sends what is still buffered. Without a connection there is no server to send it to, and waiting for one could
    /// take for ever; the caller repeats a request whose reply is lost in this way.
    async fn send_rest(&self) {
        if self.connected() && tokio::time::timeout(CLOSE_TIMEOUT, self.client.flush()).await.is_err() {
            tracing::warn!("the last messages could not be sent to NATS");
        }
    }
}

fn failed<E>(operation: &'static str) -> impl FnOnce(E) -> BusError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| BusError { operation, source: error.into() }
}

async fn connect_options(
    name: &str,
    config: &NatsConfig,
    chooser: &Arc<Chooser>,
    seen: &Seen,
    random: &Arc<dyn Random>,
) -> Result<ConnectOptions, BusError> {
    let options = match Credentials::of(config, name) {
        Some(credentials) => {
            credentials.check().await?;
            let credentials = Arc::new(credentials);
            ConnectOptions::with_auth_callback(move |nonce| {
                let credentials = Arc::clone(&credentials);
                async move { credentials.auth(&nonce).await }
            })
        }
        None => ConnectOptions::new(),
    };
    let (url, seen) = (without_credentials(&config.url), seen.clone());
    let (chooser, random) = (Arc::clone(chooser), Arc::clone(random));
    Ok(options
        .name(name)
        // Replies to one role are not for the eyes of another; nats/accounts.conf keeps to that.
        .custom_inbox_prefix(format!("_INBOX.{name}"))
        .retry_on_initial_connect()
        .ping_interval(config.link.ping_interval)
        .connection_timeout(config.link.connect_timeout)
        .client_capacity(CLIENT_CAPACITY_COMMANDS)
        .subscription_capacity(SUBSCRIPTION_CAPACITY_MESSAGES)
        .reconnect_to_server_callback(move |servers, _| std::future::ready(chooser.choose(&servers)))
        .reconnect_delay_callback(move |attempts| reconnect_delay(random.as_ref(), attempts))
        .event_callback(move |event| {
            match &event {
                Event::Connected => seen.connected(),
                Event::ServerError(error) => seen.server_error(&error.to_string()),
                _ => {}
            }
            log_event(url.clone(), event)
        }))
}

fn reconnect_delay(random: &dyn Random, attempts: usize) -> Duration {
    // The first attempt after a loss is immediate; a crowd of workers then spreads out.
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let longest =
        RECONNECT_DELAY_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(RECONNECT_DELAY_MAX);
    RECONNECT_DELAY_MIN + full_jitter(random, longest)
}

/// Addresses as they may be shown: one may carry a user, a password or a token before its host.
fn without_credentials(addresses: &str) -> String {
    let shown = addresses.split(',').map(|address| {
        let (scheme, rest) = address.trim().split_once("://").unwrap_or(("nats", address.trim()));
        format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest))
    });
    shown.collect::<Vec<_>>().join(",")
}

async fn log_event(url: String, event: Event) {
    match event {
        Event::Connected => tracing::info!(nats.url = url, "connected to NATS"),
        Event::Disconnected => tracing::warn!(nats.url = url, "connection to NATS lost; trying again"),
        Event::SlowConsumer(subscription) => {
            tracing::error!(
                nats.subscription = subscription,
                "a subscription overflowed: messages were dropped"
            );
        }
        Event::ServerError(error) => tracing::error!(%error, "NATS reports an error"),
        Event::ClientError(error) => {
            tracing::warn!(nats.url = url, %error, "NATS is not reachable; trying again");
        }
        Event::LameDuckMode => tracing::warn!(nats.url = url, "the NATS server is about to stop"),
        Event::Draining | Event::Closed => tracing::debug!(nats.url = url, %event, "NATS connection ends"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_credentials_are_used_for_the_connection() {
        let read = |variables: &[(&str, &str)]| {
            let env: std::collections::BTreeMap<_, _> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let mut settings = Settings::new(&env);
            let config = NatsConfig::read(&mut settings);
            settings.finish(config)
        };
        let url = ("NATS_URL", "nats://one:4222, nats://broker:p@ss:w@two:4222");
        let config = read(&[url]).unwrap();
        let password = config.password.unwrap();
        assert_eq!((config.user.as_deref(), password.expose()), (Some("broker"), "p@ss:w"));
        let both = read(&[url, ("NATS_USER", "broker"), ("NATS_PASSWORD", "other")]).unwrap_err();
        assert!(both.to_string().contains("NATS_URL"), "{both}");
        assert!(read(&[("NATS_URL", "nats://one:4222")]).unwrap().user.is_none());
    }

    #[test]
    fn credentials_are_redacted_from_addresses() {
        let shown = without_credentials("nats://broker:p@ss@one:4222, tls://s3cret@two, three:4222");
        assert_eq!(shown, "nats://one:4222,tls://two,nats://three:4222");
    }
}
