//! The connection: whether it answers, and to which of several servers it leads.
//!
//! A machine that vanishes closes no connection. So the client pings its server every few seconds and treats silence as
//! a loss, and readiness checks at once. After a loss the client takes another server in random order. A server that
//! comes back has no clients then, so each moved connection is moved once more, to any server, when all has been quiet
//! for a while.

use super::{NatsBus, failed};
use async_nats::{ReconnectToServer, Server, ServerAddr};
use contract::limits::REQUEST_BYTES_MAX;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use ports::bus::BusError;
use ports::random::{Random, full_jitter};
use runtime::settings::Settings;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Time-out of the server's answer during a readiness check; shorter than the time-out of the check.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(1);
/// Space for the headers of a request.
const HEADERS_BYTES: usize = 16 * 1_024;
/// Smallest `max_payload` of a server that accepts every request of the contract.
const MAX_PAYLOAD_MIN: usize = REQUEST_BYTES_MAX + HEADERS_BYTES;
/// The server's error, in lower case, for a role that may not publish to its own inbox.
const DENIED: &str = "permissions violation for publish to \"_inbox.";
/// The same for the key that [`NatsBus::probe_storing`] writes, and the end of its subject.
const PROBE_DENIED: (&str, &str) = ("permissions violation for publish to \"$kv.", ".probe\"");

/// Most refusals that are remembered.
const REFUSALS_MAX: usize = 100;

/// The settings of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Silence after which the server is pinged; after three times that, the connection counts as lost.
    pub ping_interval: Duration,
    /// Longest time that one attempt to connect to one address may take.
    pub connect_timeout: Duration,
    /// Quiet time after a reconnect before the connection moves to any of the servers: at least this, at most twice.
    pub spread_after: Duration,
}

/// Chooses a server for each attempt to connect.
#[derive(Debug)]
pub(super) struct Chooser {
    random: Arc<dyn Random>,
    choice: Mutex<Choice>,
}

#[derive(Debug, Default)]
struct Choice {
    /// The server of the connection or of the last attempt.
    last: Option<ServerAddr>,
    /// The server for the next attempt.
    next: Option<ServerAddr>,
}

/// Counters of what the client library reports.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Number of connects.
    connects: watch::Sender<u64>,
    /// How often the server refused a probe message.
    denials: watch::Sender<u64>,
    /// What the server refused, in lower case; the first ones.
    refusals: watch::Sender<Vec<String>>,
    /// Why the last attempt to connect failed.
    connect_failure: watch::Sender<Option<String>>,
}

// === impl LinkConfig ===

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            spread_after: Duration::from_secs(60),
        }
    }
}

impl LinkConfig {
    pub(super) fn read(settings: &mut Settings<'_>) -> Self {
        let ping_interval = settings.seconds(
            "NATS_PING_SECONDS",
            2,
            1..=60,
            "silence after which a NATS server is pinged; after three times that the connection counts as lost",
        );
        let connect_timeout = settings.seconds(
            "NATS_CONNECT_TIMEOUT_SECONDS",
            2,
            1..=60,
            "time-out of one attempt to connect to a NATS server",
        );
        let spread_after = settings.seconds(
            "NATS_SPREAD_SECONDS",
            60,
            1..=86_400,
            "quiet time after a reconnect before the connection moves to any of the NATS servers (once to twice that), so that a server that came back is used again",
        );
        Self { ping_interval, connect_timeout, spread_after }
    }
}

// === impl Chooser ===

impl Chooser {
    pub(super) fn new(random: Arc<dyn Random>) -> Self {
        Self { random, choice: Mutex::default() }
    }

    /// Any server except the one that was lost or did not answer; among those, the ones with the fewest failures.
    pub(super) fn choose(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        let mut choice = self.choice.lock();
        if let Some(addr) = choice.next.take().filter(|next| servers.iter().any(|one| one.addr == *next)) {
            choice.last = Some(addr.clone());
            return Some(ReconnectToServer { addr, delay: Some(Duration::ZERO) });
        }
        let others = servers.iter().filter(|one| Some(&one.addr) != choice.last.as_ref());
        let fewest = others.clone().map(|one| one.failed_attempts).min();
        let mut best: Vec<_> = others.filter(|one| Some(one.failed_attempts) == fewest).collect();
        if best.is_empty() {
            best.extend(servers);
        }
        let addr = best.get(self.random.below(best.len()))?.addr.clone();
        choice.last = Some(addr.clone());
        Some(ReconnectToServer { addr, delay: None })
    }

    /// Any of the servers; none if that is the current one.
    fn another(&self, servers: &[Server]) -> Option<ServerAddr> {
        let any = servers.get(self.random.below(servers.len()))?;
        let choice = self.choice.lock();
        (Some(&any.addr) != choice.last.as_ref()).then(|| any.addr.clone())
    }

    fn go_next_to(&self, addr: ServerAddr) {
        self.choice.lock().next = Some(addr);
    }
}

// === impl Seen ===

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            connects: watch::Sender::new(0),
            denials: watch::Sender::new(0),
            refusals: watch::Sender::default(),
            connect_failure: watch::Sender::default(),
        }
    }

    /// Notes a connection; returns whether it is the first one.
    pub(super) fn connected(&self) -> bool {
        self.connects.send_modify(|count| *count += 1);
        *self.connects.borrow() == 1
    }

    pub(super) fn server_error(&self, error: &str) {
        let error = error.to_lowercase();
        if error.contains(DENIED) || (error.contains(PROBE_DENIED.0) && error.contains(PROBE_DENIED.1)) {
            self.denials.send_modify(|count| *count += 1);
        }
        self.refusals.send_if_modified(|all| {
            let has_room = all.len() < REFUSALS_MAX;
            all.extend(has_room.then_some(error));
            has_room
        });
    }

    pub(super) fn client_error(&self, error: &str) {
        self.connect_failure.send_replace(Some(error.to_owned()));
    }

    pub(super) fn connect_failure(&self) -> Option<String> {
        self.connect_failure.borrow().clone()
    }

    pub(super) fn refusals(&self) -> watch::Receiver<Vec<String>> {
        self.refusals.subscribe()
    }

    /// Waits for the next refusal of a probe.
    pub(super) fn denials(&self) -> watch::Receiver<u64> {
        self.denials.subscribe()
    }
}

// === impl NatsBus ===

impl NatsBus {
    /// Sends a message to itself through the server, to see whether the bus answers now and accepts the message sizes
    /// of the contract.
    ///
    /// # Errors
    /// The problem, in words for an operator.
    pub async fn round_trip(&self) -> Result<(), String> {
        if !self.connected() {
            return Err("not connected to NATS".to_owned());
        }
        let limit = self.client.max_payload();
        if limit < MAX_PAYLOAD_MIN {
            return Err(format!(
                "max_payload of the NATS server is {limit} bytes; the broker needs {MAX_PAYLOAD_MIN}"
            ));
        }
        match tokio::time::timeout(ROUND_TRIP_TIMEOUT, self.send_to_itself()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the connection to NATS is closed".to_owned()),
            Err(_) => {
                Err(format!("connected, but NATS does not answer within {} s", ROUND_TRIP_TIMEOUT.as_secs()))
            }
        }
    }

    /// The port of the connected server, as the server reports it.
    #[must_use]
    pub fn server_port(&self) -> u16 {
        self.client.server_info().port
    }

    async fn send_to_itself(&self) -> Result<(), BusError> {
        const OPERATION: &str = "ping NATS";
        let inbox = self.client.new_inbox();
        let mut denials = self.seen.denials();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(failed(OPERATION))?;
        self.client.publish(inbox, "".into()).await.map_err(failed(OPERATION))?;
        tokio::select! {
            reply = replies.next() => reply.map(|_| ()).ok_or("closed").map_err(failed(OPERATION)),
            // A server with the accounts of an older build refuses the message, and a refusal is an answer.
            denied = denials.changed() => denied.map_err(failed(OPERATION)),
        }
    }

    /// Moves the connection to any of the servers some time after each reconnect, until `stop`.
    pub async fn stay_spread(&self, stop: &CancellationToken) {
        tokio::select! {
            () = self.spread_for_ever() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn spread_for_ever(&self) {
        let mut connects = self.seen.connects.subscribe();
        // The first connection already is to any server.
        let mut settled = 1;
        while let Ok(now) = connects.wait_for(|count| *count > settled).await.map(|count| *count) {
            let calm = self.config.link.spread_after;
            tokio::time::sleep(calm + full_jitter(self.random.as_ref(), calm)).await;
            if *connects.borrow() != now {
                continue;
            }
            let Ok(servers) = self.client.server_pool().await else { return };
            match self.chooser.another(&servers) {
                Some(addr) if self.reaches(&addr).await => {
                    tracing::info!(nats.server = ?addr, "moving to another NATS server, so that all are used");
                    self.chooser.go_next_to(addr);
                    settled = now + 1;
                    if self.client.force_reconnect().await.is_err() {
                        return;
                    }
                }
                // That server is still down; it gets its share when it returns.
                Some(_) => {}
                None => settled = now,
            }
        }
    }

    async fn reaches(&self, addr: &ServerAddr) -> bool {
        let reach = TcpStream::connect((addr.host(), addr.port()));
        matches!(tokio::time::timeout(self.config.link.connect_timeout, reach).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::random::Rng;

    fn chooser() -> Chooser {
        Chooser::new(Arc::new(Rng::seeded(7)))
    }

    fn server(port: u16, failed_attempts: usize) -> Server {
        let addr = format!("nats://127.0.0.1:{port}").parse().unwrap();
        Server { addr, failed_attempts, did_connect: true, is_discovered: false, last_error: None }
    }

    fn chosen(chooser: &Chooser, servers: &[Server]) -> u16 {
        chooser.choose(servers).unwrap().addr.port()
    }

    #[test]
    fn lost_server_is_not_retried_first() {
        let (chooser, servers) = (chooser(), [server(1, 0), server(2, 0), server(3, 0)]);
        let mut last = chosen(&chooser, &servers);
        for _ in 0..100 {
            let next = chosen(&chooser, &servers);
            assert_ne!(next, last);
            last = next;
        }
        assert_eq!(chosen(&chooser, &[server(9, 4)]), 9, "the only one is tried again");
        assert_eq!(chosen(&chooser, &[server(9, 4)]), 9);
    }

    #[test]
    fn failed_servers_are_tried_last() {
        let (chooser, servers) = (chooser(), [server(1, 0), server(2, 3), server(3, 0)]);
        for _ in 0..100 {
            assert_ne!(chosen(&chooser, &servers), 2);
        }
    }

    #[test]
    fn connections_are_spread_over_servers() {
        let servers = [server(1, 0), server(2, 3), server(3, 0)];
        let rng: Arc<dyn Random> = Arc::new(Rng::seeded(7));
        let mut counts = [0; 3];
        for _ in 0..300 {
            let chooser = Chooser::new(Arc::clone(&rng));
            let here = chosen(&chooser, &servers);
            if let Some(addr) = chooser.another(&servers) {
                chooser.go_next_to(addr);
            } else {
                counts[usize::from(here) - 1] += 1;
                continue;
            }
            counts[usize::from(chosen(&chooser, &servers)) - 1] += 1;
        }
        assert!(counts.iter().all(|count| (70..=130).contains(count)), "{counts:?}");
    }
}
