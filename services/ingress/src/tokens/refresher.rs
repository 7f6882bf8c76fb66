//! Looks at the list of tokens, and has a changed one take effect without a restart.

use async_trait::async_trait;
use contract::Role;
use parking_lot::Mutex;
use ports::clock::Clock;
use ports::secrets::Secrets;
use runtime::check::Check;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use strum::IntoEnumIterator as _;

use super::settings::{read_file, read_secret};
use super::{Digest, ListSource, TokenConfig, TokenList, TokenSet, Tokens, file, fingerprint};
use crate::metrics::Metrics;

/// Keeps the good tokens in step with their list.
#[derive(Clone)]
pub(crate) struct TokenRefresher {
    tokens: Tokens,
    watched: Option<Arc<Watched>>,
    secrets: Option<Arc<dyn Secrets>>,
    metrics: Metrics,
}

/// A list and what is known of it.
struct Watched {
    list: TokenList,
    // The digest of what was seen last, good or bad, so that each change is logged once; none if it could not be read.
    seen: Mutex<Option<Digest>>,
    is_bad: AtomicBool,
}

/// Always ready: says when the list cannot be used.
struct ListNote(Arc<Watched>);

// === impl TokenRefresher ===

impl TokenRefresher {
    pub(crate) fn new(config: &TokenConfig, secrets: Option<Arc<dyn Secrets>>, metrics: Metrics) -> Self {
        let watched = config.list.as_ref().map(|list| {
            let (list, seen) = (list.clone(), Mutex::new(list.first_digest));
            Arc::new(Watched { list, seen, is_bad: AtomicBool::new(false) })
        });
        for role in Role::iter() {
            metrics.tokens_are(role, config.first.count(role));
        }
        Self { tokens: Tokens::new(config.first.clone()), watched, secrets, metrics }
    }

    /// The good tokens.
    pub(crate) fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// What readiness says of the list, if there is one.
    pub(crate) fn check(&self) -> Option<Arc<dyn Check>> {
        let watched = self.watched.as_ref()?;
        Some(Arc::new(ListNote(Arc::clone(watched))))
    }

    /// Looks at the list again and again; never ends.
    pub(crate) async fn watch(&self, clock: &dyn Clock) -> std::convert::Infallible {
        let Some(watched) = &self.watched else { return std::future::pending().await };
        loop {
            clock.sleep(watched.list.check_period).await;
            self.look(watched).await;
        }
    }

    /// Looks once. A list that cannot be used changes nothing: the tokens that were good stay good.
    async fn look(&self, watched: &Watched) {
        let read = self.read(&watched.list.source).await;
        let digest = read.as_deref().ok().map(fingerprint);
        if std::mem::replace(&mut *watched.seen.lock(), digest) == digest {
            return;
        }
        let word = watched.list.source.word();
        let taken = read.and_then(|bytes| file::parse(&bytes)).and_then(TokenSet::new);
        let is_bad = taken.is_err();
        match taken {
            Ok(set) => {
                let counts = Role::iter().map(|role| {
                    let count = set.count(role);
                    self.metrics.tokens_are(role, count);
                    format!("{count} {}", role.as_str())
                });
                let counts: Vec<_> = counts.collect();
                self.tokens.replace(set);
                tracing::info!("the {word} of tokens was read again: now {}", counts.join(", "));
            }
            Err(problem) => {
                tracing::error!(
                    problem,
                    "the {word} of tokens cannot be used; the tokens before it stay good"
                );
            }
        }
        watched.is_bad.store(is_bad, Ordering::Relaxed);
        self.metrics.tokens_read(is_bad);
    }

    async fn read(&self, source: &ListSource) -> Result<Vec<u8>, String> {
        match source {
            ListSource::File(path) => {
                let path = path.clone();
                // A file system may hang, and must not hold up requests. The task does not panic; if the process
                // ends meanwhile, no caller waits for it any more.
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.unwrap_or_else(|_| Err("cannot be read".to_owned()))
            }
            ListSource::Secret(id) => read_secret(self.secrets.as_deref(), id).await,
        }
    }
}

// === impl ListNote ===

#[async_trait]
impl Check for ListNote {
    fn name(&self) -> &'static str {
        match self.0.list.source {
            ListSource::File(_) => "tokens",
            ListSource::Secret(_) => "tokens_secret",
        }
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn note(&self) -> Option<String> {
        let word = self.0.list.source.word();
        let is_bad = self.0.is_bad.load(Ordering::Relaxed);
        is_bad.then(|| format!("the {word} of tokens cannot be used; the tokens before it stay good"))
    }
}

#[cfg(test)]
mod tests;
