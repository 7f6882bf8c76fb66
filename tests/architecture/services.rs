//! Rules for all services: the headings of `lib.rs`, and the files of operations.

use crate::tree::Tree;

/// The headings of a service, in this order.
const HEADINGS: [&str; 5] = ["Consumes", "Produces", "Calls", "Guarantees", "Never"];
/// One file per operation, named after it.
const OPERATIONS: [&str; 6] = [
    "services/allocator/src/allocate.rs",
    "services/allocator/src/release.rs",
    "services/reaper/src/reap.rs",
    "services/reconciler/src/expiry.rs",
    "services/reconciler/src/sweep.rs",
    "services/reconciler/src/sync.rs",
];

/// Services whose `lib.rs` does not open with the five headings in order.
fn without_headings(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for service in tree.services() {
        let path = format!("services/{service}/src/lib.rs");
        let text = tree.text(&path).unwrap_or_default();
        let opening = text.lines().map_while(|line| line.strip_prefix("//!"));
        let headings: Vec<_> = opening.filter_map(heading).collect();
        if headings != HEADINGS {
            findings.push(format!("{path}: opens with the headings {headings:?}, not {HEADINGS:?}"));
        }
    }
    findings
}

/// The heading of ours that this doc line is: `# Never`, `**Never**` or `**Never:** …`.
fn heading(line: &str) -> Option<&'static str> {
    let line = line.trim();
    let words = match line.strip_prefix("**") {
        Some(bold) => bold.split_once("**")?.0,
        None => line.strip_prefix('#')?.trim_start_matches('#'),
    };
    let words = words.trim().trim_end_matches(['.', ':']);
    HEADINGS.into_iter().find(|heading| *heading == words)
}

/// Operations without a separate file.
fn without_file(tree: &Tree) -> Vec<String> {
    let missing = OPERATIONS.iter().filter(|path| !tree.has(path));
    missing.map(|path| format!("{path}: this operation has no file of its own")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn every_service_opens_with_the_five_headings() {
        assert_none(&without_headings(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn every_operation_has_its_file() {
        assert_none(&without_file(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn missing_headings_are_found() {
        let found = |text| {
            without_headings(&Tree::of(&[
                ("services/reaper/Cargo.toml", ""),
                ("services/reaper/src/lib.rs", text),
            ]))
        };
        assert_none(&found(
            "//! Reaps.\n//!\n//! # Consumes\n//! # Details\n//! **Produces.** Things.\n//! ## Calls\n//! **Guarantees:** a\n//! **Never**\nuse x;",
        ));
        assert_one(&found("//! Reaps.\n"), "reaper/src/lib.rs");
        assert_one(
            &found("//! # Consumes\n//! # Calls\n//! # Produces\n//! # Guarantees\n//! # Never\n"),
            "Calls",
        );
        assert_one(
            &found("//! # Consumes\n//! # Produces\n//! # Calls\n//! # Guarantees\nuse x;\n//! # Never\n"),
            "not",
        );
    }

    #[test]
    fn a_missing_operation_is_found() {
        let all: Vec<_> = OPERATIONS.iter().map(|path| (*path, "")).collect();
        assert_none(&without_file(&Tree::of(&all)));
        assert_one(&without_file(&Tree::of(all.get(1..).unwrap())), "allocate.rs");
    }
}
