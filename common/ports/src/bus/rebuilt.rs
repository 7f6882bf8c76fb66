//! How far the events of deleted sandboxes have been added to a recreated event log.

/// The stored text of a rebuild that has not begun.
const WANTED: &str = "wanted";
/// The stored text of a finished rebuild.
const DONE: &str = "done";
/// The stored prefix before the position of an unfinished rebuild.
const UP_TO: &str = "up to ";

/// The state of the event log as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLogState {
    /// Identifies this event log; a recreated one has another value.
    pub made: String,
    /// How far the events of tombstones have been added.
    pub rebuilt: Rebuilt,
}

/// How far the events of tombstones have been added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rebuilt {
    /// Not at all: the event log is new.
    #[default]
    Wanted,
    /// Up to this position, a cursor of the store.
    UpTo(String),
    /// Completely, as far as the event log keeps them.
    Done,
}

// === impl Rebuilt ===

impl Rebuilt {
    /// The text that is stored with the event log.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Wanted => WANTED.to_owned(),
            Self::UpTo(place) => format!("{UP_TO}{place}"),
            Self::Done => DONE.to_owned(),
        }
    }

    /// Parses that text. An event log without one was made by an older build and is complete; an unknown text comes
    /// from a newer build, which continues the rebuild.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some(WANTED) => Self::Wanted,
            Some(text) => text.strip_prefix(UP_TO).map_or(Self::Done, |place| Self::UpTo(place.to_owned())),
            None => Self::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rebuild_state_round_trips() {
        for rebuilt in [Rebuilt::Wanted, Rebuilt::UpTo("504b".to_owned()), Rebuilt::Done] {
            assert_eq!(Rebuilt::parse(Some(&rebuilt.to_text())), rebuilt);
        }
        assert_eq!(Rebuilt::parse(None), Rebuilt::Done, "the event log of a former build");
    }
}
