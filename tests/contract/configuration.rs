//! The settings: docs/configuration.md equals what the program prints, and a variable has one meaning.

use crate::markdown::Document;
use broker::operate::settings_page;
use broker::role::Role;
use runtime::settings::{Env, Variable};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = "docs/configuration.md";

/// An environment without any variable.
struct Unset;

impl Env for Unset {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}

/// Fails if the page differs from what the program prints, and shows the first different line.
pub(crate) fn assert_page(path: &'static str, printed: &str, command: &str) {
    let written = Document::read(path);
    let pairs = written.text().lines().zip(printed.lines()).zip(1..);
    let differs = pairs.filter(|((written, printed), _)| written != printed).map(|(_, line)| line).next();
    let rewrite = format!("to rewrite it: cargo run -p broker -- {command} > {path}");
    assert!(differs.is_none(), "{path} is out of date from line {}; {rewrite}", differs.unwrap());
    assert!(written.text() == printed, "{path} is out of date at its end; {rewrite}");
}

#[test]
fn settings_page_matches_the_program_output() {
    assert_page(PAGE, &settings_page(), "settings");
}

#[test]
fn every_variable_has_one_meaning() {
    let mut first: BTreeMap<&str, (Role, Variable)> = BTreeMap::new();
    for role in Role::all() {
        for variable in role.variables(&Unset) {
            let (known_role, known) = first.entry(variable.name).or_insert((role, variable.clone()));
            assert_eq!(*known, variable, "{known_role:?} and {role:?} read it differently");
        }
    }
    assert!(first.len() > 50, "only {} variables", first.len());
    let rows = Document::read(PAGE).all_rows();
    assert_eq!(rows.len(), first.len(), "every variable has one row");
}

#[test]
fn settings_of_the_predecessor_are_unknown_and_their_replacements_are_known() {
    let variables = Role::all().flat_map(|role| role.variables(&Unset));
    let known: BTreeSet<_> = variables.map(|variable| variable.name).collect();
    for (former, instead) in runtime::predecessor::SETTINGS {
        assert!(!known.contains(former), "{former} is read, so it must not be reported");
        let words = instead.split(|one: char| !one.is_ascii_uppercase() && one != '_');
        let names: Vec<_> = words.filter(|word| word.contains('_')).collect();
        assert!(names.iter().all(|name| known.contains(name)), "{former}: {instead}");
        assert!(!names.is_empty() || instead.starts_with("remove it; "), "{former}: {instead}");
    }
}

#[test]
fn each_variable_is_read_in_one_module() {
    // The page would hide two meanings within one role, because it keeps the first. Tests may use any names.
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let variables = Role::all().flat_map(|role| role.variables(&Unset));
    let names: BTreeSet<_> = variables.map(|variable| variable.name).collect();
    for (path, text) in crate::logging::sources() {
        for name in &names {
            let literal = format!("\"{name}\"");
            let reads = text.match_indices(&literal).filter(|(at, _)| is_read(&text[..*at]));
            for _ in reads {
                places.entry((*name).to_owned()).or_default().push(path.clone());
            }
        }
    }
    for name in names {
        let places = places.remove(name).unwrap_or_default();
        // Both ends of one connection: the provider's client, and the simulator that replaces the provider.
        let allowed = if name == "CSP_API_TOKEN" { 2 } else { 1 };
        assert!((1..=allowed).contains(&places.len()), "{name} is read in {places:?}");
    }
}

/// Whether the text before a literal ends with the beginning of a call that reads a variable.
fn is_read(before: &str) -> bool {
    const CALLS: [&str; 10] =
        ["text", "optional", "secret", "secrets", "number", "size", "seconds", "millis", "switch", "parsed"];
    let before = before.trim_end();
    // A function that takes the settings as its first argument.
    before.ends_with("settings,") || CALLS.iter().any(|call| before.ends_with(&format!(".{call}(")))
}
