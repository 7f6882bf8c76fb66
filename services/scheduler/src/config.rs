//! The settings of a scheduler: period and offset of each registered kind.

use contract::TickKind;
use runtime::settings::Settings;
use runtime::ticks::{Rhythm, TickDefinition};

/// What a scheduler publishes, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The rhythm of each kind.
    pub rhythms: Vec<(TickKind, Rhythm)>,
}

// === impl Config ===

impl Config {
    /// Reads the settings of the registered kinds.
    pub fn read(settings: &mut Settings<'_>, registered: &[TickDefinition]) -> Self {
        Self { rhythms: registered.iter().map(|tick| (tick.kind, (tick.read)(settings))).collect() }
    }
}
