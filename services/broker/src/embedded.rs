//! The embedded table: `dynoxide` behind its HTTP endpoint on loopback, so that the AWS client runs unchanged.
//!
//! The engine blocks the calling thread, so it gets a separate thread and runtime.

use anyhow::Context as _;
use dynoxide::Database;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A running engine.
#[derive(Debug)]
pub struct EmbeddedTable {
    /// Its address for the AWS client.
    pub endpoint: String,
    stop: Option<oneshot::Sender<()>>,
    ended: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

// === impl EmbeddedTable ===

impl EmbeddedTable {
    /// Starts an engine on the file at `path`, or in memory without one.
    ///
    /// # Errors
    /// When the file cannot be opened or no port is free.
    pub async fn start(path: Option<&Path>) -> anyhow::Result<Self> {
        Self::start_at(path, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// As [`EmbeddedTable::start`], with a listen address.
    ///
    /// # Errors
    /// As for [`EmbeddedTable::start`].
    pub async fn start_at(path: Option<&Path>, listen: SocketAddr) -> anyhow::Result<Self> {
        let database = match path {
            Some(path) => {
                let text = path.to_str().context("the path of the table is no text")?;
                Database::new(text).with_context(|| format!("cannot open the table {text}"))?
            }
            None => Database::memory().context("cannot make a table in memory")?,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, endpoint) = oneshot::channel();
        let ended = CancellationToken::new();
        let ending = ended.clone().drop_guard();
        let thread = std::thread::Builder::new().name("table".to_owned()).spawn(move || {
            let _ending = ending;
            let served = serve(database, listen, bound, async {
                // Dropping the sender also means to stop.
                let _ = stopped.await;
            });
            if let Err(error) = served {
                tracing::error!("the embedded table stopped: {error:#}");
            }
        })?;
        let endpoint = endpoint.await.context("the embedded table did not start")??;
        Ok(Self { endpoint, stop: Some(stop), ended, thread: Some(thread) })
    }

    /// Cancelled when the engine has stopped, whatever the cause.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Finishes calls in progress and closes the file.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread ends by itself; joining it ensures that the file is closed.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn serve(
    database: Database,
    listen: SocketAddr,
    bound: oneshot::Sender<anyhow::Result<String>>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listening = async {
            let listener = TcpListener::bind(listen)
                .await
                .with_context(|| format!("the table cannot listen on {listen}"))?;
            let endpoint = format!("http://{}", listener.local_addr()?);
            anyhow::Ok((listener, endpoint))
        };
        let (listener, endpoint) = match listening.await {
            Ok(listening) => listening,
            Err(error) => {
                let _ = bound.send(Err(error));
                return Ok(());
            }
        };
        if bound.send(Ok(endpoint)).is_err() {
            return Ok(());
        }
        dynoxide::server::serve_with_shutdown(listener, database, stopped).await.map_err(anyhow::Error::msg)
    })
}
