//! A proxy that limits the table to a number of requests per second, with one queue for all connections.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 * 1_024;

/// The proxy. It ends when it is dropped.
pub(super) struct Limiter {
    pub(super) endpoint: String,
    schedule: Arc<Schedule>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Schedule {
    /// Requests per second; 0 means unlimited.
    rate: AtomicU64,
    /// When the next request is passed on.
    next: Mutex<Option<Instant>>,
}

// === impl Limiter ===

impl Limiter {
    /// In front of `upstream` (`http://host:port`), unlimited at first.
    pub(super) async fn start(upstream: &str) -> anyhow::Result<Self> {
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let schedule = Arc::<Schedule>::default();
        let accepting = tokio::spawn({
            let schedule = Arc::clone(&schedule);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let Ok(server) = TcpStream::connect(&upstream).await else { continue };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    tokio::spawn(relay(client, server, Arc::clone(&schedule)));
                }
            }
        });
        Ok(Self { endpoint, schedule, accepting })
    }

    /// Sets the limit, in requests per second; 0 means unlimited.
    pub(super) fn limit(&self, per_second: u64) {
        self.schedule.rate.store(per_second, Ordering::Relaxed);
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl Schedule ===

impl Schedule {
    /// How long the request that comes now has to wait.
    fn wait(&self) -> Duration {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let mut next = self.next.lock();
        let slot = next.map_or(now, |next| next.max(now));
        *next = Some(slot + Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX));
        slot - now
    }
}

/// Passes bytes both ways. HTTP/1.1 without pipelining: what the client sends after an answer is a new request.
async fn relay(mut client: TcpStream, mut server: TcpStream, schedule: Arc<Schedule>) {
    let (mut request, mut reply) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut is_answered = true;
    loop {
        let passed = tokio::select! {
            read = client.read(&mut request) => match read {
                Ok(bytes) if bytes > 0 => {
                    if std::mem::take(&mut is_answered) {
                        tokio::time::sleep(schedule.wait()).await;
                    }
                    server.write_all(request.get(..bytes).unwrap_or_default()).await
                }
                _ => return,
            },
            read = server.read(&mut reply) => match read {
                Ok(bytes) if bytes > 0 => {
                    is_answered = true;
                    client.write_all(reply.get(..bytes).unwrap_or_default()).await
                }
                _ => return,
            },
        };
        if passed.is_err() {
            return;
        }
    }
}
