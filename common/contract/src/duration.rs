//! The length of a lease as callers write it: whole hours, minutes, or both.

use std::fmt;
use std::time::Duration;

const HOUR_MINUTES: u32 = 60;
const MINUTE_SECONDS: u64 = 60;

/// How long a lease is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabDuration {
    /// In whole hours, rounded up: what a worker of a former build goes by.
    pub hours: u32,
    /// In minutes, if it is no whole number of hours.
    pub minutes: Option<u32>,
}

// === impl LabDuration ===

impl LabDuration {
    /// Reads `4`, `4h`, `90m` or `1h30m`; none if it is none of these, or no time at all.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (hours, minutes) = match text.split_once('h') {
            None => match text.strip_suffix('m') {
                None => (text, "0"),
                Some(minutes) => ("0", minutes),
            },
            Some((hours, "")) => (hours, "0"),
            Some((hours, rest)) => (hours, rest.strip_suffix('m')?),
        };
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        if minutes == 0 {
            return (hours > 0).then_some(Self { hours, minutes: None });
        }
        Self::of_minutes(hours.checked_mul(HOUR_MINUTES)?.checked_add(minutes)?)
    }

    /// The length that a request names; none if it names none.
    #[must_use]
    pub fn of_fields(hours: Option<u32>, minutes: Option<u32>) -> Option<Self> {
        match minutes {
            Some(minutes) => Some(Self { hours: minutes.div_ceil(HOUR_MINUTES), minutes: Some(minutes) }),
            None => hours.map(|hours| Self { hours, minutes: None }),
        }
    }

    fn of_minutes(minutes: u32) -> Option<Self> {
        let hours = minutes.div_ceil(HOUR_MINUTES);
        (minutes > 0)
            .then_some(Self { hours, minutes: (!minutes.is_multiple_of(HOUR_MINUTES)).then_some(minutes) })
    }

    /// The length itself.
    #[must_use]
    pub fn length(self) -> Duration {
        let minutes = match self.minutes {
            Some(minutes) => u64::from(minutes),
            None => u64::from(self.hours) * u64::from(HOUR_MINUTES),
        };
        Duration::from_secs(minutes * MINUTE_SECONDS)
    }
}

impl fmt::Display for LabDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minutes {
            Some(minutes) => write!(formatter, "{minutes}m"),
            None => write!(formatter, "{}", self.hours),
        }
    }
}

// `parse` alone would take a sign.
fn number(digits: &str) -> Option<u32> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_minutes_are_parsed() {
        for (text, hours, minutes, length_minutes) in [
            ("4", 4, None, 240),
            ("4h", 4, None, 240),
            ("90m", 2, Some(90), 90),
            ("1h30m", 2, Some(90), 90),
            ("120m", 2, None, 120),
            ("1h0m", 1, None, 60),
            ("0h5m", 1, Some(5), 5),
            ("1h90m", 3, Some(150), 150),
            ("4294967295", u32::MAX, None, u64::from(u32::MAX) * 60),
        ] {
            let read = LabDuration::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((read.hours, read.minutes), (hours, minutes), "{text}");
            assert_eq!(read.length(), Duration::from_secs(length_minutes * 60), "{text}");
            assert_eq!(LabDuration::parse(&read.to_string()), Some(read), "{text}");
            let fields = LabDuration::of_fields(Some(read.hours), read.minutes);
            assert_eq!(fields, Some(read), "{text}");
        }
    }

    #[test]
    fn malformed_duration_is_rejected() {
        for text in [
            "",
            "0",
            "0h",
            "0m",
            "0h0m",
            "+4",
            "-4",
            "4.5",
            "four",
            "h",
            "m",
            "1h30",
            "30m1h",
            "1h 30m",
            "90M",
            "1d",
            "4294967296",
            "4294967295h1m",
            "1hm",
            "hm",
        ] {
            assert_eq!(LabDuration::parse(text), None, "{text:?}");
        }
    }
}
