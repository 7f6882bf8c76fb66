//! Checks the property for every kept input: the corpus, and inputs that once failed.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Minimum number of inputs of a corpus: with fewer, the engine starts from nothing.
const SEEDS_MIN: usize = 5;

/// The files of a folder in order; none if there is no such folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// What is in a folder, by name and without its ending.
fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    let stems = files(folder)?.into_iter().filter_map(|path| Some(path.file_stem()?.to_owned()));
    Ok(stems.map(|stem| stem.to_string_lossy().into_owned()).collect())
}

#[test]
fn every_corpus_input_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for (name, hold) in fuzz::TARGETS {
        let corpus = files(&root.join("corpus").join(name)).unwrap();
        assert!(corpus.len() >= SEEDS_MIN, "{name} has {} inputs", corpus.len());
        for path in corpus.into_iter().chain(files(&root.join("regressions").join(name)).unwrap()) {
            let input = fs::read(&path).unwrap();
            if catch_unwind(|| hold(&input)).is_err() {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "these inputs break their property: {broken:#?}");
}

#[test]
fn every_corpus_folder_has_a_fuzz_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let targets: BTreeSet<_> = fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&root.join("corpus")).unwrap(), targets);
    assert_eq!(names(&root.join("targets")).unwrap(), targets);
    assert!(names(&root.join("regressions")).unwrap().is_subset(&targets));
}
