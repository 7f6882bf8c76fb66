//! The table of ticks: which kind, how often, and how far into its period.
//!
//! The offsets of the defaults keep the kinds apart: no two of them fall on the same second, ever.

use common::contract::TickKind;
use common::runtime::settings::Settings;
use std::time::Duration;

/// Longest period of a tick: half of the window in which the stream knows a slot again.
const PERIOD_SECONDS_MAX: u64 = 3_600;

/// When which ticks are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Of sync ticks.
    pub sync: Rhythm,
    /// Of expiry ticks.
    pub expiry: Rhythm,
    /// Of sweep ticks.
    pub sweep: Rhythm,
    /// Of census ticks.
    pub census: Rhythm,
    /// Of stale ticks.
    pub stale: Rhythm,
}

/// When the ticks of one kind are due: a slot begins every `period`, `offset` after the multiples of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// Length of a slot.
    pub period: Duration,
    /// How far the slots are put off; only what is beyond whole periods counts.
    pub offset: Duration,
}

// === impl Config ===

impl Config {
    /// Reads the variables of a scheduler.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let sync = period(
            settings,
            "SYNC_INTERVAL_SECONDS",
            600,
            "time between two comparisons of the provider's listing with the table",
        );
        let expiry = period(
            settings,
            "EXPIRY_INTERVAL_SECONDS",
            10,
            "time between two looks for leases that are over",
        );
        let sweep = period(
            settings,
            "SWEEP_INTERVAL_SECONDS",
            60,
            "time between two looks for deletions whose message was lost",
        );
        let census = period(settings, "CENSUS_INTERVAL_SECONDS", 15, "time between two counts of the pools");
        let stale = period(
            settings,
            "STALE_INTERVAL_SECONDS",
            3_600,
            "time between two looks for sandboxes that have been stale for too long",
        );
        Self {
            sync: Rhythm { period: sync, offset: offset(settings, "SYNC_OFFSET_SECONDS", 4) },
            expiry: Rhythm { period: expiry, offset: offset(settings, "EXPIRY_OFFSET_SECONDS", 0) },
            sweep: Rhythm { period: sweep, offset: offset(settings, "SWEEP_OFFSET_SECONDS", 33) },
            census: Rhythm { period: census, offset: offset(settings, "CENSUS_OFFSET_SECONDS", 7) },
            stale: Rhythm { period: stale, offset: offset(settings, "STALE_OFFSET_SECONDS", 56) },
        }
    }

    /// The row of a kind.
    #[must_use]
    pub const fn rhythm(&self, kind: TickKind) -> Rhythm {
        match kind {
            TickKind::Sync => self.sync,
            TickKind::Expiry => self.expiry,
            TickKind::Sweep => self.sweep,
            TickKind::Census => self.census,
            TickKind::Stale => self.stale,
        }
    }
}

fn period(settings: &mut Settings<'_>, name: &'static str, seconds: u64, meaning: &'static str) -> Duration {
    settings.seconds(name, seconds, 1..=PERIOD_SECONDS_MAX, meaning)
}

fn offset(settings: &mut Settings<'_>, name: &'static str, seconds: u64) -> Duration {
    let meaning = "how far into its period that tick comes, so that not all kinds come at once; the same for the whole fleet";
    settings.seconds(name, seconds, 0..=PERIOD_SECONDS_MAX, meaning)
}

// === impl Rhythm ===

impl Rhythm {
    /// The number of the slot that a moment is in, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn slot_at(self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.offset_ms()) / self.period_ms()
    }

    /// When that slot begins, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn start_ms(self, slot: u64) -> u64 {
        slot.saturating_mul(self.period_ms()).saturating_add(self.offset_ms())
    }

    fn period_ms(self) -> u64 {
        u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn offset_ms(self) -> u64 {
        u64::try_from(self.offset.as_millis()).unwrap_or(u64::MAX) % self.period_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn rhythm(period_ms: u64, offset_ms: u64) -> Rhythm {
        Rhythm { period: Duration::from_millis(period_ms), offset: Duration::from_millis(offset_ms) }
    }

    #[test]
    fn slots_follow_the_clock_and_do_not_drift() {
        let even = rhythm(10_000, 0);
        assert_eq!([59_999, 60_000, 60_001].map(|now_ms| even.slot_at(now_ms)), [5, 6, 6]);
        let late = rhythm(10_000, 7_000);
        assert_eq!([66_999, 67_000, 76_999].map(|now_ms| late.slot_at(now_ms)), [5, 6, 6]);
        for slot in [1, 2, 1_000_003] {
            for rhythm in [even, late, rhythm(999, 1_000), rhythm(1, 5)] {
                assert_eq!(rhythm.slot_at(rhythm.start_ms(slot)), slot, "{rhythm:?}");
                assert_eq!(rhythm.slot_at(rhythm.start_ms(slot) - 1), slot - 1, "{rhythm:?}");
            }
        }
        assert_eq!(rhythm(10_000, 27_000), rhythm(10_000, 27_000));
        assert_eq!(rhythm(10_000, 27_000).start_ms(3), late.start_ms(3), "whole periods are no offset");
    }

    #[test]
    fn no_two_kinds_fall_on_the_same_second() {
        let env: BTreeMap<String, String> = BTreeMap::new();
        let config = Config::read(&mut Settings::new(&env));
        // Every period divides an hour, so what holds for one hour holds for all.
        let mut due: BTreeMap<u64, TickKind> = BTreeMap::new();
        for kind in TickKind::ALL {
            let rhythm = config.rhythm(kind);
            assert_eq!(3_600 % rhythm.period.as_secs(), 0, "{kind:?}");
            for slot in 0..3_600 / rhythm.period.as_secs() {
                let other = due.insert(rhythm.start_ms(slot) / 1_000, kind);
                assert_eq!(other, None, "{kind:?} at slot {slot}");
            }
        }
    }
}
