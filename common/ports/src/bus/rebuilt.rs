//! How far an event log that was made anew has the events of finished sandboxes again.

/// What a rebuild that did not begin is called.
const WANTED: &str = "wanted";
/// What one that is finished is called.
const DONE: &str = "done";
/// What comes before the place up to which one got.
const UP_TO: &str = "up to ";

/// The event log as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLogState {
    /// Tells it from one that takes its place.
    pub made: String,
    /// How far it has the events of tombstones.
    pub rebuilt: Rebuilt,
}

/// How far an event log has the events of tombstones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rebuilt {
    /// It is new: it may lack all of them.
    #[default]
    Wanted,
    /// It has those up to a place of the store, in the words of the store.
    UpTo(String),
    /// It has all of them, as far as it keeps them.
    Done,
}

// === impl Rebuilt ===

impl Rebuilt {
    /// In words that are kept with the event log.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Wanted => WANTED.to_owned(),
            Self::UpTo(place) => format!("{UP_TO}{place}"),
            Self::Done => DONE.to_owned(),
        }
    }

    /// Of these words. An event log without any was made by a former build and lost nothing since; unknown ones are of
    /// a later build, which goes on.
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
