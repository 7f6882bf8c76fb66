//! The files that the rules are applied to: those of the repository, or examples of a test.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// Files that are built, downloaded, or the state of a running process. (Other build folders are recognised by their
/// marker file.)
const SKIPPED: [&str; 6] = [".git", ".tools", ".broker", ".fuzz", "node_modules", "target"];

/// Files by their path from the root, with `/` between the parts. Folders are there too, with a final `/`.
#[derive(Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// The repository that this test was built from.
    pub(crate) fn of_repository() -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut tree = Self::default();
        tree.read(&root, "")?;
        Ok(tree)
    }

    /// A tree made up of paths and texts.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect() }
    }

    fn read(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if SKIPPED.contains(&name.as_str()) || entry.path().join("CACHEDIR.TAG").exists() {
                continue;
            } else if kind.is_dir() {
                let path = format!("{path}/");
                self.read(&entry.path(), &path)?;
                self.files.insert(path, String::new());
            } else if kind.is_file() {
                let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
                self.files.insert(path, text);
            }
        }
        Ok(())
    }

    /// The files whose name has this ending, dot included.
    pub(crate) fn ending(&self, ending: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(ending))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The text of one file.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether there is such a file or, with or without a final `/`, such a folder.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.files.contains_key(&format!("{}/", path.trim_end_matches('/')))
    }

    /// The names of the folders directly in `services/`.
    pub(crate) fn services(&self) -> impl Iterator<Item = &str> {
        self.files.keys().filter_map(|path| path.strip_prefix("services/")?.strip_suffix("/Cargo.toml"))
    }
}

/// Ends a test that found something, with all of it.
pub(crate) fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n  {}", findings.len(), findings.join("\n  "));
}

/// Ends a test unless exactly one thing was found, and it says `words`.
pub(crate) fn assert_one(findings: &[String], words: &str) {
    let found = matches!(findings, [only] if only.contains(words));
    assert!(found, "expected one finding that says {words:?}, found: {findings:?}");
}

#[test]
fn the_repository_is_found() {
    let tree = Tree::of_repository().unwrap();
    assert!(tree.has("Cargo.toml") && tree.has("common/ports/src") && tree.has("tests/architecture/tree.rs"));
    assert!(tree.services().any(|service| service == "ingress"));
    assert!(!tree.has("target") && !tree.has(".git"));
}
