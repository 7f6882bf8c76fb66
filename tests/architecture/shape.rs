//! Sizes and names of files.

use crate::tree::Tree;

/// A longer file contains more than one thing.
const FILE_LINES_MAX: usize = 600;
/// A `main.rs` only calls the library, which tests can run.
const MAIN_LINES_MAX: usize = 40;
/// Names that say nothing about the contents.
const DRAWERS: [&str; 9] =
    ["util", "utils", "helper", "helpers", "misc", "shared", "types", "common_types", "commons"];

/// Files that are too long.
fn too_long(tree: &Tree) -> Vec<String> {
    let over = |(path, text): (&str, &str)| {
        let is_main = path.starts_with("services/") && path.ends_with("/main.rs");
        let limit = if is_main { MAIN_LINES_MAX } else { FILE_LINES_MAX };
        let lines = text.lines().count();
        (lines > limit).then(|| format!("{path}: {lines} lines, at most {limit}"))
    };
    [".rs", ".sh", ".py"].iter().flat_map(|ending| tree.ending(ending)).filter_map(over).collect()
}

/// Modules with a meaningless name or in a `mod.rs`.
fn badly_named(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(".rs") {
        for part in path.trim_end_matches(".rs").split('/') {
            if part == "mod" {
                findings.push(format!("{path}: write `foo.rs` beside `foo/`, not `mod.rs`"));
            } else if DRAWERS.contains(&part) {
                findings.push(format!("{path}: `{part}` says nothing; name it after what it does"));
            }
        }
        // Modules with a body; others are found by the path of their file.
        for (index, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let names_a_drawer =
                words.windows(3).any(|words| matches!(words, ["mod", name, "{"] if DRAWERS.contains(name)));
            if names_a_drawer {
                findings.push(format!("{path}:{}: the name of this module says nothing", index + 1));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn files_are_short() {
        assert_none(&too_long(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn module_names_are_descriptive() {
        assert_none(&badly_named(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn a_long_file_is_found() {
        let lines = |count: usize| "x\n".repeat(count);
        let found = |path, count| too_long(&Tree::of(&[(path, &lines(count))]));
        assert_none(&found("common/ports/src/a.rs", 600));
        assert_one(&found("tests/flows/a.rs", 601), "601 lines, at most 600");
        assert_none(&found("services/broker/src/main.rs", 40));
        assert_one(&found("services/broker/src/main.rs", 41), "at most 40");
        assert_none(&found("tests/architecture/main.rs", 41));
    }

    #[test]
    fn a_bad_name_is_found() {
        let found = |path, text| badly_named(&Tree::of(&[(path, text)]));
        assert_none(&found("common/ports/src/model.rs", "mod model;"));
        assert_one(&found("common/ports/src/store/mod.rs", ""), "not `mod.rs`");
        assert_one(&found("common/ports/src/utils.rs", ""), "`utils`");
        assert_one(&found("services/ingress/src/shared/a.rs", ""), "`shared`");
        assert_one(&found("common/ports/src/a.rs", "mod b {}\nmod types { }"), "a.rs:2:");
    }
}
