//! An orderly shutdown of a process.
//!
//! The first signal, or the end of a part, asks every part to finish its work. A part that has not finished when the
//! grace period is over, or at a second signal, is cut off. If a part ends without being asked, the process fails, so
//! that a supervisor restarts it.

use std::future::Future;
use std::time::Duration;
use tokio::runtime::{self, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The parts of one process, which stop together.
#[derive(Debug)]
pub struct Lifecycle {
    stop: CancellationToken,
    grace: Duration,
    parts: JoinSet<(&'static str, Result<(), PartError>)>,
}

/// Why a part ended.
pub type PartError = Box<dyn std::error::Error + Send + Sync>;

/// Why a process failed.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// A part failed.
    #[error("{part} failed")]
    Failed {
        /// The part.
        part: &'static str,
        /// The cause.
        #[source]
        source: PartError,
    },
    /// A part ended without being asked.
    #[error("{part} ended by itself")]
    EndedByItself {
        /// The part.
        part: &'static str,
    },
    /// A part panicked.
    #[error("a part of the process panicked")]
    Panicked(#[source] JoinError),
    /// Parts were still running after the grace period and were cut off.
    #[error("{left} part(s) did not finish within {} s and were cut off", grace.as_secs())]
    CutOff {
        /// Their number.
        left: usize,
        /// The grace period.
        grace: Duration,
    },
    /// The process cannot listen for signals.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

// === impl Lifecycle ===

impl Lifecycle {
    /// A process whose parts get `grace` to finish.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { stop: CancellationToken::new(), grace, parts: JoinSet::new() }
    }

    /// Cancelled when every part should finish.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a part. The part has to end soon after `stop` is cancelled, and not before.
    pub fn start<F, E>(&mut self, part: &'static str, run: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<PartError> + Send + 'static,
    {
        self.parts.spawn(async move { (part, run.await.map_err(Into::into)) });
    }

    /// As [`Lifecycle::start`], on separate threads, as many as this runtime has, so that many tasks of this part do
    /// not delay other parts.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn start_on_own_threads<F, E>(&mut self, part: &'static str, run: F) -> std::io::Result<()>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<PartError> + Send + 'static,
    {
        let threads = Handle::current().metrics().num_workers();
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(part)
            .enable_all()
            .build()?;
        let runtime = OwnRuntime(Some(runtime));
        self.start(part, async move {
            match runtime.spawn(run).await {
                Some(ended) => ended.map_err(Into::into),
                None => Err("its threads are gone".into()),
            }
        });
        Ok(())
    }

    /// Runs until a signal comes or a part ends, then ends the rest in order.
    ///
    /// # Errors
    /// [`LifecycleError`] when a part failed, ended by itself, or had to be cut off.
    #[expect(clippy::async_yields_async, reason = "what the first signal yields is the wait for the second")]
    pub async fn run(self) -> Result<(), LifecycleError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(LifecycleError::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(LifecycleError::Signals)?;
        self.run_until(async move {
            either(&mut interrupt, &mut terminate).await;
            tracing::info!("stopping: finishing work in progress");
            async move { either(&mut interrupt, &mut terminate).await }
        })
        .await
    }

    /// As [`Lifecycle::run`], with `asked` in place of the signals. The future that it returns is the second signal.
    ///
    /// # Errors
    /// As [`Lifecycle::run`].
    pub async fn run_until<F, G>(mut self, asked: F) -> Result<(), LifecycleError>
    where
        F: Future<Output = G>,
        G: Future<Output = ()>,
    {
        let stop = self.stop.clone();
        let mut first_error = None;
        tokio::select! {
            second = asked => {
                stop.cancel();
                tokio::select! {
                    () = finish(&mut self.parts, &mut first_error) => {}
                    () = second => tracing::warn!("second signal: not waiting any longer"),
                    () = tokio::time::sleep(self.grace) => {}
                }
            }
            Some(ended) = self.parts.join_next() => {
                first_error = Some(unasked(ended));
                stop.cancel();
                let _ = tokio::time::timeout(self.grace, finish(&mut self.parts, &mut first_error)).await;
            }
        }
        let left = self.parts.len();
        self.parts.shutdown().await;
        match first_error {
            Some(error) => Err(error),
            None if left > 0 => Err(LifecycleError::CutOff { left, grace: self.grace }),
            None => Ok(()),
        }
    }
}

/// A runtime that may be dropped inside another one, which cuts off its tasks.
struct OwnRuntime(Option<Runtime>);

// === impl OwnRuntime ===

impl OwnRuntime {
    async fn spawn<T: Send + 'static>(&self, run: impl Future<Output = T> + Send + 'static) -> Option<T> {
        match self.0.as_ref()?.spawn(run).await {
            Ok(ended) => Some(ended),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => None,
        }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

type Ended = Result<(&'static str, Result<(), PartError>), JoinError>;

fn unasked(ended: Ended) -> LifecycleError {
    match ended {
        Ok((part, Ok(()))) => LifecycleError::EndedByItself { part },
        Ok((part, Err(source))) => LifecycleError::Failed { part, source },
        Err(panic) => LifecycleError::Panicked(panic),
    }
}

async fn finish(
    parts: &mut JoinSet<(&'static str, Result<(), PartError>)>,
    first_error: &mut Option<LifecycleError>,
) {
    while let Some(ended) = parts.join_next().await {
        if let Ok((_, Ok(()))) = ended {
            continue;
        }
        first_error.get_or_insert_with(|| unasked(ended));
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::{pending, ready};

    const GRACE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn an_idle_process_ends_when_asked() {
        let mut lifecycle = Lifecycle::new(GRACE);
        let stop = lifecycle.stop();
        lifecycle.start("idle", async move {
            stop.cancelled().await;
            Ok::<(), Infallible>(())
        });
        assert!(lifecycle.run_until(ready(pending())).await.is_ok());
    }

    #[tokio::test]
    async fn a_stuck_part_is_cut_off_after_the_grace_period() {
        let mut lifecycle = Lifecycle::new(GRACE);
        lifecycle.start("stuck", pending::<Result<(), Infallible>>());
        let error = lifecycle.run_until(ready(pending())).await.unwrap_err();
        assert!(matches!(error, LifecycleError::CutOff { left: 1, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_second_signal_does_not_wait_for_the_grace_period() {
        let mut lifecycle = Lifecycle::new(Duration::from_secs(3_600));
        lifecycle.start("stuck", pending::<Result<(), Infallible>>());
        assert!(lifecycle.run_until(ready(ready(()))).await.is_err());
    }

    #[tokio::test]
    async fn a_part_that_dies_stops_the_others_and_fails_the_process() {
        let mut lifecycle = Lifecycle::new(GRACE);
        let stop = lifecycle.stop();
        lifecycle.start("healthy", async move {
            stop.cancelled().await;
            Ok::<(), Infallible>(())
        });
        lifecycle.start("broken", ready(Err::<(), _>("no table")));
        let error = lifecycle.run_until(pending::<std::future::Ready<()>>()).await.unwrap_err();
        assert!(matches!(error, LifecycleError::Failed { part: "broken", .. }), "{error}");
    }

    #[tokio::test]
    async fn a_part_that_panics_fails_the_process() {
        let mut lifecycle = Lifecycle::new(GRACE);
        lifecycle.start("panics", async { if true { panic!("boom") } else { Ok::<(), Infallible>(()) } });
        let error = lifecycle.run_until(pending::<std::future::Ready<()>>()).await.unwrap_err();
        assert!(matches!(error, LifecycleError::Panicked(_)), "{error}");
    }

    #[tokio::test]
    async fn a_part_on_its_own_threads_ends_with_the_others() {
        let mut lifecycle = Lifecycle::new(GRACE);
        let stop = lifecycle.stop();
        let outside = std::thread::current().id();
        lifecycle
            .start_on_own_threads("apart", async move {
                stop.cancelled().await;
                if std::thread::current().id() == outside { Err("not on its own threads") } else { Ok(()) }
            })
            .unwrap();
        assert!(lifecycle.run_until(ready(pending())).await.is_ok());
        let mut lifecycle = Lifecycle::new(GRACE);
        lifecycle.start_on_own_threads("stuck", pending::<Result<(), Infallible>>()).unwrap();
        let error = lifecycle.run_until(ready(pending())).await.unwrap_err();
        assert!(matches!(error, LifecycleError::CutOff { left: 1, .. }), "{error}");
        let mut lifecycle = Lifecycle::new(GRACE);
        lifecycle
            .start_on_own_threads("panics", async {
                if true { panic!("boom") } else { Ok::<(), Infallible>(()) }
            })
            .unwrap();
        let error = lifecycle.run_until(pending::<std::future::Ready<()>>()).await.unwrap_err();
        assert!(matches!(error, LifecycleError::Panicked(_)), "{error}");
    }
}
