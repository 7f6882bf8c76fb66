//! Arrivals of an open loop: a Poisson process, like students who are independent of each other.

use ports::random::Random;
use std::time::{Duration, Instant};

/// Resolution of the random numbers. Times are kept to the nanosecond; a finer one would be lost.
const STEPS: usize = 1 << 30;

/// The intended starts of every caller within `span`, in order, `rate_per_second` of them on average.
#[must_use]
pub fn poisson(random: &dyn Random, rate_per_second: f64, span: Duration) -> Vec<Duration> {
    let mut arrivals = Vec::new();
    let mut at_seconds = 0.0;
    loop {
        // Between two arrivals the time is exponential; the generator never gives zero, whose logarithm is none.
        let uniform = (random.below(STEPS) + 1) as f64 / STEPS as f64;
        at_seconds -= uniform.ln() / rate_per_second;
        match Duration::try_from_secs_f64(at_seconds) {
            Ok(at) if at < span => arrivals.push(at),
            _ => return arrivals,
        }
    }
}

/// Calls `send` for every caller at its intended start, with that start and its number.
pub async fn send_by<F>(schedule: Vec<Duration>, mut send: F)
where
    F: FnMut(Instant, Duration) + Send + 'static,
{
    let began = Instant::now();
    // On a separate thread that only sleeps, because the runtime's timer has a resolution of milliseconds, which is as
    // long as a good claim takes.
    let pacer = move || {
        for at in schedule {
            let intended = began + at;
            std::thread::sleep(intended.saturating_duration_since(Instant::now()));
            send(intended, at);
        }
    };
    // It fails only with the process.
    let _ = tokio::task::spawn_blocking(pacer).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::random::Rng;

    const SPAN: Duration = Duration::from_secs(100);

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        let schedule = |seed| poisson(&Rng::seeded(seed), 50.0, SPAN);
        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
    }

    #[test]
    fn schedule_is_sorted_and_within_the_span() {
        let arrivals = poisson(&Rng::seeded(7), 200.0, SPAN);
        assert!(arrivals.is_sorted());
        assert!(arrivals.iter().all(|at| *at < SPAN));
    }

    #[test]
    fn rate_and_spread_are_those_of_a_poisson_process() {
        let arrivals = poisson(&Rng::seeded(7), 200.0, SPAN);
        // 20,000 on average, with a standard deviation of 141.
        assert!((19_400..20_600).contains(&arrivals.len()), "{}", arrivals.len());
        let mut counts = vec![0.0_f64; 100];
        for at in &arrivals {
            counts[at.as_secs() as usize] += 1.0;
        }
        // Counts of a second vary as much as their mean; evenly spaced ones would not vary at all.
        let mean = counts.iter().sum::<f64>() / 100.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 100.0;
        assert!((0.6..1.6).contains(&(variance / mean)), "{variance} / {mean}");
    }
}
