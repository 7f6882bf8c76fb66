//! Looks at the lists of tokens, and has a changed one take effect without a restart.

use async_trait::async_trait;
use futures_util::future::join_all;
use parking_lot::{Mutex, MutexGuard};
use ports::clock::Clock;
use ports::secrets::Secrets;
use runtime::check::Check;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use strum::IntoEnumIterator as _;

use super::settings::read_file;
use super::{Digest, Entry, ListSource, Scope, TokenConfig, TokenList, TokenSet, Tokens, file, fingerprint};
use crate::metrics::Metrics;

/// Keeps the good tokens in step with their lists.
#[derive(Clone)]
pub(crate) struct TokenRefresher {
    tokens: Tokens,
    named: Arc<[Entry]>,
    lists: Arc<[Watched]>,
    // Held while a new set is put together, so that two lists that change at once do not undo each other.
    known: Arc<Mutex<Vec<Known>>>,
    secrets: Option<Arc<dyn Secrets>>,
    metrics: Metrics,
}

/// A list and whether it can be used.
struct Watched {
    list: TokenList,
    is_bad: Arc<AtomicBool>,
}

/// What is known of a list.
struct Known {
    // The digest of what was seen last, good or bad, so that each change is logged once; none if it could not be read.
    seen: Option<Digest>,
    // The tokens that it held when it could be used.
    entries: Vec<Entry>,
    // Those that it holds now, if they are good in themselves but not beside those of the other list. Its bytes do not
    // change any more, so they are tried again whenever the other list does.
    waiting: Option<Vec<Entry>>,
}

/// What a look led to.
struct Taken {
    set: TokenSet,
    // The lists whose tokens had been waiting for this one, by place.
    late: Vec<usize>,
}

/// Always ready: says when a list cannot be used.
struct ListNote {
    place: ListSource,
    is_bad: Arc<AtomicBool>,
}

// === impl TokenRefresher ===

impl TokenRefresher {
    pub(crate) fn new(config: &TokenConfig, secrets: Option<Arc<dyn Secrets>>, metrics: Metrics) -> Self {
        for scope in Scope::iter() {
            metrics.tokens_are(scope, config.first.count(scope));
        }
        let known = config.lists.iter().map(|list| Known {
            seen: list.bytes.as_deref().map(fingerprint),
            entries: list.bytes.as_deref().and_then(|bytes| file::parse(bytes).ok()).unwrap_or_default(),
            waiting: None,
        });
        let known = Arc::new(Mutex::new(known.collect()));
        let watch = |list: &TokenList| Watched { list: list.clone(), is_bad: Arc::default() };
        Self {
            tokens: Tokens::new(config.first.clone()),
            named: config.named.clone().into(),
            lists: config.lists.iter().map(watch).collect(),
            known,
            secrets,
            metrics,
        }
    }

    /// The good tokens.
    pub(crate) fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// What readiness says of the lists.
    pub(crate) fn checks(&self) -> Vec<Arc<dyn Check>> {
        let note = |watched: &Watched| {
            let Watched { list, is_bad } = watched;
            Arc::new(ListNote { place: list.place.clone(), is_bad: Arc::clone(is_bad) }) as Arc<dyn Check>
        };
        self.lists.iter().map(note).collect()
    }

    /// Looks at every list again and again; never ends.
    pub(crate) async fn watch(&self, clock: &dyn Clock) {
        let each = self.lists.iter().enumerate().map(|(place, watched)| async move {
            loop {
                clock.sleep(watched.list.check_period).await;
                self.look(place, watched).await;
            }
        });
        join_all(each).await;
        // Without lists there is nothing to look at, and that is no reason to end.
        std::future::pending().await
    }

    /// Looks once. A list that cannot be used changes nothing: the tokens that were good stay good.
    async fn look(&self, place: usize, watched: &Watched) {
        let read = self.read(&watched.list.place).await;
        let Some(taken) = self.take(place, read) else { return };
        let word = watched.list.place.word();
        let is_bad = taken.is_err();
        match taken {
            Ok(Taken { set, late }) => {
                let counts =
                    [Scope::Lab, Scope::Admin, Scope::ReadOnly].map(|scope| (scope, set.count(scope)));
                for (scope, count) in counts {
                    self.metrics.tokens_are(scope, count);
                }
                self.tokens.replace(set);
                let [lab, admin, read_only] = counts.map(|(_, count)| count);
                tracing::info!(
                    "the {word} of tokens was read again: now {lab} lab, {admin} admin, {read_only} read-only in all"
                );
                for other in late.into_iter().filter_map(|place| self.lists.get(place)) {
                    other.is_bad.store(false, Ordering::Relaxed);
                    tracing::info!(
                        "the {} of tokens, which was refused beside the former {word}, is taken now",
                        other.list.place.word()
                    );
                }
            }
            Err(problem) => {
                tracing::error!(
                    problem,
                    "the {word} of tokens cannot be used; the tokens before it stay good"
                );
            }
        }
        watched.is_bad.store(is_bad, Ordering::Relaxed);
        self.metrics.tokens_read(is_bad, self.lists.iter().any(|list| list.is_bad.load(Ordering::Relaxed)));
    }

    async fn read(&self, place: &ListSource) -> Result<Vec<u8>, String> {
        match (place, &self.secrets) {
            (ListSource::File(path), _) => {
                let path = path.clone();
                // A file system may hang, and must not hold up requests. The task does not panic; if the process
                // ends meanwhile, no caller waits for it any more.
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.unwrap_or_else(|_| Err("cannot be read".to_owned()))
            }
            (ListSource::Secret(id), Some(secrets)) => {
                secrets.read(id).await.map_err(|error| format!("cannot be read: {error}"))
            }
            (ListSource::Secret(_), None) => Err("cannot be read: there is no store of secrets".to_owned()),
        }
    }

    /// All tokens with what this list holds now; nothing if that is what was seen last.
    fn take(&self, place: usize, read: Result<Vec<u8>, String>) -> Option<Result<Taken, String>> {
        let mut known = self.known();
        let digest = read.as_ref().ok().map(|bytes| fingerprint(bytes));
        let of_this = known.get_mut(place)?;
        if std::mem::replace(&mut of_this.seen, digest) == digest {
            return None;
        }
        of_this.waiting = None;
        let entries = match read.and_then(|bytes| file::parse(&bytes)) {
            Ok(entries) => entries,
            Err(problem) => return Some(Err(problem)),
        };
        of_this.waiting = Some(entries);
        Some(self.settle(place, &mut known))
    }

    /// Takes what waits: all of it, or else that of `place` alone. There are two lists at most, so there is no other
    /// way. Two lists that exchange a token are each refused beside the former other one, and good together.
    fn settle(&self, place: usize, known: &mut [Known]) -> Result<Taken, String> {
        let (set, is_all) = match self.union(known, |_| true) {
            Ok(set) => (set, true),
            Err(_) => (self.union(known, |one| one == place)?, false),
        };
        let mut late = Vec::new();
        for (one, list) in known.iter_mut().enumerate().filter(|(one, _)| is_all || *one == place) {
            let Some(entries) = list.waiting.take() else { continue };
            list.entries = entries;
            if one != place {
                late.push(one);
            }
        }
        Ok(Taken { set, late })
    }

    /// All tokens, with those that wait in the lists that are `fresh` in the place of the former ones.
    fn union(&self, known: &[Known], fresh: impl Fn(usize) -> bool) -> Result<TokenSet, String> {
        let of_lists = known.iter().enumerate().flat_map(|(place, list)| {
            list.waiting.as_ref().filter(|_| fresh(place)).unwrap_or(&list.entries)
        });
        TokenSet::new(self.named.iter().chain(of_lists).cloned())
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock()
    }
}

// === impl ListNote ===

#[async_trait]
impl Check for ListNote {
    fn name(&self) -> &'static str {
        match self.place {
            ListSource::File(_) => "tokens",
            ListSource::Secret(_) => "tokens_secret",
        }
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn note(&self) -> Option<String> {
        let word = self.place.word();
        let is_bad = self.is_bad.load(Ordering::Relaxed);
        is_bad.then(|| format!("the {word} of tokens cannot be used; the tokens before it stay good"))
    }
}

#[cfg(test)]
mod tests;
