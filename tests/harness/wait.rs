//! Waiting for a level, with a deadline. The only place in the tests that sleeps.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Pause between two looks.
const POLL_PAUSE: Duration = Duration::from_millis(10);
/// How long a test waits for something that should take milliseconds; the machine may be busy.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Looks until `look` gives something, and panics with the last thing seen when the timeout is used up.
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

/// Looks until `look` gives something, outside of any runtime. None when the timeout is used up.
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

/// Work that takes this long: what a handler of a test does, not a way to wait for something.
pub async fn moment(span: Duration) {
    tokio::time::sleep(span).await;
}
