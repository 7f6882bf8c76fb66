//! Settings that several services, or a service and its process, read.

use super::settings::Settings;
use domain::LeasePolicy;
use std::time::Duration;

const REGION_DEFAULT: &str = "us-east-1";
/// Seconds of an hour.
pub const HOUR_SECONDS: u64 = 3_600;
const MINUTE_SECONDS: u64 = 60;
const DAY_SECONDS: u64 = 24 * HOUR_SECONDS;

/// Upper limit of `LAB_DURATION_HOURS_MAX`.
pub const HOURS_MAX_MAX: u64 = 720;
/// Upper limit of `LAB_DURATION_HOURS_TOTAL_MAX`.
pub const HOURS_TOTAL_MAX_MAX: u64 = 1_440;

/// Reads `LAB_DURATION_HOURS`, `LAB_DURATION_HOURS_MAX`, `LAB_DURATION_HOURS_TOTAL_MAX` and `GRACE_PERIOD_MINUTES`.
pub fn read_lease_policy(settings: &mut Settings<'_>) -> LeasePolicy {
    let hours =
        settings.number("LAB_DURATION_HOURS", 4, 1..=HOURS_MAX_MAX, "default length of a lease, in hours");
    let hours_max = settings.number(
        "LAB_DURATION_HOURS_MAX",
        48,
        1..=HOURS_MAX_MAX,
        "maximum length of a lease that a caller may ask for, in hours",
    );
    if hours > hours_max {
        settings.mistake("LAB_DURATION_HOURS", "must not be more than LAB_DURATION_HOURS_MAX");
    }
    let hours_total_max = settings.number(
        "LAB_DURATION_HOURS_TOTAL_MAX",
        72,
        1..=HOURS_TOTAL_MAX_MAX,
        "maximum total length of a lease with all extensions, in hours; at least LAB_DURATION_HOURS_MAX in effect",
    );
    let grace = settings.number(
        "GRACE_PERIOD_MINUTES",
        30,
        0..=1_440,
        "time from the end of a lease until its sandbox is taken away, in minutes",
    );
    LeasePolicy {
        duration: Duration::from_secs(hours * HOUR_SECONDS),
        duration_max: Duration::from_secs(hours_max * HOUR_SECONDS),
        total_max: Duration::from_secs(hours_total_max.max(hours_max) * HOUR_SECONDS),
        grace: Duration::from_secs(grace * MINUTE_SECONDS),
    }
}

/// Reads `STALE_KEPT_HOURS`: how long a sandbox that the provider does not list is kept.
pub fn read_stale_kept(settings: &mut Settings<'_>) -> Duration {
    let hours = settings.number(
        "STALE_KEPT_HOURS",
        24,
        1..=8_760,
        "how long the record of a sandbox that the provider does not list is kept, in hours",
    );
    Duration::from_secs(hours * HOUR_SECONDS)
}

/// Reads `TOMBSTONE_DAYS`: how long a tombstone is kept, which must be longer than any listing lags.
pub fn read_tombstone_kept(settings: &mut Settings<'_>) -> Duration {
    let days = settings.number(
        "TOMBSTONE_DAYS",
        30,
        1..=3_650,
        "days that the record of a deleted sandbox is kept, so that a late listing cannot bring it back",
    );
    Duration::from_secs(days * DAY_SECONDS)
}

/// Reads `WORKER_THREADS`: threads that run tasks, at least one.
///
/// Half of the cores by default. A claim passes several processes (NATS, the table, two roles) that wait for each
/// other. If one machine runs all of them, a thread per core only competes with the others: on two cores, one thread
/// instead of two made a single caller's claim a third faster.
pub fn read_worker_threads(settings: &mut Settings<'_>) -> usize {
    let set = settings.size(
        "WORKER_THREADS",
        0,
        0..=1_024,
        "threads that run tasks; 0 is half of the cores, at least one",
    );
    if set > 0 {
        return set;
    }
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Reads `AWS_REGION`.
pub fn read_region(settings: &mut Settings<'_>) -> String {
    settings.text("AWS_REGION", REGION_DEFAULT, "the AWS region of the table and of secrets")
}

/// Reads `STOP_GRACE_SECONDS`.
pub fn read_stop_grace(settings: &mut Settings<'_>) -> Duration {
    settings.seconds(
        "STOP_GRACE_SECONDS",
        25,
        3..=600,
        "time to finish work in progress after the first signal; keep it below the supervisor's own time-out",
    )
}
