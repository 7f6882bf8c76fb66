//! A TCP proxy that loses a reply on purpose: the request arrives, the answer does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 * 1_024;

/// A proxy in front of an HTTP server; it ends when it is dropped.
#[derive(Debug)]
pub struct LossyProxy {
    endpoint: String,
    losses: Arc<Losses>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Losses {
    armed: AtomicBool,
    lost: AtomicUsize,
}

// === impl LossyProxy ===

impl LossyProxy {
    /// A proxy in front of `upstream` (`http://host:port`), on a separate port.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(upstream: &str) -> Self {
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("no port on the loopback interface");
        let endpoint = format!("http://{}", listener.local_addr().expect("the listener has no address"));
        let losses = Arc::<Losses>::default();
        let accepting = tokio::spawn({
            let losses = Arc::clone(&losses);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let Ok(server) = TcpStream::connect(&upstream).await else { continue };
                    tokio::spawn(relay(client, server, Arc::clone(&losses)));
                }
            }
        });
        Self { endpoint, losses, accepting }
    }

    /// Its address, as `http://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Closes the connection instead of passing on the next reply, whatever its connection.
    pub fn lose_next_reply(&self) {
        self.losses.armed.store(true, Ordering::SeqCst);
    }

    /// Replies lost so far.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.losses.lost.load(Ordering::SeqCst)
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes bytes both ways until one side ends or a reply has to be lost.
async fn relay(mut client: TcpStream, mut server: TcpStream, losses: Arc<Losses>) {
    let (mut request, mut reply) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let passed = tokio::select! {
            read = client.read(&mut request) => match read {
                Ok(bytes) if bytes > 0 => server.write_all(&request[..bytes]).await,
                _ => return,
            },
            read = server.read(&mut reply) => match read {
                Ok(bytes) if bytes > 0 => {
                    if losses.armed.swap(false, Ordering::SeqCst) {
                        losses.lost.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    client.write_all(&reply[..bytes]).await
                }
                _ => return,
            },
        };
        if passed.is_err() {
            return;
        }
    }
}
