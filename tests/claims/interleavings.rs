//! Claims, releases, expiry, sync and deletions in a random order, call by call, with crashes, failures and callers
//! that hang up. After every step the sandboxes and answers are checked against a small model.
//!
//! A seed decides everything in a run in memory, so a failing run can be repeated: it prints its seed and its steps.

mod fleet;
mod gate;
mod observations;

use crate::engines::Engine;
use fleet::Fleet;
use std::collections::BTreeMap;

/// How often things fail in a run: one step in that many. Zero is never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// A call fails, before or after it took effect.
    pub(crate) fails: usize,
    /// A process crashes, and another one starts.
    pub(crate) crashes: usize,
    /// A caller hangs up.
    pub(crate) hang_ups: usize,
}

const CALM: Weather = Weather { fails: 0, crashes: 0, hang_ups: 0 };
const ROUGH: Weather = Weather { fails: 40, crashes: 60, hang_ups: 60 };
const STORMY: Weather = Weather { fails: 10, crashes: 20, hang_ups: 20 };

/// Runs of one test in memory.
const RUNS: u64 = 1_000;
/// Runs of one test on an engine with slow calls.
const RUNS_SLOW: u64 = 34;

/// Events that must occur in the runs of a test, or they prove little.
const MUST_COME_UP: [&str; 9] = [
    "created",
    "existing",
    "POOL_EXHAUSTED",
    "claimed",
    "released",
    "expired",
    "deleted",
    "missing",
    "found",
];

/// One run for each seed. Tests use different seeds, so that no two of them run the same.
async fn runs(engine: Engine, first_seed: u64, weather: Weather) {
    let count = if engine.is_slow() { RUNS_SLOW } else { RUNS };
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in first_seed..first_seed + count {
        let mut fleet = Fleet::new(engine, seed, weather).await;
        fleet.live().await;
        for (what, times) in fleet.tally() {
            *tally.entry(what).or_default() += times;
        }
        fleet.come_to_rest().await;
    }
    println!("{count} runs: {tally:?}");
    for what in MUST_COME_UP {
        assert!(tally.contains_key(what), "{what} never came up: {tally:?}");
    }
    assert_eq!(tally.contains_key("STORE_UNAVAILABLE"), weather.fails > 0, "{tally:?}");
}

pub(crate) async fn concurrent_calls_without_faults(engine: Engine) {
    runs(engine, 10_000, CALM).await;
}

pub(crate) async fn concurrent_calls_with_rare_faults(engine: Engine) {
    runs(engine, 20_000, ROUGH).await;
}

pub(crate) async fn concurrent_calls_with_frequent_faults(engine: Engine) {
    runs(engine, 30_000, STORMY).await;
}
