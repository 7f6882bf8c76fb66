//! File descriptors: a process needs one per connection, and the default limits are low.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors in addition to those of connections: table, NATS, logs, files that are read again.
const OTHERS: u64 = 512;

/// The decision about the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The limit is sufficient.
    Enough,
    /// The process can raise its limit to this.
    RaiseTo(u64),
    /// Even the highest possible limit, which is this, is not sufficient.
    OnlyUpTo(u64),
}

/// Raises the limit for that number of connections as far as possible; logs a warning if that is not enough.
pub fn make_room(connections: usize) {
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHERS);
    let limit = getrlimit(Resource::Nofile);
    let wanted = match ask(limit.current, limit.maximum, needed) {
        Asked::Enough => return,
        Asked::RaiseTo(wanted) => wanted,
        Asked::OnlyUpTo(most) => {
            tracing::warn!(
                needed,
                limit = most,
                "there are fewer file descriptors than connections may need: raise the hard limit (RLIMIT_NOFILE), or \
                 set fewer connections"
            );
            most
        }
    };
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        tracing::warn!(%error, wanted, "the limit of file descriptors could not be raised");
    }
}

// No limit is represented as none.
fn ask(current: Option<u64>, maximum: Option<u64>, needed: u64) -> Asked {
    match (current, maximum) {
        (None, _) => Asked::Enough,
        (Some(current), _) if current >= needed => Asked::Enough,
        (_, Some(maximum)) if maximum < needed => Asked::OnlyUpTo(maximum),
        _ => Asked::RaiseTo(needed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_file_limit_is_raised_as_far_as_needed_and_allowed() {
        assert_eq!(ask(Some(1_024), Some(1_048_576), 8_704), Asked::RaiseTo(8_704));
        assert_eq!(ask(Some(1_024), None, 8_704), Asked::RaiseTo(8_704));
        assert_eq!(ask(Some(1_024), Some(4_096), 8_704), Asked::OnlyUpTo(4_096));
        assert_eq!(ask(Some(20_000), Some(20_000), 8_704), Asked::Enough);
        assert_eq!(ask(None, None, 8_704), Asked::Enough);
    }

    #[test]
    fn open_file_limit_of_this_process_is_raised() {
        make_room(1_024);
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let needed = 1_024 + OTHERS;
        assert!(current.is_none_or(|current| current >= needed.min(maximum.unwrap_or(needed))));
    }
}
