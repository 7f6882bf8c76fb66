//! The periods and offsets of all ticks.
//!
//! With the default offsets, no two kinds are due in the same second after the first turns.

use contract::TickKind;
use runtime::settings::Settings;
use std::time::Duration;

/// Longest period of a tick: half of the stream's window for duplicates.
const PERIOD_SECONDS_MAX: u64 = 3_600;

/// The periods and offsets of all kinds.
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

/// When the ticks of one kind are due: a `period` after the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// From one turn to the next.
    pub period: Duration,
    /// How much longer the first period is; whole periods do not count.
    pub offset: Duration,
}

// === impl Config ===

impl Config {
    /// Reads the settings of a scheduler.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let sync = period(
            settings,
            "SYNC_INTERVAL_SECONDS",
            600,
            "period of sync, which compares the provider's listing with the table",
        );
        let expiry =
            period(settings, "EXPIRY_INTERVAL_SECONDS", 10, "period of expiry, which ends expired leases");
        let sweep = period(
            settings,
            "SWEEP_INTERVAL_SECONDS",
            60,
            "period of the sweep, which repairs queue, parked copies and event log",
        );
        let census =
            period(settings, "CENSUS_INTERVAL_SECONDS", 15, "period of the census, which counts the pools");
        let stale =
            period(settings, "STALE_INTERVAL_SECONDS", 3_600, "period of the removal of stale sandboxes");
        Self {
            sync: Rhythm { period: sync, offset: offset(settings, "SYNC_OFFSET_SECONDS", 4) },
            expiry: Rhythm { period: expiry, offset: offset(settings, "EXPIRY_OFFSET_SECONDS", 0) },
            sweep: Rhythm { period: sweep, offset: offset(settings, "SWEEP_OFFSET_SECONDS", 33) },
            census: Rhythm { period: census, offset: offset(settings, "CENSUS_OFFSET_SECONDS", 7) },
            stale: Rhythm { period: stale, offset: offset(settings, "STALE_OFFSET_SECONDS", 56) },
        }
    }

    /// The period and offset of a kind.
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
    let meaning = "how much longer the first period of that tick is, so that the kinds are not due together; the same for the whole fleet";
    settings.seconds(name, seconds, 0..=PERIOD_SECONDS_MAX, meaning)
}

// === impl Rhythm ===

impl Rhythm {
    /// How long after a turn the next one is due.
    #[must_use]
    pub fn wait_after(self, is_first: bool) -> Duration {
        if is_first { self.period.saturating_add(self.offset()) } else { self.period }
    }

    fn offset(self) -> Duration {
        let period_ns = self.period.as_nanos().max(1);
        Duration::from_nanos(u64::try_from(self.offset.as_nanos() % period_ns).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use strum::IntoEnumIterator as _;

    #[test]
    fn first_period_is_extended_by_the_offset_modulo_period() {
        let seconds = Duration::from_secs;
        for (offset, first) in [(0, 10), (7, 17), (27, 17), (10, 10)] {
            let rhythm = Rhythm { period: seconds(10), offset: seconds(offset) };
            let waits = [true, false].map(|is_first| rhythm.wait_after(is_first));
            assert_eq!(waits, [seconds(first), seconds(10)], "{offset}");
        }
    }

    #[test]
    fn tick_kinds_never_share_a_second() {
        let env: BTreeMap<String, String> = BTreeMap::new();
        let config = Config::read(&mut Settings::new(&env));
        // Every period divides an hour, so checking one hour is sufficient.
        let mut due: BTreeMap<u64, TickKind> = BTreeMap::new();
        for kind in TickKind::iter() {
            let rhythm = config.rhythm(kind);
            assert_eq!(3_600 % rhythm.period.as_secs(), 0, "{kind:?}");
            for turn in 0..3_600 / rhythm.period.as_secs() {
                let at = rhythm.wait_after(true).as_secs() + turn * rhythm.period.as_secs();
                let other = due.insert(at % 3_600, kind);
                assert_eq!(other, None, "{kind:?} at turn {turn}");
            }
        }
    }
}
