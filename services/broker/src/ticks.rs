//! The table of ticks: what every service of this build registers.

use runtime::ticks::TickDefinition;

/// Every kind that some service runs.
#[must_use]
pub fn registered() -> Vec<TickDefinition> {
    reconciler::ticks().collect()
}

/// The kinds and what their runs do, for the help of a command.
pub(crate) fn help() -> String {
    let rows = registered()
        .into_iter()
        .map(|TickDefinition { kind, description, .. }| format!("  {:<8} {description}", kind.as_str()));
    format!("Kinds:\n{}", rows.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Report;
    use runtime::settings::Settings;
    use std::collections::BTreeMap;

    #[test]
    fn every_kind_is_registered_once_and_has_a_report() {
        let kinds: Vec<_> = registered().iter().map(|definition| definition.kind).collect();
        // The consumers are those of the reports.
        assert_eq!(kinds, Report::kinds().collect::<Vec<_>>());
    }

    #[test]
    fn kinds_that_scan_never_share_a_second() {
        let env: BTreeMap<String, String> = BTreeMap::new();
        let mut settings = Settings::new(&env);
        // Every period divides an hour, so checking one hour is sufficient.
        let mut due = BTreeMap::new();
        for TickDefinition { kind, read, .. } in registered() {
            let rhythm = read(&mut settings);
            assert_eq!(3_600 % rhythm.period.as_secs(), 0, "{kind:?}");
            if kind == contract::TickKind::NODES {
                continue; // too frequent, and cheap
            }
            for turn in 0..3_600 / rhythm.period.as_secs() {
                let at = rhythm.wait_after(true).as_secs() + turn * rhythm.period.as_secs();
                let other = due.insert(at % 3_600, kind);
                assert_eq!(other, None, "{kind:?} at turn {turn}");
            }
        }
    }
}
