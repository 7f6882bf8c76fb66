//! `bench attack`: the attacking process, on this machine only. Every attack is limited in connections, rate and time;
//! it reports how much it did, because an attacker that is its own bottleneck proves nothing.

use super::shapes::{
    BODY_BYTES, CHUNK_BYTES, DRIBBLED, HEAD_BYTES, INVALID_UTF8, LONG_HEAD, LONG_HEAD_LINE, SMUGGLING,
    body_head,
};
use anyhow::bail;
use broker::descriptors;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Printed when the attack is complete.
pub(super) const READY: &str = "ready";
/// Connections per second at the beginning.
const OPENED_PER_SECOND: u64 = 4_000;
/// Time between two bytes of a slow head.
const DRIBBLE_EVERY: Duration = Duration::from_secs(1);
/// Time until a silent connection that was closed is opened again.
const IDLE_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Concurrent attempts of an attack with a rate; further ones are left out.
const ATTEMPTS_MAX: usize = 64;
/// Longest time of one of them.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 * 1_024;

/// The attacks that a hostile client may try.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
#[strum(serialize_all = "kebab-case")]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// Heads that arrive byte by byte and never end.
    Slowloris,
    /// Silent connections.
    Idle,
    /// Heads of 1 MiB.
    LargeHeads,
    /// Bodies of 100 MB, announced and in chunks.
    LargeBodies,
    /// Bytes that are not text, in paths, names and values.
    InvalidUtf8,
    /// Requests that can be parsed in two ways.
    Smuggling,
}

/// The options of `bench attack`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What to try.
    #[arg(long, value_enum)]
    pub attack: Attack,
    /// The target: a loopback address of this machine.
    #[arg(long, value_name = "ADDR")]
    pub address: SocketAddr,
    /// Connections that are held.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub connections: u64,
    /// Tries of a stream in a second.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub per_second: u64,
    /// Longest time, if the caller does not end it before.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// What an attacker has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttackStats {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that could not be opened.
    pub not_opened: u64,
    /// Those that were closed without an answer.
    pub unanswered: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// How often each status was the first answer.
    pub statuses: BTreeMap<u16, u64>,
}

/// Counters of the attack.
#[derive(Default)]
struct Tally {
    opened: AtomicU64,
    not_opened: AtomicU64,
    unanswered: AtomicU64,
    sent_bytes: AtomicU64,
    statuses: Mutex<BTreeMap<u16, u64>>,
}

/// Attacks until it is stopped or the time is over; prints when the attack is complete, and what it did.
///
/// # Errors
/// When the address is not of this machine.
pub async fn command(options: Options) -> anyhow::Result<()> {
    if !options.address.ip().is_loopback() {
        bail!("{} is not this machine: only a loopback address is attacked", options.address);
    }
    let mut ended = signal(SignalKind::terminate())?;
    descriptors::make_room(usize::try_from(options.connections)?);
    let tally = Arc::new(Tally::default());
    tokio::select! {
        () = attack(&options, &tally) => {}
        _ = ended.recv() => {}
        () = tokio::time::sleep(Duration::from_secs(options.seconds)) => {}
    }
    println!("{}", serde_json::to_string(&tally.stats())?);
    Ok(())
}

async fn attack(options: &Options, tally: &Arc<Tally>) {
    match options.attack {
        Attack::Slowloris | Attack::Idle => hold(options, tally).await,
        _ => send_attempts(options, tally).await,
    }
}

/// Opens its connections and keeps them.
async fn hold(options: &Options, tally: &Arc<Tally>) {
    let mut holders = JoinSet::new();
    let mut pace = interval(Duration::from_secs(1) / u32::try_from(OPENED_PER_SECOND).unwrap_or(u32::MAX));
    let Options { attack, address, .. } = *options;
    for _ in 0..options.connections {
        pace.tick().await;
        let tally = Arc::clone(tally);
        holders.spawn(async move {
            loop {
                tally.hold_one(attack, address).await;
                let pause = if attack == Attack::Idle { IDLE_AGAIN_AFTER } else { DRIBBLE_EVERY };
                tokio::time::sleep(pause).await;
            }
        });
    }
    while tally.opened.load(Ordering::Relaxed) + tally.not_opened.load(Ordering::Relaxed)
        < options.connections
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{READY}");
    while holders.join_next().await.is_some() {}
}

/// Tries again and again, at its rate.
async fn send_attempts(options: &Options, tally: &Arc<Tally>) {
    let places = Arc::new(Semaphore::new(ATTEMPTS_MAX));
    let mut pace = interval(Duration::from_secs(1) / u32::try_from(options.per_second).unwrap_or(u32::MAX));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Options { attack, address, .. } = *options;
    let mut attempts = JoinSet::new();
    println!("{READY}");
    for number in 0.. {
        pace.tick().await;
        while attempts.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let tally = Arc::clone(tally);
        attempts.spawn(async move {
            let _ = tokio::time::timeout(ATTEMPT_TIMEOUT, tally.send_one(attack, address, number)).await;
            drop(place);
        });
    }
}

/// Writes the request; fails when the other end closes.
async fn write_attempt(
    mut half: WriteHalf<'_>,
    attack: Attack,
    number: u64,
    tally: &Tally,
) -> std::io::Result<()> {
    let index = usize::try_from(number).unwrap_or_default();
    let (head, chunk, total) = match attack {
        Attack::LargeHeads => {
            (LONG_HEAD.to_vec(), LONG_HEAD_LINE.repeat(CHUNK_BYTES / LONG_HEAD_LINE.len()), HEAD_BYTES)
        }
        Attack::LargeBodies => (body_head(number), vec![b'x'; CHUNK_BYTES], BODY_BYTES),
        Attack::InvalidUtf8 => (turn(&INVALID_UTF8, index), Vec::new(), 0),
        _ => (turn(&SMUGGLING, index), Vec::new(), 0),
    };
    half.write_all(&head).await?;
    let mut sent = head.len();
    tally.sent_bytes.fetch_add(sent as u64, Ordering::Relaxed);
    while sent < total {
        half.write_all(&chunk).await?;
        sent += chunk.len();
        tally.sent_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn turn(shapes: &[&[u8]], index: usize) -> Vec<u8> {
    shapes.get(index % shapes.len().max(1)).map(|shape| shape.to_vec()).unwrap_or_default()
}

/// The status that an answer begins with.
fn status_of(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

// === impl Attack ===

impl Attack {
    /// Its name, as it is typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl Tally ===

impl Tally {
    async fn open(&self, address: SocketAddr) -> Option<TcpStream> {
        let opened = TcpStream::connect(address).await.ok();
        let count = if opened.is_some() { &self.opened } else { &self.not_opened };
        count.fetch_add(1, Ordering::Relaxed);
        opened
    }

    /// Holds one connection until the other end closes it.
    async fn hold_one(&self, attack: Attack, address: SocketAddr) {
        let Some(mut stream) = self.open(address).await else { return };
        let (reading, mut writing) = stream.split();
        let mut reading = reading.take(ANSWER_BYTES_MAX);
        let mut answer = Vec::new();
        let dribble = async {
            if attack == Attack::Idle {
                return std::future::pending::<std::io::Result<()>>().await;
            }
            writing.write_all(DRIBBLED).await?;
            loop {
                tokio::time::sleep(DRIBBLE_EVERY).await;
                writing.write_all(b"x").await?;
                self.sent_bytes.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::select! {
            _ = dribble => {}
            _ = reading.read_to_end(&mut answer) => {}
        }
        self.note(&answer);
    }

    async fn send_one(&self, attack: Attack, address: SocketAddr, number: u64) {
        let Some(mut stream) = self.open(address).await else { return };
        let (reading, writing) = stream.split();
        let mut answer = Vec::new();
        {
            let mut limited = reading.take(ANSWER_BYTES_MAX);
            let read = limited.read_to_end(&mut answer);
            tokio::pin!(read);
            let is_read = tokio::select! {
                _ = &mut read => true,
                // Written or refused: the answer remains.
                _ = write_attempt(writing, attack, number, self) => false,
            };
            if !is_read {
                let _ = read.await;
            }
        }
        self.note(&answer);
    }

    fn note(&self, answer: &[u8]) {
        match status_of(answer) {
            Some(status) => {
                *self.statuses.lock().entry(status).or_default() += 1;
            }
            None => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn stats(&self) -> AttackStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AttackStats {
            opened: count(&self.opened),
            not_opened: count(&self.not_opened),
            unanswered: count(&self.unanswered),
            sent_bytes: count(&self.sent_bytes),
            statuses: self.statuses.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status_of(b"HTTP/1.1 413 Payload Too Large\r\n"), Some(413));
        assert_eq!(status_of(b""), None);
        assert_eq!(status_of(b"HTTP/1.1 "), None);
    }

    #[tokio::test]
    async fn only_this_machine_is_attacked() {
        let options = Options {
            attack: Attack::Idle,
            address: SocketAddr::from(([192, 0, 2, 1], 80)),
            connections: 1,
            per_second: 1,
            seconds: 1,
        };
        assert!(command(options).await.unwrap_err().to_string().contains("not this machine"));
    }
}
