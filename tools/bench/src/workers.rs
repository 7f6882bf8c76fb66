//! A number of workers for a number of jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;

/// Runs `job` with every number below `count`, `in_flight` of them concurrently. `done` counts finished ones.
///
/// # Errors
/// The error of the first job that fails; the others are cancelled.
pub(super) async fn work<T, F, Fut>(
    in_flight: usize,
    count: u64,
    done: &Arc<AtomicU64>,
    job: F,
) -> anyhow::Result<Vec<T>>
where
    F: Fn(u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<T>> + Send,
    T: Send + 'static,
{
    let (job, next) = (Arc::new(job), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..in_flight.max(1) {
        let (job, next, done) = (Arc::clone(&job), Arc::clone(&next), Arc::clone(done));
        workers.spawn(async move {
            let mut results = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(results);
                }
                results.push(job(number).await?);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut results = Vec::new();
    while let Some(ended) = workers.join_next().await {
        results.append(&mut ended??);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_once_within_the_concurrency_limit() {
        let done = Arc::default();
        let (running, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counting, peak) = (Arc::clone(&running), Arc::clone(&most));
        let mut numbers = work(3, 100, &done, move |number| {
            let (running, most) = (Arc::clone(&counting), Arc::clone(&peak));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(number)
            }
        })
        .await
        .unwrap();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        assert_eq!((most.load(Ordering::SeqCst), done.load(Ordering::SeqCst)), (3, 100));
    }

    #[tokio::test]
    async fn first_failure_is_returned() {
        let failing =
            |number| async move { if number == 5 { Err(anyhow::anyhow!("five")) } else { Ok(number) } };
        let error = work(2, 100, &Arc::default(), failing).await.unwrap_err();
        assert_eq!(error.to_string(), "five");
    }
}
