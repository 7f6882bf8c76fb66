//! Reloads the TLS files after a change, for the next connection.

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use ports::clock::Clock;
use runtime::check::Check;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

use super::{Digest, TlsConfig, TlsFiles};
use crate::metrics::Metrics;

/// Keeps certificate and key in step with their files.
#[derive(Clone)]
pub(crate) struct TlsReloader(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    check_period: Duration,
    good: RwLock<Arc<ServerConfig>>,
    // The digest of the last contents, valid or not, so that each change is logged once; none if they could not be
    // read.
    seen: Mutex<Option<Digest>>,
    is_bad: AtomicBool,
    metrics: Metrics,
}

/// Always ready; reports files that cannot be used.
struct FilesNote(TlsReloader);

// === impl TlsReloader ===

impl TlsReloader {
    pub(crate) fn new(config: &TlsConfig, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            files: config.files.clone(),
            check_period: config.check_period,
            good: RwLock::new(Arc::clone(&config.first)),
            seen: Mutex::new(Some(config.first_digest)),
            is_bad: AtomicBool::new(false),
            metrics,
        }))
    }

    /// The acceptor for new connections.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.good.read()))
    }

    /// The readiness note about the files.
    pub(crate) fn check(&self) -> Arc<dyn Check> {
        Arc::new(FilesNote(self.clone()))
    }

    /// Checks the files repeatedly.
    pub(crate) async fn watch(&self, clock: &dyn Clock) -> Infallible {
        loop {
            clock.sleep(self.0.check_period).await;
            self.look().await;
        }
    }

    /// Checks the files once. Invalid files change nothing. A check between the writes of certificate and key finds a
    /// pair that does not match; the next one finds a matching pair.
    async fn look(&self) {
        let files = self.0.files.clone();
        // A file system may hang and must not block requests. The task does not panic; if the process ends meanwhile,
        // no caller waits for it.
        let read = tokio::task::spawn_blocking(move || files.read()).await;
        let read = read.unwrap_or_else(|_| Err(("TLS_CERT_FILE", "cannot be read".to_owned())));
        let digest = read.as_ref().ok().map(super::Bytes::digest);
        {
            let mut seen = self.0.seen.lock();
            if std::mem::replace(&mut *seen, digest) == digest {
                return;
            }
        }
        let config = read.and_then(|bytes| bytes.server_config());
        let is_bad = config.is_err();
        match config {
            Ok(config) => {
                *self.0.good.write() = config;
                tracing::info!("the TLS files were reloaded");
            }
            Err((variable, problem)) => {
                tracing::warn!(
                    variable,
                    problem,
                    "the TLS files cannot be used; the previous ones stay in use"
                );
            }
        }
        self.0.is_bad.store(is_bad, Ordering::Relaxed);
        self.0.metrics.tls_files_are(is_bad);
    }
}

// === impl FilesNote ===

#[async_trait]
impl Check for FilesNote {
    fn name(&self) -> &'static str {
        "tls"
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn note(&self) -> Option<String> {
        let is_bad = self.0.0.is_bad.load(Ordering::Relaxed);
        is_bad.then(|| "the TLS files cannot be used; the previous ones stay in use".to_owned())
    }
}
