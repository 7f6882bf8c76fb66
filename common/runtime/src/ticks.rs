//! The kinds of ticks as the services that run them register them. The scheduler publishes what is registered.

use super::settings::Settings;
use contract::TickKind;
use std::time::Duration;

/// Longest period of a tick: half of the stream's window for duplicates.
const PERIOD_SECONDS_MAX: u64 = 3_600;

/// A kind of tick, as the service that runs it registers it.
#[derive(Clone, Copy, Debug)]
pub struct TickDefinition {
    /// The kind.
    pub kind: TickKind,
    /// What a run does, for operators.
    pub description: &'static str,
    /// Reads period and offset, with their defaults, from the settings of a scheduler.
    pub read: fn(&mut Settings<'_>) -> Rhythm,
}

/// When the ticks of one kind are due: a `period` after the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// From one turn to the next.
    pub period: Duration,
    /// How much longer the first period is; whole periods do not count.
    pub offset: Duration,
}

/// The setting of a period.
pub fn read_period(
    settings: &mut Settings<'_>,
    name: &'static str,
    seconds: u64,
    meaning: &'static str,
) -> Duration {
    settings.seconds(name, seconds, 1..=PERIOD_SECONDS_MAX, meaning)
}

/// The setting of an offset.
pub fn read_offset(settings: &mut Settings<'_>, name: &'static str, seconds: u64) -> Duration {
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

    /// This rhythm with a period that is not longer than `period`.
    #[must_use]
    pub fn at_most(self, period: Option<Duration>) -> Self {
        Self { period: period.map_or(self.period, |period| period.min(self.period)), ..self }
    }

    fn offset(self) -> Duration {
        let period_ns = self.period.as_nanos().max(1);
        Duration::from_nanos(u64::try_from(self.offset.as_nanos() % period_ns).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_period_is_extended_by_the_offset_modulo_period() {
        let seconds = Duration::from_secs;
        for (offset, first) in [(0, 10), (7, 17), (27, 17), (10, 10)] {
            let rhythm = Rhythm { period: seconds(10), offset: seconds(offset) };
            let waits = [true, false].map(|is_first| rhythm.wait_after(is_first));
            assert_eq!(waits, [seconds(first), seconds(10)], "{offset}");
        }
    }
}
