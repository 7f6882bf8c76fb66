//! Looks at the file of tokens, and has a changed one take effect without a restart.

use async_trait::async_trait;
use common::clock::Clock;
use common::runtime::ops::Check;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::settings::{read_file, together};
use super::{Digest, Entry, Scope, TokenConfig, Tokens, fingerprint};
use crate::metrics::Metrics;

/// Keeps the good tokens in step with the file.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    tokens: Tokens,
    named: Arc<[Entry]>,
    file: Option<PathBuf>,
    look_every: Duration,
    // The digest of what was seen last, good or bad, so that each change is told once; none if it could not be read.
    seen: Arc<Mutex<Option<Digest>>>,
    is_bad: Arc<AtomicBool>,
    metrics: Metrics,
}

/// Always ready: says when the file cannot be used.
struct FileNote(Arc<AtomicBool>);

// === impl Keeper ===

impl Keeper {
    pub(crate) fn new(config: &TokenConfig, metrics: Metrics) -> Self {
        for scope in Scope::ALL {
            metrics.tokens_are(scope, config.first.count(scope));
        }
        Self {
            tokens: Tokens::new(config.first.clone()),
            named: config.named.clone().into(),
            file: config.file.clone(),
            look_every: config.look_every,
            seen: Arc::new(Mutex::new(Some(fingerprint(&config.first_bytes)))),
            is_bad: Arc::default(),
            metrics,
        }
    }

    /// The good tokens.
    pub(crate) fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// What readiness says of the file; nothing if there is none.
    pub(crate) fn check(&self) -> Option<Arc<dyn Check>> {
        self.file.as_ref()?;
        Some(Arc::new(FileNote(Arc::clone(&self.is_bad))))
    }

    /// Looks again and again.
    pub(crate) async fn watch(&self, clock: &dyn Clock) -> Infallible {
        loop {
            clock.sleep(self.look_every).await;
            self.look().await;
        }
    }

    /// Looks once. A file that cannot be used changes nothing: the tokens that were good stay good.
    async fn look(&self) {
        let Some(path) = self.file.clone() else { return };
        let named = Arc::clone(&self.named);
        // A file system may hang, and must not hold up requests. The task does not panic; if the process ends
        // meanwhile, nobody waits for it any more.
        let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
        let read = read.unwrap_or_else(|_| Err("cannot be read".to_owned()));
        let digest = read.as_ref().ok().map(|bytes| fingerprint(bytes));
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut *seen, digest) == digest {
                return;
            }
        }
        let set = read.and_then(|bytes| together(&named, &bytes));
        let is_bad = set.is_err();
        match set {
            Ok(set) => {
                let counts = Scope::ALL.map(|scope| set.count(scope));
                for (scope, count) in Scope::ALL.into_iter().zip(counts) {
                    self.metrics.tokens_are(scope, count);
                }
                self.tokens.replace(set);
                let [lab, admin, read_only] = counts;
                tracing::info!(
                    "the file of tokens was read again: {lab} lab, {admin} admin, {read_only} read-only"
                );
            }
            Err(problem) => {
                tracing::error!(problem, "the file of tokens cannot be used; the tokens before it stay good");
            }
        }
        self.is_bad.store(is_bad, Ordering::Relaxed);
        self.metrics.tokens_read(is_bad);
    }
}

// === impl FileNote ===

#[async_trait]
impl Check for FileNote {
    fn name(&self) -> &'static str {
        "tokens"
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn note(&self) -> Option<String> {
        let is_bad = self.0.load(Ordering::Relaxed);
        is_bad.then(|| "the file of tokens cannot be used; the tokens before it stay good".to_owned())
    }
}
