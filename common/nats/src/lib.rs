//! The bus on NATS: one connection, shared by everything that a process does there.

use async_nats::connection::State;
use async_nats::jetstream::{self, kv};
use async_nats::{Client, ConnectOptions, Event};
use contract::Subjects;
use domain::ProviderName;
use ports::backoff::longest_pause;
use ports::bus::{BusError, PROVISION_ACK_WAIT};
use ports::clock::Clock;
use ports::random::{Random, full_jitter};
use runtime::policy::read_stop_grace;
use runtime::pools::PoolWatch;
use runtime::restored::TableGuard;
use runtime::server_time::ServerTime;
use runtime::settings::{Secret, Settings};
use runtime::throttle::ThrottleRules;
use runtime::upkeep::UpkeepMetrics;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell, watch};

pub mod baseline;
mod census;
mod credentials;
mod discovery;
mod event_log;
mod examine;
mod feed;
mod judge;
mod kinds;
mod lanes;
mod link;
mod marks;
mod nodes;
mod provisions;
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

pub use examine::AssetFault;
pub use link::LinkConfig;
pub use topology::Definition;
pub use whole::Maintenance;

use credentials::{Credentials, Login};
use link::{Chooser, Seen};

/// Commands in the queue of the client; beyond that, callers wait within their deadlines.
const CLIENT_CAPACITY_COMMANDS: usize = 2_048;
/// Messages in the buffer of one subscription. Our loops never stop reading, so a full buffer means that the process is
/// stuck, and the server's slow-consumer rule should apply.
const SUBSCRIPTION_CAPACITY_MESSAGES: usize = 16_384;
/// Time-out of JetStream calls: electing a new leader of a replicated stream takes about 5 s (measured).
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// Part of the grace period that is reserved for the end: finishing a fetch, returning messages, sending replies.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// Time-out of closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
const DAY_SECONDS: u64 = 24 * 3_600;
/// Longest pause between two attempts to connect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// First pause between two attempts to connect; it doubles.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);

/// Placeholder for the role in `NATS_USER`, so that all roles can share one environment.
const ROLE_IN_USER: &str = "{role}";

/// The connection to NATS, and the streams of the fleet.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// `nats://` or `tls://` addresses, separated by commas.
    pub url: String,
    /// Credentials file of the role, if the server needs one.
    pub credentials_file: Option<PathBuf>,
    /// User name, if the server needs one; `{role}` in it stands for the name of the connection.
    pub user: Option<String>,
    /// Password of that user.
    pub password: Option<Secret>,
    /// File with that password.
    pub password_file: Option<PathBuf>,
    /// How the connection is kept.
    pub link: LinkConfig,
    /// The fleet's names.
    pub subjects: Subjects,
    /// Copies of each stream: 1 alone, 3 in a cluster.
    pub replicas: usize,
    /// Deletions of one pool that may be under way in the whole fleet.
    pub deletions_in_flight_max: usize,
    /// Silence of a reaper after which its deletion is given to another one.
    pub deletion_ack_wait: Duration,
    /// Silence of a runner after which its work is given to another one.
    pub provision_ack_wait: Duration,
    /// The throttle of the first provider.
    pub throttle: ThrottleRules,
    /// The throttles of further providers.
    pub further_throttles: BTreeMap<ProviderName, ThrottleRules>,
    /// How long events are kept.
    pub events_kept: Duration,
    /// Most bytes of events; beyond that the oldest are removed.
    pub events_bytes_max: u64,
    /// Time between two checks of streams, consumers and bucket.
    pub check_period: Duration,
    /// Longest wait for work in progress when a consumer stops.
    pub finish_timeout: Duration,
    /// How far the clock of a process may differ from the server's before it takes no work; none: not compared.
    pub clock_skew_max: Option<Duration>,
}

/// A connection to NATS that implements [`ports::bus`].
#[derive(Clone, Debug)]
pub struct NatsBus {
    client: Client,
    jetstream: jetstream::Context,
    config: Arc<NatsConfig>,
    clock: Arc<dyn Clock>,
    /// The server's time.
    time: Arc<ServerTime>,
    /// Whether the table of this process, if it has one, may be used.
    guard: TableGuard,
    /// Settings of this process for discovery.
    settings: Arc<BTreeMap<String, String>>,
    random: Arc<dyn Random>,
    /// The bucket, once it exists.
    bucket: Arc<OnceCell<kv::Store>>,
    /// Held by the task of this process that changes the throttle of the first provider.
    throttle_lock: Arc<Mutex<()>>,
    /// The pools of the fleet, if this process follows them.
    pools: Option<PoolWatch>,
    chooser: Arc<Chooser>,
    seen: Seen,
    /// The result of the last check of streams, consumers and bucket.
    whole: watch::Sender<Result<(), String>>,
    /// Why the server could not store the last message; `Ok` if it could.
    storing: watch::Sender<Result<(), String>>,
    /// Consumers of lanes that this process has made sure of.
    opened: Arc<parking_lot::Mutex<BTreeSet<String>>>,
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
                "prefix of the fleet's subjects; with another one than the default, stream names include it as well",
                |text| Subjects::with_prefix(text).map_err(|problem| problem.to_string()),
            )
            .unwrap_or_default();
        let replicas = settings.size("NATS_REPLICAS", 1, 1..=5, "copies of each stream (3 in a cluster)");
        let deletions_in_flight_max = settings.size(
            "DELETIONS_IN_FLIGHT_MAX",
            8,
            1..=1_000,
            "maximum number of concurrent deletions of one pool in the whole fleet",
        );
        let deletion_ack_wait = settings.seconds(
            "DELETION_ACK_WAIT_SECONDS",
            15,
            3..=3_600,
            "silence of a reaper after which its deletion is given to another one; a reaper reports progress every third of it",
        );
        let throttle = ThrottleRules::read(settings);
        let events_days =
            settings.number("EVENTS_DAYS", 30, 1..=3_650, "days that the event log keeps events");
        let events_bytes_max = settings.number(
            "EVENTS_BYTES_MAX",
            256 * 1024 * 1024,
            1024 * 1024..=1024 * 1024 * 1024 * 1024,
            "maximum size of the event log, in bytes; beyond it the oldest events are removed (a sandbox takes about 3 KiB)",
        );
        let check_period = settings.seconds(
            "NATS_CHECK_SECONDS",
            10,
            1..=3_600,
            "time between two checks that every stream, consumer and bucket exists; the reconciler also corrects edited settings",
        );
        // The rest of the grace period is for returning unfinished work and closing.
        let finish_timeout = read_stop_grace(settings).saturating_sub(CLOSING_TIME);
        let clock_skew_max = settings.seconds(
            "CLOCK_SKEW_MAX_SECONDS",
            10,
            0..=3_600,
            "maximum difference between the clock of a process and that of NATS; a process beyond it takes no work and is not ready; 0: not compared",
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
            provision_ack_wait: PROVISION_ACK_WAIT,
            throttle,
            further_throttles: BTreeMap::new(),
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
    /// Starts to connect as `name` and returns at once. It keeps trying and logs each change.
    ///
    /// # Errors
    /// [`BusError`] when the address or the credentials cannot be read.
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
            pools: None,
            chooser,
            seen,
            whole: watch::Sender::new(Err("not checked yet".to_owned())),
            storing: watch::Sender::new(Ok(())),
            opened: Arc::default(),
            mended: None,
        })
    }

    /// The same connection, which counts its upkeep.
    #[must_use]
    pub fn counting(self, metrics: UpkeepMetrics) -> Self {
        Self { mended: Some(metrics), ..self }
    }

    /// The same connection, which takes no work while the guard says that the table was restored.
    #[must_use]
    pub fn guarded_by(self, guard: TableGuard) -> Self {
        Self { guard, ..self }
    }

    /// The same connection, with these settings in discovery. None of them may be a secret.
    #[must_use]
    pub fn showing(self, settings: BTreeMap<String, String>) -> Self {
        Self { settings: Arc::new(settings), ..self }
    }

    /// The same connection, which keeps a consumer for each of these pools.
    #[must_use]
    pub fn following(self, pools: Option<PoolWatch>) -> Self {
        Self { pools, ..self }
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

    /// Fails at once without a connection. The client library would queue the message and send it, stale, after a
    /// reconnect; a refused order must not take effect later.
    fn refuse_unconnected(&self, operation: &'static str) -> Result<(), BusError> {
        if self.connected() { Ok(()) } else { Err(failed(operation)("not connected")) }
    }

    /// Flushes and closes the connection. Nothing may use it afterwards.
    pub async fn close(&self) {
        self.send_rest().await;
        // Returns once the command is queued; without a connection it never is.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.client.drain()).await;
    }

    /// Flushes the connection. Without a connection, waiting could last for ever; a caller repeats a request whose
    /// reply is lost.
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
        // A role must not read replies to another one; nats/accounts.conf enforces that.
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
                Event::Connected => log_connected(&url, seen.connected()),
                Event::ServerError(error) => seen.server_error(&error.to_string()),
                Event::ClientError(error) => seen.client_error(&error.to_string()),
                _ => {}
            }
            log_event(url.clone(), event)
        }))
}

fn reconnect_delay(random: &dyn Random, attempts: usize) -> Duration {
    // The first attempt after a loss is immediate; later ones are spread.
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let failures = u32::try_from(attempts).unwrap_or(u32::MAX);
    let longest = longest_pause(RECONNECT_DELAY_MIN, RECONNECT_DELAY_MAX, failures);
    RECONNECT_DELAY_MIN + full_jitter(random, longest)
}

/// The addresses without users, passwords and tokens, for logs and terminals.
#[must_use]
pub fn without_credentials(addresses: &str) -> String {
    let shown = addresses.split(',').map(|address| {
        let (scheme, rest) = address.trim().split_once("://").unwrap_or(("nats", address.trim()));
        format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest))
    });
    shown.collect::<Vec<_>>().join(",")
}

/// One line for the connections of all roles of a process, and one whenever one of them comes back.
fn log_connected(url: &str, is_first: bool) {
    static OF_PROCESS: Once = Once::new();
    if is_first {
        OF_PROCESS.call_once(|| tracing::info!(nats.url = url, "connected to NATS"));
    } else {
        tracing::info!(nats.url = url, "connected to NATS again");
    }
}

async fn log_event(url: String, event: Event) {
    match event {
        Event::Connected => {}
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
