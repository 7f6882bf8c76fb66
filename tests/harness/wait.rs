//! Waits for a condition, with a deadline. The only code in the tests that sleeps.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Pause between two checks.
const POLL_PAUSE: Duration = Duration::from_millis(10);
/// Time-out for things that should take milliseconds, because the machine may be busy.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Checks until `look` returns a value; panics with the last state after the time-out.
pub async fn eventually<T, S, F>(what: &str, timeout: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, S>>,
    S: Debug,
{
    let deadline = Instant::now() + timeout;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= deadline => {
                panic!("waited {timeout:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => tokio::time::sleep(POLL_PAUSE).await,
        }
    }
}

/// Checks until `look` returns a value, outside of a runtime. None after the time-out.
pub fn until<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match look() {
            Some(found) => return Some(found),
            None if Instant::now() >= deadline => return None,
            None => std::thread::sleep(POLL_PAUSE),
        }
    }
}

/// Simulates work that takes this long in a test's handler; not a way to wait for a condition.
pub async fn moment(span: Duration) {
    tokio::time::sleep(span).await;
}
