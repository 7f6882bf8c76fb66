//! A TCP proxy that freezes at a chosen text, so that a process can be killed in the middle of a step.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 * 1_024;

/// Where a proxy freezes.
#[derive(Clone, Debug)]
pub struct Freeze {
    /// The text in what a client sends.
    pub word: String,
    /// At which occurrence of the text, counted from one.
    pub time: usize,
    /// Whether it freezes before the server gets the text; otherwise the server gets it, and its answer is held back.
    pub is_before: bool,
}

/// A proxy in front of a server; it ends when it is dropped. While it is frozen, nothing passes.
#[derive(Debug)]
pub struct FreezingProxy {
    address: String,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    freeze: Mutex<Option<Freeze>>,
    said: AtomicUsize,
    frozen: watch::Sender<bool>,
}

// === impl FreezingProxy ===

impl FreezingProxy {
    /// A proxy in front of `upstream` (`scheme://host:port`), on a separate port. Without `freeze` it passes everything
    /// on.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(upstream: &str, freeze: Option<Freeze>) -> Self {
        let (scheme, upstream) = upstream.split_once("://").expect("a scheme");
        let upstream = upstream.trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("no port on the loopback interface");
        let address = format!("{scheme}://{}", listener.local_addr().expect("the listener has no address"));
        let (freeze, said) = (Mutex::new(freeze), AtomicUsize::new(0));
        let state = Arc::new(State { freeze, said, frozen: watch::Sender::new(false) });
        let accepting = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let Ok(server) = TcpStream::connect(&upstream).await else { continue };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::spawn(Arc::clone(&state).pass(from_client, to_server, true));
                    tokio::spawn(Arc::clone(&state).pass(from_server, to_client, false));
                }
            }
        });
        Self { address, state, accepting }
    }

    /// Its address, as `scheme://host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Freezes at a text that is sent from now on.
    pub fn freeze_at(&self, freeze: Freeze) {
        *self.state.freeze.lock() = Some(freeze);
    }

    /// Freezes now, like a broken network.
    pub fn hold(&self) {
        self.state.frozen.send_replace(true);
    }

    /// Passes on what was held back, and everything that follows.
    pub fn let_go(&self) {
        self.state.frozen.send_replace(false);
    }

    /// Whether it is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        *self.state.frozen.borrow()
    }
}

impl Drop for FreezingProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl State ===

impl State {
    async fn pass(self: Arc<Self>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_from_client: bool) {
        let mut buffer = vec![0; BUFFER_BYTES];
        // The end of what was passed on, in case the text arrives in two parts.
        let mut tail = Vec::new();
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
            let part = &buffer[..count];
            let freeze = self.freeze.lock().clone();
            let is_word =
                is_from_client && freeze.as_ref().is_some_and(|freeze| self.hears(freeze, &mut tail, part));
            let freeze = freeze.filter(|_| is_word);
            if freeze.as_ref().is_some_and(|freeze| freeze.is_before) || (!is_word && *self.frozen.borrow()) {
                self.frozen.send_replace(true);
                // The connection stays open and silent. The sender lives as long as `self`.
                let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
            } else if freeze.is_some() {
                self.frozen.send_replace(true);
            }
            if to.write_all(part).await.is_err() {
                return;
            }
        }
    }

    /// Whether the chosen text ends in this part.
    fn hears(&self, freeze: &Freeze, tail: &mut Vec<u8>, part: &[u8]) -> bool {
        let word = freeze.word.as_bytes();
        tail.extend_from_slice(part);
        let times = tail.windows(word.len()).filter(|seen| seen == &word).count();
        let kept = tail.len().saturating_sub(word.len() - 1);
        tail.drain(..kept);
        let before = self.said.fetch_add(times, Ordering::SeqCst);
        before < freeze.time && before + times >= freeze.time
    }
}
